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
    KmpPeer, UNKNOWN,
    channel::{Admitted, Device, Line, Listener, address},
    channels::{Channel, Peering, Timer},
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
        let numbers: Vec<u32> = self.neighbors.numbers().collect();
        numbers.into_iter().for_each(|number| self.keep_peers_of(number));
        self.keep_channels_up();
    }

    /// Takes in that a connection with `peer` has our address of it now.
    pub(super) fn show_peer(&mut self, peer: KmpPeer) {
        let before = self.kmp.channels.peers.get(&peer);
        let is_new = before.is_none_or(|peering| peering.shown.is_none() || peering.is_gone);
        self.kmp.channels.show(peer, Instant::now());
        if is_new {
            self.kmp.channels.peers.entry(peer).or_default().is_gone = false;
            self.keep_peers_of(peer.neighbor);
        }
    }

    /// Determines to which peers of a neighbor a channel is kept up: by the address of ours that is configured; else by
    /// each that its connections have; else by the one that routing says.
    pub(super) fn keep_peers_of(&mut self, number: u32) {
        let Some(neighbor) = self.neighbors.numbered(number).filter(|neighbor| is_kept_up(neighbor)) else {
            return;
        };
        let address = mapped(neighbor.peer.address);
        let by = |local| KmpPeer { neighbor: number, address, local };
        // Also with an address that is gone: such a session ends later.
        for peer in self.kmp.refresh.peers_of(number).collect::<Vec<_>>() {
            self.kmp.channels.show(peer, Instant::now());
        }
        let configured = neighbor.kmp.as_ref().and_then(|kmp| kmp.local_address);
        let kept: Vec<KmpPeer> = match configured {
            Some(local) => vec![by(mapped(local))],
            None => {
                let is_there =
                    |(_, peering): &(KmpPeer, &Peering)| peering.shown.is_some() && !peering.is_gone;
                self.kmp.channels.of_neighbor(number).filter(is_there).map(|(peer, _)| peer).collect()
            }
        };
        let kept = match kept.is_empty() {
            true => vec![by(self.routed_to(by(UNKNOWN), neighbor).map_or(UNKNOWN, mapped))],
            false => kept,
        };
        let channels = &mut self.kmp.channels;
        let is_over = |(peer, peering): &(KmpPeer, &Peering)| !kept.contains(peer) && peering.shown.is_none();
        let guesses: Vec<KmpPeer> =
            channels.of_neighbor(number).filter(is_over).map(|(peer, _)| peer).collect();
        for guess in guesses {
            match channels.peers.get_mut(&guess) {
                Some(peering) if !peering.channels.is_empty() => peering.is_kept_up = false,
                _ => channels.forget(guess),
            }
        }
        for peer in kept {
            channels.peers.entry(peer).or_default().is_kept_up = true;
        }
    }

    /// Opens the channels that our end is to keep up and that nobody has opened. Who is to do so may change with our
    /// addresses.
    pub(in super::super) fn keep_channels_up(&mut self) {
        let now = Instant::now();
        let channels = &self.kmp.channels;
        let alone = channels.peers.iter().filter(|(peer, peering)| {
            peering.is_kept_up
                && !peering.is_gone
                && peering.channels.is_empty()
                && channels.timers.at(Timer::Dial(**peer)).is_none()
        });
        let alone: Vec<KmpPeer> = alone.map(|(peer, _)| *peer).collect();
        let ours = alone.into_iter().filter(|peer| self.is_ours_to_dial(*peer));
        for (order, peer) in ours.collect::<Vec<_>>().into_iter().enumerate() {
            self.kmp.channels.timers.set(Timer::Dial(peer), now + SPREAD * (order as u32).min(1000));
        }
    }

    /// Takes in that interfaces or addresses may be others: an address that was gone may be back, and routes may be others.
    pub(in super::super) fn follow_addresses(&mut self) {
        let mut numbers: BTreeSet<u32> = BTreeSet::new();
        for (peer, peering) in &mut self.kmp.channels.peers {
            if peering.is_gone || peering.shown.is_none() {
                peering.is_gone = false;
                numbers.insert(peer.neighbor);
            }
        }
        numbers.into_iter().for_each(|number| self.keep_peers_of(number));
        self.keep_channels_up();
    }

    /// Keeps channels up for connections that were not seen before, and forgets peers that are over.
    pub(in super::super) fn tidy_channels(&mut self) {
        let now = Instant::now();
        let is_shown =
            |peer: &KmpPeer| self.kmp.channels.peers.get(peer).is_some_and(|peering| peering.shown.is_some());
        let numbers =
            self.neighbors.iter().filter(|(_, neighbor)| is_kept_up(neighbor)).map(|(number, _)| number);
        let unseen = numbers.filter(|number| !self.kmp.refresh.peers_of(*number).all(|peer| is_shown(&peer)));
        for number in unseen.collect::<Vec<_>>() {
            self.keep_peers_of(number);
            self.keep_channels_up();
        }
        let is_used = |peer: KmpPeer| {
            self.kmp.refresh.peers_of(peer.neighbor).any(|other| other == peer)
                || !self.kmp.associations.waiting_for(peer).is_empty()
        };
        let over = self.kmp.channels.over(is_used, now);
        over.into_iter().for_each(|peer| self.kmp.channels.forget(peer));
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
        let (is_needed, is_shown) = (peering.is_needed, peering.shown.is_some());
        if !is_needed && (!peering.is_kept_up || peering.is_gone) {
            return;
        }
        if !is_shown && kmp.local_address.is_none() {
            match self.routed_to(peer, neighbor) {
                Ok(local) if mapped(local) == peer.local => {}
                Ok(_) => {
                    // Routing says another one than before.
                    self.keep_peers_of(peer.neighbor);
                    self.keep_channels_up();
                    return;
                }
                Err(error) => {
                    let because = format!("no route to {}: {error}", sessions::address(peer.address));
                    let channels = &mut self.kmp.channels;
                    if let Some(peering) = channels.peers.get_mut(&peer) {
                        peering.because = Some(because);
                        channels.timers.set(Timer::Dial(peer), peering.dialer.again(now, None));
                    }
                    return;
                }
            }
        }
        let device = self.device_of(neighbor);
        let peer_end = peer_end(kmp, peer, device.as_ref());
        let local = local_of(peer, kmp);
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
        let line = |id, events| Line::dial(id, Some(local), peer_end, device, events);
        channels.begin(peer, true, by_lower, now, line);
    }

    /// The address of ours that routing says for connections to `peer`.
    fn routed_to(&self, peer: KmpPeer, neighbor: &Neighbor) -> io::Result<IpAddr> {
        let device = self.device_of(neighbor);
        let kmp = neighbor.kmp.as_ref().ok_or(io::ErrorKind::NotFound)?;
        routed(peer_end(kmp, peer, device.as_ref()), device.as_ref())
    }

    /// The interface that a neighbor is bound to, under its name of now.
    fn device_of(&self, neighbor: &Neighbor) -> Option<Device> {
        let (name, index) = self.interfaces.device(neighbor.peer.interface.as_deref()?);
        Some(Device { name, index })
    }

    /// Whether our end keeps a channel to `peer` up.
    pub(super) fn is_ours_to_dial(&self, peer: KmpPeer) -> bool {
        let is_kept_up =
            self.kmp.channels.peers.get(&peer).is_some_and(|peering| peering.is_kept_up && !peering.is_gone);
        // Who is to dial is seen once there is a route: `dial` says that there is none.
        let local = self
            .neighbors
            .numbered(peer.neighbor)
            .and_then(|neighbor| Some(local_of(peer, neighbor.kmp.as_ref()?)));
        let dials = |local| dials(local, sessions::address(peer.address));
        is_kept_up && (peer.local == UNKNOWN || local.is_some_and(dials))
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

/// The address of ours that a channel to `peer` begins at.
fn local_of(peer: KmpPeer, kmp: &Kmp) -> IpAddr {
    kmp.local_address.unwrap_or_else(|| sessions::address(peer.local))
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
