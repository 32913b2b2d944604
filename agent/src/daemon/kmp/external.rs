//! Keys that are agreed on a channel before a connection's SYN leaves (`key-management = "external"`).
//!
//! ```text
//! our SYN is held ─► Offer ─► the peer's daemon: association, Accept
//!                            ─► association, Confirm; the SYN goes on, under the agreed key
//! the peer's SYN is held ─► verified with the association's key; and so on, as with a key chain of that one key
//! ```

use std::time::{Duration, Instant};

use tcpauth_common::{
    DropReason, KeyId,
    key_choice::flag::{ACK, SYN},
    layout::{Direction, Held, Quartet, Session},
};

use super::{
    super::{
        Daemon,
        drops::{Drop, session_name},
    },
    KmpPeer,
    associations::{Begun, Waiting},
    channel::ChannelId,
    offers::NoChannel,
    route::{Route, falls_back, has_fallen_back, is_agreed, is_channel},
};
use crate::{
    config::KeyManagement,
    control::words::KmpChange,
    keys::Role,
    kmp::{Agreed, Connection, Refusal},
    sessions::{self, Monotonic, Progress, Segment, free_key_id_beside, progress},
};

impl Daemon {
    /// Has a SYN of ours wait until its keys are agreed, and asks for them.
    pub(in super::super) fn wait_for_keys(&mut self, held: &Held, frame: &[u8], neighbor: u32) {
        let now = Instant::now();
        let peer = KmpPeer::of(neighbor, &held.quartet);
        let Ok(segment) = Segment::parse(held, frame) else { return };
        let waiting = Waiting { held: *held, frame: frame.to_vec(), isn: segment.isn(), peer, offer: None };
        if !self.kmp.associations.wait(waiting, now) {
            self.refuse(held, frame, DropReason::Overload);
            return;
        }
        self.show_peer(peer);
        match self.kmp.channels.active(peer) {
            Some(channel) => self.offer_keys(channel, &held.quartet),
            None => self.kmp.channels.dial(peer, now),
        }
    }

    /// Gives up what has waited for too long.
    pub(super) fn on_external_time(&mut self, now: Instant) {
        while let Some(waiting) = self.kmp.associations.take_overdue(now) {
            let reason = match self.kmp.channels.active(waiting.peer) {
                Some(_) => {
                    // Perhaps nobody is at the other end of the channel any more.
                    self.kmp.channels.dial(waiting.peer, now);
                    "the peer's daemon did not answer in time"
                }
                None => "there was no channel to the peer's daemon in time",
            };
            self.without_keys(waiting, reason);
        }
    }

    /// What nobody uses is forgotten, and so are connections that the peer's daemon cannot know any more.
    pub(in super::super) fn tidy_associations(&mut self) {
        let neighbors = &self.neighbors;
        self.kmp.associations.expire(Instant::now(), |peer| neighbors.numbered(peer.neighbor).is_some());
        for peer in self.kmp.associations.peers() {
            self.begin_anew(peer);
        }
    }

    /// A connection has keys of the chain, as none were agreed.
    pub(in super::super) fn on_fallback(&mut self, quartet: &Quartet, session: &Session) {
        // Once for each connection.
        if progress(session) != Progress::Established {
            return;
        }
        let text =
            format!("{} has keys derived from the password, without forward secrecy", session_name(quartet));
        tracing::warn!(number = session.neighbor, "fallback: {text}");
        self.tell_kmp(session.neighbor, KmpChange::Fallback, text);
    }

    /// A SYN of the peer verified with a key of the chain: keys that were agreed for it before are withdrawn.
    pub(in super::super) fn on_withdrawn(&mut self, held: &Held, frame: &[u8]) {
        let Ok(segment) = Segment::parse(held, frame) else { return };
        if held.direction == Direction::Inbound as u8 && segment.flags() & (SYN | ACK) == SYN {
            let begun = Begun { quartet: held.quartet, client_isn: segment.isn().0 };
            self.kmp.associations.remove(&begun);
        }
    }

