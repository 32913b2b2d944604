//! How neighbours' daemons are reached, and reach us.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use nix::{
    net::if_::if_nametoindex,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{setsockopt, sockopt},
    },
};

use super::{
    super::Daemon,
    KmpPeer,
    channel::{Line, Listener, address},
    channels::{Channel, Timer},
    dial::dials,
    ending::Ending,
};
use crate::{
    config::{KeyManagement, Kmp, Neighbor},
    kernel::mapped,
    sessions,
};

/// Between two attempts to listen on a port that is taken.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
/// First attempts are spread: a thousand handshakes at once would make each of them late.
const SPREAD: Duration = Duration::from_millis(2);
/// What is known of a peer to which no channel is kept up, after the last one ended.
const REMEMBER: Duration = Duration::from_secs(600);

/// Lets this process have as many sockets as it may: a thousand neighbours have two each, and the limit that a
/// process is given by default is 1,024 files.
pub(in super::super) fn raise_limit_of_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(
            "the limit of open files stays, and many neighbours may not all have a channel: {error}"
        );
    }
}

impl Daemon {
    /// Opens and closes the channels that are due.
    pub(super) fn on_channels_time(&mut self, now: Instant) {
        while let Some(due) = self.kmp.channels.timers.take_due(now) {
            match due {
                Timer::Dial(peer) => self.dial(peer, now),
                Timer::Close(id) => {
                    let ending = self.why_due(id);
                    self.close_channel(id, ending);
                }
                Timer::Listen => self.listen(),
            }
        }
    }

    /// Brings channels to the running configuration: those of `changed` neighbours, or of some that are gone, are closed,
    /// and opened again if they are to be.
    pub(in super::super) fn follow_channels(&mut self, changed: &dyn Fn(u32) -> bool) {
        self.listen();
        let is_wanted = |peer: &KmpPeer| {
            let neighbor = self.neighbors.numbered(peer.neighbor);
            neighbor.is_some_and(|neighbor| neighbor.kmp.is_some()) && !changed(peer.neighbor)
        };
        let peers = self.kmp.channels.peers.keys();
        let unwanted: Vec<KmpPeer> = peers.filter(|peer| !is_wanted(peer)).copied().collect();
        for peer in unwanted {
            let channels = self.kmp.channels.peers.get(&peer).map(|peering| peering.channels.clone());
            for id in channels.into_iter().flatten() {
                self.close_channel(id, Ending::Planned);
            }
            self.kmp.channels.forget(peer);
        }
        let kept = self.neighbors.iter().filter(|(_, neighbor)| is_kept_up(neighbor));
        let kept: Vec<KmpPeer> = kept
            .map(|(number, neighbor)| KmpPeer { neighbor: number, address: mapped(neighbor.peer.address) })
            .collect();
        for peer in kept {
            self.kmp.channels.peers.entry(peer).or_default().is_kept_up = true;
        }
        self.keep_channels_up();
    }

    /// Opens the channels that our end is to keep up and that nobody has opened. Who is to do so may change with our
    /// addresses.
    pub(in super::super) fn keep_channels_up(&mut self) {
        let now = Instant::now();
        let channels = &self.kmp.channels;
        let alone = channels.peers.iter().filter(|(peer, peering)| {
            peering.is_kept_up
                && peering.channels.is_empty()
                && channels.timers.at(Timer::Dial(**peer)).is_none()
        });
        let alone: Vec<KmpPeer> = alone.map(|(peer, _)| *peer).collect();
        let ours = alone.into_iter().filter(|peer| self.is_ours_to_dial(*peer));
        for (order, peer) in ours.collect::<Vec<_>>().into_iter().enumerate() {
            self.kmp.channels.timers.set(Timer::Dial(peer), now + SPREAD * (order as u32).min(1000));
        }
    }

    /// Forgets peers to which no channel is kept up, and with which nothing was agreed for long.
    pub(in super::super) fn tidy_channels(&mut self) {
        let now = Instant::now();
        let channels = &self.kmp.channels;
        let is_old = |ended: Instant| REMEMBER <= now.saturating_duration_since(ended);
        let old = channels.peers.iter().filter(|(peer, peering)| {
            !peering.is_kept_up
                && peering.channels.is_empty()
                && channels.timers.at(Timer::Dial(**peer)).is_none()
                && peering.ended.is_none_or(is_old)
        });
        let old: Vec<KmpPeer> = old.map(|(peer, _)| *peer).collect();
        old.into_iter().for_each(|peer| self.kmp.channels.forget(peer));
    }

    /// Opens a channel to `peer`.
    fn dial(&mut self, peer: KmpPeer, now: Instant) {
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return };
        let Some(kmp) = &neighbor.kmp else { return };
        let channels = &self.kmp.channels;
        let Some(peering) = channels.peers.get(&peer) else { return };
        let is_under_way = |channel: &Channel| channel.is_ours && channel.ready.is_none();
        if peering.channels.iter().any(|id| channels.channels.get(id).is_some_and(is_under_way)) {
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
                    channels.timers.set(Timer::Dial(peer), peering.dialer.again(now, None));
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
    pub(super) fn is_ours_to_dial(&self, peer: KmpPeer) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_port_is_listened_on_at_all_addresses_unless_each_neighbour_has_one() {
        let addresses = |neighbors: &[(&str, u16, &str)]| {
            let table = |(peer, port, local): &(&str, u16, &str)| {
                let local = if local.is_empty() {
                    String::new()
                } else {
                    format!("kmp-local-address = \"{local}\"\n")
                };
                format!(
                    "[neighbor.\"{peer}\"]\npassword = \"a\"\nkey-management = \"external\"\nkmp-port = {port}\n{local}"
                )
            };
            let text: String = neighbors.iter().map(table).collect();
            let config =
                Config::parse(&text, std::path::Path::new("test.toml")).map_err(|errors| errors.to_string());
            let addresses = listening_addresses(config.unwrap().neighbors.iter());
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            addresses(&[
                ("192.0.2.1", 1700, ""),
                ("192.0.2.2", 1700, "192.0.2.9"),
                ("2001:db8::1", 1700, "")
            ]),
            ["0.0.0.0:1700", "[::]:1700"]
        );
        assert_eq!(
            addresses(&[
                ("192.0.2.1", 1700, "192.0.2.8"),
                ("192.0.2.2", 1700, "192.0.2.9"),
                ("192.0.2.3", 1701, "")
            ]),
            ["0.0.0.0:1701", "192.0.2.8:1700", "192.0.2.9:1700"]
        );
    }

    #[test]
    fn routing_says_which_address_of_ours_a_connection_has() {
        let local = routed(SocketAddr::from(([127, 0, 0, 5], 9)), None);
        assert_eq!(local.unwrap(), IpAddr::from([127, 0, 0, 1]));
        assert!(routed(SocketAddr::from(([127, 0, 0, 5], 9)), Some("no-such-if")).is_err());
    }
}
