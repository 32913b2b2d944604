//! The kernel's own list of TCP sockets with what passed them (`sock_diag`, `linux/inet_diag.h`), and its way of
//! ending one.

use std::{collections::BTreeSet, io};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::{KernelError, mapped};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `NLMSG_ERROR` and `NLMSG_DONE` of `linux/netlink.h`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// `INET_DIAG_REQ_BYTECODE`: the attribute of a request that holds a filter.
const BYTECODE: u16 = 1;
/// `INET_DIAG_INFO`: the attribute that holds `struct tcp_info`.
const INFO: u16 = 2;
/// `TCPI_OPT_TIMESTAMPS` of `linux/tcp.h`.
const HAS_TIMESTAMPS: u8 = 1;
/// Length of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// Length of `struct inet_diag_msg`, behind which the attributes are.
const MESSAGE_LEN: usize = 72;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;
/// `TCP_SYN_RECV`.
const SYN_RECEIVED: u8 = 3;
/// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_CLOSE_WAIT`, `TCP_LAST_ACK` and `TCP_CLOSING`, as bits: data may still be sent.
const SENDING: u32 = 1 << ESTABLISHED | 1 << 4 | 1 << 8 | 1 << 9 | 1 << 11;
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;
/// With more ports than this, a list of all connections is cheaper than to compare each with all of them.
const MOST_PORTS: usize = 32;

/// A TCP connection of this network namespace as its socket has it, and what passed the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpConnection {
    /// Address of the socket's own end, IPv4-mapped for IPv4.
    pub local: [u8; 16],
    /// Address of the other end.
    pub peer: [u8; 16],
    /// Port of the socket's own end.
    pub local_port: u16,
    /// Port of the other end.
    pub peer_port: u16,
    /// Index of the interface that the socket is bound to, or 0.
    pub ifindex: u32,
    /// The kernel's name for the socket, never used twice.
    pub cookie: u64,
    /// Number of its state in Linux (`TCP_ESTABLISHED` and so on); of a request it is that of SYN-RECEIVED.
    pub state: u8,
    /// Number of the socket's file; 0 if no program has it.
    pub inode: u32,
    /// Segments received, modulo 2^32.
    pub segments_in: u32,
    /// Bytes that the other end has acknowledged.
    pub bytes_acked: u64,
    /// How often the oldest segment has been sent again without an answer.
    pub retransmits: u8,
    /// The MTU of the path, as the stack knows it by routes and by what it has learned.
    pub path_mtu: u32,
    /// Most bytes of data in a segment that the socket sends.
    pub mss: u32,
    /// Whether segments carry timestamps.
    pub has_timestamps: bool,
}

impl TcpConnection {
    /// Whether neither end has sent its FIN.
    pub fn is_established(&self) -> bool {
        self.state == ESTABLISHED
    }

    /// Whether it is of use to a program: the kernel keeps other sockets for a while to bring a connection to its end.
    /// One that waits to be accepted is no program's yet.
    pub fn serves(&self) -> bool {
        [ESTABLISHED, SYN_RECEIVED].contains(&self.state) || self.inode != 0
    }
}

/// A `sock_diag` netlink socket in the network namespace of the thread that made it.
pub struct SockDiag {
    socket: Socket,
    sequence: u32,
}

