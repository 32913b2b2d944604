//! How channels end, and why.

use std::{collections::BTreeSet, io, sync::Arc, time::Instant};

use jiff::Timestamp;

use super::{
    super::Daemon,
    KmpPeer,
    channel::ChannelId,
    channels::{Channel, Ready, Timer},
};
use crate::{
    control::words::KmpChange,
    sessions::{self, Monotonic, our_syn_key},
};

/// How a channel ends.
pub(super) enum Ending {
    /// As it should: another one took its place, or nobody needs it.
    Planned,
    /// Why, for operators.
    Failed(String),
}

impl Daemon {
    /// Closes a channel, with what was under way on it, and has it opened again if our end is to keep it up.
    pub(super) fn close_channel(&mut self, id: ChannelId, ending: Ending) {
        let now = Instant::now();
        let Some(peer) = self.kmp.channels.channels.get(&id).map(|channel| channel.peer) else { return };
        let was_active = self.kmp.channels.active(peer) == Some(id);
        let Some(channel) = self.kmp.channels.remove(id) else { return };
        let said = match &ending {
            Ending::Failed(because) => because.clone(),
            Ending::Planned => "the channel was closed as planned".to_owned(),
        };
        if self.kmp.channels.active(peer).is_none() {
            let up = channel.ready.as_ref().map(|ready| now.saturating_duration_since(ready.since));
            let redials = (was_active || channel.is_ours) && self.is_ours_to_dial(peer);
            let channels = &mut self.kmp.channels;
            let mut before = None;
            if let Some(peering) = channels.peers.get_mut(&peer) {
                if redials {
                    channels.timers.set(Timer::Dial(peer), peering.dialer.again(now, up));
                }
                peering.ended = Some(now);
                before = peering.because.take();
                peering.because = match &ending {
                    Ending::Failed(because) => Some(because.clone()),
                    Ending::Planned => None,
                };
            }
            if let Ending::Failed(because) = &ending {
                self.tell_channel_closed(peer, &channel, because, before.as_deref());
            }
        }
        let is_old = |id| self.kmp.channels.channels.get(&id).is_some_and(|channel| channel.is_old);
        if channel.is_ours && channel.ready.is_none() && self.kmp.channels.active(peer).is_some_and(is_old) {
            // The peer does not know the key that took the old one's place yet.
            let channels = &mut self.kmp.channels;
            if let Some(peering) = channels.peers.get_mut(&peer) {
                peering.is_needed = true;
                channels.timers.set(Timer::Dial(peer), peering.dialer.again(now, None));
            }
        }
        self.on_external_channel_gone(id, peer);
        self.on_refresh_channel_gone(id, peer, &said);
    }

    /// Has other channels take the place of those with these neighbors that are authenticated by a key that is not
    /// preferred any more: whoever was in the middle of their handshakes stays there until then. What our end is opening
    /// began under such a key, too, and is opened anew.
    pub(in super::super) fn renew_channels(&mut self, numbers: &BTreeSet<u32>, now: Timestamp) {
        let is_begun = |channel: &Channel| {
            channel.is_ours && channel.ready.is_none() && numbers.contains(&channel.peer.neighbor)
        };
        let channels = self.kmp.channels.channels.iter();
        let begun: Vec<ChannelId> =
            channels.filter(|(_, channel)| is_begun(channel)).map(|(id, _)| *id).collect();
        begun.into_iter().for_each(|id| self.close_channel(id, Ending::Planned));
        let peers = self.mark_old_channels(|_, channel| numbers.contains(&channel.peer.neighbor), now);
        peers.into_iter().for_each(|peer| self.replace_old_channel(peer));
    }

    /// Takes in by which key a channel that has come up is authenticated. It may have begun before another one was
    /// preferred, or our end may have chosen the one that the peer used.
    pub(super) fn note_key_of_channel(&mut self, id: ChannelId) {
        self.mark_old_channels(|other, _| other == id, Timestamp::now());
    }

    /// Opens channels in the place of those by older keys, as soon as they would begin under another key.
    pub(in super::super) fn renew_old_channels(&mut self, now: Timestamp) {
        let channels = &self.kmp.channels;
        let old = channels.channels.iter().filter(|(id, channel)| {
            let peer = channel.peer;
            let begins_under = || {
                let chain = &self.neighbors.numbered(peer.neighbor)?.keys;
                let peer_uses = self.peer_keys.of(peer.neighbor, &peer.address);
                our_syn_key(chain, peer_uses, now).map(|key| key.number)
            };
            channel.is_old
                && channels.active(peer) == Some(**id)
                && channels.timers.at(Timer::Dial(peer)).is_none()
                && !channels.is_opening(peer)
                && begins_under().is_some_and(|next| channel.key != Some(next))
        });
        let peers: Vec<KmpPeer> = old.map(|(_, channel)| channel.peer).collect();
        peers.into_iter().for_each(|peer| self.replace_old_channel(peer));
    }

    /// Finds the channels that are authenticated by a key that is not preferred, among those that are meant; returns
    /// whose they are.
    fn mark_old_channels(
        &mut self,
        is_meant: impl Fn(ChannelId, &Channel) -> bool,
        now: Timestamp,
    ) -> BTreeSet<KmpPeer> {
        let mut peers = BTreeSet::new();
        for (id, channel) in &mut self.kmp.channels.channels {
            let Some(neighbor) = self.neighbors.numbered(channel.peer.neighbor) else { continue };
            let preferred = neighbor.keys.preferred(now).map(|key| key.number);
            if is_meant(*id, channel) && channel.key.is_some() && channel.key != preferred {
                channel.is_old = true;
                peers.insert(channel.peer);
            }
        }
        peers
    }

