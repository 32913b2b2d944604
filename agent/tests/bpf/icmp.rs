//! ICMP about protected connections (RFC 5925 §7.8).

use std::net::IpAddr;

use tcpauth::keys::TcpOptions;
use tcpauth_common::{
    Algorithm, DropReason,
    layout::{Direction, Session},
    rollover::NO_SLOT,
};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, mkt, order, sibling},
    context::{Context, Verdict},
    lab::Lab,
    segment::{Segment, number16, pseudo_sum, sum},
};

/// A router's message about `quoted`, a segment of ours.
fn message(quoted: &Segment, kind: u8, code: u8, rest: u32) -> Vec<u8> {
    let router = sibling(quoted.destination.ip(), 200);
    let packet = quoted.packet();
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend(rest.to_be_bytes());
    icmp.extend(&packet[..packet.len().min(1232)]);
    // In the shell of a TCP segment's frame, whose IP header is then mended.
    let shell = Segment {
        source: (router, 1).into(),
        destination: (quoted.source.ip(), 2).into(),
        extensions: vec![],
        ..quoted.clone()
    };
    let mut frame = shell.frame();
    frame.truncate(shell.l4());
    match router {
        IpAddr::V4(_) => {
            let checksum = !sum(&icmp);
            icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
            frame[16..18].copy_from_slice(&(20 + icmp.len() as u16).to_be_bytes());
            frame[23] = 1;
            frame[24..26].fill(0);
            let checksum = !sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        IpAddr::V6(_) => {
            let checksum = !pseudo_sum(router, quoted.source.ip(), 58, &icmp);
            icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
            frame[18..20].copy_from_slice(&(icmp.len() as u16).to_be_bytes());
            frame[20] = 58;
        }
    }
    frame.extend(icmp);
    frame
}

fn connection(family: Family) -> Connection {
    Connection::new(family, Algorithm::HmacSha256_128, TcpOptions::Include)
}

fn quoted(connection: &Connection) -> Segment {
    Segment { data: vec![1; 1300], ..connection.outbound(ACK, LOCAL_ISN + 1) }
}

#[test]
fn hard_errors_about_established_sessions_are_dropped() {
    for (family, kind, hard) in [(Family::V4, 3, &[2, 3, 4][..]), (Family::V6, 1, &[1, 4])] {
        let connection = connection(family);
        let mut lab = Lab::with(&connection, Some(&connection.session()));
        for code in 0..=15 {
            let frame = message(&quoted(&connection), kind, code, 0);
            if hard.contains(&code) {
                let context = Context::default();
                let dropped =
                    lab.expect_drop(&connection, Direction::Inbound, context, &frame, DropReason::Icmp);
                assert_eq!((dropped.quartet, dropped.seq), (connection.quartet(), LOCAL_ISN + 1));
            } else {
                assert_eq!(lab.ingress(&frame), (Verdict::Pass, frame), "code {code}");
            }
        }
    }
}

#[test]
fn fragments_do_not_hide_hard_errors() {
    let connection4 = connection(Family::V4);
    let mut lab = Lab::with(&connection4, Some(&connection4.session()));
    let whole = message(&quoted(&connection4), 3, 3, 0);
    for len in [14 + 20 + 8, 14 + 20 + 16, 14 + 20 + 8 + 20, whole.len()] {
        let mut first = whole[..len].to_vec();
        first[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
        first[20] = 0x20;
        assert_eq!(lab.ingress(&first).0, Verdict::Drop, "{len} octets");
        // Nothing comes of the others.
        first[21] = 1;
        assert_eq!(lab.ingress(&first).0, Verdict::Pass);
    }
    let icmp = DropReason::Icmp as usize;
    assert_eq!(lab.counters(connection4.neighbor).dropped[icmp], 1, "of the one that says whose it is");

    let connection = connection(Family::V6);
    let mut lab = Lab::with(&connection, Some(&connection.session()));
    let whole = message(&quoted(&connection), 1, 4, 0);
    for len in [8, 40, 48, whole.len() - 54] {
        let mut first = whole[..54].to_vec();
        first[18..20].copy_from_slice(&(8 + len as u16).to_be_bytes());
        first[20] = 44;
        first.extend([58, 0, 0, 1, 0, 0, 0, 1]);
        first.extend(&whole[54..54 + len]);
        assert_eq!(lab.ingress(&first).0, Verdict::Drop, "{len} octets");
    }
    assert_eq!(lab.counters(connection.neighbor).dropped[icmp], 1);
}

#[test]
fn extension_headers_do_not_hide_what_is_quoted() {
    let connection = connection(Family::V6);
    let mut lab = Lab::with(&connection, Some(&connection.session()));
    let pad = |number| (number, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    for extensions in [vec![pad(60)], vec![pad(0), pad(43), pad(44)], vec![pad(60); 6]] {
        let frame = message(&Segment { extensions, ..quoted(&connection) }, 1, 1, 0);
        let context = Context::default();
        lab.expect_drop(&connection, Direction::Inbound, context, &frame, DropReason::Icmp);
    }
    // Nobody can say whose it is.
    let frame = message(&Segment { extensions: vec![pad(60); 7], ..quoted(&connection) }, 1, 1, 0);
    assert_eq!(lab.ingress(&frame).0, Verdict::Drop);
    let mut udp = message(&Segment { extensions: vec![pad(60)], ..quoted(&connection) }, 1, 4, 0);
    udp[14 + 40 + 8 + 40] = 17;
    assert_eq!(lab.ingress(&udp).0, Verdict::Pass);
}

#[test]
fn hard_errors_about_anything_else_pass() {
    for (family, kind, code) in [(Family::V4, 3, 3), (Family::V6, 1, 4)] {
        let connection = connection(family);
        let mut lab = Lab::with(&connection, None);
        let frame = message(&quoted(&connection), kind, code, 0);
        assert_eq!(lab.ingress(&frame), (Verdict::Pass, frame.clone()), "no session");
        // While it is opened, an error says what a user wants to know.
        for half in [connection.half_open(), connection.half_accepted()] {
            lab.put(&connection, &half);
            assert_eq!(lab.ingress(&frame), (Verdict::Pass, frame.clone()), "half open");
        }
        lab.put(&connection, &connection.session());
        assert_eq!(lab.ingress(&frame).0, Verdict::Drop);
        let mut other = quoted(&connection);
        other.source.set_port(40_001);
        let frame = message(&other, kind, code, 0);
        assert_eq!(lab.ingress(&frame), (Verdict::Pass, frame), "another connection");
        other.destination.set_port(80);
        let frame = message(&other, kind, code, 0);
        assert_eq!(lab.ingress(&frame), (Verdict::Pass, frame), "another port");
        let echo = message(&quoted(&connection), if family == Family::V4 { 8 } else { 128 }, 0, 0);
        assert_eq!(lab.ingress(&echo), (Verdict::Pass, echo), "an echo request");
    }
}

#[test]
fn packet_too_big_leaves_room_for_the_option() {
    let connection = connection(Family::V6);
    let session = connection.session();
    let mut lab = Lab::with(&connection, Some(&session));
    for (mtu, wanted) in [(1500, 1480), (1300, 1280), (1299, 1280), (1280, 1280), (600, 600)] {
        let frame = message(&quoted(&connection), 2, 0, mtu);
        let context = Context { ifindex: lab.ifindex, summed: true, ..Context::default() };
        let (verdict, out) = lab.run("ingress", context, &frame);
        assert_eq!(verdict, Verdict::Pass);
        assert_eq!(out[58..62], u32::to_be_bytes(wanted), "{mtu}");
        let ends = (sibling(connection.peer.ip(), 200), connection.local.ip());
        assert_eq!(pseudo_sum(ends.0, ends.1, 58, &out[54..]), 0xffff, "checksum, {mtu}");
        assert_eq!((&out[..56], &out[62..]), (&frame[..56], &frame[62..]), "nothing else");
        assert_eq!(number16(&out, 56) == number16(&frame, 56), mtu == wanted);
    }
    let counters = lab.session(&connection).unwrap().counters;
    assert_eq!(counters, Session::default().counters, "nothing is counted");
}

#[test]
fn the_room_is_that_of_the_key_that_seals() {
    let connection = connection(Family::V6);
    let shorter = mkt(Algorithm::HmacSha1_96, TcpOptions::Include, b"another", 1, 1);
    let mut session = connection.session();
    session.slots[1] = connection.slot(&shorter, LOCAL_ISN, PEER_ISN);
    (session.rollover.order, session.rollover.current) = (order(&[1, 0]), 1);
    let mut lab = Lab::with(&connection, None);
    for (current, wanted) in [(0, 1480), (1, 1484), (NO_SLOT, 1480)] {
        session.rollover.current = current;
        lab.put(&connection, &session);
        let (_, out) = lab.ingress(&message(&quoted(&connection), 2, 0, 1500));
        assert_eq!(out[58..62], u32::to_be_bytes(wanted), "slot {current}");
    }
}

#[test]
fn packet_too_big_has_the_number_that_our_stack_knows() {
    let connection = connection(Family::V6);
    let extensions = vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0])];
    for (sent_before, phase, translated) in [
        (0, Session::OPEN, false),
        (1000, Session::OPEN, true),
        (0xffff_0000, Session::OPEN, true),
        (1000, Session::HANDSHAKE, false),
        (1000, Session::SWITCHING, false),
    ] {
        let session = Session { sent_before, received_before: 77, phase, ..connection.session() };
        let mut lab = Lab::with(&connection, Some(&session));
        for extensions in [vec![], extensions.clone()] {
            let number = (LOCAL_ISN + 1).wrapping_add(sent_before);
            let quoted = Segment { seq: number, extensions, ..quoted(&connection) };
            let frame = message(&quoted, 2, 0, 1500);
            let context = Context { ifindex: lab.ifindex, summed: true, ..Context::default() };
            let (verdict, out) = lab.run("ingress", context, &frame);
            assert_eq!(verdict, Verdict::Pass);
            assert_eq!(out[58..62], u32::to_be_bytes(1480));
            // Of the quoted segment, behind Ethernet, IPv6 and ICMPv6.
            let at = 14 + 40 + 8 + quoted.l4() - 14 + 4;
            let wanted = if translated { LOCAL_ISN + 1 } else { number };
            assert_eq!(out[at..at + 4], wanted.to_be_bytes(), "{sent_before} {phase}");
            assert_eq!((&out[62..at], &out[at + 4..]), (&frame[62..at], &frame[at + 4..]), "nothing else");
            let ends = (sibling(connection.peer.ip(), 200), connection.local.ip());
            assert_eq!(pseudo_sum(ends.0, ends.1, 58, &out[54..]), 0xffff, "checksum");
        }
    }
}
