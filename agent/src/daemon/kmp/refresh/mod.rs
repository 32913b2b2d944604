//! New keys for sessions that are up: by a TLS connection that is new, so that who learns older keys, or all that was
//! ever said on an older channel, does not have them.
//!
//! - `due`: which sessions may have agreed keys; `planner`: which of them are due, and when a channel is opened for them.
//! - `offers`: they are offered on it, and keys that were agreed come into them as any new key does (RFC 5925 §6.1): the
//!   newest, asked for by RNextKeyID.
//!
//! Older keys are forgotten soon after both ends have moved.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use due::{agrees_otherwise, best_common, has_older_keys, may_have_agreed_keys, seen};
use planner::Planner;
use tcpauth_common::{
    layout::{Quartet, Session},
    rollover::slot_at,
};

use super::{super::Daemon, ChannelId, KmpPeer, dial::jitter};
use crate::{
    control::words::KmpChange,
    kernel::KernelError,
    kmp::Agreed,
    sessions::{self, Monotonic},
};

use super::super::{
    configuration::{no_neighbor, same_peer},
    neighbors::Neighbors,
    rules::change_keys,
};

mod due;
mod offers;
mod planner;

/// From when both ends use their newest keys to when the older ones are forgotten: what is under way arrives.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two looks at sessions that have older keys.
const SETTLE_LOOK: Duration = Duration::from_secs(1);

/// What is under way. Holds secrets: no `Debug`.
#[derive(Default)]
pub(in super::super) struct Refresh {
    planner: Planner,
    /// Keys of our offers that the peer accepted, until it says that it uses them.
    ours: HashMap<(ChannelId, u32), Agreed>,
    /// Keys of the peer's offers that we accepted, until it confirms that it has them; one for each session.
    theirs: HashMap<(ChannelId, u32), (Quartet, Agreed)>,
    accepted: HashMap<Quartet, (ChannelId, u32)>,
    /// Sessions with older keys.
    settling: BTreeSet<Quartet>,
    settle_at: Option<Monotonic>,
}

impl Refresh {
    /// When [`Daemon::on_refresh_time`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let at = [self.planner.next_due(), self.settle_at].into_iter().flatten().min()?;
        Some(Instant::now() + at.since(Monotonic::now()))
    }

    /// Whether a session waits for new keys.
    pub(in super::super) fn is_due(&self, quartet: &Quartet) -> bool {
        self.planner.is_due(quartet)
    }

    /// The peers of a neighbor with which there are sessions.
    pub(super) fn peers_of(&self, neighbor: u32) -> impl Iterator<Item = KmpPeer> {
        self.planner.peers_of(neighbor)
    }

    /// What there is to say of a neighbour.
    pub(super) fn report(&self, neighbor: u32) -> planner::Report<'_> {
        self.planner.report(neighbor)
    }

    fn observe(&mut self, quartet: &Quartet, session: &Session, neighbors: &Neighbors, now: Monotonic) {
        let Some(neighbor) = neighbors.numbered(session.neighbor) else { return };
        let Some(kmp) = neighbor.kmp.as_ref().filter(|_| may_have_agreed_keys(session, quartet, neighbor))
        else {
            return;
        };
        if has_older_keys(session) {
            self.settle_later(quartet, now);
        }
        self.planner.observe(quartet, seen(session, quartet, kmp), now, jitter());
    }

    fn settle_later(&mut self, quartet: &Quartet, now: Monotonic) {
        self.settling.insert(*quartet);
        self.settle_at.get_or_insert(now.after(SETTLE_LOOK));
    }

    fn accept(&mut self, channel: ChannelId, id: u32, quartet: Quartet, agreed: Agreed) {
        if let Some(before) = self.accepted.insert(quartet, (channel, id)) {
            self.theirs.remove(&before);
        }
        self.theirs.insert((channel, id), (quartet, agreed));
    }

    fn take_accepted(&mut self, channel: ChannelId, id: u32) -> Option<(Quartet, Agreed)> {
        let (quartet, agreed) = self.theirs.remove(&(channel, id))?;
        self.accepted.remove(&quartet);
        Some((quartet, agreed))
    }

    fn forget_channel(&mut self, channel: ChannelId) {
        self.ours.retain(|(on, _), _| *on != channel);
        self.theirs.retain(|(on, _), _| *on != channel);
        self.accepted.retain(|_, (on, _)| *on != channel);
    }
}

