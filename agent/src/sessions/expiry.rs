//! How far a session has come, and when its entry in the map has served.

use std::time::Duration;

use tcpauth_common::layout::Session;

use super::Monotonic;

/// A closed connection may still answer retransmitted FINs: twice Linux's TIME-WAIT.
const CLOSED_LIMIT: Duration = Duration::from_secs(120);
/// Linux gives up an unanswered SYN after about 130 s.
const HALF_OPEN_LIMIT: Duration = Duration::from_secs(150);
/// The daemons give a handshake up after 10 s. One that is this quiet was forgotten, by a daemon that started anew.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);
/// The server of a handshake that its client has not begun: Linux sends the SYN-ACK for so long, the last time 32 s after
/// the one before.
const AWAITED_LIMIT: Duration = Duration::from_secs(65);
/// A session this quiet is asked for its socket: most have keepalives more often, and one that has not keeps its
/// socket. Without one it is a ghost: a peer that vanished, and a stack that was not answered, tell of no end.
const NO_SOCKET_LIMIT: Duration = Duration::from_secs(120);
/// A container behind this host may hold the socket; it cannot be looked up. Without a hold time, BGP says nothing for as
/// long as no route changes, and a session whose entry goes is dead. What is left of containers that crashed is limited by
/// the number of sessions that a neighbor may have.
const FORWARDED_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How far a session has come, as shown to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Our SYN left; the peer has not answered.
    SynSent,
    /// The peer's SYN verified; our end has not answered.
    SynReceived,
    /// Both ISNs are known: all segments are under traffic keys.
    Established,
    /// Keys are agreed on the connection itself, and our end's stack waits.
    Handshake,
    /// No keys were agreed.
    Failed,
    /// One end sent a FIN.
    Closing,
    /// Both ends sent a FIN, or one an RST (which the other may not have believed).
    Closed,
}

impl Progress {
    /// The name used in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::Handshake => "handshake",
            Self::Failed => "failed",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// Where the socket of a session's own end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In this network namespace.
    Here,
    /// No socket has the session's ends, and its own end is not one behind this host.
    Gone,
    /// Its own end is behind this host: the connection is forwarded.
    Forwarded,
}

/// In [`Session::seen`]: each end has closed its direction.
pub(super) const BOTH_FINS: u32 = Session::FIN_SENT | Session::FIN_RECEIVED;

/// How far the session has come.
pub fn progress(session: &Session) -> Progress {
    const ANY_RST: u32 = Session::RST_SENT | Session::RST_RECEIVED;
    match session.phase {
        Session::OPEN => {}
        Session::HANDSHAKE | Session::SWITCHING => return Progress::Handshake,
        // Nothing but the RST that answers our SYN has the number of the ISN.
        _ if session.seen & Session::RST_RECEIVED != 0
            && session.flags & Session::BOTH_ISNS == Session::BOTH_ISNS
            && session.recv_seq == u64::from(session.peer_isn.0) => {}
        _ => return Progress::Failed,
    }
    if session.seen & ANY_RST != 0 || session.seen & BOTH_FINS == BOTH_FINS {
        Progress::Closed
    } else if session.seen & BOTH_FINS != 0 {
        Progress::Closing
    } else if session.flags & Session::BOTH_ISNS == Session::BOTH_ISNS {
        Progress::Established
    } else if session.flags & Session::LOCAL_ISN != 0 {
        Progress::SynSent
    } else {
        Progress::SynReceived
    }
}

/// Whether the session's entry can go from the map at `now`. `whereabouts` is asked only if it matters.
pub fn expiry(session: &Session, now: Monotonic, whereabouts: impl FnOnce() -> Whereabouts) -> bool {
    let idle = now.since(Monotonic(session.last_segment));
    match progress(session) {
        // A verified RST may have been answered by a challenge ACK (RFC 5961): then the connection lives on, and the programs
        // forget the RST. A socket in TIME-WAIT goes by itself.
        Progress::Closed => idle > CLOSED_LIMIT && whereabouts() != Whereabouts::Here,
        Progress::SynSent | Progress::SynReceived => idle > HALF_OPEN_LIMIT,
        Progress::Handshake if is_awaited(session) => idle > AWAITED_LIMIT,
        Progress::Handshake | Progress::Failed => idle > HANDSHAKE_LIMIT,
        Progress::Established | Progress::Closing if idle > NO_SOCKET_LIMIT => match whereabouts() {
            Whereabouts::Here => false,
            Whereabouts::Gone => true,
            Whereabouts::Forwarded => idle > FORWARDED_LIMIT,
        },
        Progress::Established | Progress::Closing => false,
    }
}

