//! Interfaces and addresses as they come and go.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::IpAddr,
};

use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::io::unix::AsyncFd;

use super::{
    KernelError, LANE0, LANE1, Link,
    netlink::{Netlink, messages},
};

/// Room for the kernel's messages until they are read, octets.
const RECEIVE_BUFFER: u32 = 1 << 20;

/// A change of the network namespace's interfaces or addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The interface is there, or its name, MTU, kind or VRF changed: attach to it (again).
    Up(Link),
    /// The interface with this index is gone, or part of another one: forget it, if it is known.
    Gone(u32),
    /// The address is now one of this host's.
    AddressAdded(IpAddr),
    /// No interface of this host has the address any more.
    AddressRemoved(IpAddr),
    /// Something about the lane may have changed.
    Lane,
}

/// Follows the network namespace of the thread that made it. First come all interfaces and addresses that are
/// there, the addresses before the interfaces. The lane and ports of a bridge, bond or team are never `Up`.
pub struct LinkWatch {
    socket: AsyncFd<Socket>,
    netlink: Netlink,
    state: State,
    events: VecDeque<LinkEvent>,
}

impl LinkWatch {
    /// Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub fn new() -> Result<Self, KernelError> {
        let socket =
            subscribe().map_err(|source| KernelError::Netlink { action: "follow interfaces", source })?;
        let mut watch =
            Self { socket, netlink: Netlink::new()?, state: State::default(), events: VecDeque::new() };
        // After the subscription: what changes in between is in the dump or comes as a message, or both.
        watch.list()?;
        Ok(watch)
    }

    /// The interfaces as of the last event read from the kernel: also those of which [`Self::try_next`] tells next.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.state.links.values().flatten()
    }

    /// An event that is there already, without waiting: until `None`, the first listing or one burst of changes.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub fn try_next(&mut self) -> Result<Option<LinkEvent>, KernelError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.socket.get_ref().recv_from_full() {
                Ok((datagram, _)) => self.take_in(&datagram)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Messages were lost: look at everything again.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.list()?,
                Err(source) => return Err(KernelError::Netlink { action: "follow interfaces", source }),
            }
        }
    }

    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub async fn next(&mut self) -> Result<LinkEvent, KernelError> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            let failed = |source| KernelError::Netlink { action: "follow interfaces", source };
            let mut guard = self.socket.readable().await.map_err(failed)?;
            // Cleared before the socket is read again: what comes in between is found there.
            guard.clear_ready();
        }
    }

    fn take_in(&mut self, datagram: &[u8]) -> Result<(), KernelError> {
        let failed = |source| KernelError::Netlink { action: "follow interfaces", source };
        for message in messages(datagram).map_err(failed)? {
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => self.state.change(&inner, &mut self.events),
                NetlinkPayload::Overrun(_) => return self.list(),
                _ => {}
            }
        }
        Ok(())
    }

    /// Lists everything, and tells what differs from what was known.
    fn list(&mut self) -> Result<(), KernelError> {
        let links = self.netlink.links()?;
        let addresses = self.netlink.addresses()?;
        self.state.replace(&links, &addresses, &mut self.events);
        Ok(())
    }
}

fn subscribe() -> io::Result<AsyncFd<Socket>> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let mask = groups.into_iter().fold(0, |mask, group| mask | 1 << (group as u32 - 1));
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
    socket.bind(&SocketAddr::new(0, mask))?;
    socket.set_non_blocking(true)?;
    // SAFETY: the socket owns its descriptor, which is neither closed nor replaced while registered.
    Ok(unsafe { AsyncFd::register_with_interest(socket, tokio::io::Interest::READABLE) }?)
}

/// What is known of the network namespace.
#[derive(Default)]
struct State {
    /// By index; `None` for those that are not to be attached to.
    links: BTreeMap<u32, Option<Link>>,
    /// An address can be on several interfaces.
    addresses: BTreeMap<u32, BTreeSet<IpAddr>>,
}

