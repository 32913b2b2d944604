//! What happens on channels, and what comes of it.

use std::{io, net::SocketAddr, time::Instant};

use tcpauth_common::layout::{Quartet, Session};
use tokio::net::TcpStream;

use super::{
    super::Daemon,
    KmpPeer,
    channel::{ChannelEvent, ChannelId, Line},
    channels::Ready,
    dial::dials,
    ending::Ending,
};
use crate::{
    config::{Authentication, Kmp, Neighbor},
    kernel::mapped,
    keys::TcpOptions,
    kmp::{Capabilities, Connection, Endpoint, Event, Exchange, Psk, Side},
    sessions::{self, begun_with},
};

impl Daemon {
    /// Takes in what the tasks of channels tell.
    pub(in super::super) fn on_channel_event(&mut self, event: ChannelEvent) {
        match event {
            ChannelEvent::Accepted(stream) => self.on_accepted(stream),
            ChannelEvent::Connected(id, local, peer) => self.on_connected(id, local, peer),
            ChannelEvent::Received(id, octets) => self.on_received(id, &octets),
            ChannelEvent::Closed(id, error) => {
                let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::AddrNotAvailable;
                let gone = error
                    .as_ref()
                    .filter(|error| is_gone(error))
                    .and_then(|_| self.kmp.channels.lose_address(id));
                let because = self.why_closed(id, error.as_ref());
                self.close_channel(id, Ending::Failed(because));
                if let Some(peer) = gone {
                    // Perhaps another one takes its place.
                    self.keep_peers_of(peer.neighbor);
                    self.keep_channels_up();
                }
            }
        }
    }

    /// Somebody connected to the port of some neighbours. Nothing is read of one who is none of them, or whose
    /// segments carry no MAC.
    fn on_accepted(&mut self, stream: TcpStream) {
        let (Ok(local), Ok(peer_end)) = (stream.local_addr(), stream.peer_addr()) else { return };
        let Some((number, quartet, session)) = self.carrier(local, peer_end) else {
            tracing::debug!(%local, peer = %peer_end, "a connection for key management came from no neighbour");
            return;
        };
        let peer = KmpPeer::of(number, &quartet);
        let channels = &mut self.kmp.channels;
        let before = channels.crowded_out(number);
        if !channels.make_room(peer) {
            tracing::debug!(peer = %peer_end, "too many connections for key management at once");
            return;
        }
        if before == 0 && channels.crowded_out(number) > 0 {
            tracing::warn!(
                peer = %peer_end.ip(),
                "the oldest of many unfinished handshakes on the port for key management makes room for the newest: \
                 does somebody on the peer, who is not its tcpauthd, connect to it? `tcpauth status` counts them"
            );
        }
        let by_lower = dials(peer_end.ip(), local.ip());
        let line = |id, events| Line::accepted(id, stream, events);
        let id = channels.begin(peer, false, by_lower, Instant::now(), line);
        // The peer's daemon knows us by this address.
        self.show_peer(peer);
        self.begin_tls(id, Side::Server, number, &quartet, &session);
    }

    /// The TCP connection that we opened is there.
    fn on_connected(&mut self, id: ChannelId, local: SocketAddr, peer_end: SocketAddr) {
        let Some(channel) = self.kmp.channels.channels.get_mut(&id) else { return };
        channel.by_lower = dials(local.ip(), peer_end.ip());
        let number = channel.peer.neighbor;
        match self.carrier(local, peer_end).filter(|(owner, ..)| *owner == number) {
            Some((_, quartet, session)) => self.begin_tls(id, Side::Client, number, &quartet, &session),
            None => self.close_channel(
                id,
                Ending::Failed(format!("our connection from {local} to {peer_end} is not protected: see the interfaces in `tcpauth status`")),
            ),
        }
    }

    fn begin_tls(&mut self, id: ChannelId, side: Side, number: u32, quartet: &Quartet, session: &Session) {
        let Some(neighbor) = self.neighbors.numbered(number) else { return };
        let Some(kmp) = &neighbor.kmp else { return };
        let key = begun_with(session, quartet, neighbor).map(|key| key.number);
        let Some((psk, options)) = psk(kmp, quartet, session, neighbor) else {
            let because = "the key that its TCP connection began with is gone";
            self.close_channel(id, Ending::Failed(because.to_owned()));
            return;
        };
        let exchange = Endpoint::new(side, &kmp.tls, &psk).map(|endpoint| {
            Exchange::new(endpoint, Capabilities::ours(&kmp.algorithms, kmp.rekey_interval))
                .with_tcp_options(options)
        });
        match exchange {
            Ok(exchange) => {
                if let Some(channel) = self.kmp.channels.channels.get_mut(&id) {
                    channel.exchange = Some(exchange);
                    channel.key = key;
                }
                // Its first octets, if it is the client.
                let _ = self.kmp.channels.say(id, |_| Ok(()));
            }
            Err(error) => self.close_channel(id, Ending::Failed(error.to_string())),
        }
    }

