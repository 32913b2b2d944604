//! New keys for many sessions by one command.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tcpauth_tests::{agent::Agent, transfer::ping, wait::eventually};

use super::{
    super::{Effort, Measured, Report, table::Table},
    lab::Lab,
};

/// Sessions, each with a neighbour of its own on `r1`.
const SESSIONS: u32 = 1000;

/// Limit of what one command may take until all sessions have moved, in seconds.
const LIMIT: f64 = 2.0;

/// How long to wait for what is to take less than [`LIMIT`].
const PATIENCE: Duration = Duration::from_secs(60);

/// Which router rolls its keys.
#[derive(Clone, Copy)]
enum Router {
    /// With a neighbour for each session, and keys for each of them.
    R1,
    /// With one neighbour for all sessions.
    R2,
}

/// Seconds that a rollover took.
struct Rolled {
    /// The command on the first router.
    asked: f64,
    /// From the start of the command on the second one until all sessions had moved.
    moved: f64,
    /// One octet each way in every session.
    pings: f64,
}

pub fn measure(effort: &Effort) -> Result<Report> {
    let mut asked = Table::new("rollover, the command on the first router", "s");
    let mut moved = Table::new("rollover, the second router, until all sessions moved", "s");
    let mut pings = Table::new("rollover, a ping of every session meanwhile", "s");
    let mut lab = Lab::with(SESSIONS, keys(1))?;
    lab.connect_all()?;
    lab.accept_all()?;
    let dropped_before = dropped(&lab)?;
    let orders = [(Router::R2, Router::R1), (Router::R1, Router::R2)];
    for (number, (first, second)) in (1..=effort.rounds).flat_map(|_| orders).enumerate() {
        // Adds the next key, and removes the one before the present.
        lab.reload_with(keys(number as u32 + 1))?;
        let rolled = roll(&lab, first, second)?;
        asked.add(first.name(), rolled.asked);
        moved.add(second.name(), rolled.moved);
        pings.add(second.name(), rolled.pings);
    }
    let dropped = dropped(&lab)? - dropped_before;
    let mut report = Report::default();
    report.note(format!(
        "Rollover: {SESSIONS} sessions, each with a neighbor of its own on r1, all with one on r2. Both routers accept \
         the new key beforehand; `tcpauth key roll --all` on the first has its sessions ask for it, and on the second \
         has all of them move: the time is from the start of that command. A session has moved when each end sends \
         with the new key and has verified a segment of the other with it, as `key show` says on both routers. All \
         sessions are pinged in turn meanwhile: one that is quiet moves with its next segments."
    ));
    for router in [Router::R1, Router::R2] {
        let what = format!("{SESSIONS} sessions rolled over by one command, {}", router.name());
        let seconds = moved.median(router.name()).unwrap_or(f64::NAN);
        report.measured.push(Measured::new(what, seconds, "s").below(LIMIT));
    }
    let what = format!("segments dropped in {} rollovers, both sides", 2 * effort.rounds);
    report.measured.push(Measured::new(what, dropped as f64, "").below(1.0));
    report.tables = vec![asked, moved, pings];
    Ok(report)
}

impl Router {
    fn name(self) -> &'static str {
        match self {
            Self::R1 => "r1, a neighbor each",
            Self::R2 => "r2, one neighbor for all",
        }
    }

    fn agent(self, lab: &Lab) -> &Agent {
        match self {
            Self::R1 => &lab.agent,
            Self::R2 => &lab.agent2,
        }
    }
}

/// Fields of a neighbour with the key `number`, and the next one to roll to.
fn keys(number: u32) -> String {
    let key = |number: u32, more: &str| {
        let id = number % 256;
        format!("key.{number} = {{ password = \"of key {number}\", send-id = {id}, recv-id = {id}{more} }}")
    };
    format!("{}, {}", key(number, ""), key(number + 1, ", send-lifetime = \"never\""))
}

fn roll(lab: &Lab, first: Router, second: Router) -> Result<Rolled> {
    let pairs = lab.pairs()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let pinger = scope.spawn(|| ping_until(&is_over, &pairs));
        let commands = || {
            let start = Instant::now();
            first.agent(lab).tcpauth(&["key", "roll", "--all", "--wait=0"])?;
            let asked = start.elapsed();
            let start = Instant::now();
            second.agent(lab).tcpauth(&["key", "roll", "--all"])?;
            for agent in [second.agent(lab), first.agent(lab)] {
                eventually(PATIENCE, "all sessions to move", || have_all_moved(agent))?;
            }
            Ok((asked, start.elapsed()))
        };
        let result: Result<_> = commands();
        is_over.store(true, Ordering::Relaxed);
        let pings = pinger.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (asked, moved) = result?;
        Ok(Rolled { asked: asked.as_secs_f64(), moved: moved.as_secs_f64(), pings })
    })
}

/// Pings all sessions in turn, and gives the mean of the seconds it took each time.
fn ping_until(is_over: &AtomicBool, pairs: &[(&TcpStream, &TcpStream)]) -> Result<f64> {
    let start = Instant::now();
    let mut times = 0.0;
    while !is_over.load(Ordering::Relaxed) {
        for (near, far) in pairs {
            ping(near, far)?;
        }
        times += 1.0;
    }
    Ok(start.elapsed().as_secs_f64() / times)
}

/// `Some` if all sessions send and receive with the preferred key.
fn have_all_moved(agent: &Agent) -> Result<Option<()>> {
    let neighbors: Vec<Value> = serde_json::from_str(&agent.tcpauth(&["--json", "key", "show"])?)?;
    let count = |field: &str| neighbors.iter().filter_map(|neighbor| neighbor[field].as_u64()).sum::<u64>();
    let (open, rolled) = (count("open_sessions"), count("rolled_sessions"));
    ensure!(open == u64::from(SESSIONS), "{open} sessions are open");
    ensure!(rolled == open, "{rolled} of {open} have moved");
    Ok(Some(()))
}

/// Segments that either router has dropped, for all reasons.
fn dropped(lab: &Lab) -> Result<u64> {
    let mut dropped = 0;
    for agent in [&lab.agent, &lab.agent2] {
        let status = agent.status()?;
        for neighbor in status["neighbors"].as_array().context("status has no neighbors")? {
            let reasons = neighbor["counters"]["dropped"].as_object().context("no counters")?;
            dropped += reasons.values().filter_map(Value::as_u64).sum::<u64>();
        }
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_key_is_there_before_it_is_rolled() {
        assert_eq!(
            keys(255),
            "key.255 = { password = \"of key 255\", send-id = 255, recv-id = 255 }, \
             key.256 = { password = \"of key 256\", send-id = 0, recv-id = 0, send-lifetime = \"never\" }"
        );
    }
}
