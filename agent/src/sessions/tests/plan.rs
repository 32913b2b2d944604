//! That the keys of a session that is up follow its neighbour's chain, whatever happens to either.

use jiff::Timestamp;
use tcpauth_common::{
    layout::{KeyChange, MAX_KEYS},
    rollover::{NO_CUTOFF, NO_SLOT},
};

use super::*;
use crate::{
    config::{KeyManagement, Wire},
    keys::{ChainKey, Lifetime},
    sessions::{half_open, identify, is_agreed, key_in_slot, plan},
};

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A key with this number for both ids and as its secret, and one lifetime for both directions.
pub(super) fn key(number: u32, start: i64, end: i64) -> ChainKey {
    let mut mkt = mkt(&format!("secret {number}"), Algorithm::HmacSha1_96);
    (mkt.send_id.0, mkt.recv_id.0) = (number as u8, number as u8);
    let lifetime = Lifetime { start: at(start), end: at(end) };
    ChainKey { number, mkt, send: lifetime, accept: lifetime }
}

pub(super) fn with_keys(keys: &[ChainKey]) -> Neighbor {
    Neighbor { keys: Arc::new(KeyChain { name: None, keys: keys.to_vec() }), ..us() }
}

/// A session that is up, without keys.
fn bare() -> Session {
    Session {
        flags: Session::LOCAL_ISN | Session::PEER_ISN,
        local_isn: Isn(OURS),
        peer_isn: Isn(THEIRS),
        ..Session::default()
    }
}

fn planned(session: &Session, us: &Neighbor, second: i64) -> Option<KeyChange> {
    plan(session, &quartet(false), us, at(second), None)
}

/// The session as it is at `second`.
fn changed(session: &Session, us: &Neighbor, second: i64) -> Session {
    let mut session = *session;
    if let Some(change) = planned(&session, us, second) {
        change.apply(&mut session, second as u64);
    }
    session
}

fn held(session: &Session, us: &Neighbor) -> [Option<u32>; MAX_KEYS] {
    identify(session, &quartet(false), &us.keys)
}

pub(super) fn number_in(session: &Session, us: &Neighbor, slot: u32) -> Option<u32> {
    held(session, us).get(slot as usize).copied().flatten()
}

/// The numbers of the keys that the session has, sends with, and asks for.
pub(super) fn shown(session: &Session, us: &Neighbor) -> (Vec<u32>, Option<u32>, Option<u32>) {
    let all = (0..3).filter_map(|age| number_in(session, us, session.rollover.newest(age))).collect();
    let current = number_in(session, us, session.rollover.current);
    (all, current, number_in(session, us, session.rollover.rnext))
}

#[test]
fn a_new_key_is_asked_for_and_sent_when_the_peer_asks_or_the_old_one_ends() {
    let us = with_keys(&[key(1, 0, 30), key(2, 10, 50)]);
    let first = changed(&bare(), &us, 5);
    assert_eq!(shown(&first, &us), (vec![1], Some(1), Some(1)));
    let both = changed(&first, &us, 10);
    assert_eq!(shown(&both, &us), (vec![2, 1], Some(1), Some(2)));
    let second = changed(&both, &us, 30);
    assert_eq!(shown(&second, &us), (vec![2], Some(2), Some(2)));
    assert_eq!(second.rollover.current_since, 30);
    let closed = changed(&second, &us, 50);
    assert_eq!(shown(&closed, &us), (vec![], None, None));
    assert!(closed.slots.iter().all(|slot| slot.algorithm == 0 && slot.send.words == [0; 16]));
    let back = changed(&closed, &us, 20);
    assert_eq!(shown(&back, &us), (vec![2, 1], Some(2), Some(2)), "the clock jumped back");
}

