//! Segments whose keys only the daemon can derive: handed over whole, and taken off their way.

use tcpauth::keys::TcpOptions;
use tcpauth_common::{
    Algorithm, DropReason,
    layout::{Direction, MAX_HELD, Session},
};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, RST, SYN, SYN_ACK},
    context::{Context, Verdict},
    lab::Lab,
    segment::Segment,
};

/// Runs `frame` and sees to it that it is held, and nothing else.
fn held(lab: &mut Lab, connection: &Connection, direction: Direction, segment: &Segment) {
    let frame = segment.frame();
    let before = (lab.counters(connection.neighbor), lab.session(connection).map(|session| session.counters));
    let (verdict, _) = match direction {
        Direction::Inbound => lab.ingress(&frame),
        Direction::Outbound => lab.seal(&frame),
    };
    assert_eq!(verdict, Verdict::Drop);
    let (held, copy) = lab.take_held().unwrap_or_else(|| panic!("not held: {:?}", lab.take_dropped()));
    assert_eq!(copy, frame, "octet for octet");
    assert_eq!((held.quartet, held.neighbor), (connection.quartet(), connection.neighbor));
    assert_eq!((held.direction, held.ifindex), (direction as u8, lab.ifindex));
    assert_eq!((held.l3_offset as usize, held.l4_offset as usize), (segment.l3(), segment.l4()));
    let ethertype = if connection.local.is_ipv4() { 0x0800 } else { 0x86dd };
    assert_eq!((held.ethertype, held.vlan_present, held.vlan_protocol), (ethertype, 0, 0));
    assert!(held.time > 0);
    assert!(lab.take_held().is_none() && lab.take_dropped().is_none());
    let after = (lab.counters(connection.neighbor), lab.session(connection).map(|session| session.counters));
    assert_eq!(before, after, "not counted");
}

/// The neighbour's segment with an option whose MAC is for the daemon to judge.
fn arriving(connection: &Connection, flags: u8, seq: u32) -> Segment {
    connection.sign(&connection.session().slots[0].recv, connection.inbound(flags, seq), 0)
}

fn both_families() -> [Connection; 2] {
    [Family::V4, Family::V6]
        .map(|family| Connection::new(family, Algorithm::HmacSha256_128, TcpOptions::Include))
}

#[test]
fn first_syns() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, None);
        held(&mut lab, &connection, Direction::Outbound, &connection.outbound(SYN, 1));
        held(&mut lab, &connection, Direction::Inbound, &arriving(&connection, SYN, 1));
    }
}

#[test]
fn answers_to_our_syn() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, Some(&connection.half_open()));
        for flags in [SYN_ACK, RST | ACK, SYN] {
            let answer = Segment { ack: LOCAL_ISN + 1, ..arriving(&connection, flags, 7) };
            held(&mut lab, &connection, Direction::Inbound, &answer);
        }
        // What does not acknowledge our SYN is no answer to it.
        for (flags, ack) in [(SYN_ACK, LOCAL_ISN), (RST | ACK, LOCAL_ISN + 2), (RST, LOCAL_ISN + 1)] {
            let frame = Segment { ack, ..arriving(&connection, flags, 7) }.frame();
            let reason = DropReason::OutsideWindow;
            lab.expect_drop(&connection, Direction::Inbound, Context::default(), &frame, reason);
        }
        // Ours, sent again, needs nothing new; another one does.
        lab.sealed(&connection.outbound(SYN, LOCAL_ISN));
        held(&mut lab, &connection, Direction::Outbound, &connection.outbound(SYN, LOCAL_ISN + 1));
    }
}

#[test]
fn answers_to_the_peers_syn() {
    for connection in both_families() {
        let session = connection.half_accepted();
        let mut lab = Lab::with(&connection, Some(&session));
        for flags in [SYN_ACK, RST | ACK] {
            let answer = Segment { ack: PEER_ISN + 1, ..connection.outbound(flags, 99) };
            held(&mut lab, &connection, Direction::Outbound, &answer);
        }
        lab.verified(&connection.sign(&session.syn_recv.material, connection.inbound(SYN, PEER_ISN), 0));
        held(&mut lab, &connection, Direction::Inbound, &arriving(&connection, SYN, PEER_ISN + 1));
    }
}

#[test]
fn a_new_connection_on_the_quartet_of_an_old_one() {
    for connection in both_families() {
        let mut session = connection.session();
        let mut lab = Lab::with(&connection, Some(&session));
        held(&mut lab, &connection, Direction::Inbound, &arriving(&connection, SYN, 5));
        held(&mut lab, &connection, Direction::Outbound, &connection.outbound(SYN, 5));
        session.flags |= Session::SYN_RECV;
        session.syn_recv_isn = tcpauth_common::Isn(5);
        lab.put(&connection, &session);
        for flags in [SYN_ACK, RST | ACK] {
            let answer = Segment { ack: 6, ..connection.outbound(flags, 99) };
            held(&mut lab, &connection, Direction::Outbound, &answer);
        }
        let challenge = Segment { ack: PEER_ISN + 1, ..connection.outbound(ACK, LOCAL_ISN + 1) };
        lab.sealed(&challenge);
    }
}

#[test]
fn tags_options_and_extension_headers_are_held_with_it() {
    let [v4, v6] = both_families();
    let mut lab = Lab::with(&v4, None);
    let syn = Segment { ip_options: vec![1; 8], options: vec![2, 4, 5, 180], ..arriving(&v4, SYN, 1) };
    let syn = Segment { options: [syn.options, arriving(&v4, SYN, 1).options].concat(), ..syn };
    held(&mut lab, &v4, Direction::Inbound, &syn);
    held(&mut lab, &v4, Direction::Inbound, &Segment { vlan: Some(42), ..syn });
    lab.add_neighbor(&v6);
    let extensions = vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0])];
    let syn = Segment { extensions, vlan: Some(7), ..v6.outbound(SYN, 1) };
    held(&mut lab, &v6, Direction::Outbound, &syn);
}

#[test]
fn data_that_no_record_has_room_for() {
    let connection = Connection::plain();
    let mut lab = Lab::with(&connection, None);
    let syn = arriving(&connection, SYN, 1);
    let room = MAX_HELD - syn.frame().len();
    held(&mut lab, &connection, Direction::Inbound, &Segment { data: vec![1; room], ..syn.clone() });
    let frame = Segment { data: vec![1; room + 1], ..syn }.frame();
    let context = Context::default();
    lab.expect_drop(&connection, Direction::Inbound, context, &frame, DropReason::Malformed);
}
