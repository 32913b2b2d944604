//! A fault of the daemon itself: it ends at once, and systemd starts it again.
//!
//! A task that panicked would otherwise be gone while the others go on: no control socket any more, or a channel that
//! is shown as up for ever. Sessions stay protected while the daemon is away.

use std::{panic, process};

/// The end comes after this many seconds at the latest, by SIGALRM, if nobody reads standard error.
const LAST_WORDS: u32 = 5;

/// Has every panic, in whatever task or thread, end the process by SIGABRT after it is logged. `finish_log` waits until
/// the log is written.
pub fn end_on_panic(finish_log: impl Fn() + Send + Sync + 'static) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        nix::unistd::alarm::set(LAST_WORDS);
        print(info);
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!("tcpauthd ends because of a fault of its own at {place}; please report it");
        finish_log();
        process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::{env, io::Write, os::unix::process::ExitStatusExt, process::Command, time::Duration};

    const INSIDE: &str = "TCPAUTH_TEST_PANIC_IN_TASK";

    /// Runs itself as the daemon is run: one task panics, the main task would go on.
    #[test]
    fn a_panic_in_a_task_ends_the_process() {
        if env::var_os(INSIDE).is_some() {
            super::end_on_panic(|| ());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::spawn(async { panic!("a task's fault") });
                tokio::time::sleep(Duration::from_millis(200)).await;
            });
            return;
        }
        let name = "daemon::fault::tests::a_panic_in_a_task_ends_the_process";
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(nix::libc::SIGABRT), "{said}");
        assert!(said.contains("a task's fault"), "{said}");
    }

    /// Runs itself with a full pipe for its standard error.
    #[test]
    fn a_panic_ends_the_process_although_nobody_reads_of_it() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let full = writer.try_clone().unwrap();
        let filled = std::thread::spawn(move || while writer.write_all(&[0; 4096]).is_ok() {});
        std::thread::sleep(Duration::from_millis(100));
        let name = "daemon::fault::tests::a_panic_in_a_task_ends_the_process";
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .stdout(std::process::Stdio::null())
            .stderr(full)
            .spawn()
            .unwrap();
        let signal = process.wait().unwrap().signal();
        assert_eq!(signal, Some(nix::libc::SIGALRM));
        drop(reader);
        filled.join().unwrap();
    }
}
