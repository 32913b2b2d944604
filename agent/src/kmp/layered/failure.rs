//! Why there are no keys.

use super::super::{ExchangeError, Refusal, stream::StreamError};

/// Why a handshake on a connection ended without keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing came to the server.
    #[error(
        "the peer opened the connection and sent no ClientHello within 10 s: is its tcpauthd running, with \
         key-management = \"layered\" for this host?"
    )]
    NoClientHello,
    /// Nothing came to the client.
    #[error(
        "no answer to the ClientHello within 10 s: is the peer's tcpauthd running, with key-management = \"layered\" \
         for this host?"
    )]
    NoAnswer,
    /// It began.
    #[error(
        "the handshake did not end within 10 s: the peer's tcpauthd ended meanwhile, or the path loses too much"
    )]
    StoodStill,
    /// The client never used the keys.
    #[error(
        "the peer did not use the agreed keys within 10 s: its tcpauthd ended meanwhile, or the path loses too much"
    )]
    NotUsed,
    /// The peer's stack speaks, not its daemon.
    #[error("the peer sent BGP instead of a handshake: has it key-management = \"layered\" for this host?")]
    Bgp,
    /// The segments tell it.
    #[error("{0}; what it has against the handshake, its log says")]
    Stream(#[from] StreamError),
    /// TLS or the messages in it tell it.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The peer refused.
    #[error("the peer refused to agree on keys: {0}")]
    Refused(Refusal),
    /// We refused.
    #[error("no MAC algorithm is both in our algorithms and in the peer's")]
    NoCommonAlgorithm,
    /// The offer is about other ends or ISNs.
    #[error(
        "the peer sees other addresses, ports or ISNs in this connection than we do: is there NAT on the path?"
    )]
    OtherConnection,
    /// A message that has no place here.
    #[error("the peer's daemon sent a message out of order; are both of a version that goes together?")]
    OutOfOrder,
    /// Octets behind the last.
    #[error(
        "the peer's daemon went on after the end of the handshake; are both of a version that goes together?"
    )]
    TooMuch,
    /// The keys were agreed and could not be used.
    #[error("the agreed keys could not be used: {0}")]
    NotInstalled(String),
}
