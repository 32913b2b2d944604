//! What is done from time to time: sessions that have served are removed, changes of state are logged.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tcpauth_common::{
    DropReason,
    layout::{Quartet, Session},
};

use super::{
    Daemon, drops::wall_clock, interfaces::Change, meaning::PREEMPTED_TOO_DEEP, sockets::ListedOnce,
};
use crate::{
    control::{
        protocol::Event,
        words::{NeighborState, ProgramsState, SessionState},
    },
    kernel::KernelError,
    sessions::{Monotonic, Progress, Quota, SessionCount, Whereabouts, expiry, progress},
};

/// Time between two rounds.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// A session is asked for its socket no sooner after its last segment.
const SETTLED: Duration = Duration::from_secs(2);

impl Daemon {
    /// One round. A failure is logged, and the next round tries again.
    pub(super) fn upkeep(&mut self) {
        let begin = Instant::now();
        self.interfaces.retry(&mut self.dataplane);
        self.interfaces.list_addresses(&mut self.dataplane);
        self.interfaces.forget_stale(&mut self.dataplane);
        if self.interfaces.is_unfollowed() {
            self.keep_following_interfaces();
        }
        self.keep_lane();
        if self.look_at_programs() {
            self.interfaces.mend(&mut self.dataplane);
            self.look_at_programs();
        }
        self.log_without_memory();
        self.look_at_paths();
        self.adopt();
        self.tidy_associations();
        self.tidy_channels();
        self.renew_old_channels(Timestamp::now());
        self.tidy_troubles();
        if let Err(error) = self.follow_sessions() {
            tracing::error!("upkeep: {error}");
        }
        tracing::trace!(elapsed = ?begin.elapsed(), "upkeep");
    }

    /// Brings neighbors that are bound to interfaces up to date. What fails is tried again in the next round.
    pub(super) fn keep_following_interfaces(&mut self) {
        let followed = self.follow_interfaces();
        self.interfaces.note_followed(followed.is_ok());
        if let Err(error) = followed {
            tracing::error!("neighbors bound to interfaces are not up to date, trying again: {error}");
        }
    }

    /// Looks for all programs as they are in the kernel, and tells followers what has changed. Returns whether some are
    /// not in their places.
    pub(super) fn look_at_programs(&mut self) -> bool {
        for Change { interface, fault } in self.interfaces.look(&mut self.dataplane) {
            let state = if fault.is_some() { ProgramsState::Failing } else { ProgramsState::Protected };
            let again = "tcpauth's programs are in their places again";
            // Nobody may be following.
            let _ = self.events.send(Event::Interface {
                time: wall_clock(),
                interface,
                state,
                text: fault.unwrap_or_else(|| again.to_owned()),
            });
        }
        self.interfaces.has_fault()
    }

    /// Logs packets that were dropped for want of working memory. They belong to no neighbor.
    fn log_without_memory(&mut self) {
        match self.without_memory() {
            Ok(dropped) if dropped > self.without_memory => {
                let packets = dropped - self.without_memory;
                tracing::warn!(
                    reason = DropReason::NoMemory.name(),
                    packets,
                    "dropped: {PREEMPTED_TOO_DEEP}"
                );
                self.without_memory = dropped;
            }
            Ok(_) => {}
            Err(error) => tracing::error!("upkeep: {error}"),
        }
    }

    fn follow_sessions(&mut self) -> Result<(), KernelError> {
        let counts = self.remove_expired()?;
        self.compare_sockets(&counts);
        self.follow_peers()?;
        self.follow_refresh()?;
        self.log_states()
    }

    /// Removes sessions that have served, and counts the others. Returns what the others had counted.
    fn remove_expired(&mut self) -> Result<HashMap<Quartet, SessionCount>, KernelError> {
        let now = Monotonic::now();
        let mut counts = HashMap::new();
        let ports = self.rules.ports.clone();
        let mut sockets = ListedOnce::with(&ports);
        let mut expired = Vec::new();
        let mut quota = Quota::default();
        for entry in self.dataplane.sessions() {
            let (quartet, session) = entry?;
            self.peer_keys.learn(&quartet, &session, &self.neighbors);
            if expiry(&session, now, || self.whereabouts(session.neighbor, &quartet, &mut sockets)) {
                expired.push((quartet, session));
            } else {
                counts.insert(quartet, SessionCount::of(&session));
                quota
                    .count(&quartet, &session, || self.whereabouts(session.neighbor, &quartet, &mut sockets));
            }
        }
        quota.sort();
        self.crowding.quota = quota;
        for (quartet, session) in expired {
            self.dataplane.remove_session(&quartet)?;
            self.tell_session(&quartet, &session, SessionState::Closed);
        }
        Ok(counts)
    }

    /// Where a quiet session's socket is; the sockets are listed once a round at most.
    fn whereabouts(&self, neighbor: u32, quartet: &Quartet, sockets: &mut ListedOnce<'_>) -> Whereabouts {
        match sockets.about(quartet) {
            Some(sockets) if sockets.have(quartet) => Whereabouts::Here,
            // Our address may stand for a container behind masquerade.
            Some(_) if self.neighbors.is_forwarded(neighbor, quartet) => Whereabouts::Forwarded,
            Some(_) => Whereabouts::Gone,
            // What is not known to be gone stays.
            None => Whereabouts::Here,
        }
    }

    /// Whether a session that looks open is one that no program uses any more: its peer vanished, or never answered
    /// its end.
    pub(super) fn is_ghost(
        &self,
        quartet: &Quartet,
        session: &Session,
        sockets: &mut ListedOnce<'_>,
    ) -> bool {
        let idle = Monotonic::now().since(Monotonic(session.last_segment));
        // A socket may come up at this very moment.
        (progress(session) == Progress::Closing || idle > SETTLED)
            && !self.neighbors.is_forwarded(session.neighbor, quartet)
            && sockets.about(quartet).is_some_and(|sockets| !sockets.serve(quartet))
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
            if *self.logged_states.get(&number).unwrap_or(&NeighborState::Idle) == diagnosis.state {
                continue;
            }
            let (peer, state) = (&neighbor.peer, diagnosis.state);
            // Of an established one the reason is about something else, which is logged by itself.
            match diagnosis.reason.filter(|_| state != NeighborState::Established) {
                Some(reason) if state == NeighborState::Unprotected => {
                    tracing::error!(neighbor = %peer, "{state}: {reason}")
                }
                Some(reason) if matches!(state, NeighborState::Failing | NeighborState::Closed) => {
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
