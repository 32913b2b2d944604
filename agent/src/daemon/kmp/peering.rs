//! What happens on channels, and what comes of it.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{setsockopt, sockopt},
};
use tcpauth_common::layout::{Quartet, Session};
use tokio::net::TcpStream;

use super::{
    super::Daemon,
    KmpPeer,
    channel::{ChannelEvent, ChannelId, Line, Listener, address},
    channels::{Channel, Ready, Timer},
    dial::dials,
};
use crate::{
    config::{Authentication, KeyManagement, Kmp, Neighbor},
    kernel::mapped,
    keys::TcpOptions,
    kmp::{Capabilities, Connection, Endpoint, Event, Exchange, Psk, Side},
    sessions::{self, Monotonic, begun_with},
};

/// Channels that one peer opened and whose handshake is not over.
const MAX_HANDSHAKES: usize = 4;
/// A channel that nobody keeps up is closed after this.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts to listen on a port that is taken.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
/// First attempts are spread: a thousand handshakes at once would make each of them late.
const SPREAD: Duration = Duration::from_millis(2);

impl Daemon {
    /// Takes in what the tasks of channels tell.
    pub(in super::super) fn on_channel_event(&mut self, event: ChannelEvent) {
        match event {
            ChannelEvent::Accepted(stream) => self.on_accepted(stream),
            ChannelEvent::Connected(id, local, peer) => self.on_connected(id, local, peer),
            ChannelEvent::Received(id, octets) => self.on_received(id, &octets),
            ChannelEvent::Closed(id, error) => {
                let because = self.why_closed(id, error.as_ref());
                self.close_channel(id, because);
            }
        }
    }

    /// Opens and closes the channels that are due.
    pub(super) fn on_channels_time(&mut self, now: Instant) {
        while let Some(due) = self.kmp.channels.timers.take_due(now) {
            match due {
                Timer::Dial(peer) => self.dial(peer, now),
                Timer::Close(id) => {
                    let because = self.why_timed_out(id);
                    self.close_channel(id, because);
                }
                Timer::Listen => self.listen(),
            }
        }
    }

    /// Brings channels to the running configuration: those of `changed` neighbours, or of some that are gone, are closed,
    /// and opened again if they are to be.
    pub(in super::super) fn follow_channels(&mut self, changed: &dyn Fn(u32) -> bool) {
        let now = Instant::now();
        self.listen();
        let is_wanted = |peer: &KmpPeer| {
            let neighbor = self.neighbors.numbered(peer.neighbor);
            neighbor.is_some_and(|neighbor| neighbor.kmp.is_some()) && !changed(peer.neighbor)
        };
        let unwanted: Vec<KmpPeer> =
            self.kmp.channels.peers.keys().filter(|peer| !is_wanted(peer)).copied().collect();
        for peer in unwanted {
            let channels = self.kmp.channels.peers.get(&peer).map(|peering| peering.channels.clone());
            for id in channels.into_iter().flatten() {
                self.close_channel(id, "our configuration changed".to_owned());
            }
            self.kmp.channels.peers.remove(&peer);
            self.kmp.channels.timers.clear(Timer::Dial(peer));
        }
        let kept = self.neighbors.iter().filter(|(_, neighbor)| is_kept_up(neighbor));
        let kept: Vec<KmpPeer> = kept
            .map(|(number, neighbor)| KmpPeer { neighbor: number, address: mapped(neighbor.peer.address) })
            .filter(|peer| !self.kmp.channels.peers.contains_key(peer))
            .collect();
        for (order, peer) in kept.into_iter().enumerate() {
            self.kmp.channels.peers.entry(peer).or_default();
            if self.is_ours_to_dial(peer) {
                self.kmp.channels.timers.set(Timer::Dial(peer), now + SPREAD * (order as u32).min(1000));
            }
        }
    }