#[test]
fn a_key_that_is_not_accepted_yet_is_not_asked_for() {
    let mut new = key(2, 10, 50);
    new.accept = Lifetime { start: at(20), end: at(50) };
    let us = with_keys(&[key(1, 0, 50), new]);
    let session = changed(&bare(), &us, 10);
    assert_eq!(shown(&session, &us), (vec![2, 1], Some(2), Some(1)));
    assert_eq!(shown(&changed(&session, &us, 20), &us).2, Some(2));
}

#[test]
fn a_key_that_is_accepted_before_it_is_sent_is_not_asked_for() {
    let mut new = key(2, 0, 50);
    new.send = Lifetime::NEVER;
    let us = with_keys(&[key(1, 0, 50), new]);
    let session = changed(&bare(), &us, 0);
    assert_eq!(shown(&session, &us), (vec![2, 1], Some(1), Some(1)));
    let flags = [0, 1].map(|age| session.slots[session.rollover.newest(age) as usize].flags);
    assert_eq!(flags, [KeySlot::ACCEPT, KeySlot::ACCEPT | KeySlot::SEND]);
}

#[test]
fn a_changed_secret_under_the_same_ids_is_another_key() {
    let before = with_keys(&[key(1, 0, 50)]);
    let session = changed(&bare(), &before, 0);
    let mut other = key(1, 0, 50);
    other.mkt.master_key = mkt("another", Algorithm::HmacSha1_96).master_key;
    let after = with_keys(&[other]);
    assert_eq!(held(&session, &after), [None; 3]);
    let change = planned(&session, &after, 0).unwrap();
    assert_eq!((change.written, change.current), (0b10, 1), "the slot in use is not written over");
    let session = changed(&session, &after, 0);
    assert_eq!(shown(&session, &after), (vec![1], Some(1), Some(1)));
    assert_eq!(session.slots[0].algorithm, 0, "nothing of the old key is left");
}

#[test]
fn three_keys_that_are_all_replaced() {
    let before = with_keys(&[key(1, 0, 50), key(2, 0, 50), key(3, 0, 50)]);
    let after = with_keys(&[key(4, 0, 50), key(5, 0, 50), key(6, 0, 50)]);
    let session = changed(&bare(), &before, 0);
    let change = planned(&session, &after, 0).unwrap();
    assert_eq!((change.written, change.flags), (0b111, 0));
    assert_eq!(shown(&changed(&session, &after, 0), &after), (vec![6, 5, 4], Some(6), Some(6)));
}

#[test]
fn the_slot_that_is_sent_with_is_written_last() {
    let before = with_keys(&[key(1, 0, 50), key(2, 0, 50), key(3, 0, 50)]);
    let after = with_keys(&[key(3, 0, 50), key(4, 0, 50)]);
    let mut session = changed(&bare(), &before, 0);
    for (age, written) in [(1, 0b100), (2, 0b010)] {
        session.rollover.current = session.rollover.newest(age);
        assert_eq!(session.rollover.current, age, "the keys lie in the order of their age");
        assert_eq!(planned(&session, &after, 0).unwrap().written, written);
    }
}

#[test]
fn an_older_key_keeps_its_slot_while_it_is_in_use() {
    let us = with_keys(&[key(1, 0, 50), key(2, 10, 50), key(3, 20, 50), key(4, 30, 50)]);
    let session = changed(&bare(), &us, 0);
    assert_eq!(shown(&changed(&session, &us, 30), &us), (vec![4, 3, 1], Some(1), Some(4)));
    let mut followed = changed(&session, &us, 30);
    followed.rollover.current = followed.rollover.newest(0);
    assert_eq!(shown(&changed(&followed, &us, 31), &us), (vec![4, 3, 2], Some(4), Some(4)));
}

