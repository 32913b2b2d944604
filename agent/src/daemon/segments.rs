//! Held segments and drops, as the data plane reports them.

use jiff::Timestamp;
use tcpauth_common::{
    DropReason,
    layout::{Dropped, Held, Quartet, Session},
};

use super::{
    Daemon,
    drops::{Context, Drop, session_name, wall_clock},
    interfaces::Interfaces,
    kmp::{KmpPeer, Route, route},
    neighbors::Neighbors,
    rules::change_keys,
};
use crate::{
    config::Neighbor,
    control::{protocol::Event, words::SessionState},
    kernel::{KernelError, Rekeyed},
    keys::Role,
    sessions::{Now, Outcome, on_held, progress},
};

impl Daemon {
    /// Finds the keys of a held segment and lets it go on, or drops it.
    pub(super) fn on_held(&mut self, held: &Held, frame: &[u8]) {
        self.held_segments += 1;
        if held.verified != 0 {
            return self.on_layered_segment(held, frame);
        }
        let Ok(existing) = self.session_of(held) else { return };
        let Some(existing) = self.admit_layered(held, frame, existing) else { return };
        let Some(neighbor) = neighbor_of(held, &self.neighbors, &self.interfaces) else { return };
        let is_hopeless = self.kmp.channels.is_hopeless(KmpPeer::of(held.neighbor, &held.quartet));
        let associations = &self.kmp.associations;
        let route = route(held, frame, neighbor, existing.as_ref(), associations, is_hopeless);
        self.take(held, frame, route, existing);
    }

    /// As [`Self::on_held`], with keys from where `route` says.
    pub(super) fn take_held(&mut self, held: &Held, frame: &[u8], route: Route) {
        if let Ok(existing) = self.session_of(held) {
            self.take(held, frame, route, existing);
        }
    }

    /// The same for a segment whose session is `existing`, if it has one.
    fn take(&mut self, held: &Held, frame: &[u8], route: Route, existing: Option<Session>) {
        let Some(neighbor) = neighbor_of(held, &self.neighbors, &self.interfaces) else { return };
        let peer_uses = self.peer_keys.of(held.neighbor, &held.quartet.peer);
        let (neighbor, peer_uses) = match &route {
            Route::Chain => (neighbor, peer_uses),
            Route::Fallback => (neighbor, peer_uses),
            Route::Agreed(_, neighbor) => (&**neighbor, None),
            Route::Wait => return self.wait_for_keys(held, frame, held.neighbor),
            Route::Refuse(reason) => return self.refuse(held, frame, *reason),
            Route::Lost => {
                self.remove_half_open(&held.quartet);
                return self.refuse(held, frame, DropReason::NoKey);
            }
        };
        let outcome = on_held(held, frame, neighbor, existing.as_ref(), peer_uses, Now::read());
        let is_taken = matches!(outcome, Outcome::Install(_) | Outcome::Change(_));
        match outcome {
            Outcome::Install(mut session) => {
                match &route {
                    Route::Agreed(..) => session.flags |= Session::AGREED,
                    // What it had before may have been agreed.
                    _ => session.flags &= !Session::AGREED,
                }
                session.phase = self.layered_phase(held, frame, &session);
                let role = (session.phase == Session::HANDSHAKE).then(|| Role::of(&session));
                let peer = neighbor.peer.clone();
                let put = match &existing {
                    Some(_) => self.dataplane.put_session(&held.quartet, &session).map(|()| true),
                    None => self.add_session(&held.quartet, &session),
                };
                match put {
                    Ok(true) => {}
                    Ok(false) => return self.refuse(held, frame, DropReason::TooManySessions),
                    Err(error) => {
                        tracing::error!(neighbor = %peer, "a session has no keys: {error}");
                        return;
                    }
                }
                if role != Some(Role::Client) {
                    self.release(held, frame);
                }
                self.paths.note_begun(held);
                match &route {
                    Route::Agreed(begun, _) => self.on_agreed_installed(begun),
                    Route::Fallback => self.on_fallback(&held.quartet, &session),
                    _ => {}
                }
                let state = progress(&session);
                if existing.as_ref().map(progress) != Some(state) {
                    self.tell_session(&held.quartet, &session, state.name().into());
                }
                match role {
                    Some(role) => self.begin_layered(held, frame, &session, role),
                    None => self.note_opening(held, frame),
                }
            }
            Outcome::Change(mut change) => {
                let peer = neighbor.peer.clone();
                match change_keys(&mut self.dataplane, &mut change) {
                    // In the way of a connection that begins was an old SYN; TCP sends this one again.
                    Ok(Rekeyed::Done) if self.give_up_awaited(&held.quartet) => {}
                    Ok(Rekeyed::Done) => self.release(held, frame),
                    // TCP sends it again, and then it begins a session.
                    Ok(Rekeyed::NoSession | Rekeyed::OtherConnection) => {
                        tracing::debug!(neighbor = %peer, "a SYN was held for a session that is gone");
                    }
                    Err(error) => tracing::error!(neighbor = %peer, "a SYN has no key: {error}"),
                }
            }
            Outcome::Release => self.release(held, frame),
            Outcome::Refuse(reason) => self.refuse(held, frame, reason),
        }
        if is_taken && matches!(route, Route::Fallback) {
            self.on_withdrawn(held, frame);
        }
    }

