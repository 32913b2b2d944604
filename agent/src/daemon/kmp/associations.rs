//! Keys that were agreed for connections which the data plane does not have yet, and segments that wait for keys.
//!
//! An association is needed from the moment at which keys are agreed until the session has them: a second or two. What
//! is lost with the daemon is agreed again when the SYN is sent again; sessions that are up have their keys in the map.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use tcpauth_common::{
    Isn,
    layout::{Held, Quartet},
};

use super::{KmpPeer, channel::ChannelId, timers::Timers};
use crate::{
    keys::{Mkt, Role},
    kmp::{Agreed, Connection},
};

/// Associations, and segments that wait, of one peer.
const MAX_OF_PEER: usize = 64;
/// Of all together.
const MAX: usize = 16_384;
/// An association is kept for so long after its last use: TCP sends a SYN for about so long.
const KEEP: Duration = Duration::from_secs(150);
/// How long a SYN waits for keys. TCP sends it again after a second, and what is older than
/// [`crate::sessions::HOLD_LIMIT`] is not sent any more.
pub const WAIT_LIMIT: Duration = Duration::from_secs(2);

/// A connection that a client begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Begun {
    /// Its ends, as in the maps.
    pub quartet: Quartet,
    /// The ISN of its client.
    pub client_isn: u32,
}

/// Keys that were agreed. Holds a secret: no `Debug`.
pub struct Association {
    /// With whom.
    pub peer: KmpPeer,
    /// On which channel.
    pub channel: ChannelId,
    /// What our end is.
    pub role: Role,
    /// The ISN of the client.
    pub client_isn: u32,
    /// The keys.
    pub mkt: Mkt,
    /// When.
    pub agreed: Instant,
    used: Instant,
}

/// A SYN of ours that waits for keys.
pub struct Waiting {
    /// As the data plane gave it.
    pub held: Held,
    /// Its frame.
    pub frame: Vec<u8>,
    /// Its ISN.
    pub isn: Isn,
    /// Whose daemon has to agree.
    pub peer: KmpPeer,
    /// The offer, if it was made: on which channel, and its number.
    pub offer: Option<(ChannelId, u32)>,
}

/// All of them. Holds secrets: no `Debug`.
#[derive(Default)]
pub(in super::super) struct Associations {
    agreed: HashMap<Begun, Association>,
    of_peer: HashMap<KmpPeer, Vec<Begun>>,
    /// The ISNs of clients of each quartet.
    of_quartet: HashMap<Quartet, Vec<u32>>,
    waiting: HashMap<Quartet, Waiting>,
    waiting_of_peer: HashMap<KmpPeer, Vec<Quartet>>,
    /// When to give up waiting.
    timers: Timers<Quartet>,
}

impl Begun {
    /// The connection that two daemons agree about, in which our end is `role`; `scope` as in [`Quartet`].
    pub fn new(connection: &Connection, role: Role, scope: u32) -> Self {
        Self { quartet: connection.quartet(role, scope), client_isn: connection.client_isn.0 }
    }
}

