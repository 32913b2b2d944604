//! What passes while keys are agreed on the connection itself (`key-management = "layered"`), and what of it goes to
//! the daemon.
//!
//! ```text
//! our stack ─╳─ HANDSHAKE: the daemons speak ── SWITCHING (server only) ── OPEN: the stacks speak, translated
//!                        └──────────────┴── FAILED: only an RST passes
//! ```
//!
//! The server's programs find out by themselves that the client's stack speaks: by the first segment that begins behind
//! the client's handshake and acknowledges all of the server's, which no daemon sends.

use crate::{SeqNumber, key_choice::flag, layout::Session, translation::Translation};

/// What becomes of a segment of our end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It is sealed, with these numbers, and leaves.
    Passes(Translation),
    /// It is taken off its way: our stack sends it again, and needs no answer yet.
    Taken,
}

/// What becomes of a segment of the peer that verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arriving {
    /// It goes to our stack, with these numbers.
    Passes(Translation),
    /// The same, and from it on the connection is [`Session::OPEN`].
    Opens(Translation),
    /// It is part of the handshake, and the daemon's.
    IsOfDaemon,
    /// It has no place before or after the handshake.
    Refused,
}

/// Of a segment with these TCP flags, and the numbers that our stack gives it; or the daemon, which gives it those of
/// the wire.
#[inline(always)]
pub const fn leaving(session: &Session, tcp_flags: u8, is_of_daemon: bool) -> Leaving {
    let (is_syn, is_rst) = (tcp_flags & flag::SYN != 0, tcp_flags & flag::RST != 0);
    match session.phase {
        Session::OPEN if is_of_daemon || is_syn => Leaving::Passes(Translation::NONE),
        Session::OPEN => Leaving::Passes(Translation::outbound(session)),
        Session::HANDSHAKE | Session::SWITCHING if is_of_daemon || is_syn || is_rst => {
            Leaving::Passes(Translation::NONE)
        }
        Session::HANDSHAKE | Session::SWITCHING => Leaving::Taken,
        _ if is_rst => Leaving::Passes(Translation::NONE),
        _ => Leaving::Taken,
    }
}

/// Of a segment with these TCP flags, the numbers of the wire, and so many octets of data; `slot` has the key under which
/// it is.
///
/// Nothing but the agreed key, the newest, opens the connection, whoever knows the one of the handshake; and an RST of the
/// daemon, whose handshake failed.
#[inline(always)]
pub const fn arriving(
    session: &Session,
    tcp_flags: u8,
    seq: SeqNumber,
    ack: SeqNumber,
    data_len: u32,
    slot: u32,
) -> Arriving {
    let (is_syn, is_rst) = (tcp_flags & flag::SYN != 0, tcp_flags & flag::RST != 0);
    // The server's stack answers it, once more or, of two SYNs that crossed, for the first time.
    let is_of_servers_stack = is_syn && tcp_flags & flag::ACK == 0 && session.flags & Session::CLIENT == 0;
    match session.phase {
        Session::OPEN if is_syn => Arriving::Passes(Translation::NONE),
        Session::OPEN => Arriving::Passes(Translation::inbound(session)),
        Session::HANDSHAKE | Session::SWITCHING if is_of_servers_stack => Arriving::Passes(Translation::NONE),
        Session::HANDSHAKE => Arriving::IsOfDaemon,
        Session::SWITCHING if is_syn => Arriving::IsOfDaemon,
        Session::SWITCHING => {
            let theirs = SeqNumber(behind(session.peer_isn.0, session.received_before));
            let ours = SeqNumber(behind(session.local_isn.0, session.sent_before));
            let end =
                SeqNumber(seq.0.wrapping_add(data_len).wrapping_add((tcp_flags & flag::FIN != 0) as u32));
            let acknowledges_all = tcp_flags & flag::ACK != 0 && !ack.is_before(ours);
            let is_of_stack = acknowledges_all && slot == session.rollover.newest(0);
            if !seq.is_before(theirs) && (is_of_stack || is_rst) {
                Arriving::Opens(Translation::inbound(session))
            } else if !theirs.is_before(end) {
                Arriving::IsOfDaemon
            } else {
                Arriving::Refused
            }
        }
        _ if is_rst => Arriving::Passes(Translation::NONE),
        _ => Arriving::Refused,
    }
}

