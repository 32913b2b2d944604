//! `cargo xtask soak`: the end-to-end tests that last, longer and again and again; those of agreed keys in full number;
//! and daemons killed at random.

mod entries;
mod kills;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use tcpauth_tests::{
    agent::hide_logs,
    binaries::{FOLDER_VARIABLE, use_folder},
    impair::{Impairment, Treated},
    kmp::{self, Mode},
    namespace,
    network::{Network, Wire},
    scenario::Protected,
    transfer::{self, Options},
    wait::check_interrupted,
};

use crate::{
    build::programs_under_test,
    command::require_root,
    kernel::{self, Job, Outcome, Release},
    setup,
};

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
    /// Kills between two looks at sessions, programs and forged segments, with `--case kills`
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    kills_a_look: u32,
    /// On another kernel, in a virtual machine: 6.1, 6.12 or 7.x
    #[arg(long, value_enum)]
    kernel: Option<Release>,
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

/// By how much limits are longer, and traffic less, on emulated CPUs.
const SLOWNESS: u32 = 8;

/// Octets each way in a round.
const ROUND: u64 = 20 << 20;

/// Transfers over impaired paths, sequence numbers wrapping in each, until the time is up.
pub fn run(arguments: &Arguments) -> Result<()> {
    require_root("`cargo xtask soak`")?;
    if let Some(release) = arguments.kernel {
        return in_guest(release);
    }
    match std::env::var_os(FOLDER_VARIABLE) {
        // A guest has no compiler, nor any place to write.
        Some(folder) => use_folder(folder.into()),
        None => {
            setup::for_tests()?;
            use_folder(programs_under_test()?);
        }
    }
    namespace::sweep()?;
    hide_logs();
    if let Case::Kills = arguments.case {
        let campaign = kills::Campaign {
            kills: arguments.kills,
            longest_life: Duration::from_millis(arguments.longest_life.into()),
            kills_a_look: arguments.kills_a_look,
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

/// Runs this campaign, as the command line has it, on the kernel of `release`. What it runs is copied into the guest
/// first, as a later build would change it in the middle of a campaign.
fn in_guest(release: Release) -> Result<()> {
    let programs = programs_under_test()?;
    let quoted = |path: &Path| kernel::quoted(&path.display().to_string());
    let arguments: Vec<String> =
        without_kernel(std::env::args().skip(1)).map(|word| kernel::quoted(&word)).collect();
    let script = format!(
        "mkdir /run/campaign && cp {xtask} {tcpauthd} {tcpauth} /run/campaign || exit 1\n\
         export {FOLDER_VARIABLE}=/run/campaign TCPAUTH_TEST_SLOWNESS={SLOWNESS}\n\
         exec /run/campaign/xtask {arguments}\n",
        xtask = quoted(&std::env::current_exe()?),
        tcpauthd = quoted(&programs.join("tcpauthd")),
        tcpauth = quoted(&programs.join("tcpauth")),
        arguments = arguments.join(" "),
    );
    match kernel::run(release, &Job { script, under_systemd: None }, |line| println!("{line}"))? {
        Outcome::Ran { succeeded } => ensure!(succeeded, "the campaign failed"),
        Outcome::NotRun(reason) => bail!("NOT RUN: {reason:#}"),
    }
    Ok(())
}

/// The command line without the option `--kernel` and its value.
fn without_kernel(words: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let mut is_value = false;
    words.filter(move |word| {
        let is_option = word == "--kernel";
        let is_kept = !is_option && !is_value && !word.starts_with("--kernel=");
        is_value = is_option;
        is_kept
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_not_told_to_boot_another_one() {
        let of = |line: &str| -> Vec<String> { without_kernel(line.split(' ').map(str::to_owned)).collect() };
        let expected = of("soak --case kills --seed 7");
        assert_eq!(expected.len(), 5);
        assert_eq!(of("soak --kernel 6.1 --case kills --seed 7"), expected);
        assert_eq!(of("soak --case kills --kernel=6.1 --seed 7"), expected);
    }
}
