//! Which connections have a handshake on them, and from where it goes on.

use std::time::{Duration, Instant};

use tcpauth_common::{
    key_choice::flag::{ACK, RST, SYN},
    layout::{Direction, Held, Session},
};

use super::{
    super::{KmpPeer, peering::psk, route::is_channel},
    ACKNOWLEDGMENT_LIMIT, Daemon, Progress, Timer, Underway,
    frame::Template,
};
use crate::{
    config::KeyManagement,
    keys::Role,
    kmp::{
        Capabilities, Connection, Endpoint, Exchange, Side,
        layered::{Failure, Handshake},
        stream::{self, Clock, Origin, Timestamps, WINDOW},
    },
    sessions::{Segment, free_key_id},
};

/// How long an answer to our SYN is awaited: Linux gives up after 127 s.
const OPENING_LIMIT: Duration = Duration::from_secs(130);

/// Our SYN, until it is answered.
pub(super) struct Opening {
    template: Template,
    timestamps: Option<Timestamps>,
}

/// What becomes of a first SYN before its keys are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// It goes on, with the session that is there.
    Admitted,
    /// It goes on as if there were no session.
    Anew,
    /// It is lost: TCP sends it again, or has no need to.
    Lost,
}

impl Daemon {
    /// The session that a held segment goes on with, or `None` if it is lost: of two SYNs that cross, the one of the
    /// lower end counts; and after a failure our end waits.
    pub(in super::super::super) fn admit_layered(
        &mut self,
        held: &Held,
        frame: &[u8],
        existing: Option<Session>,
    ) -> Option<Option<Session>> {
        if !self.is_layered_syn(held, frame) {
            return Some(existing);
        }
        let trouble = self.kmp.layered.troubles.get(&KmpPeer::of(held.neighbor, &held.quartet));
        if is_outbound(held) && trouble.is_some_and(|trouble| Instant::now() < trouble.until) {
            return None;
        }
        match cross(held, existing.as_ref()) {
            Admission::Admitted => Some(existing),
            Admission::Anew => {
                self.remove_half_open(&held.quartet);
                Some(None)
            }
            Admission::Lost => None,
        }
    }

    /// Keeps the headers of our SYN, if there will be a handshake.
    pub(in super::super::super) fn note_opening(&mut self, held: &Held, frame: &[u8]) {
        if !is_outbound(held) || !self.is_layered_syn(held, frame) {
            return;
        }
        if let (Some(template), Some(segment)) = (Template::of(held, frame), tcp(held, frame)) {
            let opening = Opening { template, timestamps: segment.timestamps };
            self.kmp.layered.openings.insert(held.quartet, opening);
            let limit = Instant::now() + OPENING_LIMIT;
            self.kmp.layered.timers.set(Timer::Opening(held.quartet), limit);
        }
    }

    fn is_layered_syn(&self, held: &Held, frame: &[u8]) -> bool {
        let is_first_syn = flags(held, frame).is_some_and(|flags| flags & (SYN | ACK | RST) == SYN);
        is_first_syn && self.has_handshake(held)
    }

    /// Whether a connection gets its keys by a handshake on it: a neighbour's sessions do, not its channel.
    fn has_handshake(&self, held: &Held) -> bool {
        self.neighbors.numbered(held.neighbor).is_some_and(|neighbor| {
            neighbor.key_management == KeyManagement::Layered && !is_channel(neighbor, &held.quartet)
        })
    }

    /// The phase in which `session`, whose keys a held segment has made known, begins: [`Session::HANDSHAKE`] where one has
    /// to be before it.
    pub(in super::super::super) fn layered_phase(&self, held: &Held, frame: &[u8], session: &Session) -> u32 {
        if self.has_handshake(held) { phase(held, frame, session) } else { session.phase }
    }

