//! What strangers can send, under random input: `cargo xtask fuzz`.
//!
//! - [`targets`]: a function of octets for each way in, with valid inputs to begin from.
//! - [`mutation`]: octets that are almost valid.
//! - [`campaign`]: a target fed with them, until the time is up or it panics.

pub mod campaign;
pub mod mutation;
pub mod targets;