    fn on_received(&mut self, id: ChannelId, octets: &[u8]) {
        if let Some(channel) = self.kmp.channels.channels.get_mut(&id) {
            channel.is_heard = true;
        }
        let received = self.kmp.channels.say(id, |exchange| exchange.receive(octets));
        while let Some((peer, event)) = self.kmp.channels.next_event(id) {
            self.on_exchange_event(id, peer, event);
        }
        if received.is_err() {
            // It says why itself, when it is closed.
            self.on_channels_time(Instant::now());
        }
    }

    /// Gives what happened on a channel to whoever it is for.
    fn on_exchange_event(&mut self, id: ChannelId, peer: KmpPeer, event: Event) {
        match event {
            Event::Ready { peer: capabilities, tls } => {
                let ready = Ready { since: Instant::now(), tls, peer: capabilities };
                self.tell_channel_up(peer, &ready);
                self.note_key_of_channel(id);
                if self.kmp.channels.ready(id, ready, Instant::now()) {
                    self.on_external_channel(id, peer);
                }
                // Also if another one stays: its TLS is new, and it lasts long enough.
                self.on_refresh_channel(id, peer);
            }
            Event::Offered { id: offer, connection, role } => {
                self.kmp.channels.take_in_offer(id, offer, connection);
                match connection.server_isn {
                    None => self.on_external_offered(id, peer, offer, connection, role),
                    Some(_) => self.on_refresh_offered(id, peer, offer, connection, role),
                }
            }
            Event::Accepted { id: offer, agreed } => match agreed.connection.server_isn {
                None => self.on_external_accepted(id, peer, offer, agreed),
                Some(_) => self.on_refresh_accepted(id, peer, offer, agreed),
            },
            Event::Confirmed { id: offer } => match self.kmp.channels.end_of_theirs(id, offer) {
                // The session comes by itself, with the SYN.
                Some(Connection { server_isn: None, .. }) => drop(self.kmp.channels.done(id, offer)),
                Some(_) => self.on_refresh_confirmed(id, peer, offer),
                None => {}
            },
            Event::Done { id: offer } => {
                if let Some(Connection { server_isn: Some(_), .. }) = self.kmp.channels.end_of_ours(id, offer)
                {
                    self.on_refresh_done(id, peer, offer);
                }
            }
            Event::Refused { id: offer, reason } => match self.kmp.channels.end_of_ours(id, offer) {
                Some(Connection { server_isn: None, .. }) => {
                    self.on_external_refused(id, peer, offer, reason)
                }
                Some(_) => self.on_refresh_refused(id, peer, offer, reason),
                None => {}
            },
        }
    }

    /// The session of a channel's own connection, and whose it is. `None`: it is no neighbour's, or not protected.
    fn carrier(&self, local: SocketAddr, peer: SocketAddr) -> Option<(u32, Quartet, Session)> {
        let index_of = |name: &str| self.interfaces.bound(name);
        let (local_address, peer_address) = (mapped(local.ip()), mapped(peer.ip()));
        self.neighbors.having(peer_address).find_map(|(number, neighbor)| {
            let scope = neighbor.peer.interface.as_deref().map_or(Some(0), index_of)?;
            let quartet = Quartet {
                local: local_address,
                peer: peer_address,
                local_port: local.port(),
                peer_port: peer.port(),
                scope,
            };
            neighbor.kmp.as_ref().filter(|kmp| [local.port(), peer.port()].contains(&kmp.port))?;
            let session = self.dataplane.session(&quartet).ok().flatten()?;
            let owner = self.neighbors.owner(&quartet, &index_of)?;
            (owner.number == number && session.neighbor == number).then_some((number, quartet, session))
        })
    }
}

/// The secret of a channel, which is the one that its own TCP connection began under, and who the ends are; and what
/// that key covers of TCP options.
pub(super) fn psk(
    kmp: &Kmp,
    quartet: &Quartet,
    session: &Session,
    neighbor: &Neighbor,
) -> Option<(Psk, TcpOptions)> {
    let key = begun_with(session, quartet, neighbor)?;
    let (identity, peer_identity) = match &kmp.tls.authentication {
        Authentication::Psk { identity, peer_identity, .. } => (identity.clone(), peer_identity.clone()),
        Authentication::RawPublicKey { .. } => (None, None),
    };
    let text = |address| sessions::address(address).to_string();
    let psk = Psk {
        identity: identity.unwrap_or_else(|| text(quartet.local)),
        peer_identity: peer_identity.unwrap_or_else(|| text(quartet.peer)),
        secret: key.mkt.master_key.clone(),
    };
    Some((psk, key.mkt.tcp_options))
}