    /// The session that a held segment is of, if there is one; `Err` if nobody can tell.
    fn session_of(&mut self, held: &Held) -> Result<Option<Session>, KernelError> {
        let existing = self.dataplane.session(&held.quartet).inspect_err(|error| {
            tracing::error!(number = held.neighbor, "a held segment is lost: {error}");
        })?;
        if let Some(existing) = &existing {
            self.peer_keys.learn(&held.quartet, existing, &self.neighbors);
        }
        Ok(existing)
    }

    /// Remembers and tells what a program dropped.
    pub(super) fn on_dropped(&mut self, dropped: &Dropped) {
        match Drop::by_program(dropped) {
            Some(drop) => self.record_drop(&drop),
            None => tracing::error!(reason = dropped.reason, "a drop for a reason unknown to this version"),
        }
    }

    /// Tells followers of a session.
    pub(super) fn tell_session(&self, quartet: &Quartet, session: &Session, state: SessionState) {
        let neighbor = self.neighbors.numbered(session.neighbor);
        let neighbor = neighbor.map_or_else(String::new, |neighbor| neighbor.peer.to_string());
        let session = session_name(quartet);
        tracing::debug!(neighbor, session, %state, "session");
        // Nobody may be following.
        let _ = self.events.send(Event::Session { time: wall_clock(), neighbor, session, state });
    }

    pub(super) fn record_drop(&mut self, drop: &Drop) {
        let Some(neighbor) = self.neighbors.numbered(drop.neighbor) else { return };
        let counters = self.dataplane.counters(drop.neighbor).ok().flatten().unwrap_or_default();
        let mkt = &neighbor.keys.foremost(Timestamp::now()).mkt;
        let context = Context {
            peer: &neighbor.peer.to_string(),
            recv_id: mkt.recv_id.0,
            wire: neighbor.wire,
            covers_options: !mkt.excludes_options(),
            verified: counters.passed.verified_segments,
            interface: &self.interfaces.name(drop.ifindex),
        };
        self.drops.record(drop, &context);
    }

    pub(super) fn release(&self, held: &Held, frame: &[u8]) {
        if let Err(error) = self.dataplane.release(held, frame) {
            // TCP sends it again, and then the session is there.
            tracing::warn!(reason = DropReason::Overload.name(), "{error}");
        }
    }
}

/// Whose a held segment is. Rules may have changed since it was held.
fn neighbor_of<'a>(held: &Held, neighbors: &'a Neighbors, interfaces: &Interfaces) -> Option<&'a Neighbor> {
    let owner = neighbors.owner(&held.quartet, &|name| interfaces.bound(name));
    let owner = owner.filter(|owner| owner.number == held.neighbor);
    if owner.is_none() {
        tracing::debug!(number = held.neighbor, "a segment was held for a neighbour that is gone or changed");
    }
    owner.map(|owner| owner.neighbor)
}
