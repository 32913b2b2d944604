//! Programs that run beside the test and end with it.

use std::{
    fs::File,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait::eventually;

/// A program in a process group of its own, killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to the file `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let output = File::options().create(true).append(true).open(log)?;
        end_with_parent(&mut command);
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it `signal`.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&mut self, signal: libc::c_int) -> Result<()> {
        self.check_running()?;
        // SAFETY: kill takes no pointers; the child was not reaped, so the id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        Ok(())
    }

    /// Ends it with `signal` and waits for that.
    ///
    /// # Errors
    /// If it does not end within ten seconds, or had ended before.
    pub fn end(&mut self, signal: libc::c_int) -> Result<ExitStatus> {
        self.signal(signal)?;
        let name = self.name.clone();
        eventually(Duration::from_secs(10), &format!("{name} to end"), || Ok(self.child.try_wait()?))
    }

    /// # Errors
    /// If it has ended; with what it printed last.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("{} ended with {status}: {}", self.name, tail.join("\n"));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // SAFETY: kill takes no pointers; the child leads the group, and was not reaped.
            unsafe { libc::kill(-(self.child.id() as libc::pid_t), libc::SIGKILL) };
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` to its end and gives what it printed.
///
/// # Errors
/// If it cannot be started or fails; with what it printed.
pub fn run(mut command: Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{shown} cannot be started"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let how = match output.status.code() {
            Some(code) => format!("exited with {code}"),
            None => format!("ended by signal {}", output.status.signal().unwrap_or_default()),
        };
        bail!("{shown} {how}: {}{}", text, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(text)
}

/// The program is killed by the kernel when the thread that starts it ends, however that comes.
fn end_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and takes no pointers here.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}
