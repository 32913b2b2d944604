//! While keys are agreed on a connection itself: what the daemons say passes, what the stacks say waits, and a stranger
//! moves nothing.

use tcpauth::keys::TcpOptions;
use tcpauth_common::{
    Algorithm, DropReason, Isn,
    layout::{Direction, KeyChange, MAX_HELD, Session},
};

use super::{
    connection::{ACK, Connection, Family, PSH_ACK, RST, SYN, SYN_ACK},
    context::{Context, Verdict},
    lab::{Lab, octets},
    segment::Segment,
};

pub const FIN_ACK: u8 = 0x11;
pub const RST_ACK: u8 = RST | ACK;
/// Near the end of the numbers, so that each direction wraps in its handshake.
pub const OURS: u32 = u32::MAX - 300;
pub const THEIRS: u32 = u32::MAX - 100;
/// Octets of the handshake.
pub const SENT: u32 = 1000;
pub const RECEIVED: u32 = 2000;

pub const PHASES: [u32; 4] = [Session::OPEN, Session::HANDSHAKE, Session::SWITCHING, Session::FAILED];

pub fn both_families() -> [Connection; 2] {
    [Family::V4, Family::V6]
        .map(|family| Connection::new(family, Algorithm::HmacSha256_128, TcpOptions::Include))
}

/// The first number behind the handshake that our end sent.
pub const fn ours_behind() -> u32 {
    OURS.wrapping_add(1 + SENT)
}

/// The first number behind the handshake that the peer sent.
pub const fn theirs_behind() -> u32 {
    THEIRS.wrapping_add(1 + RECEIVED)
}

/// A server's session in `phase`, whose handshake has come to its end.
pub fn session(connection: &Connection, phase: u32) -> Session {
    let mut session = connection.session_from(OURS, THEIRS);
    session.flags |= Session::SYN_RECV | Session::AGREED;
    session.syn_recv_isn = Isn(THEIRS);
    session.syn_recv = connection.mkt.syn_recv(&connection.quartet(), Isn(THEIRS));
    session.phase = phase;
    session.sent_before = SENT;
    session.received_before = RECEIVED;
    session.send_seq = u64::from(OURS) + 1 + u64::from(SENT);
    session.recv_seq = u64::from(THEIRS) + 1 + u64::from(RECEIVED);
    session.local_ack = theirs_behind();
    session
}

/// A segment of the peer, signed, as its MAC is on the wire.
pub fn signed(connection: &Connection, session: &Session, segment: Segment) -> Segment {
    match segment.flags == SYN {
        true => connection.sign(&session.syn_recv.material, segment, 0),
        // All of it is behind the wrap but what is told here.
        false => {
            let sne = u32::from(segment.seq < THEIRS);
            connection.sign(&session.slots[0].recv, segment, sne)
        }
    }
}

/// Lets a frame arrive that is the daemon's: it is, as it came, and nothing else becomes of it.
pub fn expect_diverted(lab: &mut Lab, connection: &Connection, segment: &Segment) {
    let (frame, before) = (segment.frame(), lab.session(connection).unwrap());
    assert_eq!(lab.ingress(&frame).0, Verdict::Drop);
    let (held, copy) =
        lab.take_held_own().unwrap_or_else(|| panic!("not diverted: {:?}", lab.take_dropped()));
    assert_eq!(copy, frame, "octet for octet");
    assert_eq!((held.verified, held.direction), (1, Direction::Inbound as u8));
    assert_eq!((held.quartet, held.neighbor), (connection.quartet(), connection.neighbor));
    assert_eq!(held.ifindex, lab.ifindex);
    assert_eq!((held.l3_offset as usize, held.l4_offset as usize), (segment.l3(), segment.l4()));
    assert!(held.time > 0);
    assert!(lab.take_held().is_none() && lab.take_dropped().is_none());
    let after = lab.session(connection).unwrap();
    assert_eq!((after.phase, after.counters.dropped), (before.phase, before.counters.dropped));
    let counted = |session: &Session| session.counters.passed.verified_segments;
    assert_eq!(counted(&after), counted(&before) + 1);
    assert!(after.last_segment > before.last_segment);
}

