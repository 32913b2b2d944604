//! The life of a session, one held segment at a time.

use std::time::Duration;

use tcpauth_common::{
    DropReason, Isn,
    key_choice::flag::{ACK, FIN, RST, SYN},
    layout::{Direction, Held, Quartet, Session},
};

use super::{Monotonic, Outcome, Segment, rekey};
use crate::{config::Neighbor, keys::Role};

/// A segment held longer than this is dropped: TCP has long sent it again.
pub const HOLD_LIMIT: Duration = Duration::from_secs(3);

/// Decides what becomes of a held segment of `neighbor`, whose connection has the entry `existing` in
/// the map, if any. Segments of our own end are believed; those of the peer have to verify.
pub fn on_held(
    held: &Held,
    frame: &[u8],
    neighbor: &Neighbor,
    existing: Option<&Session>,
    now: Monotonic,
) -> Outcome {
    if now.since(Monotonic(held.time)) > HOLD_LIMIT {
        return Outcome::Refuse(DropReason::HeldTooLong);
    }
    Segment::parse(held, frame)
        .and_then(|segment| Decision { held, segment, neighbor, now }.decide(existing))
        .unwrap_or_else(Outcome::Refuse)
}

struct Decision<'a> {
    held: &'a Held,
    segment: Segment<'a>,
    neighbor: &'a Neighbor,
    now: Monotonic,
}

