//! Connections that the programs do not see: what the kernel's sockets count against what the sessions count.
//!
//! Every segment that a protected socket receives has been counted by its session before. So a socket whose count of
//! segments moves while its session's stands still receives segments that no program verified, by whatever way they
//! come; and a socket without a session is one that no program saw come up.

use std::collections::HashMap;

use tcpauth_common::layout::{Passed, Quartet, Session};

/// Rounds in which something has to be wrong before it counts: within one, a segment may be counted on one side and
/// not yet, or no longer, on the other.
const ROUNDS: u8 = 2;

/// What passed a socket, as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketCount {
    /// Segments received, modulo 2^32.
    pub segments_in: u32,
    /// Bytes that the peer has acknowledged.
    pub bytes_acked: u64,
}

/// What the programs let pass of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCount {
    /// When the session began: another time is another session.
    created: u64,
    inbound: u64,
    outbound: u64,
}

impl SessionCount {
    /// What was counted for the session by now.
    pub fn of(session: &Session) -> Self {
        let Passed { verified_segments, unsigned_received, signed_segments, unsigned_sent, .. } =
            session.counters.passed;
        Self {
            created: session.created,
            inbound: verified_segments.wrapping_add(unsigned_received),
            outbound: signed_segments.wrapping_add(unsigned_sent),
        }
    }
}

/// A socket and its session, in one round. The session has to be read before the socket: a segment is counted by
/// the session first.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Number of the neighbor that the connection belongs to.
    pub neighbor: u32,
    /// The connection.
    pub quartet: Quartet,
    /// The kernel's name for the socket.
    pub cookie: u64,
    /// What the socket counts.
    pub socket: SocketCount,
    /// What its session counts, if there is one.
    pub session: Option<SessionCount>,
}

/// How a connection gets past the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bypass {
    /// It is up without a session, and segments arrive at it.
    NoSession,
    /// It is up without a session; no segment has arrived since that was seen.
    Stale,
    /// Segments arrive at it that no program verified.
    Inbound,
    /// The peer acknowledges segments that no program signed.
    Outbound,
}

/// A connection that gets past the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unprotected {
    /// Number of the neighbor.
    pub neighbor: u32,
    /// The connection.
    pub quartet: Quartet,
    /// The kernel's name for the socket.
    pub cookie: u64,
    /// How it gets past.
    pub bypass: Bypass,
}

/// What is remembered of the sockets between two rounds.
#[derive(Debug, Default)]
pub struct BypassWatch(HashMap<u64, Watched>);

#[derive(Debug)]
struct Watched {
    socket: SocketCount,
    session: Option<SessionCount>,
    without_session: u8,
    moved_without_session: bool,
    inbound: u8,
    outbound: u8,
}

impl BypassWatch {
    /// Compares the sockets of a round with those of the rounds before, and returns the connections that get past
    /// the programs. Sockets that are not observed any more are forgotten.
    pub fn round(&mut self, observations: impl IntoIterator<Item = Observation>) -> Vec<Unprotected> {
        let mut before = std::mem::take(&mut self.0);
        let mut unprotected = Vec::new();
        for observation in observations {
            let Observation { neighbor, quartet, cookie, socket, session } = observation;
            let watched = match before.remove(&cookie) {
                Some(mut watched) => {
                    watched.compare(socket, session);
                    watched
                }
                None => Watched::new(socket, session),
            };
            if let Some(bypass) = watched.bypass() {
                unprotected.push(Unprotected { neighbor, quartet, cookie, bypass });
            }
            self.0.insert(cookie, watched);
        }
        unprotected
    }
}

impl Watched {
    fn new(socket: SocketCount, session: Option<SessionCount>) -> Self {
        let without_session = u8::from(session.is_none());
        Self { socket, session, without_session, moved_without_session: false, inbound: 0, outbound: 0 }
    }

    fn compare(&mut self, socket: SocketCount, session: Option<SessionCount>) {
        match (self.session, session) {
            (_, None) => {
                self.without_session = self.without_session.saturating_add(1);
                self.moved_without_session |= socket.segments_in != self.socket.segments_in;
                (self.inbound, self.outbound) = (0, 0);
            }
            (Some(before), Some(now)) if before.created == now.created => {
                let strike = |strikes: u8, counted: bool, moved: bool| match (counted, moved) {
                    (true, _) => 0,
                    (false, true) => strikes.saturating_add(1),
                    (false, false) => strikes,
                };
                let is_acked = socket.bytes_acked != self.socket.bytes_acked;
                let has_arrived = socket.segments_in != self.socket.segments_in;
                self.inbound = strike(self.inbound, before.inbound != now.inbound, has_arrived);
                self.outbound = strike(self.outbound, before.outbound != now.outbound, is_acked);
            }
            // A session that is new for this socket.
            (_, Some(_)) => *self = Self::new(socket, session),
        }
        (self.socket, self.session) = (socket, session);
    }

