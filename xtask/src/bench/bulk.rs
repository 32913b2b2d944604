//! Bulk data over one connection.

use std::time::Duration;

use anyhow::Result;
use tcpauth_tests::{
    network::{Network, Wire},
    scenario::{Protected, end},
    transfer::{self, End, Options},
};

use super::{
    Measured,
    programs::RunTimes,
    statistics::{least, median},
};

/// Octets of one transfer.
const OCTETS: u64 = 100 << 20;
const ROUNDS: usize = 5;
const ALGORITHMS: [&str; 4] = ["hmac-sha-1-96", "aes-128-cmac-96", "hmac-sha-256-96", "hmac-sha-256-128"];

pub fn measure() -> Result<Vec<Measured>> {
    let plain = Network::with(Wire::Direct, 1500)?;
    let plain_ends = (end(&plain.r1, 0), end(&plain.r2, 179));
    let md5 = Options { md5: Some("v61ne0qkel33&".to_owned()), ..Options::default() };
    let mut protected = Vec::new();
    for algorithm in ALGORITHMS {
        let network = Network::with(Wire::Direct, 1500)?;
        protected.push(Protected::over_v4(network, &format!("algorithm = \"{algorithm}\""))?);
    }
    let mut seconds: [Vec<f64>; 2 + ALGORITHMS.len()] = Default::default();
    for _ in 0..ROUNDS {
        seconds[0].push(transfer(&plain_ends, &Options::default())?);
        seconds[1].push(transfer(&plain_ends, &md5)?);
        for (protected, seconds) in protected.iter().zip(&mut seconds[2..]) {
            seconds.push(transfer(&protected.ends(), &Options::default())?);
        }
    }
    let mut measured = Vec::new();
    let names = ["TCP", "TCP-MD5"].into_iter().chain(ALGORITHMS);
    for (name, seconds) in names.zip(&seconds) {
        measured.push(Measured::new(
            format!("{name}, median of {ROUNDS}"),
            gigabits(median(seconds)),
            "Gbit/s",
        ));
        measured.push(Measured::new(format!("{name}, best"), gigabits(least(seconds)), "Gbit/s"));
    }
    for (name, own) in ALGORITHMS.iter().zip(&seconds[2..]) {
        let ratio = median(&seconds[1]) / median(own);
        let ratio = Measured::new(format!("{name} against TCP-MD5, of medians"), ratio, "");
        measured.push(if *name == ALGORITHMS[0] { ratio.at_least(0.6) } else { ratio });
    }
    measured.extend(where_the_time_goes(&protected[0])?);
    Ok(measured)
}

/// Time in each program during one more transfer, from the kernel's statistics.
fn where_the_time_goes(protected: &Protected) -> Result<Vec<Measured>> {
    let agents = [&protected.agent1, &protected.agent2];
    let statistics = RunTimes::begin(&agents)?;
    let seconds = transfer(&protected.ends(), &Options::default())?;
    let mut measured = vec![Measured::new("where the time goes: one transfer", seconds * 1000.0, "ms")];
    for (name, run) in statistics.end()? {
        let milliseconds = run.nanoseconds as f64 / 1e6;
        measured.push(Measured::new(format!("  in {name}, both ends"), milliseconds, "ms"));
        let each = run.nanoseconds as f64 / 1000.0 / run.count.max(1) as f64;
        measured.push(Measured::new(format!("  in {name}, each of {} runs", run.count), each, "µs"));
    }
    Ok(measured)
}

fn transfer((client, server): &(End, End), options: &Options) -> Result<f64> {
    let (near, far) = transfer::pair(client, server, options)?;
    let took: Duration = transfer::send_one_way(&near, &far, OCTETS)?;
    Ok(took.as_secs_f64())
}

fn gigabits(seconds: f64) -> f64 {
    OCTETS as f64 * 8.0 / 1e9 / seconds
}
