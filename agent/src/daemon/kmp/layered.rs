//! Handshakes on the protected connections themselves (`key-management = "layered"`).

use std::time::Instant;

use super::super::Daemon;

/// The handshakes under way.
#[derive(Default)]
pub(in super::super) struct Layered {}

impl Layered {
    /// When [`Daemon::on_layered_time`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        None
    }
}

impl Daemon {
    /// Sends again, and gives up, what is due.
    pub(super) fn on_layered_time(&mut self, _now: Instant) {}
}