#[test]
fn a_key_is_forced_only_where_the_peer_cannot_be_asked() {
    let mut alike = key(2, 10, 50);
    (alike.mkt.send_id.0, alike.mkt.recv_id.0) = (1, 1);
    let later = key(3, 20, 50);
    let us = with_keys(&[key(1, 0, 50), alike, later]);
    let session = changed(&changed(&bare(), &us, 0), &us, 20);
    assert_eq!(shown(&session, &us), (vec![3, 2, 1], Some(1), Some(3)));
    let forced = |us: &Neighbor, number| {
        let mut session = session;
        if let Some(change) = plan(&session, &quartet(false), us, at(20), Some(number)) {
            change.apply(&mut session, 0);
        }
        shown(&session, us).1
    };
    assert_eq!(forced(&us, 2), Some(2));
    assert_eq!(forced(&us, 3), Some(1), "it has a KeyID of its own");
    assert_eq!(forced(&us, 9), Some(1), "there is no such key");
    assert_eq!(forced(&Neighbor { wire: Wire::TcpMd5, ..us.clone() }, 3), Some(3));
}

#[test]
fn a_session_without_both_isns_has_no_traffic_keys() {
    let us = with_keys(&[key(1, 0, 50)]);
    for flags in [0, Session::LOCAL_ISN, Session::PEER_ISN | Session::SYN_RECV] {
        let session = Session { flags, ..bare() };
        assert!(planned(&session, &us, 0).is_none());
        let md5 = Neighbor { wire: Wire::TcpMd5, ..us.clone() };
        assert_eq!(planned(&session, &md5, 0).is_some(), flags != 0);
    }
}

#[test]
fn a_half_open_session_follows_the_chain() {
    let us = with_keys(&[key(1, 0, 20), key(2, 10, 50)]);
    let quartet = quartet(false);
    let renewed = |session: &Session, us: &Neighbor, second| {
        half_open(session, &quartet, us, Now { wall: at(second), ..now() })
    };
    let (held, frame) = Draft::new(OUT, SYN, OURS, 0).hold();
    let sent = installed(on_held(&held, &frame, &us, None, None, now()));
    assert!(renewed(&sent, &us, 0).is_none());
    let asks = renewed(&sent, &us, 10).expect("another key is asked for");
    assert_eq!((asks.syn_send.key_id.0, asks.syn_send.rnext_id.0), (1, 2));
    let ended = renewed(&asks, &us, 20).expect("the key may not be sent any more");
    assert_eq!((ended.syn_send.key_id.0, ended.syn_send.rnext_id.0), (2, 2));
    assert!(renewed(&ended, &us, 20).is_none());
    let closed = renewed(&ended, &us, 50).expect("no key is left");
    assert_eq!(closed.syn_send.algorithm, 0);
    assert!(renewed(&closed, &us, 50).is_none());
    let open = renewed(&closed, &us, 10).expect("the clock jumped back");
    assert_eq!(open.syn_send.key_id.0, 2);
}

#[test]
fn a_syn_whose_key_is_gone_has_to_verify_again() {
    let gone = half_open(&syn_received(), &quartet(false), &with_keys(&[key(1, 0, 20)]), now()).unwrap();
    assert_eq!((gone.flags, gone.syn_recv.algorithm), (Session::PEER_ISN, 0));
    assert!(half_open(&gone, &quartet(false), &with_keys(&[key(1, 0, 20)]), now()).is_none());
    let again = installed(decide(&peer_syn(THEIRS), Some(&gone)));
    assert_eq!(again.flags, Session::PEER_ISN | Session::SYN_RECV);

    let mut sent_only = us().keys.keys[0].clone();
    sent_only.accept = Lifetime::NEVER;
    let ended = half_open(&again, &quartet(false), &with_keys(&[sent_only]), now()).unwrap();
    assert_eq!(ended.flags, Session::PEER_ISN, "the key is there, but not accepted any more");
}

/// What a key is made of, small enough that keys share ids and secrets, and lifetimes overlap, touch and leave gaps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub secret: u8,
    pub id: u8,
    pub send: (i64, i64),
    pub accept: (i64, i64),
}

