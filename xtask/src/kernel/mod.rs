//! Tests on other kernels, in virtual machines that are made of Debian's packages alone and emulate their CPUs.

mod fetch;
mod guest;
mod initramfs;
mod programs;
mod release;

use std::time::Instant;

use anyhow::{Result, ensure};

use self::{
    fetch::Kernel,
    guest::{Failure, Guest},
};
pub use self::{
    fetch::fetch_bird3,
    guest::{Job, QEMU, SYSTEMD, VIRTIOFSD, quoted},
    programs::{Selection, build, environment, job, want_bird3},
    release::{Choice, Release},
};
use crate::{command::require_root, setup};

/// How a job on a kernel ended.
pub enum Outcome {
    /// It was run; whether it succeeded.
    Ran { succeeded: bool },
    /// This machine cannot do it, or the kernel cannot be had or does not start.
    NotRun(anyhow::Error),
}

/// Does `job` on the kernel of `release`, and gives each line that it prints to `line`.
///
/// # Errors
/// If the guest stops in the middle, or we are interrupted.
pub fn run(release: Release, job: &Job, line: impl FnMut(&str)) -> Result<Outcome> {
    let start = Instant::now();
    let guest = match kernel(release).and_then(|kernel| Guest::boot(&kernel, job)) {
        Ok(guest) => guest,
        Err(error) => return not_run(error),
    };
    match guest.follow(line, || println!("  … still running ({} s)", start.elapsed().as_secs())) {
        Ok(succeeded) => Ok(Outcome::Ran { succeeded }),
        Err(Failure::NotBooted(error)) => not_run(error),
        Err(Failure::Stopped(error)) => Err(error),
    }
}

fn kernel(release: Release) -> Result<Kernel> {
    ensure!(cfg!(target_arch = "x86_64"), "the kernels tested are those for x86-64");
    require_root("booting another kernel")?;
    setup::for_virtual_machines()?;
    fetch::fetch(release)
}

/// An interrupted run ends; whatever else went wrong is told, and the rest goes on.
fn not_run(error: anyhow::Error) -> Result<Outcome> {
    tcpauth_tests::wait::check_interrupted()?;
    Ok(Outcome::NotRun(error))
}
