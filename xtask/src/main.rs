//! `cargo xtask`: everything that is done with this repository beside editing it.

mod bench;
mod build;
mod command;
mod demo;
mod fuzz;
mod kernel;
mod setup;
mod soak;
mod syscall;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tcpauth_tests::wait::interrupt_on_signals;

/// Build, show, test and measure tcpauth.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, testing and the demo need (Debian 12, root)
    Setup(setup::Arguments),
    /// Build the daemon and its command, the eBPF programs inside
    Build(build::Arguments),
    /// Show it at work: two routers with BIRD, an attacker, a wrong password (root)
    Demo,
    /// Run the tests, in layers: units, kernel, end-to-end, other kernels (all but the first as root)
    Test(test::Arguments),
    /// Feed what strangers can send with random input
    Fuzz(fuzz::Arguments),
    /// Run longer campaigns of the end-to-end tests (root)
    Soak(soak::Arguments),
    /// Measure against the same without tcpauth, and against TCP-MD5 (root)
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    interrupt_on_signals();
    let result = match arguments.task {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Build(arguments) => build::run(&arguments),
        Task::Demo => demo::run(),
        Task::Test(arguments) => test::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