pub(super) fn any_chain() -> impl Strategy<Value = Vec<Part>> {
    let span = || (0i64..10, 0i64..10).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let part = (0u8..3, 1u8..4, span(), span()).prop_map(|(secret, id, send, accept)| Part {
        secret,
        id,
        send,
        accept,
    });
    prop::collection::vec(part, 1..6).prop_map(|mut parts| {
        let mut seen = Vec::new();
        // No two keys of a chain are alike in all but their lifetimes.
        parts.retain(|part| {
            let what = (part.secret, part.id);
            let is_new = !seen.contains(&what);
            seen.push(what);
            is_new
        });
        parts
    })
}

pub(super) fn neighbor_of(parts: &[Part], wire: Wire) -> Neighbor {
    let keys = (1..).zip(parts).map(|(number, part)| {
        let span = |(start, end)| Lifetime { start: at(start), end: at(end) };
        let mut key = key(number, 0, 0);
        key.mkt.master_key = mkt(&format!("secret {}", part.secret), Algorithm::HmacSha1_96).master_key;
        (key.mkt.send_id.0, key.mkt.recv_id.0) = (part.id, part.id);
        ChainKey { send: span(part.send), accept: span(part.accept), ..key }
    });
    Neighbor { wire, ..with_keys(&keys.collect::<Vec<_>>()) }
}

/// What the data plane did meanwhile: it followed the peer to another slot.
type Moves = (usize, usize, [u64; MAX_KEYS]);

fn moved(session: &mut Session, (current, received, cutoff): Moves) {
    let filled: Vec<u32> =
        (0..3).map(|age| session.rollover.newest(age)).filter(|slot| *slot != NO_SLOT).collect();
    let sent = filled.iter().filter(|slot| session.slots[**slot as usize].flags & KeySlot::SEND != 0);
    let sent: Vec<_> = sent.collect();
    if !filled.is_empty() {
        session.rollover.received = filled[received % filled.len()];
    }
    if !sent.is_empty() {
        session.rollover.current = *sent[current % sent.len()];
    }
    for (age, slot) in filled.into_iter().enumerate() {
        let slot = slot as usize;
        session.rollover.cutoff[slot] = if age == 0 { NO_CUTOFF } else { cutoff[slot] };
    }
}

