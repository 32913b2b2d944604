//! Segments without the option: in connections that were up before they were protected, and until the neighbour has
//! authenticated.

use tcpauth_common::{
    Algorithm, DropReason,
    layout::{Direction, KeyChange, KeySlot, Policy, Session},
};

use super::{
    connection::{ACK, Connection, LOCAL_ISN, PEER_ISN, PSH_ACK, RST, SYN, SYN_ACK, USABLE, key, order},
    context::{Context, Verdict},
    lab::{Lab, octets},
    segment::Segment,
};

const ACCEPT: u8 = Policy::ACCEPT_UNSIGNED;
const TOLD: u8 = Policy::ACCEPT_UNSIGNED | Policy::SIGN;
const FIN: u8 = 0x01;

/// A connection that was taken over, in the middle of its life.
fn adopted(connection: &Connection) -> Session {
    let session = connection.session();
    Session {
        flags: session.flags | Session::ADOPTED,
        send_seq: u64::from(LOCAL_ISN) + 1000,
        recv_seq: u64::from(PEER_ISN) + 1000,
        local_ack: PEER_ISN + 1000,
        largest_segment: 1460,
        ..session
    }
}

/// The connection's neighbour with these flags of [`Policy`], and `session`.
fn lab(connection: &Connection, flags: u8, session: Option<&Session>) -> Lab {
    let mut lab = Lab::with(connection, session);
    lab.set_policy(connection.neighbor, Policy { flags, ..connection.policy() });
    lab
}

/// The same neighbour's connection from another port of ours.
fn second(connection: &Connection) -> Connection {
    let mut second = connection.clone();
    second.local.set_port(50000);
    second
}

fn theirs(connection: &Connection, flags: u8) -> Segment {
    Segment { data: b"unsigned".to_vec(), ..connection.inbound(flags, PEER_ISN + 1000) }
}

fn ours(connection: &Connection, flags: u8) -> Segment {
    Segment {
        data: b"unsigned".to_vec(),
        ack: PEER_ISN + 1000,
        ..connection.outbound(flags, LOCAL_ISN + 1000)
    }
}

fn passes_in(lab: &mut Lab, segment: &Segment) {
    let frame = segment.frame();
    assert_eq!(lab.ingress(&frame), (Verdict::Pass, frame), "{:?}", lab.take_dropped());
}

fn passes_out(lab: &mut Lab, segment: &Segment) {
    let frame = segment.frame();
    assert_eq!(lab.seal(&frame), (Verdict::Redirect, frame), "{:?}", lab.take_dropped());
}

fn is_refused(lab: &mut Lab, connection: &Connection, segment: &Segment, reason: DropReason) {
    lab.expect_drop(connection, Direction::Inbound, Context::default(), &segment.frame(), reason);
}

/// A segment of the neighbour that verifies.
fn verifies(lab: &mut Lab, connection: &Connection) {
    let session = lab.session(connection).unwrap();
    lab.verified(&connection.signed(&session, ACK, PEER_ISN + 1000));
}

#[test]
fn unsigned_segments_pass_both_ways_until_the_first_that_verifies() {
    let connection = Connection::plain();
    let mut lab = lab(&connection, ACCEPT, Some(&adopted(&connection)));
    for _ in 0..3 {
        passes_in(&mut lab, &theirs(&connection, PSH_ACK));
        passes_out(&mut lab, &ours(&connection, PSH_ACK));
    }
    for passed in
        [lab.counters(connection.neighbor).passed, lab.session(&connection).unwrap().counters.passed]
    {
        assert_eq!((passed.unsigned_received, passed.unsigned_sent), (3, 3));
        assert_eq!((passed.verified_segments, passed.signed_segments), (0, 0));
    }
    verifies(&mut lab, &connection);
    assert_eq!(lab.session(&connection).unwrap().authenticated, 1);
    for flags in [ACK, PSH_ACK, RST, RST | ACK, FIN | ACK, SYN, SYN_ACK] {
        is_refused(&mut lab, &connection, &theirs(&connection, flags), DropReason::NoOption);
    }
    let sealed = lab.sealed(&ours(&connection, PSH_ACK));
    assert!(connection.accepts(&connection.session().slots[0].send, &sealed, 0));
}