    /// Forgets keys that were agreed with neighbours that are others now: by a secret that may be another.
    pub(in super::super) fn forget_agreed(&mut self, is_changed: impl Fn(u32) -> bool) {
        self.kmp.associations.expire(Instant::now(), |peer| !is_changed(peer.neighbor));
    }

    /// Keys of a connection came into its session.
    pub(in super::super) fn on_agreed_installed(&mut self, begun: &Begun) {
        self.kmp.associations.used(begun, Instant::now());
    }

    /// A channel is up: what waits is offered on it.
    pub(super) fn on_external_channel(&mut self, channel: ChannelId, peer: KmpPeer) {
        self.begin_anew(peer);
        for quartet in self.kmp.associations.waiting_for(peer) {
            self.offer_keys(channel, &quartet);
        }
    }

    /// A channel is gone: what was offered on it is offered on the next, or on the one that takes its place.
    pub(super) fn on_external_channel_gone(&mut self, channel: ChannelId, peer: KmpPeer) {
        self.kmp.associations.forget_offers(peer, channel);
        let waiting = self.kmp.associations.waiting_for(peer);
        match self.kmp.channels.active(peer) {
            Some(other) => waiting.iter().for_each(|quartet| self.offer_keys(other, quartet)),
            None if waiting.is_empty() => {}
            None => self.kmp.channels.dial(peer, Instant::now()),
        }
    }

    /// The peer opens a connection, and offers to agree on its keys.
    pub(super) fn on_external_offered(
        &mut self,
        channel: ChannelId,
        peer: KmpPeer,
        offer: u32,
        connection: Connection,
        role: Role,
    ) {
        // Then the channel is gone, and the peer offers again on the next.
        let _ = match self.answer_to(peer, &connection, role) {
            Ok(begun) => self.accept_offer(channel, peer, offer, begun),
            Err(Refusal::Mismatch) => {
                tracing::debug!(?connection, "the peer fell back before its offer of keys came");
                self.kmp.channels.refuse(channel, offer, Refusal::Mismatch)
            }
            Err(reason) => {
                // A peer may offer a thousand a second.
                if self.kmp.channels.is_news(peer, Instant::now()) {
                    tracing::warn!(peer = %sessions::address(peer.address), ?connection, "an offer of keys is refused: {reason}");
                }
                self.kmp.channels.refuse(channel, offer, reason)
            }
        };
    }

    /// The peer accepted our offer: the SYN goes on.
    pub(super) fn on_external_accepted(
        &mut self,
        channel: ChannelId,
        peer: KmpPeer,
        offer: u32,
        agreed: Agreed,
    ) {
        let Some(begun) = self.begun(peer, &agreed.connection, agreed.role) else { return };
        if self.is_by_chain(&begun) {
            // Too late: the SYN left under a key of the chain, from which the peer sees that our offer is withdrawn.
            return;
        }
        if self.kmp.channels.confirm(channel, offer).is_err() {
            return;
        }
        self.log_key(&agreed);
        self.tell_agreed(peer.neighbor, &agreed);
        self.kmp.associations.insert(begun, peer, channel, agreed, Instant::now());
        let waiting = self.kmp.associations.waiting(&begun.quartet);
        if waiting.is_some_and(|waiting| waiting.isn.0 == begun.client_isn)
            && let Some(waiting) = self.kmp.associations.take_waiting(&begun.quartet)
        {
            self.on_held(&waiting.held, &waiting.frame);
        }
    }

    /// The peer does not agree.
    pub(super) fn on_external_refused(
        &mut self,
        channel: ChannelId,
        peer: KmpPeer,
        offer: u32,
        reason: Refusal,
    ) {
        let refused = (self.kmp.associations.waiting_for(peer).into_iter()).find(|quartet| {
            let waiting = self.kmp.associations.waiting(quartet);
            waiting.is_some_and(|waiting| waiting.offer == Some((channel, offer)))
        });
        let Some(waiting) = refused.and_then(|quartet| self.kmp.associations.take_waiting(&quartet)) else {
            return;
        };
        if reason == Refusal::Collision {
            // The peer's SYN of the same connection comes, and our end answers that one.
            return;
        }
        let reason = format!("the peer's daemon refuses to agree on keys: {reason}");
        self.without_keys(waiting, &reason);
    }

