//! The numbers of a connection on which keys were agreed: the stacks', and those on the wire, which the MAC is of.

use std::cell::RefCell;

use proptest::{prelude::*, test_runner::TestRunner};
use tcpauth_common::{
    Algorithm, DropReason,
    layout::{Direction, Session},
};

use super::{
    connection::{ACK, Connection, Family, PSH_ACK, RST, SYN_ACK},
    context::{Context, Verdict},
    lab::Lab,
    phases::{
        FIN_ACK, OURS, RECEIVED, RST_ACK, SENT, THEIRS, both_families, ours_behind, session, theirs_behind,
    },
    segment::Segment,
};

const TIMESTAMPS: [u8; 10] = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

/// A SACK option of these edges.
fn sack(edges: &[u32]) -> Vec<u8> {
    let mut option = vec![5, 2 + 4 * edges.len() as u8];
    option.extend(edges.iter().flat_map(|edge| edge.to_be_bytes()));
    option
}

/// Options of `before` octets of padding, SACK, padding to whole words.
fn options(before: usize, timestamps: bool, edges: &[u32]) -> Vec<u8> {
    let mut options = vec![1; before];
    if timestamps {
        options.extend(TIMESTAMPS);
    }
    options.extend(if edges.is_empty() { vec![] } else { sack(edges) });
    options.resize(options.len().next_multiple_of(4), 1);
    options
}

/// An open session with these ISNs and offsets, in which only the handshake was sent.
fn open(connection: &Connection, isns: (u32, u32), offsets: (u32, u32)) -> Session {
    let mut session = connection.session_from(isns.0, isns.1);
    (session.sent_before, session.received_before) = offsets;
    session.send_seq = u64::from(isns.0) + 1 + u64::from(offsets.0);
    session.recv_seq = u64::from(isns.1) + 1 + u64::from(offsets.1);
    session.local_ack = session.recv_seq as u32;
    session
}

/// Seals a segment of our stack and checks each number and the MAC.
fn check_leaving(lab: &mut Lab, connection: &Connection, session: &Session, ours: &Segment, edges: &[u32]) {
    let (verdict, out) = lab.seal_of_stack(&ours.frame());
    assert_eq!(verdict, Verdict::Redirect, "{:?}", lab.take_dropped());
    let sealed = Segment::of_frame(&out);
    let (sent, received) = (session.sent_before, session.received_before);
    assert_eq!(sealed.seq, ours.seq.wrapping_add(sent));
    let counts = ours.flags & ACK != 0;
    assert_eq!(sealed.ack, if counts { ours.ack.wrapping_add(received) } else { ours.ack });
    assert_eq!((sealed.flags, &sealed.data, sealed.window), (ours.flags, &ours.data, ours.window));
    let room = connection.mkt.algorithm.option_len();
    let others = &sealed.options[..sealed.options.len() - room];
    let wire: Vec<u32> = edges.iter().map(|edge| edge.wrapping_add(received)).collect();
    let found = others.windows(2).position(|at| at[0] == 5 && at[1] >= 10).map(|at| &others[at..]);
    match found {
        // Some may have had to go for the option.
        Some(found) => {
            let len = usize::from(found[1]);
            assert_eq!(found[2..len], sack(&wire)[2..len], "{edges:x?}");
        }
        None => assert!(edges.is_empty()),
    }
    let extended = u64::from(session.local_isn.0) + 1 + u64::from(sent);
    let extended = extended.wrapping_add_signed(i64::from(sealed.seq.wrapping_sub(extended as u32) as i32));
    assert!(connection.accepts(&session.slots[0].send, &sealed, (extended >> 32) as u32));
    let after = lab.session(connection).unwrap();
    assert_eq!(after.send_seq, session.send_seq.max(extended), "of the wire");
    if counts && session.local_ack.wrapping_sub(sealed.ack) as i32 <= 0 {
        assert_eq!(after.local_ack, sealed.ack, "of the wire");
    }
}

