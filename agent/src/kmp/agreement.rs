//! From a TLS connection to the master key tuple of one protected connection.
//!
//! Both ends export two secrets of 32 octets from it (RFC 5705; RFC 8446 §7.5), with [`Terms::context`] for a context:
//! one is the master key, the other keys the [`Confirmation`]s.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use openssl::{error::ErrorStack, hash::MessageDigest, pkey::PKey, sign::Signer};
use tcpauth_common::{
    Algorithm, Isn, Kdf, KeyId,
    layout::{Quartet, mapped},
};
use zeroize::Zeroizing;

use super::message::{Confirmation, MessageError, Nonce, Reader};
use crate::keys::{MasterKey, Mkt, Role, TcpOptions};

/// Label of the master key.
pub const MASTER_KEY_LABEL: &str = "EXPORTER-tcpauth-mkt";

/// Label of the key of confirmations.
pub const CONFIRMATION_LABEL: &str = "EXPORTER-tcpauth-confirm";

/// The lowest KeyID of agreed keys.
pub const FIRST_AGREED_ID: KeyId = KeyId(128);

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

/// All that the keys are bound to. Both ends have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Version of the messages: the lower one of both ends' highest.
    pub version: u16,
    /// Keys of what.
    pub connection: Connection,
    /// The offerer's end of it.
    pub offerer: Role,
    /// KeyID of segments to the client.
    pub client_recv_id: KeyId,
    /// KeyID of segments to the server.
    pub server_recv_id: KeyId,
    /// Whether other TCP options are under the MACs.
    pub tcp_options: TcpOptions,
    /// The offerer's.
    pub offer_nonce: Nonce,
    /// The accepter's.
    pub accept_nonce: Nonce,
    /// Of the MACs.
    pub algorithm: Algorithm,
    /// SHA-256 of the offerer's Capabilities, then the accepter's, as they were on the wire with their heads.
    pub capabilities: [u8; 32],
}

/// Proofs of both ends that they have the keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Confirmations {
    /// The offerer's.
    pub offerer: Confirmation,
    /// The accepter's.
    pub accepter: Confirmation,
}

impl Connection {
    /// The connection of `quartet`, in which our end is `role`; `None` if the client's ISN is not known.
    pub fn new(quartet: &Quartet, role: Role, local_isn: Option<Isn>, peer_isn: Option<Isn>) -> Option<Self> {
        let local = end(quartet.local, quartet.local_port);
        let peer = end(quartet.peer, quartet.peer_port);
        Some(match role {
            Role::Client => {
                Self { client: local, server: peer, client_isn: local_isn?, server_isn: peer_isn }
            }
            Role::Server => {
                Self { client: peer, server: local, client_isn: peer_isn?, server_isn: local_isn }
            }
        })
    }

    /// Its ends as in the maps, ours being `role`; `scope` as in [`Quartet`].
    pub fn quartet(&self, role: Role, scope: u32) -> Quartet {
        let (local, peer) = (self.end(role), self.end(role.other()));
        Quartet {
            local: mapped(local.ip()),
            peer: mapped(peer.ip()),
            local_port: local.port(),
            peer_port: peer.port(),
            scope,
        }
    }

    /// The end that is `role`.
    pub fn end(&self, role: Role) -> SocketAddr {
        match role {
            Role::Client => self.client,
            Role::Server => self.server,
        }
    }

    /// Whether keys of `other` would be keys of this one: it has the same ends, and either the same client's ISN, or is
    /// the same one opened by both ends at once.
    pub fn is_rival_of(&self, other: &Self) -> bool {
        let is_same = (self.client, self.server) == (other.client, other.server);
        let is_crossed = (self.client, self.server) == (other.server, other.client);
        is_crossed || is_same && self.client_isn == other.client_isn
    }

    /// The same with addresses as [`Connection::decode`] gives them: IPv4 not mapped into IPv6, without scopes.
    pub(super) fn canonical(self) -> Self {
        let end = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Self { client: end(self.client), server: end(self.server), ..self }
    }

