//! From a TLS connection to the master key tuple of one protected connection.

use std::net::SocketAddr;

use tcpauth_common::{Isn, layout::Quartet};

use crate::keys::{Mkt, Role};

/// A protected connection, of which keys are agreed. Both daemons have to see the same ends: no NAT between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The end that sent the first SYN.
    pub client: SocketAddr,
    /// The other.
    pub server: SocketAddr,
    /// The client's ISN.
    pub client_isn: Isn,
    /// The server's, if there is one yet.
    pub server_isn: Option<Isn>,
}

/// Keys that were agreed. Holds a secret: no `Debug`.
#[derive(Clone)]
pub struct Agreed {
    /// Of which connection.
    pub connection: Connection,
    /// What our end is in it.
    pub role: Role,
    /// Its master key is from the exporter; traffic keys come from it by the KDF of the algorithm, as from any other
    /// (RFC 5926), so that they depend on both ISNs.
    pub mkt: Mkt,
}

impl Connection {
    /// The connection of `quartet`, in which our end is `role`.
    pub fn new(quartet: &Quartet, role: Role, local_isn: Option<Isn>, peer_isn: Option<Isn>) -> Option<Self> {
        let _ = (quartet, role, local_isn, peer_isn);
        unimplemented!()
    }
}
