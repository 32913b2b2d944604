//! Headers that contradict themselves, and fragments: dropped, counted once, told once.

use tcpauth::{kernel::mapped, keys::TcpOptions};
use tcpauth_common::{
    Algorithm, DropReason,
    layout::{Direction, Dropped, PeerRule},
};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK},
    context::{Context, Verdict},
    lab::Lab,
    segment::Segment,
};

fn established(family: Family) -> (Lab, Connection, Segment) {
    let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
    let session = connection.session();
    let segment = Segment { data: vec![3; 64], ..connection.inbound(PSH_ACK, PEER_ISN + 1) };
    let signed = connection.sign(&session.slots[0].recv, segment, 0);
    (Lab::with(&connection, Some(&session)), connection, signed)
}

fn refused(lab: &mut Lab, connection: &Connection, frame: &[u8], reason: DropReason) -> Dropped {
    lab.expect_drop(connection, Direction::Inbound, Context::default(), frame, reason)
}

#[test]
fn data_offsets_that_lie() {
    for family in [Family::V4, Family::V6] {
        let (mut lab, connection, signed) = established(family);
        let short = Segment { data: Vec::new(), ..signed.clone() };
        for offset in 0..5 {
            let mut frame = signed.frame();
            frame[signed.l4() + 12] = offset << 4;
            refused(&mut lab, &connection, &frame, DropReason::Malformed);
        }
        // Past the end of the segment, of 36 octets.
        for offset in 10..16 {
            let mut frame = short.frame();
            frame[short.l4() + 12] = offset << 4;
            refused(&mut lab, &connection, &frame, DropReason::Malformed);
        }
        lab.verified(&signed);
    }
}

#[test]
fn options_past_the_end() {
    let (mut lab, connection, signed) = established(Family::V4);
    for options in [vec![29, 17], vec![29, 1], vec![29, 0], vec![29, 3, 84, 1], vec![1, 29], vec![8, 10]] {
        let mut options = options;
        let is_short_ao = options[..2] == [29, 3];
        if !is_short_ao {
            // The lying option is the last thing in the header.
            options = [vec![1; (4 - options.len() % 4) % 4], options].concat();
        }
        let segment = Segment { options, ..signed.clone() };
        refused(&mut lab, &connection, &segment.frame(), DropReason::Malformed);
        let ours = Segment { source: connection.local, destination: connection.peer, ..segment };
        if !is_short_ao {
            let frame = ours.frame();
            lab.expect_drop(
                &connection,
                Direction::Outbound,
                Context::default(),
                &frame,
                DropReason::Malformed,
            );
        }
    }
}

#[test]
fn lengths_that_lie() {
    let (mut lab, connection, signed) = established(Family::V4);
    for total in [0, 19, 39, 200, 0xffff] {
        let mut frame = signed.frame();
        frame[16..18].copy_from_slice(&u16::to_be_bytes(total));
        refused(&mut lab, &connection, &frame, DropReason::Malformed);
    }
    let (mut lab, connection, signed) = established(Family::V6);
    for payload in [0, 19, 200, 0xffff] {
        let mut frame = signed.frame();
        frame[18..20].copy_from_slice(&u16::to_be_bytes(payload));
        refused(&mut lab, &connection, &frame, DropReason::Malformed);
    }
}

