//! A small rtnetlink client that blocks: the daemon's requests are few and answered at once.

use std::{io, net::IpAddr};

use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteLwEnCapType, RouteMessage, RouteMetric},
        tc::{TcAttribute, TcHandle, TcMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::{KernelError, hook::interface_name, links::port_of, placement::Filter};

/// Length of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// Length of `struct ifinfomsg`.
const IFINFOMSG_LEN: usize = 16;

/// A netlink socket in the network namespace of the thread that made it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn new() -> Result<Self, KernelError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| KernelError::Netlink { action: "open a socket", source })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All interfaces.
    pub(super) fn links(&mut self) -> Result<Vec<LinkMessage>, KernelError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self
            .call(request, NLM_F_DUMP)
            .map_err(|source| KernelError::Netlink { action: "list interfaces", source })?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .collect())
    }

    /// One interface by its index; `None` if it is gone.
    pub(super) fn link(&mut self, index: u32) -> io::Result<Option<LinkMessage>> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        let answers = match self.call(RouteNetlinkMessage::GetLink(request), NLM_F_ACK) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answers => answers?,
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        }))
    }

    /// All addresses.
    pub(super) fn addresses(&mut self) -> Result<Vec<AddressMessage>, KernelError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self
            .call(request, NLM_F_DUMP)
            .map_err(|source| KernelError::Netlink { action: "list addresses", source })?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(address) => Some(address),
                _ => None,
            })
            .collect())
    }

    /// The route by which the kernel would send to an address, by the interface with that index if one is given; `None` if
    /// there is none.
    fn route_to(&mut self, address: IpAddr, ifindex: Option<u32>) -> io::Result<Option<RouteMessage>> {
        let mut request = RouteMessage::default();
        let (family, bits, address) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
        };
        request.header.address_family = family;
        request.header.destination_prefix_length = bits;
        request.attributes = vec![RouteAttribute::Destination(address)];
        request.attributes.extend(ifindex.map(RouteAttribute::Oif));
        let answers = match self.call(RouteNetlinkMessage::GetRoute(request), NLM_F_ACK) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                return Ok(None);
            }
            answers => answers?,
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        }))
    }

    /// The filters of one hook of an interface's clsact qdisc; none if there is no such qdisc.
    pub(super) fn filters(&mut self, index: u32, parent: TcHandle) -> Result<Vec<Filter>, KernelError> {
        let request = RouteNetlinkMessage::GetTrafficFilter(tc_message(index, parent));
        let answers = match self.call(request, NLM_F_DUMP) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Vec::new(),
            answers => answers.map_err(|source| KernelError::Netlink { action: "list filters", source })?,
        };
        let filter = |message: TcMessage| Filter {
            preference: (message.header.info >> 16) as u16,
            handle: message.header.handle,
            kind: message
                .attributes
                .into_iter()
                .find_map(|attribute| match attribute {
                    TcAttribute::Kind(kind) => Some(kind),
                    _ => None,
                })
                .unwrap_or_default(),
        };
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(message) => Some(filter(message)),
                _ => None,
            })
            .collect())
    }

    /// Makes an interface.
    pub(super) fn add_link(&mut self, link: LinkMessage) -> io::Result<()> {
        self.call(RouteNetlinkMessage::NewLink(link), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(|_| ())
    }

    /// Changes an interface.
    pub(super) fn set_link(&mut self, link: LinkMessage) -> io::Result<()> {
        self.call(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(|_| ())
    }

    /// Deletes an interface.
    pub(super) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.call(RouteNetlinkMessage::DelLink(link), NLM_F_ACK).map(|_| ())
    }

    /// Deletes the queueing discipline that somebody gave an interface, so that it has that of its kind again.
    pub(super) fn remove_queue(&mut self, index: u32) -> io::Result<()> {
        let message = tc_message(index, TcHandle::ROOT);
        match self.call(RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK) {
            // It has none of its own.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Deletes the clsact qdisc of an interface if it has no filter left.
    pub(super) fn remove_empty_clsact(&mut self, index: u32) -> Result<(), KernelError> {
        let failed = |source| KernelError::Netlink { action: "remove the clsact qdisc", source };
        for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            let parent = TcHandle { major: TcHandle::CLSACT.major, minor };
            let request = RouteNetlinkMessage::GetTrafficFilter(tc_message(index, parent));
            if !self.call(request, NLM_F_DUMP).map_err(failed)?.is_empty() {
                return Ok(());
            }
        }
        let mut message = tc_message(index, TcHandle::CLSACT);
        message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        match self.call(RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map(|_| ()).map_err(failed),
        }
    }

    /// Sends a request and reads up to the acknowledgment or the end of the dump. A dump that the
    /// kernel had to interrupt is as good as one: changes meanwhile are seen by the watch.
    fn call(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for answer in messages(&datagram)? {
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    // What ended it before its time.
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.wrapping_neg()));
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(_) => return Err(error.to_io()),
                    },
                    _ => {}
                }
            }
        }
    }
}

