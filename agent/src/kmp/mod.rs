//! Key management: the keys of a connection, agreed by two daemons in a TLS handshake (draft-rescorla-tcp-auth-arch-00,
//! 6.2). No I/O in here: octets go in and come out, and time is told.
//!
//! - [`tls`]: one end of a TLS connection, by OpenSSL or rustls.
//! - [`message`]: what two daemons say to each other inside TLS; [`Exchange`]: in which order.
//! - [`agreement`]: from a TLS connection to the master key tuple of one protected connection.
//! - [`stream`]: octets in order, over segments that may be lost: for a handshake on the protected connection itself;
//!   [`layered`]: that handshake.

pub mod agreement;
pub mod exchange;
pub mod layered;
pub mod message;
pub mod stream;
pub mod tls;
#[cfg(test)]
mod vectors;

pub use agreement::{Agreed, Connection};
pub use exchange::{Event, Exchange, ExchangeError, Transport};
pub use message::{Capabilities, Refusal};
pub use tls::{Endpoint, Psk, Side, TlsError};