#[test]
fn padding_behind_the_packet_is_no_part_of_it() {
    for family in [Family::V4, Family::V6] {
        let (mut lab, connection, signed) = established(family);
        let mut frame = signed.frame();
        let len = frame.len();
        frame.extend([0xaa; 12]);
        let (verdict, out) = lab.ingress(&frame);
        assert_eq!(verdict, Verdict::Pass);
        Segment::of_frame(&out[..len]);
        let ours = Segment { data: vec![3; 1], ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
        let mut frame = ours.frame();
        frame.extend([0xaa; 5]);
        let (verdict, out) = lab.seal(&frame);
        assert_eq!((verdict, out.len()), (Verdict::Redirect, frame.len() + 16));
        let sealed = Segment::of_frame(&out[..out.len() - 5]);
        assert!(connection.accepts(&connection.session().slots[0].send, &sealed, 0));
    }
}

#[test]
fn a_packet_cut_short() {
    for family in [Family::V4, Family::V6] {
        let (mut lab, connection, signed) = established(family);
        let frame = signed.frame();
        for len in signed.l4() + 4..frame.len() {
            refused(&mut lab, &connection, &frame[..len], DropReason::Malformed);
        }
        // Not even the ports are there: only the neighbour counts it.
        lab.remove(&connection);
        refused(&mut lab, &connection, &frame[..signed.l4() + 3], DropReason::Fragment);
    }
}

#[test]
fn first_fragments() {
    let (mut lab, connection, signed) = established(Family::V4);
    let mut frame = signed.frame();
    frame[20] = 0x20; // More fragments, offset 0.
    let dropped = refused(&mut lab, &connection, &frame, DropReason::Fragment);
    assert_eq!(dropped.quartet, connection.quartet());
    let mut ours = connection.outbound(ACK, LOCAL_ISN + 1).frame();
    ours[20] = 0x20;
    lab.expect_drop(&connection, Direction::Outbound, Context::default(), &ours, DropReason::Fragment);

    let (mut lab, connection, signed) = established(Family::V6);
    let header = |offset_and_more: u16| {
        let [high, low] = offset_and_more.to_be_bytes();
        (44, vec![0, 0, high, low, 0, 0, 0, 1])
    };
    let first = Segment { extensions: vec![header(1)], ..signed.clone() };
    refused(&mut lab, &connection, &first.frame(), DropReason::Fragment);
    // An atomic fragment (RFC 6946) is a whole packet.
    lab.verified(&Segment { extensions: vec![header(0)], ..signed.clone() });
}

#[test]
fn tiny_first_fragments() {
    let (mut lab, connection, signed) = established(Family::V6);
    let fragment = (44, vec![0, 0, 0, 1, 0, 0, 0, 1]);
    let whole = Segment { extensions: vec![fragment], ..signed };
    for ports in 0..4 {
        let mut frame = whole.frame();
        frame.truncate(whole.l4() + ports);
        frame[18..20].copy_from_slice(&(8 + ports as u16).to_be_bytes());
        let before = lab.session(&connection).unwrap().counters;
        // It names no connection: only the neighbour counts it.
        lab.remove(&connection);
        refused(&mut lab, &connection, &frame, DropReason::Fragment);
        lab.put(&connection, &connection.session());
        assert_eq!(before, lab.session(&connection).unwrap().counters);
    }
}

#[test]
fn more_extension_headers_than_are_followed() {
    let (mut lab, connection, signed) = established(Family::V6);
    let pad = |number| (number, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let six = Segment { extensions: [0, 60, 43, 60, 60, 60].map(pad).to_vec(), ..signed.clone() };
    assert_eq!(lab.verified(&six).extensions, six.extensions);
    lab.remove(&connection);
    for count in 7..10 {
        let many = Segment { extensions: vec![pad(60); count], ..signed.clone() };
        refused(&mut lab, &connection, &many.frame(), DropReason::Fragment);
        let ours = Segment { source: many.destination, destination: many.source, ..many };
        let frame = ours.frame();
        lab.expect_drop(&connection, Direction::Outbound, Context::default(), &frame, DropReason::Fragment);
        assert_eq!(lab.egress(&frame).0, Verdict::Redirect, "nothing goes out by another way");
    }
}

#[test]
fn nothing_of_an_earlier_segment_is_told_of_one_whose_header_is_not_found() {
    let (mut lab, connection, signed) = established(Family::V6);
    lab.verified(&signed);
    lab.remove(&connection);
    let rule = PeerRule { neighbor: connection.neighbor, scope: 0, flags: PeerRule::WRONG_INTERFACE };
    lab.set_peer(0, mapped(connection.peer.ip()), 128, rule);
    let extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0]); 7];
    let frame = Segment { extensions, ..signed }.frame();
    let reason = DropReason::WrongInterface;
    let dropped = lab.expect_drop(&connection, Direction::Inbound, Context::default(), &frame, reason);
    assert_eq!((dropped.seq, dropped.tcp_flags, dropped.key_id), (0, 0, 0));
}

#[test]
fn later_fragments_pass() {
    let (mut lab, _, signed) = established(Family::V4);
    let mut frame = signed.frame();
    frame[20..22].copy_from_slice(&[0x20, 0x10]);
    assert_eq!(lab.ingress(&frame), (Verdict::Pass, frame));
    let (mut lab, _, signed) = established(Family::V6);
    let later = Segment { extensions: vec![(44, vec![0, 0, 0, 0x11, 0, 0, 0, 1])], ..signed };
    assert_eq!(lab.ingress(&later.frame()), (Verdict::Pass, later.frame()));
}

/// The kernel drops such packets too, unless it finds the header elsewhere than the program does.
#[test]
fn a_packet_whose_header_is_not_that_of_its_type_does_not_pass() {
    for family in [Family::V4, Family::V6] {
        let (mut lab, _, signed) = established(family);
        let whole = signed.frame();
        let mut other_version = whole.clone();
        other_version[14] ^= 0x20;
        assert_eq!(lab.ingress(&other_version).0, Verdict::Drop);
        assert_eq!(lab.egress(&other_version).0, Verdict::Drop);
        let mut not_ip = other_version.clone();
        not_ip[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(lab.ingress(&not_ip).0, Verdict::Pass);
        assert_eq!(lab.ingress(&whole).0, Verdict::Pass);
    }
}

/// As on an xfrm interface: the header of the interface below is still in front of the packet.
#[test]
fn a_link_without_headers_may_leave_those_of_the_interface_below() {
    for family in [Family::V4, Family::V6] {
        let (mut lab, connection, signed) = established(family);
        let context = Context { ifindex: lab.ifindex, ..Context::default() };
        let mut forged = signed.frame();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let before = lab.counters(connection.neighbor).dropped[DropReason::WrongMac as usize];
        assert_eq!(lab.run("ingress_l3", context, &forged).0, Verdict::Drop);
        assert_eq!(lab.counters(connection.neighbor).dropped[DropReason::WrongMac as usize], before + 1);
        assert_eq!(lab.run("ingress_l3", context, &signed.frame()).0, Verdict::Pass);
    }
}
