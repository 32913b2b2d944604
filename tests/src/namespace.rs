//! A network namespace: a host of its own, as far as TCP can tell.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::process::run;

/// All names begin with this, then the process id: what a killed run left behind can be told.
const PREFIX: &str = "tcpauth-";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace, removed when the last clone is dropped.
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes one; `role` is the end of its name.
    ///
    /// # Errors
    /// If the process is not root, or `ip` is missing.
    pub fn create(role: &str) -> Result<Self> {
        // SAFETY: geteuid has no preconditions.
        ensure!(unsafe { libc::geteuid() } == 0, "network namespaces need root: run this as root");
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        run(ip(&["netns", "add", &name])).context("`cargo xtask setup` installs iproute2")?;
        let file = File::open(PathBuf::from("/run/netns").join(&name))?;
        let namespace = Self(Arc::new(Inner { name, file }));
        namespace.ip(&["link", "set", "lo", "up"])?;
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.router_solicitations", "0")?;
        Ok(namespace)
    }

    /// Its name, unique on this machine.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// `program`, to be run in it. Mounts stay as they are, unlike with `ip netns exec`, so that a
    /// daemon finds what an earlier one pinned under bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.0.file.as_raw_fd();
        // SAFETY: setns is async-signal-safe; the descriptor is open until exec, as the parent holds it.
        unsafe {
            command.pre_exec(move || match libc::setns(fd, libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        command
    }

    /// Runs `ip` with `arguments` in it.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.name()];
        all.extend(arguments);
        run(ip(&all))
    }

    /// Runs `work` on a thread inside it; sockets opened there stay in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.join_thread()?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts `work` on a thread inside it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> thread::JoinHandle<Result<T>> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.join_thread()?;
            work()
        })
    }

    /// Sets `key`, as in `net.ipv4.tcp_sack`.
    ///
    /// # Errors
    /// If there is no such key.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| fs::write(&path, value).with_context(|| format!("{key} = {value}")))
    }

    fn join_thread(&self) -> Result<()> {
        // SAFETY: setns takes an open descriptor and no pointers; it concerns this thread only.
        match unsafe { libc::setns(self.0.file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).context("setns"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = run(ip(&["netns", "del", &self.name]));
    }
}

/// Removes the namespaces and pins of runs that were killed before they could.
///
/// # Errors
/// If the folder of namespaces cannot be read.
pub fn sweep() -> Result<()> {
    for folder in ["/run/netns", "/sys/fs/bpf/tcpauth", "/run/tcpauth"] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_orphan(&name) {
                continue;
            }
            if folder == "/run/netns" {
                run(ip(&["netns", "del", &name]))?;
            } else if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Whether `name` is one of ours, and the process that made it is gone.
fn is_orphan(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let mut parts = rest.splitn(3, '-');
    let (Some(pid), Some(number)) = (parts.next(), parts.next()) else { return false };
    let numeric = |part: &str| part.parse::<u32>().is_ok();
    numeric(pid) && numeric(number) && !PathBuf::from("/proc").join(pid).exists()
}

fn ip(arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_run_left_is_an_orphan() {
        assert!(!is_orphan("blue"));
        assert!(!is_orphan("tcpauth-default"));
        assert!(!is_orphan("tcpauth-x-1-r1"));
        assert!(!is_orphan(&format!("tcpauth-{}-0-r1", std::process::id())));
        assert!(is_orphan("tcpauth-4194305-0-r1"), "larger than any process id");
    }
}
