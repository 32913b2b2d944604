//! Whose segments the programs touch: a neighbour's, on its port, and nobody else's.

use std::net::{IpAddr, SocketAddr};

use tcpauth::{kernel::mapped, keys::TcpOptions};
use tcpauth_common::{
    Algorithm, DropReason,
    layout::{PeerRule, Policy, VlanTag},
};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, SYN, sibling},
    context::{Context, Verdict},
    lab::{LANE1, Lab},
    segment::Segment,
};

/// Whether `ingress` takes a segment without the option for a neighbour's, and whose.
fn refused_for(lab: &mut Lab, segment: &Segment) -> Option<u32> {
    refused_on(lab, lab.ifindex, segment)
}

fn refused_on(lab: &mut Lab, ifindex: u32, segment: &Segment) -> Option<u32> {
    let frame = segment.frame();
    let (verdict, out) = lab.run("ingress", Context { ifindex, ..Context::default() }, &frame);
    let dropped = lab.take_dropped();
    match verdict {
        Verdict::Pass => assert_eq!((out, dropped), (frame, None), "what passes is not touched"),
        Verdict::Drop => return Some(dropped.unwrap().neighbor),
        Verdict::Redirect => panic!("nothing that arrives is redirected"),
    }
    None
}

fn is_redirected(lab: &mut Lab, frame: &[u8]) -> bool {
    let (verdict, out) = lab.egress(frame);
    assert_eq!(out, frame, "egress changes nothing");
    match verdict {
        Verdict::Redirect => true,
        Verdict::Pass => false,
        Verdict::Drop => panic!("egress drops nothing"),
    }
}

#[test]
fn only_a_neighbours_segments_on_its_port() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let mut lab = Lab::with(&connection, None);
        let (ours, theirs) = (connection.outbound(ACK, 1), connection.inbound(ACK, 1));
        assert!(is_redirected(&mut lab, &ours.frame()));
        assert_eq!(refused_for(&mut lab, &theirs), Some(7));
        // Either end may have the port.
        let from = |segment: &Segment, source: u16, destination: u16| {
            let mut segment = segment.clone();
            segment.source.set_port(source);
            segment.destination.set_port(destination);
            segment
        };
        for (source, destination, is_bgp) in [(179, 40_000, true), (179, 179, true), (80, 443, false)] {
            assert_eq!(is_redirected(&mut lab, &from(&ours, source, destination).frame()), is_bgp);
            assert_eq!(refused_for(&mut lab, &from(&theirs, source, destination)).is_some(), is_bgp);
        }
        let stranger = sibling(connection.peer.ip(), 99);
        let ours_elsewhere = Segment { destination: (stranger, 179).into(), ..ours.clone() };
        assert!(!is_redirected(&mut lab, &ours_elsewhere.frame()));
        assert_eq!(refused_for(&mut lab, &Segment { source: (stranger, 179).into(), ..theirs }), None);
        // UDP, ICMP and ARP.
        let protocol_at = if family == Family::V4 { 23 } else { 20 };
        for protocol in [17, if family == Family::V4 { 1 } else { 58 }] {
            let mut frame = ours.frame();
            frame[protocol_at] = protocol;
            assert!(!is_redirected(&mut lab, &frame));
            assert_eq!(lab.ingress(&frame), (Verdict::Pass, frame.clone()));
        }
        let mut frame = ours.frame();
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        assert!(!is_redirected(&mut lab, &frame));
        assert_eq!(lab.ingress(&frame).0, Verdict::Pass);
        // Sealed already.
        assert_eq!(lab.forwarded(LANE1, &ours.frame()).0, Verdict::Pass);
    }
}

#[test]
fn the_port_is_the_neighbours_own() {
    let connection = Connection::plain();
    let mut lab = Lab::with(&connection, None);
    let other = SocketAddr::new(sibling(connection.peer.ip(), 3), 1790);
    lab.set_peer(0, mapped(other.ip()), 128, PeerRule { neighbor: 8, scope: 0, flags: 0 });
    lab.set_policy(8, Policy { port: 1790, ..connection.policy() });
    for (port, neighbor) in [(179, None), (1790, Some(8))] {
        let theirs = Segment { source: SocketAddr::new(other.ip(), port), ..connection.inbound(ACK, 1) };
        assert_eq!(refused_for(&mut lab, &theirs), neighbor);
        let ours = Segment { destination: theirs.source, ..connection.outbound(ACK, 1) };
        assert_eq!(is_redirected(&mut lab, &ours.frame()), neighbor.is_some());
    }
    let mut theirs = connection.inbound(ACK, 1);
    theirs.source.set_port(1790);
    assert_eq!(refused_for(&mut lab, &theirs), None);
}

