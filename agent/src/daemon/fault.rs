//! A fault of the daemon itself: it ends at once, and systemd starts it again.
//!
//! A task that panicked would otherwise be gone while the others go on: no control socket any more, or a channel that
//! is shown as up for ever. Sessions stay protected while the daemon is away.

use std::{panic, process};

/// Has every panic, in whatever task or thread, end the process by SIGABRT after it is logged.
pub fn end_on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!("tcpauthd ends because of a fault of its own at {place}; please report it");
        process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::{env, os::unix::process::ExitStatusExt, process::Command, time::Duration};

    const INSIDE: &str = "TCPAUTH_TEST_PANIC_IN_TASK";

    /// Runs itself as the daemon is run: one task panics, the main task would go on.
    #[test]
    fn a_panic_in_a_task_ends_the_process() {
        if env::var_os(INSIDE).is_some() {
            super::end_on_panic();
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
}
