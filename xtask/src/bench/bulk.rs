//! Bulk data over one connection.

use std::net::TcpStream;

use anyhow::Result;
use tcpauth_common::Algorithm;
use tcpauth_tests::{
    network::{Network, Wire},
    transfer,
};

use super::{
    Effort, Measured, Report,
    cpu::CpuTime,
    programs::{RunTimes, each_run},
    subject::{NONE, Subject, TCP_MD5},
    table::Table,
};

/// Of the transfer by which the amount for the wanted time is found.
const WARM_UP: u64 = 32 << 20;

/// Towards the server, and from it.
const DIRECTIONS: [&str; 2] = ["r1 to r2", "r2 to r1"];

/// A transfer.
struct Sent {
    gigabits_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
}

pub fn measure(effort: &Effort) -> Result<Report> {
    let mut report = Report::default();
    report.note(
        "One TCP stream between two namespaces joined by a veth; r1 has connected. Every octet is checked.",
    );
    report.note("`tcp-md5` is the kernel's, `md5` tcpauth's (`wire = \"md5\"`).");
    report.note(
        "CPU time is that of the whole machine during the transfer (/proc/stat: user, nice, system, irq and softirq of \
         all CPUs): both ends, programs and kernel.",
    );
    for mtu in [1500, 9000] {
        measure_mtu(effort, mtu, &mut report)?;
    }
    Ok(report)
}

fn measure_mtu(effort: &Effort, mtu: u32, report: &mut Report) -> Result<()> {
    let subjects = subjects(mtu)?;
    let mut speeds = DIRECTIONS.map(|way| Table::new(format!("bulk, MTU {mtu}, {way}"), "Gbit/s"));
    let mut costs = DIRECTIONS.map(|way| Table::new(format!("bulk, MTU {mtu}, {way}, CPU"), "s/GB"));
    let mut amounts = Vec::new();
    for subject in &subjects {
        let speed = send(subject, 0, WARM_UP)?.gigabits_per_second;
        amounts.push((speed * 1e9 / 8.0 * effort.seconds) as u64);
    }
    for _ in 0..effort.rounds {
        for (subject, &octets) in subjects.iter().zip(&amounts) {
            for way in 0..DIRECTIONS.len() {
                let sent = send(subject, way, octets)?;
                speeds[way].add(subject.name, sent.gigabits_per_second);
                costs[way].add(subject.name, sent.cpu_seconds_per_gigabyte);
            }
        }
    }
    let speeds = speeds.map(|table| table.against(TCP_MD5));
    if mtu == 1500 {
        report.measured.extend(goals(&speeds[0]));
        if let Some(subject) = subjects.iter().find(|subject| subject.agents().is_some()) {
            report.measured.extend(where_the_time_goes(subject, WARM_UP)?);
        }
    }
    report.tables.extend(speeds);
    report.tables.extend(costs.map(|table| table.against(NONE)));
    Ok(())
}

fn subjects(mtu: u32) -> Result<Vec<Subject>> {
    let network = || Network::with(Wire::Direct, mtu);
    let mut subjects =
        vec![Subject::none(network()?), Subject::none_no_offload(network()?)?, Subject::tcp_md5(network()?)];
    for algorithm in Algorithm::ALL {
        subjects.push(Subject::tcpauth(network()?, algorithm)?);
    }
    Ok(subjects)
}

fn goals(speeds: &Table) -> Vec<Measured> {
    let ratio = |name: &str| {
        let what = format!("{name} against tcp-md5, MTU 1500, of medians");
        speeds.ratio(name).map(|ratio| Measured::new(what, ratio, ""))
    };
    let mut goals = Vec::new();
    goals.extend(ratio("hmac-sha-1-96").map(|ratio| ratio.at_least(0.6)));
    goals.extend(ratio("hmac-sha-1-96").map(|ratio| ratio.aims_at_least(1.0)));
    goals.extend(ratio("siphash-2-4-96").map(|ratio| ratio.aims_at_least(2.0)));
    goals
}

/// Time in each program during one more transfer, from the kernel's statistics.
fn where_the_time_goes(subject: &Subject, octets: u64) -> Result<Vec<Measured>> {
    let Some(agents) = subject.agents() else { return Ok(Vec::new()) };
    let (name, mebibytes) = (subject.name, octets >> 20);
    let statistics = RunTimes::begin(&agents)?;
    send(subject, 0, octets)?;
    Ok(each_run(&format!("{name}, {mebibytes} MiB"), statistics.end()?))
}

fn send(subject: &Subject, way: usize, octets: u64) -> Result<Sent> {
    let (client, server) = subject.ends();
    let (near, far) = transfer::pair(&client, &server, &subject.options)?;
    let (from, to): (&TcpStream, &TcpStream) = if way == 0 { (&near, &far) } else { (&far, &near) };
    let cpu = CpuTime::now()?;
    let seconds = transfer::send_one_way(from, to, octets)?.as_secs_f64();
    let gigabytes = octets as f64 / 1e9;
    Ok(Sent {
        gigabits_per_second: gigabytes * 8.0 / seconds,
        cpu_seconds_per_gigabyte: cpu.elapsed()? / gigabytes,
    })
}