impl SockDiag {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`KernelError::Netlink`]; the kernel needs CONFIG_INET_DIAG, built in or as a module.
    pub fn open() -> Result<Self, KernelError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| KernelError::Netlink { action: "open a socket", source })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Lists the connections with one of `ports` at either end that are established, or may still send data before they end.
    ///
    /// # Errors
    /// [`KernelError::Netlink`], also if the kernel lacks CONFIG_INET_DIAG (`ENOENT`).
    pub fn sending(&mut self, ports: &BTreeSet<u16>) -> Result<Vec<TcpConnection>, KernelError> {
        self.list(SENDING, ports)
    }

    /// Lists the connections with one of `ports` at either end, whatever their state; those in TIME-WAIT, too.
    ///
    /// # Errors
    /// As [`Self::sending`].
    pub fn connections(&mut self, ports: &BTreeSet<u16>) -> Result<Vec<TcpConnection>, KernelError> {
        self.list(!(1 << LISTEN), ports)
    }

    /// Lists connections in the states whose bits are set. The kernel looks at each socket once for each family, however
    /// many ports there are.
    fn list(&mut self, states: u32, ports: &BTreeSet<u16>) -> Result<Vec<TcpConnection>, KernelError> {
        let mut connections = Vec::new();
        if ports.is_empty() {
            return Ok(connections);
        }
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = request(family as u8, states).to_vec();
            if ports.len() <= MOST_PORTS {
                put_attribute(&mut request, BYTECODE, &filter(ports));
            }
            match self.call(BY_FAMILY, DUMP, &request, &mut connections) {
                // A kernel without IPv6.
                Err(error) if family == libc::AF_INET6 && error.raw_os_error() == Some(libc::ENOENT) => {}
                other => {
                    other.map_err(|source| KernelError::Netlink { action: "list TCP sockets", source })?
                }
            }
        }
        connections.retain(|connection: &TcpConnection| {
            ports.contains(&connection.local_port) || ports.contains(&connection.peer_port)
        });
        Ok(connections)
    }

    /// Ends the connection: both ends see it reset. `Ok` if it is gone already.
    ///
    /// # Errors
    /// [`KernelError::Netlink`]; `EOPNOTSUPP` if the kernel lacks CONFIG_INET_DIAG_DESTROY.
    pub fn destroy(&mut self, connection: &TcpConnection) -> Result<(), KernelError> {
        let v4 = |address: &[u8; 16]| std::net::Ipv6Addr::from(*address).to_ipv4_mapped();
        let families = match (v4(&connection.local), v4(&connection.peer)) {
            // The socket may be one of IPv6 that speaks IPv4.
            (Some(_), Some(_)) => &[libc::AF_INET, libc::AF_INET6][..],
            _ => &[libc::AF_INET6],
        };
        for family in families {
            let mut request = request(*family as u8, u32::MAX);
            request[8..10].copy_from_slice(&connection.local_port.to_be_bytes());
            request[10..12].copy_from_slice(&connection.peer_port.to_be_bytes());
            for (at, address) in [(12, &connection.local), (28, &connection.peer)] {
                match (*family, v4(address)) {
                    (libc::AF_INET, Some(v4)) => request[at..at + 4].copy_from_slice(&v4.octets()),
                    _ => request[at..at + 16].copy_from_slice(address),
                }
            }
            request[44..48].copy_from_slice(&connection.ifindex.to_ne_bytes());
            request[48..52].copy_from_slice(&(connection.cookie as u32).to_ne_bytes());
            request[52..56].copy_from_slice(&((connection.cookie >> 32) as u32).to_ne_bytes());
            match self.call(DESTROY, ACK, &request, &mut Vec::new()) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
                other => {
                    return other
                        .map_err(|source| KernelError::Netlink { action: "end a TCP socket", source });
                }
            }
        }
        Ok(())
    }

    /// Sends a request and reads up to the end of its answers.
    fn call(
        &mut self,
        kind: u16,
        flags: u16,
        request: &[u8],
        connections: &mut Vec<TcpConnection>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = ((HEADER_LEN + request.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(request);
        self.socket.send(&message, 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Some(message) = take_message(&mut rest)? {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    BY_FAMILY => connections.extend(parse(message.payload)),
                    DONE | ERROR => return outcome(message.payload),
                    _ => {}
                }
            }
        }
    }
}

/// What the end of the answers says: also that of a list may say that it is not whole.
fn outcome(payload: &[u8]) -> io::Result<()> {
    match word(payload, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(malformed()),
    }
}

/// A `struct inet_diag_req_v2` for connections in the states whose bits are set, with `struct tcp_info` if only
/// listing them.
fn request(family: u8, states: u32) -> [u8; 56] {
    let mut request = [0; 56];
    request[0] = family;
    request[1] = libc::IPPROTO_TCP as u8;
    request[2] = 1 << (INFO - 1);
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    request
}

