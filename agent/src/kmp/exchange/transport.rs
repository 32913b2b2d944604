//! What carries the messages.

use zeroize::Zeroizing;

use crate::kmp::tls::{Endpoint, Summary, TlsError};

/// One end of what carries messages and exports keys: [`Endpoint`], whose methods these are. Another can stand for it
/// where what is below the messages is not looked at.
pub trait Transport {
    /// [`Endpoint::receive`]
    ///
    /// # Errors
    /// As there.
    fn receive(&mut self, octets: &[u8]) -> Result<(), TlsError>;

    /// [`Endpoint::take_output`]
    fn take_output(&mut self) -> Vec<u8>;

    /// [`Endpoint::is_established`]
    fn is_established(&self) -> bool;

    /// [`Endpoint::send`]
    ///
    /// # Errors
    /// As there.
    fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError>;

    /// [`Endpoint::take_received`]
    fn take_received(&mut self) -> Zeroizing<Vec<u8>>;

    /// [`Endpoint::close`]
    fn close(&mut self);

    /// [`Endpoint::is_closed`]
    fn is_closed(&self) -> bool;

    /// [`Endpoint::export`]
    ///
    /// # Errors
    /// As there.
    fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError>;

    /// [`Endpoint::summary`]
    fn summary(&self) -> Option<Summary>;
}

impl Transport for Endpoint {
    fn receive(&mut self, octets: &[u8]) -> Result<(), TlsError> {
        self.receive(octets)
    }

    fn take_output(&mut self) -> Vec<u8> {
        self.take_output()
    }

    fn is_established(&self) -> bool {
        self.is_established()
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.send(plaintext)
    }

    fn take_received(&mut self) -> Zeroizing<Vec<u8>> {
        self.take_received()
    }

    fn close(&mut self) {
        self.close();
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError> {
        self.export(label, context)
    }

    fn summary(&self) -> Option<Summary> {
        self.summary()
    }
}