    fn accept_offer(
        &mut self,
        channel: ChannelId,
        peer: KmpPeer,
        offer: u32,
        begun: Begun,
    ) -> Result<(), NoChannel> {
        let existing = self.dataplane.session(&begun.quartet).ok().flatten();
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return Ok(()) };
        let recv_id = free_key_id_beside(existing.as_ref(), &neighbor.keys, &self.agreed_ids(&begun.quartet));
        let Some(agreed) = self.kmp.channels.accept(channel, offer, recv_id)? else { return Ok(()) };
        self.log_key(&agreed);
        self.tell_agreed(peer.neighbor, &agreed);
        if existing.is_some_and(|session| is_unheard(&session, begun.client_isn)) {
            // The SYN comes again, under the new key.
            self.remove_half_open(&begun.quartet);
        }
        self.kmp.associations.insert(begun, peer, channel, agreed, Instant::now());
        Ok(())
    }

    /// The connection that the peer offers keys of.
    ///
    /// # Errors
    /// Why they are refused.
    fn answer_to(&self, peer: KmpPeer, connection: &Connection, role: Role) -> Result<Begun, Refusal> {
        let begun = self.begun(peer, connection, role).ok_or(Refusal::UnknownConnection)?;
        // Of a connection that begins, its client asks.
        if role != Role::Server {
            return Err(Refusal::UnknownConnection);
        }
        if self.is_by_chain(&begun) {
            // The peer waited no longer, and withdrew its offer by a SYN under a key of the chain.
            return Err(Refusal::Mismatch);
        }
        let is_known = self.kmp.associations.of(&begun).is_some();
        if !is_known && !self.kmp.associations.has_room(peer) {
            return Err(Refusal::Busy);
        }
        Ok(begun)
    }

    /// The connection, if it may be one with `peer` of which keys are agreed here.
    fn begun(&self, peer: KmpPeer, connection: &Connection, role: Role) -> Option<Begun> {
        let index_of = |name: &str| self.interfaces.bound(name);
        let neighbor = self.neighbors.numbered(peer.neighbor)?;
        let scope = neighbor.peer.interface.as_deref().map_or(Some(0), index_of)?;
        let begun = Begun::new(connection, role, scope);
        let owner = self.neighbors.owner(&begun.quartet, &index_of)?;
        let is_theirs = owner.number == peer.neighbor && begun.quartet.peer == peer.address;
        let is_external = neighbor.key_management == KeyManagement::External;
        (is_theirs && is_external && !is_channel(neighbor, &begun.quartet)).then_some(begun)
    }

    /// Whether a connection has fallen back to keys of the chain: agreed ones would be of no use to it any more.
    fn is_by_chain(&self, begun: &Begun) -> bool {
        let session = self.dataplane.session(&begun.quartet).ok().flatten();
        let Some(owner) = session.and_then(|session| self.neighbors.numbered(session.neighbor)) else {
            return false;
        };
        session.is_some_and(|session| falls_back(owner) && has_fallen_back(&session, begun.client_isn, owner))
    }

    /// Offers to agree on the keys of a SYN that waits, unless that was done.
    fn offer_keys(&mut self, channel: ChannelId, quartet: &Quartet) {
        let existing = self.dataplane.session(quartet).ok().flatten();
        let others = self.agreed_ids(quartet);
        let Some(waiting) = self.kmp.associations.waiting(quartet).filter(|one| one.offer.is_none()) else {
            return;
        };
        let Some(neighbor) = self.neighbors.numbered(waiting.peer.neighbor) else { return };
        let recv_id = free_key_id_beside(existing.as_ref(), &neighbor.keys, &others);
        let Some(connection) = Connection::new(quartet, Role::Client, Some(waiting.isn), None) else {
            return;
        };
        // If the channel is gone, the next one takes it up.
        if let Ok(offer) = self.kmp.channels.offer(channel, connection, Role::Client, recv_id) {
            waiting.offer = Some((channel, offer));
        }
    }

    /// KeyIDs of segments to us under what was agreed for connections with these ends.
    fn agreed_ids(&self, quartet: &Quartet) -> Vec<KeyId> {
        self.kmp.associations.of_quartet(quartet).map(|one| one.mkt.recv_id).collect()
    }

    /// No keys could be agreed for a SYN of ours.
    fn without_keys(&mut self, waiting: Waiting, reason: &str) {
        let Some(neighbor) = self.neighbors.numbered(waiting.peer.neighbor) else { return };
        let (falls_back, peer) = (falls_back(neighbor), neighbor.peer.to_string());
        let ends = session_name(&waiting.held.quartet);
        // BGP daemons try again every few seconds.
        let is_news = self.kmp.channels.is_news(waiting.peer, Instant::now());
        match is_news {
            true if falls_back => tracing::warn!(
                neighbor = peer,
                connection = ends,
                "falls back to keys derived from the password, without forward secrecy: {reason}"
            ),
            true => {
                tracing::warn!(neighbor = peer, connection = ends, "a new connection has no keys: {reason}")
            }
            false => tracing::debug!(neighbor = peer, connection = ends, falls_back, "no keys: {reason}"),
        }
        self.kmp.known.failed(waiting.peer.neighbor, reason, Monotonic::now(), None);
        self.tell_kmp(waiting.peer.neighbor, KmpChange::Failed, format!("{ends}: {reason}"));
        if falls_back {
            self.kmp.channels.give_up(waiting.peer);
            self.take_held(&waiting.held, &waiting.frame, Route::Fallback);
        } else {
            self.refuse(&waiting.held, &waiting.frame, DropReason::NoKey);
        }
    }

    /// Removes half-open sessions with `peer` whose keys were agreed on a channel that is no more, and which it has not
    /// answered: perhaps its daemon knows nothing of them any more. TCP sends the SYN again, and new keys are agreed.
    fn begin_anew(&mut self, peer: KmpPeer) {
        let Some(active) = self.kmp.channels.active(peer) else { return };
        let suspects = self.kmp.associations.with(peer).filter(|(_, one)| {
            one.channel != active && one.role == Role::Client && one.agreed.elapsed() > ANSWER_LIMIT
        });
        let suspects: Vec<Begun> = suspects.map(|(begun, _)| *begun).collect();
        for begun in suspects {
            let session = self.dataplane.session(&begun.quartet).ok().flatten();
            let is_unanswered = session.is_some_and(|session| {
                progress(&session) == Progress::SynSent && session.local_isn.0 == begun.client_isn
            });
            if is_unanswered {
                self.remove_half_open(&begun.quartet);
                self.kmp.associations.remove(&begun);
            }
        }
    }

    /// Removes sessions whose keys were to come from associations that an earlier daemon had.
    pub(in super::super) fn forget_half_open(&mut self) {
        let lost: Vec<Quartet> = (self.dataplane.sessions().filter_map(Result::ok))
            .filter(|(_, session)| is_agreed(session) && progress(session) != Progress::Closed)
            .filter(|(_, session)| session.flags & Session::BOTH_ISNS != Session::BOTH_ISNS)
            .map(|(quartet, _)| quartet)
            .collect();
        lost.iter().for_each(|quartet| self.remove_half_open(quartet));
    }

    pub(in super::super) fn remove_half_open(&mut self, quartet: &Quartet) {
        if let Err(error) = self.drop_session(quartet) {
            tracing::error!("a half-open session could not be removed: {error}");
        }
    }

    /// Counts and tells a held segment that is dropped.
    pub(in super::super) fn refuse(&mut self, held: &Held, frame: &[u8], reason: DropReason) {
        let drop = Drop::of_held(held, frame, reason);
        self.drops.count_own(&drop);
        self.record_drop(&drop);
    }
}

/// A SYN that was not answered for so long may have met a daemon that does not know its key.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Whether nothing but the peer's SYN with this ISN was heard in `session`.
fn is_unheard(session: &Session, client_isn: u32) -> bool {
    session.flags & Session::PEER_ISN != 0
        && session.peer_isn.0 == client_isn
        && session.recv_seq == u64::from(client_isn)
}