#[test]
fn the_longest_prefix_counts() {
    for (family, bits) in [(Family::V4, [96, 96 + 24, 96 + 31]), (Family::V6, [32, 64, 127])] {
        let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let mut lab = Lab::with(&connection, None);
        let (base, policy) = (mapped(sibling(connection.peer.ip(), 2)), connection.policy());
        for (number, bits) in bits.into_iter().enumerate() {
            let neighbor = 100 + number as u32;
            lab.set_peer(0, masked(base, bits), bits, PeerRule { neighbor, scope: 0, flags: 0 });
            lab.set_policy(neighbor, policy);
        }
        let elsewhere: IpAddr = match family {
            Family::V4 => "198.51.100.1".parse().unwrap(),
            Family::V6 => "2001:db8:1::1".parse().unwrap(),
        };
        for (source, neighbor) in [
            (connection.peer.ip(), 7),
            (sibling(connection.peer.ip(), 3), 102),
            (sibling(connection.peer.ip(), 4), 101),
            (elsewhere, 100),
        ] {
            let theirs = Segment { source: (source, 179).into(), ..connection.inbound(ACK, 1) };
            assert_eq!(refused_for(&mut lab, &theirs), Some(neighbor), "{source}");
        }
        // 0.0.0.0/0 is no prefix of IPv6.
        if family == Family::V4 {
            let six = Connection::new(Family::V6, Algorithm::HmacSha1_96, TcpOptions::Include);
            assert_eq!(refused_for(&mut lab, &six.inbound(ACK, 1)), None);
        }
    }
}

fn masked(address: [u8; 16], bits: u32) -> [u8; 16] {
    (u128::from_be_bytes(address) & (u128::MAX << (128 - bits))).to_be_bytes()
}

#[test]
fn a_link_local_neighbour_is_one_on_its_link_only() {
    let mut lab = Lab::new();
    let connection = Connection {
        local: "[fe80::1]:179".parse().unwrap(),
        peer: "[fe80::2]:41000".parse().unwrap(),
        scope: lab.ifindex,
        ..Connection::new(Family::V6, Algorithm::HmacSha1_96, TcpOptions::Include)
    };
    lab.add_neighbor(&connection);
    let session = connection.session();
    lab.put(&connection, &session);
    let (here, there) = (lab.ifindex, lab.other_ifindex);
    let theirs = connection.inbound(ACK, PEER_ISN + 1);
    assert_eq!(refused_on(&mut lab, here, &theirs), Some(7));
    assert_eq!(refused_on(&mut lab, there, &theirs), None);
    lab.verified(&connection.signed(&session, ACK, PEER_ISN + 1));
    let ours = connection.outbound(ACK, session.local_isn.0 + 1);
    assert!(is_redirected(&mut lab, &ours.frame()));
    assert!(connection.accepts(&session.slots[0].send, &lab.sealed(&ours), 0));
    let elsewhere = Context { ifindex: there, ..Context::default() };
    assert_eq!(lab.run("egress", elsewhere, &ours.frame()).0, Verdict::Pass);
}

#[test]
fn sessions_of_others_that_pass_through_are_theirs() {
    let connection = Connection::plain();
    let mut lab = Lab::with(&connection, None);
    let arrived = lab.other_ifindex;
    let (ours, theirs) = (connection.outbound(ACK, 1), connection.inbound(ACK, 1));
    lab.remove_local(mapped(connection.local.ip()));
    assert_eq!(refused_for(&mut lab, &theirs), None);
    assert_eq!(lab.forwarded(arrived, &ours.frame()), (Verdict::Pass, ours.frame()));
    // By no interface, with no address of this host: a container's on a macvlan.
    assert!(!is_redirected(&mut lab, &ours.frame()));
    // Behind us, and named.
    lab.forward(connection.neighbor, mapped(connection.local.ip()), 96 + 24, arrived);
    assert_eq!(refused_for(&mut lab, &theirs), Some(7));
    assert_eq!(lab.forwarded(arrived, &ours.frame()).0, Verdict::Redirect);
    assert_eq!(lab.forwarded(99, &ours.frame()).0, Verdict::Pass, "by another interface");
    assert!(!is_redirected(&mut lab, &ours.frame()));
    // The macvlan container, named.
    lab.forward(connection.neighbor, mapped(connection.local.ip()), 96 + 32, 0);
    assert!(is_redirected(&mut lab, &ours.frame()));
}