impl State {
    fn change(&mut self, message: &RouteNetlinkMessage, events: &mut VecDeque<LinkEvent>) {
        match message {
            // Bridges talk of their ports on the same group: that is another matter.
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family != AddressFamily::Unspec => {}
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) if is_lane(link) => {
                // One is enough for a burst.
                events.pop_back_if(|event| *event == LinkEvent::Lane);
                events.push_back(LinkEvent::Lane);
            }
            RouteNetlinkMessage::NewLink(link) => self.link(link.header.index, Link::parse(link), events),
            RouteNetlinkMessage::DelLink(link) => self.link_gone(link.header.index, events),
            RouteNetlinkMessage::NewAddress(message) => {
                if let Some(address) = address_of(message) {
                    self.add_address(message.header.index, address, events);
                }
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(address) = address_of(message) {
                    self.remove_address(message.header.index, address, events);
                }
            }
            _ => {}
        }
    }

    fn replace(
        &mut self,
        links: &[LinkMessage],
        addresses: &[AddressMessage],
        events: &mut VecDeque<LinkEvent>,
    ) {
        let there: BTreeSet<u32> = links.iter().map(|link| link.header.index).collect();
        let now: BTreeSet<(u32, IpAddr)> = addresses
            .iter()
            .filter_map(|message| Some((message.header.index, address_of(message)?)))
            .collect();
        // Before the links: on an interface just attached to, the programs have to know whose address is ours.
        for &(index, address) in &now {
            self.add_address(index, address, events);
        }
        let gone: Vec<u32> = self.links.keys().filter(|index| !there.contains(index)).copied().collect();
        for index in gone {
            self.link_gone(index, events);
        }
        for link in links {
            self.link(link.header.index, Link::parse(link), events);
        }
        let before: Vec<(u32, IpAddr)> = self
            .addresses
            .iter()
            .flat_map(|(index, addresses)| addresses.iter().map(|address| (*index, *address)))
            .collect();
        for (index, address) in before.into_iter().filter(|known| !now.contains(known)) {
            self.remove_address(index, address, events);
        }
    }

    fn link(&mut self, index: u32, link: Option<Link>, events: &mut VecDeque<LinkEvent>) {
        let known = self.links.insert(index, link.clone());
        if known.as_ref() != Some(&link) {
            // Also for one that was never up: an earlier daemon may have attached to it.
            events.push_back(link.map_or(LinkEvent::Gone(index), LinkEvent::Up));
        }
    }

    fn link_gone(&mut self, index: u32, events: &mut VecDeque<LinkEvent>) {
        if self.links.remove(&index).is_some() {
            events.push_back(LinkEvent::Gone(index));
        }
        for address in self.addresses.get(&index).cloned().unwrap_or_default() {
            self.remove_address(index, address, events);
        }
    }

    fn add_address(&mut self, index: u32, address: IpAddr, events: &mut VecDeque<LinkEvent>) {
        let known = self.has(address);
        self.addresses.entry(index).or_default().insert(address);
        if !known {
            events.push_back(LinkEvent::AddressAdded(address));
        }
    }

    fn remove_address(&mut self, index: u32, address: IpAddr, events: &mut VecDeque<LinkEvent>) {
        let Some(addresses) = self.addresses.get_mut(&index) else { return };
        let removed = addresses.remove(&address);
        if addresses.is_empty() {
            self.addresses.remove(&index);
        }
        if removed && !self.has(address) {
            events.push_back(LinkEvent::AddressRemoved(address));
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        self.addresses.values().any(|addresses| addresses.contains(&address))
    }
}

/// Whether the message is of an end of the lane.
fn is_lane(message: &LinkMessage) -> bool {
    let is_name = |name: &str| name == LANE0 || name == LANE1;
    message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::IfName(name) => is_name(name),
        _ => false,
    })
}

/// The host's own address: on a point-to-point interface, `Address` is the other end's.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let attribute = |local: bool| {
        message.attributes.iter().find_map(move |attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    attribute(true).or_else(|| attribute(false))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkLayerType;

    use super::*;
    use crate::kernel::LinkKind;

    fn ethernet(index: u32, mtu: u32) -> Link {
        Link { index, name: format!("eth{index}"), mtu, kind: LinkKind::Ethernet, vrf: None }
    }

    #[test]
    fn a_link_is_told_when_it_changes_and_only_then() {
        let mut state = State::default();
        let mut events = VecDeque::new();
        state.link(2, Some(ethernet(2, 1500)), &mut events);
        state.link(2, Some(ethernet(2, 1500)), &mut events);
        state.link(2, Some(ethernet(2, 9000)), &mut events);
        state.link(2, None, &mut events);
        state.link_gone(2, &mut events);
        let expected = [
            LinkEvent::Up(ethernet(2, 1500)),
            LinkEvent::Up(ethernet(2, 9000)),
            LinkEvent::Gone(2),
            LinkEvent::Gone(2),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_change_of_the_lane_is_told_once_in_a_burst() {
        let mut state = State::default();
        let mut events = VecDeque::new();
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(LANE1.to_owned()), LinkAttribute::Mtu(1400)];
        state.change(&RouteNetlinkMessage::NewLink(link.clone()), &mut events);
        state.change(&RouteNetlinkMessage::DelLink(link), &mut events);
        assert_eq!(events, [LinkEvent::Lane]);
    }

    #[test]
    fn an_address_on_two_links_goes_with_the_last() {
        let mut state = State::default();
        let mut events = VecDeque::new();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        state.link(2, Some(ethernet(2, 1500)), &mut events);
        state.link(3, Some(ethernet(3, 1500)), &mut events);
        events.clear();
        state.add_address(2, address, &mut events);
        state.add_address(3, address, &mut events);
        state.remove_address(2, address, &mut events);
        assert_eq!(events, [LinkEvent::AddressAdded(address)]);
        events.clear();
        state.link_gone(3, &mut events);
        assert_eq!(events, [LinkEvent::Gone(3), LinkEvent::AddressRemoved(address)]);
    }

    #[test]
    fn a_listing_after_an_overrun_tells_the_difference() {
        let mut state = State::default();
        let mut events = VecDeque::new();
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        state.link(2, Some(ethernet(2, 1500)), &mut events);
        state.add_address(2, address, &mut events);
        events.clear();
        state.replace(&[], &[], &mut events);
        assert_eq!(events, [LinkEvent::Gone(2), LinkEvent::AddressRemoved(address)]);
    }

    #[test]
    fn a_listing_tells_addresses_first() {
        let mut link = LinkMessage::default();
        link.header.index = 2;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.attributes = vec![LinkAttribute::IfName("eth2".to_owned()), LinkAttribute::Mtu(1500)];
        let mut address = AddressMessage::default();
        address.header.index = 2;
        address.attributes = vec![AddressAttribute::Local("192.0.2.1".parse().unwrap())];
        let mut events = VecDeque::new();
        State::default().replace(&[link], &[address], &mut events);
        let added = LinkEvent::AddressAdded("192.0.2.1".parse().unwrap());
        assert_eq!(events, [added, LinkEvent::Up(ethernet(2, 1500))]);
    }
}
