//! Each reason to drop a segment, provoked: counted once and told once.

use tcpauth::kernel::mapped;
use tcpauth_common::{
    DropReason,
    layout::{Direction, Dropped, PeerRule, Session},
};

use super::{
    connection::{ACK, Connection, LOCAL_ISN, PEER_ISN, PSH_ACK, RST, SYN, SYN_ACK},
    context::{Context, Verdict},
    lab::Lab,
    segment::Segment,
};

/// A lab with an established session.
fn established() -> (Lab, Connection, Session) {
    let connection = Connection::plain();
    let session = connection.session();
    (Lab::with(&connection, Some(&session)), connection, session)
}

/// Lets a segment arrive that must be dropped; what is told of it has to be what it carries.
fn refused(lab: &mut Lab, connection: &Connection, segment: &Segment, reason: DropReason) -> Dropped {
    let frame = segment.frame();
    let dropped = lab.expect_drop(connection, Direction::Inbound, Context::default(), &frame, reason);
    assert_eq!((dropped.quartet, dropped.ifindex), (connection.quartet(), lab.ifindex));
    assert_eq!((dropped.seq, dropped.tcp_flags), (segment.seq, segment.flags));
    assert_eq!(dropped.segment_len as usize, segment.tcp().len());
    dropped
}

/// Seals what must be dropped.
fn not_sealed(lab: &mut Lab, connection: &Connection, segment: &Segment, reason: DropReason) {
    let frame = segment.frame();
    let dropped = lab.expect_drop(connection, Direction::Outbound, Context::default(), &frame, reason);
    assert_eq!((dropped.quartet, dropped.seq), (connection.quartet(), segment.seq));
    assert_eq!(dropped.tcp_flags, segment.flags);
}

#[test]
fn no_option() {
    let (mut lab, connection, _) = established();
    for options in [vec![], vec![1; 12], vec![0, 29, 4, 1]] {
        let segment = Segment { options, ..connection.inbound(ACK, PEER_ISN + 1) };
        let dropped = refused(&mut lab, &connection, &segment, DropReason::NoOption);
        assert_eq!(dropped.options, Dropped::NO_OPTION);
    }
    let md5 = [&[19, 18][..], &[7; 16], &[1, 1]].concat();
    let segment = Segment { options: md5, ..connection.inbound(ACK, PEER_ISN + 1) };
    let dropped = refused(&mut lab, &connection, &segment, DropReason::NoOption);
    assert_eq!(dropped.options, Dropped::MD5_OPTION);
    refused(&mut lab, &connection, &connection.inbound(SYN, 5), DropReason::NoOption);
    refused(&mut lab, &connection, &connection.inbound(RST, PEER_ISN + 1), DropReason::NoOption);
}

#[test]
fn unknown_key_id() {
    let (mut lab, connection, session) = established();
    let mut segment = connection.signed(&session, ACK, PEER_ISN + 1);
    segment.options[2] = 85;
    let dropped = refused(&mut lab, &connection, &segment, DropReason::UnknownKeyId);
    assert_eq!(dropped.key_id, 85);
    lab.remove(&connection);
    segment.flags = SYN;
    refused(&mut lab, &connection, &segment, DropReason::UnknownKeyId);
}

#[test]
fn wrong_mac() {
    let (mut lab, connection, session) = established();
    let signed = Segment { data: vec![7; 100], ..connection.inbound(PSH_ACK, PEER_ISN + 1) };
    let signed = connection.sign(&session.slots[0].recv, signed, 0);
    for octet in 4..16 {
        for bit in 0..8 {
            let mut forged = signed.clone();
            forged.options[octet] ^= 1 << bit;
            let dropped = refused(&mut lab, &connection, &forged, DropReason::WrongMac);
            assert_eq!(dropped.key_id, 84);
        }
    }
    lab.verified(&signed);
}

#[test]
fn wrong_mac_of_a_segment_reflected() {
    let (mut lab, connection, _) = established();
    let ours = lab.sealed(&connection.outbound(ACK, LOCAL_ISN + 1));
    let mut reflected = Segment { source: ours.destination, destination: ours.source, ..ours };
    reflected.seq = PEER_ISN + 1;
    reflected.options[2] = 84;
    refused(&mut lab, &connection, &reflected, DropReason::WrongMac);
}

