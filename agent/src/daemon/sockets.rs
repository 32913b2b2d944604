//! Which connections have a socket in this network namespace.

use std::{collections::HashMap, fs, io, net::Ipv4Addr};

use tcpauth_common::layout::Quartet;

/// `TCP_ESTABLISHED` and `TCP_SYN_RECV`: a connection that waits to be accepted is in one of these states, and is no
/// program's yet.
const OPEN_STATES: [u8; 2] = [1, 3];

/// The TCP sockets of this network namespace at one moment, each with whether it is of use to a program.
pub struct Sockets(HashMap<Ends, bool>);

type Ends = ([u8; 16], u16, [u8; 16], u16);

/// The sockets, listed when they are first asked for.
#[derive(Default)]
pub struct ListedOnce(Option<Option<Sockets>>);

impl ListedOnce {
    /// Returns the sockets, unless they cannot be listed; that is logged.
    pub fn get(&mut self) -> Option<&Sockets> {
        let list =
            || Sockets::list().inspect_err(|error| tracing::warn!("cannot list sockets: {error}")).ok();
        self.0.get_or_insert_with(list).as_ref()
    }
}

impl Sockets {
    /// Lists them, TIME-WAIT and all.
    ///
    /// # Errors
    /// If the kernel's lists cannot be read.
    pub fn list() -> io::Result<Self> {
        let mut sockets = HashMap::new();
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
        self.0.contains_key(&ends(quartet))
    }

    /// Whether a socket has these ends that is of use to a program: the kernel keeps others for a while to bring a
    /// connection to its end.
    pub fn serve(&self, quartet: &Quartet) -> bool {
        self.0.get(&ends(quartet)).copied().unwrap_or_default()
    }
}

fn ends(quartet: &Quartet) -> Ends {
    (quartet.local, quartet.local_port, quartet.peer, quartet.peer_port)
}

/// Reads a line of the list: `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`, addresses as
/// hexadecimal words in host byte order. Returns the ends, and whether the socket is of use to a program.
fn parse(line: &str) -> Option<(Ends, bool)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, local_port) = end(fields.next()?)?;
    let (peer, peer_port) = end(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(5)?;
    Some(((local, local_port, peer, peer_port), OPEN_STATES.contains(&state) || inode != "0"))
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
            assert!(sockets.have(&quartet) && sockets.serve(&quartet), "{address}");
            quartet.peer_port ^= 1;
            assert!(!sockets.have(&quartet) && !sockets.serve(&quartet), "{address}");
        }
    }

    #[test]
    fn a_socket_that_no_program_has_any_more_is_told_from_one_to_be_accepted() {
        let serves = |state: &str, inode: &str| {
            let line = format!(
                "  0: 0100007F:00B3 0200007F:9C40 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 \
                 0000000000000000 20 4 30 10 -1"
            );
            parse(&line).unwrap().1
        };
        // Established, accepted and not; SYN-RECEIVED.
        assert!(serves("01", "4711") && serves("01", "0") && serves("03", "0"));
        // FIN-WAIT-1 and CLOSE-WAIT of a program.
        assert!(serves("04", "4711") && serves("08", "4711"));
        // FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT, LAST-ACK and CLOSING of none.
        assert!(["04", "05", "06", "09", "0B"].iter().all(|state| !serves(state, "0")));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_no_socket() {
        assert!(parse("  0: 0100007F:1F9 0100007F").is_none());
        assert!(parse("  0: 01007F:01F9 0100007F:0001").is_none());
        assert!(parse("").is_none());
    }
}