/// Index of the interface by which the kernel would send to an address, as far as it can be told.
pub fn interface_towards(address: IpAddr) -> Option<u32> {
    outgoing(&Netlink::new().ok()?.route_to(address, None).ok()??)
}

/// Why segments of a route do not pass the programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detour {
    /// This is put in front of them before.
    InFront(&'static str),
    /// The route leads out of a port of a bridge, bond or team, past the programs of that one.
    Port {
        /// Name of the port.
        port: String,
        /// Name of the bridge, bond or team.
        master: String,
    },
}

/// Asks for many routes by one socket.
pub struct RouteLookup(Netlink);

impl RouteLookup {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub fn open() -> Result<Self, KernelError> {
        Netlink::new().map(Self)
    }

    /// Why segments to an address do not pass the programs, if they do not, as far as it can be told.
    pub fn detour(&mut self, address: IpAddr) -> Option<Detour> {
        let route = self.0.route_to(address, None).ok()??;
        let in_front = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::EncapType(kind) => in_front(kind),
            _ => None,
        });
        if let Some(what) = in_front {
            return Some(Detour::InFront(what));
        }
        let (port, master) = self.port(outgoing(&route)?)?;
        Some(Detour::Port { port, master })
    }

    /// Name and master of an interface that is a port.
    fn port(&mut self, index: u32) -> Option<(String, String)> {
        let (name, master) = port_of(&self.0.link(index).ok()??)?;
        Some((name, interface_name(master).ok()?))
    }

    /// The MTU that the route to an address, by the interface with that index, has of its own or has learned.
    pub fn mtu(&mut self, address: IpAddr, ifindex: u32) -> Option<u32> {
        mtu_of(&self.0.route_to(address, Some(ifindex)).ok()??)
    }
}

fn outgoing(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// What a route says of the MTU, if anything.
fn mtu_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

fn in_front(kind: &RouteLwEnCapType) -> Option<&'static str> {
    match kind {
        // Where a tunnel interface encapsulates, the route only has its parameters.
        RouteLwEnCapType::None | RouteLwEnCapType::Ip | RouteLwEnCapType::Ip6 | RouteLwEnCapType::Xfrm => {
            None
        }
        RouteLwEnCapType::Mpls => Some("an MPLS label"),
        RouteLwEnCapType::Seg6 | RouteLwEnCapType::Seg6Local => Some("an SRv6 header"),
        RouteLwEnCapType::Rpl => Some("an RPL header"),
        RouteLwEnCapType::Ioam6 => Some("an IOAM header"),
        RouteLwEnCapType::Ila => Some("an ILA address"),
        RouteLwEnCapType::Bpf => Some("an eBPF program"),
        _ => Some("an encapsulation"),
    }
}

fn tc_message(index: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index.cast_signed();
    message.header.parent = parent;
    message
}

