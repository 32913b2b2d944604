//! Debian packages.

use std::process::Command;

use anyhow::Result;

use super::services::NoServices;
use crate::command::run_with_progress;

/// Installs `packages`, without questions, and without starting the services in them: BGP daemons that
/// are only wanted in namespaces must not run on the host.
///
/// # Errors
/// If apt-get fails.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let _no_services = NoServices::begin()?;
    run_with_progress("Update the list of packages", apt_get(&["update"]))?;
    let mut install = apt_get(&["install", "--yes", "--no-install-recommends"]);
    install.args(["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]);
    install.args(packages);
    run_with_progress(&format!("Install {}", packages.join(" ")), install)
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
    command
}