    /// Begins the handshake on a connection whose `session` is installed, in [`Session::HANDSHAKE`]. Of the client the
    /// held segment is kept.
    pub(in super::super::super) fn begin_layered(
        &mut self,
        held: &Held,
        frame: &[u8],
        session: &Session,
        role: Role,
    ) {
        let now = Instant::now();
        let (quartet, layered) = (held.quartet, &mut self.kmp.layered);
        let opening = layered.openings.remove(&quartet);
        layered.timers.clear(Timer::Opening(quartet));
        let template =
            opening.as_ref().map(|opening| opening.template.clone()).or_else(|| Template::of(held, frame));
        let ours = opening.and_then(|opening| opening.timestamps);
        let (Some(template), Some(origin)) = (template, origin(held, frame, session, ours, now)) else {
            return;
        };
        let syn_ack = (role == Role::Client).then(|| (Held { verified: 0, ..*held }, frame.to_vec()));
        let peer = KmpPeer::of(held.neighbor, &quartet);
        let underway = Underway { peer, origin, template, syn_ack, progress: Progress::Awaited, begun: now };
        layered.connections.insert(quartet, underway);
        match role {
            Role::Client => self.run_layered(held, session, role, origin, now),
            Role::Server => {
                layered.timers.set(Timer::Handshake(quartet), now + ACKNOWLEDGMENT_LIMIT);
            }
        }
    }

    /// Begins the handshake of a server, whose client has acknowledged the SYN-ACK by `held`.
    pub(super) fn begin_awaited(&mut self, held: &Held, now: Instant) {
        let Some(origin) = self.kmp.layered.connections.get(&held.quartet).map(|underway| underway.origin)
        else {
            return;
        };
        let Ok(Some(session)) = self.dataplane.session(&held.quartet) else { return };
        self.run_layered(held, &session, Role::Server, origin, now);
    }

    fn run_layered(&mut self, held: &Held, session: &Session, role: Role, origin: Origin, now: Instant) {
        match self.handshake(held, session, role, origin, now) {
            Ok(handshake) => {
                if let Some(underway) = self.kmp.layered.connections.get_mut(&held.quartet) {
                    underway.progress = Progress::Running(Box::new(handshake));
                }
                self.act(held.quartet, now);
            }
            Err(failure) => self.fail(held.quartet, &failure, now),
        }
    }

    fn handshake(
        &self,
        held: &Held,
        session: &Session,
        role: Role,
        origin: Origin,
        now: Instant,
    ) -> Result<Handshake, Failure> {
        let gone = || Failure::NotInstalled("the neighbour is gone".to_owned());
        let neighbor = self.neighbors.numbered(held.neighbor).ok_or_else(gone)?;
        let kmp = neighbor.kmp.as_ref().ok_or_else(gone)?;
        let (psk, tcp_options) = psk(kmp, &held.quartet, session, neighbor).ok_or_else(gone)?;
        let side = if role == Role::Client { Side::Client } else { Side::Server };
        let endpoint = Endpoint::new(side, &kmp.tls, &psk).map_err(crate::kmp::ExchangeError::from)?;
        let exchange = Exchange::new(endpoint, Capabilities::ours(&kmp.algorithms, kmp.rekey_interval))
            .with_tcp_options(tcp_options);
        let (local_isn, peer_isn) = (Some(session.local_isn), Some(session.peer_isn));
        let connection = Connection::new(&held.quartet, role, local_isn, peer_isn).ok_or_else(gone)?;
        let recv_id = free_key_id(Some(session), &neighbor.keys);
        Ok(Handshake::new(connection, role, recv_id, origin, exchange, now))
    }

    /// Removes sessions in the middle of a handshake that an earlier daemon began: nobody can go on with it. Their
    /// stacks, which are not connected yet, send their SYNs again, and begin anew.
    pub(in super::super::super) fn forget_handshakes(&mut self) {
        let is_in_handshake =
            |session: &Session| matches!(session.phase, Session::HANDSHAKE | Session::FAILED);
        let sessions: Result<Vec<_>, _> = self.dataplane.sessions().collect();
        let removed = sessions.and_then(|sessions| {
            let begun = sessions.iter().filter(|(_, session)| is_in_handshake(session));
            begun.map(|(quartet, _)| self.dataplane.remove_session(quartet)).collect::<Result<Vec<()>, _>>()
        });
        match removed {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                tracing::info!(connections = removed.len(), "handshakes that were under way begin anew");
            }
            Err(error) => tracing::error!("handshakes that were under way: {error}"),
        }
    }
}

