//! Offers of new keys for sessions that are up: ours, and the peer's.

use std::time::Duration;

use tcpauth_common::layout::{Quartet, Session};

use super::due::may_have_agreed_keys;
use crate::{
    control::words::KmpChange,
    daemon::{
        Daemon,
        drops::session_name,
        kmp::{ChannelId, KmpPeer, dial::jitter},
        rules::change_keys,
    },
    kernel::Rekeyed,
    keys::Role,
    kmp::{Agreed, Connection, Refusal},
    sessions::{Monotonic, free_key_id, roll_in},
};

/// A session that the peer does not know is not offered to it again for so long.
const UNKNOWN: Duration = Duration::from_secs(30);
/// The peer began with the same session, or has too much to do.
const PAUSE: Duration = Duration::from_secs(3);
const NO_COMMON_ALGORITHM: &str =
    "no MAC algorithm is common to both daemons: compare `algorithms` on the two sides";

impl Daemon {
    /// The peer offers to agree on keys of a session that is up.
    pub(in crate::daemon::kmp) fn on_refresh_offered(
        &mut self,
        channel: ChannelId,
        peer: KmpPeer,
        id: u32,
        connection: Connection,
        role: Role,
    ) {
        let Some((quartet, session)) = self.offered_session(peer, &connection, role) else {
            tracing::debug!("a neighbour offers new keys for a connection that it has not");
            let _ = self.kmp.channels.refuse(channel, id, Refusal::UnknownConnection);
            return;
        };
        let refresh = &mut self.kmp.refresh;
        if refresh.planner.is_offered(peer, &quartet) {
            // Each end began, on a channel of its own: the offer of the lower one goes on, as on one channel.
            if quartet.is_lower() {
                let _ = self.kmp.channels.refuse(channel, id, Refusal::Collision);
                return;
            }
            refresh.planner.overtaken(peer, &quartet);
        }
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return };
        let recv_id = free_key_id(Some(&session), &neighbor.keys);
        match self.kmp.channels.accept(channel, id, recv_id) {
            Ok(Some(agreed)) => {
                self.log_key(&agreed);
                self.kmp.refresh.accept(channel, id, quartet, agreed);
            }
            Ok(None) => self.refresh_failed(peer, NO_COMMON_ALGORITHM.to_owned()),
            // What was under way on it is forgotten when it is closed.
            Err(_) => {}
        }
        self.offer_sessions(peer);
    }

    /// The peer accepted our offer, and has the keys.
    pub(in crate::daemon::kmp) fn on_refresh_accepted(
        &mut self,
        channel: ChannelId,
        peer: KmpPeer,
        id: u32,
        agreed: Agreed,
    ) {
        if self.kmp.refresh.planner.session_of(peer, channel, id).is_none() {
            // Overtaken by an offer of the peer.
            return;
        }
        if self.kmp.channels.confirm(channel, id).is_ok() {
            self.log_key(&agreed);
            self.kmp.refresh.ours.insert((channel, id), agreed);
        }
    }

    /// The peer has the keys of its offer that we accepted: they go into the session.
    pub(in crate::daemon::kmp) fn on_refresh_confirmed(
        &mut self,
        channel: ChannelId,
        peer: KmpPeer,
        id: u32,
    ) {
        let Some((quartet, agreed)) = self.kmp.refresh.take_accepted(channel, id) else {
            let _ = self.kmp.channels.refuse(channel, id, Refusal::Collision);
            return;
        };
        let answered = if self.give_new_keys(peer, &quartet, &agreed) {
            self.kmp.channels.done(channel, id)
        } else {
            self.kmp.channels.refuse(channel, id, Refusal::UnknownConnection)
        };
        // Without the answer the peer tries again, with other keys.
        let _ = answered;
    }

    /// The peer uses the keys of our offer.
    pub(in crate::daemon::kmp) fn on_refresh_done(&mut self, channel: ChannelId, peer: KmpPeer, id: u32) {
        let agreed = self.kmp.refresh.ours.remove(&(channel, id));
        let quartet = self.kmp.refresh.planner.session_of(peer, channel, id);
        let mut pause = Duration::ZERO;
        if let (Some(agreed), Some(quartet)) = (agreed, quartet)
            && !self.give_new_keys(peer, &quartet, &agreed)
        {
            pause = UNKNOWN;
        }
        self.kmp.refresh.planner.answered(peer, id, Monotonic::now(), pause);
        self.offer_sessions(peer);
    }

    /// The peer refuses our offer.
    pub(in crate::daemon::kmp) fn on_refresh_refused(
        &mut self,
        channel: ChannelId,
        peer: KmpPeer,
        id: u32,
        reason: Refusal,
    ) {
        self.kmp.refresh.ours.remove(&(channel, id));
        let Some(quartet) = self.kmp.refresh.planner.session_of(peer, channel, id) else { return };
        let now = Monotonic::now();
        match reason {
            Refusal::Collision | Refusal::Busy => self.kmp.refresh.planner.answered(peer, id, now, PAUSE),
            Refusal::UnknownConnection => {
                self.kmp.refresh.planner.answered(peer, id, now, UNKNOWN);
                let text = format!(
                    "the peer's daemon has no session {}: is it closed there, not protected, or is NAT between?",
                    session_name(&quartet)
                );
                self.kmp.refresh.planner.note(peer, text, now);
            }
            Refusal::NoCommonAlgorithm => self.refresh_failed(peer, NO_COMMON_ALGORITHM.to_owned()),
            Refusal::Mismatch => {
                self.refresh_failed(
                    peer,
                    "the two daemons did not come to the same keys: report this as a fault".to_owned(),
                );
            }
        }
        self.offer_sessions(peer);
    }

    /// Offers keys of sessions that are due on the channel that is up for it.
    pub(super) fn offer_sessions(&mut self, peer: KmpPeer) {
        while let Some((channel, quartet)) = self.kmp.refresh.planner.next_offer(peer) {
            let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { continue };
            let Ok(Some(session)) = self.dataplane.session(&quartet) else { continue };
            if !may_have_agreed_keys(&session, &quartet, neighbor) {
                continue;
            }
            let role = Role::of(&session);
            let isns = (Some(session.local_isn), Some(session.peer_isn));
            let Some(connection) = Connection::new(&quartet, role, isns.0, isns.1) else { continue };
            let recv_id = free_key_id(Some(&session), &neighbor.keys);
            match self.kmp.channels.offer(channel, connection, role, recv_id) {
                Ok(id) => self.kmp.refresh.planner.offered(peer, id, quartet),
                // It is closed soon, and what is due is tried again then.
                Err(_) => return,
            }
        }
        self.kmp.refresh.planner.end_if_done(peer);
    }

    /// The session that the peer offers keys of, if it is one of its sessions and may have them.
    fn offered_session(
        &self,
        peer: KmpPeer,
        connection: &Connection,
        role: Role,
    ) -> Option<(Quartet, Session)> {
        let neighbor = self.neighbors.numbered(peer.neighbor)?;
        let isns = match role {
            Role::Client => (Some(connection.client_isn), connection.server_isn),
            Role::Server => (connection.server_isn, Some(connection.client_isn)),
        };
        let bound = |name: &str| self.interfaces.bound(name);
        let scope = neighbor.peer.interface.as_deref().map_or(Some(0), bound)?;
        let quartet = connection.quartet(role, scope);
        let session = self.dataplane.session(&quartet).ok().flatten()?;
        let is_it = KmpPeer::of(session.neighbor, &quartet) == peer
            && (Some(session.local_isn), Some(session.peer_isn)) == isns
            && Role::of(&session) == role
            && may_have_agreed_keys(&session, &quartet, neighbor);
        is_it.then_some((quartet, session))
    }

    /// Brings agreed keys into a session that is up. Whether it has them.
    fn give_new_keys(&mut self, peer: KmpPeer, quartet: &Quartet, agreed: &Agreed) -> bool {
        let Some((found, session)) = self.offered_session(peer, &agreed.connection, agreed.role) else {
            return false;
        };
        if found != *quartet {
            return false;
        }
        let slot = agreed.mkt.traffic_slot(quartet, session.local_isn, session.peer_isn, agreed.role);
        let mut change = roll_in(&session, quartet, slot, false);
        match change_keys(&mut self.dataplane, &mut change) {
            Ok(Rekeyed::Done) => {}
            Ok(Rekeyed::NoSession | Rekeyed::OtherConnection) => return false,
            Err(error) => {
                tracing::error!("a session does not get its new keys: {error}");
                return false;
            }
        }
        let now = Monotonic::now();
        self.kmp.refresh.planner.refreshed(quartet, now, jitter());
        self.kmp.refresh.settle_later(quartet, now);
        let text = format!("{} has new keys, {}", session_name(quartet), agreed.mkt.algorithm.name());
        tracing::debug!(session = session_name(quartet), algorithm = agreed.mkt.algorithm.name(), "new keys");
        self.tell_kmp(peer.neighbor, KmpChange::Refreshed, text);
        true
    }
}
