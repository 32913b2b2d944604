//! `cargo xtask build`.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, ensure};
use tcpauth_tests::binaries::workspace;

use crate::{command::run_with_progress, setup};

/// What to build.
#[derive(clap::Args)]
pub struct Arguments {
    /// With optimisation, as it is installed
    #[arg(long)]
    release: bool,
}

/// Builds the daemon and its command.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::require_build_tools()?;
    let mut cargo = cargo("build");
    cargo.args(["-p", "tcpauth", "--bins"]);
    if arguments.release {
        cargo.arg("--release");
    }
    ensure!(cargo.status()?.success(), "the build failed");
    Ok(())
}

/// Builds the programs that demo, end-to-end tests and benchmarks run, and gives their folder.
pub fn programs_under_test() -> Result<PathBuf> {
    let mut cargo = cargo("build");
    cargo.args(["--release", "-p", "tcpauth", "--bins"]);
    run_with_progress("Build tcpauthd and tcpauth (release)", cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    Ok(workspace().join(target).join("release"))
}

/// `cargo` with a subcommand, at the root of the workspace, free of what the `cargo` that runs us set.
pub fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace()).arg(subcommand);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_BIN_")
            || name.starts_with("CARGO_MANIFEST_")
        {
            cargo.env_remove(&*name);
        }
    }
    cargo
}
