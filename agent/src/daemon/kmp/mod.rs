//! Keys that are agreed with the daemons of neighbours.
//!
//! - `channel`: the TCP connections, a task each; all else happens in the main loop.
//! - `channels`: which of them there are; `reach`: how they are opened; `dial`: when, and by whom; `peering`: what happens
//!   on them; `ending`: why they end; `state`: how they stand, for operators.
//! - `offers`: what is asked and answered on them.
//! - `external`: keys of connections before their SYN leaves; `route`: of which segments; `associations`: those that were
//!   agreed, until the session has them.
//! - `layered`: keys that are agreed on the connection itself.
//! - `refresh`: new keys for sessions that are up.
//! - `known`: what handshakes told, and what failed; `status`: what operators are shown; `key_log`: keys in clear, for
//!   those who debug.

use std::time::Instant;

use tcpauth_common::layout::Quartet;
use tokio::sync::mpsc;

use associations::Associations;
pub(super) use channel::ChannelEvent;
use channel::ChannelId;
use channels::Channels;
pub use key_log::{KeyLog, KeyLogError};
use known::Known;
use layered::Layered;
pub(super) use reach::raise_limit_of_files;
use refresh::Refresh;
pub(super) use route::{Route, is_channel, route};

use super::Daemon;

mod associations;
mod channel;
mod channels;
mod dial;
mod ending;
mod external;
mod key_log;
mod known;
mod layered;
mod offers;
mod peering;
mod reach;
mod refresh;
mod route;
mod state;
mod status;
mod timers;

/// Events of channels that may wait: their tasks wait, too, and read no more.
pub(super) const EVENT_BACKLOG: usize = 256;

/// Identifies a channel by its two ends: a neighbor's address and one of our addresses. Each of our addresses has its own
/// channel because the neighbor configures each as a separate neighbor. A channel agrees on keys only for connections between
/// its own two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KmpPeer {
    /// The neighbour's number.
    pub neighbor: u32,
    /// The address, as in the maps.
    pub address: [u8; 16],
    /// Ours, as in the maps; or [`UNKNOWN`].
    pub local: [u8; 16],
}

/// The address of ours with a peer that no connection has shown yet, and to which there is no route.
pub(super) const UNKNOWN: [u8; 16] = [0; 16];

/// What there is of agreed keys, and of ways to agree on them. Holds secrets: no `Debug`.
pub(super) struct Kmp {
    pub(super) channels: Channels,
    pub(super) associations: Associations,
    pub(super) layered: Layered,
    pub(super) refresh: Refresh,
    pub(super) known: Known,
}

impl Kmp {
    /// Nothing yet. Channels will tell `events`, which the main loop reads.
    pub fn new(events: mpsc::Sender<ChannelEvent>) -> Self {
        Self {
            channels: Channels::new(events),
            associations: Associations::default(),
            layered: Layered::default(),
            refresh: Refresh::default(),
            known: Known::default(),
        }
    }

    /// When [`Daemon::on_kmp_time`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        [
            self.channels.next_due(),
            self.associations.next_due(),
            self.layered.next_due(),
            self.refresh.next_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl KmpPeer {
    /// The daemon at the peer's end of a connection.
    pub fn of(neighbor: u32, quartet: &Quartet) -> Self {
        Self { neighbor, address: quartet.peer, local: quartet.local }
    }
}

impl Daemon {
    /// Does what is due.
    pub(super) fn on_kmp_time(&mut self) {
        let now = Instant::now();
        self.on_channels_time(now);
        self.on_external_time(now);
        self.on_layered_time(now);
        self.on_refresh_time(now);
    }
}
