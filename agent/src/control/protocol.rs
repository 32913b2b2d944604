//! What is said on the control socket.
//!
//! A request is one [`Request`] on a line. The answer is one [`Answer`] on a line, except for
//! [`Request::Events`], which is answered by one [`Event`] a line until either side closes.
//! The same structs, as JSON, are what `tcpauth --json` prints.
//!
//! `tcpauth` and `tcpauthd` may be of two versions, after the files were replaced and before the daemon is restarted.
//! So each answer carries [`PROTOCOL`] and the daemon's version, and a reader takes what a newer or older daemon sends:
//! * fields that it does not know are skipped; those that were added since version 1 have a default;
//! * words that it does not know become `Other` (see [`super::words`]), events [`Event::Unknown`];
//! * requests are read strictly, because a daemon that skipped a field would do something other than was asked.
//!
//! `PROTOCOL` is raised when an answer loses a field without a default, or when something changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::kmp::{AgreedKeys, ChannelStatus, KmpFailure, KmpStatus, PeerCapabilities, TlsStatus};
use super::words::{
    Direction, KeyChange, KeySource, KeyState, KmpChange, NeighborState, ProgramsState, ProtectionState,
    SessionPhase, SessionState,
};

/// Version of the protocol that this version speaks. Daemons before there was a number are 0.
pub const PROTOCOL: u32 = 1;

/// What the CLI asks of the daemon.
#[derive(Deserialize, Serialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything about the daemon, its interfaces and neighbours.
    Status,
    /// The neighbours, or the one configured as `peer` or with that address.
    Neighbors {
        /// As in the configuration.
        peer: Option<String>,
    },
    /// Add a neighbour to the running configuration; `toml` is the value of its table.
    NeighborAdd {
        /// As in the configuration.
        peer: String,
        /// The neighbour's fields as a TOML document, the secret among them.
        toml: String,
    },
    /// Remove a neighbour from the running configuration.
    NeighborRemove {
        /// As in the configuration.
        peer: String,
    },
    /// Sign what is sent to a neighbour whose sessions were up before they were protected.
    NeighborSign {
        /// As in the configuration.
        peer: String,
    },
    /// The sessions.
    Sessions,
    /// The keys of all neighbours, or of the one configured as `peer`.
    Keys {
        /// As in the configuration.
        peer: Option<String>,
    },
    /// Add a key to a neighbour's chain: accepted at once, sent with after [`Request::KeyRoll`].
    KeyAdd {
        /// The neighbour, as in the configuration.
        peer: String,
        /// Number of the key; if not given, the next after the highest that is no KeyID of the chain.
        number: Option<u32>,
        /// The key's fields as a TOML document, the secret among them.
        toml: String,
    },
    /// Prefer a key from now on: its send-lifetime begins.
    KeyRoll {
        /// The neighbour, as in the configuration; all of them if not given.
        peer: Option<String>,
        /// Number of the key; the newest if not given.
        number: Option<u32>,
    },
    /// Remove a key from a neighbour's chain.
    KeyRetire {
        /// The neighbour, as in the configuration.
        peer: String,
        /// Number of the key.
        number: u32,
        /// Also if sessions still use it.
        force: bool,
    },
    /// Agree on new keys for the sessions of a neighbour now, by a new handshake.
    KeyRefresh {
        /// The neighbour, as in the configuration; all whose keys are agreed if not given.
        peer: Option<String>,
    },
    /// How the running configuration differs from the file.
    ConfigDiff,
    /// Write the running configuration to the file.
    ConfigWrite,
    /// Read the configuration file again and apply it.
    Reload {
        /// Also if changes made by command are lost.
        #[serde(default)]
        discard: bool,
        /// Also if no neighbor that is protected stays; and let go of those that are not configured.
        #[serde(default)]
        force: bool,
    },
    /// Follow what is dropped and what happens to sessions.
    Events,
}