#[test]
fn wrong_length() {
    let (mut lab, connection, session) = established();
    let mut segment = connection.signed(&session, ACK, PEER_ISN + 1);
    for len in [4, 8, 12, 15] {
        segment.options[1] = len;
        segment.options[usize::from(len)..].fill(1);
        refused(&mut lab, &connection, &segment, DropReason::WrongLength);
        segment.options[usize::from(len)..].fill(0);
    }
    segment.options = [&[29, 20, 84, 61][..], &[0; 16]].concat();
    refused(&mut lab, &connection, &segment, DropReason::WrongLength);
}

#[test]
fn outside_window() {
    let (mut lab, connection, mut session) = established();
    session.local_window = 100_000;
    lab.put(&connection, &session);
    let expected = PEER_ISN + 1;
    for seq in [expected + 100_001, expected - 100_002, expected.wrapping_add(1 << 31)] {
        let segment = connection.signed(&session, PSH_ACK, seq);
        let dropped = refused(&mut lab, &connection, &segment, DropReason::OutsideWindow);
        assert_eq!(dropped.key_id, 84);
    }
    for seq in [expected + 100_000, expected - 100_001, expected, PEER_ISN] {
        lab.verified(&connection.signed(&session, PSH_ACK, seq));
    }
}

#[test]
fn wrong_hop_limit() {
    let connection = Connection { min_hop_limit: 254, ..Connection::plain() };
    let session = connection.session();
    let mut lab = Lab::with(&connection, Some(&session));
    let signed = connection.signed(&session, ACK, PEER_ISN + 1);
    let far = Segment { hop_limit: 253, ..signed.clone() };
    refused(&mut lab, &connection, &far, DropReason::WrongHopLimit);
    lab.verified(&Segment { hop_limit: 254, ..signed.clone() });
    lab.verified(&Segment { hop_limit: 255, ..signed });
    let syn = connection.sign(&session.slots[0].recv, connection.inbound(SYN, 9), 0);
    refused(&mut lab, &connection, &syn, DropReason::WrongHopLimit);
}

