//! Which session uses which key.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use tcpauth_common::{
    Algorithm,
    layout::{Quartet, Session},
    rollover::slot_at,
};

use super::super::{
    Daemon,
    configuration::{no_neighbor, same_peer},
    sockets::ListedOnce,
};
use crate::{
    config::Neighbor,
    control::{
        protocol::{AgreedKeys, KeyStatus, NeighborKeys},
        words::KeyState,
    },
    kernel::KernelError,
    keys::ChainKey,
    sessions::{Monotonic, Progress, key_in_slot, progress},
};

/// What the open sessions of a neighbour use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    open: u64,
    rolled: u64,
    /// By number of the key.
    keys: HashMap<u32, KeyUsage>,
    /// Of those whose keys are agreed.
    agreed: AgreedUsage,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AgreedUsage {
    sessions: u64,
    due: u64,
    /// By name of the algorithm.
    algorithms: BTreeMap<String, u64>,
    /// Since when the session with the oldest keys, and that with the newest, sends with them.
    since: Option<(Monotonic, Monotonic)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KeyUsage {
    sending: u64,
    receiving: u64,
    /// When a session last moved to it.
    switched: Option<Monotonic>,
}

impl Daemon {
    /// The keys of all neighbours, or of the one that an operator calls `peer`.
    ///
    /// # Errors
    /// There is no such neighbour, or the map cannot be read; for the operator.
    pub(in super::super) fn keys(&self, peer: Option<&str>) -> Result<Vec<NeighborKeys>, String> {
        let wanted: Vec<_> = self
            .neighbors
            .iter()
            .filter(|(_, neighbor)| peer.is_none_or(|peer| same_peer(neighbor, peer)))
            .collect();
        if let (true, Some(peer)) = (wanted.is_empty(), peer) {
            return Err(no_neighbor(peer));
        }
        let now = Timestamp::now();
        let is_wanted = |number| peer.is_none() || wanted.iter().any(|(wanted, _)| *wanted == number);
        let usage = self.usage(now, is_wanted).map_err(|error| error.to_string())?;
        let none = Usage::default();
        let shown = wanted.into_iter().map(|(number, neighbor)| {
            shown(neighbor, usage.get(&number).unwrap_or(&none), now, Monotonic::now())
        });
        Ok(shown.collect())
    }

    /// What the open sessions of neighbours that are `wanted` use, by number of the neighbour. Sessions without a
    /// socket use nothing: no key has to wait for them.
    pub(super) fn usage(
        &self,
        now: Timestamp,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Result<HashMap<u32, Usage>, KernelError> {
        let mut preferred: HashMap<u32, Option<u32>> = HashMap::new();
        let mut usage: HashMap<u32, Usage> = HashMap::new();
        let mut sockets = ListedOnce::with(&self.rules.ports);
        for entry in self.dataplane.sessions() {
            let (quartet, session) = entry?;
            let Some(neighbor) = self.neighbors.numbered(session.neighbor) else { continue };
            let is_counted = is_open(&session) && !self.is_of_channel(session.neighbor, &quartet);
            if is_counted && is_wanted(session.neighbor) && !self.is_ghost(&quartet, &session, &mut sockets) {
                let preferred = *preferred
                    .entry(session.neighbor)
                    .or_insert_with(|| neighbor.keys.preferred(now).map(|key| key.number));
                let is_due = self.kmp.refresh.is_due(&quartet);
                let usage = usage.entry(session.neighbor).or_default();
                usage.count(&session, &quartet, neighbor, preferred, is_due);
            }
        }
        Ok(usage)
    }
}

/// Whether both ISNs are known and the session is not closed.
fn is_open(session: &Session) -> bool {
    matches!(progress(session), Progress::Established | Progress::Closing)
}

impl Usage {
    /// `is_due`: it is to get new keys now.
    fn count(
        &mut self,
        session: &Session,
        quartet: &Quartet,
        neighbor: &Neighbor,
        preferred: Option<u32>,
        is_due: bool,
    ) {
        let rollover = &session.rollover;
        let key_in = |slot| key_in_slot(session, quartet, slot, &neighbor.keys);
        let (current, received) = (key_in(rollover.current), key_in(rollover.received));
        self.open += 1;
        self.rolled += u64::from(match neighbor.kmp {
            Some(_) => self.agreed.count(session, is_due),
            None => preferred.is_some() && current == preferred && received == preferred,
        });
        for (number, since, sends) in
            [(current, rollover.current_since, true), (received, rollover.received_since, false)]
        {
            let Some(number) = number else { continue };
            let key = self.keys.entry(number).or_default();
            *(if sends { &mut key.sending } else { &mut key.receiving }) += 1;
            key.switched = key.switched.max((since != 0).then_some(Monotonic(since)));
        }
    }

    /// Open sessions that send with the key, or whose peer does.
    pub(super) fn of_key(&self, number: u32) -> u64 {
        self.keys.get(&number).map_or(0, |key| key.sending.max(key.receiving))
    }
}

impl AgreedUsage {
    /// Whether both sides use the session's newest keys, and need no newer ones.
    fn count(&mut self, session: &Session, is_due: bool) -> bool {
        let rollover = &session.rollover;
        if session.flags & Session::AGREED == 0 {
            return false;
        }
        self.sessions += 1;
        self.due += u64::from(is_due);
        let algorithm = slot_at(&session.slots, rollover.current).map_or(0, |slot| slot.algorithm);
        if let Some(algorithm) = Algorithm::from_number(algorithm) {
            *self.algorithms.entry(algorithm.name().to_owned()).or_default() += 1;
        }
        let since = Monotonic(rollover.current_since);
        let (oldest, newest) = self.since.unwrap_or((since, since));
        self.since = Some((oldest.min(since), newest.max(since)));
        let newest = rollover.newest(0);
        !is_due && rollover.current == newest && rollover.received == newest
    }

    fn shown(&self, open: u64, now: Monotonic) -> AgreedKeys {
        let age = |since| now.since(since).as_secs();
        AgreedKeys {
            sessions: self.sessions,
            due_sessions: self.due,
            chain_sessions: open - self.sessions,
            algorithms: self.algorithms.clone(),
            oldest_seconds: self.since.map(|(oldest, _)| age(oldest)),
            newest_seconds: self.since.map(|(_, newest)| age(newest)),
        }
    }
}

fn shown(neighbor: &Neighbor, usage: &Usage, now: Timestamp, monotonic: Monotonic) -> NeighborKeys {
    let chain = &neighbor.keys;
    let preferred = chain.preferred(now).map(|key| key.number);
    let unused = KeyUsage::default();
    let key_status = |key: &ChainKey| {
        let usage = usage.keys.get(&key.number).unwrap_or(&unused);
        KeyStatus {
            number: key.number,
            send_id: key.mkt.send_id.0,
            recv_id: key.mkt.recv_id.0,
            algorithm: key.mkt.algorithm.name().to_owned(),
            send_lifetime: key.send.to_string(),
            accept_lifetime: key.accept.to_string(),
            state: state(key, now),
            preferred: preferred == Some(key.number),
            sending_sessions: usage.sending,
            receiving_sessions: usage.receiving,
            switched_seconds_ago: usage.switched.map(|switched| monotonic.since(switched).as_secs()),
        }
    };
    NeighborKeys {
        neighbor: neighbor.peer.to_string(),
        chain: chain.name.clone(),
        open_sessions: usage.open,
        rolled_sessions: usage.rolled,
        closes: chain.closes_at(now).or_else(|| chain.closed_at(now)).map(|end| end.to_string()),
        keys: chain.keys.iter().map(key_status).collect(),
        agreed: neighbor.kmp.as_ref().map(|_| usage.agreed.shown(usage.open, monotonic)),
    }
}

/// In a word.
fn state(key: &ChainKey, now: Timestamp) -> KeyState {
    let lifetimes = || [key.send, key.accept].into_iter().filter(|lifetime| lifetime.start < lifetime.end);
    match (key.may_be_sent(now), key.is_accepted(now)) {
        (true, true) => KeyState::Valid,
        (true, false) => KeyState::SendOnly,
        (false, true) => KeyState::AcceptOnly,
        _ if lifetimes().any(|lifetime| now < lifetime.start) => KeyState::NotYet,
        _ if lifetimes().next().is_some() => KeyState::Expired,
        _ => KeyState::Never,
    }
}

#[cfg(test)]
mod tests {
    use tcpauth_common::layout::KeySlot;

    use super::*;
    use crate::{
        keys::{KeyChain, Lifetime},
        sessions::testing::{self, quartet},
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(number: u32) -> ChainKey {
        let mut mkt = testing::neighbor("192.0.2.1").keys.first().clone();
        (mkt.send_id.0, mkt.recv_id.0) = (number as u8, number as u8);
        ChainKey { number, mkt, send: Lifetime::ALWAYS, accept: Lifetime::ALWAYS }
    }

    /// A neighbour with two keys, the second preferred.
    fn neighbor() -> Neighbor {
        let keys = vec![key(1), key(2)];
        Neighbor { keys: KeyChain { name: None, keys }.into(), ..testing::neighbor("192.0.2.1") }
    }

    /// A session with key 1 in slot 0 and key 2 in slot 2, that sends with `current` and hears `received`.
    fn session(current: u32, received: u32) -> Session {
        let mut session = Session { flags: Session::LOCAL_ISN | Session::PEER_ISN, ..Session::default() };
        (session.rollover.current, session.rollover.received) = (current, received);
        (session.rollover.current_since, session.rollover.received_since) = (3_000_000_000, 5_000_000_000);
        let flags = KeySlot::SEND | KeySlot::ACCEPT;
        session.slots[0] = KeySlot { flags, ..key(1).mkt.empty_slot() };
        session.slots[2] = KeySlot { flags, ..key(2).mkt.empty_slot() };
        session
    }

    #[test]
    fn sessions_are_counted_by_what_both_sides_send_with() {
        let neighbor = neighbor();
        let mut usage = Usage::default();
        for (current, received) in [(0, 0), (2, 0), (2, 2), (2, 2), (2, 3)] {
            usage.count(&session(current, received), &quartet(false), &neighbor, Some(2), false);
        }
        let shown = shown(&neighbor, &usage, at(0), Monotonic(9_000_000_000));
        assert_eq!((shown.open_sessions, shown.rolled_sessions), (5, 2));
        let counted =
            |key: &KeyStatus| (key.number, key.preferred, key.sending_sessions, key.receiving_sessions);
        let counted: Vec<_> = shown.keys.iter().map(counted).collect();
        assert_eq!(counted, [(1, false, 1, 2), (2, true, 4, 2)]);
        assert_eq!(shown.keys[1].switched_seconds_ago, Some(4), "the last one moved, either way");
        assert_eq!(shown.closes, None);
        assert_eq!((usage.of_key(1), usage.of_key(2), usage.of_key(3)), (2, 4, 0));
    }

    #[test]
    fn sessions_with_agreed_keys_are_counted_apart_from_those_under_a_key_of_the_chain() {
        let neighbor = Neighbor { kmp: Some(testing::kmp().into()), ..neighbor() };
        let agreed = |newest: u32, current, received, since: u64| {
            let mut session = session(current, received);
            session.flags |= Session::AGREED;
            session.rollover.order = newest | !3;
            session.rollover.current_since = since * 1_000_000_000;
            for slot in &mut session.slots {
                (slot.send_id.0, slot.recv_id.0) = (200, 201);
            }
            session
        };
        let mut usage = Usage::default();
        for (session, is_due) in [
            (agreed(2, 2, 2, 4), false),
            (agreed(2, 2, 0, 6), false),
            (agreed(0, 0, 0, 2), true),
            (session(0, 0), false),
        ] {
            usage.count(&session, &quartet(false), &neighbor, Some(1), is_due);
        }
        let shown = shown(&neighbor, &usage, at(0), Monotonic(9_000_000_000));
        assert_eq!((shown.open_sessions, shown.rolled_sessions), (4, 1));
        let expected = AgreedKeys {
            sessions: 3,
            due_sessions: 1,
            chain_sessions: 1,
            algorithms: BTreeMap::from([("hmac-sha-1-96".to_owned(), 3)]),
            oldest_seconds: Some(7),
            newest_seconds: Some(3),
        };
        assert_eq!(shown.agreed, Some(expected));
        assert_eq!((shown.keys[0].sending_sessions, shown.keys[1].sending_sessions), (1, 0));
    }

    #[test]
    fn the_state_of_a_key_is_told_in_a_word() {
        let lifetime = |start, end| Lifetime { start: at(start), end: at(end) };
        for (send, accept, expected) in [
            (lifetime(0, 9), lifetime(0, 9), KeyState::Valid),
            (Lifetime::NEVER, Lifetime::ALWAYS, KeyState::AcceptOnly),
            (Lifetime::ALWAYS, lifetime(0, 1), KeyState::SendOnly),
            (lifetime(6, 9), lifetime(0, 1), KeyState::NotYet),
            (lifetime(0, 5), Lifetime::NEVER, KeyState::Expired),
            (Lifetime::NEVER, Lifetime::NEVER, KeyState::Never),
        ] {
            assert_eq!(state(&ChainKey { send, accept, ..key(1) }, at(5)), expected);
        }
    }

    #[test]
    fn a_chain_that_has_ended_still_tells_when() {
        let lifetime = Lifetime { start: at(0), end: at(60) };
        let keys = vec![ChainKey { send: lifetime, ..key(1) }];
        let neighbor = Neighbor { keys: KeyChain { name: None, keys }.into(), ..neighbor() };
        for second in [5, 60, 999] {
            let shown = shown(&neighbor, &Usage::default(), at(second), Monotonic(0));
            assert_eq!(shown.closes.as_deref(), Some("1970-01-01T00:01:00Z"));
        }
    }
}