/// What the daemon answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Neighbors`].
    Neighbors(Vec<NeighborStatus>),
    /// To [`Request::Sessions`].
    Sessions(Vec<SessionStatus>),
    /// To [`Request::Keys`].
    Keys(Vec<NeighborKeys>),
    /// To [`Request::ConfigDiff`]: a difference a line, without secrets.
    Differences(Vec<String>),
    /// Done; what was done, for the operator.
    Done(String),
    /// Not done; why, and what to do.
    Error(String),
}

/// An answer as it is on the line.
#[derive(Serialize)]
pub struct Reply<'a> {
    /// As [`PROTOCOL`].
    protocol: u32,
    /// Version of `tcpauthd`.
    version: &'a str,
    #[serde(flatten)]
    answer: &'a Answer,
}

impl<'a> From<&'a Answer> for Reply<'a> {
    fn from(answer: &'a Answer) -> Self {
        Self { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION"), answer }
    }
}

/// Who answers: what can be read of any version's answer.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Speaker {
    /// Version of the protocol; 0 before there was one.
    pub protocol: u32,
    /// Version of `tcpauthd`; empty before it was told.
    pub version: String,
}

/// The daemon, its interfaces and neighbours.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Status {
    /// The daemon.
    pub agent: AgentStatus,
    /// Interfaces with tcpauth's programs, or that should have them.
    pub interfaces: Vec<InterfaceStatus>,
    /// The configured neighbours.
    pub neighbors: Vec<NeighborStatus>,
}

/// The daemon itself.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct AgentStatus {
    /// Version of `tcpauthd`.
    pub version: String,
    /// Name of the instance.
    pub instance: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The configuration file.
    pub config_file: String,
    /// Why the last reload was refused, if it was.
    pub reload_error: Option<String>,
    /// Why the running configuration is not kept for the next daemon, if it is not.
    #[serde(default)]
    pub keep_error: Option<String>,
    /// Sessions in the map.
    pub sessions: u64,
    /// Why the kernel's sockets cannot be compared with the sessions, if they cannot.
    #[serde(default)]
    pub sockets_error: Option<String>,
    /// Segments held for keys since the daemon's start.
    pub held_segments: u64,
    /// Records lost because a ring buffer was full.
    pub overload: u64,
    /// Packets dropped because the programs had no working memory left, since the programs were first loaded.
    #[serde(default)]
    pub no_memory: u64,
    /// Frames lost in the lane on their way to be signed, or to the stack: the kernel's queue of a CPU was full.
    #[serde(default)]
    pub lane_dropped: u64,
    /// File to which agreed keys are written in clear, if that was asked for.
    pub key_log: Option<String>,
    /// Whether the running configuration has changes, made by command, that are not in the file.
    #[serde(default)]
    pub unsaved: bool,
    /// Neighbors that are protected but not configured: their sessions stay as they are, no new one comes up.
    #[serde(default)]
    pub unconfigured: Vec<String>,
}

/// One interface.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MTU, octets.
    pub mtu: u32,
    /// `tcx`, `clsact`, or why it is not protected; with what is wrong about the programs, if something is.
    pub attached: String,
    /// Whether its programs are missing, or others run before them.
    #[serde(default)]
    pub failing: bool,
}