impl Associations {
    /// When a segment has waited for long enough.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.next_due()
    }

    /// The keys of a connection.
    pub fn of(&self, begun: &Begun) -> Option<&Association> {
        self.agreed.get(begun)
    }

    /// All keys that were agreed for connections with these ends, the latest last.
    pub fn of_quartet(&self, quartet: &Quartet) -> impl Iterator<Item = &Association> {
        let isns = self.of_quartet.get(quartet).into_iter().flatten();
        let begun = isns.map(|isn| Begun { quartet: *quartet, client_isn: *isn });
        begun.filter_map(|begun| self.agreed.get(&begun))
    }

    /// Takes in that the keys of a connection served.
    pub fn used(&mut self, begun: &Begun, now: Instant) {
        if let Some(association) = self.agreed.get_mut(begun) {
            association.used = now;
        }
    }

    /// Whether there is room for one more of `peer`.
    pub fn has_room(&self, peer: KmpPeer) -> bool {
        self.agreed.len() < MAX || self.of_peer.contains_key(&peer)
    }

    /// Keeps what was agreed, in the place of what was agreed about the same connection before; where the peer has as
    /// many as it may, of what was agreed first: that session has its keys by now, or its SYN is sent again.
    pub fn insert(&mut self, begun: Begun, peer: KmpPeer, channel: ChannelId, agreed: Agreed, now: Instant) {
        self.remove(&begun);
        let of_peer = self.of_peer.get(&peer).map_or(&[][..], Vec::as_slice);
        if of_peer.len() >= MAX_OF_PEER || self.agreed.len() >= MAX {
            of_peer.first().copied().iter().for_each(|oldest| self.remove(oldest));
        }
        let Agreed { role, mkt, .. } = agreed;
        self.agreed.insert(
            begun,
            Association { peer, channel, role, client_isn: begun.client_isn, mkt, agreed: now, used: now },
        );
        self.of_peer.entry(peer).or_default().push(begun);
        self.of_quartet.entry(begun.quartet).or_default().push(begun.client_isn);
    }

    /// Forgets the keys of a connection.
    pub fn remove(&mut self, begun: &Begun) {
        if let Some(association) = self.agreed.remove(begun) {
            forget(&mut self.of_peer, association.peer, begun);
            forget(&mut self.of_quartet, begun.quartet, &begun.client_isn);
        }
    }

    /// Connections with keys that were agreed with `peer`.
    pub fn with(&self, peer: KmpPeer) -> impl Iterator<Item = (&Begun, &Association)> {
        let begun = self.of_peer.get(&peer).into_iter().flatten();
        begun.filter_map(|begun| Some((begun, self.agreed.get(begun)?)))
    }

    /// All peers with whom keys were agreed.
    pub fn peers(&self) -> Vec<KmpPeer> {
        self.of_peer.keys().copied().collect()
    }

    /// Forgets what has not been used for long, and what is of a peer that is not `known`.
    pub fn expire(&mut self, now: Instant, known: impl Fn(KmpPeer) -> bool) {
        let expired = |association: &Association| {
            KEEP <= now.saturating_duration_since(association.used) || !known(association.peer)
        };
        let old: Vec<Begun> =
            self.agreed.iter().filter(|(_, one)| expired(one)).map(|(begun, _)| *begun).collect();
        old.iter().for_each(|begun| self.remove(begun));
    }

    /// Has a SYN wait for keys. One with the same ISN that waits already is replaced, and its time goes on. `false`:
    /// there is no room.
    #[must_use]
    pub fn wait(&mut self, waiting: Waiting, now: Instant) -> bool {
        let quartet = waiting.held.quartet;
        if let Some(before) = self.waiting.get_mut(&quartet)
            && (before.isn, before.peer) == (waiting.isn, waiting.peer)
        {
            (before.held, before.frame) = (waiting.held, waiting.frame);
            return true;
        }
        self.take_waiting(&quartet);
        let of_peer = self.waiting_of_peer.entry(waiting.peer).or_default();
        if MAX <= self.waiting.len() || MAX_OF_PEER <= of_peer.len() {
            return false;
        }
        of_peer.push(quartet);
        self.waiting.insert(quartet, waiting);
        self.timers.set(quartet, now + WAIT_LIMIT);
        true
    }

    /// The SYN of a connection that waits for keys.
    pub fn waiting(&mut self, quartet: &Quartet) -> Option<&mut Waiting> {
        self.waiting.get_mut(quartet)
    }

    /// Takes out the SYN of a connection that waits.
    pub fn take_waiting(&mut self, quartet: &Quartet) -> Option<Waiting> {
        let waiting = self.waiting.remove(quartet)?;
        self.timers.clear(*quartet);
        forget(&mut self.waiting_of_peer, waiting.peer, quartet);
        Some(waiting)
    }

    /// The connections with `peer` whose SYN waits.
    pub fn waiting_for(&self, peer: KmpPeer) -> Vec<Quartet> {
        self.waiting_of_peer.get(&peer).cloned().unwrap_or_default()
    }

    /// Takes in that a channel is gone: what was offered on it has to be offered again.
    pub fn forget_offers(&mut self, peer: KmpPeer, channel: ChannelId) {
        for quartet in self.waiting_for(peer) {
            if let Some(waiting) = self.waiting.get_mut(&quartet) {
                waiting.offer = waiting.offer.filter(|(other, _)| *other != channel);
            }
        }
    }

    /// Takes out a SYN that has waited for long enough.
    pub fn take_overdue(&mut self, now: Instant) -> Option<Waiting> {
        let quartet = self.timers.take_due(now)?;
        self.take_waiting(&quartet)
    }
}