/// Sends a segment of our stack that waits, and of which nobody is told.
fn expect_taken(lab: &mut Lab, connection: &Connection, segment: &Segment) {
    let before = (lab.counters(connection.neighbor), lab.session(connection).unwrap());
    assert_eq!(lab.seal_of_stack(&segment.frame()).0, Verdict::Drop);
    assert!(lab.take_held().is_none() && lab.take_dropped().is_none());
    assert_eq!(lab.counters(connection.neighbor), before.0);
    assert_eq!(octets(&lab.session(connection).unwrap()), octets(&before.1), "nothing moves");
}

/// What becomes of a frame that leaves as it is, but for the option.
fn expect_as_it_is(connection: &Connection, session: &Session, sent: &Segment, out: (Verdict, Vec<u8>)) {
    assert_eq!(out.0, Verdict::Redirect);
    let sealed = Segment::of_frame(&out.1);
    let numbers = |segment: &Segment| (segment.seq, segment.ack, segment.flags, segment.data.clone());
    assert_eq!(numbers(&sealed), numbers(sent));
    let (key, sne) = match sent.flags {
        SYN => (&session.syn_send.material, 0),
        _ => (&session.slots[0].send, u32::from(sent.seq < OURS)),
    };
    assert!(connection.accepts(key, &sealed, sne), "{:02x}", sent.flags);
}

/// Segments of our end of each kind, with the numbers of a stack that knows of no handshake.
fn of_stack(connection: &Connection) -> Vec<Segment> {
    [SYN, SYN_ACK, ACK, PSH_ACK, FIN_ACK, RST, RST_ACK]
        .into_iter()
        .map(|flags| {
            let seq = OURS.wrapping_add(u32::from(flags & SYN == 0));
            let ack = if flags & ACK == 0 { 0 } else { THEIRS.wrapping_add(1) };
            let data = if flags == PSH_ACK { b"BGP".to_vec() } else { vec![] };
            Segment { ack, data, ..connection.outbound(flags, seq) }
        })
        .collect()
}

#[test]
fn the_stack_waits_until_the_daemons_have_spoken() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, None);
        for phase in [Session::HANDSHAKE, Session::SWITCHING, Session::FAILED] {
            let session = session(&connection, phase);
            lab.put(&connection, &session);
            for ours in of_stack(&connection) {
                let (is_syn, is_rst) = (ours.flags & SYN != 0, ours.flags & RST != 0);
                if is_rst || (is_syn && phase != Session::FAILED) {
                    let out = lab.seal_of_stack(&ours.frame());
                    expect_as_it_is(&connection, &session, &ours, out);
                } else {
                    expect_taken(&mut lab, &connection, &ours);
                }
            }
            assert_eq!(lab.session(&connection).unwrap().phase, phase);
        }
    }
}

#[test]
fn what_the_daemon_sends_has_the_numbers_of_the_wire_in_every_phase() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, None);
        for phase in PHASES {
            let session = session(&connection, phase);
            lab.put(&connection, &session);
            for flags in [SYN_ACK, ACK, PSH_ACK, RST, RST_ACK] {
                let seq = if flags == SYN_ACK { OURS } else { OURS.wrapping_add(500) };
                let ours = Segment {
                    ack: THEIRS.wrapping_add(700),
                    options: vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
                    data: vec![9; if flags == PSH_ACK { 900 } else { 0 }],
                    ..connection.outbound(flags, seq)
                };
                // Our SYN-ACK acknowledges the peer's SYN.
                let ours =
                    if flags == SYN_ACK { Segment { ack: THEIRS.wrapping_add(1), ..ours } } else { ours };
                let out = lab.seal(&ours.frame());
                if phase == Session::FAILED && flags & RST == 0 {
                    assert_eq!(out.0, Verdict::Drop);
                    assert!(lab.take_dropped().is_none() && lab.take_held().is_none());
                } else {
                    expect_as_it_is(&connection, &session, &ours, out);
                }
            }
        }
    }
}

