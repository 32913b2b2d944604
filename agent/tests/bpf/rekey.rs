//! The keys of a session at work change in its place: what is named changes, and nothing else does.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tcpauth::keys::Mkt;
use tcpauth_common::{
    Algorithm, DropReason, Isn,
    layout::{KeyChange, KeyMaterial, KeySlot, Session, SynKey},
    rollover::{NO_CUTOFF, NO_SLOT, Rollover},
};

use super::{
    connection::{ACK, Connection, LOCAL_ISN, PEER_ISN, SYN, USABLE, key, order},
    context::{Context, Verdict},
    lab::{Lab, octets, program},
    segment::Segment,
};

/// A session under the keys numbered 0, 1 and so on in as many slots, the last the newest, in the middle of its life.
fn session_with(connection: &Connection, slots: usize) -> Session {
    let mut session = Session {
        send_seq: 0x3_0000_1234,
        recv_seq: 0x2_0000_4321,
        last_segment: 99,
        created: 77,
        seen: Session::FIN_SENT,
        ..connection.session()
    };
    session.counters.passed.signed_segments = 5;
    session.counters.dropped[3] = 6;
    for slot in 0..slots {
        session.slots[slot] = slot_of(connection, &key(slot as u8));
    }
    let newest_first: Vec<u32> = (0..slots as u32).rev().collect();
    session.rollover = Rollover {
        order: order(&newest_first),
        current: 0,
        rnext: 0,
        received: 0,
        cutoff: [NO_CUTOFF; 3],
        current_since: 11,
        received_since: 22,
    };
    session
}

fn slot_of(connection: &Connection, mkt: &Mkt) -> KeySlot {
    connection.slot(mkt, LOCAL_ISN, PEER_ISN)
}

/// Of a session of so many keys, what changes nothing.
fn no_change(connection: &Connection, session: &Session) -> KeyChange {
    KeyChange { usable: [USABLE; 3], ..KeyChange::nothing(&connection.quartet(), session) }
}

fn rekey(lab: &mut Lab, change: &KeyChange) -> u32 {
    lab.answer("rekey", octets(change))
}

/// The session after a change.
fn rekeyed(lab: &mut Lab, connection: &Connection, change: &KeyChange) -> Session {
    assert_eq!(rekey(lab, change), KeyChange::DONE);
    lab.session(connection).unwrap()
}

fn assert_same(left: &Session, right: &Session) {
    assert_eq!(octets(left), octets(right));
}

#[test]
fn a_new_key_takes_a_free_slot_and_nothing_else_moves() {
    let connection = Connection::plain();
    let before = session_with(&connection, 1);
    let mut lab = Lab::with(&connection, Some(&before));
    let mut change = no_change(&connection, &before);
    assert_same(&rekeyed(&mut lab, &connection, &change), &before);

    change.written = 0b010;
    change.order = order(&[1, 0]);
    change.slots[1] = slot_of(&connection, &key(1));
    change.slots[1].flags = KeySlot::EXCLUDE_OPTIONS;
    change.usable = [USABLE, KeySlot::ACCEPT, 0];
    // What is not written is not read.
    change.slots[0] = slot_of(&connection, &key(5));
    change.slots[2] = slot_of(&connection, &key(6));
    let mut wanted = before;
    wanted.slots[1] = change.slots[1];
    wanted.slots[1].flags = KeySlot::EXCLUDE_OPTIONS | KeySlot::ACCEPT;
    wanted.rollover.order = order(&[1, 0]);
    assert_same(&rekeyed(&mut lab, &connection, &change), &wanted);

    // Its send-lifetime begins: it is asked for, and seals nothing before the peer wants it.
    (change.written, change.rnext, change.current, change.usable) = (0, 1, 1, [USABLE, USABLE, 0]);
    wanted.slots[1].flags = KeySlot::EXCLUDE_OPTIONS | USABLE;
    wanted.rollover.rnext = 1;
    assert_same(&rekeyed(&mut lab, &connection, &change), &wanted);
}

#[test]
fn a_key_that_goes_leaves_nothing_behind() {
    let connection = Connection::plain();
    let mut before = session_with(&connection, 3);
    before.rollover.cutoff = [5, 6, NO_CUTOFF];
    before.rollover.received = 1;
    let mut lab = Lab::with(&connection, Some(&before));
    let mut change = no_change(&connection, &before);
    (change.order, change.rnext, change.current) = (order(&[2]), 2, 2);
    let after = rekeyed(&mut lab, &connection, &change);
    for gone in [0, 1] {
        assert_eq!(octets(&after.slots[gone]), octets(&KeySlot::default()));
    }
    assert_eq!(octets(&after.slots[2]), octets(&before.slots[2]));
    assert!(after.rollover.current_since > 11);
    let wanted = Rollover {
        order: order(&[2]),
        current: 2,
        rnext: 2,
        received: NO_SLOT,
        cutoff: [NO_CUTOFF; 3],
        current_since: after.rollover.current_since,
        received_since: 22,
    };
    assert_eq!(after.rollover, wanted);
}

