//! `cargo xtask fuzz`: what strangers can send, under random input.

use std::ffi::OsString;

use anyhow::{Result, ensure};

use crate::{build::cargo, setup};

/// What to feed: see `cargo xtask fuzz --help`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// `[TARGET] [--seconds N] [--seed N] [--list] [--input FILE]`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the targets, with optimisation and with checks of arithmetic, and runs them.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::require_build_tools()?;
    let mut fuzz = cargo("run");
    fuzz.args(["--profile", "checked", "--quiet", "-p", "tcpauth-fuzz", "--"]).args(&arguments.arguments);
    ensure!(fuzz.status()?.success(), "a target panicked, or did not run");
    Ok(())
}