#[test]
fn the_daemon_gets_every_segment_of_the_handshake_whole() {
    for connection in both_families() {
        let session = session(&connection, Session::HANDSHAKE);
        let mut lab = Lab::with(&connection, Some(&session));
        for flags in [SYN_ACK, ACK, PSH_ACK, FIN_ACK, RST, RST_ACK] {
            let seq = if flags & SYN != 0 { THEIRS } else { THEIRS.wrapping_add(500) };
            let theirs = Segment {
                ack: if flags & ACK == 0 { 0 } else { OURS.wrapping_add(1) },
                data: vec![7; if flags == PSH_ACK { 900 } else { 0 }],
                vlan: (flags == ACK).then_some(42),
                ..connection.inbound(flags, seq)
            };
            expect_diverted(&mut lab, &connection, &signed(&connection, &session, theirs));
        }
        let after = lab.session(&connection).unwrap();
        assert_eq!(after.seen, Session::FIN_RECEIVED | Session::RST_RECEIVED);
    }
}

#[test]
fn the_stack_of_a_server_gets_the_syn_and_that_of_a_client_none() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, None);
        for phase in [Session::HANDSHAKE, Session::SWITCHING] {
            let server = session(&connection, phase);
            lab.put(&connection, &server);
            let syn = signed(&connection, &server, connection.inbound(SYN, THEIRS));
            let arrived = lab.verified(&syn);
            assert_eq!((arrived.seq, arrived.flags), (THEIRS, SYN), "as it came");
            assert_eq!(lab.session(&connection).unwrap().phase, phase);
            // The peer's SYN, late, of two that crossed: a second way to open the connection.
            let client = Session { flags: server.flags | Session::CLIENT, ..server };
            lab.put(&connection, &client);
            expect_diverted(&mut lab, &connection, &syn);
        }
    }
}

#[test]
fn the_daemon_gets_segments_as_long_as_a_record_has_room_for() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, None);
        for phase in [Session::HANDSHAKE, Session::SWITCHING] {
            let session = session(&connection, phase);
            lab.put(&connection, &session);
            let theirs = |data: usize| {
                let seq = THEIRS.wrapping_add(1);
                let segment = Segment { data: vec![7; data], ..connection.inbound(PSH_ACK, seq) };
                signed(&connection, &session, segment)
            };
            let room = MAX_HELD - theirs(0).frame().len();
            expect_diverted(&mut lab, &connection, &theirs(room));
            let frame = theirs(room + 1).frame();
            let context = Context::default();
            lab.expect_drop(&connection, Direction::Inbound, context, &frame, DropReason::Malformed);
        }
    }
}

#[test]
fn what_is_diverted_does_not_starve_syns_and_is_bounded() {
    let connection = Connection::plain();
    let session = session(&connection, Session::HANDSHAKE);
    let mut lab = Lab::with(&connection, Some(&session));
    let theirs = connection.inbound(ACK, THEIRS.wrapping_add(1));
    let frame = signed(&connection, &session, theirs).frame();
    let limited = |lab: &Lab| lab.counters(connection.neighbor).dropped[DropReason::RateLimited as usize];
    for _ in 0..2000 {
        lab.ingress(&frame);
        while lab.take_held_own().is_some() {}
    }
    assert!(limited(&lab) > 0, "somebody plays it again and again");
    let before = limited(&lab);
    let syn = connection.sign(&session.slots[0].recv, connection.inbound(SYN, 1), 0);
    lab.ingress(&syn.frame());
    assert_eq!(limited(&lab), before);
    let (held, _) = lab.take_held().unwrap();
    assert_eq!((held.verified, held.direction), (0, Direction::Inbound as u8), "for its keys");
}

