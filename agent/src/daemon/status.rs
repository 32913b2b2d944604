//! What operators are shown.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use tcpauth_common::{
    Algorithm, DropReason,
    layout::{Counters, KeySlot, MAX_KEYS, Quartet, Session},
    rollover::slot_at,
};

use super::{
    Daemon,
    diagnosis::{Diagnosis, Evidence, diagnose, failed_handshake, small_path_mtu},
    drops::{direction, end},
    keys::{closed_reason, notices},
    kmp::is_channel,
};
use crate::{
    config::{KeyManagement, Neighbor},
    control::{
        protocol::{AgentStatus, Counts, LastDrop, NeighborStatus, SessionStatus, Status},
        words::{KeySource, NeighborState, SessionPhase},
    },
    kernel::KernelError,
    sessions::{Monotonic, Progress, progress},
};

/// Sessions by the number of their neighbour.
pub(super) type SessionsByNeighbor = HashMap<u32, Vec<Session>>;

impl Daemon {
    /// Everything.
    pub(super) fn status(&self) -> Result<Status, KernelError> {
        let sessions = self.sessions_by_neighbor()?;
        let neighbors = (self.neighbors.iter())
            .map(|(number, neighbor)| self.neighbor_status(number, neighbor, &sessions))
            .collect::<Result<Vec<_>, _>>()?;
        let overload = DropReason::Overload.name();
        Ok(Status {
            agent: AgentStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                instance: self.instance.name().to_owned(),
                pid: std::process::id(),
                uptime_seconds: self.started.elapsed().as_secs(),
                config_file: self.config_file.display().to_string(),
                reload_error: self.reload_error.clone(),
                keep_error: self.keep_error.clone(),
                sessions: sessions.values().map(|sessions| sessions.len() as u64).sum(),
                sockets_error: self.bypasses.error().map(str::to_owned),
                held_segments: self.held_segments,
                overload: neighbors
                    .iter()
                    .filter_map(|neighbor| neighbor.counters.dropped.get(overload))
                    .sum(),
                no_memory: self.without_memory()?,
                lane_dropped: self.lane.lost(),
                key_log: self.key_log.as_ref().map(|log| log.path().display().to_string()),
                unsaved: self.config.is_unsaved(),
                unconfigured: self.unconfigured.names().into_iter().collect(),
            },
            interfaces: self.interfaces.status(),
            neighbors,
        })
    }

    /// One neighbour.
    pub(super) fn neighbor_status(
        &self,
        number: u32,
        neighbor: &Neighbor,
        sessions: &SessionsByNeighbor,
    ) -> Result<NeighborStatus, KernelError> {
        let now = Monotonic::now();
        let counters = self.neighbor_counters(number)?;
        let mkt = &neighbor.keys.foremost(Timestamp::now()).mkt;
        let none = Vec::new();
        let sessions = sessions.get(&number).unwrap_or(&none);
        let open = sessions.iter().filter(|session| progress(session) != Progress::Closed);
        let last_drop = self.drops.of(number).and_then(|drops| drops.last.as_ref());
        let Diagnosis { state, reason } = self.diagnose(number, neighbor, sessions, &counters, now);
        Ok(NeighborStatus {
            peer: neighbor.peer.to_string(),
            state,
            reason,
            key_management: neighbor.key_management.name().to_owned(),
            algorithm: mkt.algorithm.name().to_owned(),
            send_id: mkt.send_id.0,
            recv_id: mkt.recv_id.0,
            tcp_options: mkt.tcp_options.name().to_owned(),
            port: neighbor.port,
            ttl_security: neighbor.ttl_security,
            forwarded: neighbor.forwarded.iter().map(ToString::to_string).collect(),
            unauthenticated: neighbor.unauthenticated.name().to_owned(),
            on_unprotected: neighbor.on_unprotected.name().to_owned(),
            sessions: sessions.len() as u64,
            open_sessions: open.count() as u64,
            displaced_sessions: self.crowding.displaced(number),
            counters: counts(&counters),
            kmp: self.kmp_status(number, neighbor, sessions),
            last_drop: last_drop.map(|drop| LastDrop {
                reason: drop.reason.name().to_owned(),
                seconds_ago: now.since(drop.time).as_secs(),
                direction: direction(drop.outbound),
                segment: drop.segment.clone(),
            }),
        })
    }

    /// State and reason of a neighbour.
    pub(super) fn diagnose(
        &self,
        number: u32,
        neighbor: &Neighbor,
        sessions: &[Session],
        counters: &Counters,
        now: Monotonic,
    ) -> Diagnosis {
        let last_drop = self.drops.of(number).and_then(|drops| drops.last.as_ref());
        let wall = Timestamp::now();
        let mkt = &neighbor.keys.foremost(wall).mkt;
        let diagnosis = diagnose(&Evidence {
            sessions,
            last_drop,
            same_reason: last_drop.map_or(0, |drop| counters.dropped[drop.reason as usize]),
            verified: counters.passed.verified_segments,
            recv_id: mkt.recv_id.0,
            wire: neighbor.wire,
            covers_options: !mkt.excludes_options(),
            interface_problem: self.interfaces.problem(&neighbor.peer),
            closed: neighbor.keys.is_closed(wall).then(|| closed_reason(&neighbor.keys, wall)),
            agrees_keys: neighbor.kmp.is_some(),
            handshake: self
                .last_failure(number)
                .and_then(|failure| failed_handshake(&failure.text, failure.attempts, now.since(failure.at))),
            notices: (notices(neighbor, wall).into_iter())
                .chain(self.interfaces.notice(&neighbor.peer))
                .chain(self.crowding.notices(number, now))
                .chain(self.bypasses.stall(number).and_then(|times| {
                    let icmp = self.drops.of(number).and_then(|drops| drops.icmp);
                    small_path_mtu(times, icmp.map(|time| now.since(time)))
                }))
                .collect(),
            port: neighbor.port,
            now,
        });
        if let Some(reason) = self.bypasses.reason(number, now) {
            let is_trouble = matches!(diagnosis.state, NeighborState::Failing | NeighborState::Closed);
            let parts: Vec<_> = [reason].into_iter().chain(diagnosis.reason.filter(|_| is_trouble)).collect();
            return Diagnosis { state: NeighborState::Unprotected, reason: Some(parts.join("; ")) };
        }
        if let Some(reason) = self.ipsec_trouble(neighbor) {
            return Diagnosis {
                state: NeighborState::Unprotected,
                reason: Some(format!("NOT PROTECTED: {reason}")),
            };
        }
        let trouble = self.route_trouble(number, neighbor).or_else(|| self.interfaces.fault(&neighbor.peer));
        if let (Some(trouble), true) = (trouble, diagnosis.state != NeighborState::Closed) {
            return Diagnosis { state: NeighborState::Failing, reason: Some(trouble) };
        }
        match self.enabling(number, neighbor, sessions, counters) {
            Some(phase) if diagnosis.state != NeighborState::Closed => Diagnosis {
                state: NeighborState::Unsigned,
                reason: Some(
                    [Some(phase), diagnosis.reason].into_iter().flatten().collect::<Vec<_>>().join("; "),
                ),
            },
            _ => diagnosis,
        }
    }

    /// What the programs and the daemon counted for a neighbour.
    pub(super) fn neighbor_counters(&self, number: u32) -> Result<Counters, KernelError> {
        let mut counters = self.dataplane.counters(number)?.unwrap_or_default();
        if let Some(drops) = self.drops.of(number) {
            for (sum, own) in counters.dropped.iter_mut().zip(drops.own) {
                *sum += own;
            }
        }
        Ok(counters)
    }

    /// Packets that the programs dropped because they had no working memory left.
    pub(super) fn without_memory(&self) -> Result<u64, KernelError> {
        let counters = self.dataplane.counters(Counters::OF_NO_NEIGHBOR)?.unwrap_or_default();
        Ok(counters.dropped[DropReason::NoMemory as usize])
    }

    /// Whether a connection is that of a channel on which keys are agreed.
    pub(super) fn is_of_channel(&self, neighbor: u32, quartet: &Quartet) -> bool {
        self.neighbors.numbered(neighbor).is_some_and(|neighbor| is_channel(neighbor, quartet))
    }

    /// The sessions in the map, without those of channels on which keys are agreed.
    pub(super) fn sessions_by_neighbor(&self) -> Result<SessionsByNeighbor, KernelError> {
        let mut sessions = SessionsByNeighbor::new();
        for entry in self.dataplane.sessions() {
            let (quartet, session) = entry?;
            if !self.is_of_channel(session.neighbor, &quartet) {
                sessions.entry(session.neighbor).or_default().push(session);
            }
        }
        Ok(sessions)
    }

    /// All sessions, in the order of their neighbours' numbers and of their age.
    pub(super) fn session_statuses(&self) -> Result<Vec<SessionStatus>, KernelError> {
        let mut sessions = self.dataplane.sessions().collect::<Result<Vec<_>, _>>()?;
        sessions.sort_by_key(|(_, session)| (session.neighbor, session.created));
        let now = Monotonic::now();
        Ok(sessions.iter().map(|(quartet, session)| self.session_status(quartet, session, now)).collect())
    }

    fn session_status(&self, quartet: &Quartet, session: &Session, now: Monotonic) -> SessionStatus {
        let neighbor = self.neighbors.numbered(session.neighbor);
        let slot = |slot| slot_at(&session.slots, slot).filter(|slot| slot.algorithm != 0);
        let received = slot(session.rollover.received);
        let syn = &session.syn_send;
        let (algorithm, send_id, recv_id) = slot(session.rollover.current)
            .map_or((syn.algorithm, syn.key_id, syn.rnext_id), |current| {
                (current.algorithm, current.send_id, current.recv_id)
            });
        let algorithm_name = |number| Algorithm::from_number(number).map_or("", Algorithm::name).to_owned();
        let known = |flag: u32, isn: u32| (session.flags & flag != 0).then_some(isn);
        SessionStatus {
            neighbor: neighbor.map_or_else(String::new, |neighbor| neighbor.peer.to_string()),
            local: end(quartet.local, quartet.local_port),
            peer: end(quartet.peer, quartet.peer_port),
            state: progress(session).name().into(),
            key_management: match neighbor {
                Some(_) if self.is_of_channel(session.neighbor, quartet) => KeyManagement::Implicit.name(),
                Some(neighbor) => neighbor.key_management.name(),
                None => "",
            }
            .to_owned(),
            keys: if session.flags & Session::AGREED != 0 { KeySource::Agreed } else { KeySource::Chain },
            keys_age_seconds: (session.rollover.current_since != 0)
                .then(|| now.since(Monotonic(session.rollover.current_since)).as_secs()),
            phase: phase(session.phase),
            algorithm: algorithm_name(algorithm),
            send_id: send_id.0,
            recv_id: recv_id.0,
            accepted_ids: accepted_ids(session),
            peer_algorithm: received.map(|received| algorithm_name(received.algorithm)),
            peer_key_id: received.map(|received| received.recv_id.0),
            local_isn: known(Session::LOCAL_ISN, session.local_isn.0),
            peer_isn: known(Session::PEER_ISN, session.peer_isn.0),
            send_sne: (session.send_seq >> 32) as u32,
            recv_sne: (session.recv_seq >> 32) as u32,
            age_seconds: now.since(Monotonic(session.created)).as_secs(),
            idle_seconds: now.since(Monotonic(session.last_segment)).as_secs(),
            counters: counts(&session.counters.into()),
        }
    }
}