#[test]
fn the_current_key_stays_unless_it_may_not_be_sent_with_or_management_says_so() {
    let connection = Connection::plain();
    let before = session_with(&connection, 2);
    let mut lab = Lab::with(&connection, None);
    let mut current_after = |usable, flags, written, current| {
        lab.put(&connection, &before);
        let mut change = no_change(&connection, &before);
        (change.usable, change.flags, change.written, change.current) = (usable, flags, written, current);
        change.slots = [slot_of(&connection, &key(7)); 3];
        let rollover = rekeyed(&mut lab, &connection, &change).rollover;
        (rollover.current, rollover.current_since > 11)
    };
    let (both, now) = ([USABLE; 3], KeyChange::MOVE_CURRENT);
    assert_eq!(current_after(both, 0, 0, 1), (0, false), "the peer has not asked");
    assert_eq!(current_after(both, now, 0, 1), (1, true));
    assert_eq!(current_after(both, now, 0, 0), (0, false));
    assert_eq!(current_after([KeySlot::ACCEPT, USABLE, 0], 0, 0, 1), (1, true), "its send-lifetime is over");
    assert_eq!(current_after([KeySlot::ACCEPT, KeySlot::ACCEPT, 0], 0, 0, NO_SLOT), (NO_SLOT, true));
    assert_eq!(current_after(both, 0, 0b01, 1), (1, true), "another key is in its slot");
    assert_eq!(current_after(both, 0, 0b01, 0), (0, true), "which it may be");
    assert_eq!(current_after(both, now, 0, 2), (NO_SLOT, true), "not in the order");
    assert_eq!(current_after(both, now, 0, u32::MAX), (NO_SLOT, true));
}

#[test]
fn a_cut_off_key_is_back_when_the_newer_one_goes() {
    let connection = Connection::plain();
    let mut before = session_with(&connection, 3);
    before.rollover.cutoff = [5, 6, NO_CUTOFF];
    let mut lab = Lab::with(&connection, Some(&before));
    let mut change = no_change(&connection, &before);
    // The oldest goes: what the others have stays.
    change.order = order(&[2, 1]);
    (change.current, change.rnext) = (1, 1);
    assert_eq!(rekeyed(&mut lab, &connection, &change).rollover.cutoff, [NO_CUTOFF, 6, NO_CUTOFF]);
    lab.put(&connection, &before);
    change.order = order(&[1, 0]);
    assert_eq!(rekeyed(&mut lab, &connection, &change).rollover.cutoff, [NO_CUTOFF; 3]);
    // A slot that is written anew has none of what was said of its key before.
    lab.put(&connection, &before);
    (change.order, change.written) = (order(&[0, 2, 1]), 0b001);
    assert_eq!(rekeyed(&mut lab, &connection, &change).rollover.cutoff, [NO_CUTOFF, 6, NO_CUTOFF]);
}

#[test]
fn a_key_that_overtakes_the_one_that_cut_it_off_is_back() {
    let connection = Connection::plain();
    let mut before = session_with(&connection, 3);
    before.rollover.cutoff = [5, 6, NO_CUTOFF];
    let mut lab = Lab::with(&connection, None);
    let mut cutoff_after = |newest_first: &[u32]| {
        lab.put(&connection, &before);
        let change = KeyChange { order: order(newest_first), ..no_change(&connection, &before) };
        rekeyed(&mut lab, &connection, &change).rollover.cutoff
    };
    assert_eq!(cutoff_after(&[2, 1, 0]), [5, 6, NO_CUTOFF], "nothing changes");
    assert_eq!(cutoff_after(&[1, 2, 0]), [5, NO_CUTOFF, NO_CUTOFF]);
    assert_eq!(cutoff_after(&[2, 0, 1]), [NO_CUTOFF, 6, NO_CUTOFF]);
    assert_eq!(cutoff_after(&[0, 2, 1]), [NO_CUTOFF, 6, NO_CUTOFF]);
    assert_eq!(cutoff_after(&[0, 1, 2]), [NO_CUTOFF; 3]);
}

#[test]
fn a_session_that_is_another_neighbours_goes_on() {
    let connection = Connection::plain();
    let before = session_with(&connection, 2);
    let mut lab = Lab::with(&connection, Some(&before));
    let change = KeyChange { neighbor: before.neighbor + 1, ..no_change(&connection, &before) };
    let wanted = Session { neighbor: before.neighbor + 1, ..before };
    assert_same(&rekeyed(&mut lab, &connection, &change), &wanted);
}

