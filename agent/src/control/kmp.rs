//! What the protocol says of keys that are agreed in a handshake.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::words::ChannelState;

/// How keys are agreed with a neighbour: what was, what the peer could do, and what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct KmpStatus {
    /// Unfinished handshakes on channels that made room for newer ones: somebody on the peer who is not its `tcpauthd`
    /// connects to our port for key management.
    #[serde(default)]
    pub crowded_out_handshakes: u64,
    /// `external` or `layered`.
    pub mode: String,
    /// The channel between the two daemons.
    pub channel: ChannelStatus,
    /// What the last handshake agreed on.
    pub tls: Option<TlsStatus>,
    /// MAC algorithm that was agreed on last, by name.
    pub algorithm: Option<String>,
    /// What the peer said in its last handshake that it can do.
    pub peer: Option<PeerCapabilities>,
    /// What becomes of a connection without agreed keys: `never` or `implicit`.
    pub fallback: String,
    /// Open sessions that have keys derived from the password for want of agreed ones.
    pub fallback_sessions: u64,
    /// Age at which keys are replaced, seconds.
    pub rekey_interval_seconds: u64,
    /// Segments after which keys are replaced, if they are counted.
    pub rekey_segments: Option<u64>,
    /// Seconds since a session last got new keys while it was up.
    pub last_refresh_seconds_ago: Option<u64>,
    /// Seconds until the next session gets new keys; 0: now.
    pub next_refresh_seconds: Option<u64>,
    /// Sessions that wait for new keys now.
    pub due_sessions: u64,
    /// The last handshake that failed, unless a later one did not.
    pub last_failure: Option<KmpFailure>,
}

/// The channel between two daemons, or, with `layered`, the handshakes on the connections themselves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ChannelStatus {
    /// In one word.
    pub state: ChannelState,
    /// In one line, for an operator.
    pub text: String,
    /// The key of the chain, by its number, that the channel began under; `None` if it is not up.
    #[serde(default)]
    pub key: Option<u32>,
}

/// What a TLS handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct TlsStatus {
    /// `TLS 1.3` or `TLS 1.2`.
    pub version: String,
    /// Name of the suite, as in the IANA registry.
    pub suite: String,
    /// Who the peer proved to be: its identity, or its fingerprint in hex.
    pub peer: String,
}

/// What a neighbour's daemon can do, as it told inside TLS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct PeerCapabilities {
    /// Its software.
    pub software: String,
    /// Highest version of the messages that it speaks.
    pub version: u16,
    /// Names of its MAC algorithms, its best first; there may be some that this version does not know.
    pub algorithms: Vec<String>,
    /// Those of them that this version does not know.
    pub unknown_algorithms: Vec<String>,
    /// TCP option kinds in which it can carry a MAC.
    pub option_kinds: Vec<u8>,
    /// Age at which it replaces keys, seconds.
    pub rekey_interval_seconds: u64,
}

/// A handshake that failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct KmpFailure {
    /// What, and what to do; in one line, for an operator.
    pub text: String,
    /// Seconds since the last one.
    pub seconds_ago: u64,
    /// How many failed, one after the other.
    pub attempts: u64,
    /// Seconds until the next attempt; `None`: not before keys are needed.
    pub retry_seconds: Option<u64>,
}

/// The agreed keys of a neighbour's open sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct AgreedKeys {
    /// Sessions that have agreed keys.
    pub sessions: u64,
    /// Those of them that wait for new ones.
    pub due_sessions: u64,
    /// Sessions under a key of the chain: in their handshake, or for want of agreed keys.
    pub chain_sessions: u64,
    /// Sessions with agreed keys by the algorithm that they send with.
    pub algorithms: BTreeMap<String, u64>,
    /// Seconds since the session with the oldest keys began to send with them.
    pub oldest_seconds: Option<u64>,
    /// Seconds since the session with the newest keys began to send with them.
    pub newest_seconds: Option<u64>,
}