impl Daemon {
    /// Begins, and gives up, what is due.
    pub(super) fn on_refresh_time(&mut self, now: Instant) {
        let time = Monotonic::now();
        for peer in self.kmp.refresh.planner.overdue(time) {
            let text = match self.kmp.refresh.planner.is_dialled(peer) {
                true => "no new channel to the peer's daemon came up in time",
                false => "the peer's daemon did not answer in time",
            };
            self.refresh_failed(peer, text.to_owned());
        }
        while let Some(peer) = self.kmp.refresh.planner.begin(time) {
            self.show_peer(peer);
            self.kmp.channels.dial(peer, now);
        }
        if self.kmp.refresh.settle_at.is_some_and(|at| at <= time) {
            self.settle_sessions(time);
        }
    }

    /// A channel with `peer` is up: by TLS that is new.
    pub(super) fn on_refresh_channel(&mut self, channel: ChannelId, peer: KmpPeer) {
        self.ask_for_better_algorithm(peer);
        self.kmp.refresh.planner.channel_up(peer, channel, Monotonic::now());
        self.offer_sessions(peer);
    }

    /// A channel is gone, and what was under way on it; why, for an operator.
    pub(super) fn on_refresh_channel_gone(&mut self, channel: ChannelId, peer: KmpPeer, because: &str) {
        self.kmp.refresh.forget_channel(channel);
        let planner = &self.kmp.refresh.planner;
        // What was opened for new keys could not be, and nothing else is on its way.
        let is_hopeless = planner.is_dialled(peer) && !self.kmp.channels.is_opening(peer);
        if is_hopeless {
            self.refresh_failed(peer, because.to_owned());
        } else if planner.is_on(peer, channel) {
            // Its configuration changed, or the peer's did: most often the next one, at once, is good.
            if !self.kmp.refresh.planner.interrupted(peer, Monotonic::now()) {
                self.refresh_failed(peer, because.to_owned());
            }
        }
    }

