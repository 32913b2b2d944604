//! The life of a session, one held segment at a time.

use std::time::Duration;

use tcpauth_common::{
    DropReason, Isn,
    key_choice::flag::{ACK, FIN, RST, SYN},
    layout::{Direction, Held, KeyChange, Session},
};

use super::{
    Monotonic, Now, Outcome, Segment,
    handshake::{Handshake, Heard},
};
use crate::{config::Neighbor, keys::ChainKey};

/// A segment held longer than this is dropped: TCP has long sent it again.
pub const HOLD_LIMIT: Duration = Duration::from_secs(3);

/// Decides what becomes of a held segment of `neighbor`, whose connection has the entry `existing` in
/// the map, if any. Segments of our own end are believed; those of the peer have to verify. `peer_uses` is the number
/// of the key that the neighbour last signed with, as far as is known.
pub fn on_held(
    held: &Held,
    frame: &[u8],
    neighbor: &Neighbor,
    existing: Option<&Session>,
    peer_uses: Option<u32>,
    now: Now,
) -> Outcome {
    if now.monotonic.since(Monotonic(held.time)) > HOLD_LIMIT {
        return Outcome::Refuse(DropReason::HeldTooLong);
    }
    if neighbor.keys.is_closed(now.wall) {
        return Outcome::Refuse(DropReason::NoKey);
    }
    let keys = Handshake { quartet: &held.quartet, neighbor, peer_uses, now };
    Segment::parse(held, frame)
        .and_then(|segment| Decision { held, segment, keys }.decide(existing))
        .unwrap_or_else(Outcome::Refuse)
}

struct Decision<'a> {
    held: &'a Held,
    segment: Segment<'a>,
    keys: Handshake<'a>,
}

