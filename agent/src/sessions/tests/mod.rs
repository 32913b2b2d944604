//! Each step of a session's life, and that nothing an attacker sends leaves anything behind.

use std::sync::Arc;

use proptest::prelude::*;
use tcpauth_common::{
    Algorithm, DropReason, Isn, SeqNumber,
    key_choice::{self, KeyChoice},
    layout::{Direction, Held, KeyMaterial, KeySlot, Passed, Session, SessionCounters},
};

use super::{
    HOLD_LIMIT, Monotonic, Now, Outcome, on_held,
    testing::{Draft, HELD_AT, mirrored, mkt, neighbor, now, quartet},
};
use crate::{
    config::Neighbor,
    keys::{KeyChain, Role},
};

mod chains;
mod plan;

const SYN: u8 = 2;
const RST: u8 = 4;
const SYN_ACK: u8 = 18;
const RST_ACK: u8 = 20;
const OURS: u32 = 0xffff_fff0;
const THEIRS: u32 = 77_000;

const IN: Direction = Direction::Inbound;
const OUT: Direction = Direction::Outbound;

fn us() -> Neighbor {
    neighbor("192.0.2.1")
}

fn decide(draft: &Draft, existing: Option<&Session>) -> Outcome {
    let (held, frame) = draft.hold();
    on_held(&held, &frame, &us(), existing, None, now())
}

fn installed(outcome: Outcome) -> Session {
    match outcome {
        Outcome::Install(session) => *session,
        Outcome::Change(_) => panic!("changed in its place"),
        Outcome::Release => panic!("released without a session"),
        Outcome::Refuse(reason) => panic!("refused: {reason:?}"),
    }
}

fn refused(outcome: Outcome) -> DropReason {
    match outcome {
        Outcome::Refuse(reason) => reason,
        Outcome::Install(_) => panic!("installed"),
        Outcome::Change(_) => panic!("changed"),
        Outcome::Release => panic!("released"),
    }
}

/// `session` with the change that is made in its place.
fn changed(outcome: Outcome, session: &Session) -> Session {
    match outcome {
        Outcome::Change(change) => {
            assert!(change.is_of(session));
            let mut changed = *session;
            change.apply(&mut changed, HELD_AT.0);
            changed
        }
        Outcome::Install(_) => panic!("put whole"),
        Outcome::Release => panic!("released"),
        Outcome::Refuse(reason) => panic!("refused: {reason:?}"),
    }
}

fn is_released(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Release)
}

fn same_keys(a: &KeySlot, b: &KeySlot) -> bool {
    let flags = |slot: &KeySlot| slot.flags & KeySlot::EXCLUDE_OPTIONS;
    (a.algorithm, a.send_id, a.recv_id, flags(a), a.send.words, a.recv.words)
        == (b.algorithm, b.send_id, b.recv_id, flags(b), b.send.words, b.recv.words)
}

fn peer_syn(isn: u32) -> Draft {
    let us = us();
    let key = us.keys.first().syn_recv(&quartet(false), Isn(isn)).material;
    Draft::new(IN, SYN, isn, 0).signed(&mirrored(us.keys.first()), key)
}

/// A segment of the peer under traffic keys.
fn peer_answer(flags: u8, seq: u32, ack: u32) -> Draft {
    let us = us();
    let key =
        us.keys.first().traffic_slot(&quartet(false), Isn(ack.wrapping_sub(1)), Isn(seq), Role::Server).recv;
    Draft::new(IN, flags, seq, ack).signed(&mirrored(us.keys.first()), key)
}

fn syn_sent() -> Session {
    installed(decide(&Draft::new(OUT, SYN, OURS, 0), None))
}

fn syn_received() -> Session {
    installed(decide(&peer_syn(THEIRS), None))
}

