//! New keys for sessions that are up: by a TLS connection that is new, so that who learns older keys, or all that was
//! ever said on an older channel, does not have them.
//!
//! `planner` decides which sessions are due and when a channel is opened for them. Here that is done: the sessions are
//! offered, and keys that were agreed come into them as any new key does (RFC 5925, 6.1): the newest, asked for by
//! RNextKeyID, and older ones are forgotten soon after both ends have moved.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use planner::{Limits, Planner, Seen};
use tcpauth_common::{
    Algorithm,
    layout::{Quartet, Session},
    rollover::slot_at,
};

use super::{super::Daemon, ChannelId, KmpPeer, is_channel};
use crate::{
    config::{Kmp, Neighbor, Wire},
    kernel::{KernelError, Rekeyed, mapped},
    keys::Role,
    kmp::{Agreed, Connection, Refusal},
    sessions::{self, Monotonic, Progress, free_key_id, progress, roll_in},
};

use super::super::{
    configuration::{no_neighbor, same_peer},
    drops::session_name,
    neighbors::Neighbors,
    rules::change_keys,
};

mod planner;

/// From when both ends use their newest keys to when the older ones are forgotten: what is under way arrives.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two looks at sessions that have older keys.
const SETTLE_LOOK: Duration = Duration::from_secs(1);
/// A session that the peer does not know is not offered to it again for so long.
const UNKNOWN: Duration = Duration::from_secs(30);
/// The peer began with the same session, or has too much to do.
const PAUSE: Duration = Duration::from_secs(3);

/// What is under way. Holds secrets: no `Debug`.
#[derive(Default)]
pub(in super::super) struct Refresh {
    planner: Planner,
    /// Keys of our offers that the peer accepted, until it says that it uses them.
    ours: HashMap<(ChannelId, u32), Agreed>,
    /// Keys of the peer's offers that we accepted, until it confirms that it has them; one for each session.
    theirs: HashMap<(ChannelId, u32), (Quartet, Agreed)>,
    accepted: HashMap<Quartet, (ChannelId, u32)>,
    /// Sessions with older keys.
    settling: BTreeSet<Quartet>,
    settle_at: Option<Monotonic>,
}

impl Refresh {
    /// When [`Daemon::on_refresh_time`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let at = [self.planner.next_due(), self.settle_at].into_iter().flatten().min()?;
        Some(Instant::now() + at.since(Monotonic::now()))
    }

    /// Whether a session waits for new keys.
    pub(in super::super) fn is_due(&self, quartet: &Quartet) -> bool {
        self.planner.is_due(quartet)
    }

    /// What there is to say of a neighbour.
    pub(super) fn report(&self, neighbor: u32) -> planner::Report<'_> {
        self.planner.report(neighbor)
    }

    fn observe(&mut self, quartet: &Quartet, session: &Session, neighbors: &Neighbors, now: Monotonic) {
        let Some(neighbor) = neighbors.numbered(session.neighbor) else { return };
        let Some(kmp) = neighbor.kmp.as_ref().filter(|_| may_have_agreed_keys(session, quartet, neighbor))
        else {
            return;
        };
        if has_older_keys(session) {
            self.settle_later(quartet, now);
        }
        self.planner.observe(quartet, seen(session, quartet, kmp), now, random());
    }

    fn settle_later(&mut self, quartet: &Quartet, now: Monotonic) {
        self.settling.insert(*quartet);
        self.settle_at.get_or_insert(after(now, SETTLE_LOOK));
    }

    fn accept(&mut self, channel: ChannelId, id: u32, quartet: Quartet, agreed: Agreed) {
        if let Some(before) = self.accepted.insert(quartet, (channel, id)) {
            self.theirs.remove(&before);
        }
        self.theirs.insert((channel, id), (quartet, agreed));
    }

    fn take_accepted(&mut self, channel: ChannelId, id: u32) -> Option<(Quartet, Agreed)> {
        let (quartet, agreed) = self.theirs.remove(&(channel, id))?;
        self.accepted.remove(&quartet);
        Some((quartet, agreed))
    }

    fn forget_channel(&mut self, channel: ChannelId) {
        self.ours.retain(|(on, _), _| *on != channel);
        self.theirs.retain(|(on, _), _| *on != channel);
        self.accepted.retain(|_, (on, _)| *on != channel);
    }
}

