//! Forged segments at the highest rate there is, and what they do to a session.

mod kind;
mod stream;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tcpauth_common::Algorithm;
use tcpauth_tests::{blaster::Blaster, network::Network};

use self::{
    kind::{Kind, Wire},
    stream::Stream,
};
use super::{
    Effort, Measured, Report,
    cpu::CpuTime,
    statistics::{median, percentile},
    subject::{Subject, TCP_MD5},
    table::Table,
};

/// Before anything is counted.
const SETTLE: Duration = Duration::from_millis(200);

/// A flood and one of no protocol are compared in turns of so long, of which the first part does not count.
const TURN: Duration = Duration::from_millis(20);
const START: Duration = Duration::from_millis(5);

/// tcpauth's fast algorithm and the one that every router has.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::HmacSha1_96, Algorithm::SipHash2_4_96];

/// EtherType for experiments, which no host has a use for (IEEE 802).
const EXPERIMENTAL: u16 = 0x88b5;

/// Of the sessions, both ways.
const KEY_ID: u8 = 61;

/// A subject with its session.
struct Victim {
    subject: Subject,
    stream: Stream,
    wire: Wire,
}

/// A flood of a short while.
struct Turn {
    /// From one segment to the next.
    nanoseconds: f64,
    sent: u64,
}

/// The tables of one kind.
struct Tables {
    kind: Kind,
    throughput: Table,
    kept: Table,
    p50: Table,
    p99: Table,
    sent: Table,
    dropped: Table,
    per_cpu_second: Table,
    cpu: Table,
    refusal: Table,
}

pub fn measure(effort: &Effort) -> Result<Report> {
    // The first is the one without tcpauth.
    let mut victims = vec![Victim::new(Subject::tcp_md5(Network::switched()?), Wire::TcpMd5)?];
    for algorithm in ALGORITHMS {
        let fields = format!("algorithm = \"{}\", key-id = {KEY_ID}", algorithm.name());
        let subject = Subject::configured(algorithm.name(), Network::switched()?, &fields)?;
        victims.push(Victim::new(subject, Wire::TcpAo(KEY_ID))?);
    }
    let mut all = Kind::ALL.map(Tables::new);
    for _ in 0..effort.rounds {
        for tables in &mut all {
            for victim in &victims {
                victim.under_load(effort.duration(), tables)?;
                victim.idle(effort.duration(), tables)?;
                victim.refusals(&victims[0], effort.duration(), tables)?;
            }
        }
    }
    let mut report = Report::default();
    report.note(
        "Three hosts on a switch (a bridge without br_netfilter's hooks), all on this machine: the third sends segments \
         that claim to be of the session, with 64 octets of data, as fast as one thread can (sendmmsg on a packet socket \
         past the queue), while the session carries a stream as fast as it goes. Latency: an octet to and fro on a second \
         connection of the same two routers.",
    );
    report.note(
        "The sender and the switch take CPU time from the stream whatever becomes of their segments: `no protocol` is the \
         same flood with an EtherType that nobody has a use for. Segments of (c) and (d) carry the option of the session: \
         TCP-AO's, or for tcp-md5 that of RFC 2385.",
    );
    report.note(
        "Drops per CPU second: the stream rests, and the segments refused are divided by the CPU time of the whole \
         machine, sender and switch included. These are taken off in the comparison with tcp-md5, which is of what a \
         refusal takes: the CPU that sends a segment also switches and refuses it, so that one of the flood takes as much \
         longer than one of no protocol that goes to a host without tcpauth. They are sent in turns of 20 ms, each is \
         compared with those of no protocol just before and after it, and a round takes the median. What a network card and \
         its driver would take comes to both in practice.",
    );
    report.measured = goals(&all, &victims);
    report.tables = all.into_iter().flat_map(Tables::into_tables).collect();
    Ok(report)
}