/// A filter that is true for sockets with one of `ports` at either end: `struct inet_diag_bc_op`, each with how far it
/// is to what comes next, in bytes, if it is true and if it is not. The end is true, what is beyond it is not.
fn filter(ports: &BTreeSet<u16>) -> Vec<u8> {
    /// `INET_DIAG_BC_JMP`: goes on elsewhere, always.
    const JUMP: u8 = 1;
    /// `INET_DIAG_BC_S_EQ` and `INET_DIAG_BC_D_EQ`: compare the port in the next operation with that of the socket's own
    /// and of the other end.
    const PORT_IS: [u8; 2] = [11, 12];
    /// Length of an operation, and of the comparison with a port and the jump behind it.
    const ONE: u16 = 4;
    const STEP: u16 = 3 * ONE;
    let steps: Vec<(u8, u16)> =
        ports.iter().flat_map(|port| PORT_IS.map(|operation| (operation, *port))).collect();
    let mut code = Vec::new();
    let mut put = |operation: u8, yes: u16, no: u16| {
        code.extend([operation, yes as u8]);
        code.extend(no.to_ne_bytes());
    };
    for (at, (operation, port)) in steps.iter().enumerate() {
        let rest = (steps.len() - at) as u16 * STEP;
        // Beyond the end, where there is no other port.
        let no = if rest == STEP { STEP + ONE } else { STEP };
        put(*operation, 2 * ONE, no);
        put(0, 0, *port);
        put(JUMP, ONE, rest - 2 * ONE);
    }
    code
}

/// Appends an attribute to a netlink message whose length is a multiple of four.
fn put_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    const HEADER_LEN: usize = 4;
    message.extend(((HEADER_LEN + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
}

/// A netlink message.
pub(super) struct Message<'a> {
    /// Which.
    pub(super) kind: u16,
    /// The number of the request that it answers.
    pub(super) sequence: u32,
    /// What is behind its header.
    pub(super) payload: &'a [u8],
}

/// Takes the next message from a datagram; `None` at its end.
pub(super) fn take_message<'a>(rest: &mut &'a [u8]) -> io::Result<Option<Message<'a>>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (len, kind, sequence) = (word(rest, 0).map(|len| len as usize), half(rest, 4), word(rest, 8));
    let (Some(len), Some(kind), Some(sequence)) = (len, kind, sequence) else { return Err(malformed()) };
    let payload = rest.get(HEADER_LEN..len).ok_or_else(malformed)?;
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some(Message { kind, sequence, payload }))
}