fn check(session: &Session, us: &Neighbor, second: i64) -> Result<(), TestCaseError> {
    let now = at(second);
    let rollover = &session.rollover;
    let slots: Vec<u32> =
        (0..3).map(|age| rollover.newest(age)).take_while(|slot| *slot != NO_SLOT).collect();
    let usable = us.keys.keys.iter().filter(|key| key.is_usable(now)).count();
    prop_assert_eq!(slots.len(), usable.min(MAX_KEYS));
    for slot in 0..MAX_KEYS as u32 {
        let flags = session.slots[slot as usize].flags & (KeySlot::SEND | KeySlot::ACCEPT);
        if slots.contains(&slot) {
            prop_assert_ne!(flags, 0, "a key outside its lifetimes");
        } else {
            prop_assert_eq!((session.slots[slot as usize].algorithm, flags), (0, 0));
            prop_assert!(session.slots[slot as usize].send.words == [0; 16], "a key is left behind");
            prop_assert_eq!(rollover.cutoff[slot as usize], NO_CUTOFF);
            prop_assert_ne!(rollover.received, slot);
        }
    }
    let may_send =
        |slot: u32| session.slots.get(slot as usize).is_some_and(|slot| slot.flags & KeySlot::SEND != 0);
    prop_assert_eq!(may_send(rollover.current), us.keys.preferred(now).is_some());
    if let Some(preferred) = us.keys.preferred(now).filter(|key| key.is_accepted(now)) {
        let asked = &session.slots[rollover.rnext as usize];
        let wanted = preferred.mkt.traffic_slot(&quartet(false), Isn(OURS), Isn(THEIRS), Role::Server);
        prop_assert!(same_keys(asked, &wanted), "another key than the preferred one is asked for");
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_session_follows_its_chain_and_the_clock(
        chains in prop::collection::vec(any_chain(), 1..3),
        steps in prop::collection::vec((any::<prop::sample::Index>(), -1i64..11, any::<Moves>(), 0u32..8), 1..12),
        is_md5: bool,
    ) {
        let wire = if is_md5 { Wire::TcpMd5 } else { Wire::TcpAo };
        let mut session = bare();
        for (chain, second, moves, forced) in steps {
            let us = neighbor_of(&chains[chain.index(chains.len())], wire);
            let forced = Some(forced).filter(|number| *number != 0);
            let before = session;
            if let Some(change) = plan(&session, &quartet(false), &us, at(second), forced) {
                change.apply(&mut session, 0);
                let stays = |slot: usize| {
                    before.slots[slot].algorithm != 0 && same_keys(&before.slots[slot], &session.slots[slot])
                };
                for age in 0..MAX_KEYS as u32 {
                    let slot = before.rollover.newest(age) as usize;
                    // What had cut it off may be gone.
                    if slot == NO_SLOT as usize || !stays(slot) {
                        break;
                    }
                    prop_assert!(change.written >> slot & 1 == 0);
                    let (old, new) = (before.rollover, session.rollover);
                    let overtakes = (0..MAX_KEYS as u32).filter(|other| stays(*other as usize)).any(|other| {
                        old.age(other) < old.age(slot as u32) && new.age(slot as u32) < new.age(other)
                    });
                    let cutoff = if overtakes { NO_CUTOFF } else { old.cutoff[slot] };
                    prop_assert_eq!(cutoff, new.cutoff[slot]);
                }
                let current = before.rollover.current as usize;
                let may_stay = current < MAX_KEYS
                    && same_keys(&before.slots[current], &session.slots[current])
                    && session.slots[current].flags & KeySlot::SEND != 0;
                prop_assert!(forced.is_some() || !may_stay || session.rollover.current == before.rollover.current);
            }
            check(&session, &us, second)?;
            prop_assert!(plan(&session, &quartet(false), &us, at(second), forced).is_none(), "twice");
            prop_assert!(plan(&session, &quartet(false), &us, at(second), None).is_none(), "without force");
            moved(&mut session, moves);
        }
    }
}

#[test]
fn the_syn_of_a_session_is_forgotten_once_its_key_is_not_accepted() {
    let us = with_keys(&[key(1, 0, 30), key(2, 10, 50)]);
    let mut session = changed(&bare(), &us, 10);
    session.flags |= Session::SYN_RECV;
    session.syn_recv_isn = Isn(THEIRS);
    session.syn_recv = us.keys.keys[0].mkt.syn_recv(&quartet(false), Isn(THEIRS));
    assert!(planned(&session, &us, 29).is_none());
    let after = changed(&session, &us, 30);
    assert_eq!(after.flags & Session::SYN_RECV, 0);
    assert_eq!((after.syn_recv.algorithm, after.syn_recv.material.words), (0, [0; 16]));
    // That of a newer key stays, and of one that the session never had a slot for it goes as well.
    session.syn_recv = us.keys.keys[1].mkt.syn_recv(&quartet(false), Isn(THEIRS));
    assert_ne!(changed(&session, &us, 30).flags & Session::SYN_RECV, 0);
    session.syn_recv = key(9, 0, 50).mkt.syn_recv(&quartet(false), Isn(THEIRS));
    assert_eq!(changed(&session, &us, 29).flags & Session::SYN_RECV, 0);
}

#[test]
fn keys_that_are_alike_have_a_slot_each_and_then_nothing_changes() {
    let (one, mut other) = (key(1, 0, 50), key(2, 10, 90));
    other.mkt = one.mkt.clone();
    let us = with_keys(&[one, other]);
    let mut session = changed(&bare(), &us, 5);
    for second in [10, 11, 12] {
        session = changed(&session, &us, second);
        assert_eq!(shown(&session, &us).0, [2, 1]);
        assert!(planned(&session, &us, second).is_none(), "at {second}");
    }
    assert_eq!(shown(&changed(&session, &us, 60), &us).0, [2]);
}

#[test]
fn agreed_keys_stay_whatever_becomes_of_the_chain() {
    let agreed_ones = with_keys(&[key(200, 0, 1000)]);
    let agreed = changed(&bare(), &agreed_ones, 5);
    let agreed = Session { flags: agreed.flags | Session::AGREED, ..agreed };
    let half = Session { flags: Session::LOCAL_ISN | Session::AGREED, ..agreed };
    let renewed = |session: &Session, us: &Neighbor| {
        let now = Now { wall: at(12), ..now() };
        half_open(session, &quartet(false), us, now)
    };
    for key_management in [KeyManagement::External, KeyManagement::Layered] {
        for keys in [vec![key(1, 0, 30)], vec![key(1, 0, 30), key(2, 10, 50)], vec![key(3, 0, 1)]] {
            let us = Neighbor { key_management, ..with_keys(&keys) };
            assert!(is_agreed(&agreed, &us));
            assert!(planned(&agreed, &us, 12).is_none());
            assert!(plan(&agreed, &quartet(false), &us, at(12), Some(1)).is_none());
            assert!(renewed(&half, &us).is_none());
        }
        // On the way to agreed keys, a session has the chain's.
        let us = Neighbor { key_management, ..with_keys(&[key(1, 0, 30), key(2, 10, 50)]) };
        let first = changed(&bare(), &us, 5);
        assert!(!is_agreed(&first, &us));
        assert_eq!(shown(&changed(&first, &us, 10), &us), (vec![2, 1], Some(1), Some(2)));
    }
}

#[test]
fn agreed_keys_go_when_the_neighbours_mode_is_another() {
    let agreed = changed(&bare(), &with_keys(&[key(200, 0, 1000)]), 5);
    let agreed = Session { flags: agreed.flags | Session::AGREED, sent_before: 7, ..agreed };
    let us = with_keys(&[key(1, 0, 30)]);
    assert!(!is_agreed(&agreed, &us));
    let after = changed(&agreed, &us, 6);
    assert_eq!(after.flags, agreed.flags & !Session::AGREED);
    assert_eq!(shown(&after, &us), (vec![1], Some(1), Some(1)));
    assert_eq!((after.sent_before, after.phase), (7, Session::OPEN));
    assert!(planned(&after, &us, 6).is_none());
    let half = Session { flags: Session::LOCAL_ISN | Session::AGREED, ..agreed };
    let now = Now { wall: at(6), ..now() };
    let renewed = half_open(&half, &quartet(false), &us, now).unwrap();
    assert_eq!(renewed.flags, Session::LOCAL_ISN);
    assert!(half_open(&renewed, &quartet(false), &us, now).is_none());
}

#[test]
fn an_agreed_key_that_looks_like_one_of_the_chain_is_none_of_it() {
    let us = with_keys(&[key(1, 0, 30)]);
    let mut other = key(1, 0, 30);
    other.mkt = mkt("agreed", Algorithm::HmacSha1_96);
    (other.mkt.send_id.0, other.mkt.recv_id.0) = (1, 1);
    let agreed = changed(&bare(), &with_keys(&[other]), 5);
    let agreed = Session { flags: agreed.flags | Session::AGREED, ..agreed };
    assert_eq!(key_in_slot(&agreed, &quartet(false), agreed.rollover.current, &us.keys), None);
    // What the session began with may be there still.
    let began = changed(&bare(), &us, 5);
    let began = Session { flags: began.flags | Session::AGREED, ..began };
    assert_eq!(key_in_slot(&began, &quartet(false), began.rollover.current, &us.keys), Some(1));
}
