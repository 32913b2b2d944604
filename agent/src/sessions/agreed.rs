//! Keys that two daemons agreed on: which segments they serve, and how a session comes to them.

use std::ops::RangeInclusive;

use tcpauth_common::{
    KeyId,
    layout::{KeyChange, KeySlot, MAX_KEYS, Quartet, Session},
    rollover::{NO_ORDER, NO_SLOT, Rollover},
};

use super::handshake::{our_syn_signer, syn_signer};
use crate::{
    config::Neighbor,
    keys::{ChainKey, KeyChain, Lifetime, Mkt},
};

/// KeyIDs of agreed keys.
pub const AGREED_IDS: RangeInclusive<u8> = 128..=255;

/// `neighbor` with no keys but agreed ones, at least one; the last is asked for.
pub fn with_agreed<'a>(neighbor: &Neighbor, mkts: impl IntoIterator<Item = &'a Mkt>) -> Neighbor {
    let key = |(number, mkt): (u32, &Mkt)| ChainKey {
        number,
        mkt: mkt.clone(),
        send: Lifetime::ALWAYS,
        accept: Lifetime::ALWAYS,
    };
    let keys = KeyChain { name: None, keys: (0..).zip(mkts).map(key).collect() };
    Neighbor { keys: keys.into(), ..neighbor.clone() }
}

/// The key of the chain under which a connection that is up began: that of its client's SYN.
pub fn begun_with<'a>(session: &Session, quartet: &Quartet, neighbor: &'a Neighbor) -> Option<&'a ChainKey> {
    if session.flags & Session::CLIENT != 0 {
        our_syn_signer(session, quartet, neighbor)
    } else {
        syn_signer(session, quartet, neighbor)
    }
}

/// A KeyID for segments to us under keys that are to be agreed: none that a key of the chain has, none that the
/// session uses, and the next after that of its newest key, so that an old one comes back late.
pub fn free_key_id(session: Option<&Session>, chain: &KeyChain) -> KeyId {
    free_key_id_beside(session, chain, &[])
}

/// As [`free_key_id`], and none of `others`, which were agreed for the same connection and are in no session yet.
pub fn free_key_id_beside(session: Option<&Session>, chain: &KeyChain, others: &[KeyId]) -> KeyId {
    let in_slots =
        || session.into_iter().flat_map(|session| &session.slots).filter(|slot| slot.algorithm != 0);
    let is_taken = |id: u8| {
        in_slots().any(|slot| slot.recv_id.0 == id || slot.send_id.0 == id)
            || chain.keys.iter().any(|key| key.mkt.recv_id.0 == id)
            || others.contains(&KeyId(id))
    };
    let newest = session.and_then(|session| session.slots.get(session.rollover.newest(0) as usize));
    let after = newest.map(|slot| slot.recv_id.0).filter(|id| AGREED_IDS.contains(id));
    let (first, last) = AGREED_IDS.into_inner();
    let begin = after.filter(|id| *id < last).map_or(first, |id| id + 1);
    let mut ids = (begin..=last).chain(first..begin);
    KeyId(ids.find(|id| !is_taken(*id)).unwrap_or(first))
}

