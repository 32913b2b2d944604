//! One end of a TLS connection between two daemons: octets of the wire go in and come out, nothing else is touched.

mod certificate;
mod context;
mod error;
mod pipe;
mod psk;
mod psk_callbacks;
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

/// One end of a TLS connection.
pub struct Endpoint {
    connection: psk::PskConnection,
}

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
            config::Authentication::Psk { rsa, .. } => psk::PskConnection::new(side, tls, rsa.as_ref(), psk)?,
            config::Authentication::RawPublicKey { .. } => {
                return Err(TlsError::Settings("raw public keys: not in this version".to_owned()));
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
        self.connection.receive(octets)
    }

    /// Octets for the wire, each once.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.connection.take_output()
    }

    /// Whether the handshake is over and the peer has proved who it is.
    pub fn is_established(&self) -> bool {
        self.connection.is_established()
    }

    /// Encrypts `plaintext` for the peer.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.connection.send(plaintext)
    }

    /// What the peer sent, decrypted; each octet once.
    pub fn take_received(&mut self) -> Zeroizing<Vec<u8>> {
        self.connection.take_received()
    }

    /// Ends our direction: close_notify is for the wire then.
    pub fn close(&mut self) {
        self.connection.close();
    }

    /// Whether the peer has closed its direction (close_notify).
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// 32 octets of keying material (RFC 5705; RFC 8446, 7.5), the same at both ends for the same label and context.
    ///
    /// # Errors
    /// [`TlsError`] before the handshake is over.
    pub fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError> {
        self.connection.export(label, context)
    }

    /// What was agreed on; `None` before the handshake is over.
    pub fn summary(&self) -> Option<Summary> {
        self.connection.summary()
    }
}

#[cfg(test)]
mod tests;
