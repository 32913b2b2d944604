//! Which ISNs and SNE are found.

use super::*;

const A: End = End::Lower;
const B: End = End::Higher;

fn segment(sender: End, flags: &str, seq: u32, ack: u32) -> Header {
    let [syn, is_ack, rst] = ['S', '.', 'R'].map(|flag| flags.contains(flag));
    Header { sender, seq: SeqNumber(seq), ack: SeqNumber(ack), syn, is_ack, rst }
}

/// What becomes of a segment that was signed with these ISNs and this SNE.
fn signed(
    connections: &mut Connections,
    header: Header,
    (source_isn, destination_isn, sne): (u32, u32, u32),
) -> Result<(), Failure> {
    connections.verify(header, |tried| {
        (tried.source_isn.0, tried.destination_isn.0, tried.sne) == (source_isn, destination_isn, sne)
    })
}

fn forged(connections: &mut Connections, header: Header) {
    assert!(connections.verify(header, |_| false).is_err());
}

/// A connection from A, with ISN `isn`, to B, with ISN `peer`.
fn established(connections: &mut Connections, isn: u32, peer: u32) {
    assert_eq!(signed(connections, segment(A, "S", isn, 0), (isn, 0, 0)), Ok(()));
    let ack = isn.wrapping_add(1);
    assert_eq!(signed(connections, segment(B, "S.", peer, ack), (peer, isn, 0)), Ok(()));
}

#[test]
fn sne_follows_both_directions_over_wraps_and_old_retransmissions() {
    let mut connections = Connections::default();
    established(&mut connections, 0xffff_fffe, 0x7000_0000);
    for (seq, sne) in [(0xffff_ffff, 0), (0, 1), (0xffff_ffff, 0), (1000, 1), (0x7000_0000, 1)] {
        let from_a = signed(&mut connections, segment(A, ".", seq, 0), (0xffff_fffe, 0x7000_0000, sne));
        assert_eq!(from_a, Ok(()), "{seq:#x}");
    }
    for (seq, sne) in
        [(0xe000_0000u32, 0), (0x5000_0000, 1), (0xb000_0000, 1), (0x2000_0000, 2), (0xf000_0000, 1)]
    {
        let from_b = signed(&mut connections, segment(B, ".", seq, 0), (0x7000_0000, 0xffff_fffe, sne));
        assert_eq!(from_b, Ok(()), "{seq:#x}");
    }
    // Retransmitted, the SYN and its answer are still of SNE 0.
    assert_eq!(signed(&mut connections, segment(A, "S", 0xffff_fffe, 0), (0xffff_fffe, 0, 0)), Ok(()));
    established(&mut connections, 0xffff_fffe, 0x7000_0000);
    let next = signed(&mut connections, segment(A, ".", 0x7000_0001, 0), (0xffff_fffe, 0x7000_0000, 1));
    assert_eq!(next, Ok(()));
}

#[test]
fn sne_is_not_moved_by_what_does_not_verify() {
    let mut connections = Connections::default();
    established(&mut connections, 10, 20);
    forged(&mut connections, segment(A, ".", 0x7fff_0000, 0));
    forged(&mut connections, segment(A, ".", 0xfff0_0000, 0));
    assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
}

#[test]
fn a_simultaneous_open() {
    let mut connections = Connections::default();
    assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(B, "S", 20, 0), (20, 0, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(A, "S.", 10, 21), (10, 20, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(B, "S.", 20, 11), (20, 10, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
    // Also if one of the SYN-ACKs was lost before the capture.
    let mut connections = Connections::default();
    assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(B, "S", 20, 0), (20, 0, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(B, ".", 21, 11), (20, 10, 0)), Ok(()));
}

#[test]
fn the_client_is_who_sent_the_syn_or_the_lower_of_two_who_did() {
    fn with_client(connections: &mut Connections, header: Header, client: End) {
        assert_eq!(connections.verify(header, |tried| tried.client == client), Ok(()), "{header:?}");
    }
    for (client, server) in [(A, B), (B, A)] {
        let mut connections = Connections::default();
        for header in [
            segment(client, "S", 10, 0),
            segment(server, "S.", 20, 11),
            segment(server, "S.", 20, 11),
            segment(client, ".", 11, 21),
            segment(server, ".", 21, 11),
        ] {
            with_client(&mut connections, header, client);
        }
        let mut refused = Connections::default();
        with_client(&mut refused, segment(client, "S", 10, 0), client);
        with_client(&mut refused, segment(server, "R.", 0, 11), client);

        let mut crossed = Connections::default();
        with_client(&mut crossed, segment(client, "S", 10, 0), client);
        with_client(&mut crossed, segment(server, "S", 20, 0), server);
        for header in [
            segment(server, "S.", 20, 11),
            segment(client, "S.", 10, 21),
            segment(server, ".", 21, 11),
            segment(client, ".", 11, 21),
        ] {
            with_client(&mut crossed, header, A);
        }
    }
}

#[test]
fn a_closed_port_refuses() {
    let mut connections = Connections::default();
    assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(B, "R.", 0, 11), (0, 10, 0)), Ok(()));
    // And, when the port is open at last, answers the SYN that was sent again.
    established(&mut connections, 10, 30);
    assert_eq!(signed(&mut connections, segment(B, "R.", 31, 11), (30, 10, 0)), Ok(()));
}

