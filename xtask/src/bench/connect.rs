//! Time to connect.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tcpauth_tests::{kmp, network::Network, transfer};

use super::{
    Effort, Measured, Report,
    statistics::{median, percentile},
    subject::{NONE, Subject},
    table::Table,
};

/// A way of key management, and the fields of a neighbour's configuration that ask for it.
struct Mode {
    name: &'static str,
    fields: &'static str,
    channel: Channel,
    /// Milliseconds that may be added to the median.
    limit: f64,
}

/// Whether there is a channel between the daemons when a connection begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Channel {
    None,
    Up,
    /// There was one, and it is closed just before.
    Cold,
}

const MODES: &[Mode] = &[
    Mode::without_channel("implicit", "key-management = \"implicit\"", 1.0),
    Mode::without_channel("implicit, kdf isn", "key-management = \"implicit\", kdf = \"isn\"", 1.0),
    Mode::without_channel("static", "key-management = \"static\"", 1.0),
    Mode::without_channel("wire md5", "wire = \"md5\"", 1.0),
    Mode { name: "external", fields: EXTERNAL, channel: Channel::Up, limit: 1.5 },
    Mode { name: "external, cold", fields: EXTERNAL, channel: Channel::Cold, limit: 8.0 },
    Mode::without_channel("layered", "key-management = \"layered\"", 8.0),
];

const EXTERNAL: &str = "key-management = \"external\"";

/// Connections in a round.
const CONNECTIONS: usize = 100;
/// Of them, those with a channel that was closed before: between two lies [`DIAL_PAUSE`].
const COLD_CONNECTIONS: usize = 10;
/// An end dials twice a second at most, and a channel that was up for a while is what is measured.
const DIAL_PAUSE: Duration = Duration::from_millis(600);

pub fn measure(effort: &Effort) -> Result<Report> {
    let mut subjects = vec![
        (Subject::none(Network::switched()?), Channel::None),
        (Subject::tcp_md5(Network::switched()?), Channel::None),
    ];
    for mode in MODES {
        let subject = Subject::configured(mode.name, Network::switched()?, mode.fields)?;
        subjects.push((subject, mode.channel));
    }
    let mut p50 = Table::new("connect, p50", "ms");
    let mut p99 = Table::new("connect, p99", "ms");
    for _ in 0..effort.rounds {
        for (subject, channel) in &subjects {
            let milliseconds = connect(subject, *channel).with_context(|| subject.name)?;
            p50.add(subject.name, median(&milliseconds));
            p99.add(subject.name, percentile(&milliseconds, 99.0));
        }
    }
    let mut report = Report::default();
    report.note(format!(
        "Time in connect(), {CONNECTIONS} connections a round ({COLD_CONNECTIONS} if cold), one at a time, over a switch; \
         tcpauthd derives the keys meanwhile, or two of them agree on them: external over the channel between them that is up already, \
         or (cold) was closed just before, layered on the connection."
    ));
    for mode in MODES {
        for (table, what) in [(&p50, "p50"), (&p99, "p99")] {
            let added = table.median(mode.name).zip(table.median(NONE)).map(|(with, without)| with - without);
            let added = Measured::new(
                format!("added time to connect, {}, {what}", mode.name),
                added.unwrap_or(f64::NAN),
                "ms",
            );
            report.measured.push(if what == "p50" { added.below(mode.limit) } else { added });
        }
    }
    report.tables = vec![p50.against(NONE), p99.against(NONE)];
    Ok(report)
}

/// Milliseconds of each connection.
fn connect(subject: &Subject, channel: Channel) -> Result<Vec<f64>> {
    let (client, server) = subject.ends();
    let listener = transfer::listen(&server, client.address.ip(), &subject.options)?;
    let mut milliseconds = Vec::new();
    for _ in 0..if channel == Channel::Cold { COLD_CONNECTIONS } else { CONNECTIONS } {
        let prepared = transfer::prepare(&client, server.address.ip(), &subject.options)?;
        match (channel, subject.agents()) {
            (Channel::Up, Some([agent, _])) => {
                kmp::wait_for_channel(agent, &server.address.ip().to_string())?
            }
            (Channel::Cold, Some([agent, _])) => {
                kmp::wait_for_channel(agent, &server.address.ip().to_string())?;
                thread::sleep(DIAL_PAUSE);
                kmp::close_channels(&client.namespace)?;
            }
            _ => {}
        }
        let start = Instant::now();
        let near = prepared.connect(server.address)?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
        let far = transfer::accept(&listener)?;
        transfer::ping(&near, &far)?;
    }
    Ok(milliseconds)
}

impl Mode {
    const fn without_channel(name: &'static str, fields: &'static str, limit: f64) -> Self {
        Self { name, fields, channel: Channel::None, limit }
    }
}
