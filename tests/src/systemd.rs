//! Units of a systemd that is the first process of a virtual machine: `cargo xtask test --kernel 6.12 systemd`.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{process::run, wait::check_interrupted};

/// Environment variable that says that this machine runs under systemd and may be changed.
pub const SYSTEMD_VARIABLE: &str = "TCPAUTH_TEST_SYSTEMD";

/// Whether this machine runs under systemd and may be changed.
pub fn is_there() -> bool {
    std::env::var_os(SYSTEMD_VARIABLE).is_some()
}

/// Runs `systemctl` and gives what it printed.
///
/// # Errors
/// If it fails; with what it printed.
pub fn systemctl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("systemctl");
    command.args(arguments);
    run(command)
}

/// A unit that is installed.
#[derive(Clone, Debug)]
pub struct Unit(pub String);

impl Unit {
    /// Runs `systemctl VERB` for it, and waits until that is done.
    ///
    /// # Errors
    /// If it fails; with what it printed.
    pub fn systemctl(&self, verb: &str) -> Result<()> {
        systemctl(&[verb, &self.0]).map(drop)
    }

    /// Begins `systemctl VERB` for it.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn begin(&self, verb: &str) -> Result<()> {
        systemctl(&["--no-block", verb, &self.0]).map(drop)
    }

    /// As systemd says, empty if it is not set.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn property(&self, name: &str) -> Result<String> {
        Ok(systemctl(&["show", "--value", "--property", name, &self.0])?.trim_end().to_owned())
    }

    /// `active`, `activating` or another one.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn state(&self) -> Result<String> {
        self.property("ActiveState")
    }

    /// How often systemd has restarted it by itself since it was started.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn restarts(&self) -> Result<u32> {
        Ok(self.property("NRestarts")?.parse()?)
    }

    /// Its main process, if it runs.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub fn main_process(&self) -> Result<Option<libc::pid_t>> {
        let id = self.property("MainPID")?.parse()?;
        Ok((id != 0).then_some(id))
    }

    /// Waits until it has a main process other than `last`, and gives its id at once.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn next_process(&self, last: Option<libc::pid_t>) -> Result<libc::pid_t> {
        let begun = Instant::now();
        loop {
            let id = self.main_process()?;
            if let Some(id) = id.filter(|_| id != last) {
                return Ok(id);
            }
            check_interrupted()?;
            ensure!(begun.elapsed() < Duration::from_secs(60), "no new process of {}", self.0);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends `signal` to its main process.
    ///
    /// # Errors
    /// If there is none.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        let id = self.main_process()?.with_context(|| format!("{} does not run", self.0))?;
        send(id, signal)
    }

    /// Gives it settings of its own, as in a file in `/etc/systemd/system/UNIT.d`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add_settings(&self, name: &str, text: &str) -> Result<()> {
        let folder = Path::new("/etc/systemd/system").join(format!("{}.d", self.0));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{name}.conf")), text)?;
        systemctl(&["daemon-reload"]).map(drop)
    }

    /// What it has logged.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn journal(&self) -> Result<String> {
        let mut command = Command::new("journalctl");
        command.args(["--no-pager", "--output=short-monotonic", "--unit", &self.0]);
        run(command)
    }
}

/// Sends `signal` to the process `id`.
///
/// # Errors
/// If there is no such process.
pub fn send(id: libc::pid_t, signal: libc::c_int) -> Result<()> {
    // SAFETY: kill takes no pointers.
    match unsafe { libc::kill(id, signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).with_context(|| format!("signal {signal} to {id}")),
    }
}