/// One neighbour.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NeighborStatus {
    /// As in the configuration.
    pub peer: String,
    /// In one word.
    pub state: NeighborState,
    /// In one line, for an operator: why it is not established, or nothing.
    pub reason: Option<String>,
    /// KeyManagement by name.
    pub key_management: String,
    /// Algorithm of the preferred key, by name; of the newest, if none may be sent with.
    pub algorithm: String,
    /// KeyID we send with that key.
    pub send_id: u8,
    /// KeyID we accept with that key.
    pub recv_id: u8,
    /// `include` or `exclude`.
    pub tcp_options: String,
    /// Port of the protected sessions.
    pub port: u16,
    /// GTSM hops, if checked.
    pub ttl_security: Option<u8>,
    /// Ends behind this host, as in the configuration.
    pub forwarded: Vec<String>,
    /// `drop` or `accept-until-authenticated`.
    pub unauthenticated: String,
    /// `report` or `reset`.
    #[serde(default)]
    pub on_unprotected: String,
    /// Sessions in the map.
    pub sessions: u64,
    /// Those of them that are not closed.
    pub open_sessions: u64,
    /// Sessions without a connection that were removed to make room for new ones.
    #[serde(default)]
    pub displaced_sessions: u64,
    /// What was counted.
    pub counters: Counts,
    /// The last drop, if any.
    pub last_drop: Option<LastDrop>,
    /// How keys are agreed, if they are.
    pub kmp: Option<KmpStatus>,
}

/// Counters of a neighbour or session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Counts {
    /// Segments sealed.
    pub signed_segments: u64,
    /// Octets of TCP header and data sealed.
    pub signed_octets: u64,
    /// Segments verified.
    pub verified_segments: u64,
    /// Octets of TCP header and data verified.
    pub verified_octets: u64,
    /// Segments that left without MAC, until both sides sign.
    pub unsigned_sent: u64,
    /// Segments that were accepted without MAC, until both sides sign.
    pub unsigned_received: u64,
    /// Drops by name of the reason; reasons never met are absent.
    pub dropped: BTreeMap<String, u64>,
}

/// The last segment dropped.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct LastDrop {
    /// Name of the reason.
    pub reason: String,
    /// Seconds ago.
    pub seconds_ago: u64,
    /// Which way it was going.
    pub direction: Direction,
    /// Ends of the segment's connection, `192.0.2.1:179 > 192.0.2.2:40000`.
    pub segment: String,
}

/// The keys of a neighbour.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NeighborKeys {
    /// The neighbour, as in the configuration.
    pub neighbor: String,
    /// Name of its key chain, if it has one by name.
    pub chain: Option<String>,
    /// Its sessions whose both ISNs are known and that are not closed.
    pub open_sessions: u64,
    /// Those of them that seal with the preferred key and whose peer does; if keys are agreed, with the newest agreed
    /// ones, and that wait for none.
    pub rolled_sessions: u64,
    /// From when on no key may be sent with or none is accepted, if the lifetimes end; RFC 3339.
    pub closes: Option<String>,
    /// The keys, by number.
    pub keys: Vec<KeyStatus>,
    /// The keys of sessions that were agreed in a handshake, if the neighbour's are: `keys` then serve for the
    /// handshakes only.
    pub agreed: Option<AgreedKeys>,
}

/// A key of a neighbour. Never the secret.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct KeyStatus {
    /// N of `key.N`; 0 for the secret of the neighbour's own table.
    pub number: u32,
    /// KeyID we send.
    pub send_id: u8,
    /// KeyID we accept.
    pub recv_id: u8,
    /// Algorithm by name.
    pub algorithm: String,
    /// As in the configuration: `always`, `never`, `START/END` in RFC 3339.
    pub send_lifetime: String,
    /// As `send_lifetime`.
    pub accept_lifetime: String,
    /// What it serves for now.
    pub state: KeyState,
    /// Whether it is what we send with where the peer lets us choose, and what we ask the peer for.
    pub preferred: bool,
    /// Open sessions that seal with it.
    pub sending_sessions: u64,
    /// Open sessions whose peer seals with it.
    pub receiving_sessions: u64,
    /// Seconds since the last of these sessions moved to it, either way.
    pub switched_seconds_ago: Option<u64>,
}

