//! `cargo xtask test`: all tests, in layers.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, ensure};
use tcpauth_tests::{bgp::BIRD3_VARIABLE, binaries::FOLDER_VARIABLE, namespace};

use crate::{
    build::{cargo, programs_under_test},
    command::{is_root, run_lines},
    kernel::{self, Choice, Outcome, Selection},
    setup,
};

/// What to test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// List the tests instead of running them
    #[arg(long, conflicts_with = "kernel")]
    list: bool,
    /// Run layers 2 and 3 on another kernel, in a virtual machine: 6.1, 6.12, 7.x, or all (root)
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<Choice>,
    /// With --kernel: only what each run of CI checks there
    #[arg(long, requires = "kernel", conflicts_with = "filter")]
    quick: bool,
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
    /// Value of [`HOOK_VARIABLE`], if the layer wants another hook than the kernel's best.
    hook: Option<&'static str>,
}

/// Environment variable by which `tcpauthd` and the tests take the hook of kernels without TCX.
const HOOK_VARIABLE: &str = "TCPAUTH_HOOK";

const LAYERS: &[Layer] = &[
    Layer {
        title: "Unit and property tests",
        needs_root: false,
        runs: &[
            &["-p", "tcpauth-common", "-p", "xtask"],
            &["-p", "tcpauth", "-p", "tcpauth-fuzz", "-p", "tcpauth-tests", "--lib", "--bins"],
        ],
        options: &[],
        hook: None,
    },
    Layer {
        title: "TC programs by test-run, and the kernel",
        needs_root: true,
        runs: &[&["-p", "tcpauth", "--test", "*"]],
        options: &["--test-threads=1"],
        hook: None,
    },
    Layer {
        title: "End-to-end: routers in network namespaces, with real BGP daemons",
        needs_root: true,
        runs: &[&["-p", "tcpauth-tests", "--test", "*"]],
        options: &["--test-threads", END_TO_END_THREADS],
        hook: None,
    },
    Layer {
        title: "The hook of kernels without TCX, clsact",
        needs_root: true,
        runs: &[
            &[
                "-p",
                "tcpauth",
                "--test",
                "kernel_dataplane",
                "--test",
                "kernel_links",
                "--test",
                "kernel_rings",
            ],
            &["-p", "tcpauth-tests", "--test", "kernel_smoke", "--test", "daemon", "--test", "links"],
            &["-p", "tcpauth-tests", "--test", "pairings"],
        ],
        options: &["--test-threads=1"],
        hook: Some("clsact"),
    },
];

/// Counts of the test programs' closing lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
}

/// What the closing lines say.
#[derive(Default)]
struct Summary {
    totals: Totals,
    broken: Vec<String>,
    /// With the reason.
    not_run: Vec<String>,
}

/// Runs or lists the tests.
pub fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    if arguments.list {
        setup::require_build_tools()?
    } else {
        setup::for_tests()?
    }
    let mut summary = Summary::default();
    if let Some(choice) = arguments.kernel {
        let selection = match (&arguments.filter, arguments.quick) {
            (_, true) => Selection::Quick,
            (Some(filter), false) => Selection::Named(filter),
            (None, false) => Selection::All,
        };
        on_kernels(choice, selection, &mut summary)?;
        summary.close(start)?;
        ensure!(summary.not_run.is_empty(), "not all tests were run");
        return Ok(());
    }
    let mut without_root = false;
    for (number, layer) in LAYERS.iter().enumerate() {
        heading(number, layer.title, start);
        if layer.needs_root && !is_root() && !arguments.list {
            println!(
                "NOT RUN: these tests need root, as they make network namespaces and load eBPF programs"
            );
            without_root = true;
            summary.not_run.push(format!("{} (without root)", layer.title));
            continue;
        }
        let succeeded = layer.run(arguments, &mut summary.totals)?;
        if !succeeded {
            summary.broken.push(layer.title.to_owned());
        }
    }
    if arguments.list {
        return Ok(());
    }
    heading(LAYERS.len(), "Other kernels, in virtual machines", start);
    match &arguments.filter {
        None => on_kernels(Choice::All, Selection::Quick, &mut summary)?,
        Some(filter) => println!("left out: `cargo xtask test --kernel all {filter}` runs these tests there"),
    }
    summary.close(start)?;
    ensure!(!without_root, "not all tests were run: run `cargo xtask test` as root");
    Ok(())
}

fn heading(number: usize, title: &str, start: Instant) {
    println!("\n=== Layer {}: {title} (after {} s)", number + 1, start.elapsed().as_secs());
}

/// Runs tests on other kernels, one after the other: each guest uses the CPUs there are.
fn on_kernels(choice: Choice, selection: Selection, summary: &mut Summary) -> Result<()> {
    let programs = kernel::build(selection)?;
    let binaries = programs_under_test()?;
    for release in choice.releases() {
        let start = Instant::now();
        let name = release.name();
        println!("\n--- Linux {name}");
        let mut environment = kernel::environment(&binaries);
        if kernel::want_bird3(&programs, release) {
            match kernel::fetch_bird3() {
                Ok(root) => environment.push((BIRD3_VARIABLE, root.display().to_string())),
                Err(reason) => {
                    println!("NOT RUN with BIRD 3: {reason:#}");
                    summary.not_run.push(format!("BIRD 3: {reason:#}"));
                }
            }
        }
        let job = kernel::job(release, selection, &programs, &environment);
        let outcome = kernel::run(release, &job, |line| {
            println!("{line}");
            summary.totals.add(line);
        })?;
        match outcome {
            Outcome::Ran { succeeded } => {
                println!("  Linux {name}: {} s", start.elapsed().as_secs());
                if !succeeded {
                    summary.broken.push(format!("Linux {name}"));
                }
            }
            Outcome::NotRun(reason) => {
                println!("NOT RUN: {reason:#}");
                summary.not_run.push(format!("Linux {name}: {reason:#}"));
            }
        }
    }
    Ok(())
}

impl Summary {
    /// Prints the closing lines.
    ///
    /// # Errors
    /// If a test failed, or none was run.
    fn close(&mut self, start: Instant) -> Result<()> {
        let Self { totals, broken, not_run } = self;
        println!("\n=== All layers ({} s)", start.elapsed().as_secs());
        for what in not_run.iter() {
            println!("NOT RUN: {what}");
        }
        for what in broken.iter() {
            println!("FAILED: {what}");
        }
        if !broken.is_empty() && totals.failed == 0 {
            // Not built, or ended before its closing line.
            totals.failed = broken.len() as u64;
        }
        println!("{} passed, {} failed", totals.passed, totals.failed);
        ensure!(broken.is_empty() && totals.failed == 0, "tests failed");
        ensure!(totals.passed > 0 || !not_run.is_empty(), "no test has such a name");
        Ok(())
    }
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
        if let Some(hook) = self.hook {
            cargo.env(HOOK_VARIABLE, hook);
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
