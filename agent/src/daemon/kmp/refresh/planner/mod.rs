//! Which sessions get new keys when, and with which neighbour's daemon a handshake is made for it. No I/O, and time is
//! told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use tcpauth_common::layout::Quartet;
use tracked::Tracked;
pub use tracked::{Limits, Seen};

use super::super::{KmpPeer, channel::ChannelId};
use crate::sessions::Monotonic;

mod tracked;

/// Peers with which handshakes are made at once: a thousand that are due together neither starve each other nor what
/// else the main loop does.
const AT_ONCE: usize = 48;
/// Offers on a channel that wait for their answers.
const WINDOW: usize = 32;
/// For TCP and TLS; then for an offer to get on.
const LIMIT: Duration = Duration::from_secs(15);
/// Before the second attempt with a peer, doubled with each failure.
const SHORTEST: Duration = Duration::from_millis(500);
/// Channels that may end before an attempt does, one after the other, without a word.
const TOLERATED: u32 = 2;
/// Between two attempts, however often they failed.
const LONGEST: Duration = Duration::from_secs(60);

/// What failed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For an operator.
    pub text: String,
    /// When.
    pub at: Monotonic,
    /// How many failed, one after the other.
    pub attempts: u32,
    /// When the next attempt may begin.
    pub next: Monotonic,
}

/// What there is to say of a neighbour.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What failed last, unless a later attempt did not.
    pub failure: Option<&'a Failure>,
    /// When a session last got new keys.
    pub refreshed: Option<Monotonic>,
    /// When the first of its sessions has old keys.
    pub next: Option<Monotonic>,
    /// Sessions that wait for new keys.
    pub due: u64,
}

/// All sessions whose keys are agreed, and the attempts to get them new ones.
#[derive(Default)]
pub struct Planner {
    sessions: HashMap<Quartet, Tracked>,
    peers: BTreeMap<KmpPeer, Peer>,
    /// Peers whose sessions wait, and when they may begin.
    waiting: BTreeSet<(Monotonic, KmpPeer)>,
    /// Peers with which an attempt is under way, and when it is given up.
    busy: BTreeSet<(Monotonic, KmpPeer)>,
    /// Counts the looks at all sessions.
    round: u64,
}

#[derive(Default)]
struct Peer {
    stage: Stage,
    sessions: HashSet<Quartet>,
    /// Sessions that wait for an offer.
    due: BTreeSet<Quartet>,
    /// Where it is in [`Planner::waiting`] or, if something is under way, [`Planner::busy`].
    at: Option<Monotonic>,
    failures: u32,
    not_before: Monotonic,
    failure: Option<Failure>,
    /// When a session last got new keys.
    refreshed: Option<Monotonic>,
}

/// How an attempt with a peer stands.
#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    /// A new channel is being opened.
    Dialled,
    /// Offers, by number, wait for answers on a channel.
    Offering { channel: ChannelId, offers: HashMap<u32, Quartet> },
}

impl Planner {
    /// Takes in a session as it is now. `jitter` is random.
    pub fn observe(&mut self, quartet: &Quartet, seen: Seen, now: Monotonic, jitter: u8) {
        if self.sessions.get(quartet).is_some_and(|tracked| tracked.is_other(&seen)) {
            self.forget(quartet);
        }
        let tracked = self.sessions.entry(*quartet).or_insert_with(|| Tracked::new(seen, jitter));
        tracked.since = seen.agreed_since.and(tracked.since.or(seen.agreed_since));
        (tracked.seen, tracked.round) = (seen, self.round);
        let is_due = tracked.is_due(now) && tracked.not_before <= now;
        self.peers.entry(seen.peer).or_default().sessions.insert(*quartet);
        if is_due {
            self.now_due(seen.peer, *quartet);
        } else {
            self.not_due(seen.peer, quartet);
        }
    }

    /// All sessions were looked at: forgets those that were not seen since this was called last, and peers without any.
    pub fn end_round(&mut self) {
        let gone = self.sessions.iter().filter(|(_, tracked)| tracked.round != self.round);
        let gone: Vec<_> = gone.map(|(quartet, _)| *quartet).collect();
        gone.iter().for_each(|quartet| self.forget(quartet));
        self.peers.retain(|_, state| !state.sessions.is_empty() || state.at.is_some());
        self.round += 1;
    }