fn established() -> Session {
    let mut session = installed(decide(&Draft::new(OUT, SYN_ACK, OURS, THEIRS + 1), Some(&syn_received())));
    session.counters = SessionCounters {
        passed: Passed { verified_segments: 9, ..Passed::default() },
        ..SessionCounters::default()
    };
    session.send_seq = (1 << 32) | 5;
    session
}

#[test]
fn step_1_our_syn_begins_a_session() {
    let session = syn_sent();
    assert_eq!(session.flags, Session::LOCAL_ISN | Session::CLIENT);
    assert_eq!((session.local_isn, session.send_seq), (Isn(OURS), u64::from(OURS)));
    assert_eq!((session.local_wscale, session.local_window, session.neighbor), (7, 64_240, 1));
    let key = us().keys.first().syn_send(&quartet(false), Isn(OURS));
    assert!(session.syn_send.material.words == key.material.words, "signed by another key");
    assert_eq!(session.slots[0].algorithm, 0, "no traffic keys before both ISNs are known");
    assert!(is_released(&decide(&Draft::new(OUT, SYN, OURS, 0), Some(&session))), "the same SYN again");
}

#[test]
fn step_2_the_peers_syn_begins_a_session_once_it_verified() {
    let session = syn_received();
    assert_eq!(session.flags, Session::PEER_ISN | Session::SYN_RECV);
    assert_eq!(
        (session.peer_isn, session.syn_recv_isn, session.recv_seq),
        (Isn(THEIRS), Isn(THEIRS), 77_000)
    );
    assert_eq!((session.local_ack, session.slots[0].algorithm), (THEIRS, 0));
    assert!(is_released(&decide(&peer_syn(THEIRS), Some(&session))), "the same SYN again");
}

#[test]
fn step_2_a_syn_that_does_not_verify_is_named() {
    let mut other = mirrored(us().keys.first());
    other.master_key = mkt("another", Algorithm::HmacSha1_96).master_key;
    let key = mirrored(&other).syn_recv(&quartet(false), Isn(THEIRS)).material;
    let wrong_mac = Draft::new(IN, SYN, THEIRS, 0).signed(&other, key);
    assert_eq!(refused(decide(&wrong_mac, None)), DropReason::WrongMac);

    assert_eq!(refused(decide(&Draft::new(IN, SYN, THEIRS, 0), None)), DropReason::NoOption);

    let mut unknown = peer_syn(THEIRS);
    unknown.signature.as_mut().unwrap().0.send_id.0 = 9;
    assert_eq!(refused(decide(&unknown, None)), DropReason::UnknownKeyId);

    let mut long = peer_syn(THEIRS);
    long.signature.as_mut().unwrap().0.algorithm = Algorithm::HmacSha256_128;
    assert_eq!(refused(decide(&long, None)), DropReason::WrongLength);

    let mut twice = peer_syn(THEIRS);
    twice.options = [vec![19, 18], vec![0; 16], vec![1, 1]].concat();
    assert_eq!(refused(decide(&twice, None)), DropReason::OptionTwice);
}

#[test]
fn step_2_simultaneous_open_in_either_order() {
    let wanted = us().keys.first().traffic_slot(&quartet(false), Isn(OURS), Isn(THEIRS), Role::Server);
    let ours_first = installed(decide(&peer_syn(THEIRS), Some(&syn_sent())));
    let theirs_first = installed(decide(&Draft::new(OUT, SYN, OURS, 0), Some(&syn_received())));
    for session in [ours_first, theirs_first] {
        assert_eq!(
            session.flags,
            Session::LOCAL_ISN | Session::PEER_ISN | Session::SYN_RECV,
            "the client is the end with the lower address"
        );
        assert!(same_keys(&session.slots[0], &wanted));
        assert!(
            session.syn_send.material.words
                == us().keys.first().syn_send(&quartet(false), Isn(OURS)).material.words
        );
        assert!(
            session.syn_recv.material.words
                == us().keys.first().syn_recv(&quartet(false), Isn(THEIRS)).material.words
        );
    }
}

