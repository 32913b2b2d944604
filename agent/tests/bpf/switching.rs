//! The server's programs find out by themselves when the client's stack speaks: octet for octet.

use tcpauth_common::{
    DropReason,
    layout::{Direction, Session},
};

use super::{
    connection::{ACK, Connection, PSH_ACK, RST, SYN, SYN_ACK, key, order},
    context::Context,
    lab::Lab,
    phases::{
        FIN_ACK, OURS, RST_ACK, THEIRS, both_families, expect_diverted, ours_behind, session, signed,
        theirs_behind,
    },
    segment::Segment,
};

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Opens,
    Daemon,
    Dropped,
}
use Fate::{Daemon, Dropped, Opens};

/// Lets `theirs` arrive at a server that is switching, and sees to it that its fate is `wanted`.
fn check(lab: &mut Lab, connection: &Connection, theirs: Segment, wanted: Fate) {
    let session = session(connection, Session::SWITCHING);
    lab.put(connection, &session);
    let theirs = signed(connection, &session, theirs);
    match wanted {
        Daemon => expect_diverted(lab, connection, &theirs),
        Dropped => {
            let (context, frame) = (Context::default(), theirs.frame());
            lab.expect_drop(connection, Direction::Inbound, context, &frame, DropReason::Handshake);
            assert_eq!(lab.session(connection).unwrap().phase, Session::SWITCHING);
        }
        Opens => {
            let arrived = lab.verified(&theirs);
            let behind = theirs.seq.wrapping_sub(theirs_behind());
            assert_eq!(arrived.seq, THEIRS.wrapping_add(1).wrapping_add(behind), "with the stack's numbers");
            if theirs.flags & ACK != 0 {
                let behind = theirs.ack.wrapping_sub(ours_behind());
                assert_eq!(arrived.ack, OURS.wrapping_add(1).wrapping_add(behind));
            } else {
                assert_eq!(arrived.ack, theirs.ack);
            }
            assert_eq!((arrived.flags, &arrived.data), (theirs.flags, &theirs.data));
            let after = lab.session(connection).unwrap();
            assert_eq!(after.phase, Session::OPEN);
            assert_eq!(
                (after.sent_before, after.received_before),
                (session.sent_before, session.received_before)
            );
            assert!(lab.take_held().is_none());
            // From now on the stack speaks.
            let ours = Segment { ack: arrived.seq, ..connection.outbound(ACK, OURS.wrapping_add(1)) };
            let sealed = lab.seal_of_stack(&ours.frame()).1;
            assert_eq!(Segment::of_frame(&sealed).seq, ours_behind());
        }
    }
}

/// A segment that begins `begin` octets behind the client's handshake and acknowledges `ack` octets behind the server's.
fn theirs(connection: &Connection, flags: u8, begin: i32, ack: i32, data: usize) -> Segment {
    Segment {
        ack: ours_behind().wrapping_add_signed(ack),
        data: vec![3; data],
        ..connection.inbound(flags, theirs_behind().wrapping_add_signed(begin))
    }
}

#[test]
fn the_boundary_octet_for_octet() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, None);
        for (flags, begin, ack, data, wanted) in [
            // The first of the client's stack, and what comes in its place if it is lost.
            (ACK, 0, 0, 0, Opens),
            (PSH_ACK, 0, 0, 29, Opens),
            (PSH_ACK, 29, 0, 19, Opens),
            (ACK, 0, 1, 0, Opens),
            (FIN_ACK, 0, 0, 0, Opens),
            // The client's daemon has not heard the end of the server's handshake.
            (ACK, 0, -1, 0, Daemon),
            (PSH_ACK, -1, -1, 1, Daemon),
            (PSH_ACK, -500, -700, 500, Daemon),
            (FIN_ACK, -1, -1, 0, Daemon),
            // Sent again, by a daemon that has.
            (PSH_ACK, -500, 0, 500, Daemon),
            (ACK, -1, 0, 0, Daemon),
            // Neither's.
            (PSH_ACK, 0, -1, 1, Dropped),
            (FIN_ACK, 0, -1, 0, Dropped),
            (PSH_ACK, -1, 0, 2, Dropped),
            (FIN_ACK, -1, 0, 1, Dropped),
            (ACK, 1, -1, 0, Dropped),
            (0, 1, 0, 0, Dropped),
            (0, 0, 0, 0, Daemon),
            // A reset of the client's stack, or of its daemon.
            (RST, 0, -9000, 0, Opens),
            (RST, 1, 0, 0, Opens),
            (RST_ACK, 0, -1, 0, Opens),
            (RST, -1, 0, 0, Daemon),
            (RST_ACK, -1, 0, 0, Daemon),
        ] {
            check(&mut lab, &connection, theirs(&connection, flags, begin, ack, data), wanted);
        }
    }
}

/// It is that of the password, which is known to more than the two ends, or will be.
#[test]
fn nothing_under_the_key_of_the_handshake_opens_but_a_reset() {
    for connection in both_families() {
        let mut switching = session(&connection, Session::SWITCHING);
        switching.slots[1] = connection.slot(&key(1), OURS, THEIRS);
        switching.rollover.order = order(&[1, 0]);
        switching.rollover.rnext = 1;
        let mut lab = Lab::with(&connection, Some(&switching));
        for flags in [PSH_ACK, FIN_ACK] {
            let forged = signed(&connection, &switching, theirs(&connection, flags, 0, 0, 29)).frame();
            let context = Context::default();
            lab.expect_drop(&connection, Direction::Inbound, context, &forged, DropReason::Handshake);
        }
        let ended = signed(&connection, &switching, theirs(&connection, ACK, 0, 0, 0));
        expect_diverted(&mut lab, &connection, &ended);
        let agreed = connection.under(&key(1));
        lab.verified(&agreed.sign(&switching.slots[1].recv, theirs(&connection, PSH_ACK, 0, 0, 29), 1));
        assert_eq!(lab.session(&connection).unwrap().phase, Session::OPEN);
        lab.put(&connection, &switching);
        lab.verified(&signed(&connection, &switching, theirs(&connection, RST, 0, 0, 0)));
    }
}

#[test]
fn a_syn_opens_nothing() {
    for connection in both_families() {
        let mut lab = Lab::with(&connection, None);
        let syn_ack = Segment { ack: ours_behind(), ..connection.inbound(SYN_ACK, THEIRS) };
        check(&mut lab, &connection, syn_ack, Daemon);
        // Our stack may get the first one again, and it stays as it is.
        let session = session(&connection, Session::SWITCHING);
        lab.put(&connection, &session);
        let arrived = lab.verified(&signed(&connection, &session, connection.inbound(SYN, THEIRS)));
        assert_eq!((arrived.seq, lab.session(&connection).unwrap().phase), (THEIRS, Session::SWITCHING));
        let behind = theirs(&connection, SYN_ACK, 0, 0, 0);
        check(&mut lab, &connection, behind, Daemon);
    }
}
