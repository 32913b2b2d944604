//! Waiting, with an end, and interruptible.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at, on a machine of one's own.
const PERIOD: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Waits until `condition` gives something, at most `limit`. `what` says in the error what was waited
/// for, and the last error of `condition` why it did not come.
///
/// # Errors
/// When the time is up, or the process was interrupted.
pub fn eventually<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = limit * slowness();
    let start = Instant::now();
    loop {
        let last = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        check_interrupted()?;
        if start.elapsed() >= limit {
            bail!("{what}: not within {limit:?}{last}");
        }
        thread::sleep(pause());
    }
}

/// By how much limits are longer than on a machine of one's own: `TCPAUTH_TEST_SLOWNESS`, 1 unless set. An emulated
/// machine takes tens of times as long.
pub fn slowness() -> u32 {
    std::env::var("TCPAUTH_TEST_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// How often a condition is looked at. Most conditions start a process, which takes an emulated machine as long as the
/// pause itself: what is waited for would come later for it.
fn pause() -> Duration {
    PERIOD * slowness().clamp(1, 10)
}

/// Checks that `condition` holds all through `period`.
///
/// # Errors
/// When it does not, or the process was interrupted.
pub fn steadily(period: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < period {
        if !condition()? {
            bail!("{what}: no longer so after {:.1?}", start.elapsed());
        }
        check_interrupted()?;
        thread::sleep(pause());
    }
    Ok(())
}

/// From here on SIGINT and SIGTERM make every wait fail, so that all that was made is dropped.
pub fn interrupt_on_signals() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

/// # Errors
/// If a signal asked the process to end.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
