//! How channels end, and why.

use std::{io, sync::Arc, time::Instant};

use super::{
    super::Daemon,
    KmpPeer,
    channel::ChannelId,
    channels::{Channel, Ready, Timer},
};
use crate::sessions::Monotonic;

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
        self.on_external_channel_gone(id, peer);
        self.on_refresh_channel_gone(id, peer, &said);
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
        self.tell_kmp(peer.neighbor, "up", text);
    }

    fn tell_channel_closed(&mut self, peer: KmpPeer, channel: &Channel, because: &str, before: Option<&str>) {
        let (now, clock) = (Instant::now(), Monotonic::now());
        let due = self.kmp.channels.timers.at(Timer::Dial(peer));
        let next = due.map(|due| Monotonic(clock.0 + due.saturating_duration_since(now).as_nanos() as u64));
        if channel.ready.is_some() {
            self.tell_kmp(peer.neighbor, "down", format!("channel for keys: {because}"));
        } else if self.kmp.known.failed(peer.neighbor, because, clock, next) == 1 {
            self.tell_kmp(peer.neighbor, "failed", format!("channel for keys: {because}"));
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
