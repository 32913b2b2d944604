//! What two daemons say to each other inside TLS.

use std::time::Duration;

/// What a daemon can do, best first where there is an order. Told inside TLS, so that nobody can lower it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Highest version of these messages that it speaks.
    pub version: u16,
    /// Its software, for operators.
    pub software: String,
    /// Names of MAC algorithms that it would agree on; the peer may have some that we do not know.
    pub algorithms: Vec<String>,
    /// TCP option kinds in which it can carry a MAC.
    pub option_kinds: Vec<u8>,
    /// When it wishes to have new keys.
    pub rekey_interval: Duration,
}

/// Why keys were not agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No algorithm is in both lists.
    NoCommonAlgorithm,
    /// The connection is not one that this neighbour may have.
    UnknownConnection,
    /// Both ends asked for keys of the same connection, and the other end's request goes on.
    Collision,
    /// The daemon has too much to do.
    Busy,
    /// What the other end confirmed is not what was agreed.
    Mismatch,
}