    /// Closes the channels that are authenticated by a key that has ended, and opens others where they are needed.
    pub(in super::super) fn end_expired_channels(&mut self, now: Timestamp) {
        let is_over = |channel: &Channel| {
            let neighbor = self.neighbors.numbered(channel.peer.neighbor);
            let key = neighbor.zip(channel.key).and_then(|(neighbor, number)| neighbor.keys.key(number));
            key.is_some_and(|key| !key.is_accepted(now))
        };
        let channels = self.kmp.channels.channels.iter();
        let over: Vec<ChannelId> =
            channels.filter(|(_, channel)| is_over(channel)).map(|(id, _)| *id).collect();
        for id in over {
            self.close_channel(id, Ending::Planned);
        }
    }

    /// Opens a channel in the place of one that is authenticated by an older key; one that nobody needs is closed.
    fn replace_old_channel(&mut self, peer: KmpPeer) {
        let now = Instant::now();
        let Some(active) = self.kmp.channels.active(peer) else { return };
        if !self.kmp.channels.channels.get(&active).is_some_and(|channel| channel.is_old) {
            return;
        }
        if self.kmp.channels.peers.get(&peer).is_some_and(|peering| peering.is_kept_up) {
            self.kmp.channels.dial(peer, now);
        } else {
            self.kmp.channels.linger(active, now);
        }
    }

    /// Why the task of a channel ended.
    pub(super) fn why_closed(&self, id: ChannelId, error: Option<&io::Error>) -> String {
        let channel = self.kmp.channels.channels.get(&id);
        if let Some(failure) = channel.and_then(|channel| channel.failure.clone()) {
            return failure;
        }
        let port = self.port_of(id);
        let Some(error) = error else {
            return match channel {
                Some(Channel { ready: Some(_), .. }) => "the peer closed it".to_owned(),
                _ => "the peer closed it during the handshake: its log or status says why".to_owned(),
            };
        };
        match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                match channel.map(|channel| sessions::address(channel.peer.local)) {
                    Some(from) => format!("our address {from} is not this host's any more"),
                    None => error.to_string(),
                }
            }
            io::ErrorKind::ConnectionRefused => format!(
                "TCP port {port} of the peer is closed: is tcpauthd running there, with us as a neighbour of the same \
                 key-management?"
            ),
            io::ErrorKind::TimedOut => format!(
                "the peer does not answer on TCP port {port}: is it down, tcpauthd not running there, its password another than ours, or the port filtered?"
            ),
            _ => format!("its TCP connection to port {port} failed: {error}"),
        }
    }

    /// Why it is time to close a channel.
    pub(super) fn why_due(&self, id: ChannelId) -> Ending {
        let Some(channel) = self.kmp.channels.channels.get(&id) else { return Ending::Planned };
        let port = self.port_of(id);
        Ending::Failed(match (&channel.failure, &channel.ready, &channel.exchange) {
            (Some(failure), ..) => failure.clone(),
            (None, Some(_), _) => return Ending::Planned,
            (None, None, None) => format!(
                "the peer does not answer on TCP port {port}: is it down, tcpauthd not running there, its password another than ours, or the port filtered?"
            ),
            (None, None, Some(_)) => {
                "the TLS handshake was not over in time: the peer answers TCP, and then no more".to_owned()
            }
        })
    }

    fn port_of(&self, id: ChannelId) -> u16 {
        let channel = self.kmp.channels.channels.get(&id);
        let neighbor = channel.and_then(|channel| self.neighbors.numbered(channel.peer.neighbor));
        neighbor.and_then(|neighbor| neighbor.kmp.as_ref()).map_or(0, |kmp| kmp.port)
    }

    /// Tells that a channel is up.
    pub(super) fn tell_channel_up(&mut self, peer: KmpPeer, ready: &Ready) {
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return };
        tracing::info!(neighbor = %neighbor.peer, peer = ready.tls.peer, "channel for keys is up: {} with {}", ready.tls.version, ready.tls.suite);
        self.kmp.known.succeeded(peer.neighbor, ready.tls.clone(), Arc::clone(&ready.peer));
        let text = format!("channel for keys, {} with {}", ready.tls.version, ready.tls.suite);
        self.tell_kmp(peer.neighbor, KmpChange::Up, text);
    }

    fn tell_channel_closed(&mut self, peer: KmpPeer, channel: &Channel, because: &str, before: Option<&str>) {
        let (now, clock) = (Instant::now(), Monotonic::now());
        let due = self.kmp.channels.timers.at(Timer::Dial(peer));
        let next = due.map(|due| Monotonic(clock.0 + due.saturating_duration_since(now).as_nanos() as u64));
        if channel.ready.is_some() {
            self.tell_kmp(peer.neighbor, KmpChange::Down, format!("channel for keys: {because}"));
        } else if self.kmp.known.failed(peer.neighbor, because, clock, next) == 1 {
            self.tell_kmp(peer.neighbor, KmpChange::Failed, format!("channel for keys: {because}"));
        }
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return };
        if before == Some(because) {
            tracing::debug!(neighbor = %neighbor.peer, "channel for keys: {because}");
        } else if channel.ready.is_some() {
            tracing::warn!(neighbor = %neighbor.peer, "channel for keys is gone: {because}");
        } else {
            tracing::warn!(neighbor = %neighbor.peer, "channel for keys cannot be opened: {because}");
        }
    }
}
