//! Which connections have a socket in this network namespace.

use std::{collections::HashSet, fs, io, net::Ipv4Addr};

use tcpauth_common::layout::Quartet;

/// The TCP sockets of this network namespace at one moment.
pub struct Sockets(HashSet<Ends>);

type Ends = ([u8; 16], u16, [u8; 16], u16);

impl Sockets {
    /// Lists them, TIME-WAIT and all.
    ///
    /// # Errors
    /// If the kernel's lists cannot be read.
    pub fn list() -> io::Result<Self> {
        let mut sockets = HashSet::new();
        for list in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            match fs::read_to_string(list) {
                Ok(text) => sockets.extend(text.lines().skip(1).filter_map(parse)),
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound && list.ends_with('6') => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(sockets))
    }

    /// Whether a socket has these ends.
    pub fn have(&self, quartet: &Quartet) -> bool {
        self.0.contains(&(quartet.local, quartet.local_port, quartet.peer, quartet.peer_port))
    }
}

/// The ends in a line of the list: `sl local_address rem_address …`, addresses as hexadecimal words
/// in host byte order.
fn parse(line: &str) -> Option<Ends> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, local_port) = end(fields.next()?)?;
    let (peer, peer_port) = end(fields.next()?)?;
    Some((local, local_port, peer, peer_port))
}

fn end(field: &str) -> Option<([u8; 16], u16)> {
    let (address, port) = field.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match address.len() {
        8 => Some((Ipv4Addr::from(word(0)?).to_ipv6_mapped().octets(), port)),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            Some((octets, port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kernel::mapped;

    #[test]
    fn a_connection_of_this_process_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let mut quartet = Quartet {
                local: mapped(local.ip()),
                peer: mapped(peer.ip()),
                local_port: local.port(),
                peer_port: peer.port(),
                scope: 0,
            };
            let sockets = Sockets::list().unwrap();
            assert!(sockets.have(&quartet), "{address}");
            quartet.peer_port ^= 1;
            assert!(!sockets.have(&quartet), "{address}");
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_is_no_socket() {
        assert!(parse("  0: 0100007F:1F9 0100007F").is_none());
        assert!(parse("  0: 01007F:01F9 0100007F:0001").is_none());
        assert!(parse("").is_none());
    }
}