    fn forget(&mut self, quartet: &Quartet) {
        let Some(tracked) = self.sessions.remove(quartet) else { return };
        let peer = tracked.seen.peer;
        self.not_due(peer, quartet);
        self.overtaken(peer, quartet);
        self.end_if_done(peer);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.sessions.remove(quartet);
        }
    }

    /// Sessions of peers that are meant are to get new keys now; how many sessions, and of how many peers.
    pub fn ask(&mut self, is_meant: impl Fn(&KmpPeer) -> bool) -> (usize, usize) {
        let mut meant = Vec::new();
        for (quartet, tracked) in self.sessions.iter_mut().filter(|(_, tracked)| is_meant(&tracked.seen.peer))
        {
            (tracked.asked, tracked.not_before) = (true, Monotonic(0));
            meant.push((tracked.seen.peer, *quartet));
        }
        let peers: HashSet<_> = meant.iter().map(|(peer, _)| *peer).collect();
        for peer in &peers {
            // Who changed something does not wait for the end of a back-off.
            let state = self.peers.entry(*peer).or_default();
            (state.failures, state.not_before) = (0, Monotonic(0));
            if matches!(state.stage, Stage::Idle) {
                self.place(*peer, None);
            }
        }
        for (peer, quartet) in &meant {
            self.now_due(*peer, *quartet);
        }
        (meant.len(), peers.len())
    }

    /// Whether a session waits for new keys, or they are being agreed.
    pub fn is_due(&self, quartet: &Quartet) -> bool {
        let Some(tracked) = self.sessions.get(quartet) else { return false };
        let peer = self.peers.get(&tracked.seen.peer);
        tracked.asked
            || peer.is_some_and(|peer| peer.due.contains(quartet))
            || self.is_offered(tracked.seen.peer, quartet)
    }

    /// Has the session get new keys at the next opportunity, as [`Self::ask`] does.
    pub fn ask_for(&mut self, quartet: &Quartet) {
        let Some(tracked) = self.sessions.get_mut(quartet) else { return };
        tracked.asked = true;
        let peer = tracked.seen.peer;
        self.now_due(peer, *quartet);
    }

    /// The sessions whose keys are agreed with a peer.
    pub fn sessions_of(&self, peer: KmpPeer) -> Vec<Quartet> {
        self.peers.get(&peer).map_or_else(Vec::new, |state| state.sessions.iter().copied().collect())
    }

    /// The peers of a neighbor with which there are sessions.
    pub fn peers_of(&self, neighbor: u32) -> impl Iterator<Item = KmpPeer> {
        let with_sessions = |(_, state): &(&KmpPeer, &Peer)| !state.sessions.is_empty();
        self.peers.range(all_of(neighbor)).filter(with_sessions).map(|(peer, _)| *peer)
    }

    /// What there is to say of a neighbour.
    pub fn report(&self, neighbor: u32) -> Report<'_> {
        let peers = self.peers.range(all_of(neighbor));
        let mut report = Report { failure: None, refreshed: None, next: None, due: 0 };
        for (_, state) in peers {
            let offers = if let Stage::Offering { offers, .. } = &state.stage { offers.len() } else { 0 };
            report.due += (state.due.len() + offers) as u64;
            report.refreshed = report.refreshed.max(state.refreshed);
            if report.failure.is_none_or(|known| state.failure.as_ref().is_some_and(|new| known.at < new.at))
            {
                report.failure = state.failure.as_ref().or(report.failure);
            }
            let sessions = state.sessions.iter().filter_map(|quartet| self.sessions.get(quartet)?.old_at());
            report.next = report.next.into_iter().chain(sessions).min();
        }
        report
    }

    /// When [`Self::begin`] or [`Self::overdue`] has something to say.
    pub fn next_due(&self) -> Option<Monotonic> {
        let begins = self.waiting.first().filter(|_| self.busy.len() < AT_ONCE);
        [begins, self.busy.first()].into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// A peer to which a new channel is to be opened now; it counts as being opened from now on.
    pub fn begin(&mut self, now: Monotonic) -> Option<KmpPeer> {
        let (_, peer) = *self.waiting.first().filter(|(at, _)| *at <= now && self.busy.len() < AT_ONCE)?;
        self.enter(peer, Stage::Dialled, now.after(LIMIT));
        Some(peer)
    }

    /// Peers that did not answer in time. An attempt stays until it [failed](Self::failed).
    pub fn overdue(&self, now: Monotonic) -> Vec<KmpPeer> {
        self.busy.iter().take_while(|(at, _)| *at <= now).map(|(_, peer)| *peer).collect()
    }

    /// A channel to `peer`, with a TLS connection of its own, is up: [`Self::next_offer`] tells what for.
    pub fn channel_up(&mut self, peer: KmpPeer, channel: ChannelId, now: Monotonic) {
        let Some(state) = self.peers.get(&peer) else { return };
        match state.stage {
            // One that is at work ends its work.
            Stage::Offering { .. } => {}
            _ if state.due.is_empty() => self.leave(peer),
            _ => {
                let stage = Stage::Offering { channel, offers: HashMap::new() };
                self.enter(peer, stage, now.after(LIMIT));
            }
        }
    }

    /// The next session to offer keys of on the channel to `peer`, while the window has room.
    pub fn next_offer(&mut self, peer: KmpPeer) -> Option<(ChannelId, Quartet)> {
        let state = self.peers.get_mut(&peer)?;
        match &state.stage {
            Stage::Offering { channel, offers } if offers.len() < WINDOW => {
                Some((*channel, state.due.pop_first()?))
            }
            _ => None,
        }
    }

    /// Keys of the session were offered under this number.
    pub fn offered(&mut self, peer: KmpPeer, id: u32, quartet: Quartet) {
        if let Some(Stage::Offering { offers, .. }) = self.peers.get_mut(&peer).map(|peer| &mut peer.stage) {
            offers.insert(id, quartet);
        }
    }

    /// Whether we wait for an answer to an offer of the session's keys.
    pub fn is_offered(&self, peer: KmpPeer, quartet: &Quartet) -> bool {
        match self.peers.get(&peer).map(|peer| &peer.stage) {
            Some(Stage::Offering { offers, .. }) => offers.values().any(|offered| offered == quartet),
            _ => false,
        }
    }

    /// The session that offer `id` of ours on `channel` is about; `None` if it is not waited for.
    pub fn session_of(&self, peer: KmpPeer, channel: ChannelId, id: u32) -> Option<Quartet> {
        match &self.peers.get(&peer)?.stage {
            Stage::Offering { channel: ours, offers } if *ours == channel => offers.get(&id).copied(),
            _ => None,
        }
    }

    /// Offer `id` of ours is over. Its session, if it still needs keys, is not tried again for `pause`.
    pub fn answered(&mut self, peer: KmpPeer, id: u32, now: Monotonic, pause: Duration) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Stage::Offering { offers, .. } = &mut state.stage else { return };
        if let Some(tracked) = offers.remove(&id).and_then(|quartet| self.sessions.get_mut(&quartet)) {
            tracked.not_before = now.after(pause);
        }
        if state.at.is_some() {
            self.place(peer, Some(now.after(LIMIT)));
        }
    }

    /// Our offer of the session's keys, if there is one, is not waited for any more: the peer's goes on.
    pub fn overtaken(&mut self, peer: KmpPeer, quartet: &Quartet) {
        if let Some(Stage::Offering { offers, .. }) = self.peers.get_mut(&peer).map(|peer| &mut peer.stage) {
            offers.retain(|_, offered| offered != quartet);
        }
    }

    /// If nothing is left to offer to the peer and nothing waits for an answer, the attempt is over: the channel is not
    /// needed any more.
    pub fn end_if_done(&mut self, peer: KmpPeer) {
        let Some(state) = self.peers.get(&peer) else { return };
        if matches!(&state.stage, Stage::Offering { offers, .. } if offers.is_empty() && state.due.is_empty())
        {
            self.leave(peer);
        }
    }

    /// The session has new keys. `jitter` is random.
    pub fn refreshed(&mut self, quartet: &Quartet, now: Monotonic, jitter: u8) {
        let Some(tracked) = self.sessions.get_mut(quartet) else { return };
        (tracked.since, tracked.before, tracked.jitter) = (Some(now), tracked.seen.segments, jitter);
        (tracked.seen.agreed_since, tracked.asked, tracked.not_before) = (Some(now), false, Monotonic(0));
        let peer = tracked.seen.peer;
        let state = self.peers.entry(peer).or_default();
        (state.failures, state.not_before, state.failure) = (0, Monotonic(0), None);
        state.refreshed = Some(now);
        self.not_due(peer, quartet);
    }

    /// The attempt with a peer failed, for an operator: `text`. It is tried again later. `jitter` is random. Whether
    /// that is news.
    pub fn failed(&mut self, peer: KmpPeer, text: String, now: Monotonic, jitter: u8) -> bool {
        let state = self.peers.entry(peer).or_default();
        let is_news = state.failure.as_ref().is_none_or(|before| before.text != text);
        let delay = SHORTEST.saturating_mul(1 << state.failures.min(16)).min(LONGEST);
        state.failures = state.failures.saturating_add(1);
        // From three quarters to one and a quarter: many that failed together do not come back together.
        state.not_before = now.after(delay.mul_f64(0.75 + f64::from(jitter) / 512.0));
        state.failure = Some(Failure { text, at: now, attempts: state.failures, next: state.not_before });
        self.give_back(peer);
        is_news
    }

    /// The channel to a peer ended before the attempt did: another one is tried, at once. `false`: that was done more
    /// than once, and the attempt [failed](Self::failed).
    #[must_use]
    pub fn interrupted(&mut self, peer: KmpPeer, now: Monotonic) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else { return true };
        if state.failures >= TOLERATED {
            return false;
        }
        state.failures += 1;
        state.not_before = now;
        self.give_back(peer);
        true
    }

    /// A session of a peer gets no new keys, for an operator: `text`. The others may.
    pub fn note(&mut self, peer: KmpPeer, text: String, now: Monotonic) {
        let state = self.peers.entry(peer).or_default();
        let attempts = state.failure.as_ref().map_or(0, |failure| failure.attempts).saturating_add(1);
        state.failure = Some(Failure { text, at: now, attempts, next: now });
    }

    /// Whether offers to the peer are under way on `channel`.
    pub fn is_on(&self, peer: KmpPeer, channel: ChannelId) -> bool {
        let stage = self.peers.get(&peer).map(|peer| &peer.stage);
        matches!(stage, Some(Stage::Offering { channel: ours, .. }) if *ours == channel)
    }

    /// Whether a new channel to `peer` is waited for.
    pub fn is_dialled(&self, peer: KmpPeer) -> bool {
        matches!(self.peers.get(&peer).map(|peer| &peer.stage), Some(Stage::Dialled))
    }

    fn now_due(&mut self, peer: KmpPeer, quartet: Quartet) {
        if self.is_offered(peer, &quartet) {
            return;
        }
        let state = self.peers.entry(peer).or_default();
        state.due.insert(quartet);
        if matches!(state.stage, Stage::Idle) && state.at.is_none() {
            let at = state.not_before;
            self.place(peer, Some(at));
        }
    }

    fn not_due(&mut self, peer: KmpPeer, quartet: &Quartet) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.due.remove(quartet);
        if matches!(state.stage, Stage::Idle) && state.due.is_empty() {
            self.place(peer, None);
        }
    }

    fn enter(&mut self, peer: KmpPeer, stage: Stage, until: Monotonic) {
        self.place(peer, None);
        self.peers.entry(peer).or_default().stage = stage;
        self.place(peer, Some(until));
    }

    /// Ends an attempt: what was offered waits again.
    fn give_back(&mut self, peer: KmpPeer) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if let Stage::Offering { offers, .. } = &mut state.stage {
            state.due.extend(offers.drain().map(|(_, quartet)| quartet));
        }
        self.leave(peer);
    }

    fn leave(&mut self, peer: KmpPeer) {
        self.place(peer, None);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.stage = Stage::Idle;
        if !state.due.is_empty() {
            let at = state.not_before;
            self.place(peer, Some(at));
        }
    }

    /// Has the peer stand in the queue that its stage belongs in, at this time, or in none.
    fn place(&mut self, peer: KmpPeer, at: Option<Monotonic>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let queue = if matches!(state.stage, Stage::Idle) { &mut self.waiting } else { &mut self.busy };
        if let Some(before) = state.at.take() {
            queue.remove(&(before, peer));
        }
        if let Some(at) = at {
            queue.insert((at, peer));
        }
        state.at = at;
    }
}

/// Whatever is a peer of this neighbor.
fn all_of(neighbor: u32) -> std::ops::RangeInclusive<KmpPeer> {
    let all = |octet| KmpPeer { neighbor, address: [octet; 16], local: [octet; 16] };
    all(0)..=all(0xff)
}

#[cfg(test)]
mod tests;
