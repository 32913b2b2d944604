//! TCP-MD5 (RFC 2385) through the programs, with several passwords (RFC 4808).

use tcpauth::keys::{Mkt, TcpOptions, segment::md5};
use tcpauth_common::{
    Algorithm, DropReason, Isn,
    layout::{Direction, KeySlot, Session},
    rollover::{NO_CUTOFF, Rollover},
};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK, SYN, SYN_ACK, USABLE, mkt, order},
    context::{Context, Verdict},
    lab::Lab,
    segment::{Segment, number16},
};

const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
/// Of a SYN of Linux: MSS, SACK permitted, timestamps, window scale.
const USUAL: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

fn connection(family: Family) -> Connection {
    let mkt = password(b"v61ne0qkel33&");
    Connection { mkt, ..Connection::new(family, Algorithm::Md5, TcpOptions::Include) }
}

fn password(secret: &[u8]) -> Mkt {
    mkt(Algorithm::Md5, TcpOptions::Include, secret, 0, 0)
}

/// As the neighbour's kernel signs it.
fn sign(password: &[u8], mut segment: Segment) -> Segment {
    segment.options.extend([1, 1, 19, 18]);
    let at = segment.options.len();
    segment.options.extend([0; 16]);
    let digest = digest(password, &segment);
    segment.options[at..].copy_from_slice(&digest);
    segment
}

fn digest(password: &[u8], segment: &Segment) -> [u8; 16] {
    md5::digest(password, segment.source.ip(), segment.destination.ip(), &segment.tcp()).unwrap()
}

/// Whether the neighbour's kernel would accept what we sealed.
fn accepts(password: &[u8], segment: &Segment) -> bool {
    let tcp = segment.tcp();
    tcp[md5::parse_option(&tcp).unwrap()] == digest(password, segment)
}

fn refused(lab: &mut Lab, connection: &Connection, segment: &Segment, reason: DropReason) {
    lab.expect_drop(connection, Direction::Inbound, Context::default(), &segment.frame(), reason);
}

const SECRET: &[u8] = b"v61ne0qkel33&";

#[test]
fn every_length_of_data_and_password() {
    for family in [Family::V4, Family::V6] {
        let mut connection = connection(family);
        let mut lab = Lab::with(&connection, None);
        lab.widen();
        for password_len in [1, 3, 4, 13, 59, 60, 61, 79, 80] {
            let secret: Vec<u8> = (0..password_len).map(|at| at as u8 + 33).collect();
            connection.mkt = password(&secret);
            let session = connection.session();
            lab.put(&connection, &session);
            for len in (0..70).chain([1000, 1447, 1448, 3400]) {
                let data: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
                let place = format!("{family:?}, {password_len} octets of password, {len} of data");
                let options = if len < 1449 { TIMESTAMPS.to_vec() } else { vec![] };
                let ours = Segment {
                    data: data.clone(),
                    options: options.clone(),
                    ..connection.outbound(PSH_ACK, LOCAL_ISN + 1)
                };
                let sealed = lab.sealed(&ours);
                assert!(accepts(&secret, &sealed), "{place}");
                assert_eq!(sealed.options[options.len()..][..4], [1, 1, 19, 18]);
                assert_eq!(sealed.options[..options.len()], options, "{place}: timestamps of data stay");
                assert_eq!(sealed.data, data);

                let theirs = Segment { data, options, ..connection.inbound(PSH_ACK, PEER_ISN + 1) };
                let signed = sign(&secret, theirs.clone());
                let mut wanted = signed.clone();
                wanted.options[theirs.options.len()..].fill(1);
                assert_eq!(lab.verified(&signed), wanted, "{place}");
            }
        }
    }
}

#[test]
fn a_digest_is_of_everything_but_the_options() {
    let connection = connection(Family::V4);
    let mut lab = Lab::with(&connection, Some(&connection.session()));
    let plain = Segment { data: vec![7; 50], ..connection.inbound(PSH_ACK, PEER_ISN + 1) };
    let signed = sign(SECRET, plain.clone());
    for octet in 4..20 {
        let mut forged = signed.clone();
        forged.options[octet] ^= 1;
        refused(&mut lab, &connection, &forged, DropReason::WrongMac);
    }
    for forged in [
        Segment { seq: PEER_ISN + 2, ..signed.clone() },
        Segment { flags: ACK, ..signed.clone() },
        Segment { window: 501, ..signed.clone() },
        Segment { data: vec![8; 50], ..signed.clone() },
        Segment { data: vec![7; 51], ..signed.clone() },
        sign(b"v61ne0qkel33", plain.clone()),
        sign(b"v61ne0qkel33&\0", plain),
    ] {
        refused(&mut lab, &connection, &forged, DropReason::WrongMac);
    }
    lab.verified(&signed);
}

