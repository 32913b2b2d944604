//! One end of a TLS connection between two daemons: octets of the wire go in and come out, nothing else is touched.

pub mod suites;

use zeroize::Zeroizing;

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
pub struct Endpoint {}

/// Why a handshake, or the connection after it, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {}

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
    /// A new end. `psk` is used as `tls.authentication` asks for it.
    ///
    /// # Errors
    /// [`TlsError`] if a file of `tls` is missing or wrong.
    pub fn new(side: Side, tls: &config::Tls, psk: &Psk) -> Result<Self, TlsError> {
        let _ = (side, tls, psk);
        unimplemented!()
    }

    /// Takes in octets of the wire. Handshake and records advance as far as they can.
    ///
    /// # Errors
    /// [`TlsError`]; there may be an alert to send all the same ([`Endpoint::take_output`]).
    pub fn receive(&mut self, octets: &[u8]) -> Result<(), TlsError> {
        let _ = octets;
        unimplemented!()
    }

    /// Octets for the wire.
    pub fn take_output(&mut self) -> Vec<u8> {
        unimplemented!()
    }

    /// Whether the handshake is over and the peer has proved who it is.
    pub fn is_established(&self) -> bool {
        unimplemented!()
    }

    /// Encrypts `plaintext` for the peer.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        let _ = plaintext;
        unimplemented!()
    }

    /// What the peer sent, decrypted.
    pub fn take_received(&mut self) -> Zeroizing<Vec<u8>> {
        unimplemented!()
    }

    /// Whether the peer has closed its direction (close_notify).
    pub fn is_closed(&self) -> bool {
        unimplemented!()
    }

    /// 32 octets of keying material (RFC 5705; RFC 8446, 7.5), the same at both ends for the same label and context.
    ///
    /// # Errors
    /// [`TlsError`] before the handshake is over.
    pub fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError> {
        let _ = (label, context);
        unimplemented!()
    }

    /// What was agreed on; `None` before the handshake is over.
    pub fn summary(&self) -> Option<Summary> {
        unimplemented!()
    }
}