#[test]
fn a_new_syn_begins_a_new_connection_and_the_old_one_ends_in_peace() {
    let mut connections = Connections::default();
    established(&mut connections, 10, 20);
    assert_eq!(signed(&mut connections, segment(A, "S", 1000, 0), (1000, 0, 0)), Ok(()));
    // A challenge ACK, then the reset it provokes, are the old connection's.
    assert_eq!(signed(&mut connections, segment(B, ".", 21, 11), (20, 10, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(A, "R", 11, 0), (10, 20, 0)), Ok(()));
    established(&mut connections, 1000, 2000);
    assert_eq!(signed(&mut connections, segment(A, ".", 1001, 2001), (1000, 2000, 0)), Ok(()));
}

#[test]
fn forged_isns_take_no_place_of_true_ones() {
    let mut connections = Connections::default();
    assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
    for isn in 100..200 {
        forged(&mut connections, segment(A, "S", isn, 0));
        forged(&mut connections, segment(B, "S.", isn, 11));
        forged(&mut connections, segment(B, "S", isn, 0));
    }
    assert!(connections.incarnations.len() <= 2 * REMEMBERED);
    assert_eq!(signed(&mut connections, segment(B, "S.", 20, 11), (20, 10, 0)), Ok(()));
    assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
}

#[test]
fn isns_of_a_handshake_with_unknown_keys_still_serve() {
    let mut connections = Connections::default();
    forged(&mut connections, segment(A, "S", 10, 0));
    forged(&mut connections, segment(B, "S.", 20, 11));
    assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
}

#[test]
fn one_direction_is_enough_if_it_acknowledges_the_other_s_syn() {
    let mut client_only = Connections::default();
    assert_eq!(signed(&mut client_only, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
    for (seq, ack) in [(11, 21), (500, 9000), (0x8000_0000, 9000)] {
        let of_client = signed(&mut client_only, segment(A, ".", seq, ack), (10, 20, 0));
        assert_eq!(of_client, Ok(()), "{seq}");
    }
    // Learnt so, the ISN also serves the other direction.
    assert_eq!(signed(&mut client_only, segment(B, ".", 30, 500), (20, 10, 0)), Ok(()));

    let mut server_only = Connections::default();
    assert_eq!(signed(&mut server_only, segment(B, "S.", 20, 11), (20, 10, 0)), Ok(()));
    assert_eq!(signed(&mut server_only, segment(B, ".", 21, 500), (20, 10, 0)), Ok(()));
    assert_eq!(signed(&mut server_only, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
}

#[test]
fn an_acknowledged_isn_is_believed_of_a_mac_only() {
    let mut connections = Connections::default();
    assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
    forged(&mut connections, segment(A, ".", 11, 77));
    forged(&mut connections, segment(B, "S.", 55, 66));
    assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
}

#[test]
fn of_a_connection_whose_answer_is_missing_no_mac_is_called_wrong() {
    let mut connections = Connections::default();
    established(&mut connections, 10, 20);
    assert_eq!(signed(&mut connections, segment(A, "S", 1000, 0), (1000, 0, 0)), Ok(()));
    let later = segment(A, ".", 1001, 9999);
    assert_eq!(signed(&mut connections, later, (1000, 2000, 0)), Err(Failure::SynAckMissing));
    established(&mut connections, 1000, 2000);
    assert_eq!(signed(&mut connections, later, (1000, 2000, 1)), Err(Failure::WrongMac));
    assert_eq!(signed(&mut connections, later, (1000, 2000, 0)), Ok(()));
}

#[test]
fn what_is_missing_is_named() {
    let mut connections = Connections::default();
    assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Err(Failure::SynMissing));
    assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
    for (sender, seq, ack) in [(A, 11, 99), (B, 21, 11)] {
        let unknown = signed(&mut connections, segment(sender, ".", seq, ack), (10, 20, 0));
        assert_eq!(unknown, Err(Failure::SynAckMissing));
    }
    // A SYN-ACK that acknowledges more than the SYN tells of no ISN.
    let mut connections = Connections::default();
    assert_eq!(signed(&mut connections, segment(B, "S.", 20, 99), (20, 10, 0)), Err(Failure::SynMissing));
    let mut connections = Connections::default();
    established(&mut connections, 10, 20);
    assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 1)), Err(Failure::WrongMac));
}