#[test]
fn timestamps_are_refused_on_the_syn() {
    for family in [Family::V4, Family::V6] {
        let connection = connection(family);
        let mut session = connection.session();
        session.flags |= Session::SYN_RECV;
        session.syn_recv_isn = Isn(PEER_ISN);
        let mut lab = Lab::with(&connection, Some(&session));
        for flags in [SYN, SYN_ACK] {
            let ours = connection.outbound(flags, LOCAL_ISN);
            let sealed = lab.sealed(&Segment { options: USUAL.to_vec(), ack: PEER_ISN + 1, ..ours });
            assert!(accepts(SECRET, &sealed));
            assert_eq!(sealed.options[..12], [2, 4, 5, 180, 4, 2, 3, 3, 7, 1, 1, 1]);
            assert_eq!(sealed.options.len(), 32);

            let syn = Segment { options: USUAL.to_vec(), ..connection.inbound(flags, PEER_ISN) };
            let verified = lab.verified(&sign(SECRET, syn));
            let mss = number16(&verified.options, 2);
            assert_eq!(mss, if family == Family::V4 { 1440 } else { 1420 }, "room for the option");
            let mut wanted = [&USUAL[..], &[1; 20]].concat();
            wanted[2..4].copy_from_slice(&mss.to_be_bytes());
            wanted[6..16].fill(1);
            assert_eq!(verified.options, wanted);
        }
        assert_eq!(lab.session(&connection).unwrap().rollover.cutoff, [NO_CUTOFF; 3]);
    }
}

#[test]
fn syns_are_under_the_passwords_of_the_session_and_held_without_one() {
    let connection = connection(Family::V4);
    let mut lab = Lab::with(&connection, None);
    let syn = sign(SECRET, connection.inbound(SYN, PEER_ISN));
    let is_held = |lab: &mut Lab, frame: &[u8], inbound: bool| {
        let verdict = if inbound { lab.ingress(frame).0 } else { lab.seal(frame).0 };
        assert_eq!(verdict, Verdict::Drop);
        lab.take_held().is_some_and(|(_, copy)| copy == frame)
    };
    assert!(is_held(&mut lab, &syn.frame(), true));
    assert!(is_held(&mut lab, &connection.outbound(SYN, LOCAL_ISN).frame(), false));
    // Our SYN is known, and then the answer.
    let session = connection.session();
    lab.put(&connection, &Session { flags: Session::LOCAL_ISN, ..session });
    assert!(accepts(SECRET, &lab.sealed(&connection.outbound(SYN, LOCAL_ISN))));
    let answer = Segment { ack: LOCAL_ISN + 1, ..connection.inbound(SYN_ACK, PEER_ISN) };
    assert!(is_held(&mut lab, &sign(SECRET, answer.clone()).frame(), true));
    lab.put(&connection, &session);
    lab.verified(&sign(SECRET, answer));
    // The peer's SYN is known.
    let flags = Session::PEER_ISN | Session::SYN_RECV;
    lab.put(&connection, &Session { flags, syn_recv_isn: Isn(PEER_ISN), ..session });
    lab.verified(&syn);
    let mut forged = syn;
    forged.options[9] ^= 1;
    refused(&mut lab, &connection, &forged, DropReason::WrongMac);
    assert!(is_held(&mut lab, &sign(SECRET, connection.inbound(SYN, 5)).frame(), true));
    let ours = Segment { ack: PEER_ISN + 1, ..connection.outbound(SYN_ACK, 9) };
    assert!(is_held(&mut lab, &ours.frame(), false));
}