#[test]
fn a_forged_segment_moves_nothing_in_any_phase() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, None);
        for phase in PHASES {
            let session = session(&connection, phase);
            lab.put(&connection, &session);
            for flags in [SYN, SYN_ACK, ACK, PSH_ACK, FIN_ACK, RST, RST_ACK] {
                let seq = if flags & SYN != 0 { THEIRS } else { theirs_behind() };
                let theirs = Segment { ack: ours_behind(), ..connection.inbound(flags, seq) };
                let mut forged = signed(&connection, &session, theirs);
                *forged.options.last_mut().unwrap() ^= 1;
                let context = Context::default();
                let reason = DropReason::WrongMac;
                lab.expect_drop(&connection, Direction::Inbound, context, &forged.frame(), reason);
                let after = lab.session(&connection).unwrap();
                assert_eq!((after.phase, after.seen, after.authenticated), (phase, 0, 0));
                assert_eq!((after.local_ack, after.rollover), (session.local_ack, session.rollover));
            }
        }
    }
}

#[test]
fn of_a_connection_without_keys_only_a_reset_arrives() {
    for connection in both_families() {
        let session = session(&connection, Session::FAILED);
        let mut lab = Lab::with(&connection, Some(&session));
        for flags in [SYN, SYN_ACK, ACK, PSH_ACK, FIN_ACK, RST, RST_ACK] {
            let seq = if flags & SYN != 0 { THEIRS } else { THEIRS.wrapping_add(1) };
            let ack = if flags & ACK == 0 { 0 } else { OURS.wrapping_add(1) };
            let theirs = Segment { ack, ..connection.inbound(flags, seq) };
            let theirs = signed(&connection, &session, theirs);
            if flags & RST != 0 {
                let arrived = lab.verified(&theirs);
                assert_eq!((arrived.seq, arrived.ack, arrived.flags), (seq, ack, flags), "as it came");
            } else {
                let context = Context::default();
                let reason = DropReason::Handshake;
                lab.expect_drop(&connection, Direction::Inbound, context, &theirs.frame(), reason);
            }
        }
        // A new connection may begin.
        let syn = connection.sign(&session.slots[0].recv, connection.inbound(SYN, 5), 0);
        assert_eq!(lab.ingress(&syn.frame()).0, Verdict::Drop);
        assert_eq!(lab.take_held().unwrap().0.verified, 0);
        assert_eq!(lab.seal_of_stack(&connection.outbound(SYN, 5).frame()).0, Verdict::Drop);
        assert_eq!(lab.take_held().unwrap().0.direction, Direction::Outbound as u8);
        assert_eq!(lab.session(&connection).unwrap().phase, Session::FAILED);
    }
}

#[test]
fn management_sets_the_phase_in_place() {
    let connection = Connection::plain();
    let mut before = session(&connection, Session::HANDSHAKE);
    before.flags &= !Session::AGREED;
    (before.sent_before, before.received_before) = (0, 0);
    let mut lab = Lab::with(&connection, Some(&before));
    let nothing = KeyChange::nothing(&connection.quartet(), &before);
    let mut wanted = before;
    for (flags, phase) in [
        (0, Session::FAILED),
        (KeyChange::SET_PHASE, Session::SWITCHING),
        (KeyChange::SET_AGREED, Session::FAILED),
        (KeyChange::SET_PHASE | KeyChange::SET_AGREED, Session::OPEN),
    ] {
        let change =
            KeyChange { flags, phase, sent_before: SENT + phase, received_before: RECEIVED, ..nothing };
        assert_eq!(lab.answer("rekey", octets(&change)), KeyChange::DONE);
        if flags & KeyChange::SET_PHASE != 0 {
            (wanted.phase, wanted.sent_before, wanted.received_before) = (phase, SENT + phase, RECEIVED);
        }
        if flags & KeyChange::SET_AGREED != 0 {
            wanted.flags |= Session::AGREED;
        }
        assert_eq!(octets(&lab.session(&connection).unwrap()), octets(&wanted), "{flags} {phase}");
    }
}