impl Daemon {
    /// Begins, and gives up, what is due.
    pub(super) fn on_refresh_time(&mut self, now: Instant) {
        let time = Monotonic::now();
        for peer in self.kmp.refresh.planner.overdue(time) {
            let text = match self.kmp.refresh.planner.is_dialled(peer) {
                true => "no new channel to the peer's daemon came up in time",
                false => "the peer's daemon did not answer in time",
            };
            self.refresh_failed(peer, text.to_owned());
        }
        while let Some(peer) = self.kmp.refresh.planner.begin(time) {
            self.kmp.channels.dial(peer, now);
        }
        if self.kmp.refresh.settle_at.is_some_and(|at| at <= time) {
            self.settle_sessions(time);
        }
    }

    /// A channel with `peer` is up: by TLS that is new.
    pub(super) fn on_refresh_channel(&mut self, channel: ChannelId, peer: KmpPeer) {
        self.ask_for_better_algorithm(peer);
        self.kmp.refresh.planner.channel_up(peer, channel, Monotonic::now());
        self.offer_sessions(peer);
    }

    /// A channel is gone, and what was under way on it; why, for an operator.
    pub(super) fn on_refresh_channel_gone(&mut self, channel: ChannelId, peer: KmpPeer, because: &str) {
        self.kmp.refresh.forget_channel(channel);
        let planner = &self.kmp.refresh.planner;
        // What was opened for new keys could not be, and nothing else is on its way.
        let is_hopeless = planner.is_dialled(peer) && !self.kmp.channels.is_opening(peer);
        if is_hopeless {
            self.refresh_failed(peer, because.to_owned());
        } else if planner.is_on(peer, channel) {
            // Its configuration changed, or the peer's did: most often the next one, at once, is good.
            if !self.kmp.refresh.planner.interrupted(peer, Monotonic::now()) {
                self.refresh_failed(peer, because.to_owned());
            }
        }
    }

