//! Verification of a capture file, offline.
//!
//! Data flows one way: [`Frames`] (a pcap or pcapng file) → [`Examination`] (order) → [`Verifier`] (neighbor, keys, connection,
//! MAC), which reads each frame by `packet` (link layer, IP). A segment becomes an [`Examined`], counted in a [`Summary`]; any
//! other frame becomes an [`Other`], counted in [`Others`].

pub use examination::{Examination, Rest};
pub use file::{CaptureError, Frame, Frames, Link, Timestamp};
pub use key_log::{AgreedKeys, KeyLogError};
pub use other::{Other, Others};
pub use source::Place;
pub use verdict::{AoOption, Examined, Failure, Flags, Summary, TcpHeader, Verdict};
pub use verifier::Verifier;

mod connection;
mod examination;
mod file;
mod key_log;
mod other;
mod packet;
mod pcapng;
mod source;
#[cfg(test)]
mod tests;
mod verdict;
mod verifier;
