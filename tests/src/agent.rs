//! `tcpauthd` on a router, and `tcpauth` beside it.

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{binaries::binary, namespace::Namespace, process::Process, wait::eventually};

/// How long the daemon may take to answer after its start: programs are verified meanwhile.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Logs are printed when an agent is dropped: the test runner shows them when the test failed.
static SHOW_LOGS: AtomicBool = AtomicBool::new(true);

/// Logs of agents are not printed when they are dropped.
pub fn hide_logs() {
    SHOW_LOGS.store(false, Ordering::Relaxed);
}

/// A daemon, its configuration file and its command. What it left in the kernel is removed when this
/// is dropped.
pub struct Agent {
    namespace: Namespace,
    folder: TempDir,
    process: Option<Process>,
    environment: Vec<(String, String)>,
    logs_keys: bool,
}

impl Agent {
    /// Starts `tcpauthd` in `namespace` with the text of its configuration, and waits until it answers.
    /// The instance is named as the namespace.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(namespace: &Namespace, config: &str) -> Result<Self> {
        Self::start_in(namespace, config, Vec::new())
    }

    /// As [`Agent::start`], with more environment variables for the daemon.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_in(namespace: &Namespace, config: &str, environment: Vec<(String, String)>) -> Result<Self> {
        let mut agent = Self::prepare(namespace, config)?;
        agent.environment = environment;
        agent.start_again()?;
        Ok(agent)
    }

    /// As [`Agent::start`], with a daemon that writes the keys it agrees on to [`Agent::key_log`].
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_logging_keys(namespace: &Namespace, config: &str) -> Result<Self> {
        let mut agent = Self::prepare(namespace, config)?;
        agent.logs_keys = true;
        agent.start_again()?;
        Ok(agent)
    }

    fn prepare(namespace: &Namespace, config: &str) -> Result<Self> {
        let (namespace, folder) = (namespace.clone(), TempDir::new()?);
        let agent = Self { namespace, folder, process: None, environment: Vec::new(), logs_keys: false };
        agent.configure(config)?;
        Ok(agent)
    }

    /// Starts the daemon anew, after [`Agent::end`], and gives the time until it answered.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_again(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.spawn()?;
        self.wait_until_it_answers()?;
        Ok(start.elapsed())
    }

    /// Starts the daemon anew, after [`Agent::end`], without waiting for it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = self.namespace.command(binary("tcpauthd")?);
        command.args(["--foreground", "--instance", self.namespace.name(), "--config"]);
        command.arg(self.config_file()).envs(self.environment.iter().cloned());
        open_files_as_of_a_service(&mut command);
        if self.logs_keys {
            command.arg("--key-log").arg(self.key_log());
        }
        self.process = Some(Process::start(command, &self.folder.path().join("tcpauthd.log"))?);
        Ok(())
    }

    /// Waits until the daemon answers on its control socket.
    ///
    /// # Errors
    /// If it ended, or does not answer in time; with its log.
    pub fn wait_until_it_answers(&mut self) -> Result<()> {
        let mut process = self.process.take().context("tcpauthd is not running")?;
        eventually(START_LIMIT, "tcpauthd to answer", || {
            process.check_running()?;
            self.status().map(Some)
        })
        .with_context(|| process.log())?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends the daemon with `signal`.
    ///
    /// # Errors
    /// If it does not end, or had ended by itself.
    pub fn end(&mut self, signal: libc::c_int) -> Result<()> {
        let mut process = self.process.take().context("tcpauthd is not running")?;
        process.end(signal)?;
        Ok(())
    }

    /// Sends the daemon `signal`.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&mut self, signal: libc::c_int) -> Result<()> {
        self.process.as_mut().context("tcpauthd is not running")?.signal(signal)
    }

    /// The daemon's process id, if it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Writes the configuration file anew, without telling the daemon.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        let file = self.config_file();
        fs::write(&file, config)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Where it runs.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("tcpauth.toml")
    }

    /// Where the daemon writes the keys that it agrees on, if it was started so.
    pub fn key_log(&self) -> PathBuf {
        self.folder.path().join("keys.log")
    }

    /// Folder below bpffs with what the instance pinned.
    pub fn pin_dir(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/tcpauth").join(self.namespace.name())
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("tcpauthd.log")).unwrap_or_default()
    }

    /// Runs `tcpauth` with `arguments` for this instance and gives what it printed. Exit code 4 is not
    /// an error: a neighbour is failing.
    ///
    /// # Errors
    /// With what it printed as an error.
    pub fn tcpauth(&self, arguments: &[&str]) -> Result<String> {
        self.tcpauth_with(arguments, "")
    }

    /// As [`Agent::tcpauth`], with `input` as its standard input.
    ///
    /// # Errors
    /// As [`Agent::tcpauth`].
    pub fn tcpauth_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.run_tcpauth(arguments, input)?;
        if !output.status.success() && output.status.code() != Some(4) {
            bail!("tcpauth {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `tcpauth config diff` prints, empty if there is no difference, which its exit code has to agree with.
    ///
    /// # Errors
    /// If it fails.
    pub fn config_diff(&self) -> Result<String> {
        let output = self.run_tcpauth(&["config", "diff"], "")?;
        match output.status.code() {
            Some(0) => Ok(String::new()),
            Some(1) => Ok(String::from_utf8(output.stdout)?),
            _ => bail!("tcpauth config diff: {}", String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    fn run_tcpauth(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = self.namespace.command(binary("tcpauth")?);
        command.args(["--instance", self.namespace.name()]).args(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read is not in want of it.
            let _ = stdin.write_all(input.as_bytes());
        }
        Ok(child.wait_with_output()?)
    }

    /// `tcpauth status --json`.
    ///
    /// # Errors
    /// As [`Agent::tcpauth`].
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }

    /// Exit code of `tcpauth status`: 4 if a neighbor is failing, closed or not protected.
    ///
    /// # Errors
    /// If it ended by a signal.
    pub fn status_code(&self) -> Result<i32> {
        self.run_tcpauth(&["status"], "")?.status.code().context("tcpauth status ended by a signal")
    }

    /// `tcpauth session show --json`: an array.
    ///
    /// # Errors
    /// As [`Agent::tcpauth`].
    pub fn sessions(&self) -> Result<Vec<Value>> {
        match self.json(&["session", "show"])? {
            Value::Array(sessions) => Ok(sessions),
            other => bail!("session show: not an array: {other}"),
        }
    }

    /// What `status` says of the neighbour configured as `peer`.
    ///
    /// # Errors
    /// If there is none.
    pub fn neighbor(&self, peer: &str) -> Result<Value> {
        let status = self.status()?;
        let neighbors = status["neighbors"].as_array().context("status has no neighbors")?;
        neighbors
            .iter()
            .find(|neighbor| neighbor["peer"] == peer)
            .cloned()
            .with_context(|| format!("no {peer}"))
    }

    /// How many segments of `peer` were dropped for `reason`.
    ///
    /// # Errors
    /// If there is no such neighbour.
    pub fn dropped(&self, peer: &str, reason: &str) -> Result<u64> {
        Ok(self.neighbor(peer)?["counters"]["dropped"][reason].as_u64().unwrap_or(0))
    }

    /// How many segments of `peer` were dropped for all reasons together.
    ///
    /// # Errors
    /// If there is no such neighbour.
    pub fn dropped_in_all(&self, peer: &str) -> Result<u64> {
        let neighbor = self.neighbor(peer)?;
        let reasons = neighbor["counters"]["dropped"].as_object().context("no counters")?;
        Ok(reasons.values().filter_map(Value::as_u64).sum())
    }

    /// Starts `tcpauth events --json`, and gives the process, whose log the events are.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn events(&self) -> Result<Process> {
        let mut command = self.namespace.command(binary("tcpauth")?);
        command.args(["--instance", self.namespace.name(), "--json", "events"]);
        let events = Process::start(command, &self.folder.path().join("events"))?;
        // It prints nothing when it has connected.
        std::thread::sleep(Duration::from_millis(200));
        Ok(events)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.tcpauth(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("tcpauth {}: {text}", arguments.join(" ")))
    }
}

/// The limit that systemd and a login shell give, whatever that of the tests is.
fn open_files_as_of_a_service(command: &mut Command) {
    const SOFT: libc::rlim_t = 1024;
    // SAFETY: both calls are async-signal-safe and the structure outlives them.
    unsafe {
        command.pre_exec(|| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = limit.rlim_max.min(SOFT);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            Ok(())
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if SHOW_LOGS.load(Ordering::Relaxed) {
            println!("--- tcpauthd of {}:\n{}", self.namespace.name(), self.log());
        }
        drop(self.process.take());
        let _ = fs::remove_dir_all(self.pin_dir());
        for suffix in ["sock", "lock", "pid", "running.toml"] {
            let _ = fs::remove_file(format!("/run/tcpauth/{}.{suffix}", self.namespace.name()));
        }
    }
}