/// Brings an agreed key into a session that is up, as its newest, and asks the peer to send with it. `slot` is
/// [`Mkt::traffic_slot`] of it. We send with it when the peer asks for it, or at once if `move_now`.
///
/// Of the keys that are there, those that either direction uses now stay: two at most. One with a KeyID of the new one
/// does not: the peer, or we, would not have chosen a KeyID that it has, so its handshake ended before both had its keys,
/// and who is asked for that KeyID would send under the wrong one.
pub fn roll_in(session: &Session, quartet: &Quartet, slot: KeySlot, move_now: bool) -> KeyChange {
    let Rollover { current, received, .. } = session.rollover;
    let in_use = |other: u32| other == current || other == received;
    let mut free: Vec<u32> = (0..MAX_KEYS as u32).collect();
    let is_orphan = |other: u32| {
        let there = &session.slots[other as usize];
        there.algorithm != 0
            && !in_use(other)
            && (there.send_id == slot.send_id || there.recv_id == slot.recv_id)
    };
    // Such a one, then empty ones, then the oldest of those that nobody uses.
    free.sort_by_key(|other| {
        let is_filled = session.rollover.age(*other) < MAX_KEYS as u32;
        (!is_orphan(*other), is_filled, in_use(*other), std::cmp::Reverse(session.rollover.age(*other)))
    });
    let into = free[0];
    let mut change = KeyChange::nothing(quartet, session);
    let mut slots = vec![into];
    slots.extend(ages(session).filter(|other| *other != into && !is_orphan(*other)));
    change.order = order(&slots);
    change.written = 1 << into;
    change.usable[into as usize] = KeySlot::SEND | KeySlot::ACCEPT;
    change.slots[into as usize] = slot;
    change.rnext = into;
    change.flags |= KeyChange::SET_AGREED;
    if move_now {
        change.current = into;
        change.flags |= KeyChange::MOVE_CURRENT;
    }
    change
}

/// Removes the keys of a session that are older than the one which both directions use now; `None` if there are none,
/// or the directions have not come together.
pub fn settle(session: &Session, quartet: &Quartet) -> Option<KeyChange> {
    let Rollover { current, received, rnext, .. } = session.rollover;
    let age = session.rollover.age(current);
    if current != received || current == NO_SLOT || age >= MAX_KEYS as u32 {
        return None;
    }
    let stay: Vec<u32> = ages(session).take(age as usize + 1).collect();
    if stay.len() == ages(session).count() {
        return None;
    }
    let mut change = KeyChange::nothing(quartet, session);
    change.order = order(&stay);
    if !stay.contains(&rnext) {
        change.rnext = current;
    }
    Some(change)
}

/// The filled slots, the newest first.
fn ages(session: &Session) -> impl Iterator<Item = u32> {
    let rollover = session.rollover;
    (0..MAX_KEYS as u32).map(move |age| rollover.newest(age)).filter(|slot| *slot != NO_SLOT)
}