/// Reads a `struct inet_diag_msg` and the `struct tcp_info` behind it, which sockets in TIME-WAIT do not have: nothing
/// passes them that counts.
fn parse(message: &[u8]) -> Option<TcpConnection> {
    let family = i32::from(*message.first()?);
    let address = |at: usize| -> Option<[u8; 16]> {
        let octets: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
        match family {
            libc::AF_INET => {
                Some(mapped(std::net::IpAddr::from([octets[0], octets[1], octets[2], octets[3]])))
            }
            libc::AF_INET6 => Some(octets),
            _ => None,
        }
    };
    let connection = TcpConnection {
        state: *message.get(1)?,
        local_port: u16::from_be(half(message, 4)?),
        peer_port: u16::from_be(half(message, 6)?),
        local: address(8)?,
        peer: address(24)?,
        ifindex: word(message, 40)?,
        cookie: u64::from(word(message, 44)?) | u64::from(word(message, 48)?) << 32,
        inode: word(message, 68)?,
        ..TcpConnection::default()
    };
    let Some(info) = attribute(message.get(MESSAGE_LEN..)?, INFO) else {
        return (connection.state != ESTABLISHED).then_some(connection);
    };
    Some(TcpConnection {
        retransmits: *info.get(2)?,
        has_timestamps: info.get(5)? & HAS_TIMESTAMPS != 0,
        mss: word(info, 16)?,
        path_mtu: word(info, 60)?,
        bytes_acked: u64::from_ne_bytes(info.get(120..128)?.try_into().ok()?),
        segments_in: word(info, 140)?,
        ..connection
    })
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (len, kind) = (usize::from(half(attributes, 0)?), half(attributes, 2)?);
        let value = attributes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

/// The number at an offset, in host byte order.
pub(super) fn word(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

/// The number of two bytes at an offset, in host byte order.
pub(super) fn half(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(octets.get(at..at + 2)?.try_into().ok()?))
}

/// What a message of the kernel that cannot be read is answered with.
pub(super) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a netlink message of an impossible length")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn pair(address: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(address).ok()?;
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Some((near, listener.accept().unwrap().0))
    }

    fn find(diag: &mut SockDiag, stream: &TcpStream) -> Option<TcpConnection> {
        let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let ends = (mapped(local.ip()), mapped(peer.ip()), local.port(), peer.port());
        let listed = diag.sending(&BTreeSet::from([peer.port()])).unwrap();
        listed.into_iter().find(|found| (found.local, found.peer, found.local_port, found.peer_port) == ends)
    }

    #[test]
    fn a_list_that_is_not_whole_is_none() {
        assert!(outcome(&0i32.to_ne_bytes()).is_ok());
        // As the kernel ends it without its module `tcp_diag`.
        let error = outcome(&(-libc::ENOENT).to_ne_bytes()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert!(outcome(&[]).is_err());
    }

    #[test]
    fn an_established_connection_is_listed_with_what_passed_it() {
        let mut diag = SockDiag::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some((mut near, mut far)) = pair(address) else { continue };
            let before = find(&mut diag, &near).unwrap();
            // Loopback carries 65,536 bytes, and TCP has 20 or 32 of them, beside IP, for its header.
            let header = if before.has_timestamps { 32 } else { 20 };
            assert!(before.path_mtu > 60_000 && before.mss > 0 && before.mss + header < before.path_mtu);
            near.write_all(b"12345").unwrap();
            far.read_exact(&mut [0; 5]).unwrap();
            far.write_all(b"1").unwrap();
            near.read_exact(&mut [0]).unwrap();
            let after = find(&mut diag, &near).unwrap();
            assert_eq!(after.cookie, before.cookie);
            assert_eq!(after.bytes_acked - before.bytes_acked, 5);
            assert!(after.segments_in > before.segments_in, "{address}");
        }
    }

    #[test]
    fn any_number_of_ports_is_listed() {
        let mut diag = SockDiag::open().unwrap();
        let Some((near, _far)) = pair("127.0.0.1:0") else { return };
        let Some((other, _far)) = pair("127.0.0.1:0") else { return };
        let port = near.peer_addr().unwrap().port();
        for others in [0, 1, 7, MOST_PORTS as u16 - 1, MOST_PORTS as u16] {
            // Those before and behind it in the filter.
            for first in [1, u16::MAX - others] {
                let ports: BTreeSet<u16> = (0..others).map(|number| first + number).chain([port]).collect();
                let listed = diag.sending(&ports).unwrap();
                // Both ends are of this host.
                let count =
                    |is: fn(&TcpConnection) -> u16| listed.iter().filter(|found| is(found) == port).count();
                assert_eq!(
                    (count(|found| found.local_port), count(|found| found.peer_port)),
                    (1, 1),
                    "{others}"
                );
                let strange = other.peer_addr().unwrap().port();
                let is_strange =
                    |found: &TcpConnection| [found.local_port, found.peer_port].contains(&strange);
                assert!(ports.contains(&strange) || !listed.iter().any(is_strange), "{others}");
            }
        }
        assert_eq!(diag.sending(&BTreeSet::new()).unwrap(), []);
    }

    #[test]
    fn connections_that_end_are_listed_without_a_program() {
        let mut diag = SockDiag::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some((near, far)) = pair(address) else { continue };
            let (local, peer) = (near.local_addr().unwrap(), near.peer_addr().unwrap());
            let ports = BTreeSet::from([local.port()]);
            let mut ends = |port: u16| {
                let listed = diag.connections(&ports).unwrap();
                listed.into_iter().find(|found| found.local_port == port)
            };
            let open = [ends(local.port()).unwrap(), ends(peer.port()).unwrap()];
            assert!(open.iter().all(|end| end.state == ESTABLISHED && end.serves()), "{open:?}");
            drop(near);
            drop(far);
            // The end that closed first is in TIME-WAIT, and the other one is gone.
            let closed = ends(local.port()).unwrap();
            assert!(closed.state != ESTABLISHED && !closed.serves(), "{closed:?}");
            assert_eq!(ends(peer.port()), None);
        }
    }

    #[test]
    fn truncated_messages_are_errors_or_nothing() {
        let mut message = vec![0; MESSAGE_LEN + 4 + 144];
        message[0] = libc::AF_INET as u8;
        message[MESSAGE_LEN..MESSAGE_LEN + 2].copy_from_slice(&148u16.to_ne_bytes());
        message[MESSAGE_LEN + 2..MESSAGE_LEN + 4].copy_from_slice(&INFO.to_ne_bytes());
        assert!(parse(&message).is_some());
        message[1] = ESTABLISHED;
        for len in 0..message.len() {
            assert!(parse(&message[..len]).is_none(), "{len}");
        }
        // An attribute of no length would be read for ever.
        message[MESSAGE_LEN..MESSAGE_LEN + 2].fill(0);
        assert!(parse(&message).is_none());
        assert!(take_message(&mut &[9u8, 0, 0, 0][..]).is_err());
    }
}
