//! What is done from time to time: sessions that have served are removed, changes of state are logged.

use std::time::{Duration, Instant};

use tcpauth_common::layout::Quartet;

use super::{Daemon, sockets::Sockets};
use crate::{
    kernel::KernelError,
    sessions::{Monotonic, Whereabouts, expiry},
};

/// Time between two rounds.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

impl Daemon {
    /// One round. A failure is logged, and the next round tries again.
    pub(super) fn upkeep(&mut self) {
        let begin = Instant::now();
        self.interfaces.retry(&mut self.dataplane);
        self.adopt();
        self.tidy_associations();
        self.tidy_channels();
        if let Err(error) =
            (self.remove_expired().and_then(|()| self.follow_peers()).and_then(|()| self.follow_refresh()))
                .and_then(|()| self.log_states())
        {
            tracing::error!("upkeep: {error}");
        }
        tracing::trace!(elapsed = ?begin.elapsed(), "upkeep");
    }

    fn remove_expired(&mut self) -> Result<(), KernelError> {
        let now = Monotonic::now();
        let mut sockets = None;
        let mut expired = Vec::new();
        for entry in self.dataplane.sessions() {
            let (quartet, session) = entry?;
            self.peer_keys.learn(&quartet, &session, &self.neighbors);
            if expiry(&session, now, || self.whereabouts(session.neighbor, &quartet, &mut sockets)) {
                expired.push((quartet, session));
            }
        }
        for (quartet, session) in expired {
            self.dataplane.remove_session(&quartet)?;
            self.tell_session(&quartet, &session, "closed");
        }
        Ok(())
    }

    /// Where a quiet session's socket is; the sockets are listed once a round at most.
    fn whereabouts(
        &self,
        neighbor: u32,
        quartet: &Quartet,
        sockets: &mut Option<Option<Sockets>>,
    ) -> Whereabouts {
        if !self.interfaces.has_address(&quartet.local) {
            return Whereabouts::Forwarded;
        }
        let sockets = sockets.get_or_insert_with(|| {
            Sockets::list().inspect_err(|error| tracing::warn!("cannot list sockets: {error}")).ok()
        });
        match sockets {
            // Our address may stand for a container behind masquerade.
            Some(sockets) if !sockets.have(quartet) && self.neighbors.is_forwarded(neighbor, quartet) => {
                Whereabouts::Forwarded
            }
            Some(sockets) if !sockets.have(quartet) => Whereabouts::Gone,
            // What is not known to be gone stays.
            _ => Whereabouts::Here,
        }
    }

    /// Logs neighbours whose state is another than in the round before.
    fn log_states(&mut self) -> Result<(), KernelError> {
        let now = Monotonic::now();
        let sessions = self.sessions_by_neighbor()?;
        let mut changes = Vec::new();
        for (number, neighbor) in self.neighbors.iter() {
            let counters = self.neighbor_counters(number)?;
            let sessions = sessions.get(&number).map_or(&[][..], Vec::as_slice);
            let diagnosis = self.diagnose(number, neighbor, sessions, &counters, now);
            // Not to have been looked at yet is like being idle.
            if self.logged_states.get(&number).copied().unwrap_or("idle") == diagnosis.state {
                continue;
            }
            let (peer, state) = (&neighbor.peer, diagnosis.state);
            // Of an established one the reason is about something else, which is logged by itself.
            match diagnosis.reason.filter(|_| state != "established") {
                Some(reason) if matches!(state, "failing" | "closed") => {
                    tracing::warn!(neighbor = %peer, "{state}: {reason}")
                }
                Some(reason) => tracing::info!(neighbor = %peer, "{state}: {reason}"),
                None => tracing::info!(neighbor = %peer, "{state}"),
            }
            changes.push((number, state));
        }
        self.logged_states.extend(changes);
        self.logged_states.retain(|number, _| self.neighbors.numbered(*number).is_some());
        Ok(())
    }
}
