//! Time per segment of each algorithm: in the program `ingress`, on the host, by OpenSSL.

mod host;
mod test_run;

use std::{net::TcpStream, thread, time::Duration};

use anyhow::{Context, Result};
use tcpauth_common::Algorithm;
use tcpauth_tests::{
    frame::Segment,
    network::{INTERFACE, Network, Wire},
    transfer,
    wire::inject_frames,
};

use self::host::Host;
use super::{
    Effort, Measured, Report,
    programs::RunTimes,
    statistics::median,
    subject::{NONE, Subject},
    table::Table,
};
use crate::syscall::open_pinned;

/// Data of a segment, octets.
pub const SIZES: [usize; 4] = [64, 512, 1448, 8948];

/// What is under the MAC beside the data: SNE, pseudo-header, TCP header with timestamps and the option.
const HEADERS: usize = 4 + 12 + 20 + 12 + 16;

/// Room for the largest of them, its headers and the option.
const MTU: u32 = 9100;

/// A test-run is of so many runs, and a round takes the median of so many test-runs, as on the host.
const RUNS: u32 = 200;
const SLICES: usize = 21;

/// Segments sent, of which the mean is taken, where a test-run will not do.
const SENT: usize = 1000;

/// A session of an algorithm, and what is needed to have segments of it refused.
struct Target {
    subject: Subject,
    /// Of the peer, as it was on the wire: anything else with its MAC is forged.
    last: Segment,
    _session: (TcpStream, TcpStream),
}

pub fn measure(effort: &Effort) -> Result<Report> {
    let host = Host::build()?;
    let targets: Vec<Target> = Algorithm::TCP_AO.into_iter().map(Target::new).collect::<Result<_>>()?;
    let table = |size: usize, what: &str| Table::new(format!("mac, {size} octets, {what}"), "ns");
    let mut bpf = SIZES.map(|size| table(size, "BPF"));
    let mut scalar = SIZES.map(|size| table(size, "host"));
    let mut openssl = SIZES.map(|size| table(size, "OpenSSL"));
    for _ in 0..effort.rounds {
        for (at, size) in SIZES.into_iter().enumerate() {
            if let Some(target) = targets.first() {
                bpf[at].add(NONE, target.nanoseconds(&target.without_option(size))?);
            }
            for target in &targets {
                bpf[at].add(target.subject.name, target.nanoseconds(&target.forged(size))?);
            }
        }
        for timed in host.measure(&SIZES.map(|size| size + HEADERS))? {
            let at =
                SIZES.iter().position(|size| size + HEADERS == timed.octets).context("another length")?;
            scalar[at].add(&timed.name, timed.scalar);
            if let Some(nanoseconds) = timed.openssl {
                openssl[at].add(&timed.name, nanoseconds);
            }
        }
    }
    let mut report = Report::default();
    report.note(format!(
        "BPF: a run of `ingress` that refuses a segment for its MAC, everything included (finding the session, checks, \
         copy), by BPF test-run, the median of {SLICES} means of {RUNS}; `{NONE}` has no option and is refused before any \
         MAC. A test-run takes frames of a page at most: longer segments are sent, and the kernel's statistics of the \
         program taken."
    ));
    report.note(format!(
        "Host: the portable source, compiled without vector instructions (BPF has its innermost functions in \
         assembly); OpenSSL through EVP. Both over {HEADERS} octets more than the data, as in a segment with timestamps."
    ));
    report.measured = goals(&bpf[2], &scalar[2]);
    for ((bpf, scalar), openssl) in bpf.into_iter().zip(scalar).zip(openssl) {
        report.tables.push(bpf.against_same("host", &scalar));
        report.tables.push(openssl.against_same("host", &scalar));
        report.tables.push(scalar);
    }
    Ok(report)
}

/// Ratios of the MAC alone: what a segment without an option takes is not the MAC's.
fn goals(bpf: &Table, scalar: &Table) -> Vec<Measured> {
    let besides = bpf.median(NONE).unwrap_or(f64::NAN);
    let mut goals = Vec::new();
    for row in bpf.rows().iter().filter(|row| row.name != NONE) {
        let ratio =
            bpf.median(&row.name).zip(scalar.median(&row.name)).map(|(bpf, host)| (bpf - besides) / host);
        let what = format!("{}, 1448 octets: BPF less `{NONE}`, against host", row.name);
        let ratio = Measured::new(what, ratio.unwrap_or(f64::NAN), "");
        goals.push(match &*row.name {
            "hmac-sha-1-96" => ratio.aims_at_most(1.6),
            "hmac-sha-256-96" | "hmac-sha-256-128" | "aes-128-cmac-96" => ratio.aims_at_most(2.0),
            _ => ratio,
        });
    }
    goals
}

impl Target {
    fn new(algorithm: Algorithm) -> Result<Self> {
        let subject = Subject::tcpauth(Network::with(Wire::Switch, MTU)?, algorithm)?;
        let (client, server) = subject.ends();
        let session = transfer::pair(&client, &server, &subject.options)?;
        let network = subject.network();
        let sniffer = network.sniff()?;
        let last = thread::scope(|scope| {
            let pinging = scope.spawn(|| {
                thread::sleep(Duration::from_millis(200));
                transfer::ping(&session.0, &session.1)
            });
            let last = sniffer.next_from(&network.r1, &network.r2);
            pinging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            last
        })?;
        drop(sniffer);
        Ok(Self { subject, last, _session: session })
    }

    /// Within the window, with a MAC that is another segment's.
    fn forged(&self, size: usize) -> Segment {
        Segment { seq: self.last.next_seq().wrapping_add(100), data: vec![0xa5; size], ..self.last.clone() }
    }

    fn without_option(&self, size: usize) -> Segment {
        Segment { options: Vec::new(), ..self.forged(size) }
    }

    /// Of `ingress` with `segment`, which it refuses.
    fn nanoseconds(&self, segment: &Segment) -> Result<f64> {
        let network = self.subject.network();
        let attacker = network.attacker();
        let frame = segment.frame(attacker.mac, network.r2.mac);
        let [_, agent] = self.subject.agents().context("no tcpauthd")?;
        let program = open_pinned(&agent.pin_dir().join("progs/ingress"))?;
        let timed = network.r2.namespace.enter(|| {
            // SAFETY: the name is a C string that outlives the call.
            let ifindex = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
            anyhow::ensure!(ifindex != 0, "no {INTERFACE}");
            let slice = |_| test_run::nanoseconds(&program, ifindex, &frame, RUNS);
            (0..SLICES).map(slice).collect::<Result<Option<Vec<f64>>>>()
        })?;
        if let Some(slices) = timed {
            return Ok(median(&slices));
        }
        let agents = [agent];
        let statistics = RunTimes::begin(&agents)?;
        inject_frames(attacker, &vec![frame; SENT])?;
        // The last ones are on their way yet.
        thread::sleep(Duration::from_millis(50));
        let runs = statistics.end()?;
        let run = runs.get("ingress").context("no statistics of ingress")?;
        anyhow::ensure!(run.count > 0, "no forged segment arrived");
        Ok(run.nanoseconds as f64 / run.count as f64)
    }
}
