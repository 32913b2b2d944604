//! `cargo xtask test`: all tests, in layers.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, ensure};
use tcpauth_tests::{binaries::FOLDER_VARIABLE, namespace};

use crate::{
    build::{cargo, programs_under_test},
    command::{is_root, run_lines},
    setup,
};

/// What to test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// List the tests instead of running them
    #[arg(long)]
    list: bool,
}

/// How many end-to-end tests run at a time: each is two routers, and mostly waits.
const END_TO_END_THREADS: &str = "3";

/// A layer of tests.
struct Layer {
    title: &'static str,
    needs_root: bool,
    /// Arguments of `cargo test`, one run each.
    runs: &'static [&'static [&'static str]],
    /// Arguments of the test programs.
    options: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer {
        title: "Unit and property tests",
        needs_root: false,
        runs: &[
            &["-p", "tcpauth-common", "-p", "xtask"],
            &["-p", "tcpauth", "-p", "tcpauth-fuzz", "-p", "tcpauth-tests", "--lib", "--bins"],
        ],
        options: &[],
    },
    Layer {
        title: "TC programs by test-run, and the kernel",
        needs_root: true,
        runs: &[&["-p", "tcpauth", "--test", "*"]],
        options: &["--test-threads=1"],
    },
    Layer {
        title: "End-to-end: routers in network namespaces, with real BGP daemons",
        needs_root: true,
        runs: &[&["-p", "tcpauth-tests", "--test", "*"]],
        options: &["--test-threads", END_TO_END_THREADS],
    },
];

/// Counts of the test programs' closing lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
}

/// Runs or lists the tests.
pub fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    if arguments.list {
        setup::require_build_tools()?
    } else {
        setup::for_tests()?
    }
    let mut totals = Totals::default();
    let (mut broken, mut without_root) = (Vec::new(), Vec::new());
    for (number, layer) in LAYERS.iter().enumerate() {
        println!("\n=== Layer {}: {} (after {} s)", number + 1, layer.title, start.elapsed().as_secs());
        if layer.needs_root && !is_root() && !arguments.list {
            println!(
                "NOT RUN: these tests need root, as they make network namespaces and load eBPF programs"
            );
            without_root.push(layer.title);
            continue;
        }
        let succeeded = layer.run(arguments, &mut totals)?;
        if !succeeded {
            broken.push(layer.title);
        }
    }
    if arguments.list {
        return Ok(());
    }
    println!("\n=== All layers ({} s)", start.elapsed().as_secs());
    for title in &without_root {
        println!("NOT RUN without root: {title}");
    }
    for title in &broken {
        println!("FAILED: {title}");
    }
    if !broken.is_empty() && totals.failed == 0 {
        // Not built, or ended before its closing line.
        totals.failed = broken.len() as u64;
    }
    println!("{} passed, {} failed", totals.passed, totals.failed);
    ensure!(broken.is_empty() && totals.failed == 0, "tests failed");
    ensure!(without_root.is_empty(), "not all tests were run: run `cargo xtask test` as root");
    ensure!(totals.passed > 0, "no test has such a name");
    Ok(())
}

impl Layer {
    fn run(&self, arguments: &Arguments, totals: &mut Totals) -> Result<bool> {
        let is_end_to_end =
            self.runs.iter().any(|run| run.contains(&"tcpauth-tests") && run.contains(&"--test"));
        let programs = match is_end_to_end && !arguments.list {
            true => {
                namespace::sweep()?;
                Some(programs_under_test()?)
            }
            false => None,
        };
        let mut succeeded = true;
        for run in self.runs {
            let mut cargo = self.cargo_test(run, arguments, programs.as_deref());
            succeeded &= run_lines(
                &mut cargo,
                |line| {
                    println!("{line}");
                    totals.add(line);
                },
                || println!("  … still running"),
            )?;
        }
        Ok(succeeded)
    }

    fn cargo_test(&self, run: &[&str], arguments: &Arguments, programs: Option<&Path>) -> Command {
        let mut cargo = cargo("test");
        cargo.args(["--no-fail-fast"]).args(run).env("RUST_BACKTRACE", "0");
        if let Some(programs) = programs {
            cargo.env(FOLDER_VARIABLE, programs);
        }
        cargo.arg("--");
        if let Some(filter) = &arguments.filter {
            cargo.arg(filter);
        }
        match arguments.list {
            true => cargo.arg("--list"),
            false => cargo.args(self.options),
        };
        cargo
    }
}

impl Totals {
    /// Adds what a line `test result: ok. 3 passed; 0 failed; …` says.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
        );
        totals.add("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("test a_test ... ok, 9 passed");
        assert_eq!(totals, Totals { passed: 7, failed: 2 });
    }
}
