//! The channels to neighbours' daemons: which there are, how each stands, and what is asked on it.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    KmpPeer,
    channel::{ChannelEvent, ChannelId, Device, Gate, Line, Listener},
    dial::{AT_ONCE, Dialer, Rival, replaces},
    state::ChannelState,
    timers::Timers,
};
use crate::kmp::{Capabilities, Connection, Exchange, tls};

/// For TCP, TLS and the first messages together.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Channels that one peer opened and whose handshake is not over.
const MAX_HANDSHAKES: usize = 8;
/// Other channels with one peer. Each that is replaced [lingers](LINGER): so many a peer can have in that time.
const MAX_OF_PEER: usize = 32;
/// A channel that another one replaced is left for what is under way on it.
const LINGER: Duration = Duration::from_secs(5);
/// A channel that is not to be there all the time is closed by the end that opened it, so long after it was last asked
/// for.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a peer is remembered after its last channel ended, or after a connection last used our address of it.
const REMEMBER: Duration = Duration::from_secs(600);

/// All channels.
pub(in super::super) struct Channels {
    pub(super) peers: BTreeMap<KmpPeer, Peering>,
    pub(super) channels: HashMap<ChannelId, Channel>,
    pub(super) listeners: BTreeMap<(SocketAddr, Option<Device>), Result<Listener, String>>,
    pub(super) admitted: Gate,
    pub(super) timers: Timers<Timer>,
    pub(super) next: u64,
    pub(super) events: mpsc::Sender<ChannelEvent>,
}

/// Between two times that the log says that connections with a peer have no agreed keys.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Timer {
    /// To open a channel to this peer.
    Dial(KmpPeer),
    /// To close this channel.
    Close(ChannelId),
    /// To try again to listen.
    Listen,
}

/// What there is about one peer.
#[derive(Default)]
pub(super) struct Peering {
    pub(super) dialer: Dialer,
    /// The channel on which keys are agreed.
    pub(super) active: Option<ChannelId>,
    /// All channels with it.
    pub(super) channels: Vec<ChannelId>,
    /// A channel is to be there all the time.
    pub(super) is_kept_up: bool,
    /// Keys are needed now, or new TLS is: to be opened whoever is to keep it up.
    pub(super) is_needed: bool,
    /// A connection could not wait for a channel, and there has been none since.
    pub(super) is_hopeless: bool,
    /// When it was last logged that connections have no agreed keys.
    pub(super) told: Option<Instant>,
    /// When a connection last had our address of it. `None`: it is what routing says, until a connection shows another.
    pub(super) shown: Option<Instant>,
    /// Our address of it is not this host's any more.
    pub(super) is_gone: bool,
    /// Unfinished handshakes that made room for newer ones.
    pub(super) crowded_out: u64,
    /// Why the last channel failed or ended.
    pub(super) because: Option<String>,
    /// When the last channel ended.
    pub(super) ended: Option<Instant>,
}

/// One channel. Holds secrets: no `Debug`.
pub(super) struct Channel {
    pub(super) peer: KmpPeer,
    /// Whether our end opened it.
    pub(super) is_ours: bool,
    pub(super) began: Instant,
    /// Whether the end with the lower address opened it.
    pub(super) by_lower: bool,
    pub(super) line: Line,
    /// Whether the peer said anything.
    pub(super) is_heard: bool,
    /// The number of the key of the chain that it is authenticated by.
    pub(super) key: Option<u32>,
    /// Another key is preferred since.
    pub(super) is_old: bool,
    /// Once TCP is there.
    pub(super) exchange: Option<Exchange>,
    pub(super) ready: Option<Ready>,
    /// What ended it.
    pub(super) failure: Option<String>,
    /// Offers under way, ours by number, then the peer's.
    pub(super) ours: BTreeMap<u32, Connection>,
    pub(super) theirs: BTreeMap<u32, Connection>,
}

#[derive(Clone)]
pub(super) struct Ready {
    pub(super) since: Instant,
    pub(super) tls: tls::Summary,
    pub(super) peer: Arc<Capabilities>,
}

