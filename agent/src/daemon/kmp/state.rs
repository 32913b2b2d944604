//! How the channel to a neighbour's daemon stands, for operators.

use std::time::Instant;

use crate::kmp::tls::Summary;

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
        /// The key that it began under, by its number.
        key: Option<u32>,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_state_is_one_line_that_says_when_and_why() {
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let because = || Some("the port is filtered".to_owned());
        let tls = Summary {
            version: "TLS 1.3".to_owned(),
            suite: "TLS_X".to_owned(),
            peer: "192.0.2.1".to_owned(),
        };
        let until = now + Duration::from_millis(2500);
        for (state, name, line) in [
            (ChannelState::Idle { because: None }, "idle", "opened when it is needed"),
            (
                ChannelState::Awaited { because: because() },
                "awaited",
                "waiting for the peer, which has the lower address, to connect; before: the port is filtered",
            ),
            (
                ChannelState::Connecting { since: ago(3), because: because() },
                "connecting",
                "connecting for 3 s; before: the port is filtered",
            ),
            (ChannelState::Handshaking { since: ago(1) }, "handshaking", "TLS handshake for 1 s"),
            (
                ChannelState::Waiting { until, because: "the port is filtered".to_owned() },
                "waiting",
                "connecting again in 3 s: the port is filtered",
            ),
            (ChannelState::Up { since: ago(90), tls, key: Some(1) }, "up", "up for 90 s, TLS 1.3 with TLS_X"),
        ] {
            assert_eq!((state.name(), state.line(now).as_str()), (name, line));
            let contract = crate::control::words::ChannelState::WORDS;
            assert!(contract.contains(&name), "{name} is not in the JSON contract");
        }
    }
}
