//! Which key a neighbour last signed with: the one that it surely has, with which our next SYN is signed.

use std::collections::HashMap;

use tcpauth_common::layout::{Quartet, Session};

use super::neighbors::Neighbors;
use crate::sessions::{Monotonic, key_in_slot};

/// Addresses of one neighbor that are remembered. A prefix may have any number, and each that ever authenticated would
/// stay until the daemon ends.
const MOST_ADDRESSES: usize = 4096;

/// The keys that neighbours use, by number and address: one with a prefix is many.
#[derive(Default)]
pub struct PeerKeys {
    used: HashMap<u32, HashMap<[u8; 16], Used>>,
}

#[derive(Clone, Copy)]
struct Used {
    /// The key's number.
    key: u32,
    /// When a segment of its session last passed.
    time: Monotonic,
}

impl PeerKeys {
    /// Takes in what a session shows. A SYN shows nothing, as it may be a replayed one; the data plane's record of a
    /// segment whose key depends on our ISN does.
    pub fn learn(&mut self, quartet: &Quartet, session: &Session, neighbors: &Neighbors) {
        let is_heard = session.flags & Session::BOTH_ISNS == Session::BOTH_ISNS
            && session.recv_seq != u64::from(session.peer_isn.0);
        let Some(neighbor) = neighbors.numbered(session.neighbor) else { return };
        // With one key there is nothing to choose.
        if !is_heard || neighbor.keys.keys.len() == 1 {
            return;
        }
        let received = session.rollover.received;
        let Some(key) = key_in_slot(session, quartet, received, &neighbor.keys) else { return };
        let time = Monotonic(session.last_segment);
        let addresses = self.used.entry(session.neighbor).or_default();
        if !addresses.contains_key(&quartet.peer) {
            make_room(addresses);
        }
        let used = addresses.entry(quartet.peer).or_insert(Used { key, time });
        if used.time <= time {
            *used = Used { key, time };
        }
    }

    /// The number of the key that the neighbour last signed with at this address, if it is known.
    pub fn of(&self, neighbor: u32, address: &[u8; 16]) -> Option<u32> {
        self.used.get(&neighbor)?.get(address).map(|used| used.key)
    }

    /// Forgets keys that are others now, or gone.
    pub fn follow(&mut self, before: &Neighbors, now: &Neighbors) {
        self.used.retain(|number, addresses| {
            addresses.retain(|_, used| {
                let key = |neighbors: &Neighbors| {
                    Some(neighbors.numbered(*number)?.keys.key(used.key)?.mkt.clone())
                };
                let now = key(now);
                now.is_some() && now == key(before)
            });
            !addresses.is_empty()
        });
    }
}

/// Forgets the half of a neighbor's addresses that were heard least recently, if there are too many for one more.
fn make_room(addresses: &mut HashMap<[u8; 16], Used>) {
    if addresses.len() < MOST_ADDRESSES {
        return;
    }
    let mut times: Vec<Monotonic> = addresses.values().map(|used| used.time).collect();
    let middle = *times.select_nth_unstable(MOST_ADDRESSES / 2).1;
    addresses.retain(|_, used| middle < used.time);
}

#[cfg(test)]
mod tests {
    use tcpauth_common::{Isn, layout::KeySlot};

    use super::*;
    use crate::{
        config::Neighbor,
        keys::{ChainKey, KeyChain, Lifetime},
        sessions::testing::{neighbor, quartet},
    };

    const ISN: u32 = 77;

    fn key(number: u32) -> ChainKey {
        let mut mkt = neighbor("192.0.2.1").keys.first().clone();
        (mkt.send_id.0, mkt.recv_id.0) = (number as u8, number as u8);
        ChainKey { number, mkt, send: Lifetime::ALWAYS, accept: Lifetime::ALWAYS }
    }

    fn neighbors(keys: Vec<ChainKey>) -> Neighbors {
        let keys = KeyChain { name: None, keys }.into();
        let one = Neighbor { keys, ..neighbor("192.0.2.1") };
        Neighbors::number([one], &Neighbors::default(), &HashMap::new(), &|_| None)
    }

    /// A session that heard the key with this number.
    fn session(number: u32, last_segment: u64) -> Session {
        let mut session = Session {
            neighbor: 1,
            flags: Session::LOCAL_ISN | Session::PEER_ISN,
            peer_isn: Isn(ISN),
            recv_seq: u64::from(ISN) + 1,
            last_segment,
            ..Session::default()
        };
        session.slots[2] = KeySlot { flags: KeySlot::ACCEPT, ..key(number).mkt.empty_slot() };
        session.rollover.received = 2;
        session
    }

    #[test]
    fn the_key_of_the_latest_session_counts() {
        let neighbors = neighbors(vec![key(1), key(2)]);
        let mut keys = PeerKeys::default();
        let address = quartet(false).peer;
        for (session, expected) in [(session(1, 5), 1), (session(2, 7), 2), (session(1, 6), 2)] {
            keys.learn(&quartet(false), &session, &neighbors);
            assert_eq!(keys.of(1, &address), Some(expected));
        }
        assert_eq!((keys.of(2, &address), keys.of(1, &[0; 16])), (None, None));
    }

    #[test]
    fn addresses_of_a_prefix_that_were_heard_long_ago_are_forgotten() {
        let neighbors = neighbors(vec![key(1), key(2)]);
        let mut keys = PeerKeys::default();
        let at = |number: u32| Quartet { peer: u128::from(number).to_be_bytes(), ..quartet(false) };
        let most = MOST_ADDRESSES as u32;
        for number in 0..3 * most {
            keys.learn(&at(number), &session(2, u64::from(number)), &neighbors);
            // One that is up all the time.
            keys.learn(&at(0), &session(2, u64::from(number)), &neighbors);
        }
        assert!(keys.used[&1].len() <= MOST_ADDRESSES);
        for (number, expected) in [(0, Some(2)), (3 * most - 1, Some(2)), (1, None)] {
            assert_eq!(keys.of(1, &at(number).peer), expected, "{number}");
        }
    }

    #[test]
    fn a_syn_shows_nothing() {
        let neighbors = neighbors(vec![key(1), key(2)]);
        let mut keys = PeerKeys::default();
        let replayed = Session { recv_seq: u64::from(ISN), ..session(1, 5) };
        let half_open = Session { flags: Session::PEER_ISN, ..session(1, 5) };
        for session in [replayed, half_open] {
            keys.learn(&quartet(false), &session, &neighbors);
            assert_eq!(keys.of(1, &quartet(false).peer), None);
        }
    }

    #[test]
    fn a_key_that_is_another_now_is_forgotten() {
        let before = neighbors(vec![key(1), key(2)]);
        let mut other = key(2);
        other.mkt.send_id.0 = 9;
        for (after, expected) in [
            (vec![key(1), key(2), key(3)], Some(2)),
            (vec![key(1), other], None),
            (vec![key(1), key(3)], None),
        ] {
            let mut keys = PeerKeys::default();
            keys.learn(&quartet(false), &session(2, 5), &before);
            keys.follow(&before, &neighbors(after));
            assert_eq!(keys.of(1, &quartet(false).peer), expected);
        }
    }
}