/// One session.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct SessionStatus {
    /// The neighbour, as in the configuration.
    pub neighbor: String,
    /// Our end, `192.0.2.2:40000` or `[2001:db8::2]:40000`.
    pub local: String,
    /// The neighbour's end.
    pub peer: String,
    /// In one word.
    pub state: SessionState,
    /// Key management by name.
    pub key_management: String,
    /// Where the traffic keys come from.
    pub keys: KeySource,
    /// Seconds since we began to send with the keys of now; `None` before there are any.
    pub keys_age_seconds: Option<u64>,
    /// Where the handshake on the connection stands.
    pub phase: SessionPhase,
    /// Algorithm of the key that we send with, by name.
    pub algorithm: String,
    /// Its KeyID in what we send.
    pub send_id: u8,
    /// Its KeyID in what we accept.
    pub recv_id: u8,
    /// Algorithm of the key that the peer sends with, by name, once known.
    pub peer_algorithm: Option<String>,
    /// KeyID in what the peer sends, once known.
    pub peer_key_id: Option<u8>,
    /// KeyIDs of the keys that verify what arrives, the newest first.
    pub accepted_ids: Vec<u8>,
    /// Our ISN, once known.
    pub local_isn: Option<u32>,
    /// The peer's ISN, once known.
    pub peer_isn: Option<u32>,
    /// SNE of what we send.
    pub send_sne: u32,
    /// SNE of what we receive.
    pub recv_sne: u32,
    /// Seconds since the session began.
    pub age_seconds: u64,
    /// Seconds since a segment was sealed or verified.
    pub idle_seconds: u64,
    /// What was counted.
    pub counters: Counts,
}

/// Something happened.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A segment was dropped.
    Drop {
        /// Seconds since the Unix epoch.
        time: f64,
        /// The neighbour, as in the configuration.
        neighbor: String,
        /// Name of the reason.
        reason: String,
        /// Which way it was going.
        direction: Direction,
        /// `192.0.2.1:179 > 192.0.2.2:40000`.
        segment: String,
        /// TCP flags, as `SA`, `R`, `PA`, `.`.
        flags: String,
        /// Sequence number.
        seq: u32,
        /// KeyID of the option, if it had one.
        key_id: Option<u8>,
        /// Interface by name.
        interface: String,
    },
    /// A session came, got its keys, or went.
    Session {
        /// Seconds since the Unix epoch.
        time: f64,
        /// The neighbour, as in the configuration.
        neighbor: String,
        /// `192.0.2.2:40000 > 192.0.2.1:179`, our end first.
        session: String,
        /// As in [`SessionStatus::state`], or `adopted`.
        state: SessionState,
    },
    /// A key became preferred, or a neighbour's keys are about to end or have ended.
    Key {
        /// Seconds since the Unix epoch.
        time: f64,
        /// The neighbour, as in the configuration.
        neighbor: String,
        /// Number of the key, if it is about one.
        key: Option<u32>,
        /// What became of it.
        state: KeyChange,
        /// In one line, for an operator.
        text: String,
    },
    /// A handshake that agrees on keys began to work, failed, or gave keys.
    Kmp {
        /// Seconds since the Unix epoch.
        time: f64,
        /// The neighbour, as in the configuration.
        neighbor: String,
        /// What became of it.
        state: KmpChange,
        /// In one line, for an operator.
        text: String,
    },
    /// An interface's programs are not as they should be, or are so again.
    Interface {
        /// Seconds since the Unix epoch.
        time: f64,
        /// Its name; `lane` for the lane.
        interface: String,
        /// Whether they are in their places.
        state: ProgramsState,
        /// In one line, for an operator.
        text: String,
    },
    /// A neighbor's connection gets past the programs, or none does any more.
    Protection {
        /// Seconds since the Unix epoch.
        time: f64,
        /// The neighbor, as in the configuration.
        neighbor: String,
        /// Whether they pass the programs.
        state: ProtectionState,
        /// In one line, for an operator.
        text: String,
    },
    /// Events were not sent because there were too many; how many.
    Missed {
        /// Their number.
        count: u64,
    },
    /// One of a kind that this version does not know.
    #[serde(other)]
    Unknown,
}