fn goals(all: &[Tables], victims: &[Victim]) -> Vec<Measured> {
    let mut goals = Vec::new();
    for tables in all.iter().filter(|tables| tables.kind.is_attack()) {
        let is_cheap = matches!(tables.kind, Kind::NoOption | Kind::UnknownKeyId | Kind::OutsideWindow);
        for name in victims.iter().map(|victim| victim.subject.name) {
            let what =
                format!("{name}, {}: throughput against that just before the flood", tables.kind.name());
            let kept = Measured::new(what, tables.kept.median(name).unwrap_or(f64::NAN), "");
            let judged = is_cheap && name != TCP_MD5;
            goals.push(if judged { kept.aims_at_least(0.9) } else { kept });
            if name != TCP_MD5 {
                let pair = tables.refusal.median(TCP_MD5).zip(tables.refusal.median(name));
                // Not above zero: lost in the noise of the machine.
                let pair = pair.filter(|(md5, own)| *md5 > 0.0 && *own > 0.0);
                let ratio = pair.map_or(f64::NAN, |(md5, own)| md5 / own);
                let what = format!(
                    "{name}, {}: drops of a CPU against tcp-md5, sender and switch taken off",
                    tables.kind.name()
                );
                let ratio = Measured::new(what, ratio, "");
                goals.push(if is_cheap { ratio.aims_at_least(2.0) } else { ratio });
            }
        }
    }
    goals
}

impl Victim {
    fn new(subject: Subject, wire: Wire) -> Result<Self> {
        let stream = Stream::open(&subject)?;
        Ok(Self { subject, stream, wire })
    }

    /// The stream's throughput and latency under the flood, and its throughput just before.
    fn under_load(&self, duration: Duration, tables: &mut Tables) -> Result<()> {
        let name = self.subject.name;
        let quiet = match tables.kind {
            Kind::Quiet => None,
            _ => Some(self.stream.run(SETTLE, duration)?.gigabits_per_second),
        };
        let (before, start) = (self.drops()?, Instant::now());
        let blaster = self.blast(tables.kind)?;
        let during = self.stream.run(SETTLE, duration);
        let sent = blaster.map_or(Ok(0), Blaster::stop)?;
        let seconds = start.elapsed().as_secs_f64();
        let during = during.with_context(|| format!("{name}, {}", tables.kind.name()))?;
        tables.throughput.add(name, during.gigabits_per_second);
        tables.p50.add(name, median(&during.milliseconds));
        tables.p99.add(name, percentile(&during.milliseconds, 99.0));
        if let Some(quiet) = quiet {
            tables.kept.add(name, during.gigabits_per_second / quiet);
            tables.sent.add(name, sent as f64 / seconds);
        }
        if tables.kind.is_attack() {
            tables.dropped.add(name, (self.drops()? - before) as f64 / seconds);
        }
        Ok(())
    }

    /// Drops per CPU second while the stream rests.
    fn idle(&self, duration: Duration, tables: &mut Tables) -> Result<()> {
        let before = self.drops()?;
        let cpu = CpuTime::now()?;
        let Some(blaster) = self.blast(tables.kind)? else { return Ok(()) };
        thread::sleep(duration);
        let sent = blaster.stop()?;
        let seconds = cpu.elapsed()?;
        tables.cpu.add(self.subject.name, seconds * 1e9 / sent as f64);
        if tables.kind.is_attack() {
            let drops = self.drops()? - before;
            tables.per_cpu_second.add(self.subject.name, drops as f64 / seconds);
        }
        self.stream.check().with_context(|| format!("{}, after {}", self.subject.name, tables.kind.name()))
    }

    /// What a refusal takes while the stream rests: more than a frame of no protocol at `bare`, a host without tcpauth.
    fn refusals(&self, bare: &Self, duration: Duration, tables: &mut Tables) -> Result<()> {
        let kind = tables.kind;
        if !kind.is_attack() {
            return Ok(());
        }
        let (start, dropped) = (Instant::now(), self.drops()?);
        let (mut differences, mut sent) = (Vec::new(), 0);
        while start.elapsed() < duration {
            let before = bare.turn(kind, true)?;
            let attack = self.turn(kind, false)?;
            let after = bare.turn(kind, true)?;
            differences.push(attack.nanoseconds - (before.nanoseconds + after.nanoseconds) / 2.0);
            sent += attack.sent;
        }
        let dropped = self.drops()? - dropped;
        // Some SYNs are held for keys.
        ensure!(
            kind == Kind::Syn || dropped * 100 >= sent * 95,
            "{}, {}: {dropped} of {sent} segments refused",
            self.subject.name,
            kind.name()
        );
        tables.refusal.add(self.subject.name, median(&differences));
        Ok(())
    }

