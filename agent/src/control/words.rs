//! The closed sets of words that answers and events have, as enums.
//!
//! A daemon of another version may send a word that this one does not know. Each set takes it as `Other` and gives it
//! back unchanged, so that `tcpauth` shows it, and `--json` passes it on, in place of refusing the whole answer.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Defines an enum whose variants are words on the socket.
macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal,)+ })+) => { $(
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($(#[$what])* $variant,)+
            /// A word of another version.
            Other(String),
        }

        impl $name {
            /// The words that this version knows.
            pub const WORDS: &[&str] = &[$($word),+];

            /// As on the socket.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|word| Self::from(word.as_str()))
            }
        }
    )+ };
}

words! {
    /// How a neighbor stands.
    NeighborState {
        /// No connection.
        Idle = "idle",
        /// A connection is being opened, or its keys are being agreed.
        Connecting = "connecting",
        /// A protected session is up.
        Established = "established",
        /// A session is up that is not yet signed by both sides.
        Unsigned = "unsigned",
        /// A connection gets past the programs.
        Unprotected = "unprotected",
        /// Segments are refused, or a program is missing.
        Failing = "failing",
        /// No key is valid.
        Closed = "closed",
    }

    /// How a session stands.
    SessionState {
        /// Our SYN left; the peer has not answered.
        SynSent = "syn-sent",
        /// The peer's SYN verified; our end has not answered.
        SynReceived = "syn-received",
        /// Keys are agreed on the connection itself.
        Handshake = "handshake",
        /// All segments are under traffic keys.
        Established = "established",
        /// Taken over from a connection that was up before it was protected; only in events.
        Adopted = "adopted",
        /// No keys were agreed.
        Failed = "failed",
        /// One end sent a FIN.
        Closing = "closing",
        /// Over.
        Closed = "closed",
    }

    /// Where the handshake on a connection stands.
    SessionPhase {
        /// There is none, or it is done.
        Open = "open",
        /// The daemons agree on keys.
        Handshake = "handshake",
        /// Keys are agreed; the peer has not gone on with them.
        Switching = "switching",
        /// It failed.
        Failed = "failed",
    }

    /// Where the traffic keys of a session come from.
    KeySource {
        /// From a key of the neighbor's chain.
        Chain = "chain",
        /// Agreed in a handshake.
        Agreed = "agreed",
    }

    /// What a key serves for now.
    KeyState {
        /// To seal and to verify.
        Valid = "valid",
        /// To verify.
        AcceptOnly = "accept-only",
        /// To seal.
        SendOnly = "send-only",
        /// Nothing yet.
        NotYet = "not-yet",
        /// Nothing any more.
        Expired = "expired",
        /// Nothing, at any time.
        Never = "never",
    }

    /// How the channel between two daemons stands.
    ChannelState {
        /// Keys can be agreed at once.
        Up = "up",
        /// Its TCP connection is being opened.
        Connecting = "connecting",
        /// TCP is there, TLS is not yet.
        Handshaking = "handshaking",
        /// It failed, and will be opened again.
        Waiting = "waiting",
        /// The peer's end dials.
        Awaited = "awaited",
        /// It is opened when it is needed.
        Idle = "idle",
    }

    /// Which way a segment was going.
    Direction {
        /// To this host, or through it from the neighbor.
        Inbound = "inbound",
        /// From this host, or through it to the neighbor.
        Outbound = "outbound",
    }

    /// What became of a neighbor's keys.
    KeyChange {
        /// A key is sent with from now on.
        Preferred = "preferred",
        /// The last key ends soon.
        Ending = "ending",
        /// No key is valid.
        Closed = "closed",
        /// Keys are valid again.
        Open = "open",
    }

    /// What became of a handshake.
    KmpChange {
        /// The channel is up.
        Up = "up",
        /// The channel is down.
        Down = "down",
        /// A new connection has keys.
        Agreed = "agreed",
        /// A connection that was up has new keys.
        Refreshed = "refreshed",
        /// No keys were agreed.
        Failed = "failed",
        /// A connection has keys of the password for want of agreed ones.
        Fallback = "fallback",
    }

    /// Whether an interface's programs are as they should be.
    ProgramsState {
        /// One is missing, or another program runs before it.
        Failing = "failing",
        /// They are in their places.
        Protected = "protected",
    }

    /// Whether a neighbor's connections pass the programs.
    ProtectionState {
        /// One gets past them.
        Unprotected = "unprotected",
        /// It was ended.
        Reset = "reset",
        /// None does any more.
        Protected = "protected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_to_the_socket_and_back() {
        for word in NeighborState::WORDS {
            let json = format!("\"{word}\"");
            let state: NeighborState = serde_json::from_str(&json).unwrap();
            assert!(!matches!(state, NeighborState::Other(_)), "{word}");
            assert_eq!((serde_json::to_string(&state).unwrap(), state.to_string().as_str()), (json, *word));
        }
    }

    #[test]
    fn a_word_of_another_version_is_kept() {
        let json = "\"half\\u002dopen \\\"x\\\"\"";
        let state: SessionState = serde_json::from_str(json).unwrap();
        assert_eq!(state, SessionState::Other("half-open \"x\"".to_owned()));
        assert_eq!(serde_json::to_string(&state).unwrap(), "\"half-open \\\"x\\\"\"");
        assert!(serde_json::from_str::<SessionState>("5").is_err());
    }
}
