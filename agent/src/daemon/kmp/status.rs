//! What operators are shown of agreed keys.

use std::time::Instant;

use tcpauth_common::{Algorithm, layout::Session, rollover::slot_at};

use super::{super::Daemon, known, state::ChannelState};
use crate::{
    config::{KeyManagement, Neighbor},
    control::{
        protocol::{ChannelStatus, Event, KmpFailure, KmpStatus, PeerCapabilities, TlsStatus},
        words::KmpChange,
    },
    kmp::{Agreed, Capabilities, Connection, tls::Summary},
    sessions::{Monotonic, Progress, progress},
};

use super::super::drops::wall_clock;

impl Daemon {
    /// How keys are agreed with a neighbour; `None` if they are not.
    pub(in super::super) fn kmp_status(
        &self,
        number: u32,
        neighbor: &Neighbor,
        sessions: &[Session],
    ) -> Option<KmpStatus> {
        let kmp = neighbor.kmp.as_ref()?;
        let (now, instant) = (Monotonic::now(), Instant::now());
        let known = self.kmp.known.of(number);
        let report = self.kmp.refresh.report(number);
        let last = known.and_then(|known| known.last.as_ref());
        let until = self.kmp.channels.states(number).into_iter().filter_map(|state| match state {
            ChannelState::Waiting { until, .. } => Some(until),
            _ => None,
        });
        let until = until.min();
        Some(KmpStatus {
            crowded_out_handshakes: self.kmp.channels.crowded_out(number),
            mode: neighbor.key_management.name().to_owned(),
            channel: self.channel_status(number, neighbor, instant),
            tls: last.map(|(tls, _)| tls_status(tls)),
            algorithm: newest_algorithm(sessions),
            peer: last.map(|(_, peer)| peer_capabilities(peer)),
            fallback: kmp.fallback.name().to_owned(),
            fallback_sessions: sessions.iter().filter(|session| is_by_password(session)).count() as u64,
            rekey_interval_seconds: kmp.rekey_interval.as_secs(),
            rekey_segments: kmp.rekey_segments,
            last_refresh_seconds_ago: report.refreshed.map(|time| now.since(time).as_secs()),
            next_refresh_seconds: report.next.map(|time| time.since(now).as_secs()),
            due_sessions: report.due,
            last_failure: self.last_failure(number).map(|failure| KmpFailure {
                text: failure.text,
                seconds_ago: now.since(failure.at).as_secs(),
                attempts: failure.attempts.into(),
                retry_seconds: match (until, failure.next) {
                    (_, Some(next)) => Some(next.since(now).as_secs()),
                    (Some(until), None) => Some(until.saturating_duration_since(instant).as_secs()),
                    (None, None) => None,
                },
            }),
        })
    }

    /// What handshakes with a neighbour last failed for, unless a later one did not.
    pub(in super::super) fn last_failure(&self, number: u32) -> Option<known::Failure> {
        let of_handshakes = self.kmp.known.of(number).and_then(|known| known.failure.clone());
        let of_refresh = self.kmp.refresh.report(number).failure.map(|failure| known::Failure {
            text: failure.text.clone(),
            at: failure.at,
            attempts: failure.attempts,
            next: Some(failure.next),
        });
        of_handshakes.into_iter().chain(of_refresh).max_by_key(|failure| failure.at)
    }

    /// Tells followers of events what became of handshakes with a neighbour.
    pub(in super::super) fn tell_kmp(&self, number: u32, state: KmpChange, text: String) {
        let Some(neighbor) = self.neighbors.numbered(number) else { return };
        // Nobody may be following.
        let _ = self.events.send(Event::Kmp {
            time: wall_clock(),
            neighbor: neighbor.peer.to_string(),
            state,
            text,
        });
    }

    /// Tells followers of events that keys of a new connection were agreed.
    pub(in super::super) fn tell_agreed(&self, number: u32, agreed: &Agreed) {
        let Connection { client, server, .. } = agreed.connection;
        self.tell_kmp(
            number,
            KmpChange::Agreed,
            format!("{client} > {server}, {}", agreed.mkt.algorithm.name()),
        );
    }

    /// Writes keys that were agreed to the key log, if there is one.
    pub(in super::super) fn log_key(&mut self, agreed: &Agreed) {
        if let Some(log) = &mut self.key_log {
            log.write(agreed);
        }
    }

    /// The channel to a neighbour, or those to each of its addresses and from each of ours.
    fn channel_status(&self, number: u32, neighbor: &Neighbor, now: Instant) -> ChannelStatus {
        let on_demand = neighbor.key_management == KeyManagement::Layered;
        let states = self.kmp.channels.states(number);
        match &states[..] {
            [] if neighbor.peer.is_host() => {
                return channel_status(&ChannelState::Idle { because: None }, on_demand, now);
            }
            [state] => return channel_status(state, on_demand, now),
            _ => {}
        }
        let up = states.iter().filter(|state| matches!(state, ChannelState::Up { .. })).count();
        let failed = states.iter().find(|state| matches!(state, ChannelState::Waiting { .. }));
        let state = failed.unwrap_or(&ChannelState::Idle { because: None });
        let name = if failed.is_none() && up > 0 { "up" } else { state.name() };
        ChannelStatus { state: name.into(), text: format!("{up} of {} up", states.len()), key: None }
    }
}

fn channel_status(state: &ChannelState, on_demand: bool, now: Instant) -> ChannelStatus {
    let text = match state {
        ChannelState::Idle { because: None } if on_demand => {
            "not needed now: keys are agreed on the connections; for new keys it is opened".to_owned()
        }
        _ => state.line(now),
    };
    let key = match state {
        ChannelState::Up { key, .. } => *key,
        _ => None,
    };
    ChannelStatus { state: state.name().into(), text, key }
}

fn tls_status(tls: &Summary) -> TlsStatus {
    TlsStatus { version: tls.version.clone(), suite: tls.suite.clone(), peer: tls.peer.clone() }
}

fn peer_capabilities(peer: &Capabilities) -> PeerCapabilities {
    let is_unknown = |name: &&String| Algorithm::from_name(name).is_none();
    PeerCapabilities {
        software: peer.software.clone(),
        version: peer.version,
        algorithms: peer.algorithms.clone(),
        unknown_algorithms: peer.algorithms.iter().filter(is_unknown).cloned().collect(),
        option_kinds: peer.option_kinds.clone(),
        rekey_interval_seconds: peer.rekey_interval.as_secs(),
    }
}

/// The algorithm of the keys that were agreed last, of those in use.
fn newest_algorithm(sessions: &[Session]) -> Option<String> {
    let agreed = sessions.iter().filter(|session| session.flags & Session::AGREED != 0);
    let newest = agreed.max_by_key(|session| session.rollover.current_since)?;
    let slot = slot_at(&newest.slots, newest.rollover.newest(0))?;
    Algorithm::from_number(slot.algorithm).map(|algorithm| algorithm.name().to_owned())
}

/// Whether a connection that is up has keys derived from the password, and no agreed ones.
fn is_by_password(session: &Session) -> bool {
    session.flags & Session::AGREED == 0
        && session.phase == Session::OPEN
        && progress(session) == Progress::Established
}