impl Decision<'_> {
    fn decide(&self, existing: Option<&Session>) -> Result<Outcome, DropReason> {
        let outbound = self.held.direction == Direction::Outbound as u8;
        if !outbound {
            self.check_cheap()?;
        }
        match (self.segment.flags() & (FIN | SYN | RST | ACK), outbound) {
            (SYN, true) => Ok(self.syn_out(existing)),
            (SYN, false) => self.syn_in(existing),
            (flags, true) if flags == SYN | ACK => self.syn_ack_out(existing),
            (flags, false) if flags == SYN | ACK => self.answer_in(existing),
            (flags, true) if flags & !ACK == RST => self.rst_out(existing),
            (flags, false) if flags & !ACK == RST => self.answer_in(existing),
            (flags, _) if flags & SYN != 0 => Err(DropReason::Malformed),
            _ => Err(DropReason::NoSession),
        }
    }

    /// Our end opens a connection, or both ends do at once.
    fn syn_out(&self, existing: Option<&Session>) -> Outcome {
        let mut session = match existing {
            Some(session) if knows_local(session) && session.local_isn == self.segment.isn() => {
                return Outcome::Release;
            }
            Some(session) if knows_peer(session) && !knows_local(session) => *session,
            _ => self.new_session(),
        };
        self.learn_local(&mut session);
        self.install(session)
    }

    /// The peer opens a connection. A session in progress stays until our end answers the new SYN:
    /// this one may be an old duplicate.
    fn syn_in(&self, existing: Option<&Session>) -> Result<Outcome, DropReason> {
        let isn = self.segment.isn();
        let quartet = &self.held.quartet;
        let mkt = self.neighbor.keys.first();
        self.segment.check_mac(mkt, quartet, &mkt.syn_recv(quartet, isn).material)?;
        let mut session = match existing {
            Some(session) if session.flags & Session::SYN_RECV != 0 && session.syn_recv_isn == isn => {
                return Ok(Outcome::Release);
            }
            Some(session) => *session,
            None => self.new_session(),
        };
        if !knows_peer(&session) {
            learn_peer(&mut session, isn);
        }
        session.flags |= Session::SYN_RECV;
        session.syn_recv_isn = isn;
        Ok(self.install(session))
    }

    /// Our end answers a SYN that had verified; the acknowledgment says which.
    fn syn_ack_out(&self, existing: Option<&Session>) -> Result<Outcome, DropReason> {
        let session = existing.filter(|session| knows_peer(session)).ok_or(DropReason::NoSession)?;
        let answered = Isn(self.segment.ack().wrapping_sub(1));
        if knows_local(session) && session.local_isn == self.segment.isn() && session.peer_isn == answered {
            return Ok(Outcome::Release);
        }
        Ok(self.answer_out(session, answered))
    }

    /// Our end refuses a SYN: the answer's sequence number stands for the ISN that it never had.
    fn rst_out(&self, existing: Option<&Session>) -> Result<Outcome, DropReason> {
        let session = existing.filter(|session| knows_peer(session)).ok_or(DropReason::NoSession)?;
        let acknowledged = Isn(self.segment.ack().wrapping_sub(1));
        let to_new_syn = session.flags & Session::SYN_RECV != 0
            && acknowledged == session.syn_recv_isn
            && acknowledged != session.peer_isn;
        if to_new_syn {
            return Ok(self.answer_out(session, acknowledged));
        }
        if knows_local(session) {
            return Ok(Outcome::Release);
        }
        Ok(self.answer_out(session, session.peer_isn))
    }

    /// The peer answers our SYN, by a SYN-ACK or an RST.
    fn answer_in(&self, existing: Option<&Session>) -> Result<Outcome, DropReason> {
        let session = existing.filter(|session| knows_local(session)).ok_or(DropReason::NoSession)?;
        if knows_peer(session) {
            // The answer was held twice, or came while its keys were on their way: `ingress` verifies it.
            return Ok(Outcome::Release);
        }
        let quartet = &self.held.quartet;
        let mkt = self.neighbor.keys.first();
        let traffic = mkt.traffic_slot(quartet, session.local_isn, self.segment.isn(), Role::Client);
        self.segment.check_mac(mkt, quartet, &traffic.recv)?;
        let mut session = *session;
        learn_peer(&mut session, self.segment.isn());
        Ok(self.install(session))
    }

    /// The session in which our end answered the peer's SYN with `peer_isn`: `session` itself, or the
    /// new connection that takes its place.
    fn answer_out(&self, session: &Session, peer_isn: Isn) -> Outcome {
        let mut answered = *session;
        if session.peer_isn != peer_isn {
            answered = self.new_session();
            answered.flags = session.flags & Session::SYN_RECV;
            answered.syn_recv_isn = session.syn_recv_isn;
            learn_peer(&mut answered, peer_isn);
        }
        self.learn_local(&mut answered);
        if self.segment.flags() & ACK != 0 {
            answered.local_ack = self.segment.ack();
        }
        self.install(answered)
    }

    /// GTSM and the option's shape, before any hashing.
    fn check_cheap(&self) -> Result<(), DropReason> {
        let lowest = self.neighbor.ttl_security.map_or(0, |hops| 0u8.wrapping_sub(hops));
        if self.segment.hop_limit() < lowest {
            return Err(DropReason::WrongHopLimit);
        }
        self.segment.check_option(self.neighbor.keys.first())
    }

    fn new_session(&self) -> Session {
        Session { created: self.now.0, ..Session::default() }
    }

    fn learn_local(&self, session: &mut Session) {
        session.flags |= Session::LOCAL_ISN;
        session.local_isn = self.segment.isn();
        session.send_seq = u64::from(self.segment.seq());
        session.local_wscale = self.segment.window_scale();
        session.local_window = u32::from(self.segment.window());
    }

    /// The session with the keys that its ISNs give.
    fn install(&self, mut session: Session) -> Outcome {
        session.neighbor = self.held.neighbor;
        session.last_segment = self.now.0;
        Outcome::Install(Box::new(rekey(&session, self.quartet(), self.neighbor.keys.first())))
    }

    fn quartet(&self) -> &Quartet {
        &self.held.quartet
    }
}

fn learn_peer(session: &mut Session, isn: Isn) {
    session.flags |= Session::PEER_ISN;
    session.peer_isn = isn;
    session.recv_seq = u64::from(isn.0);
    // What our end expects next, until it says so itself.
    session.local_ack = isn.0;
}

fn knows_local(session: &Session) -> bool {
    session.flags & Session::LOCAL_ISN != 0
}

fn knows_peer(session: &Session) -> bool {
    session.flags & Session::PEER_ISN != 0
}