/// Whether the client of a handshake on the connection has sent nothing but its SYN.
fn is_awaited(session: &Session) -> bool {
    session.phase == Session::HANDSHAKE
        && session.flags & Session::CLIENT == 0
        && session.recv_seq == u64::from(session.peer_isn.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const BOTH: u32 = Session::BOTH_ISNS;

    fn expires(flags: u32, seen: u32, idle_seconds: u64, whereabouts: Whereabouts) -> bool {
        let session = Session { flags, seen, last_segment: 5 * SECOND, ..Session::default() };
        expiry(&session, Monotonic((5 + idle_seconds) * SECOND), || whereabouts)
    }

    #[test]
    fn closed_sessions_stay_for_retransmissions_only() {
        for seen in [3, 4, 8, 7] {
            assert!(!expires(BOTH, seen, 120, Whereabouts::Gone), "{seen}");
            assert!(expires(BOTH, seen, 121, Whereabouts::Gone), "{seen}");
            assert!(expires(BOTH, seen, 121, Whereabouts::Forwarded), "{seen}");
            assert!(!expires(BOTH, seen, 30 * 24 * 3600, Whereabouts::Here), "{seen}");
        }
    }

    #[test]
    fn half_open_sessions_stay_as_long_as_a_syn_is_repeated() {
        for flags in [Session::LOCAL_ISN, Session::PEER_ISN | Session::SYN_RECV] {
            assert!(!expires(flags, 0, 150, Whereabouts::Gone));
            assert!(expires(flags, 0, 151, Whereabouts::Here));
        }
    }

    #[test]
    fn handshakes_on_the_connection_stay_no_longer_than_they_can_last() {
        for phase in [Session::HANDSHAKE, Session::SWITCHING, Session::FAILED, 9] {
            // Whatever was seen: it was the daemons'.
            for seen in [0, Session::RST_RECEIVED, Session::FIN_SENT | Session::FIN_RECEIVED] {
                let last_segment = 5 * SECOND;
                let session =
                    Session { flags: BOTH, seen, phase, last_segment, recv_seq: 1, ..Session::default() };
                let expires =
                    |idle: u64| expiry(&session, Monotonic((5 + idle) * SECOND), || Whereabouts::Here);
                assert!(!expires(15) && expires(16), "{phase} {seen}");
                let is_failed = !matches!(phase, Session::HANDSHAKE | Session::SWITCHING);
                let name = if is_failed { "failed" } else { "handshake" };
                assert_eq!(progress(&session).name(), name);
            }
        }
        let refused = Session {
            flags: BOTH,
            seen: Session::RST_RECEIVED,
            phase: Session::FAILED,
            ..Session::default()
        };
        assert_eq!(progress(&refused), Progress::Closed, "no handshake began");
        let open = Session { flags: BOTH, sent_before: 1000, received_before: 2000, ..Session::default() };
        assert_eq!(progress(&open), Progress::Established);
    }

    #[test]
    fn a_server_waits_for_its_client_as_long_as_its_stack_repeats_the_answer() {
        let peer_isn = tcpauth_common::Isn(7);
        let awaited = Session {
            flags: BOTH,
            phase: Session::HANDSHAKE,
            peer_isn,
            recv_seq: 7,
            last_segment: 5 * SECOND,
            ..Session::default()
        };
        let client = Session { flags: BOTH | Session::CLIENT, ..awaited };
        for (session, limit) in [(awaited, 65), (Session { recv_seq: 8, ..awaited }, 15), (client, 15)] {
            let expires = |idle: u64| expiry(&session, Monotonic((5 + idle) * SECOND), || Whereabouts::Here);
            assert!(!expires(limit) && expires(limit + 1), "{limit}");
        }
    }

    #[test]
    fn quiet_sessions_stay_while_a_socket_has_them() {
        let day = 24 * 3600;
        for seen in [0, Session::FIN_SENT, Session::FIN_RECEIVED] {
            assert!(!expires(BOTH, seen, 300 * day, Whereabouts::Here));
            assert!(!expires(BOTH, seen, 120, Whereabouts::Gone));
            assert!(expires(BOTH, seen, 121, Whereabouts::Gone));
        }
        assert!(!expires(BOTH, 0, 30 * day, Whereabouts::Forwarded));
        assert!(expires(BOTH, 0, 30 * day + 1, Whereabouts::Forwarded));
    }

    #[test]
    fn a_clock_that_seems_to_go_back_expires_nothing() {
        let session = Session { last_segment: 9 * SECOND, ..Session::default() };
        assert!(!expiry(&session, Monotonic(0), || Whereabouts::Gone));
    }
}
