//! `cargo xtask soak`: the end-to-end tests that last, longer and again and again; those of agreed keys in full number;
//! and daemons killed at random.

mod kills;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tcpauth_tests::{
    agent::hide_logs,
    binaries::use_folder,
    impair::{Impairment, Treated},
    kmp::{self, Mode},
    namespace,
    network::{Network, Wire},
    scenario::Protected,
    transfer::{self, Options},
    wait::check_interrupted,
};

use crate::{build::programs_under_test, command::require_root, setup};

/// How long to go on.
#[derive(clap::Args)]
pub struct Arguments {
    /// Minutes
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Seed of the first round; each round takes the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is transferred, again and again
    #[arg(long, value_enum, default_value = "bulk")]
    case: Case,
    /// Daemons to kill, with `--case kills`
    #[arg(long, default_value_t = 1000)]
    kills: u32,
    /// Longest life of a daemon in milliseconds, with `--case kills`
    #[arg(long, default_value_t = 2000)]
    longest_life: u32,
}

/// What is transferred.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Case {
    /// Much, in one connection
    Bulk,
    /// A megabyte each way in each of 200 connections whose keys are agreed beside them, 5 % of all segments lost
    External,
    /// The same on the connections themselves
    Layered,
    /// Daemons killed at random instants, under traffic, rollover, loss and forged segments; ends after `--kills`
    Kills,
}

/// Connections in a round of a case with many.
const CONNECTIONS: u32 = 200;

/// Octets each way in a round.
const ROUND: u64 = 20 << 20;

/// Transfers over impaired paths, sequence numbers wrapping in each, until the time is up.
pub fn run(arguments: &Arguments) -> Result<()> {
    require_root("`cargo xtask soak`")?;
    setup::for_tests()?;
    use_folder(programs_under_test()?);
    namespace::sweep()?;
    hide_logs();
    if let Case::Kills = arguments.case {
        let campaign = kills::Campaign {
            kills: arguments.kills,
            longest_life: Duration::from_millis(arguments.longest_life.into()),
            seed: arguments.seed,
        };
        return campaign.run();
    }
    let start = Instant::now();
    for seed in arguments.seed.. {
        if start.elapsed() > Duration::from_secs(arguments.minutes * 60) {
            break;
        }
        check_interrupted()?;
        let (what, (took, treated)) = match arguments.case {
            Case::Bulk => (format!("{} MiB each way", ROUND >> 20), round(seed)?),
            Case::External => (format!("{CONNECTIONS} connections"), many(Mode::External, seed)?),
            Case::Layered => (format!("{CONNECTIONS} connections"), many(Mode::Layered, seed)?),
            Case::Kills => bail!("kills are counted, not timed"),
        };
        println!("seed {seed}: {what} in {:.1} s", took.as_secs_f32());
        println!("  {treated:?}");
    }
    Ok(())
}

fn many(mode: Mode, seed: u64) -> Result<(Duration, Treated)> {
    let impairment = Impairment { loss: 50, seed, ..Impairment::default() };
    let protected = kmp::agreeing(Network::with(Wire::Impaired(impairment), 1500)?, mode, "")?;
    let (client, server) = protected.ends();
    let start = Instant::now();
    transfer::exchange_many(&client, &server, CONNECTIONS, 10, 1 << 20)?;
    Ok((start.elapsed(), kmp::forwarder(&protected)?.treated()))
}

fn round(seed: u64) -> Result<(Duration, Treated)> {
    let impairment = Impairment { loss: 10, duplication: 10, reordering: 20, seed };
    let protected = Protected::over_v4(Network::with(Wire::Impaired(impairment), 1500)?, "")?;
    let (client, server) = protected.ends();
    let options = Options { isn: Some(0u32.wrapping_sub(1 << 20)), ..Options::default() };
    let (near, far) = transfer::pair(&client, &server, &options)?;
    let took = transfer::exchange(near, far, ROUND)?;
    for (agent, peer) in [(&protected.agent1, protected.peer2()), (&protected.agent2, protected.peer1())] {
        ensure!(agent.dropped(&peer, "wrong-mac")? == 0, "seed {seed}: a good segment had a wrong MAC");
    }
    let forwarder = protected.network.middle.as_ref().and_then(|middle| middle.forwarder.as_ref());
    let treated = forwarder.map(|forwarder| forwarder.treated());
    Ok((took, treated.unwrap_or(Treated { lost: 0, duplicated: 0, reordered: 0 })))
}
