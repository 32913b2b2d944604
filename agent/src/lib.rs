//! `tcpauth`: TCP-AO for BGP sessions, below BGP daemons that were not modified.
//!
//! Data flows one way: [`config`] → [`keys`] → [`sessions`] → [`kernel`] (the eBPF maps) → segment.
//!
//! - [`config`]: the TOML file, parsed into neighbours.
//! - [`keys`]: master key tuples and the traffic keys derived from them.
//! - [`sessions`]: what becomes of a held segment: which keys, which session, released or not.
//! - [`kernel`]: eBPF programs and maps, the lane, interfaces.
//! - [`daemon`]: `tcpauthd`, which joins them.
//! - [`control`]: the socket between the daemon and [`cli`], the command `tcpauth`.
//! - [`core_dump`]: none is ever written, because memory holds secrets.
//! - [`capture`]: verification of a capture file, offline.

pub mod capture;
mod checksum;
pub mod cli;
pub mod config;
pub mod control;
pub mod core_dump;
pub mod daemon;
pub mod instance;
pub mod kernel;
pub mod keys;
pub mod kmp;
pub mod sessions;