#[test]
fn step_3_our_syn_ack_brings_the_traffic_keys() {
    let session = installed(decide(&Draft::new(OUT, SYN_ACK, OURS, THEIRS + 1), Some(&syn_received())));
    assert!(same_keys(
        &session.slots[0],
        &us().keys.first().traffic_slot(&quartet(false), Isn(OURS), Isn(THEIRS), Role::Server)
    ));
    assert_eq!((session.local_ack, session.recv_seq), (THEIRS + 1, 77_000));
    let again = decide(&Draft::new(OUT, SYN_ACK, OURS, THEIRS + 1), Some(&session));
    assert!(is_released(&again), "the same SYN-ACK again");
    let orphan = decide(&Draft::new(OUT, SYN_ACK, OURS, THEIRS + 1), None);
    assert_eq!(refused(orphan), DropReason::NoSession);
    let to_nobody = decide(&Draft::new(OUT, SYN_ACK, OURS, THEIRS + 1), Some(&syn_sent()));
    assert_eq!(refused(to_nobody), DropReason::NoSession);
}

#[test]
fn step_3_a_syn_cookie_changes_our_isn() {
    let first = established();
    let second = installed(decide(&Draft::new(OUT, SYN_ACK, 555, THEIRS + 1), Some(&first)));
    assert_eq!((second.local_isn, second.peer_isn, second.send_seq), (Isn(555), Isn(THEIRS), 555));
    assert_eq!(second.counters.passed.verified_segments, 9, "the same connection goes on");
}

#[test]
fn step_4_the_peers_syn_ack_has_to_verify() {
    let before = syn_sent();
    let session = installed(decide(&peer_answer(SYN_ACK, THEIRS, OURS.wrapping_add(1)), Some(&before)));
    assert!(same_keys(
        &session.slots[0],
        &us().keys.first().traffic_slot(&quartet(false), Isn(OURS), Isn(THEIRS), Role::Server)
    ));
    assert_eq!((session.peer_isn, session.recv_seq, session.local_ack), (Isn(THEIRS), 77_000, THEIRS));
    assert_eq!(session.created, before.created);

    let mut forged = peer_answer(SYN_ACK, THEIRS, OURS.wrapping_add(1));
    forged.signature.as_mut().unwrap().1 = KeyMaterial { words: [7; 16] };
    assert_eq!(refused(decide(&forged, Some(&before))), DropReason::WrongMac);
    let orphan = decide(&peer_answer(SYN_ACK, THEIRS, OURS.wrapping_add(1)), None);
    assert_eq!(refused(orphan), DropReason::NoSession);
}

#[test]
fn step_5_a_closed_port_answers_by_rst() {
    let ours = installed(decide(&Draft::new(OUT, RST_ACK, 0, THEIRS + 1), Some(&syn_received())));
    assert!(same_keys(
        &ours.slots[0],
        &us().keys.first().traffic_slot(&quartet(false), Isn(0), Isn(THEIRS), Role::Server)
    ));
    let theirs = installed(decide(&peer_answer(RST_ACK, 0, OURS.wrapping_add(1)), Some(&syn_sent())));
    assert!(same_keys(
        &theirs.slots[0],
        &us().keys.first().traffic_slot(&quartet(false), Isn(OURS), Isn(0), Role::Server)
    ));

    let mut forged = peer_answer(RST, 0, OURS.wrapping_add(1));
    forged.signature = None;
    assert_eq!(refused(decide(&forged, Some(&syn_sent()))), DropReason::NoOption);
    assert_eq!(refused(decide(&Draft::new(OUT, RST, 1, 0), None)), DropReason::NoSession);
    assert!(is_released(&decide(&Draft::new(OUT, RST, 1, 0), Some(&established()))));
}