    /// Sends a flood for a short while, or the same frames as of no protocol.
    fn turn(&self, kind: Kind, disguised: bool) -> Result<Turn> {
        let blaster = self.blaster(kind, disguised)?;
        thread::sleep(START);
        let (before, start) = (blaster.sent(), Instant::now());
        thread::sleep(TURN - START);
        let sent = blaster.sent() - before;
        let nanoseconds = start.elapsed().as_nanos() as f64 / sent as f64;
        Ok(Turn { nanoseconds, sent: blaster.stop()? })
    }

    fn blast(&self, kind: Kind) -> Result<Option<Blaster>> {
        match kind {
            Kind::Quiet => Ok(None),
            _ => self.blaster(kind, kind == Kind::NoProtocol).map(Some),
        }
    }

    fn blaster(&self, kind: Kind, disguised: bool) -> Result<Blaster> {
        let network = self.subject.network();
        let (attacker, target) = (network.attacker(), network.r2.mac);
        let ((from, to), next_seq) = (self.stream.ends()?, self.stream.next_seq());
        let (wire, source) = (self.wire, attacker.mac);
        let frames = move || {
            let segments = kind.segments(wire, from, to, next_seq());
            let mut frames: Vec<Vec<u8>> =
                segments.iter().map(|segment| segment.frame(source, target)).collect();
            if disguised {
                frames
                    .iter_mut()
                    .for_each(|frame| frame[12..14].copy_from_slice(&EXPERIMENTAL.to_be_bytes()));
            }
            frames
        };
        match kind {
            // Nothing in them changes, and to make them takes longer than to send them.
            Kind::Syn => {
                let made = frames();
                Blaster::start(attacker, move || made.clone())
            }
            _ => Blaster::start(attacker, frames),
        }
    }

    /// Segments that the victim's host has refused so far.
    fn drops(&self) -> Result<u64> {
        let network = self.subject.network();
        match self.subject.agents() {
            Some([_, agent]) => agent.dropped_in_all(&network.r1.v4.to_string()),
            None => network
                .r2
                .namespace
                .enter(|| Ok(refused(&fs::read_to_string("/proc/thread-self/net/netstat")?))),
        }
    }
}

/// Segments that the kernel refused for their option, or for its absence.
fn refused(netstat: &str) -> u64 {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let counts = names.split_whitespace().zip(values.split_whitespace());
    counts
        .filter(|(name, _)| name.starts_with("TCPMD5") || (name.starts_with("TCPAO") && *name != "TCPAOGood"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum()
}

impl Tables {
    fn new(kind: Kind) -> Self {
        let table = |what: &str, unit| Table::new(format!("flood, {}, {what}", kind.name()), unit);
        Self {
            kind,
            throughput: table("throughput", "Gbit/s"),
            kept: table("throughput, of that just before", "share"),
            p50: table("latency p50", "ms"),
            p99: table("latency p99", "ms"),
            sent: table("forged segments sent", "1/s"),
            dropped: table("dropped", "1/s"),
            per_cpu_second: table("dropped per CPU second", "1/s"),
            cpu: table("CPU time of a forged segment", "ns"),
            refusal: table("what a refusal takes", "ns"),
        }
    }

    /// Those that have anything in them.
    fn into_tables(self) -> impl Iterator<Item = Table> {
        let Self { throughput, kept, p50, p99, sent, dropped, per_cpu_second, cpu, refusal, .. } = self;
        [throughput, kept, p50, p99, sent, dropped, per_cpu_second, cpu, refusal]
            .into_iter()
            .filter(|table| !table.rows().is_empty())
            .map(|table| table.against(TCP_MD5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_segments_are_counted_by_any_reason() {
        let netstat = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Failure TCPAOGood TCPAOKeyNotFound\n\
                       TcpExt: 1 20 300 4000 50000\nIpExt: InNoRoutes\nIpExt: 7\n";
        assert_eq!(refused(netstat), 50_320);
        assert_eq!(refused(""), 0);
    }
}