/// Lets a segment arrive whose numbers are the wire's, and checks each that the stack sees.
fn check_arriving(lab: &mut Lab, connection: &Connection, session: &Session, wire: Segment, edges: &[u32]) {
    let front = session.recv_seq;
    let extended = front.wrapping_add_signed(i64::from(wire.seq.wrapping_sub(front as u32) as i32));
    let signed = connection.sign(&session.slots[0].recv, wire.clone(), (extended >> 32) as u32);
    let frame = signed.frame();
    // The kernel refuses the run if the sum of the whole packet is no longer right.
    let summed = Context { ifindex: lab.ifindex, summed: true, ..Context::default() };
    let (verdict, out) = lab.run("ingress", summed, &frame);
    assert_eq!(verdict, Verdict::Pass, "{:?}", lab.take_dropped());
    let arrived = Segment::of_frame(&out);
    let (sent, received) = (session.sent_before, session.received_before);
    assert_eq!(arrived.seq, wire.seq.wrapping_sub(received));
    let counts = wire.flags & ACK != 0;
    assert_eq!(arrived.ack, if counts { wire.ack.wrapping_sub(sent) } else { wire.ack });
    assert_eq!((arrived.flags, &arrived.data), (wire.flags, &wire.data));
    let mut wanted = wire.options.clone();
    if !edges.is_empty() {
        let at = wanted.windows(2).position(|at| at == [5, 2 + 4 * edges.len() as u8]).unwrap();
        let translated: Vec<u32> = edges.iter().map(|edge| edge.wrapping_sub(sent)).collect();
        let translated = sack(&translated);
        wanted[at..at + translated.len()].copy_from_slice(&translated);
    }
    wanted.resize(wanted.len() + connection.mkt.algorithm.option_len(), 1);
    assert_eq!(arrived.options, wanted, "{edges:x?}");
    assert_eq!(lab.session(connection).unwrap().recv_seq, front.max(extended), "of the wire");
}

#[test]
fn every_kind_of_segment_is_translated_but_syns() {
    for connection in both_families() {
        let session = session(&connection, Session::OPEN);
        let mut lab = Lab::with(&connection, None);
        for flags in [ACK, PSH_ACK, FIN_ACK, RST, RST_ACK] {
            lab.put(&connection, &session);
            let data = if flags == PSH_ACK { vec![5; 77] } else { vec![] };
            let ours = Segment {
                ack: THEIRS.wrapping_add(1),
                data: data.clone(),
                ..connection.outbound(flags, OURS.wrapping_add(1))
            };
            check_leaving(&mut lab, &connection, &session, &ours, &[]);
            let wire = Segment { ack: ours_behind(), data, ..connection.inbound(flags, theirs_behind()) };
            check_arriving(&mut lab, &connection, &session, wire, &[]);
        }
    }
}

#[test]
fn a_syn_is_of_before_the_handshake() {
    for connection in both_families() {
        let session = session(&connection, Session::OPEN);
        let mut lab = Lab::with(&connection, Some(&session));
        // The one that the daemon kept and lets go, or that is sent again.
        let theirs = Segment { ack: OURS.wrapping_add(1), ..connection.inbound(SYN_ACK, THEIRS) };
        let arrived = lab.verified(&connection.sign(&session.slots[0].recv, theirs, 0));
        assert_eq!((arrived.seq, arrived.ack), (THEIRS, OURS.wrapping_add(1)));
        let ours = Segment { ack: THEIRS.wrapping_add(1), ..connection.outbound(SYN_ACK, OURS) };
        let sealed = Segment::of_frame(&lab.seal_of_stack(&ours.frame()).1);
        assert_eq!((sealed.seq, sealed.ack), (ours.seq, ours.ack));
        assert!(connection.accepts(&session.slots[0].send, &sealed, 0));
        let after = lab.session(&connection).unwrap();
        assert_eq!(
            (after.send_seq, after.recv_seq),
            (session.send_seq, session.recv_seq),
            "nothing goes back"
        );
    }
}

#[test]
fn our_refusal_of_another_syn_has_the_numbers_of_that() {
    let connection = Connection::plain();
    let mut session = session(&connection, Session::OPEN);
    session.syn_recv_isn = tcpauth_common::Isn(5);
    let mut lab = Lab::with(&connection, Some(&session));
    let refusal = Segment { ack: 6, ..connection.outbound(RST_ACK, 0) };
    assert_eq!(lab.seal_of_stack(&refusal.frame()).0, Verdict::Drop);
    let (held, frame) = lab.take_held().unwrap();
    assert_eq!(
        (held.direction, frame),
        (Direction::Outbound as u8, refusal.frame()),
        "the daemon has its key"
    );
}