#[test]
fn step_6_a_new_syn_leaves_the_old_session_until_it_is_answered() {
    let old = established();
    let both = changed(decide(&peer_syn(4000), Some(&old)), &old);
    assert!(same_keys(&both.slots[0], &old.slots[0]));
    assert_eq!((both.local_isn, both.peer_isn, both.syn_recv_isn), (old.local_isn, old.peer_isn, Isn(4000)));
    assert_eq!((both.send_seq, both.counters), (old.send_seq, old.counters));
    assert!(
        both.syn_recv.material.words == us().keys.first().syn_recv(&quartet(false), Isn(4000)).material.words
    );

    for (flags, isn) in [(SYN_ACK, 900), (RST_ACK, 0)] {
        let new = installed(decide(&Draft::new(OUT, flags, isn, 4001), Some(&both)));
        assert!(same_keys(
            &new.slots[0],
            &us().keys.first().traffic_slot(&quartet(false), Isn(isn), Isn(4000), Role::Server)
        ));
        assert_eq!((new.recv_seq, new.send_seq), (4000, u64::from(isn)));
        assert_eq!(new.counters, SessionCounters::default(), "another connection");
    }
}

#[test]
fn step_6_a_new_syn_takes_the_place_of_a_connection_without_keys() {
    let failed = Session { phase: Session::FAILED, sent_before: 9, received_before: 8, ..established() };
    // Heard before it failed, or not.
    for heard in [THEIRS, 4000] {
        let failed = Session { syn_recv_isn: Isn(heard), ..failed };
        let new = installed(decide(&peer_syn(4000), Some(&failed)));
        assert_eq!((new.phase, new.sent_before, new.received_before), (Session::OPEN, 0, 0));
        assert_eq!((new.flags, new.peer_isn), (Session::PEER_ISN | Session::SYN_RECV, Isn(4000)));
        assert!(new.slots.iter().all(|slot| slot.algorithm == 0));
    }
    // As long as it may come to keys, it stays.
    let speaking = Session { phase: Session::HANDSHAKE, ..failed };
    let both = changed(decide(&peer_syn(4000), Some(&speaking)), &speaking);
    assert_eq!((both.phase, both.peer_isn, both.syn_recv_isn), (Session::HANDSHAKE, Isn(THEIRS), Isn(4000)));
}

#[test]
fn step_6_an_old_syn_played_again_puts_nothing_back_that_moved_meanwhile() {
    let seen = Session { flags: established().flags | Session::ADOPTED, ..established() };
    let replayed = decide(&peer_syn(4000), Some(&seen));
    let mut moved = seen;
    moved.recv_seq += 1000;
    moved.authenticated = 1;
    moved.rollover.received_since += 7;
    moved.counters.passed.verified_segments += 1;
    let after = changed(replayed, &moved);
    assert_eq!(
        (after.recv_seq, after.authenticated, after.counters),
        (moved.recv_seq, moved.authenticated, moved.counters)
    );
    assert_eq!((after.flags, after.rollover), (moved.flags, moved.rollover));
    assert_eq!((after.syn_recv_isn, after.peer_isn), (Isn(4000), Isn(THEIRS)));
    assert_eq!(after.last_segment, moved.last_segment);
}

#[test]
fn step_6_an_old_syn_played_again_does_not_displace_the_one_our_end_answers() {
    let first = syn_received();
    let replayed = installed(decide(&peer_syn(4000), Some(&first)));
    assert_eq!(replayed.peer_isn, Isn(THEIRS));
    let session = installed(decide(&Draft::new(OUT, SYN_ACK, OURS, THEIRS + 1), Some(&replayed)));
    assert!(same_keys(
        &session.slots[0],
        &us().keys.first().traffic_slot(&quartet(false), Isn(OURS), Isn(THEIRS), Role::Server)
    ));
}

#[test]
fn step_6_our_new_syn_replaces_the_session() {
    let session = installed(decide(&Draft::new(OUT, SYN, 31, 0), Some(&established())));
    assert_eq!((session.flags, session.local_isn), (Session::LOCAL_ISN | Session::CLIENT, Isn(31)));
    assert_eq!((session.counters, session.slots[0].algorithm), (SessionCounters::default(), 0));
}