    /// The peer offers to agree on keys of a session that is up.
    pub(super) fn on_refresh_offered(
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
            if is_lower(&quartet) {
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
    pub(super) fn on_refresh_accepted(&mut self, channel: ChannelId, peer: KmpPeer, id: u32, agreed: Agreed) {
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
    pub(super) fn on_refresh_confirmed(&mut self, channel: ChannelId, peer: KmpPeer, id: u32) {
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
    pub(super) fn on_refresh_done(&mut self, channel: ChannelId, peer: KmpPeer, id: u32) {
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
    pub(super) fn on_refresh_refused(&mut self, channel: ChannelId, peer: KmpPeer, id: u32, reason: Refusal) {
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

    /// Looks at all sessions: which are due.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub(in super::super) fn follow_refresh(&mut self) -> Result<(), KernelError> {
        if self.neighbors.iter().any(|(_, neighbor)| neighbor.kmp.is_some()) {
            let now = Monotonic::now();
            for entry in self.dataplane.sessions() {
                let (quartet, session) = entry?;
                self.kmp.refresh.observe(&quartet, &session, &self.neighbors, now);
            }
        }
        self.kmp.refresh.planner.end_round();
        Ok(())
    }

    /// Has sessions of neighbours whose secret, or way to agree on keys, is another than `before` get new keys now.
    pub(in super::super) fn refresh_changed(&mut self, before: &Neighbors) {
        let changed =
            self.neighbors.iter().filter(|(number, now)| agrees_otherwise(before.numbered(*number), now));
        let changed: BTreeSet<u32> = changed.map(|(number, _)| number).collect();
        self.kmp
            .known
            .retain(|number| self.neighbors.numbered(number).is_some() && !changed.contains(&number));
        self.refresh_neighbors(&changed);
    }

    /// Has all sessions of these neighbours get new keys now; how many, and of how many peers.
    pub(in super::super) fn refresh_neighbors(&mut self, numbers: &BTreeSet<u32>) -> (usize, usize) {
        if let Err(error) = self.follow_refresh() {
            tracing::error!("sessions that are to get new keys cannot be found: {error}");
        }
        self.kmp.refresh.planner.ask(|peer| numbers.contains(&peer.neighbor))
    }

    /// New keys for the sessions of a neighbour, or of all whose keys are agreed.
    ///
    /// # Errors
    /// There is no such neighbour, or its keys are not agreed; for the operator.
    pub(in super::super) fn refresh_keys(&mut self, peer: Option<&str>) -> Result<String, String> {
        let wanted =
            self.neighbors.iter().filter(|(_, neighbor)| peer.is_none_or(|peer| same_peer(neighbor, peer)));
        let wanted: Vec<_> = wanted.map(|(number, neighbor)| (number, neighbor.kmp.is_some())).collect();
        match peer {
            Some(peer) if wanted.is_empty() => return Err(no_neighbor(peer)),
            Some(peer) if wanted.iter().all(|(_, agrees)| !agrees) => {
                return Err(format!(
                    "the keys of {peer} are not agreed in a handshake (key-management); `tcpauth key roll` changes to \
                     another of its keys"
                ));
            }
            _ => {}
        }
        let numbers: BTreeSet<u32> =
            wanted.into_iter().filter(|(_, agrees)| *agrees).map(|(number, _)| number).collect();
        if numbers.is_empty() {
            return Err("no neighbour's keys are agreed in a handshake (key-management = \"external\" or \"layered\")".to_owned());
        }
        let (sessions, peers) = self.refresh_neighbors(&numbers);
        tracing::info!(sessions, peers, "new keys are asked for by command");
        let plural =
            |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        Ok(match sessions {
            0 => "no session is up: new ones get new keys in any case".to_owned(),
            _ => format!(
                "new keys are being agreed for {} with {}",
                plural(sessions, "session"),
                plural(peers, "peer")
            ),
        })
    }

    /// Offers keys of sessions that are due on the channel that is up for it.
    fn offer_sessions(&mut self, peer: KmpPeer) {
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
        let (local, peer_end, local_isn, peer_isn) = match role {
            Role::Client => {
                (connection.client, connection.server, Some(connection.client_isn), connection.server_isn)
            }
            Role::Server => {
                (connection.server, connection.client, connection.server_isn, Some(connection.client_isn))
            }
        };
        let scope = match &neighbor.peer.interface {
            Some(name) => self.interfaces.bound(name)?,
            None => 0,
        };
        let quartet = Quartet {
            local: mapped(local.ip()),
            peer: mapped(peer_end.ip()),
            local_port: local.port(),
            peer_port: peer_end.port(),
            scope,
        };
        let session = self.dataplane.session(&quartet).ok().flatten()?;
        let is_it = KmpPeer::of(session.neighbor, &quartet) == peer
            && (Some(session.local_isn), Some(session.peer_isn)) == (local_isn, peer_isn)
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
        self.kmp.refresh.planner.refreshed(quartet, now, random());
        self.kmp.refresh.settle_later(quartet, now);
        let text = format!("{} has new keys, {}", session_name(quartet), agreed.mkt.algorithm.name());
        tracing::debug!(session = session_name(quartet), algorithm = agreed.mkt.algorithm.name(), "new keys");
        self.tell_kmp(peer.neighbor, "refreshed", text);
        true
    }

    /// Forgets older keys of sessions whose both ends use the newest since a while: who has learnt them has nothing.
    fn settle_sessions(&mut self, now: Monotonic) {
        let mut left = BTreeSet::new();
        for quartet in std::mem::take(&mut self.kmp.refresh.settling) {
            let Ok(Some(session)) = self.dataplane.session(&quartet) else { continue };
            if !has_older_keys(&session) {
                continue;
            }
            let moved = Monotonic(session.rollover.current_since.max(session.rollover.received_since));
            let change = sessions::settle(&session, &quartet).filter(|_| SETTLE <= now.since(moved));
            let Some(mut change) = change else {
                left.insert(quartet);
                continue;
            };
            if let Err(error) = change_keys(&mut self.dataplane, &mut change) {
                tracing::error!("a session keeps its older keys: {error}");
                left.insert(quartet);
            }
        }
        self.kmp.refresh.settle_at = (!left.is_empty()).then(|| after(now, SETTLE_LOOK));
        self.kmp.refresh.settling = left;
    }

    /// Has sessions whose algorithm is not the best that both daemons have now get new keys.
    fn ask_for_better_algorithm(&mut self, peer: KmpPeer) {
        let Some(theirs) = self.kmp.channels.capabilities(peer).cloned() else { return };
        let Some(kmp) = self.neighbors.numbered(peer.neighbor).and_then(|neighbor| neighbor.kmp.clone())
        else {
            return;
        };
        let best = best_common(&kmp.algorithms, &theirs.algorithms);
        if best.is_empty() {
            return;
        }
        for quartet in self.kmp.refresh.planner.sessions_of(peer) {
            let Ok(Some(session)) = self.dataplane.session(&quartet) else { continue };
            let current =
                slot_at(&session.slots, session.rollover.newest(0)).map_or(0, |slot| slot.algorithm);
            if session.flags & Session::AGREED != 0 && !best.iter().any(|best| *best as u8 == current) {
                self.kmp.refresh.planner.ask_for(&quartet);
            }
        }
    }

    fn refresh_failed(&mut self, peer: KmpPeer, text: String) {
        let line = format!("no new keys for sessions that are up: {text}");
        if self.kmp.refresh.planner.failed(peer, text, Monotonic::now(), random()) {
            let name = self.neighbors.numbered(peer.neighbor).map(|neighbor| neighbor.peer.to_string());
            tracing::warn!(neighbor = name, "{line}; they go on with those they have, and it is tried again");
            self.tell_kmp(peer.neighbor, "failed", line);
        }
    }
}

/// Whether keys of the neighbour are agreed, and not by what they were `before`. One that is new may have sessions, too:
/// of another one, whose prefix has its address.
fn agrees_otherwise(before: Option<&Neighbor>, now: &Neighbor) -> bool {
    let tls = |neighbor: &Neighbor| neighbor.kmp.as_ref().map(|kmp| kmp.tls.clone());
    let is_same = |before: &Neighbor| before.keys == now.keys && tls(before) == tls(now);
    now.kmp.is_some() && !before.is_some_and(is_same)
}

const NO_COMMON_ALGORITHM: &str =
    "no MAC algorithm is common to both daemons: compare `algorithms` on the two sides";

/// Whether keys of this session may be agreed now: its connection is up, in clear, and not that of a channel.
fn may_have_agreed_keys(session: &Session, quartet: &Quartet, neighbor: &Neighbor) -> bool {
    const BOTH: u32 = Session::LOCAL_ISN | Session::PEER_ISN;
    let is_signed = session.flags & Session::ADOPTED == 0 || session.authenticated != 0;
    neighbor.wire == Wire::TcpAo
        && neighbor.kmp.is_some()
        && !is_channel(neighbor, quartet)
        && session.flags & BOTH == BOTH
        && session.phase == Session::OPEN
        && progress(session) == Progress::Established
        && is_signed
}

fn has_older_keys(session: &Session) -> bool {
    session.flags & Session::AGREED != 0
        && session.slots.iter().filter(|slot| slot.algorithm != 0).count() > 1
}

fn seen(session: &Session, quartet: &Quartet, kmp: &Kmp) -> Seen {
    let is_agreed = session.flags & Session::AGREED != 0;
    let passed = &session.counters.passed;
    let (newest, current, received) =
        (session.rollover.newest(0), session.rollover.current, session.rollover.received);
    Seen {
        peer: KmpPeer::of(session.neighbor, quartet),
        isns: (session.local_isn, session.peer_isn),
        agreed_since: is_agreed.then_some(Monotonic(session.rollover.current_since)),
        segments: [passed.signed_segments, passed.verified_segments],
        is_moving: is_agreed && [current, received].iter().any(|slot| *slot != newest),
        limits: Limits {
            interval: kmp.rekey_interval,
            segments: kmp.rekey_segments,
            is_first: is_lower(quartet),
        },
    }
}

/// Whether our end of a connection has the lower address, or port.
fn is_lower(quartet: &Quartet) -> bool {
    (quartet.local, quartet.local_port) < (quartet.peer, quartet.peer_port)
}

/// The best algorithm that both have: in our order, and in the peer's. Empty: there is none.
fn best_common(ours: &[Algorithm], theirs: &[String]) -> Vec<Algorithm> {
    let in_ours = ours.iter().copied().find(|ours| theirs.iter().any(|theirs| theirs == ours.name()));
    let in_theirs = theirs.iter().find_map(|theirs| ours.iter().copied().find(|ours| theirs == ours.name()));
    in_ours.into_iter().chain(in_theirs).collect()
}

fn after(time: Monotonic, span: Duration) -> Monotonic {
    Monotonic(time.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
}

fn random() -> u8 {
    let mut octet = [0];
    // Without randomness all are due at the same time.
    let _ = getrandom::fill(&mut octet);
    octet[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, sessions::testing};

    #[test]
    fn the_best_algorithm_is_either_ends_best() {
        let ours = [Algorithm::HmacSha256_128, Algorithm::Aes128Cmac96, Algorithm::HmacSha1_96];
        let best = |theirs: &[&str]| {
            best_common(&ours, &theirs.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(best(&["hmac-sha-1-96", "unheard-of"]), [Algorithm::HmacSha1_96; 2]);
        assert_eq!(
            best(&["unheard-of", "aes-128-cmac-96", "hmac-sha-256-128"]),
            [Algorithm::HmacSha256_128, Algorithm::Aes128Cmac96],
            "whoever accepts chooses"
        );
        assert_eq!(best(&["unheard-of"]), []);
    }

    #[test]
    fn keys_are_agreed_of_sessions_that_are_up_and_in_clear() {
        let quartet = testing::quartet(false);
        let mut neighbor = testing::neighbor("192.0.2.1");
        let up = Session { flags: Session::LOCAL_ISN | Session::PEER_ISN, ..Session::default() };
        assert!(!may_have_agreed_keys(&up, &quartet, &neighbor), "by the chain");
        neighbor.kmp = Some(testing::kmp().into());
        assert!(may_have_agreed_keys(&up, &quartet, &neighbor));
        for session in [
            Session { flags: Session::LOCAL_ISN, ..up },
            Session { phase: Session::HANDSHAKE, ..up },
            Session { phase: Session::SWITCHING, ..up },
            Session { seen: Session::RST_RECEIVED, ..up },
            Session { seen: Session::FIN_SENT, ..up },
            Session { flags: up.flags | Session::ADOPTED, ..up },
        ] {
            assert!(!may_have_agreed_keys(&session, &quartet, &neighbor));
        }
        let signed = Session { flags: up.flags | Session::ADOPTED, authenticated: 1, ..up };
        assert!(may_have_agreed_keys(&signed, &quartet, &neighbor));
        let channel = Quartet { local_port: 40_000, peer_port: testing::kmp().port, ..quartet };
        assert!(!may_have_agreed_keys(&up, &channel, &neighbor));
    }

    #[test]
    fn a_session_moves_until_both_ends_send_with_its_newest_keys() {
        let kmp = testing::kmp();
        let session = |flags: u32, current: u32, received: u32| {
            let mut session = Session { flags, ..Session::default() };
            session.rollover.order = 2 | 1 << 2 | 3 << 4;
            (session.rollover.current, session.rollover.received) = (current, received);
            session.rollover.current_since = 7;
            seen(&session, &testing::quartet(false), &kmp)
        };
        let agreed = Session::AGREED;
        assert!(
            !session(agreed, 2, 2).is_moving
                && session(agreed, 2, 1).is_moving
                && session(agreed, 1, 2).is_moving
        );
        assert_eq!(session(agreed, 2, 2).agreed_since, Some(Monotonic(7)));
        assert_eq!(session(0, 1, 1).agreed_since, None);
        assert!(!session(0, 1, 1).is_moving);
    }

    fn neighbor(password: &str, mode: &str) -> Neighbor {
        let text =
            format!("[neighbor.\"192.0.2.1\"]\npassword = \"{password}\"\nkey-management = \"{mode}\"\n");
        Config::parse(&text, std::path::Path::new("test.toml")).ok().unwrap().neighbors.remove(0)
    }

    #[test]
    fn another_secret_asks_for_new_keys_and_so_does_another_owner() {
        let now = neighbor("secret", "external");
        for (before, expected) in [
            (Some(neighbor("secret", "external")), false),
            (Some(neighbor("another", "external")), true),
            (Some(neighbor("secret", "implicit")), true),
            (None, true),
        ] {
            assert_eq!(agrees_otherwise(before.as_ref(), &now), expected);
        }
        assert!(!agrees_otherwise(Some(&now), &neighbor("another", "implicit")));
        assert!(!agrees_otherwise(None, &neighbor("secret", "implicit")));
    }
}