    /// Closes a channel, with what was under way on it.
    fn close_channel(&mut self, id: ChannelId, because: String) {
        let now = Instant::now();
        let was_active = |daemon: &Self, peer| daemon.kmp.channels.active(peer) == Some(id);
        let Some(peer) = self.kmp.channels.channels.get(&id).map(|channel| channel.peer) else { return };
        let was_active = was_active(self, peer);
        let Some(channel) = self.kmp.channels.remove(id) else { return };
        let is_alone = self.kmp.channels.active(peer).is_none();
        let up = channel.ready.as_ref().map(|ready| now.saturating_duration_since(ready.since));
        if is_alone {
            self.tell_channel_closed(peer, &channel, &because);
            let redials = self.is_ours_to_dial(peer);
            let channels = &mut self.kmp.channels;
            if let Some(peering) = channels.peers.get_mut(&peer) {
                peering.because = Some(because);
                if redials && (was_active || channel.is_ours) {
                    let at = peering.dialer.again(now, up, random());
                    channels.timers.set(Timer::Dial(peer), at);
                }
            }
        }
        self.on_external_channel_gone(id, peer);
        self.on_refresh_channel_gone(id, peer);
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
        if channels.handshakes_of_peer(peer) >= MAX_HANDSHAKES {
            tracing::debug!(peer = %peer_end, "too many connections for key management whose handshake is not over");
            return;
        }
        let by_lower = dials(peer_end.ip(), local.ip());
        let line = |id, events| Line::accepted(id, stream, events);
        let id = channels.begin(peer, false, by_lower, Instant::now(), line);
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
                format!("our connection from {local} to {peer_end} is not protected: see the interfaces in `tcpauth status`"),
            ),
        }
    }

    fn begin_tls(&mut self, id: ChannelId, side: Side, number: u32, quartet: &Quartet, session: &Session) {
        let Some(neighbor) = self.neighbors.numbered(number) else { return };
        let Some(kmp) = &neighbor.kmp else { return };
        let Some((psk, options)) = psk(kmp, quartet, session, neighbor) else {
            self.close_channel(id, "the key that its TCP connection began with is gone".to_owned());
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
                }
                // Its first octets, if it is the client.
                let _ = self.kmp.channels.say(id, |_| Ok(()));
            }
            Err(error) => self.close_channel(id, error.to_string()),
        }
    }

    fn on_received(&mut self, id: ChannelId, octets: &[u8]) {
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

    /// Opens a channel to `peer`.
    fn dial(&mut self, peer: KmpPeer, now: Instant) {
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return };
        let Some(kmp) = &neighbor.kmp else { return };
        let channels = &self.kmp.channels;
        let Some(peering) = channels.peers.get(&peer) else { return };
        if peering.channels.iter().any(|id| {
            channels.channels.get(id).is_some_and(|channel| channel.is_ours && channel.ready.is_none())
        }) {
            return;
        }
        let is_needed = peering.is_needed;
        let device = neighbor.peer.interface.clone();
        let peer_end = peer_end(neighbor, kmp, peer);
        let bound = kmp.local_address.or(peering.local);
        let local = match bound.map_or_else(|| routed(peer_end, device.as_deref()), Ok) {
            Ok(local) => local,
            Err(error) => {
                let because = format!("no route to {}: {error}", peer_end.ip());
                let channels = &mut self.kmp.channels;
                if let Some(peering) = channels.peers.get_mut(&peer) {
                    peering.because = Some(because);
                    channels.timers.set(Timer::Dial(peer), peering.dialer.again(now, None, random()));
                }
                return;
            }
        };
        let by_lower = dials(local, peer_end.ip());
        if !is_needed && (!by_lower || peering.active.is_some()) {
            // The peer's to keep up, or there already.
            return;
        }
        let channels = &mut self.kmp.channels;
        if let Some(peering) = channels.peers.get_mut(&peer) {
            peering.dialer.begin(now);
            peering.is_needed = false;
        }
        channels
            .begin(peer, true, by_lower, now, |id, events| Line::dial(id, bound, peer_end, device, events));
    }

    /// Whether our end keeps a channel to `peer` up.
    fn is_ours_to_dial(&self, peer: KmpPeer) -> bool {
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor).filter(|neighbor| is_kept_up(neighbor))
        else {
            return false;
        };
        let Some(kmp) = &neighbor.kmp else { return false };
        let device = neighbor.peer.interface.as_deref();
        let known =
            kmp.local_address.or(self.kmp.channels.peers.get(&peer).and_then(|peering| peering.local));
        let peer_end = peer_end(neighbor, kmp, peer);
        match known.map_or_else(|| routed(peer_end, device), Ok) {
            Ok(local) => dials(local, peer_end.ip()),
            // Who is to dial is seen once there is a route: `dial` says that there is none.
            Err(_) => true,
        }
    }

    /// Listens where neighbours' daemons connect to.
    fn listen(&mut self) {
        let wanted = listening_addresses(self.neighbors.iter().map(|(_, neighbor)| neighbor));
        let channels = &mut self.kmp.channels;
        channels.listeners.retain(|address, _| wanted.contains(address));
        for at in wanted {
            if matches!(channels.listeners.get(&at), Some(Ok(_))) {
                continue;
            }
            let listener = Listener::bind(at, channels.events.clone()).map_err(|error| error.to_string());
            if let Err(error) = &listener {
                if !channels.listeners.contains_key(&at) {
                    tracing::error!(
                        "neighbours cannot connect to {at} for key management, trying again: {error}"
                    );
                }
                channels.timers.set(Timer::Listen, Instant::now() + LISTEN_AGAIN);
            }
            channels.listeners.insert(at, listener);
        }
    }

    fn why_closed(&self, id: ChannelId, error: Option<&io::Error>) -> String {
        let channel = self.kmp.channels.channels.get(&id);
        let port = channel
            .and_then(|channel| self.neighbors.numbered(channel.peer.neighbor)?.kmp.as_ref())
            .map_or(0, |kmp| kmp.port);
        let has_tcp = channel.is_some_and(|channel| channel.exchange.is_some());
        let is_up = channel.is_some_and(|channel| channel.ready.is_some());
        match (error, has_tcp) {
            (Some(error), _) if error.kind() == io::ErrorKind::ConnectionRefused => format!(
                "TCP port {port} of the peer is closed: is tcpauthd running there, with us as a neighbour of this key-management?"
            ),
            (Some(error), _) if error.kind() == io::ErrorKind::TimedOut => {
                format!(
                    "the peer does not answer on TCP port {port} (any more): is it down, or the port filtered?"
                )
            }
            (Some(error), _) => format!("its TCP connection to port {port} failed: {error}"),
            (None, _) if is_up => "the peer closed it".to_owned(),
            (None, _) => "the peer closed it during the handshake: its own log or status says why".to_owned(),
        }
    }

    fn why_timed_out(&self, id: ChannelId) -> String {
        let Some(channel) = self.kmp.channels.channels.get(&id) else { return String::new() };
        if let Some(failure) = &channel.failure {
            return failure.clone();
        }
        let port = self
            .neighbors
            .numbered(channel.peer.neighbor)
            .and_then(|neighbor| neighbor.kmp.as_ref())
            .map_or(0, |kmp| kmp.port);
        match (&channel.ready, &channel.exchange) {
            (Some(_), _) => "another one took its place, or nobody needed it".to_owned(),
            (None, None) => format!(
                "no answer on TCP port {port} of the peer: is tcpauthd down there, or the port filtered?"
            ),
            (None, Some(_)) => "the handshake was not over in time".to_owned(),
        }
    }

    fn tell_channel_up(&mut self, peer: KmpPeer, ready: &Ready) {
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return };
        tracing::info!(neighbor = %neighbor.peer, peer = ready.tls.peer, "channel for keys is up: {} with {}", ready.tls.version, ready.tls.suite);
        self.kmp.known.succeeded(peer.neighbor, ready.tls.clone(), Arc::clone(&ready.peer));
        let text = format!("channel for keys, {} with {}", ready.tls.version, ready.tls.suite);
        self.tell_kmp(peer.neighbor, "up", text);
    }

    fn tell_channel_closed(&mut self, peer: KmpPeer, channel: &Channel, because: &str) {
        if channel.ready.is_some() {
            self.tell_kmp(peer.neighbor, "down", format!("channel for keys: {because}"));
        } else if self.kmp.known.failed(peer.neighbor, because, Monotonic::now(), None) == 1 {
            self.tell_kmp(peer.neighbor, "failed", format!("channel for keys: {because}"));
        }
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return };
        let before = self.kmp.channels.peers.get(&peer).and_then(|peering| peering.because.as_deref());
        if before == Some(because) {
            tracing::debug!(neighbor = %neighbor.peer, "channel for keys: {because}");
        } else if channel.ready.is_some() {
            tracing::warn!(neighbor = %neighbor.peer, "channel for keys is gone: {because}");
        } else {
            tracing::warn!(neighbor = %neighbor.peer, "channel for keys cannot be opened: {because}");
        }
    }
}

