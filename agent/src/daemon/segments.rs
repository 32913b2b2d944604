//! Held segments and drops, as the data plane reports them.

use jiff::Timestamp;
use tcpauth_common::{
    DropReason,
    layout::{Dropped, Held, Quartet, Session},
};

use super::{
    Daemon,
    drops::{Context, Drop, end, wall_clock},
    rules::change_keys,
};
use crate::{
    control::protocol::Event,
    kernel::Rekeyed,
    sessions::{Now, Outcome, on_held, progress},
};

impl Daemon {
    /// Finds the keys of a held segment and lets it go on, or drops it.
    pub(super) fn on_held(&mut self, held: &Held, frame: &[u8]) {
        self.held_segments += 1;
        // Rules may have changed since it was held.
        let owner = self.neighbors.owner(&held.quartet, &|name| self.interfaces.bound(name));
        let Some(neighbor) = owner.filter(|owner| owner.number == held.neighbor).map(|owner| owner.neighbor)
        else {
            tracing::debug!(
                number = held.neighbor,
                "a segment was held for a neighbour that is gone or changed"
            );
            return;
        };
        let existing = match self.dataplane.session(&held.quartet) {
            Ok(existing) => existing,
            Err(error) => {
                tracing::error!(neighbor = %neighbor.peer, "a held segment is lost: {error}");
                return;
            }
        };
        if let Some(existing) = &existing {
            self.peer_keys.learn(&held.quartet, existing, &self.neighbors);
        }
        let peer_uses = self.peer_keys.of(held.neighbor, &held.quartet.peer);
        match on_held(held, frame, neighbor, existing.as_ref(), peer_uses, Now::read()) {
            Outcome::Install(session) => {
                if let Err(error) = self.dataplane.put_session(&held.quartet, &session) {
                    tracing::error!(neighbor = %neighbor.peer, "a session has no keys: {error}");
                    return;
                }
                self.release(held, frame);
                let state = progress(&session);
                if existing.as_ref().map(progress) != Some(state) {
                    self.tell_session(&held.quartet, &session, state.name());
                }
            }
            Outcome::Change(mut change) => match change_keys(&mut self.dataplane, &mut change) {
                Ok(Rekeyed::Done) => self.release(held, frame),
                // TCP sends it again, and then it begins a session.
                Ok(Rekeyed::NoSession | Rekeyed::OtherConnection) => {
                    tracing::debug!(neighbor = %neighbor.peer, "a SYN was held for a session that is gone");
                }
                Err(error) => tracing::error!(neighbor = %neighbor.peer, "a SYN has no key: {error}"),
            },
            Outcome::Release => self.release(held, frame),
            Outcome::Refuse(reason) => {
                let drop = Drop::of_held(held, frame, reason);
                self.drops.count_own(&drop);
                self.record_drop(&drop);
            }
        }
    }

    /// Remembers and tells what a program dropped.
    pub(super) fn on_dropped(&mut self, dropped: &Dropped) {
        match Drop::by_program(dropped) {
            Some(drop) => self.record_drop(&drop),
            None => tracing::error!(reason = dropped.reason, "a drop for a reason unknown to this version"),
        }
    }

    /// Tells followers of a session.
    pub(super) fn tell_session(&self, quartet: &Quartet, session: &Session, state: &str) {
        let neighbor = self.neighbors.numbered(session.neighbor);
        let neighbor = neighbor.map_or_else(String::new, |neighbor| neighbor.peer.to_string());
        let local = end(quartet.local, quartet.local_port);
        let session = format!("{local} > {}", end(quartet.peer, quartet.peer_port));
        tracing::debug!(neighbor, session, state, "session");
        // Nobody may be following.
        let _ = self.events.send(Event::Session {
            time: wall_clock(),
            neighbor,
            session,
            state: state.to_owned(),
        });
    }

    fn record_drop(&mut self, drop: &Drop) {
        let Some(neighbor) = self.neighbors.numbered(drop.neighbor) else { return };
        let counters = self.dataplane.counters(drop.neighbor).ok().flatten().unwrap_or_default();
        let context = Context {
            peer: &neighbor.peer.to_string(),
            recv_id: neighbor.keys.foremost(Timestamp::now()).mkt.recv_id.0,
            verified: counters.passed.verified_segments,
            interface: &self.interfaces.name(drop.ifindex),
        };
        self.drops.record(drop, &context);
    }

    fn release(&self, held: &Held, frame: &[u8]) {
        if let Err(error) = self.dataplane.release(held, frame) {
            // TCP sends it again, and then the session is there.
            tracing::warn!(reason = DropReason::Overload.name(), "{error}");
        }
    }
}
