//! New keys by a handshake for many sessions at once.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tcpauth_tests::{
    agent::Agent,
    crowd::{Crowd, resident_megabytes},
    kmp::Mode,
    transfer::ping,
    wait::eventually,
};

use super::{Effort, Measured, Report, table::Table};

/// Neighbours, each with a session.
const NEIGHBORS: u32 = 1000;

/// Seconds in which all have new keys.
const TIME_LIMIT: f64 = 10.0;

/// Megabytes that a daemon has resident at most.
const MEMORY_LIMIT: f64 = 150.0;

const PATIENCE: Duration = Duration::from_secs(120);

pub fn measure(effort: &Effort) -> Result<Report> {
    let mut moved = Table::new("rekey, all have new keys", "s");
    let mut resident = Table::new("rekey, resident", "MB");
    for mode in Mode::ALL {
        let crowd = Crowd::new(NEIGHBORS, &mode.fields(""))?;
        if mode == Mode::External {
            crowd.wait_for_channels()?;
        }
        let pairs = crowd.connect_all()?;
        for round in 0..effort.rounds {
            let asked = if round % 2 == 0 { &crowd.agent1 } else { &crowd.agent2 };
            moved.add(mode.name(), rekey(&crowd, asked, &pairs).with_context(|| mode.name())?);
            for agent in [&crowd.agent1, &crowd.agent2] {
                resident.add(mode.name(), resident_megabytes(agent)?);
            }
        }
    }
    let mut report = Report::default();
    report.note(format!(
        "{NEIGHBORS} neighbors with a session each, on two routers of this machine; `tcpauth key refresh` on one of them \
         makes a new handshake with each neighbor. A session has new keys when both ends send with them, as `key show` \
         says on both routers. All sessions are pinged in turn meanwhile."
    ));
    for mode in Mode::ALL {
        let name = mode.name();
        for (table, what, unit, limit) in [
            (&moved, "new keys for all sessions by one command", "s", TIME_LIMIT),
            (&resident, "resident with all of them", "MB", MEMORY_LIMIT),
        ] {
            let value = table.median(name).unwrap_or(f64::NAN);
            report.measured.push(
                Measured::new(format!("{NEIGHBORS} neighbors, {name}: {what}"), value, unit).below(limit),
            );
        }
    }
    report.tables = vec![moved, resident];
    Ok(report)
}

/// Seconds until all sessions have new keys.
fn rekey(crowd: &Crowd, asked: &Agent, pairs: &[(TcpStream, TcpStream)]) -> Result<f64> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let pinger = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                pairs.iter().try_for_each(|(near, far)| ping(near, far))?;
            }
            Ok(())
        });
        let rekeyed = || -> Result<f64> {
            let start = Instant::now();
            asked.tcpauth(&["key", "refresh"])?;
            for agent in [&crowd.agent1, &crowd.agent2] {
                eventually(PATIENCE, "new keys of all sessions", || have_all_moved(agent, start.elapsed()))?;
            }
            Ok(start.elapsed().as_secs_f64())
        };
        let result = rekeyed();
        is_over.store(true, Ordering::Relaxed);
        pinger.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        result
    })
}

/// `Some` if all sessions have keys that are no older than this, and use them both ways.
fn have_all_moved(agent: &Agent, since: Duration) -> Result<Option<()>> {
    let neighbors: Vec<Value> = serde_json::from_str(&agent.tcpauth(&["--json", "key", "show"])?)?;
    let rolled = neighbors.iter().filter(|neighbor| {
        let oldest = neighbor["agreed"]["oldest_seconds"].as_u64();
        neighbor["open_sessions"] == 1
            && neighbor["rolled_sessions"] == 1
            && oldest.is_some_and(|seconds| seconds <= since.as_secs())
    });
    let rolled = rolled.count();
    ensure!(rolled == NEIGHBORS as usize, "{rolled} of {NEIGHBORS} have");
    Ok(Some(()))
}