    fn bypass(&self) -> Option<Bypass> {
        match self {
            _ if self.without_session >= ROUNDS && self.moved_without_session => Some(Bypass::NoSession),
            _ if self.without_session >= ROUNDS => Some(Bypass::Stale),
            _ if self.inbound >= ROUNDS => Some(Bypass::Inbound),
            _ if self.outbound >= ROUNDS => Some(Bypass::Outbound),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(segments_in: u32, bytes_acked: u64, session: Option<(u64, u64, u64)>) -> Observation {
        Observation {
            neighbor: 3,
            quartet: Quartet { local_port: 40000, peer_port: 179, ..Quartet::default() },
            cookie: 9,
            socket: SocketCount { segments_in, bytes_acked },
            session: session.map(|(created, inbound, outbound)| SessionCount { created, inbound, outbound }),
        }
    }

    fn rounds(observations: &[Observation]) -> Vec<Option<Bypass>> {
        let mut watch = BypassWatch::default();
        let mut found = |observation: &Observation| watch.round([*observation]).first().map(|one| one.bypass);
        observations.iter().map(&mut found).collect()
    }

    #[test]
    fn a_socket_without_a_session_is_found_in_the_second_round() {
        let sockets = [seen(4, 9, None), seen(4, 9, None), seen(5, 9, None), seen(5, 9, None)];
        let (stale, no_session) = (Some(Bypass::Stale), Some(Bypass::NoSession));
        assert_eq!(rounds(&sockets), [None, stale, no_session, no_session]);
    }

    #[test]
    fn a_session_that_comes_a_moment_late_ends_the_suspicion() {
        let sockets = [seen(4, 0, None), seen(6, 0, Some((1, 2, 2))), seen(9, 0, Some((1, 5, 4)))];
        assert_eq!(rounds(&sockets), [None, None, None]);
    }

    #[test]
    fn segments_that_no_program_verified_are_found_however_rare() {
        let session = Some((1, 7, 7));
        let quiet = [seen(9, 0, session), seen(10, 0, session), seen(10, 0, session), seen(11, 0, session)];
        assert_eq!(rounds(&quiet), [None, None, None, Some(Bypass::Inbound)]);
        let over = [quiet[0], quiet[1], quiet[3], seen(12, 0, Some((1, 8, 7)))];
        assert_eq!(rounds(&over), [None, None, Some(Bypass::Inbound), None]);
    }

    #[test]
    fn one_segment_between_the_two_counts_is_no_bypass() {
        let sockets = [
            seen(9, 0, Some((1, 10, 7))),
            seen(10, 0, Some((1, 10, 7))),
            seen(14, 0, Some((1, 14, 7))),
            seen(15, 0, Some((1, 14, 7))),
            seen(16, 0, Some((1, 16, 7))),
        ];
        assert_eq!(rounds(&sockets), [None; 5]);
    }

    #[test]
    fn acknowledged_bytes_that_no_program_signed_are_found() {
        let sockets =
            [seen(1, 5, Some((1, 1, 1))), seen(2, 9, Some((1, 2, 1))), seen(3, 12, Some((1, 3, 1)))];
        assert_eq!(rounds(&sockets), [None, None, Some(Bypass::Outbound)]);
    }

    #[test]
    fn quiet_connections_and_new_sessions_are_no_bypass() {
        let sockets = [
            seen(9, 5, Some((1, 7, 7))),
            seen(9, 5, Some((1, 7, 7))),
            // The session was removed and adopted anew.
            seen(12, 8, Some((2, 0, 0))),
            seen(13, 9, Some((2, 1, 1))),
        ];
        assert_eq!(rounds(&sockets), [None; 4]);
    }

    #[test]
    fn sockets_that_are_gone_are_forgotten() {
        let mut watch = BypassWatch::default();
        watch.round([seen(4, 0, None)]);
        watch.round([]);
        assert!(watch.round([seen(5, 0, None)]).is_empty());
    }
}
