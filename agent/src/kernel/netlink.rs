//! A small rtnetlink client that blocks: the daemon's requests are few and answered at once.

use std::io;

use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        address::AddressMessage,
        link::LinkMessage,
        tc::{TcHandle, TcMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::KernelError;

/// Length of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;

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

fn tc_message(index: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index.cast_signed();
    message.header.parent = parent;
    message
}

/// The messages in one datagram. One that cannot be decoded is logged and left out: it is better
/// to miss an exotic interface than to see none.
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
            Err(error) => tracing::warn!(%error, "netlink: a message of the kernel cannot be decoded"),
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}
