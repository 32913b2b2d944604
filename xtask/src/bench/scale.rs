//! A daemon with many neighbours.

use std::fmt::Write;

use anyhow::{Context, Result};
use tcpauth_tests::{agent::Agent, network::Network};

use super::Measured;

const NEIGHBORS: u32 = 1000;

pub fn measure() -> Result<Vec<Measured>> {
    let network = Network::switched()?;
    let mut config = String::new();
    for number in 0..NEIGHBORS {
        let (third, fourth) = (number / 250, number % 250 + 1);
        writeln!(config, "neighbor.\"198.51.{third}.{fourth}\".password = \"secret number {number}\"")?;
    }
    let mut agent = Agent::start(&network.r1.namespace, &config)?;
    agent.end(libc::SIGTERM)?;
    // What is pinned is found again: the start after an upgrade.
    let again = agent.start_again()?;
    agent.end(libc::SIGTERM)?;
    std::fs::remove_dir_all(agent.pin_dir())?;
    let fresh = agent.start_again()?;
    let resident = resident_megabytes(agent.id().context("tcpauthd is not running")?)?;
    Ok(vec![
        Measured::new("start with 1000 neighbors, nothing pinned", fresh.as_secs_f64(), "s").below(2.0),
        Measured::new("start with 1000 neighbors, all pinned", again.as_secs_f64(), "s").below(2.0),
        Measured::new("resident with 1000 neighbors", resident, "MB").below(50.0),
    ])
}

fn resident_megabytes(process: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}
