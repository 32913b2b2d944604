//! Verification of a capture file, offline.
//!
//! Data flows one way: [`Frames`] (a pcap or pcapng file) → `packet` (link layer, IP) → [`Verifier`]
//! (neighbour, keys, connection, MAC) → [`Examined`], one a segment, counted in a [`Summary`].

pub use file::{CaptureError, Frame, Frames, Link, Timestamp};
pub use key_log::{AgreedKeys, KeyLogError};
pub use verdict::{AoOption, Examined, Failure, Flags, Summary, TcpHeader, Verdict};
pub use verifier::Verifier;

mod connection;
mod file;
mod key_log;
mod packet;
mod pcapng;
#[cfg(test)]
mod tests;
mod verdict;
mod verifier;
