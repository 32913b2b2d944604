//! Sequence number extension through the programs (RFC 5925 §6.2; RFC 9187).

use tcpauth_common::{
    DropReason,
    layout::{Direction, Session},
};

use super::{
    connection::{Connection, PSH_ACK, SYN, SYN_ACK},
    context::Context,
    lab::Lab,
};

/// Data sets of draft-touch-sne: sequence number, expected SNE. State begins at 0.
const FIRST: [(u32, u32); 29] = [
    (0x00000000, 0),
    (0x30000000, 0),
    (0x90000000, 0),
    (0x70000000, 0),
    (0xa0000000, 0),
    (0x00000001, 1),
    (0xe0000000, 0),
    (0x00000000, 1),
    (0x7fffffff, 1),
    (0x00000000, 1),
    (0x50000000, 1),
    (0x80000000, 1),
    (0x00000001, 1),
    (0x40000000, 1),
    (0x90000000, 1),
    (0xb0000000, 1),
    (0x0fffffff, 2),
    (0x20000000, 2),
    (0x90000000, 2),
    (0x70000000, 2),
    (0xa0000000, 2),
    (0x00004000, 3),
    (0xd0000000, 2),
    (0x20000000, 3),
    (0x90000000, 3),
    (0x70000000, 3),
    (0xa0000000, 3),
    (0x00004000, 4),
    (0xd0000000, 3),
];
const SECOND: [(u32, u32); 11] = [
    (0x00000000, 0),
    (0x30000000, 0),
    (0x60000000, 0),
    (0x80000000, 0),
    (0x90000000, 0),
    (0xc0000000, 0),
    (0xf0000000, 0),
    (0x10000000, 1),
    (0xf0030000, 0),
    (0x00030000, 1),
    (0x10030000, 1),
];

/// Jumps of 0x3000_0000 from `isn`, every third segment overtaken by the one after it: through several wraps.
fn reordered(isn: u32) -> Vec<(u32, u32)> {
    let mut extended: Vec<u64> = (0..64u64).map(|jump| u64::from(isn) + 1 + jump * 0x3000_0000).collect();
    for at in (0..extended.len() - 1).step_by(3) {
        extended.swap(at, at + 1);
    }
    assert!(extended.last().unwrap() >> 32 >= 11, "several wraps");
    extended.into_iter().map(|extended| (extended as u32, (extended >> 32) as u32)).collect()
}

/// A session in whose window every sequence number is.
fn open_session(connection: &Connection, isn: u32) -> Session {
    Session { local_window: u32::MAX / 2, ..connection.session_from(isn, isn) }
}

/// Highest extended number of `data` up to each point.
fn check_both_ways(isn: u32, data: &[(u32, u32)]) {
    let connection = Connection::plain();
    let session = open_session(&connection, isn);
    let mut lab = Lab::with(&connection, Some(&session));
    let mut highest = u64::from(isn);
    for &(seq, sne) in data {
        let place = format!("{seq:#010x}, SNE {sne}");
        highest = highest.max(u64::from(sne) << 32 | u64::from(seq));

        let sealed = lab.sealed(&connection.outbound(PSH_ACK, seq));
        assert!(connection.accepts(&session.slots[0].send, &sealed, sne), "{place}");
        let recv = &session.slots[0].recv;
        for wrong in [sne.wrapping_sub(1), sne + 1] {
            let forged = connection.sign(recv, connection.inbound(PSH_ACK, seq), wrong).frame();
            let context = Context::default();
            lab.expect_drop(&connection, Direction::Inbound, context, &forged, DropReason::WrongMac);
        }
        lab.verified(&connection.sign(recv, connection.inbound(PSH_ACK, seq), sne));
        let now = lab.session(&connection).unwrap();
        assert_eq!((now.send_seq, now.recv_seq), (highest, highest), "{place}");
    }
}

#[test]
fn published_data_sets_both_ways() {
    check_both_ways(0, &FIRST);
    check_both_ways(0, &SECOND);
}

#[test]
fn several_wraps_with_reordering_both_ways() {
    for isn in [0, 1, 0x7fff_ffff, 0xffff_fffe] {
        check_both_ways(isn, &reordered(isn));
    }
}

#[test]
fn first_data_of_the_last_isn_has_sne_1() {
    check_both_ways(0xffff_ffff, &[(0xffff_ffff, 0), (0, 1), (100, 1), (0xffff_ffff, 0), (200, 1)]);
}

#[test]
fn handshake_segments_of_the_last_isn_have_sne_0() {
    let connection = Connection::plain();
    let mut session = connection.session_from(0xffff_ffff, 0xffff_ffff);
    session.flags |= Session::SYN_RECV;
    session.syn_recv_isn = session.peer_isn;
    session.syn_recv = connection.mkt.syn_recv(&connection.quartet(), session.peer_isn);
    let mut lab = Lab::with(&connection, Some(&session));
    for (flags, send, recv) in [
        (SYN, &session.syn_send.material, &session.syn_recv.material),
        (SYN_ACK, &session.slots[0].send, &session.slots[0].recv),
    ] {
        let sealed = lab.sealed(&connection.outbound(flags, 0xffff_ffff));
        assert!(connection.accepts(send, &sealed, 0));
        lab.verified(&connection.sign(recv, connection.inbound(flags, 0xffff_ffff), 0));
    }
    // A SYN sent again after data: SNE 0 still.
    lab.sealed(&connection.outbound(PSH_ACK, 5));
    lab.verified(&connection.sign(&session.slots[0].recv, connection.inbound(PSH_ACK, 0), 1));
    lab.verified(&connection.sign(&session.syn_recv.material, connection.inbound(SYN, 0xffff_ffff), 0));
    lab.verified(&connection.sign(&session.slots[0].recv, connection.inbound(SYN_ACK, 0xffff_ffff), 0));
    let sealed = lab.sealed(&connection.outbound(SYN, 0xffff_ffff));
    assert!(connection.accepts(&session.syn_send.material, &sealed, 0));
}

#[test]
fn only_what_verifies_moves_the_basis() {
    let connection = Connection::plain();
    let session = open_session(&connection, 0xf000_0000);
    let mut lab = Lab::with(&connection, Some(&session));
    // Forgeries from ahead: `expect_drop` sees to it that the basis stays.
    for seq in [0xf800_0000, 0x1000_0000, 0x6000_0000] {
        let mut forged = connection.sign(&session.slots[0].recv, connection.inbound(PSH_ACK, seq), 1);
        forged.options[15] ^= 1;
        let frame = forged.frame();
        let context = Context::default();
        lab.expect_drop(&connection, Direction::Inbound, context, &frame, DropReason::WrongMac);
    }
    lab.verified(&connection.sign(&session.slots[0].recv, connection.inbound(PSH_ACK, 0xf000_0001), 0));
    assert_eq!(lab.session(&connection).unwrap().recv_seq, 0xf000_0001);
}
