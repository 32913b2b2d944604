//! What the daemon and the eBPF programs share.
//!
//! One source compiles twice: for `bpfel-unknown-none`, where the verifier has to follow it, and for
//! the host, where it is tested against independent implementations. Hence no allocation, no
//! panicking path, no slice whose length the verifier cannot see.
//!
//! - [`ids`]: the small numbers of the field as types ([`KeyId`], [`SeqNumber`], [`Isn`]).
//! - [`sequence`]: sequence number extension (SNE) and the window check.
//! - [`key_choice`]: which of a session's keys a segment is for.
//! - [`key_change`]: how the keys of a session at work change.
//! - [`rollover`]: which of them seals, which is asked for, how long an older one verifies.
//! - [`phase`]: what passes while keys are agreed on the connection itself; [`translation`]: its numbers afterwards.
//! - [`option`]: the walk over a segment's TCP options.
//! - [`mac`]: the MAC algorithms; [`kdf`]: master key to traffic key.
//! - [`layout`]: keys and values of the eBPF maps, and the events in the ring buffers.
//! - [`tcp_socket`]: what is known of a connection that was up before it was protected.
//! - [`unsigned`]: which segments go without a MAC until both sides sign.
//! - [`tokens`]: guards against floods.
//! - [`drop_reason`]: why a segment was refused.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod algorithm;
pub mod drop_reason;
pub mod ids;
pub mod kdf;
pub mod key_change;
pub mod key_choice;
pub mod layout;
pub mod mac;
pub mod option;
pub mod phase;
pub mod rollover;
pub mod sequence;
pub mod tcp_socket;
pub mod tokens;
pub mod translation;
pub mod unsigned;

pub use algorithm::{Algorithm, Kdf};
pub use drop_reason::DropReason;
pub use ids::{Isn, KeyId, SeqNumber};