#[test]
fn what_was_held_too_long_is_refused() {
    let (held, frame) = peer_syn(THEIRS).hold();
    let at = |nanos: u64| {
        on_held(&held, &frame, &us(), None, None, Now { monotonic: Monotonic(HELD_AT.0 + nanos), ..now() })
    };
    let limit = HOLD_LIMIT.as_nanos() as u64;
    installed(at(limit));
    assert_eq!(refused(at(limit + 1)), DropReason::HeldTooLong);
}

#[test]
fn gtsm_is_checked_before_the_mac() {
    let mut near = us();
    near.ttl_security = Some(1);
    for (hop_limit, passes) in [(255, true), (254, false), (64, false)] {
        let mut draft = peer_syn(THEIRS);
        draft.hop_limit = hop_limit;
        let (held, frame) = draft.hold();
        match on_held(&held, &frame, &near, None, None, now()) {
            Outcome::Install(_) => assert!(passes),
            Outcome::Refuse(reason) => assert_eq!((passes, reason), (false, DropReason::WrongHopLimit)),
            Outcome::Change(_) | Outcome::Release => panic!("there is no session"),
        }
    }
}

#[test]
fn ipv6_and_every_algorithm() {
    for algorithm in Algorithm::TCP_AO {
        let mut us = us();
        us.keys = Arc::new(KeyChain::of(mkt("pass", algorithm)));
        let key = us.keys.first().syn_recv(&quartet(true), Isn(THEIRS)).material;
        let mut draft = Draft::new(IN, SYN, THEIRS, 0).signed(&mirrored(us.keys.first()), key);
        draft.quartet = quartet(true);
        let (held, frame) = draft.hold();
        let session = installed(on_held(&held, &frame, &us, None, None, now()));
        assert_eq!(session.syn_recv.algorithm, algorithm as u8);
    }
}

/// A session's entry without its keys, which are not shown.
#[derive(Clone, Copy, Debug)]
struct Entry {
    flags: u32,
    isns: [u32; 3],
    seen: u32,
}

impl Entry {
    fn session(self) -> Session {
        let [local, peer, syn] = self.isns.map(Isn);
        Session {
            flags: self.flags,
            local_isn: local,
            peer_isn: peer,
            syn_recv_isn: syn,
            seen: self.seen,
            ..Session::default()
        }
    }
}

fn any_entry() -> impl Strategy<Value = Option<Entry>> {
    let entry = (0u32..16, any::<[u32; 3]>(), 0u32..16);
    proptest::option::of(entry.prop_map(|(flags, isns, seen)| Entry { flags, isns, seen }))
}