fn forget<K: Copy + Eq + Hash, T: PartialEq>(lists: &mut HashMap<K, Vec<T>>, of: K, what: &T) {
    if let Some(list) = lists.get_mut(&of) {
        list.retain(|other| other != what);
        if list.is_empty() {
            lists.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::testing::{mkt, quartet};
    use tcpauth_common::Algorithm;

    const PEER: KmpPeer = KmpPeer { neighbor: 1, address: [1; 16], local: [3; 16] };
    const OTHER: KmpPeer = KmpPeer { neighbor: 2, address: [2; 16], local: [3; 16] };

    fn quartet_of(port: u16) -> Quartet {
        Quartet { local_port: port, ..quartet(false) }
    }

    fn waiting(port: u16, isn: u32, frame: u8) -> Waiting {
        let held = Held { quartet: quartet_of(port), ..Held::default() };
        Waiting { held, frame: vec![frame], isn: Isn(isn), peer: PEER, offer: None }
    }

    fn insert(associations: &mut Associations, port: u16, isn: u32, peer: KmpPeer, now: Instant) {
        let begun = Begun { quartet: quartet_of(port), client_isn: isn };
        let end = |port| std::net::SocketAddr::from(([192, 0, 2, 1], port));
        let connection =
            Connection { client: end(port), server: end(179), client_isn: Isn(isn), server_isn: None };
        let agreed = Agreed { connection, role: Role::Client, mkt: mkt("secret", Algorithm::HmacSha1_96) };
        associations.insert(begun, peer, ChannelId(1), agreed, now);
    }

    #[test]
    fn one_syn_waits_for_each_connection_the_newest() {
        let now = Instant::now();
        let mut associations = Associations::default();
        assert!(associations.wait(waiting(1, 5, 1), now));
        associations.waiting(&quartet_of(1)).unwrap().offer = Some((ChannelId(3), 9));
        let later = now + Duration::from_secs(1);
        assert!(associations.wait(waiting(1, 5, 2), later));
        let kept = associations.waiting(&quartet_of(1)).unwrap();
        assert_eq!((kept.frame.as_slice(), kept.offer), ([2].as_slice(), Some((ChannelId(3), 9))));
        assert_eq!(associations.next_due(), Some(now + WAIT_LIMIT), "the first one began to wait");
        assert!(associations.wait(waiting(1, 6, 3), later));
        assert_eq!(associations.waiting(&quartet_of(1)).unwrap().offer, None, "another connection");
        assert_eq!(associations.next_due(), Some(later + WAIT_LIMIT));
        assert!(associations.take_overdue(later).is_none());
        assert_eq!(associations.take_overdue(later + WAIT_LIMIT).unwrap().frame, [3]);
        assert!(associations.waiting_for(PEER).is_empty() && associations.next_due().is_none());
    }

    #[test]
    fn a_peer_has_so_many_and_no_more() {
        let now = Instant::now();
        let mut associations = Associations::default();
        for port in 0..MAX_OF_PEER as u16 {
            assert!(associations.wait(waiting(port, 1, 0), now));
        }
        assert!(!associations.wait(waiting(1000, 1, 0), now));
        assert!(associations.wait(waiting(3, 2, 0), now), "in the place of another");
        assert!(associations.take_waiting(&quartet_of(4)).is_some());
        assert!(associations.wait(waiting(1000, 1, 0), now));
    }

    /// However many connections follow on each other.
    #[test]
    fn keys_agreed_first_make_room() {
        let now = Instant::now();
        let mut associations = Associations::default();
        let most = MAX_OF_PEER as u16;
        insert(&mut associations, 60_000, 1, OTHER, now);
        for port in 0..2 * most {
            assert!(associations.has_room(PEER));
            insert(&mut associations, port, 1, PEER, now);
        }
        let begun = |port| Begun { quartet: quartet_of(port), client_isn: 1 };
        let kept = |port| associations.of(&begun(port)).is_some();
        assert!(!(0..most).any(kept) && (most..2 * most).all(kept) && kept(60_000));
        assert_eq!(associations.with(PEER).count(), MAX_OF_PEER);
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let now = Instant::now();
        let mut associations = Associations::default();
        for (port, peer) in [(1, PEER), (2, PEER), (3, OTHER)] {
            insert(&mut associations, port, 7, peer, now);
        }
        let begun = |port| Begun { quartet: quartet_of(port), client_isn: 7 };
        associations.used(&begun(1), now + KEEP / 2);
        associations.expire(now + KEEP - Duration::from_millis(1), |_| true);
        assert!((1..=3).all(|port| associations.of(&begun(port)).is_some()));
        associations.expire(now + KEEP, |_| true);
        assert_eq!([1, 2, 3].map(|port| associations.of(&begun(port)).is_some()), [true, false, false]);
        assert_eq!(associations.with(PEER).count(), 1);
        assert_eq!([1, 2].map(|port| associations.of_quartet(&quartet_of(port)).count()), [1, 0]);
        associations.expire(now + KEEP, |peer| peer != PEER);
        assert!(associations.peers().is_empty());
    }

    #[test]
    fn what_was_offered_on_a_channel_that_is_gone_is_to_be_offered_again() {
        let now = Instant::now();
        let mut associations = Associations::default();
        for (port, channel) in [(1, 1), (2, 2)] {
            assert!(associations.wait(waiting(port, 1, 0), now));
            associations.waiting(&quartet_of(port)).unwrap().offer = Some((ChannelId(channel), 1));
        }
        associations.forget_offers(PEER, ChannelId(1));
        assert_eq!(associations.waiting(&quartet_of(1)).unwrap().offer, None);
        assert_eq!(associations.waiting(&quartet_of(2)).unwrap().offer, Some((ChannelId(2), 1)));
    }
}