    /// Looks at all sessions: which are due.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub(in super::super) fn follow_refresh(&mut self) -> Result<(), KernelError> {
        if self.neighbors.iter().any(|(_, neighbor)| neighbor.kmp.is_some()) {
            let now = Monotonic::now();
            for entry in self.dataplane.sessions() {
                let (quartet, session) = entry?;
                self.kmp.refresh.observe(&quartet, &session, &self.neighbors, now);
            }
        }
        self.kmp.refresh.planner.end_round();
        Ok(())
    }

    /// Has sessions of neighbours whose secret, or way to agree on keys, is another than `before` get new keys now.
    pub(in super::super) fn refresh_changed(&mut self, before: &Neighbors) {
        let changed =
            self.neighbors.iter().filter(|(number, now)| agrees_otherwise(before.numbered(*number), now));
        let changed: BTreeSet<u32> = changed.map(|(number, _)| number).collect();
        self.kmp
            .known
            .retain(|number| self.neighbors.numbered(number).is_some() && !changed.contains(&number));
        self.refresh_neighbors(&changed);
    }

    /// Has all sessions of these neighbours get new keys now; how many, and of how many peers.
    pub(in super::super) fn refresh_neighbors(&mut self, numbers: &BTreeSet<u32>) -> (usize, usize) {
        if let Err(error) = self.follow_refresh() {
            tracing::error!("sessions that are to get new keys cannot be found: {error}");
        }
        self.kmp.refresh.planner.ask(|peer| numbers.contains(&peer.neighbor))
    }

    /// New keys for the sessions of a neighbour, or of all whose keys are agreed.
    ///
    /// # Errors
    /// There is no such neighbour, or its keys are not agreed; for the operator.
    pub(in super::super) fn refresh_keys(&mut self, peer: Option<&str>) -> Result<String, String> {
        let wanted =
            self.neighbors.iter().filter(|(_, neighbor)| peer.is_none_or(|peer| same_peer(neighbor, peer)));
        let wanted: Vec<_> = wanted.map(|(number, neighbor)| (number, neighbor.kmp.is_some())).collect();
        match peer {
            Some(peer) if wanted.is_empty() => return Err(no_neighbor(peer)),
            Some(peer) if wanted.iter().all(|(_, agrees)| !agrees) => {
                return Err(format!(
                    "the keys of {peer} are not agreed in a handshake (key-management); `tcpauth key roll` changes to \
                     another of its keys"
                ));
            }
            _ => {}
        }
        let numbers: BTreeSet<u32> =
            wanted.into_iter().filter(|(_, agrees)| *agrees).map(|(number, _)| number).collect();
        if numbers.is_empty() {
            return Err("no neighbour's keys are agreed in a handshake (key-management = \"external\" or \"layered\")".to_owned());
        }
        let (sessions, peers) = self.refresh_neighbors(&numbers);
        tracing::info!(sessions, peers, "new keys are asked for by command");
        let plural =
            |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        Ok(match sessions {
            0 => "no session is up: new ones get new keys in any case".to_owned(),
            _ => format!(
                "new keys are being agreed for {} with {}",
                plural(sessions, "session"),
                plural(peers, "peer")
            ),
        })
    }

    /// Forgets older keys of sessions whose both ends use the newest since a while: who has learnt them has nothing.
    fn settle_sessions(&mut self, now: Monotonic) {
        let mut left = BTreeSet::new();
        for quartet in std::mem::take(&mut self.kmp.refresh.settling) {
            let Ok(Some(session)) = self.dataplane.session(&quartet) else { continue };
            if !has_older_keys(&session) {
                continue;
            }
            let moved = Monotonic(session.rollover.current_since.max(session.rollover.received_since));
            let change = sessions::settle(&session, &quartet).filter(|_| SETTLE <= now.since(moved));
            let Some(mut change) = change else {
                left.insert(quartet);
                continue;
            };
            if let Err(error) = change_keys(&mut self.dataplane, &mut change) {
                tracing::error!("a session keeps its older keys: {error}");
                left.insert(quartet);
            }
        }
        self.kmp.refresh.settle_at = (!left.is_empty()).then(|| now.after(SETTLE_LOOK));
        self.kmp.refresh.settling = left;
    }

    /// Has sessions whose algorithm is not the best that both daemons have now get new keys.
    fn ask_for_better_algorithm(&mut self, peer: KmpPeer) {
        let Some(theirs) = self.kmp.channels.capabilities(peer).cloned() else { return };
        let Some(kmp) = self.neighbors.numbered(peer.neighbor).and_then(|neighbor| neighbor.kmp.clone())
        else {
            return;
        };
        let best = best_common(&kmp.algorithms, &theirs.algorithms);
        if best.is_empty() {
            return;
        }
        for quartet in self.kmp.refresh.planner.sessions_of(peer) {
            let Ok(Some(session)) = self.dataplane.session(&quartet) else { continue };
            let current =
                slot_at(&session.slots, session.rollover.newest(0)).map_or(0, |slot| slot.algorithm);
            if session.flags & Session::AGREED != 0 && !best.iter().any(|best| *best as u8 == current) {
                self.kmp.refresh.planner.ask_for(&quartet);
            }
        }
    }

    fn refresh_failed(&mut self, peer: KmpPeer, text: String) {
        let line = format!("no new keys for sessions that are up: {text}");
        if self.kmp.refresh.planner.failed(peer, text, Monotonic::now(), jitter()) {
            let name = self.neighbors.numbered(peer.neighbor).map(|neighbor| neighbor.peer.to_string());
            tracing::warn!(neighbor = name, "{line}; they go on with those they have, and it is tried again");
            self.tell_kmp(peer.neighbor, KmpChange::Failed, line);
        }
    }
}