impl Channels {
    /// None yet.
    pub fn new(events: mpsc::Sender<ChannelEvent>) -> Self {
        Self {
            peers: BTreeMap::new(),
            channels: HashMap::new(),
            listeners: BTreeMap::new(),
            admitted: Gate::default(),
            timers: Timers::default(),
            next: 1,
            events,
        }
    }

    /// When there is something to do.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.next_due()
    }

    /// The channel to `peer` on which keys can be agreed now.
    pub fn active(&self, peer: KmpPeer) -> Option<ChannelId> {
        self.peers.get(&peer)?.active
    }

    /// What the daemon of `peer` can do, as it said last.
    pub fn capabilities(&self, peer: KmpPeer) -> Option<&Arc<Capabilities>> {
        let channel = self.channels.get(&self.active(peer)?)?;
        channel.ready.as_ref().map(|ready| &ready.peer)
    }

    /// How the channel to `peer` stands.
    pub fn state(&self, peer: KmpPeer) -> ChannelState {
        let Some(peering) = self.peers.get(&peer) else { return ChannelState::Idle { because: None } };
        let active = peering.active.and_then(|id| self.channels.get(&id));
        if let Some(Channel { ready: Some(Ready { since, tls, .. }), key, .. }) = active {
            return ChannelState::Up { since: *since, tls: tls.clone(), key: *key };
        }
        let because = peering.because.clone();
        let begun = peering.channels.iter().filter_map(|id| self.channels.get(id));
        match begun.max_by_key(|channel| (channel.exchange.is_some(), channel.began)) {
            Some(channel) if channel.exchange.is_some() => {
                return ChannelState::Handshaking { since: channel.began };
            }
            Some(channel) => return ChannelState::Connecting { since: channel.began, because },
            None => {}
        }
        match (self.timers.at(Timer::Dial(peer)), because) {
            (Some(until), Some(because)) => ChannelState::Waiting { until, because },
            (Some(since), None) => ChannelState::Connecting { since, because: None },
            (None, because) if peering.is_kept_up => ChannelState::Awaited { because },
            (None, because) => ChannelState::Idle { because },
        }
    }

    /// How the channels to all peers of a neighbour stand; of those with an address of ours that no connection has shown
    /// only if there are no others.
    pub fn states(&self, neighbor: u32) -> Vec<ChannelState> {
        let is_any_shown = self.of_neighbor(neighbor).any(|(_, peering)| peering.shown.is_some());
        let told = self.of_neighbor(neighbor).filter(|(_, peering)| peering.shown.is_some() || !is_any_shown);
        told.map(|(peer, _)| self.state(peer)).collect()
    }

    /// Whether a channel to `peer` is on its way.
    pub fn is_opening(&self, peer: KmpPeer) -> bool {
        let channels = self.peers.get(&peer).map_or(&[][..], |peering| &peering.channels);
        channels.iter().any(|id| self.channels.get(id).is_some_and(|channel| channel.ready.is_none()))
    }

    /// Opens a channel to `peer` beside the one that may be there, as soon as that is not too often.
    pub fn dial(&mut self, peer: KmpPeer, now: Instant) {
        let peering = self.peers.entry(peer).or_default();
        peering.is_needed = true;
        // One that we open just after the peer opened one does not take its place.
        let active = peering.active.and_then(|active| self.channels.get(&active));
        let rival = active.filter(|active| active.by_lower && !active.is_ours);
        let at = peering.dialer.at_once(now).max(rival.map_or(now, |rival| rival.began + AT_ONCE * 5 / 4));
        if self.timers.at(Timer::Dial(peer)).is_none_or(|other| at < other) {
            self.timers.set(Timer::Dial(peer), at);
        }
    }

    /// Whether what fails between us and `peer` has not been logged for a while: then it is, and counts as logged.
    pub fn is_news(&mut self, peer: KmpPeer, now: Instant) -> bool {
        let peering = self.peers.entry(peer).or_default();
        let is_news = peering.told.is_none_or(|told| TELL_AGAIN <= now.saturating_duration_since(told));
        if is_news {
            peering.told = Some(now);
        }
        is_news
    }

    /// Takes in that a connection could not wait for a channel to `peer`.
    pub fn give_up(&mut self, peer: KmpPeer) {
        let peering = self.peers.entry(peer).or_default();
        peering.is_hopeless = peering.active.is_none();
    }

    /// Whether a connection could not wait for a channel to `peer`, and there has been none since.
    pub fn is_hopeless(&self, peer: KmpPeer) -> bool {
        self.peers.get(&peer).is_some_and(|peering| peering.is_hopeless)
    }

    /// Takes in that a connection with `peer` has our address of it.
    pub fn show(&mut self, peer: KmpPeer, now: Instant) {
        self.peers.entry(peer).or_default().shown = Some(now);
    }

    /// Takes in that our address of a channel that was to be opened is not this host's any more. It is not tried again
    /// until interfaces or addresses change.
    pub(super) fn lose_address(&mut self, id: ChannelId) -> Option<KmpPeer> {
        let peer = self.channels.get(&id)?.peer;
        self.peers.get_mut(&peer)?.is_gone = true;
        Some(peer)
    }

    /// The peers of a neighbor, and what there is about each.
    pub(super) fn of_neighbor(&self, neighbor: u32) -> impl Iterator<Item = (KmpPeer, &Peering)> {
        let at = |octet| KmpPeer { neighbor, address: [octet; 16], local: [octet; 16] };
        self.peers.range(at(0)..=at(0xff)).map(|(peer, it)| (*peer, it))
    }

    /// Makes room for one more channel that the peer opens. `false`: it has too many.
    ///
    /// Whoever can use the peer's network stack can open connections that are signed as the peer's, and say nothing on
    /// them. So an unfinished handshake keeps no other one out: the oldest makes room, of those first on which nothing
    /// was said.
    #[must_use]
    pub(super) fn make_room(&mut self, peer: KmpPeer) -> bool {
        let ids = self.peers.get(&peer).map_or(&[][..], |peering| &peering.channels);
        let channels = ids.iter().filter_map(|id| Some((*id, self.channels.get(id)?)));
        let (handshakes, others): (Vec<_>, Vec<_>) =
            channels.partition(|(_, channel)| !channel.is_ours && channel.ready.is_none());
        if MAX_OF_PEER <= others.len() {
            return false;
        }
        if handshakes.len() < MAX_HANDSHAKES {
            return true;
        }
        let oldest = handshakes.iter().min_by_key(|(id, channel)| (channel.is_heard, channel.began, *id));
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.remove(id);
            self.peers.entry(peer).or_default().crowded_out += 1;
        }
        true
    }

    /// Unfinished handshakes of a neighbor's peers that made room for newer ones.
    pub fn crowded_out(&self, neighbor: u32) -> u64 {
        self.of_neighbor(neighbor).map(|(_, peering)| peering.crowded_out).sum()
    }

    /// Returns the peers to forget, all of them without channels: those that need no permanent channel and whose last one
    /// ended long ago, and those whose address of ours no connection has used for long, while another peer of the
    /// neighbor has a channel. `is_used` says whether a connection uses a peer's address of ours now.
    pub(super) fn over(&self, is_used: impl Fn(KmpPeer) -> bool, now: Instant) -> Vec<KmpPeer> {
        let is_long_ago = |moment: Instant| REMEMBER <= now.saturating_duration_since(moment);
        let has_another = |peer: KmpPeer| {
            self.of_neighbor(peer.neighbor).any(|(other, peering)| other != peer && peering.active.is_some())
        };
        let is_over = |peer: KmpPeer, peering: &Peering| match peering.is_kept_up {
            true => peering.shown.is_none_or(is_long_ago) && has_another(peer) && !is_used(peer),
            false => peering.ended.is_none_or(is_long_ago) && self.timers.at(Timer::Dial(peer)).is_none(),
        };
        let over = self.peers.iter().filter(|(peer, it)| it.channels.is_empty() && is_over(**peer, it));
        over.map(|(peer, _)| *peer).collect()
    }

    /// Forgets a peer without channels.
    pub(super) fn forget(&mut self, peer: KmpPeer) {
        self.peers.remove(&peer);
        self.timers.clear(Timer::Dial(peer));
    }

    /// A channel begins, over what `line` makes.
    pub(super) fn begin(
        &mut self,
        peer: KmpPeer,
        is_ours: bool,
        by_lower: bool,
        now: Instant,
        line: impl FnOnce(ChannelId, mpsc::Sender<ChannelEvent>) -> Line,
    ) -> ChannelId {
        let id = ChannelId(self.next);
        self.next += 1;
        let channel = Channel {
            peer,
            is_ours,
            began: now,
            by_lower,
            line: line(id, self.events.clone()),
            is_heard: false,
            key: None,
            is_old: false,
            exchange: None,
            ready: None,
            failure: None,
            ours: BTreeMap::new(),
            theirs: BTreeMap::new(),
        };
        self.channels.insert(id, channel);
        self.peers.entry(peer).or_default().channels.push(id);
        self.timers.set(Timer::Close(id), now + HANDSHAKE_LIMIT);
        id
    }

    /// The handshake of a channel is over. Whether keys are agreed on it from now on: there may be a better one.
    pub(super) fn ready(&mut self, id: ChannelId, ready: Ready, now: Instant) -> bool {
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        channel.ready = Some(ready);
        let (peer, new) = (channel.peer, channel.rival());
        let Some(peering) = self.peers.get_mut(&peer) else { return false };
        self.timers.clear(Timer::Dial(peer));
        peering.is_needed = false;
        peering.is_hopeless = false;
        // The peer's daemon knows us by it.
        peering.shown.get_or_insert(now);
        peering.told = None;
        peering.because = None;
        let old = peering.active.and_then(|old| Some((old, self.channels.get(&old)?.rival())));
        match old {
            Some((_, old)) if !replaces(new, old) => {
                self.timers.set(Timer::Close(id), now + LINGER);
                false
            }
            old => {
                peering.active = Some(id);
                if let Some((old, _)) = old {
                    self.timers.set(Timer::Close(old), now + LINGER);
                }
                self.postpone_idle(id);
                true
            }
        }
    }

    /// The active channel was asked for something: it stays, or stays for a while.
    pub(super) fn postpone_idle(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(&id) else { return };
        let peering = self.peers.get(&channel.peer).filter(|peering| peering.active == Some(id));
        let Some(peering) = peering else { return };
        if peering.is_kept_up || !channel.is_ours {
            self.timers.clear(Timer::Close(id));
        } else {
            self.timers.set(Timer::Close(id), Instant::now() + IDLE_LIMIT);
        }
    }

    /// Closes a channel within seconds, because nothing needs it any more. Further calls do not delay that.
    pub(super) fn linger(&mut self, id: ChannelId, now: Instant) {
        let at = now + LINGER;
        if self.timers.at(Timer::Close(id)).is_none_or(|due| at < due) {
            self.timers.set(Timer::Close(id), at);
        }
    }

    /// Forgets a channel, and closes it once what was sent is written.
    pub(super) fn remove(&mut self, id: ChannelId) -> Option<Channel> {
        let channel = self.channels.remove(&id)?;
        self.timers.clear(Timer::Close(id));
        if let Some(peering) = self.peers.get_mut(&channel.peer) {
            peering.channels.retain(|other| *other != id);
            if peering.active == Some(id) {
                let ready = |other: &&ChannelId| {
                    self.channels.get(other).is_some_and(|channel| channel.ready.is_some())
                };
                // One that had been replaced does again what it did.
                peering.active = peering.channels.iter().rev().find(ready).copied();
                if let Some(active) = peering.active {
                    self.postpone_idle(active);
                }
            }
        }
        Some(channel)
    }

    /// Has a channel closed as soon as the main loop comes to it.
    pub(super) fn fail(&mut self, id: ChannelId, because: String) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.failure.get_or_insert(because);
            self.timers.set(Timer::Close(id), Instant::now());
        }
    }
}