#[test]
fn each_neighbour_has_its_own_wire() {
    let md5 = connection(Family::V4);
    let mut lab = Lab::with(&md5, Some(&md5.session()));
    let ao = Connection::plain();
    let under_ao = ao.signed(&ao.session(), ACK, PEER_ISN + 1);
    let under_md5 = sign(SECRET, md5.inbound(ACK, PEER_ISN + 1));
    let beside = |segment: &Segment| Segment {
        options: [&segment.options[..], &under_ao.options].concat(),
        ..segment.clone()
    };
    let both = beside(&under_md5);
    let twice = Segment { options: under_md5.options.repeat(2), ..under_md5.clone() };
    let short = Segment { options: vec![19, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], ..under_md5.clone() };
    let bare = md5.inbound(ACK, PEER_ISN + 1);
    refused(&mut lab, &md5, &under_ao, DropReason::NoOption);
    refused(&mut lab, &md5, &bare, DropReason::NoOption);
    refused(&mut lab, &md5, &twice, DropReason::OptionTwice);
    refused(&mut lab, &md5, &both, DropReason::OptionTwice);
    refused(&mut lab, &md5, &short, DropReason::WrongLength);
    refused(
        &mut lab,
        &md5,
        &sign(SECRET, md5.inbound(ACK, PEER_ISN + 1 + (1 << 30))),
        DropReason::OutsideWindow,
    );
    lab.verified(&under_md5);
    // A session with keys of the other wire has none.
    lab.put(&md5, &ao.session());
    refused(&mut lab, &md5, &under_md5, DropReason::NoKey);
    let frame = md5.outbound(ACK, LOCAL_ISN + 1).frame();
    lab.expect_drop(&md5, Direction::Outbound, Context::default(), &frame, DropReason::NoKey);

    let mut lab = Lab::with(&ao, Some(&ao.session()));
    refused(&mut lab, &ao, &under_md5, DropReason::NoOption);
    refused(&mut lab, &ao, &both, DropReason::OptionTwice);
    lab.put(&ao, &md5.session());
    refused(&mut lab, &ao, &under_ao, DropReason::NoKey);
}

#[test]
fn a_new_password_is_sent_once_the_neighbour_sends_it() {
    let connection = connection(Family::V4);
    let passwords: [&[u8]; 3] = [b"newest", b"newer", SECRET];
    let mut session = Session { local_window: 1 << 20, ..connection.session() };
    for (slot, secret) in passwords.iter().enumerate() {
        session.slots[slot] = connection.slot(&password(secret), LOCAL_ISN, PEER_ISN);
        assert_eq!(session.slots[slot].flags & USABLE, USABLE);
    }
    session.rollover = Rollover { order: order(&[0, 1, 2]), current: 2, rnext: 0, ..Rollover::default() };
    let mut lab = Lab::with(&connection, Some(&session));
    let theirs = |age: usize, seq| {
        let segment = Segment { data: vec![1; 1448], ..connection.inbound(PSH_ACK, seq) };
        sign(passwords[age], segment)
    };
    let sends = |lab: &mut Lab| {
        let sealed = lab.sealed(&connection.outbound(ACK, LOCAL_ISN + 1));
        passwords.iter().position(|secret| accepts(secret, &sealed)).unwrap()
    };
    lab.verified(&theirs(2, PEER_ISN + 1));
    assert_eq!(sends(&mut lab), 2);
    lab.verified(&theirs(1, PEER_ISN + 3000));
    assert_eq!(sends(&mut lab), 1);
    lab.verified(&theirs(2, PEER_ISN + 1500));
    assert_eq!(sends(&mut lab), 1, "sent before the switch");
    refused(&mut lab, &connection, &theirs(2, PEER_ISN + 3000), DropReason::OldKey);
    lab.verified(&theirs(0, PEER_ISN + 9000));
    assert_eq!(sends(&mut lab), 0);
    refused(&mut lab, &connection, &theirs(1, PEER_ISN + 9000), DropReason::OldKey);
    lab.verified(&theirs(1, PEER_ISN + 8000));
    // Accepted only: what may not be sent is not.
    session.slots[0].flags = KeySlot::ACCEPT;
    lab.put(&connection, &session);
    lab.verified(&theirs(0, PEER_ISN + 1));
    assert_eq!(sends(&mut lab), 2);
}

#[test]
fn a_syn_ack_played_again_after_gibibytes_moves_nothing() {
    let connection = connection(Family::V4);
    // It is from before by the sequence number, and from after by the 2 GiB that tell before from after.
    let front = u64::from(PEER_ISN) + (3 << 30);
    let session =
        Session { recv_seq: front, local_ack: front as u32, local_window: 1 << 20, ..connection.session() };
    let mut lab = Lab::with(&connection, Some(&session));
    let syn_ack = sign(SECRET, connection.inbound(SYN_ACK, PEER_ISN));
    refused(&mut lab, &connection, &syn_ack, DropReason::OutsideWindow);
    // Where it has its place, it is taken.
    lab.put(&connection, &Session { local_window: 1 << 20, ..connection.session() });
    lab.verified(&syn_ack);
}
