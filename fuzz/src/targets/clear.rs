//! What stands for TLS below messages: nothing encrypted, nothing authenticated.

use openssl::sha::sha256;
use tcpauth::kmp::{
    Transport,
    tls::{Summary, TlsError},
};
use zeroize::Zeroizing;

/// A transport in clear. All of them export the same.
#[derive(Default)]
pub struct Clear {
    sent: Vec<u8>,
    received: Vec<u8>,
    closed: bool,
}

impl Transport for Clear {
    fn receive(&mut self, octets: &[u8]) -> Result<(), TlsError> {
        self.received.extend(octets);
        Ok(())
    }

    fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sent)
    }

    fn is_established(&self) -> bool {
        true
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.sent.extend(plaintext);
        Ok(())
    }

    fn take_received(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.received))
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError> {
        Ok(Zeroizing::new(sha256(&[b"secret of this run", label.as_bytes(), context].concat())))
    }

    fn summary(&self) -> Option<Summary> {
        Some(Summary { version: "none".into(), suite: "none".into(), peer: "peer".into() })
    }
}
