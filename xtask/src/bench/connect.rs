//! Time to connect.

use std::time::Instant;

use anyhow::{Context, Result};
use tcpauth_tests::{network::Network, transfer};

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
}

const MODES: &[Mode] = &[
    Mode { name: "implicit", fields: "key-management = \"implicit\"" },
    Mode { name: "implicit, kdf isn", fields: "key-management = \"implicit\", kdf = \"isn\"" },
    Mode { name: "static", fields: "key-management = \"static\"" },
    Mode { name: "wire md5", fields: "wire = \"md5\"" },
];

/// Connections in a round.
const CONNECTIONS: usize = 100;

pub fn measure(effort: &Effort) -> Result<Report> {
    let mut subjects = vec![Subject::none(Network::switched()?), Subject::tcp_md5(Network::switched()?)];
    for mode in MODES {
        subjects.push(Subject::configured(mode.name, Network::switched()?, mode.fields)?);
    }
    let mut p50 = Table::new("connect, p50", "ms");
    let mut p99 = Table::new("connect, p99", "ms");
    for _ in 0..effort.rounds {
        for subject in &subjects {
            let milliseconds = connect(subject).with_context(|| subject.name)?;
            p50.add(subject.name, median(&milliseconds));
            p99.add(subject.name, percentile(&milliseconds, 99.0));
        }
    }
    let mut report = Report::default();
    report.note(format!(
        "Time in connect(), {CONNECTIONS} connections a round, one at a time, over a switch; tcpauthd derives the keys \
         meanwhile."
    ));
    for mode in MODES {
        for (table, what) in [(&p50, "p50"), (&p99, "p99")] {
            let added = table.median(mode.name).zip(table.median(NONE)).map(|(with, without)| with - without);
            let added = Measured::new(
                format!("added time to connect, {}, {what}", mode.name),
                added.unwrap_or(f64::NAN),
                "ms",
            );
            report.measured.push(if what == "p50" { added.below(1.0) } else { added });
        }
    }
    report.tables = vec![p50.against(NONE), p99.against(NONE)];
    Ok(report)
}

/// Milliseconds of each connection.
fn connect(subject: &Subject) -> Result<Vec<f64>> {
    let (client, server) = subject.ends();
    let listener = transfer::listen(&server, client.address.ip(), &subject.options)?;
    let mut milliseconds = Vec::new();
    for _ in 0..CONNECTIONS {
        let prepared = transfer::prepare(&client, server.address.ip(), &subject.options)?;
        let start = Instant::now();
        let near = prepared.connect(server.address)?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
        let far = transfer::accept(&listener)?;
        transfer::ping(&near, &far)?;
    }
    Ok(milliseconds)
}
