//! `cargo xtask bench`: what tcpauth costs, against the same without it, and against TCP-MD5.
//!
//! What is compared is measured in turn, several rounds, in one run: machines differ, ratios less.
//!
//! - [`table`], [`measured`], [`statistics`]: what is told of the measurements; [`report`] puts it together.
//! - [`subject`]: what is compared. [`cpu`], [`machine`]: what is asked of the machine.
//! - the cases, a file or folder each. [`compare`]: a case with two builds, in turn.
//! - [`publish`]: `docs/benchmarks.md` and its [`plot`]s.

mod bulk;
mod compare;
mod connect;
mod convergence;
mod cpu;
mod flood;
mod mac;
mod machine;
mod measured;
mod plot;
mod programs;
mod publish;
mod rekey;
mod report;
mod scale;
mod statistics;
mod subject;
mod table;
mod trial;

use std::{
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use tcpauth_tests::{
    agent::hide_logs,
    binaries::{FOLDER_VARIABLE, use_folder},
    namespace,
};

use self::{machine::Machine, measured::Measured, report::Report};
use crate::{build::programs_under_test, command::require_root, setup};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// One case only
    case: Option<Case>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Fail if a goal is not reached, too; limits always fail
    #[arg(long)]
    strict: bool,
    /// Write docs/benchmarks.md and its plots; needs all cases
    #[arg(long, conflicts_with = "case")]
    publish: bool,
    /// Compare with the `tcpauthd` and `tcpauth` of another build, round by round
    #[arg(long, value_name = "FOLDER", requires = "case", conflicts_with_all = ["json", "strict"])]
    against: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

/// How much is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Effort {
    /// Rounds in which everything is measured once, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of a transfer or a flood
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Routes of the table that converges
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    routes: u32,
    /// Routes of the table that GoBGP is sent
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    gobgp_routes: u32,
    /// Neighbors and sessions of the cases of scale
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000, 10_000],
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    neighbors: Vec<u32>,
}

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// One stream between two namespaces: throughput, and CPU time per gigabyte
    Bulk,
    /// A full table from one BIRD to another, and to GoBGP
    Convergence,
    /// Forged segments at the highest rate there is, and what they do to a session
    Flood,
    /// Time to connect, each way of key management
    Connect,
    /// Many neighbors and sessions: memory, start, reload, cost per segment
    Scale,
    /// New keys for many sessions by one command; part of `scale`
    Rollover,
    /// New keys for many sessions by handshakes: time and memory
    Rekey,
    /// Time per segment of each algorithm: in BPF, on the host, by OpenSSL
    Mac,
    /// Instructions that the kernel verified in each program
    Programs,
    /// Trying several keys on a segment
    Trial,
}

/// Measures, and fails if a limit is not kept, or if `--strict` a goal.
pub fn run(arguments: &Arguments) -> Result<()> {
    require_root("`cargo xtask bench`")?;
    setup::for_tests()?;
    let programs =
        env::var_os(FOLDER_VARIABLE).map_or_else(programs_under_test, |folder| Ok(folder.into()))?;
    if let (Some(theirs), Some(case)) = (&arguments.against, arguments.case) {
        return compare::compare(case, &arguments.effort, &programs, theirs);
    }
    use_folder(programs);
    namespace::sweep()?;
    hide_logs();
    let machine = Machine::here();
    let mut reports = Vec::new();
    let is_wanted = |case: &&Case| arguments.case.map_or_else(|| !case.is_part(), |wanted| wanted == **case);
    for case in Case::value_variants().iter().filter(is_wanted) {
        eprintln!("{case:?} …");
        let start = Instant::now();
        let report = case.measure(&arguments.effort)?;
        eprintln!("{case:?}: {:.0} s", start.elapsed().as_secs_f64());
        if arguments.json {
            report
                .measured
                .iter()
                .filter(|measured| measured.is_judged())
                .for_each(|m| eprintln!("{}", m.text()));
        } else {
            print!("{}", report.text());
        }
        reports.push(report);
    }
    if arguments.json {
        println!("{:#}", report::json(&machine, &reports));
    }
    if arguments.publish {
        publish::write(&machine, &arguments.effort, &reports)?;
    }
    let all = reports.iter().flat_map(|report| &report.measured);
    let missed: Vec<&str> =
        all.filter(|measured| measured.fails(arguments.strict)).map(|measured| &*measured.what).collect();
    ensure!(missed.is_empty(), "not reached: {}", missed.join(", "));
    Ok(())
}

impl Case {
    fn measure(self, effort: &Effort) -> Result<Report> {
        let mut report = match self {
            Self::Bulk => bulk::measure(effort)?,
            Self::Convergence => convergence::measure(effort)?,
            Self::Flood => flood::measure(effort)?,
            Self::Connect => connect::measure(effort)?,
            Self::Scale => scale::measure(effort)?,
            Self::Rollover => scale::rollover::measure(effort)?,
            Self::Rekey => rekey::measure(effort)?,
            Self::Mac => mac::measure(effort)?,
            Self::Programs => Report { measured: programs::measure()?, ..Report::default() },
            Self::Trial => Report { measured: trial::measure()?, ..Report::default() },
        };
        report.case = self.name();
        Ok(report)
    }

    /// As on the command line.
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Whether it is measured within another case when all are.
    fn is_part(self) -> bool {
        self == Self::Rollover
    }
}

impl Effort {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// As on the command line, without the rounds.
    fn arguments(&self) -> [String; 4] {
        let neighbors: Vec<String> = self.neighbors.iter().map(u32::to_string).collect();
        [
            format!("--seconds={}", self.seconds),
            format!("--routes={}", self.routes),
            format!("--gobgp-routes={}", self.gobgp_routes),
            format!("--neighbors={}", neighbors.join(",")),
        ]
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("from 0.05 to 3600".to_owned()),
    }
}
