//! How neighbours' daemons are reached, and reach us.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{setsockopt, sockopt},
};

use super::{
    super::Daemon,
    KmpPeer,
    channel::{Admitted, Device, Line, Listener, address},
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
        // An address that was gone may be back.
        self.kmp.channels.peers.values_mut().for_each(|peering| peering.unavailable = None);
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
        let device = self.device_of(neighbor);
        let peer_end = peer_end(kmp, peer, device.as_ref());
        let bound = self.local_of(peer, kmp);
        let local = match bound.map_or_else(|| routed(peer_end, device.as_ref()), Ok) {
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
        let line = |id, events| Line::dial(id, bound, peer_end, device, events);
        let id = channels.begin(peer, true, by_lower, now, line);
        if let Some(channel) = channels.channels.get_mut(&id) {
            channel.from = bound;
        }
    }

    /// The address of ours that a channel to `peer` begins at: the one that is configured; else that of a connection
    /// that needs keys, as the peer's daemon knows us by it; else the one that the last channel had. `None`: the one
    /// that routing chooses.
    fn local_of(&self, peer: KmpPeer, kmp: &Kmp) -> Option<IpAddr> {
        let peering = self.kmp.channels.peers.get(&peer);
        let waiting = self.kmp.associations.waiting_for(peer).first().copied();
        let in_need = waiting.or_else(|| self.kmp.refresh.session_with(peer));
        let of_connection = in_need.map(|quartet| sessions::address(quartet.local));
        let of_channel = peering.and_then(|peering| peering.local);
        let unavailable = peering.and_then(|peering| peering.unavailable);
        let is_there = |local: &IpAddr| unavailable != Some(*local);
        kmp.local_address.or(of_connection.filter(is_there)).or(of_channel.filter(is_there))
    }

    /// The interface that a neighbor is bound to, under its name of now.
    fn device_of(&self, neighbor: &Neighbor) -> Option<Device> {
        let (name, index) = self.interfaces.device(neighbor.peer.interface.as_deref()?);
        Some(Device { name, index })
    }

    /// Whether our end keeps a channel to `peer` up.
    pub(super) fn is_ours_to_dial(&self, peer: KmpPeer) -> bool {
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor).filter(|neighbor| is_kept_up(neighbor))
        else {
            return false;
        };
        let Some(kmp) = &neighbor.kmp else { return false };
        let device = self.device_of(neighbor);
        let peer_end = peer_end(kmp, peer, device.as_ref());
        match self.local_of(peer, kmp).map_or_else(|| routed(peer_end, device.as_ref()), Ok) {
            Ok(local) => dials(local, peer_end.ip()),
            // Who is to dial is seen once there is a route: `dial` says that there is none.
            Err(_) => true,
        }
    }

    /// Listens where neighbours' daemons connect to.
    pub(in super::super) fn listen(&mut self) {
        let agreeing = || self.neighbors.iter().filter(|(_, neighbor)| neighbor.kmp.is_some());
        let admitted: Admitted = agreeing().map(|(_, neighbor)| neighbor.peer.clone()).collect();
        let vrf_device = |neighbor: &Neighbor| {
            let device = self.device_of(neighbor)?;
            self.interfaces.is_in_vrf(device.index).then_some(device)
        };
        // Then one socket takes what arrives in any VRF, and no other may have the port.
        let takes_all = fs::read_to_string("/proc/sys/net/ipv4/tcp_l3mdev_accept");
        let takes_all = takes_all.is_ok_and(|value| value.trim() != "0");
        let wanted = listening_addresses(
            agreeing()
                .map(|(_, neighbor)| (neighbor, vrf_device(neighbor).filter(|_| !takes_all)))
                .collect::<Vec<_>>()
                .iter(),
        );
        let channels = &mut self.kmp.channels;
        channels.admitted.replace(admitted);
        channels.listeners.retain(|at, _| wanted.contains(at));
        for at in wanted {
            if matches!(channels.listeners.get(&at), Some(Ok(_))) {
                continue;
            }
            let (address, device) = &at;
            let admitted = channels.admitted.clone();
            let listener = Listener::bind(*address, device.as_ref(), admitted, channels.events.clone());
            let listener = listener.map_err(|error| error.to_string());
            if let Err(error) = &listener {
                if !channels.listeners.contains_key(&at) {
                    let by = device.as_ref().map(|device| format!(" by {}", device.name)).unwrap_or_default();
                    tracing::error!(
                        "neighbours cannot connect to {address}{by} for key management, trying again: {error}"
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
fn peer_end(kmp: &Kmp, peer: KmpPeer, device: Option<&Device>) -> SocketAddr {
    address(sessions::address(peer.address), kmp.port, device.map_or(0, |device| device.index))
}

/// Where to listen: on all addresses of a family, unless each of its neighbours has one of ours; for a neighbor with a
/// device, which is part of a VRF, by that device, as other sockets take nothing that arrives in a VRF.
fn listening_addresses<'a>(
    neighbors: impl Iterator<Item = &'a (&'a Neighbor, Option<Device>)>,
) -> BTreeSet<(SocketAddr, Option<Device>)> {
    let mut addresses = BTreeSet::new();
    for (neighbor, device) in neighbors {
        let Some(kmp) = &neighbor.kmp else { continue };
        let any: IpAddr = if neighbor.peer.address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let local = kmp
            .local_address
            .filter(|local| !matches!(local, IpAddr::V6(local) if local.is_unicast_link_local()));
        addresses.insert((SocketAddr::new(local.unwrap_or(any), kmp.port), device.clone()));
    }
    let all = addresses.clone();
    addresses.retain(|(address, device)| {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        address.ip() == any || !all.contains(&(SocketAddr::new(any, address.port()), device.clone()))
    });
    addresses
}

/// The address of ours that connections to `peer` have.
fn routed(peer: SocketAddr, device: Option<&Device>) -> io::Result<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    if let Some(device) = device {
        setsockopt(&socket, sockopt::BindToDevice, &device.name.clone().into())?;
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
            let neighbors = config.unwrap().neighbors;
            let neighbors: Vec<_> = neighbors.iter().map(|neighbor| (neighbor, None)).collect();
            let addresses = listening_addresses(neighbors.iter());
            addresses.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>()
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
        assert!(
            routed(
                SocketAddr::from(([127, 0, 0, 5], 9)),
                Some(&Device { name: "no-such-if".to_owned(), index: 0 })
            )
            .is_err()
        );
    }
}
