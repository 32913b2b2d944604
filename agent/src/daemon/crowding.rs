//! Room for new sessions: what has to make room, what is refused, and what operators are told of both.

use std::{collections::HashMap, time::Duration};

use tcpauth_common::layout::{Quartet, Session};

use super::Daemon;
use crate::{
    control::words::SessionState,
    kernel::KernelError,
    sessions::{Admission, Full, Holder, Monotonic, Quota},
};

/// The log has one line in this time for each neighbor, and the status tells of it for as long.
const STORY: Duration = Duration::from_secs(60);

/// The sessions counted, and what came of there being too many.
#[derive(Default)]
pub(super) struct Crowding {
    pub quota: Quota,
    /// By number of the neighbor.
    neighbors: HashMap<u32, Crowd>,
}

/// What became of one neighbor's sessions.
#[derive(Default)]
struct Crowd {
    /// Sessions that were removed to make room.
    displaced: u64,
    /// When the last one was.
    displaced_at: Option<Monotonic>,
    /// Why the last one that was refused was, and when.
    refused: Option<(Full, Monotonic)>,
    logged: Option<Monotonic>,
}

impl Crowding {
    /// Sessions of a neighbor that were removed to make room.
    pub fn displaced(&self, neighbor: u32) -> u64 {
        self.neighbors.get(&neighbor).map_or(0, |crowd| crowd.displaced)
    }

    /// What happened to a neighbor's sessions of late for want of room, for an operator.
    pub fn notices(&self, neighbor: u32, now: Monotonic) -> Vec<String> {
        let is_recent = |time: &Monotonic| now.since(*time) <= STORY;
        let Some(crowd) = self.neighbors.get(&neighbor) else { return Vec::new() };
        let displaced = crowd.displaced_at.filter(is_recent).map(|_| crowd.told());
        let refused = crowd.refused.filter(|(_, time)| is_recent(time));
        displaced
            .into_iter()
            .chain(refused.map(|(full, _)| format!("a new connection was refused: {full}")))
            .collect()
    }

    /// Forgets what was told of neighbors that are no longer configured.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.neighbors.retain(|number, _| keep(*number));
    }

    fn note_displaced(&mut self, neighbor: u32, peer: &str) {
        let crowd = self.neighbors.entry(neighbor).or_default();
        let now = Monotonic::now();
        crowd.displaced += 1;
        crowd.displaced_at = Some(now);
        if crowd.logged.is_none_or(|logged| now.since(logged) >= STORY) {
            crowd.logged = Some(now);
            tracing::warn!(neighbor = peer, "{}", crowd.told());
        }
    }
}

impl Crowd {
    fn told(&self) -> String {
        format!(
            "SYNs are sent faster than connections come up, and {} sessions without a connection were removed to make room: \
             find the program or container on this side that sends them (`tcpauth session show`)",
            self.displaced
        )
    }
}

impl Daemon {
    /// Whether a new session of `neighbor` may be put into the map. Makes room for it if need be.
    pub(super) fn make_room(&mut self, neighbor: u32) -> Result<bool, KernelError> {
        let is_host = self.neighbors.numbered(neighbor).is_none_or(|neighbor| neighbor.peer.is_host());
        let holder = if is_host { Holder::Address } else { Holder::Prefix };
        let dataplane = &self.dataplane;
        // An entry that cannot be read is left alone.
        let look = |quartet: &Quartet| dataplane.session(quartet).ok().flatten();
        match self.crowding.quota.admit(neighbor, holder, look) {
            Admission::Free => Ok(true),
            Admission::Instead { quartet, neighbor } => {
                if let Some(session) = self.dataplane.session(&quartet)? {
                    self.dataplane.remove_session(&quartet)?;
                    self.tell_session(&quartet, &session, SessionState::Closed);
                }
                let peer = self.neighbors.numbered(neighbor).map(|neighbor| neighbor.peer.to_string());
                self.crowding.note_displaced(neighbor, &peer.unwrap_or_default());
                Ok(true)
            }
            Admission::Refused(full) => {
                let crowd = self.crowding.neighbors.entry(neighbor).or_default();
                crowd.refused = Some((full, Monotonic::now()));
                Ok(false)
            }
        }
    }

    /// Puts a session into the map that was not there. Returns whether there was room.
    pub(super) fn add_session(&mut self, quartet: &Quartet, session: &Session) -> Result<bool, KernelError> {
        if !self.make_room(session.neighbor)? {
            return Ok(false);
        }
        self.dataplane.put_session(quartet, session)?;
        self.crowding.quota.count(quartet, session, || crate::sessions::Whereabouts::Here);
        Ok(true)
    }

    /// Removes a session from the map, if it is there.
    pub(super) fn drop_session(&mut self, quartet: &Quartet) -> Result<(), KernelError> {
        if let Some(session) = self.dataplane.session(quartet)? {
            self.dataplane.remove_session(quartet)?;
            self.crowding.quota.remove(session.neighbor);
        }
        Ok(())
    }
}