impl Channel {
    fn rival(&self) -> Rival {
        Rival { began: self.began, by_lower: self.by_lower }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: KmpPeer = KmpPeer { neighbor: 1, address: [1; 16], local: [3; 16] };
    /// The same peer, reached from another of our addresses.
    const OTHER: KmpPeer = KmpPeer { local: [4; 16], ..PEER };

    fn ready() -> Ready {
        let tls = tls::Summary { version: String::new(), suite: String::new(), peer: String::new() };
        Ready { since: Instant::now(), tls, peer: Capabilities::ours(&[], Duration::ZERO).into() }
    }

    fn none() -> Channels {
        Channels::new(mpsc::channel(1000).0)
    }

    /// Begins a channel to a port that is closed.
    fn begin(channels: &mut Channels, peer: KmpPeer, is_ours: bool, now: Instant) -> ChannelId {
        let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        channels.begin(peer, is_ours, true, now, |id, events| Line::dial(id, None, closed, None, events))
    }

    /// Opens a channel from our end and completes its handshake.
    fn open(channels: &mut Channels, peer: KmpPeer, now: Instant) -> ChannelId {
        let id = begin(channels, peer, true, now);
        channels.ready(id, ready(), now);
        id
    }

    #[tokio::test]
    async fn a_peer_is_forgotten_long_after_a_connection_had_our_address() {
        let (mut channels, now) = (none(), Instant::now());
        for peer in [PEER, OTHER] {
            channels.show(peer, now);
            channels.peers.entry(peer).or_default().is_kept_up = true;
        }
        open(&mut channels, OTHER, now);
        // It is dialed again and again, because it is kept up and does not answer.
        channels.timers.set(Timer::Dial(PEER), now);
        channels.peers.entry(PEER).or_default().ended = Some(now + REMEMBER);
        assert_eq!(channels.over(|_| false, now + REMEMBER / 2), []);
        assert_eq!(channels.over(|peer| peer == PEER, now + REMEMBER), [], "a connection has it");
        assert_eq!(channels.over(|_| false, now + REMEMBER), [PEER]);
        channels.forget(PEER);
        assert!(channels.timers.at(Timer::Dial(PEER)).is_none());
        assert_eq!(channels.over(|_| false, now + REMEMBER), [], "the other one has a channel");
    }

    #[tokio::test]
    async fn a_peer_with_no_other_address_is_not_forgotten() {
        let (mut channels, now) = (none(), Instant::now());
        channels.show(PEER, now);
        channels.peers.entry(PEER).or_default().is_kept_up = true;
        assert_eq!(channels.over(|_| false, now + REMEMBER), []);
        let other_neighbor = KmpPeer { neighbor: 2, ..PEER };
        open(&mut channels, other_neighbor, now);
        assert_eq!(channels.over(|_| false, now + REMEMBER), []);
    }

    #[tokio::test]
    async fn a_channel_that_is_to_end_is_not_put_off() {
        let (mut channels, now) = (none(), Instant::now());
        let id = open(&mut channels, PEER, now);
        assert!(now + LINGER < channels.timers.at(Timer::Close(id)).unwrap());
        for seconds in 0..3 {
            channels.linger(id, now + Duration::from_secs(seconds));
        }
        assert_eq!(channels.timers.at(Timer::Close(id)), Some(now + LINGER));
    }

    #[tokio::test]
    async fn a_peer_opens_so_many_channels_however_fast_their_handshakes_are() {
        let (mut channels, now) = (none(), Instant::now());
        let begin = |channels: &mut Channels| begin(channels, PEER, false, now);
        let ids: Vec<ChannelId> = (0..MAX_HANDSHAKES)
            .map(|_| {
                assert!(channels.make_room(PEER));
                begin(&mut channels)
            })
            .collect();
        channels.channels.get_mut(&ids[0]).unwrap().is_heard = true;
        assert!(channels.make_room(PEER));
        let newest = begin(&mut channels);
        let is_there = |channels: &Channels, id| channels.channels.contains_key(&id);
        assert!(!is_there(&channels, ids[1]), "the oldest of those that say nothing makes room");
        assert!(is_there(&channels, ids[0]) && is_there(&channels, ids[2]) && is_there(&channels, newest));
        assert_eq!((channels.crowded_out(PEER.neighbor), channels.crowded_out(2)), (1, 0));
        let waiting: Vec<ChannelId> = channels.channels.keys().copied().collect();
        for id in &waiting {
            channels.ready(*id, ready(), now);
        }
        for _ in MAX_HANDSHAKES..MAX_OF_PEER {
            assert!(channels.make_room(PEER));
            let id = begin(&mut channels);
            channels.ready(id, ready(), now);
        }
        assert!(!channels.make_room(PEER), "all are up");
        channels.remove(waiting[0]);
        assert!(channels.make_room(PEER) && channels.make_room(KmpPeer { neighbor: 2, ..PEER }));
    }
}