#[test]
fn another_connection_is_left_alone() {
    let connection = Connection::plain();
    let session = session_with(&connection, 1);
    let mut lab = Lab::with(&connection, None);
    let change = no_change(&connection, &session);
    assert_eq!(rekey(&mut lab, &change), KeyChange::NO_SESSION);
    lab.put(&connection, &session);
    for (local, peer) in [(LOCAL_ISN + 1, PEER_ISN), (LOCAL_ISN, PEER_ISN + 1)] {
        let other = KeyChange { local_isn: Isn(local), peer_isn: Isn(peer), order: order(&[]), ..change };
        assert_eq!(rekey(&mut lab, &other), KeyChange::OTHER_CONNECTION);
    }
    for flags in [Session::LOCAL_ISN, Session::PEER_ISN, 0] {
        let half = Session { flags, ..session };
        lab.put(&connection, &half);
        assert_eq!(rekey(&mut lab, &change), KeyChange::OTHER_CONNECTION);
        assert_same(&lab.session(&connection).unwrap(), &half);
    }
    lab.put(&connection, &session);
    assert_eq!(lab.answer("rekey", &octets(&change)[..size_of::<KeyChange>() - 1]), KeyChange::MALFORMED);
    assert_same(&lab.session(&connection).unwrap(), &session);
}

/// One CPU seals and verifies under a key that stays, while on the other the keys beside it change.
#[test]
fn segments_pass_while_keys_change() {
    const SEGMENTS: u64 = 20_000;
    let connection = Connection::plain();
    let before = session_with(&connection, 1);
    let mut lab = Lab::with(&connection, Some(&before));
    let recv_seq = before.recv_seq as u32;
    let ours = connection.outbound(ACK, before.send_seq as u32).frame();
    let theirs = connection.inbound(ACK, recv_seq);
    let theirs = connection.under(&key(0)).sign(&before.slots[0].recv, theirs, 2).frame();
    let mut session = before;
    session.local_ack = recv_seq;
    lab.put(&connection, &session);
    let context = |name: &str, ifindex| match name {
        "seal" => Context { mark: ifindex, ..Context::default() },
        _ => Context { ifindex, ..Context::default() },
    };
    let ifindex = lab.ifindex;
    let [seal, ingress] = ["seal", "ingress"].map(|name| {
        let fd = program(lab.ebpf(), name).fd().unwrap().as_fd().try_clone_to_owned().unwrap();
        (context(name, ifindex), fd)
    });
    let done = AtomicBool::new(false);
    let changes = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            for _ in 0..SEGMENTS {
                assert_eq!(seal.0.run(seal.1.as_fd(), &ours).unwrap().0, Verdict::Redirect);
                assert_eq!(ingress.0.run(ingress.1.as_fd(), &theirs).unwrap().0, Verdict::Pass);
            }
            done.store(true, Ordering::Release);
        });
        let mut changes = 0u64;
        while !done.load(Ordering::Acquire) && !traffic.is_finished() {
            let mut change = no_change(&connection, &session);
            change.current = 0;
            change.slots[1] = slot_of(&connection, &key(changes as u8 | 1));
            change.slots[2] = slot_of(&connection, &key(changes as u8 | 1));
            (change.written, change.order) = match changes % 4 {
                0 => (0b010, order(&[1, 0])),
                1 => (0b100, order(&[2, 1, 0])),
                2 => (0b010, order(&[1, 2, 0])),
                _ => (0, order(&[0])),
            };
            assert_eq!(rekey(&mut lab, &change), KeyChange::DONE);
            changes += 1;
        }
        traffic.join().unwrap();
        changes
    });
    assert!(changes > 100, "only {changes} changes");
    let after = lab.session(&connection).unwrap();
    let passed = after.counters.passed;
    let signed = before.counters.passed.signed_segments;
    assert_eq!((passed.signed_segments - signed, passed.verified_segments), (SEGMENTS, SEGMENTS));
    assert_eq!(after.counters.dropped, before.counters.dropped);
    assert_eq!(lab.counters(connection.neighbor).dropped[DropReason::WrongMac as usize], 0);
    assert_eq!((after.rollover.current, after.rollover.received), (0, 0));
    assert_eq!(after.slots[0].algorithm, Algorithm::HmacSha1_96 as u8);
}

