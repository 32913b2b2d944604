//! Which connections have a socket in this network namespace.

use std::collections::{BTreeSet, HashMap};

use tcpauth_common::layout::Quartet;

use crate::kernel::{KernelError, SockDiag, TcpConnection};

/// The sockets of TCP connections at one moment, each with whether it is of use to a program.
pub struct Sockets(HashMap<Ends, bool>);

type Ends = ([u8; 16], u16, [u8; 16], u16);

/// The sockets with one of some ports at either end, listed when they are first asked for.
pub struct ListedOnce<'p> {
    ports: &'p BTreeSet<u16>,
    listed: Option<Option<Sockets>>,
}

impl<'p> ListedOnce<'p> {
    /// Those with `ports`.
    pub fn with(ports: &'p BTreeSet<u16>) -> Self {
        Self { ports, listed: None }
    }

    /// Returns the sockets, unless none with the ports of `quartet` are asked for, or they cannot be listed; that is
    /// logged.
    pub fn about(&mut self, quartet: &Quartet) -> Option<&Sockets> {
        if ![quartet.local_port, quartet.peer_port].iter().any(|port| self.ports.contains(port)) {
            return None;
        }
        let list = || {
            let unlisted = |error: &KernelError| tracing::warn!("cannot list sockets: {error}");
            Sockets::list(self.ports).inspect_err(unlisted).ok()
        };
        self.listed.get_or_insert_with(list).as_ref()
    }
}

impl Sockets {
    /// Lists those with one of `ports` at either end, TIME-WAIT and all. The kernel sends no others, however many there
    /// are: a host with a million sockets would keep the main loop waiting for seconds.
    ///
    /// # Errors
    /// As [`SockDiag::connections`].
    pub fn list(ports: &BTreeSet<u16>) -> Result<Self, KernelError> {
        let connections = SockDiag::open()?.connections(ports)?;
        let ends = |one: &TcpConnection| (one.local, one.local_port, one.peer, one.peer_port);
        Ok(Self(connections.iter().map(|one| (ends(one), one.serves())).collect()))
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kernel::mapped;

    #[test]
    fn a_connection_of_this_process_is_found_until_it_ends() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let quartet = Quartet {
                local: mapped(local.ip()),
                peer: mapped(peer.ip()),
                local_port: local.port(),
                peer_port: peer.port(),
                scope: 0,
            };
            let other = Quartet { peer_port: peer.port() ^ 1, ..quartet };
            let ports = BTreeSet::from([peer.port()]);
            let mut listed = ListedOnce::with(&ports);
            let sockets = listed.about(&quartet).unwrap();
            assert!(sockets.have(&quartet) && sockets.serve(&quartet), "{address}");
            assert!(!sockets.have(&other) && !sockets.serve(&other), "{address}");
            // One that waits to be accepted is no program's yet, and no ghost.
            let accepted = Quartet {
                local: quartet.peer,
                peer: quartet.local,
                local_port: quartet.peer_port,
                peer_port: quartet.local_port,
                scope: 0,
            };
            assert!(sockets.serve(&accepted), "{address}");
            let strange = Quartet { local_port: 1, peer_port: 2, ..quartet };
            assert!(listed.about(&strange).is_none(), "nothing is known of it");

            let far = listener.accept().unwrap().0;
            drop(stream);
            drop(far);
            let sockets = Sockets::list(&ports).unwrap();
            assert!(sockets.have(&quartet) && !sockets.serve(&quartet), "{address}: in TIME-WAIT");
            assert!(!sockets.have(&accepted), "{address}");
        }
    }
}