/// Of a connection that has a handshake on it.
fn phase(held: &Held, frame: &[u8], session: &Session) -> u32 {
    let flags = flags(held, frame).unwrap_or_default();
    match flags & (SYN | RST) {
        _ if session.flags & Session::BOTH_ISNS != Session::BOTH_ISNS => session.phase,
        SYN => Session::HANDSHAKE,
        // It refuses our SYN. A stack that does not believe it must not get a SYN-ACK with the same numbers afterwards.
        RST if !is_outbound(held) => Session::FAILED,
        _ => session.phase,
    }
}

/// Of a first SYN.
fn cross(held: &Held, existing: Option<&Session>) -> Admission {
    let Some(session) = existing else { return Admission::Admitted };
    match (session.flags & Session::BOTH_ISNS, is_outbound(held), held.quartet.is_lower()) {
        // Our SYN is on its way, and stays the only one.
        (Session::LOCAL_ISN, false, true) => Admission::Lost,
        // The peer's came first, and will come to nothing.
        (Session::PEER_ISN, true, true) => Admission::Anew,
        (Session::PEER_ISN, true, false) => Admission::Lost,
        _ => Admission::Admitted,
    }
}

/// Where the stream on the connection of `session` begins, by the SYN-ACK of either end; or, of SYNs that crossed, by the
/// peer's and the timestamps of `ours`.
fn origin(
    held: &Held,
    frame: &[u8],
    session: &Session,
    ours: Option<Timestamps>,
    now: Instant,
) -> Option<Origin> {
    let segment = Segment::parse(held, frame).ok()?;
    let scale = if segment.scales_window() { session.local_wscale } else { 0 };
    let timestamps = stream::Segment::parse(segment.octets())?.timestamps;
    let clock = timestamps.and_then(|Timestamps { value, echo }| {
        let (value, echo) = if is_outbound(held) {
            (value, echo)
        } else if segment.flags() & ACK != 0 {
            (echo, value)
        } else {
            (ours?.value, value)
        };
        Some(Clock { value, at: now, echo })
    });
    Some(Origin {
        local_isn: session.local_isn,
        peer_isn: session.peer_isn,
        window: (WINDOW >> scale) as u16,
        clock,
    })
}

fn is_outbound(held: &Held) -> bool {
    held.direction == Direction::Outbound as u8
}

fn flags(held: &Held, frame: &[u8]) -> Option<u8> {
    Segment::parse(held, frame).ok().map(|segment| segment.flags())
}

fn tcp(held: &Held, frame: &[u8]) -> Option<stream::Segment> {
    stream::Segment::parse(Segment::parse(held, frame).ok()?.octets())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::testing::Draft;

    #[test]
    fn nothing_but_a_handshake_comes_of_a_connection_whose_isns_are_known() {
        use Direction::{Inbound, Outbound};
        let both = Session { flags: Session::BOTH_ISNS, ..Session::default() };
        let half = Session { flags: Session::LOCAL_ISN, ..Session::default() };
        for (direction, flags, session, expected) in [
            (Outbound, SYN, &half, Session::OPEN),
            (Inbound, SYN | ACK, &both, Session::HANDSHAKE),
            (Outbound, SYN | ACK, &both, Session::HANDSHAKE),
            (Inbound, SYN, &both, Session::HANDSHAKE),
            // A stack that minds its timestamps does not believe each of them.
            (Inbound, RST | ACK, &both, Session::FAILED),
            // Our stack has no connection, and its next SYN-ACK has another ISN.
            (Outbound, RST | ACK, &both, Session::OPEN),
        ] {
            let (held, frame) = Draft::new(direction, flags, 7, 8).hold();
            assert_eq!(phase(&held, &frame, session), expected, "{flags}");
        }
    }
}