#[test]
fn a_side_that_is_told_signs_and_still_accepts() {
    let connection = Connection::plain();
    let mut lab = lab(&connection, TOLD, Some(&adopted(&connection)));
    let sealed = lab.sealed(&ours(&connection, PSH_ACK));
    assert!(connection.accepts(&connection.session().slots[0].send, &sealed, 0));
    passes_in(&mut lab, &theirs(&connection, PSH_ACK));
    verifies(&mut lab, &connection);
    is_refused(&mut lab, &connection, &theirs(&connection, PSH_ACK), DropReason::NoOption);
}

#[test]
fn without_a_session_all_pass_until_the_neighbour_has_authenticated_in_another() {
    let connection = Connection::plain();
    let new = second(&connection);
    let mut lab = lab(&connection, ACCEPT, Some(&adopted(&connection)));
    for flags in [SYN, SYN_ACK, ACK, PSH_ACK, RST] {
        passes_in(&mut lab, &theirs(&new, flags));
        passes_out(&mut lab, &ours(&new, flags));
    }
    assert!(lab.take_held().is_none());
    verifies(&mut lab, &connection);
    for flags in [SYN, SYN_ACK, ACK, PSH_ACK, RST] {
        is_refused(&mut lab, &new, &theirs(&new, flags), DropReason::NoOption);
    }
    let frame = ours(&new, ACK).frame();
    lab.expect_drop(&new, Direction::Outbound, Context::default(), &frame, DropReason::NoSession);
    // Our SYN waits for its key.
    lab.seal(&ours(&new, SYN).frame());
    assert!(lab.take_held().is_some());
}

#[test]
fn each_session_has_a_first_segment_of_its_own_but_opens_no_connection() {
    let connection = Connection::plain();
    let other = second(&connection);
    let mut lab = lab(&connection, ACCEPT, Some(&adopted(&connection)));
    lab.put(&other, &adopted(&other));
    verifies(&mut lab, &connection);
    // It was up before, and its segments may have been under way when the neighbour began to sign.
    passes_in(&mut lab, &theirs(&other, PSH_ACK));
    passes_out(&mut lab, &ours(&other, PSH_ACK));
    // What has its ends and begins anew was not.
    for flags in [SYN, SYN_ACK, SYN | RST] {
        is_refused(&mut lab, &other, &theirs(&other, flags), DropReason::NoOption);
    }
    lab.seal(&ours(&other, SYN).frame());
    assert!(lab.take_held().is_some(), "our SYN is signed");
    verifies(&mut lab, &other);
    is_refused(&mut lab, &other, &theirs(&other, PSH_ACK), DropReason::NoOption);
}

#[test]
fn an_option_that_is_there_has_to_be_right() {
    let connection = Connection::plain();
    let session = adopted(&connection);
    let mut lab = lab(&connection, ACCEPT, Some(&session));
    let signed = connection.signed(&session, ACK, PEER_ISN + 1000);
    let with = |options: Vec<u8>| Segment { options, ..connection.inbound(ACK, PEER_ISN + 1000) };
    let mut wrong_mac = signed.clone();
    wrong_mac.options[15] ^= 1;
    let mut unknown = signed.clone();
    unknown.options[2] ^= 1;
    let md5 = [&[1, 1, 19, 18][..], &[7; 16]].concat();
    let cut_short = [&[29, 8][..], &signed.options[2..8]].concat();
    for (segment, reason) in [
        (wrong_mac, DropReason::WrongMac),
        (unknown, DropReason::UnknownKeyId),
        (with(md5.clone()), DropReason::NoOption),
        (with(cut_short), DropReason::WrongLength),
        (with([&signed.options[..], &md5].concat()), DropReason::OptionTwice),
    ] {
        is_refused(&mut lab, &connection, &segment, reason);
        let after = lab.session(&connection).unwrap();
        assert_eq!((after.authenticated, after.last_segment), (0, 0), "{reason:?}");
    }
    for options in [md5, signed.options] {
        let frame = Segment { options, ..ours(&connection, PSH_ACK) }.frame();
        lab.expect_drop(
            &connection,
            Direction::Outbound,
            Context::default(),
            &frame,
            DropReason::OptionTwice,
        );
    }
    assert_eq!(lab.counters(connection.neighbor).passed.verified_segments, 0);
    passes_in(&mut lab, &theirs(&connection, ACK));
}

