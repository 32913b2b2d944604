//! Why a channel ended.

use crate::kmp::{message::MessageError, tls::TlsError};

/// Why a channel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// In TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The peer closed it.
    #[error("the peer closed the channel")]
    Closed,
    /// The peer sent what is no message.
    #[error(
        "the peer's daemon sent what is not of this protocol: {0}; are both of a version that goes together?"
    )]
    Peers(MessageError),
    /// We would send what is no message.
    #[error(
        "this daemon has something to tell the peer's that no message can hold: {0}; report this as a fault"
    )]
    Ours(MessageError),
    /// The peer sent a message that it may not send now.
    #[error("the peer's daemon sent a message out of order; are both of a version that goes together?")]
    Order,
    /// The peer answers what we never asked.
    #[error("the peer's daemon answered a request {0}, which this one never made")]
    UnknownOffer(u32),
    /// The peer chose another algorithm than the best that both told.
    #[error(
        "the peer's daemon did not choose the best algorithm that both have: it is faulty, or not what it claims to be"
    )]
    Downgrade,
    /// The peer's proof is not that of our keys.
    #[error(
        "the peer's daemon has computed other keys than this one: it is faulty, or not what it claims to be"
    )]
    Mismatch,
    /// All numbers of offers were used.
    #[error("this channel has served for all the keys that it can; a new one is needed")]
    Exhausted,
    /// The host has no random numbers, no memory, or no SHA-256.
    #[error("this host cannot compute keys: no random numbers, no memory, or an OpenSSL without SHA-256")]
    Crypto,
}
