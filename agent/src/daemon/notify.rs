//! What systemd is told. Without systemd, nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Started, or done with reloading.
pub(super) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The configuration is being loaded again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// About to end.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The main loop turns.
pub(super) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// When systemd wants to hear that the main loop turns.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// Twice in the time that systemd allows; never, if it does not ask.
    pub(super) fn new() -> Self {
        Self(sd_notify::watchdog_enabled().map(|limit| {
            let mut due = interval((limit / 2).max(Duration::from_millis(1)));
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            due
        }))
    }

    /// Waits until then. Cancel-safe.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}