#[test]
fn option_twice() {
    let (mut lab, connection, session) = established();
    let once = connection.signed(&session, ACK, PEER_ISN + 1);
    let md5 = [&[19, 18][..], &[0; 16], &[1, 1]].concat();
    for (first, second) in [
        (once.options.clone(), once.options.clone()),
        (once.options.clone(), md5.clone()),
        (md5.clone(), once.options.clone()),
        (md5.clone(), vec![19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let segment = Segment { options: [first, second].concat(), ..once.clone() };
        refused(&mut lab, &connection, &segment, DropReason::OptionTwice);
    }
    let md5_alone = Segment { options: md5.clone(), ..once };
    refused(&mut lab, &connection, &md5_alone, DropReason::NoOption);
    // What our own stack signed cannot be signed again.
    let ours = Segment { options: md5, ..connection.outbound(ACK, LOCAL_ISN + 1) };
    not_sealed(&mut lab, &connection, &ours, DropReason::OptionTwice);
}

#[test]
fn merged() {
    let (mut lab, connection, session) = established();
    let context = Context { gso_size: 1000, ..Context::default() };
    let data = vec![1; 3000];
    let segment = Segment { data: data.clone(), ..connection.inbound(ACK, PEER_ISN + 1) };
    let frame = connection.sign(&session.slots[0].recv, segment, 0).frame();
    lab.expect_drop(&connection, Direction::Inbound, context, &frame, DropReason::Merged);
    let frame = Segment { data, ..connection.outbound(ACK, LOCAL_ISN + 1) }.frame();
    lab.expect_drop(&connection, Direction::Outbound, context, &frame, DropReason::Merged);
}

#[test]
fn no_session() {
    let connection = Connection::plain();
    let session = connection.session();
    let mut lab = Lab::with(&connection, None);
    for flags in [ACK, PSH_ACK, RST, RST | ACK, SYN_ACK, 0x11, 0] {
        let segment = connection.signed(&session, flags, PEER_ISN + 1);
        let dropped = refused(&mut lab, &connection, &segment, DropReason::NoSession);
        assert_eq!(dropped.key_id, 84);
        let ours = connection.outbound(flags, LOCAL_ISN + 1);
        not_sealed(&mut lab, &connection, &ours, DropReason::NoSession);
    }
    lab.put(&connection, &connection.half_open());
    let data = connection.signed(&session, PSH_ACK, PEER_ISN + 1);
    refused(&mut lab, &connection, &data, DropReason::NoSession);
    lab.put(&connection, &connection.half_accepted());
    refused(&mut lab, &connection, &data, DropReason::NoSession);
}

#[test]
fn wrong_interface() {
    let mut connection = Connection::plain();
    let mut lab = Lab::new();
    // Bound to the other interface.
    connection.scope = lab.other_ifindex;
    lab.add_neighbor(&connection);
    let rule =
        PeerRule { neighbor: connection.neighbor, scope: connection.scope, flags: PeerRule::WRONG_INTERFACE };
    lab.set_peer(0, mapped(connection.peer.ip()), 128, rule);
    let session = connection.session();
    lab.put(&connection, &session);
    let segment = connection.signed(&session, ACK, PEER_ISN + 1);
    let ours = connection.outbound(ACK, LOCAL_ISN + 1);
    for (direction, frame) in [(Direction::Inbound, segment.frame()), (Direction::Outbound, ours.frame())] {
        let reason = DropReason::WrongInterface;
        let dropped = lab.expect_drop(&connection, direction, Context::default(), &frame, reason);
        assert_eq!(dropped.quartet, connection.quartet());
    }
    let right = Context { ifindex: lab.other_ifindex, ..Context::default() };
    assert_eq!(lab.run("ingress", right, &segment.frame()).0, Verdict::Pass);
}

#[test]
fn rate_limited() {
    let connection = Connection::plain();
    let mut lab = Lab::with(&connection, None);
    let syn = connection.sign(&connection.session().slots[0].recv, connection.inbound(SYN, 1), 0);
    let frame = syn.frame();
    let (mut held, mut run) = (0, 0);
    while lab.counters(connection.neighbor).dropped[DropReason::RateLimited as usize] == 0 {
        assert_eq!(lab.ingress(&frame).0, Verdict::Drop);
        held += u64::from(lab.take_held().is_some());
        run += 1;
        assert!(run < 100_000, "never limited");
    }
    // The bucket gains as time goes by.
    assert!((1000..3000).contains(&held), "{held} held");
    assert_eq!(run, held + 1, "all others were held");
    let dropped = lab.take_dropped().unwrap();
    assert_eq!(dropped.reason, DropReason::RateLimited as u8);
    assert_eq!((dropped.quartet, dropped.tcp_flags, dropped.key_id), (connection.quartet(), SYN, 84));
    // Forged SYNs do not keep our own back.
    assert_eq!(lab.seal(&connection.outbound(SYN, 1).frame()).0, Verdict::Drop);
    assert_eq!(lab.take_held().unwrap().0.direction, Direction::Outbound as u8);
}

#[test]
fn overload() {
    let connection = Connection::plain();
    let mut lab = Lab::with(&connection, None);
    let signed = connection.sign(&connection.session().slots[0].recv, connection.inbound(SYN, 1), 0);
    let frame = Segment { data: vec![0; 400], ..signed }.frame();
    let mut held = 0;
    // Nobody reads the ring, of 1 MiB.
    while lab.counters(connection.neighbor).dropped[DropReason::Overload as usize] == 0 {
        lab.refill(connection.neighbor);
        assert_eq!(lab.ingress(&frame).0, Verdict::Drop);
        held += 1;
        assert!(held < 10_000, "the ring never fills");
    }
    assert!(held > 1000, "{held} held");
    let dropped = lab.take_dropped().unwrap();
    assert_eq!((dropped.reason, dropped.quartet), (DropReason::Overload as u8, connection.quartet()));
    while lab.take_held().is_some() {
        held -= 1;
    }
    assert_eq!(held, 1, "all but the last reach the daemon");
}

#[test]
fn records_of_drops_are_limited_counts_are_not() {
    let (mut lab, connection, _) = established();
    let frame = connection.inbound(ACK, PEER_ISN + 1).frame();
    for _ in 0..200 {
        assert_eq!(lab.ingress(&frame).0, Verdict::Drop);
    }
    let told = std::iter::from_fn(|| lab.take_dropped()).count();
    assert!((20..60).contains(&told), "{told} of 200 told");
    assert_eq!(lab.counters(connection.neighbor).dropped[DropReason::NoOption as usize], 200);
    assert_eq!(lab.session(&connection).unwrap().counters.dropped[DropReason::NoOption as usize], 200);
}