/// The messages in one datagram. Of an interface whose message cannot be decoded, what matters most is read;
/// any other such message is logged and left out.
pub(super) fn messages(mut datagram: &[u8]) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
    let mut messages = Vec::new();
    while let Some((len, _)) = datagram.split_first_chunk::<4>() {
        let len = u32::from_ne_bytes(*len) as usize;
        let Some(octets) = datagram.get(..len).filter(|_| len >= HEADER_LEN) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a netlink message of an impossible length",
            ));
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets) {
            Ok(message) => messages.push(message),
            Err(error) => {
                let link = bare_link(octets);
                let index = link.as_ref().map(|link| link.header.index);
                tracing::warn!(%error, index, "netlink: a message of the kernel cannot be decoded");
                messages.extend(link.map(|link| {
                    let mut header = NetlinkHeader::default();
                    header.sequence_number =
                        u32::from_ne_bytes([octets[8], octets[9], octets[10], octets[11]]);
                    let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link));
                    NetlinkMessage::new(header, payload)
                }));
            }
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

/// An RTM_NEWLINK by its head (`struct ifinfomsg`) and the few attributes that are plain.
fn bare_link(octets: &[u8]) -> Option<LinkMessage> {
    let word = |at: usize| octets.get(at..at + 4).map(|word| [word[0], word[1], word[2], word[3]]);
    let half = |at: usize| octets.get(at..at + 2).map(|half| u16::from_ne_bytes([half[0], half[1]]));
    if half(4)? != libc::RTM_NEWLINK {
        return None;
    }
    let mut link = LinkMessage::default();
    link.header.interface_family = octets[HEADER_LEN].into();
    link.header.link_layer_type = half(HEADER_LEN + 2)?.into();
    link.header.index = u32::from_ne_bytes(word(HEADER_LEN + 4)?);
    link.header.flags = LinkFlags::from_bits_retain(u32::from_ne_bytes(word(HEADER_LEN + 8)?));
    let mut at = HEADER_LEN + IFINFOMSG_LEN;
    while let (Some(len), Some(kind)) = (half(at).map(usize::from), half(at + 2)) {
        let Some(value) = octets.get(at + 4..at + len).filter(|_| len >= 4) else { break };
        let number = || value.try_into().map(u32::from_ne_bytes).ok();
        let attribute = match kind {
            libc::IFLA_IFNAME => Some(LinkAttribute::IfName(name(value))),
            libc::IFLA_MTU => number().map(LinkAttribute::Mtu),
            libc::IFLA_BROADCAST => Some(LinkAttribute::Broadcast(value.to_vec())),
            _ => None,
        };
        link.attributes.extend(attribute);
        at += len.next_multiple_of(4);
    }
    let is_named = link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfName(_)));
    if !is_named {
        link.attributes.push(LinkAttribute::IfName(interface_name(link.header.index).ok()?));
    }
    Some(link)
}

/// A name as the kernel ends it.
fn name(octets: &[u8]) -> String {
    let end = octets.iter().position(|octet| *octet == 0).unwrap_or(octets.len());
    String::from_utf8_lossy(&octets[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Link, LinkKind};

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut octets = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        octets.extend(value);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    #[test]
    fn an_interface_that_cannot_be_decoded_is_known_by_its_head() {
        let mut link = [&[0u8, 0][..], &1u16.to_ne_bytes(), &7u32.to_ne_bytes(), &[0; 8]].concat();
        link.extend(attribute(libc::IFLA_IFNAME, b"odd0\0"));
        // The MTU has 4 octets; a number of 3 cannot be decoded.
        link.extend(attribute(libc::IFLA_TXQLEN, &[1, 2, 3]));
        link.extend(attribute(libc::IFLA_MTU, &9000u32.to_ne_bytes()));
        let mut datagram = ((HEADER_LEN + link.len()) as u32).to_ne_bytes().to_vec();
        datagram.extend(libc::RTM_NEWLINK.to_ne_bytes());
        datagram.extend([0; 2]);
        datagram.extend(5u32.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend(link);
        assert!(NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram).is_err());
        let messages = messages(&datagram).unwrap();
        assert_eq!(messages[0].header.sequence_number, 5);
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = &messages[0].payload else {
            panic!("not a link");
        };
        let known =
            Link { index: 7, name: "odd0".to_owned(), mtu: 9000, kind: LinkKind::Ethernet, vrf: None };
        assert_eq!(Link::parse(link), Some(known));
    }
}
