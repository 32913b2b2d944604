//! Programs run in the foreground, with their progress shown.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tcpauth_tests::wait::check_interrupted;

/// After how long without a line of output a program is said to be still running.
const SILENCE: Duration = Duration::from_secs(20);

/// Runs `command`, showing each line that it prints with the time since its start.
///
/// # Errors
/// If it cannot be started, fails, or we are interrupted.
pub fn run_with_progress(title: &str, mut command: Command) -> Result<()> {
    eprintln!("{title}");
    let start = Instant::now();
    let shown = |line: &str| eprintln!("  [{:>3} s] {line}", start.elapsed().as_secs());
    let succeeded = run_lines(&mut command, shown, || shown("still running"))?;
    ensure!(succeeded, "{title}: {} failed", command.get_program().display());
    eprintln!("  done in {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// Runs `command`, giving each line that it prints to `line`, and calling `silent` when there was none for long.
/// Says whether it succeeded.
///
/// # Errors
/// If it cannot be started, or we are interrupted.
pub fn run_lines(
    command: &mut Command,
    mut line: impl FnMut(&str),
    mut silent: impl FnMut(),
) -> Result<bool> {
    let name = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} cannot be started"))?;
    let (sender, lines) = mpsc::channel();
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in outputs.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut text = Vec::new();
            while pipe.read_until(b'\n', &mut text).is_ok_and(|length| length > 0) {
                let _ = sender.send(String::from_utf8_lossy(&text).trim_end().to_owned());
                text.clear();
            }
        });
    }
    drop(sender);
    let mut last = Instant::now();
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(text) => {
                line(&text);
                last = Instant::now();
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) if last.elapsed() > SILENCE => {
                silent();
                last = Instant::now();
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Err(interrupted) = check_interrupted() {
            stop(&mut child);
            return Err(interrupted);
        }
    }
    Ok(child.wait()?.success())
}

/// What `command` prints, without the end of the last line; `None` if it is not there or fails.
pub fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// # Errors
/// If this is not root; `what` needs it.
pub fn require_root(what: &str) -> Result<()> {
    if !is_root() {
        bail!("{what} needs root: it makes network namespaces and loads eBPF programs. Run it as root");
    }
    Ok(())
}

/// Whether this is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Asks the program to end, and waits for that a little; then ends it.
fn stop(child: &mut Child) {
    // SAFETY: kill takes no pointers; the child was not reaped.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    for _ in 0..50 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let _ = child.kill();
    let _ = child.wait();
}
