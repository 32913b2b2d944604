//! One end of a TLS connection between two daemons: octets of the wire go in and come out, nothing else is touched.

mod certificate;
mod context;
mod error;
pub mod files;
pub mod key_file;
mod pipe;
mod psk;
mod psk_callbacks;
mod raw_key;
mod raw_key_peer;
pub mod suites;

use zeroize::Zeroizing;

pub use error::TlsError;

use crate::{config, keys::MasterKey};

/// Which end of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It sends the ClientHello.
    Client,
    /// It answers one.
    Server,
}

/// The secret that two ends share, and what they call themselves. Holds a secret: no `Debug`.
#[derive(Clone)]
pub struct Psk {
    /// Our identity, 1 to 255 octets of UTF-8.
    pub identity: String,
    /// The peer's identity.
    pub peer_identity: String,
    /// The secret, 1 to 512 octets.
    pub secret: MasterKey,
}

/// One end of a TLS connection. Needs no more than a few hundred octets once it is established and rests, beside what the
/// library keeps.
pub struct Endpoint {
    connection: Connection,
}

/// By what the two ends know each other.
enum Connection {
    Psk(Box<psk::PskConnection>),
    RawKey(Box<raw_key::RawKeyConnection>),
}

/// What a TLS record begins with before there are keys: the types of handshake messages and alerts.
const FIRST_OCTETS: [u8; 2] = [22, 21];

/// What a handshake agreed on, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// `TLS 1.3` or `TLS 1.2`.
    pub version: String,
    /// Name of the suite, as in the IANA registry.
    pub suite: String,
    /// Who the peer proved to be: its identity, or its fingerprint in hex.
    pub peer: String,
}

impl Endpoint {
    /// A new end. `psk` is used if `tls.authentication` asks for it. A client has octets for the wire at once.
    ///
    /// # Errors
    /// [`TlsError::Settings`] if a file of `tls` is missing or wrong.
    pub fn new(side: Side, tls: &config::Tls, psk: &Psk) -> Result<Self, TlsError> {
        let connection = match &tls.authentication {
            config::Authentication::Psk { rsa, .. } => {
                Connection::Psk(psk::PskConnection::new(side, tls, rsa.as_ref(), psk)?.into())
            }
            config::Authentication::RawPublicKey { private_key_file, peer_fingerprint } => {
                let connection =
                    raw_key::RawKeyConnection::new(side, tls, private_key_file, *peer_fingerprint)?;
                Connection::RawKey(connection.into())
            }
        };
        Ok(Self { connection })
    }

    /// Takes in octets of the wire. Handshake and records advance as far as they can.
    ///
    /// # Errors
    /// [`TlsError`], each time from the first on; there may be an alert to send all the same
    /// ([`Endpoint::take_output`]).
    pub fn receive(&mut self, octets: &[u8]) -> Result<(), TlsError> {
        match &mut self.connection {
            Connection::Psk(connection) => connection.receive(octets),
            Connection::RawKey(connection) => connection.receive(octets),
        }
    }

    /// Octets for the wire, each once.
    pub fn take_output(&mut self) -> Vec<u8> {
        match &mut self.connection {
            Connection::Psk(connection) => connection.take_output(),
            Connection::RawKey(connection) => connection.take_output(),
        }
    }

    /// Whether the handshake is over and the peer has proved who it is.
    pub fn is_established(&self) -> bool {
        match &self.connection {
            Connection::Psk(connection) => connection.is_established(),
            Connection::RawKey(connection) => connection.is_established(),
        }
    }

    /// Encrypts `plaintext` for the peer.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        match &mut self.connection {
            Connection::Psk(connection) => connection.send(plaintext),
            Connection::RawKey(connection) => connection.send(plaintext),
        }
    }

    /// What the peer sent, decrypted; each octet once.
    pub fn take_received(&mut self) -> Zeroizing<Vec<u8>> {
        match &mut self.connection {
            Connection::Psk(connection) => connection.take_received(),
            Connection::RawKey(connection) => connection.take_received(),
        }
    }

    /// Ends our direction: close_notify is for the wire then.
    pub fn close(&mut self) {
        match &mut self.connection {
            Connection::Psk(connection) => connection.close(),
            Connection::RawKey(connection) => connection.close(),
        }
    }

    /// Whether the peer has closed its direction (close_notify).
    pub fn is_closed(&self) -> bool {
        match &self.connection {
            Connection::Psk(connection) => connection.is_closed(),
            Connection::RawKey(connection) => connection.is_closed(),
        }
    }

    /// 32 octets of keying material (RFC 5705; RFC 8446 §7.5), the same at both ends for the same label and context.
    ///
    /// # Errors
    /// [`TlsError`] before the handshake is over.
    pub fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError> {
        match &self.connection {
            Connection::Psk(connection) => connection.export(label, context),
            Connection::RawKey(connection) => connection.export(label, context),
        }
    }

    /// What was agreed on; `None` before the handshake is over.
    pub fn summary(&self) -> Option<Summary> {
        match &self.connection {
            Connection::Psk(connection) => connection.summary(),
            Connection::RawKey(connection) => connection.summary(),
        }
    }
}

#[cfg(test)]
mod tests;