#[test]
fn a_forged_unsigned_segment_moves_neither_sequence_nor_key_state() {
    let connection = Connection::plain();
    let before = adopted(&connection);
    let mut lab = lab(&connection, ACCEPT, None);
    for (seq, is_in_window) in
        [(PEER_ISN + 1000, true), (PEER_ISN + 30_000, true), (PEER_ISN + 900_000, false), (0, false)]
    {
        for flags in [ACK, PSH_ACK, FIN | ACK, RST, RST | ACK, SYN, SYN_ACK] {
            lab.put(&connection, &before);
            let forged = Segment {
                seq,
                ack: 0x7777_7777,
                window: 0xffff,
                options: vec![3, 3, 14, 0],
                ..theirs(&connection, flags)
            };
            passes_in(&mut lab, &forged);
            let mut after = lab.session(&connection).unwrap();
            let seen = (if flags & FIN != 0 { Session::FIN_RECEIVED } else { 0 })
                | (if flags & RST != 0 { Session::RST_RECEIVED } else { 0 });
            assert_eq!(after.seen, if is_in_window { seen } else { 0 }, "{seq:x} {flags:x}");
            assert_eq!(after.last_segment != 0, is_in_window, "{seq:x} {flags:x}");
            (after.seen, after.last_segment) = (before.seen, before.last_segment);
            assert_eq!(after.counters.passed.unsigned_received, 1);
            after.counters = before.counters;
            assert_eq!(octets(&after), octets(&before), "{seq:x} {flags:x}");
        }
    }
}

#[test]
fn what_our_stack_acknowledges_extends_the_peers_numbers_until_it_authenticates() {
    let connection = Connection::plain();
    let before = Session {
        recv_seq: 0x2_ffff_ff00,
        send_seq: 0x5_ffff_fff0,
        local_ack: 0xffff_ff00,
        ..adopted(&connection)
    };
    let mut lab = lab(&connection, ACCEPT, Some(&before));
    let ours = |seq, ack| Segment { ack, ..connection.outbound(PSH_ACK, seq) };
    passes_out(&mut lab, &ours(0xffff_fff8, 0xffff_ffff));
    passes_out(&mut lab, &ours(0x10, 0x20));
    let now = lab.session(&connection).unwrap();
    assert_eq!((now.send_seq, now.recv_seq, now.local_ack), (0x6_0000_0010, 0x3_0000_0020, 0x20));
    // Both SNEs are those that the other side has.
    let arriving = connection.inbound(ACK, 0x20);
    lab.verified(&connection.sign(&before.slots[0].recv, arriving, 3));
    let sealed = lab.sealed(&ours(0x18, 0x5000));
    assert!(connection.accepts(&before.slots[0].send, &sealed, 6));
    let now = lab.session(&connection).unwrap();
    assert_eq!((now.send_seq, now.recv_seq), (0x6_0000_0018, 0x3_0000_0020), "only what verifies counts now");
}