#[test]
fn the_syn_of_a_connection_has_to_verify_anew_once_a_key_goes() {
    let connection = Connection::plain();
    let mut before = session_with(&connection, 2);
    before.flags |= Session::SYN_RECV;
    before.syn_recv_isn = Isn(PEER_ISN);
    before.syn_recv = key(0).syn_recv(&connection.quartet(), Isn(PEER_ISN));
    let keyed = connection.under(&key(0));
    let syn = keyed.sign(&before.syn_recv.material, keyed.inbound(SYN, PEER_ISN), 0);
    let mut lab = Lab::with(&connection, Some(&before));
    lab.verified(&syn);

    let mut change = no_change(&connection, &before);
    for (usable, order) in [([0, USABLE, 0], order(&[1, 0])), ([0, USABLE, 0], order(&[1]))] {
        lab.put(&connection, &before);
        (change.usable, change.order, change.rnext, change.current) = (usable, order, 1, 1);
        change.flags = KeyChange::FORGET_SYN;
        let after = rekeyed(&mut lab, &connection, &change);
        assert_eq!(after.flags & Session::SYN_RECV, 0);
        assert_eq!(octets(&after.syn_recv), octets(&SynKey::default()));
        let (verdict, _) = lab.ingress(&syn.frame());
        assert_eq!(verdict, Verdict::Drop, "it is the daemon's to verify, or refused");
    }
    // While its key stays, it is known.
    lab.put(&connection, &before);
    (change.usable, change.order, change.flags) = ([USABLE, USABLE, 0], order(&[1, 0]), 0);
    rekeyed(&mut lab, &connection, &change);
    lab.verified(&syn);
}

#[test]
fn another_syn_verifies_and_nothing_else_moves() {
    let connection = Connection::plain();
    let mut before = session_with(&connection, 2);
    before.flags |= Session::ADOPTED;
    (before.authenticated, before.rollover.cutoff) = (1, [5, NO_CUTOFF, NO_CUTOFF]);
    let mut lab = Lab::with(&connection, Some(&before));
    let mut seen = before;
    for isn in [PEER_ISN, 4000] {
        let change = KeyChange {
            flags: KeyChange::SET_SYN,
            syn_recv_isn: Isn(isn),
            syn_recv: key(1).syn_recv(&connection.quartet(), Isn(isn)),
            ..KeyChange::nothing(&connection.quartet(), &seen)
        };
        let after = rekeyed(&mut lab, &connection, &change);
        let flags = before.flags | Session::SYN_RECV;
        let wanted = Session { flags, syn_recv_isn: Isn(isn), syn_recv: change.syn_recv, ..before };
        assert_same(&after, &wanted);
        let keyed = connection.under(&key(1));
        let syn = keyed.sign(&change.syn_recv.material, keyed.inbound(SYN, isn), 0);
        lab.verified(&syn);
        // What the programs count meanwhile stays.
        lab.put(&connection, &before);
        (seen.recv_seq, seen.authenticated, seen.counters.passed.signed_segments) = (1, 0, 0);
    }
}

/// One CPU is flooded with segments under a key of zeros, while on the other a slot is filled and emptied: of a key
/// that goes, nothing verifies at any moment, and least of all what is left in its place.
#[test]
fn nothing_verifies_under_a_slot_that_is_emptied() {
    const SEGMENTS: u64 = 60_000;
    let connection = Connection::plain();
    let mut before = session_with(&connection, 1);
    before.local_ack = before.recv_seq as u32;
    let forged = Segment { data: vec![0; 1300], ..connection.inbound(ACK, before.local_ack) };
    let forged = connection.under(&key(1)).sign(&KeyMaterial::default(), forged, 2).frame();
    let mut lab = Lab::with(&connection, Some(&before));
    let context = Context { ifindex: lab.ifindex, ..Context::default() };
    let ingress = program(lab.ebpf(), "ingress").fd().unwrap().as_fd().try_clone_to_owned().unwrap();
    let done = AtomicBool::new(false);
    let (passed, changes) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let pass = |_: &u64| context.run(ingress.as_fd(), &forged).unwrap().0 == Verdict::Pass;
            let passed = (0..SEGMENTS).filter(pass).count();
            done.store(true, Ordering::Release);
            passed
        });
        let mut changes = 0u64;
        let mut change = no_change(&connection, &before);
        change.slots[1] = slot_of(&connection, &key(1));
        while !done.load(Ordering::Acquire) && !flood.is_finished() {
            (change.written, change.order) =
                if changes.is_multiple_of(2) { (0b010, order(&[1, 0])) } else { (0, order(&[0])) };
            assert_eq!(rekey(&mut lab, &change), KeyChange::DONE);
            changes += 1;
        }
        (flood.join().unwrap(), changes)
    });
    assert!(changes > 100, "{changes} changes");
    assert_eq!(passed, 0, "of {SEGMENTS} forged segments during {changes} changes");
}
