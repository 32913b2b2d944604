//! How the channel to a neighbour's daemon stands, for operators.

use std::{sync::Arc, time::Instant};

use crate::kmp::{Capabilities, tls::Summary};

/// How the channel to a neighbour's daemon stands.
#[derive(Clone, Debug)]
pub(in super::super) enum ChannelState {
    /// Nobody needs it now.
    Idle {
        /// Why the last one failed or ended.
        because: Option<String>,
    },
    /// It is for the peer to open it.
    Awaited {
        /// Why the last one failed or ended.
        because: Option<String>,
    },
    /// Its TCP connection is being opened.
    Connecting {
        /// Since when.
        since: Instant,
        /// Why the one before failed or ended.
        because: Option<String>,
    },
    /// TCP is there, TLS is not yet.
    Handshaking {
        /// Since when.
        since: Instant,
    },
    /// It failed or ended, and will be opened again.
    Waiting {
        /// When.
        until: Instant,
        /// Why it failed or ended.
        because: String,
    },
    /// Keys can be agreed at once.
    Up {
        /// Since when.
        since: Instant,
        /// What TLS agreed on.
        tls: Summary,
        /// What the peer can do.
        peer: Arc<Capabilities>,
    },
}

impl ChannelState {
    /// One word, for JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle { .. } => "idle",
            Self::Awaited { .. } => "awaited",
            Self::Connecting { .. } => "connecting",
            Self::Handshaking { .. } => "handshaking",
            Self::Waiting { .. } => "waiting",
            Self::Up { .. } => "up",
        }
    }

    /// All of it in one line.
    pub fn line(&self, now: Instant) -> String {
        let ago = |since: &Instant| now.saturating_duration_since(*since).as_secs();
        let after = |because: &Option<String>| {
            because.as_ref().map_or_else(String::new, |because| format!("; before: {because}"))
        };
        match self {
            Self::Idle { because } => format!("opened when it is needed{}", after(because)),
            Self::Awaited { because } => {
                format!("waiting for the peer, which has the lower address, to connect{}", after(because))
            }
            Self::Connecting { since, because } => {
                format!("connecting for {} s{}", ago(since), after(because))
            }
            Self::Handshaking { since } => format!("TLS handshake for {} s", ago(since)),
            Self::Waiting { until, because } => {
                let seconds = until.saturating_duration_since(now).as_secs_f64().ceil();
                format!("connecting again in {seconds} s: {because}")
            }
            Self::Up { since, tls, .. } => {
                format!("up for {} s, {} with {}", ago(since), tls.version, tls.suite)
            }
        }
    }
}