#[test]
fn only_the_mode_lets_segments_go_unsigned() {
    let connection = Connection::plain();
    let new = second(&connection);
    for flags in [0, Policy::SIGN] {
        let mut lab = lab(&connection, flags, Some(&adopted(&connection)));
        is_refused(&mut lab, &connection, &theirs(&connection, PSH_ACK), DropReason::NoOption);
        is_refused(&mut lab, &new, &theirs(&new, SYN), DropReason::NoOption);
        lab.sealed(&ours(&connection, PSH_ACK));
    }
    // Nor in a session that began signed.
    let mut lab = lab(&connection, ACCEPT, Some(&connection.session()));
    for flags in [SYN, ACK, RST] {
        is_refused(&mut lab, &connection, &theirs(&connection, flags), DropReason::NoOption);
    }
    lab.sealed(&ours(&connection, PSH_ACK));
}

#[test]
fn the_hop_limit_is_looked_at_without_a_mac_too() {
    let connection = Connection { min_hop_limit: 255, ..Connection::plain() };
    let mut lab = lab(&connection, ACCEPT, Some(&adopted(&connection)));
    is_refused(&mut lab, &connection, &theirs(&connection, PSH_ACK), DropReason::WrongHopLimit);
    passes_in(&mut lab, &Segment { hop_limit: 255, ..theirs(&connection, PSH_ACK) });
    let new = second(&connection);
    is_refused(&mut lab, &new, &theirs(&new, SYN), DropReason::WrongHopLimit);
}

#[test]
fn a_neighbour_whose_counters_are_missing_counts_as_authenticated() {
    let connection = Connection::plain();
    let mut lab = lab(&connection, ACCEPT, None);
    passes_in(&mut lab, &theirs(&connection, ACK));
    lab.remove_counters(connection.neighbor);
    assert_eq!(lab.ingress(&theirs(&connection, ACK).frame()).0, Verdict::Drop);
}

/// Keys change in their place; that the connection was taken over, and how far that has come, stays.
#[test]
fn a_change_of_keys_neither_opens_nor_closes_a_session() {
    let connection = Connection::plain();
    let new = connection.under(&key(1));
    for authenticated in [0, 1] {
        let before = Session { authenticated, ..adopted(&connection) };
        let mut lab = lab(&connection, ACCEPT, Some(&before));
        let slot = connection.slot(&key(1), LOCAL_ISN, PEER_ISN);
        let change = KeyChange {
            written: 0b010,
            order: order(&[1, 0]),
            rnext: 1,
            current: 1,
            flags: KeyChange::MOVE_CURRENT,
            usable: [USABLE, USABLE, 0],
            slots: [KeySlot::default(), slot, KeySlot::default()],
            ..KeyChange::nothing(&connection.quartet(), &before)
        };
        assert_eq!(lab.answer("rekey", octets(&change)), KeyChange::DONE);
        let after = lab.session(&connection).unwrap();
        assert_eq!(
            (after.flags, after.authenticated, after.largest_segment),
            (before.flags, authenticated, before.largest_segment)
        );
        match authenticated {
            0 => passes_in(&mut lab, &theirs(&connection, PSH_ACK)),
            _ => is_refused(&mut lab, &connection, &theirs(&connection, PSH_ACK), DropReason::NoOption),
        }
        let mut policy = Policy { flags: ACCEPT, ..connection.policy() };
        policy.accept(new.mkt.recv_id);
        lab.set_policy(connection.neighbor, policy);
        let signed = new.sign(&slot.recv, new.inbound(ACK, PEER_ISN + 1000), 0);
        lab.verified(&signed);
        is_refused(&mut lab, &connection, &theirs(&connection, PSH_ACK), DropReason::NoOption);
        let sealed = lab.sealed(&ours(&connection, PSH_ACK));
        assert_eq!(sealed.options[0..4], [29, Algorithm::HmacSha1_96.option_len() as u8, 101, 201]);
        assert!(new.accepts(&slot.send, &sealed, 0));
    }
}