fn any_held() -> impl Strategy<Value = Held> {
    let offsets = (prop_oneof![Just(14u16), any::<u16>()], prop_oneof![Just(34u16), Just(54), any::<u16>()]);
    let ethertype = prop_oneof![Just(0x0800u16), Just(0x86dd), any::<u16>()];
    (offsets, ethertype, any::<bool>(), 0u8..3).prop_map(
        |((l3_offset, l4_offset), ethertype, ipv6, direction)| {
            let quartet = quartet(ipv6);
            Held {
                time: HELD_AT.0,
                quartet,
                neighbor: 1,
                direction,
                l3_offset,
                l4_offset,
                ethertype,
                ..Held::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn any_frame_is_decided_without_panic(
        held in any_held(),
        frame in proptest::collection::vec(any::<u8>(), 0..200),
        existing in any_entry(),
    ) {
        let existing = existing.map(Entry::session);
        let outcome = on_held(&held, &frame, &us(), existing.as_ref(), None, now());
        if held.direction != OUT as u8 {
            prop_assert!(!matches!(outcome, Outcome::Install(_) | Outcome::Change(_)), "random octets verified");
        }
    }

    #[test]
    fn damaged_segments_of_the_peer_install_nothing(
        answer: bool,
        seq: u32,
        at in 0usize..80,
        bit in 0u8..8,
        existing in any_entry(),
    ) {
        let existing = existing.map(Entry::session);
        let draft = if answer { peer_answer(SYN_ACK, seq, OURS.wrapping_add(1)) } else { peer_syn(seq) };
        let (held, mut frame) = draft.hold();
        // Not under the MAC: Ethernet, the IP header but for its addresses, and the checksum of TCP.
        let at = 34 + at % (frame.len() - 34 - 6);
        if (50..52).contains(&at) {
            return Ok(());
        }
        frame[at] ^= 1 << bit;
        let outcome = on_held(&held, &frame, &us(), existing.as_ref(), None, now());
        prop_assert!(!matches!(outcome, Outcome::Install(_) | Outcome::Change(_)));
    }

    #[test]
    fn what_is_installed_has_keys_for_what_is_known(
        flags in prop_oneof![Just(SYN), Just(SYN_ACK), Just(RST), Just(RST_ACK)],
        seq: u32,
        ack: u32,
        existing in any_entry(),
    ) {
        let existing = existing.map(Entry::session);
        let (held, frame) = Draft::new(OUT, flags, seq, ack).hold();
        if let Outcome::Install(session) = on_held(&held, &frame, &us(), existing.as_ref(), None, now()) {
            let both = Session::LOCAL_ISN | Session::PEER_ISN;
            prop_assert_eq!(session.flags & both == both, session.slots[0].algorithm != 0);
            prop_assert!(session.flags & Session::LOCAL_ISN != 0);
            prop_assert_eq!((session.local_isn, session.neighbor), (Isn(seq), 1));
            prop_assert!(existing.is_some() || flags == SYN);
            // Held twice, it is released twice.
            let again = on_held(&held, &frame, &us(), Some(&session), None, now());
            prop_assert!(is_released(&again));
        }
    }

    /// What is released must not be held again: that would never end.
    #[test]
    fn what_is_released_has_its_key(
        outbound: bool,
        flags in prop_oneof![Just(SYN), Just(SYN_ACK), Just(RST), Just(RST_ACK)],
        existing in any_entry(),
        seq in prop_oneof![Just(0u32), any::<u32>()],
        ack in prop_oneof![Just(0u32), any::<u32>()],
        repeat in 0usize..4,
        answer in 0usize..4,
    ) {
        let existing = existing.map(Entry::session);
        // Often enough, numbers that the session knows.
        let known = existing.map_or([0; 3], |session| {
            [session.local_isn.0, session.peer_isn.0, session.syn_recv_isn.0]
        });
        let seq = known.get(repeat).copied().unwrap_or(seq);
        let ack = known.get(answer).map_or(ack, |isn| isn.wrapping_add(1));
        let us = us();
        let draft = if outbound {
            Draft::new(OUT, flags, seq, ack)
        } else if flags == SYN {
            peer_syn(seq)
        } else {
            let local_isn = Isn(known[0]);
            let key = us.keys.first().traffic_slot(&quartet(false), local_isn, Isn(seq), Role::Server).recv;
            Draft::new(IN, flags, seq, ack).signed(&mirrored(us.keys.first()), key)
        };
        let (held, frame) = draft.hold();
        let session = match on_held(&held, &frame, &us, existing.as_ref(), None, now()) {
            Outcome::Install(session) => *session,
            outcome @ Outcome::Change(_) => changed(outcome, &existing.unwrap()),
            Outcome::Release => existing.unwrap(),
            Outcome::Refuse(_) => return Ok(()),
        };
        let choice = if outbound {
            key_choice::outbound(Some(&session), flags, SeqNumber(seq), SeqNumber(ack))
        } else {
            key_choice::inbound(Some(&session), flags, SeqNumber(seq), SeqNumber(ack))
        };
        prop_assert_ne!(choice, KeyChoice::Hold);
    }
}