/// KeyIDs of the slots that verify, the newest first.
fn accepted_ids(session: &Session) -> Vec<u8> {
    (0..MAX_KEYS as u32)
        .filter_map(|age| slot_at(&session.slots, session.rollover.newest(age)))
        .filter(|slot| slot.algorithm != 0 && slot.flags & KeySlot::ACCEPT != 0)
        .map(|slot| slot.recv_id.0)
        .collect()
}

/// [`Session::phase`] in a word.
fn phase(phase: u32) -> SessionPhase {
    match phase {
        Session::OPEN => SessionPhase::Open,
        Session::HANDSHAKE => SessionPhase::Handshake,
        Session::SWITCHING => SessionPhase::Switching,
        _ => SessionPhase::Failed,
    }
}

fn counts(Counters { passed, dropped, events: _ }: &Counters) -> Counts {
    let dropped: BTreeMap<String, u64> = (DropReason::ALL.into_iter().zip(*dropped))
        .filter(|(_, count)| *count != 0)
        .map(|(reason, count)| (reason.name().to_owned(), count))
        .collect();
    Counts {
        signed_segments: passed.signed_segments,
        signed_octets: passed.signed_octets,
        verified_segments: passed.verified_segments,
        verified_octets: passed.verified_octets,
        unsigned_sent: passed.unsigned_sent,
        unsigned_received: passed.unsigned_received,
        dropped,
    }
}