#[test]
fn what_is_forwarded_and_says_it_is_ours_is_spoofed() {
    let connection = Connection::plain();
    let session = connection.session();
    let mut lab = Lab::with(&connection, Some(&session));
    let ours = connection.outbound(ACK, session.local_isn.0 + 1);
    assert_eq!(lab.forwarded(lab.other_ifindex, &ours.frame()).0, Verdict::Drop);
    let dropped = lab.take_dropped().unwrap();
    assert_eq!((dropped.reason, dropped.quartet), (DropReason::Spoofed as u8, connection.quartet()));
    for counters in [lab.counters(connection.neighbor), lab.session(&connection).unwrap().counters.into()] {
        let wanted = |reason| u64::from(reason == DropReason::Spoofed as usize);
        assert!(counters.dropped.iter().enumerate().all(|(reason, count)| *count == wanted(reason)));
    }
}

#[test]
fn a_hole_in_a_prefix_is_nobody() {
    let connection = Connection::new(Family::V6, Algorithm::HmacSha1_96, TcpOptions::Include);
    let mut lab = Lab::with(&connection, None);
    lab.set_peer(0, [0; 16], 0, PeerRule { neighbor: 7, scope: 0, flags: 0 });
    let other = Segment { source: "[2001:db8::77]:179".parse().unwrap(), ..connection.inbound(ACK, 1) };
    assert_eq!(refused_for(&mut lab, &other), Some(7));
    let hole = mapped("0.0.0.0".parse().unwrap());
    let four = Connection::plain();
    lab.add_local(mapped(four.local.ip()));
    assert_eq!(refused_for(&mut lab, &four.inbound(ACK, 1)), Some(7));
    lab.set_peer(0, hole, 96, PeerRule { neighbor: 0, scope: 0, flags: PeerRule::NOBODY });
    assert_eq!(refused_for(&mut lab, &four.inbound(ACK, 1)), None);
    assert!(!is_redirected(&mut lab, &four.outbound(ACK, 1).frame()));
}

#[test]
fn tagged_frames_of_a_vlan_interface_are_left_to_its_own_programs() {
    let connection = Connection::plain();
    let mut lab = Lab::with(&connection, None);
    let tagged = Segment { vlan: Some(42), ..connection.inbound(ACK, 1) };
    assert_eq!(refused_for(&mut lab, &tagged), Some(7), "bridged or routed with its tag: protected here");
    lab.add_vlan(VlanTag { lower: lab.ifindex, vid: 42, protocol: 0x8100 }, 500);
    assert_eq!(refused_for(&mut lab, &tagged), None);
    assert_eq!(refused_for(&mut lab, &Segment { vlan: Some(43), ..tagged }), Some(7));
}

#[test]
fn the_channel_on_which_keys_are_agreed_is_protected_as_sessions_are() {
    const CHANNEL: u16 = 17_179;
    for family in [Family::V4, Family::V6] {
        let sessions = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let mut lab = Lab::with(&sessions, None);
        let with_ports = |local: u16, peer: u16| {
            let mut connection = sessions.clone();
            connection.local.set_port(local);
            connection.peer.set_port(peer);
            connection
        };
        // Another neighbour may have the port: it is looked at, and this one's is nothing to protect.
        lab.set_policy(99, Policy { port: CHANNEL, ..Policy::default() });
        let is_protected = |lab: &mut Lab, connection: &Connection| {
            lab.refill(connection.neighbor);
            let refused = refused_for(lab, &connection.inbound(ACK, 1));
            assert_eq!(is_redirected(lab, &connection.outbound(ACK, 1).frame()), refused.is_some());
            refused == Some(connection.neighbor)
        };
        for (kmp_port, wanted) in [(0, false), (CHANNEL, true)] {
            lab.set_policy(7, Policy { kmp_port, ..sessions.policy() });
            for (local, peer) in [(40_000, CHANNEL), (CHANNEL, 40_000), (CHANNEL, CHANNEL)] {
                let is = is_protected(&mut lab, &with_ports(local, peer));
                assert_eq!(is, wanted, "{kmp_port}: {local} {peer}");
            }
            for (local, peer) in [(40_000, CHANNEL + 1), (80, 443)] {
                assert!(!is_protected(&mut lab, &with_ports(local, peer)), "{kmp_port}: {local} {peer}");
            }
            assert!(is_protected(&mut lab, &sessions));
        }
        // Its segments are held and sealed as others are.
        let channel = with_ports(40_000, CHANNEL);
        assert_eq!(lab.seal_of_stack(&channel.outbound(SYN, LOCAL_ISN).frame()).0, Verdict::Drop);
        assert_eq!(lab.take_held().unwrap().0.quartet, channel.quartet());
        let session = channel.session();
        lab.put(&channel, &session);
        let sealed = lab.sealed(&channel.outbound(ACK, LOCAL_ISN + 1));
        assert!(channel.accepts(&session.slots[0].send, &sealed, 0));
        lab.verified(&channel.signed(&session, ACK, PEER_ISN + 1));
    }
}