/// As in [`Rollover::order`].
fn order(newest_first: &[u32]) -> u32 {
    let placed = newest_first.iter().zip(0..);
    placed.fold(NO_ORDER, |order, (slot, age)| order & !(3 << (2 * age)) | slot << (2 * age))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcpauth_common::{Algorithm, Isn, layout::SynKey, sequence::ExtendedSeq};

    use super::*;
    use crate::{
        keys::Role,
        sessions::testing::{mirrored, mkt, neighbor, quartet},
    };

    const ISNS: (Isn, Isn) = (Isn(1000), Isn(2000));

    /// One end of a connection that is up.
    struct End {
        session: Session,
        quartet: Quartet,
        role: Role,
        sent: u64,
    }

    /// Both ends, with one key of the chain.
    fn ends() -> (End, End) {
        let ours = quartet(false);
        let theirs = Quartet {
            local: ours.peer,
            peer: ours.local,
            local_port: ours.peer_port,
            peer_port: ours.local_port,
            scope: 0,
        };
        let key = mkt("password", Algorithm::HmacSha1_96);
        let end = |quartet, mkt: &Mkt, role, (local_isn, peer_isn): (Isn, Isn)| {
            let mut session = Session { local_isn, peer_isn, flags: 3, ..Session::default() };
            let flags = KeySlot::SEND | KeySlot::ACCEPT;
            session.slots[0] = KeySlot { flags, ..mkt.traffic_slot(&quartet, local_isn, peer_isn, role) };
            session.rollover =
                Rollover { order: order(&[0]), current: 0, rnext: 0, received: 0, ..Rollover::default() };
            End { session, quartet, role, sent: 0 }
        };
        (end(ours, &key, Role::Client, ISNS), end(theirs, &mirrored(&key), Role::Server, (ISNS.1, ISNS.0)))
    }

    impl End {
        fn apply(&mut self, change: &KeyChange) {
            change.apply(&mut self.session, 1);
        }

        fn roll_in(&mut self, mkt: &Mkt, move_now: bool) {
            let Session { local_isn, peer_isn, .. } = self.session;
            let slot = mkt.traffic_slot(&self.quartet, local_isn, peer_isn, self.role);
            let change = roll_in(&self.session, &self.quartet, slot, move_now);
            self.apply(&change);
        }

        /// Sends a segment with new data to `other`; whether it verified there.
        fn send(&mut self, other: &mut Self) -> bool {
            self.sent += 1;
            let rollover = &self.session.rollover;
            let sealing = rollover.sealing(&self.session.slots);
            let sealed = self.session.slots[sealing as usize];
            let rnext = rollover.rnext_id(&self.session.slots, sealing);
            let slots = other.session.slots;
            let found = (0..MAX_KEYS as u32).find(|slot| {
                let slot = &slots[*slot as usize];
                slot.flags & KeySlot::ACCEPT != 0
                    && slot.recv_id == sealed.send_id
                    && slot.recv.words == sealed.send.words
            });
            found.is_some_and(|slot| other.receive(slot, rnext, self.sent))
        }

        /// Takes in a segment that is under the key in `slot`; whether it is accepted.
        fn receive(&mut self, slot: u32, rnext: KeyId, at: u64) -> bool {
            let (at, front) = (ExtendedSeq(at), ExtendedSeq(self.session.recv_seq));
            let Session { rollover, slots, flags, .. } = &mut self.session;
            if !rollover.covers(slot, at) {
                return false;
            }
            if *flags & Session::AGREED != 0 {
                rollover.on_verified_onward(slots, slot, rnext, at, front, 1);
            } else {
                rollover.on_verified(slots, slot, Some(rnext), at, front, 1);
            }
            self.session.recv_seq = front.advanced_to(at).0;
            true
        }
    }

    /// What two daemons agree on: each chooses the KeyID under which it receives.
    fn agree(offerer: &End, accepter: &End, number: u8) -> (Mkt, Mkt) {
        let chain = KeyChain::of(mkt("password", Algorithm::HmacSha1_96));
        let ours = Mkt {
            recv_id: free_key_id(Some(&offerer.session), &chain),
            send_id: free_key_id(Some(&accepter.session), &chain),
            ..mkt(&format!("agreed {number}"), Algorithm::HmacSha256_128)
        };
        let theirs = mirrored(&ours);
        (ours, theirs)
    }

    proptest! {
        #[test]
        fn no_segment_is_lost_while_keys_roll_in_one_after_the_other(
            steps in prop::collection::vec((any::<bool>(), 0usize..4, 0usize..4, any::<bool>()), 1..12),
        ) {
            let (mut a, mut b) = ends();
            for (number, (by_a, first, second, settles)) in (0..).zip(steps) {
                let (offerer, accepter) = if by_a { (&mut a, &mut b) } else { (&mut b, &mut a) };
                let (ours, theirs) = agree(offerer, accepter, number);
                // The accepter installs first, and tells the offerer.
                accepter.roll_in(&theirs, false);
                for _ in 0..first {
                    prop_assert!(offerer.send(accepter));
                    prop_assert!(accepter.send(offerer));
                }
                offerer.roll_in(&ours, false);
                for _ in 0..=second {
                    prop_assert!(accepter.send(offerer));
                    prop_assert!(offerer.send(accepter));
                }
                prop_assert!(accepter.send(offerer));
                for end in [&*offerer, &*accepter] {
                    let rollover = end.session.rollover;
                    prop_assert_eq!([rollover.current, rollover.received, rollover.rnext], [rollover.newest(0); 3]);
                    prop_assert_ne!(end.session.flags & Session::AGREED, 0);
                }
                if settles {
                    for end in [&mut *offerer, &mut *accepter] {
                        if let Some(change) = settle(&end.session, &end.quartet) {
                            end.apply(&change);
                        }
                        prop_assert_eq!(ages(&end.session).count(), 1);
                        prop_assert_eq!(end.session.slots.iter().filter(|slot| slot.algorithm != 0).count(), 1);
                        prop_assert!(settle(&end.session, &end.quartet).is_none());
                    }
                }
            }
        }

        #[test]
        fn keys_that_are_in_use_stay_whatever_rolls_in(rolls in prop::collection::vec((any::<bool>(), any::<bool>()), 1..20)) {
            let (mut a, mut b) = ends();
            for (number, (move_now, receives)) in (0..).zip(rolls) {
                let (ours, theirs) = agree(&a, &b, number);
                let in_use = |end: &End| {
                    let rollover = end.session.rollover;
                    [rollover.current, rollover.received].map(|slot| end.session.slots[slot as usize].recv.words)
                };
                let [current, received] = in_use(&a);
                a.roll_in(&ours, move_now);
                let words = a.session.slots.map(|slot| slot.recv.words);
                prop_assert!(words.contains(&current) && words.contains(&received));
                let newest = a.session.rollover.newest(0);
                prop_assert_eq!(a.session.rollover.rnext, newest);
                prop_assert_eq!(a.session.slots[newest as usize].send_id, ours.send_id);
                prop_assert!(!move_now || a.session.rollover.current == newest);
                if receives {
                    b.roll_in(&theirs, true);
                    prop_assert!(b.send(&mut a));
                }
            }
        }
    }

    /// The password of before the keys were agreed, or an earlier traffic key: it verifies until the session settles.
    #[test]
    fn who_has_learnt_an_older_key_cannot_keep_a_session_from_going_on_or_bring_it_back() {
        for forged_before in [None, Some(1000)] {
            let (mut a, mut b) = ends();
            assert!(a.send(&mut b) && b.send(&mut a));
            let (ours, theirs) = agree(&a, &b, 1);
            b.roll_in(&theirs, false);
            a.roll_in(&ours, false);
            let (old, old_id) = (a.session.rollover.current, a.session.slots[0].send_id);
            assert_ne!(old, a.session.rollover.newest(0));
            if let Some(ahead) = forged_before {
                assert!(a.receive(old, old_id, ahead), "the peer may use it still");
            }
            for _ in 0..2 {
                assert!(a.send(&mut b) && b.send(&mut a));
            }
            let newest = a.session.rollover.newest(0);
            assert!(!a.receive(old, old_id, 2000), "the peer has gone on");
            // As an acknowledgment without data would, which was overtaken.
            assert!(!a.receive(old, old_id, a.session.recv_seq));
            let Rollover { current, received, .. } = a.session.rollover;
            assert_eq!((current, received), (newest, newest));
            assert!(settle(&a.session, &a.quartet).is_some());
        }
    }

    #[test]
    fn a_handshake_that_ended_before_both_had_its_keys_leaves_nothing_that_the_next_stumbles_over() {
        for (lost, given) in [(1, 0), (3, 0), (1, 1), (2, 5)] {
            let (mut a, mut b) = ends();
            for number in 0..lost {
                // The accepter has its keys; the offerer never hears so, and offers the same KeyID again.
                let (_, theirs) = agree(&a, &b, number);
                b.roll_in(&theirs, false);
                for _ in 0..given {
                    assert!(b.send(&mut a) && a.send(&mut b));
                }
            }
            let (ours, theirs) = agree(&a, &b, 9);
            b.roll_in(&theirs, false);
            a.roll_in(&ours, false);
            for _ in 0..3 {
                assert!(a.send(&mut b), "{lost} {given}");
                assert!(b.send(&mut a), "{lost} {given}: under keys that the peer never had");
            }
            for end in [&a, &b] {
                let rollover = end.session.rollover;
                assert_eq!([rollover.current, rollover.received], [rollover.newest(0); 2]);
            }
        }
    }

    #[test]
    fn behind_a_handshake_on_the_connection_only_the_agreed_key_verifies_at_the_client() {
        let (mut a, b) = ends();
        // Near the end of the numbers.
        a.session.peer_isn = Isn(u32::MAX - 100);
        a.session.recv_seq = u64::from(u32::MAX - 50);
        let (ours, _) = agree(&a, &b, 1);
        let slot = ours.traffic_slot(&a.quartet, ISNS.0, a.session.peer_isn, a.role);
        let old = a.session.rollover.current;
        let change = KeyChange {
            phase: Session::OPEN,
            received_before: 300,
            ..roll_in(&a.session, &a.quartet, slot, true)
        };
        a.apply(&KeyChange { flags: change.flags | KeyChange::SET_PHASE, ..change });
        let covers = |slot: u32, at: u64| a.session.rollover.covers(slot, ExtendedSeq(at));
        let behind = u64::from(u32::MAX - 100) + 301;
        assert!(covers(old, behind - 1) && !covers(old, behind));
        assert!(covers(a.session.rollover.newest(0), behind));
    }

    #[test]
    fn keys_that_one_direction_uses_are_not_settled() {
        let (mut a, mut b) = ends();
        let (ours, theirs) = agree(&a, &b, 1);
        a.roll_in(&ours, false);
        assert!(settle(&a.session, &a.quartet).is_none(), "nobody uses the new one");
        b.roll_in(&theirs, true);
        assert!(settle(&b.session, &b.quartet).is_none(), "it receives under the old one");
        assert!(b.send(&mut a));
        let change = settle(&a.session, &a.quartet);
        assert_eq!(change.map(|change| change.order), Some(order(&[a.session.rollover.newest(0)])));
    }

    #[test]
    fn a_key_id_is_nobodys_and_comes_back_late() {
        let chain = KeyChain::of(mkt("password", Algorithm::HmacSha1_96));
        let mut taken = chain.clone();
        taken.keys[0].mkt.recv_id = KeyId(128);
        assert_eq!((free_key_id(None, &chain), free_key_id(None, &taken)), (KeyId(128), KeyId(129)));
        assert_eq!(free_key_id_beside(None, &taken, &[KeyId(130), KeyId(129)]), KeyId(131));
        let (mut a, mut b) = ends();
        let mut ids = Vec::new();
        for number in 0..=127 {
            let (ours, theirs) = agree(&a, &b, number);
            ids.push(ours.recv_id.0);
            a.roll_in(&ours, true);
            b.roll_in(&theirs, true);
        }
        let every: Vec<u8> = AGREED_IDS.collect();
        assert_eq!(ids, every);
    }

    #[test]
    fn a_connection_began_under_the_key_of_its_clients_syn() {
        let mut neighbor = neighbor("192.0.2.1");
        let key = |number: u8| {
            let mkt = Mkt {
                send_id: KeyId(number),
                recv_id: KeyId(number),
                ..mkt("password", Algorithm::HmacSha1_96)
            };
            ChainKey { number: number.into(), ..KeyChain::of(mkt).keys[0].clone() }
        };
        neighbor.keys = KeyChain { name: None, keys: vec![key(1), key(2)] }.into();
        let quartet = quartet(false);
        for number in [1, 2] {
            let mkt = key(number).mkt;
            let (client, server) = (mkt.syn_send(&quartet, ISNS.0), mkt.syn_recv(&quartet, ISNS.1));
            let session = |flags, syn_send, syn_recv| Session {
                flags: 3 | flags,
                local_isn: ISNS.0,
                peer_isn: ISNS.1,
                syn_recv_isn: ISNS.1,
                syn_send,
                syn_recv,
                ..Session::default()
            };
            for session in [
                session(Session::CLIENT, client, SynKey::default()),
                session(Session::SYN_RECV, SynKey::default(), server),
            ] {
                let found = begun_with(&session, &quartet, &neighbor).map(|key| key.number);
                assert_eq!(found, Some(number.into()));
            }
            assert!(
                begun_with(&session(Session::CLIENT, SynKey::default(), server), &quartet, &neighbor)
                    .is_none()
            );
        }
    }
}