#[test]
fn checks_are_of_the_numbers_on_the_wire() {
    let connection = Connection::plain();
    // Farther than any window.
    let session = open(&connection, (OURS, THEIRS), (0x7000_0000, 0x6000_0000));
    let mut lab = Lab::with(&connection, Some(&session));
    let of_stack = THEIRS.wrapping_add(1);
    for sne in [0, 1] {
        let theirs = Segment { ack: OURS.wrapping_add(1), ..connection.inbound(ACK, of_stack) };
        let frame = connection.sign(&session.slots[0].recv, theirs, sne).frame();
        let (context, reason) = (Context::default(), DropReason::OutsideWindow);
        lab.expect_drop(&connection, Direction::Inbound, context, &frame, reason);
    }
    let wire = connection.inbound(ACK, of_stack.wrapping_add(session.received_before));
    check_arriving(&mut lab, &connection, &session, wire, &[]);
    // What is signed with the stack's numbers and carries the wire's is forged.
    let theirs = Segment { seq: theirs_behind(), ..connection.signed(&session, ACK, of_stack) };
    lab.put(&connection, &session_with(&connection, SENT, RECEIVED));
    let (context, reason) = (Context::default(), DropReason::WrongMac);
    lab.expect_drop(&connection, Direction::Inbound, context, &theirs.frame(), reason);
}

fn session_with(connection: &Connection, sent: u32, received: u32) -> Session {
    open(connection, (OURS, THEIRS), (sent, received))
}

#[test]
fn blocks_are_translated_at_every_offset() {
    for family in [Family::V4, Family::V6] {
        for algorithm in [Algorithm::HmacSha1_96, Algorithm::HmacSha256_128] {
            let connection = Connection::new(family, algorithm, tcpauth::keys::TcpOptions::Include);
            let session = session_with(&connection, SENT, RECEIVED);
            let mut lab = Lab::with(&connection, None);
            for blocks in 1..=4 {
                for before in 0..4 {
                    for timestamps in [false, true] {
                        // Around the wrap.
                        let edges: Vec<u32> =
                            (0..2 * blocks).map(|edge| (edge * 400_u32).wrapping_sub(1500)).collect();
                        let options = options(before, timestamps, &edges);
                        if options.len() > 40 {
                            continue;
                        }
                        lab.put(&connection, &session);
                        let ours = Segment {
                            options: options.clone(),
                            ack: THEIRS.wrapping_add(1),
                            ..connection.outbound(ACK, OURS.wrapping_add(1))
                        };
                        check_leaving(&mut lab, &connection, &session, &ours, &edges);
                        if options.len() + algorithm.option_len() <= 40 {
                            let wire = Segment {
                                options,
                                ack: ours_behind(),
                                ..connection.inbound(ACK, theirs_behind())
                            };
                            check_arriving(&mut lab, &connection, &session, wire, &edges);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn any_numbers_and_offsets() {
    for connection in both_families() {
        let lab = RefCell::new(Lab::with(&connection, None));
        let numbers = (any::<(u32, u32)>(), any::<(u32, u32)>(), 0u32..60_000, any::<u32>());
        let shape = (any::<bool>(), 0usize..4, proptest::collection::vec(any::<u32>(), 0..=1), 0usize..99);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(300));
        let result = runner.run(&(numbers, shape), |((isns, offsets, at, ack), shape)| {
            let (timestamps, before, edges, len) = shape;
            let edges: Vec<u32> = edges.into_iter().flat_map(|edge| [edge, edge ^ 0x8000]).collect();
            let session = open(&connection, isns, offsets);
            let options = options(before, timestamps && edges.is_empty(), &edges);
            let data: Vec<u8> = (0..len as u8).collect();
            let mut lab = lab.borrow_mut();
            lab.put(&connection, &session);
            let ours = Segment {
                options: options.clone(),
                data: data.clone(),
                ack,
                ..connection.outbound(PSH_ACK, isns.0.wrapping_add(1 + at))
            };
            check_leaving(&mut lab, &connection, &session, &ours, &edges);
            lab.put(&connection, &session);
            let seq = (session.recv_seq as u32).wrapping_add(at);
            let wire = Segment { options, data, ack, ..connection.inbound(PSH_ACK, seq) };
            check_arriving(&mut lab, &connection, &session, wire, &edges);
            Ok(())
        });
        result.unwrap();
    }
}