/// Whether there is a channel with this neighbour all the time.
fn is_kept_up(neighbor: &Neighbor) -> bool {
    neighbor.key_management == KeyManagement::External && neighbor.peer.is_host()
}

/// Where the daemon of `peer` listens.
fn peer_end(neighbor: &Neighbor, kmp: &Kmp, peer: KmpPeer) -> SocketAddr {
    let scope = neighbor.peer.interface.as_deref().and_then(|name| if_nametoindex(name).ok()).unwrap_or(0);
    address(sessions::address(peer.address), kmp.port, scope)
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

/// Where to listen: on all addresses of a family, unless each of its neighbours has one of ours.
fn listening_addresses<'a>(neighbors: impl Iterator<Item = &'a Neighbor>) -> BTreeSet<SocketAddr> {
    let mut addresses = BTreeSet::new();
    for neighbor in neighbors {
        let Some(kmp) = &neighbor.kmp else { continue };
        let any: IpAddr = if neighbor.peer.address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let local = kmp
            .local_address
            .filter(|local| !matches!(local, IpAddr::V6(local) if local.is_unicast_link_local()));
        addresses.insert(SocketAddr::new(local.unwrap_or(any), kmp.port));
    }
    let all = addresses.clone();
    addresses.retain(|address| {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        address.ip() == any || !all.contains(&SocketAddr::new(any, address.port()))
    });
    addresses
}

/// The address of ours that connections to `peer` have.
fn routed(peer: SocketAddr, device: Option<&str>) -> io::Result<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    if let Some(device) = device {
        setsockopt(&socket, sockopt::BindToDevice, &device.into())?;
    }
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

pub(super) fn random() -> u8 {
    let mut octet = [0];
    // Without randomness all wait for as long.
    let _ = getrandom::fill(&mut octet);
    octet[0]
}