    /// Appends client's address (16, IPv4-mapped for IPv4) and port, server's address and port, client's ISN, 1 and the
    /// server's ISN, or 0 and zeros: 45 octets.
    pub(super) fn encode(&self, encoded: &mut Vec<u8>) {
        for end in [self.client, self.server] {
            encoded.extend(mapped(end.ip()));
            encoded.extend(end.port().to_be_bytes());
        }
        encoded.extend(self.client_isn.0.to_be_bytes());
        encoded.push(self.server_isn.is_some().into());
        encoded.extend(self.server_isn.unwrap_or_default().0.to_be_bytes());
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<Self, MessageError> {
        let client = end(reader.array()?, reader.u16()?);
        let server = end(reader.array()?, reader.u16()?);
        if client.is_ipv4() != server.is_ipv4() {
            return Err(MessageError::Field("connection: an end of IPv4 and one of IPv6"));
        }
        let client_isn = Isn(reader.u32()?);
        let has_server_isn =
            reader.value("flag of an ISN", |flag| [false, true].get(usize::from(flag)).copied())?;
        let server_isn = match (has_server_isn, reader.u32()?) {
            (true, isn) => Some(Isn(isn)),
            (false, 0) => None,
            (false, _) => return Err(MessageError::Field("ISN: it is said to be unknown")),
        };
        Ok(Self { client, server, client_isn, server_isn })
    }
}

impl Terms {
    /// The exporter's context: version u16, the connection as in [`super::message`], the offerer's role (0 client, 1 server), KeyID of
    /// segments to the client, KeyID of segments to the server, options (0 under the MACs, 1 not), the offerer's nonce,
    /// the accepter's nonce, length u8 and name of the algorithm, hash of both Capabilities.
    pub fn context(&self) -> Vec<u8> {
        let mut octets = self.version.to_be_bytes().to_vec();
        self.connection.encode(&mut octets);
        octets.extend([self.offerer.number(), self.client_recv_id.0, self.server_recv_id.0]);
        octets.push(self.tcp_options.number());
        octets.extend(self.offer_nonce);
        octets.extend(self.accept_nonce);
        octets.push(self.algorithm.name().len() as u8);
        octets.extend(self.algorithm.name().as_bytes());
        octets.extend(self.capabilities);
        octets
    }

    /// The keys of our end, which is `role`.
    pub fn agreed(&self, role: Role, master_key: &Zeroizing<[u8; 32]>) -> Agreed {
        let (recv_id, send_id) = match role {
            Role::Client => (self.client_recv_id, self.server_recv_id),
            Role::Server => (self.server_recv_id, self.client_recv_id),
        };
        let master_key = MasterKey::from(master_key);
        let (algorithm, tcp_options) = (self.algorithm, self.tcp_options);
        let mkt = Mkt { send_id, recv_id, algorithm, kdf: Kdf::Rfc5926, tcp_options, master_key };
        Agreed { connection: self.connection, role, mkt }
    }
}

impl Confirmations {
    /// HMAC-SHA-256 over `tcpauth offerer` or `tcpauth accepter`, an octet of 0, and the context.
    ///
    /// # Errors
    /// Of OpenSSL: no memory, or no such algorithm.
    pub fn new(key: &Zeroizing<[u8; 32]>, context: &[u8]) -> Result<Self, ErrorStack> {
        let key = PKey::hmac(&key[..])?;
        let confirmation = |label: &[u8]| {
            let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
            for part in [label, &[0], context] {
                signer.update(part)?;
            }
            let mut confirmation = [0; 32];
            signer.sign(&mut confirmation)?;
            Ok(confirmation)
        };
        Ok(Self { offerer: confirmation(b"tcpauth offerer")?, accepter: confirmation(b"tcpauth accepter")? })
    }
}

impl Role {
    /// Its number in messages and contexts.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Client => 0,
            Self::Server => 1,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Client, Self::Server].get(usize::from(number)).copied()
    }

    /// The other end's.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl TcpOptions {
    /// Its number in messages and contexts.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Include => 0,
            Self::Exclude => 1,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Include, Self::Exclude].get(usize::from(number)).copied()
    }
}

fn end(address: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address)).to_canonical(), port)
}