impl Decision<'_> {
    fn decide(&self, existing: Option<&Session>) -> Result<Outcome, DropReason> {
        let outbound = self.held.direction == Direction::Outbound as u8;
        if !outbound {
            self.check_hop_limit()?;
        }
        match (self.segment.flags() & (FIN | SYN | RST | ACK), outbound) {
            (SYN, true) => self.syn_out(existing),
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
    fn syn_out(&self, existing: Option<&Session>) -> Result<Outcome, DropReason> {
        let mut session = match existing {
            Some(session) if knows_local(session) && session.local_isn == self.segment.isn() => {
                return Ok(Outcome::Release);
            }
            Some(session) if knows_peer(session) && !knows_local(session) => *session,
            _ => self.new_session(),
        };
        let key = self.keys.our_syn_key().ok_or(DropReason::NoKey)?;
        self.learn_local(&mut session);
        session.syn_send = self.keys.syn_send(key, session.local_isn);
        session.flags |= Session::CLIENT;
        let heard = self.keys.heard_syn(&session);
        if knows_peer(&session) {
            self.settle_client(&mut session);
        }
        Ok(self.install(session, Some(key), heard))
    }

    /// The peer opens a connection. A session in progress stays until our end answers the new SYN:
    /// this one may be an old duplicate.
    fn syn_in(&self, existing: Option<&Session>) -> Result<Outcome, DropReason> {
        let isn = self.segment.isn();
        let heard = self.keys.verify_syn(&self.segment)?;
        let mut session = match existing.filter(|session| session.phase != Session::FAILED) {
            Some(session) if session.flags & Session::SYN_RECV != 0 && session.syn_recv_isn == isn => {
                return Ok(Outcome::Release);
            }
            // Whoever plays old SYNs again must not put back what a session at work counts.
            Some(session) if knows_peer(session) && knows_local(session) => {
                return Ok(self.hear_syn(session, &heard));
            }
            Some(session) => *session,
            None => self.new_session(),
        };
        session.flags |= Session::SYN_RECV;
        session.syn_recv_isn = isn;
        session.syn_recv = self.keys.syn_recv(&heard, isn);
        if knows_peer(&session) {
            return Ok(self.put(session));
        }
        let ours = knows_local(&session).then(|| self.keys.signed_by(&session)).flatten();
        if knows_local(&session) {
            self.settle_client(&mut session);
        }
        learn_peer(&mut session, isn);
        Ok(self.install(session, ours, Some(heard)))
    }

    /// The SYN that was heard is verified beside what `session` has, until our end answers it or does not.
    fn hear_syn(&self, session: &Session, heard: &Heard) -> Outcome {
        let isn = self.segment.isn();
        Outcome::Change(Box::new(KeyChange {
            flags: KeyChange::SET_SYN,
            neighbor: self.held.neighbor,
            syn_recv_isn: isn,
            syn_recv: self.keys.syn_recv(heard, isn),
            ..KeyChange::nothing(&self.held.quartet, session)
        }))
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

    /// Decides about an RST with which our end refuses a SYN. Its sequence number takes the place of the ISN, because our
    /// end has none (RFC 5925 §7.7).
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
        let mut answered = *session;
        learn_peer(&mut answered, self.segment.isn());
        let heard = match self.keys.verify_answer(&self.segment, &answered) {
            // Perhaps both ends sent a SYN, and the peer's is lost.
            Err(DropReason::WrongMac) => {
                self.settle_client(&mut answered);
                self.keys.verify_answer(&self.segment, &answered)?
            }
            heard => heard?,
        };
        let ours = self.keys.signed_by(session);
        Ok(self.install(answered, ours, Some(heard)))
    }

    /// The session in which our end answered the peer's SYN with `peer_isn`: `session` itself, or the
    /// new connection that takes its place.
    fn answer_out(&self, session: &Session, peer_isn: Isn) -> Outcome {
        let mut answered = *session;
        if session.peer_isn != peer_isn {
            answered = self.new_session();
            answered.flags = session.flags & Session::SYN_RECV;
            answered.syn_recv_isn = session.syn_recv_isn;
            answered.syn_recv = session.syn_recv;
            learn_peer(&mut answered, peer_isn);
        }
        self.learn_local(&mut answered);
        if self.segment.flags() & ACK != 0 {
            answered.local_ack = self.segment.ack();
        }
        let is_answer_to_syn_recv = answered.syn_recv_isn == peer_isn;
        let heard = self.keys.heard_syn(&answered).filter(|_| is_answer_to_syn_recv);
        let ours = if heard.is_none() { self.keys.our_syn_key() } else { None };
        self.install(answered, ours, heard)
    }

    /// GTSM, before any hashing.
    fn check_hop_limit(&self) -> Result<(), DropReason> {
        let lowest = self.keys.neighbor.ttl_security.map_or(0, |hops| 0u8.wrapping_sub(hops));
        if self.segment.hop_limit() < lowest {
            return Err(DropReason::WrongHopLimit);
        }
        Ok(())
    }

    fn new_session(&self) -> Session {
        Session { created: self.keys.now.monotonic.0, ..Session::default() }
    }

    fn learn_local(&self, session: &mut Session) {
        session.flags |= Session::LOCAL_ISN;
        session.local_isn = self.segment.isn();
        session.send_seq = u64::from(self.segment.seq());
        session.local_wscale = self.segment.window_scale();
        session.local_window = u32::from(self.segment.window());
        (session.mark, session.priority) = (self.held.mark, self.held.priority);
    }

    /// Both ends sent a SYN: which one is the client no longer follows from that.
    fn settle_client(&self, session: &mut Session) {
        session.flags &= !Session::CLIENT;
        if self.held.quartet.is_lower() {
            session.flags |= Session::CLIENT;
        }
    }

    /// The session with the keys that its ISNs give: `ours` signed our SYN, `heard` is what the peer sent.
    fn install(&self, mut session: Session, ours: Option<&ChainKey>, heard: Option<Heard>) -> Outcome {
        self.keys.give_keys(&mut session, ours, heard);
        self.put(session)
    }

    fn put(&self, mut session: Session) -> Outcome {
        session.neighbor = self.held.neighbor;
        session.last_segment = self.keys.now.monotonic.0;
        Outcome::Install(Box::new(session))
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