/// The first sequence number behind the handshake of an end with this ISN that sent so many octets of it.
#[inline(always)]
const fn behind(isn: u32, octets: u32) -> u32 {
    isn.wrapping_add(1).wrapping_add(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Isn, rollover::Rollover};

    /// The slot of the newest key.
    const AGREED: u32 = 1;

    const FLAGS: [u8; 8] = [
        flag::ACK,
        flag::FIN | flag::ACK,
        flag::SYN,
        flag::SYN | flag::ACK,
        flag::RST,
        flag::RST | flag::ACK,
        0x18,
        0,
    ];

    fn session(phase: u32) -> Session {
        Session {
            flags: Session::LOCAL_ISN | Session::PEER_ISN,
            phase,
            local_isn: Isn(1000),
            peer_isn: Isn(u32::MAX - 100),
            sent_before: 500,
            received_before: 300,
            ..Session::default()
        }
    }

    #[test]
    fn of_our_end_the_daemon_speaks_first_then_the_stack() {
        let out = Leaving::Passes(Translation::outbound(&session(0)));
        let as_it_is = Leaving::Passes(Translation::NONE);
        for tcp_flags in FLAGS {
            let (is_syn, is_rst) = (tcp_flags & flag::SYN != 0, tcp_flags & flag::RST != 0);
            let of = |phase, is_of_daemon| leaving(&session(phase), tcp_flags, is_of_daemon);
            assert_eq!(of(Session::OPEN, false), if is_syn { as_it_is } else { out });
            assert_eq!(of(Session::OPEN, true), as_it_is);
            for phase in [Session::HANDSHAKE, Session::SWITCHING] {
                assert_eq!(of(phase, true), as_it_is);
                assert_eq!(of(phase, false), if is_syn || is_rst { as_it_is } else { Leaving::Taken });
            }
            for is_of_daemon in [false, true] {
                for phase in [Session::FAILED, 4, u32::MAX] {
                    assert_eq!(of(phase, is_of_daemon), if is_rst { as_it_is } else { Leaving::Taken });
                }
            }
        }
    }

    #[test]
    fn of_the_peer_the_daemon_hears_the_handshake_and_the_stack_the_rest() {
        for tcp_flags in FLAGS {
            let (is_syn, is_rst) = (tcp_flags & flag::SYN != 0, tcp_flags & flag::RST != 0);
            let of = |phase| arriving(&session(phase), tcp_flags, SeqNumber(1), SeqNumber(2), 3, AGREED);
            let translation = if is_syn { Translation::NONE } else { Translation::inbound(&session(0)) };
            assert_eq!(of(Session::OPEN), Arriving::Passes(translation));
            let is_first_syn = tcp_flags == flag::SYN;
            for phase in [Session::HANDSHAKE, Session::SWITCHING].into_iter().filter(|_| is_first_syn) {
                assert_eq!(of(phase), Arriving::Passes(Translation::NONE));
                let client = Session { flags: Session::CLIENT, ..session(phase) };
                let arriving = arriving(&client, tcp_flags, SeqNumber(1), SeqNumber(2), 3, AGREED);
                assert_eq!(
                    arriving,
                    Arriving::IsOfDaemon,
                    "it would open the client's connection a second way"
                );
            }
            if !is_first_syn {
                assert_eq!(of(Session::HANDSHAKE), Arriving::IsOfDaemon);
            }
            let failed = if is_rst { Arriving::Passes(Translation::NONE) } else { Arriving::Refused };
            for phase in [Session::FAILED, 4, u32::MAX] {
                assert_eq!(of(phase), failed);
            }
        }
    }

    proptest! {
        /// Against numbers that do not wrap.
        #[test]
        fn the_first_segment_of_the_peers_stack_opens(
            local_isn: u32,
            peer_isn: u32,
            sent in 0u32..60_000,
            received in 0u32..60_000,
            begin in -70_000i64..70_000,
            len in prop_oneof![Just(0u32), 0..1500u32, 0..70_000u32],
            ack in -70_000i64..70_000,
            near: bool,
            tcp_flags in proptest::sample::select(FLAGS.to_vec()),
            slot in prop_oneof![Just(AGREED), 0..=3u32],
        ) {
            // Relative to the ends of the two handshakes; near: within two octets.
            let (begin, ack) = if near { (begin % 3, ack % 3) } else { (begin, ack) };
            let session = Session {
                phase: Session::SWITCHING,
                local_isn: Isn(local_isn),
                peer_isn: Isn(peer_isn),
                sent_before: sent,
                received_before: received,
                rollover: Rollover { order: 0b11_00_00 | AGREED, ..Rollover::default() },
                ..Session::default()
            };
            let number = |isn: u32, before: u32, at: i64| {
                SeqNumber((i64::from(isn) + 1 + i64::from(before) + at) as u32)
            };
            let end = begin + i64::from(len) + i64::from(tcp_flags & flag::FIN != 0);
            let covers = tcp_flags & flag::ACK != 0 && ack >= 0 && slot == AGREED;
            let wanted = if tcp_flags == flag::SYN {
                Arriving::Passes(Translation::NONE)
            } else if tcp_flags & flag::SYN != 0 {
                Arriving::IsOfDaemon
            } else if begin >= 0 && (covers || tcp_flags & flag::RST != 0) {
                Arriving::Opens(Translation::inbound(&session))
            } else if end <= 0 {
                Arriving::IsOfDaemon
            } else {
                Arriving::Refused
            };
            let (seq, ack) = (number(peer_isn, received, begin), number(local_isn, sent, ack));
            prop_assert_eq!(arriving(&session, tcp_flags, seq, ack, len, slot), wanted);
        }
    }
}
