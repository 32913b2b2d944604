//! What two daemons say to each other inside TLS.
//!
//! A message is its type (u8), the length of its body (u16) and its body; numbers are big-endian. Names and texts are a
//! length (u8) and so many octets.
//!
//! | type | message | body |
//! |---|---|---|
//! | 1 | [`Capabilities`] | version u16, software, count u8 of algorithms, their names, count u8 of option kinds, a u8 each, seconds of the rekey interval u32 |
//! | 2 | [`Offer`] | id u32, connection 45, role u8, KeyID u8, options u8, nonce 16 |
//! | 3 | [`Accept`] | id u32, KeyID u8, nonce 16, algorithm's name, confirmation 32 |
//! | 4 | [`Message::Confirm`] | id u32, confirmation 32 |
//! | 5 | [`Message::Done`] | id u32 |
//! | 6 | [`Message::Refuse`] | id u32, reason u8 |
//!
//! A connection is the client's address (16, IPv4-mapped for IPv4) and port, the server's address and port, the client's
//! ISN, 1 and the server's ISN, or 0 and zeros.

use std::time::Duration;

use tcpauth_common::{Algorithm, KeyId, option::kind};

use super::agreement::{Connection, FIRST_AGREED_ID};
use crate::keys::{Role, TcpOptions};
pub(super) use codec::Reader;
use codec::put_text;

mod codec;
#[cfg(test)]
mod tests;

/// Highest version of these messages that this daemon speaks.
pub const VERSION: u16 = 1;

/// Most octets of a message, its head of 3 included.
pub const MAX_LEN: usize = 4096;

/// Octets of type and length.
const HEAD_LEN: usize = 3;

/// What a daemon can do, best first where there is an order. Told inside TLS, so that nobody can lower it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Highest version of these messages that it speaks; not 0.
    pub version: u16,
    /// Its software, for operators: at most 64 octets, no control characters.
    pub software: String,
    /// Names of MAC algorithms that it would agree on; the peer may have some that we do not know. At most 32, each 1 to
    /// 64 octets of printable ASCII without spaces.
    pub algorithms: Vec<String>,
    /// TCP option kinds in which it can carry a MAC; at most 16.
    pub option_kinds: Vec<u8>,
    /// When it wishes to have new keys, in whole seconds.
    pub rekey_interval: Duration,
}

/// Why keys were not agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No algorithm is in both lists, or no option kind.
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

/// A wish for keys of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The offerer's number of it: from 1, ascending on a channel.
    pub id: u32,
    /// Of what.
    pub connection: Connection,
    /// What the offerer's end is in it.
    pub role: Role,
    /// KeyID of segments to the offerer.
    pub recv_id: KeyId,
    /// Whether other TCP options are under the MACs.
    pub tcp_options: TcpOptions,
    /// The offerer's random number.
    pub nonce: Nonce,
}

/// The answer to an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Which offer.
    pub id: u32,
    /// KeyID of segments to the accepter.
    pub recv_id: KeyId,
    /// The accepter's random number.
    pub nonce: Nonce,
    /// Name of the algorithm: the first in the accepter's order that the offerer has too.
    pub algorithm: String,
    /// Proof that the accepter has the keys.
    pub confirmation: Confirmation,
}

/// A random number that is used once.
pub type Nonce = [u8; 16];

/// Proof that an end has the keys that were agreed ([`super::agreement`]).
pub type Confirmation = [u8; 32];

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first that each end sends.
    Capabilities(Capabilities),
    /// To agree on keys.
    Offer(Offer),
    /// Agreed.
    Accept(Accept),
    /// The offerer's proof.
    Confirm {
        /// Which offer.
        id: u32,
        /// That.
        confirmation: Confirmation,
    },
    /// The accepter uses the keys.
    Done {
        /// Which offer.
        id: u32,
    },
    /// The accepter does not agree.
    Refuse {
        /// Which offer.
        id: u32,
        /// Why.
        reason: Refusal,
    },
}

/// A message as it is on the wire, whole, not looked into yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    /// All of it.
    pub octets: &'a [u8],
}

/// Why octets are no message, or a value cannot be told in one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is longer than [`MAX_LEN`].
    #[error("a message of {0} octets, of which at most {MAX_LEN} are allowed")]
    TooLong(usize),
    /// Its body ends inside a field.
    #[error("a message of type {0} that ends too early")]
    Truncated(u8),
    /// Its body goes on behind the last field.
    #[error("a message of type {0} that goes on behind its end")]
    Trailing(u8),
    /// No version up to the sender's has such a type.
    #[error("a message of the unknown type {0}")]
    UnknownType(u8),
    /// A field has a value that is not one of its values.
    #[error("a message with a wrong {0}")]
    Field(&'static str),
}

impl Refusal {
    /// Every reason, in the order of its number on the wire, from 1.
    pub const ALL: [Self; 5] =
        [Self::NoCommonAlgorithm, Self::UnknownConnection, Self::Collision, Self::Busy, Self::Mismatch];
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoCommonAlgorithm => "no MAC algorithm is in both ends' lists: see `algorithms`",
            Self::UnknownConnection => {
                "the peer does not see a connection with these ends; is there a NAT between, or is the neighbour not configured so?"
            }
            Self::Collision => "both ends asked at once, and the other's request goes on",
            Self::Busy => "the peer has too many requests open",
            Self::Mismatch => "the peer computed other keys than we did",
        })
    }
}

impl Capabilities {
    const MAX_SOFTWARE: usize = 64;
    const MAX_ALGORITHMS: usize = 32;
    const MAX_NAME: usize = 64;
    const MAX_KINDS: usize = 16;

    /// What this version of tcpauth can do, with `algorithms`, the best first.
    pub fn ours(algorithms: &[Algorithm], rekey_interval: Duration) -> Self {
        Self {
            version: VERSION,
            software: concat!("tcpauth ", env!("CARGO_PKG_VERSION")).to_owned(),
            algorithms: algorithms.iter().map(|algorithm| algorithm.name().to_owned()).collect(),
            option_kinds: vec![kind::AO],
            rekey_interval,
        }
    }

    /// The algorithm on which this end, accepting, agrees with an offerer: the first of ours that it has too.
    pub fn best_common<'a>(&'a self, offerer: &Self) -> Option<&'a str> {
        let has_kind = |end: &Self| end.option_kinds.contains(&kind::AO);
        let mut ours = self.algorithms.iter().filter(|_| has_kind(self) && has_kind(offerer));
        ours.find(|name| offerer.algorithms.contains(name)).map(String::as_str)
    }

    fn check(&self) -> Result<(), MessageError> {
        let is_name = |name: &String| {
            (1..=Self::MAX_NAME).contains(&name.len()) && name.bytes().all(|octet| octet.is_ascii_graphic())
        };
        let wrong = match self {
            _ if self.version == 0 => "version",
            _ if self.software.len() > Self::MAX_SOFTWARE || self.software.contains(char::is_control) => {
                "name of the software"
            }
            _ if self.algorithms.len() > Self::MAX_ALGORITHMS || !self.algorithms.iter().all(is_name) => {
                "list of algorithms"
            }
            _ if self.option_kinds.len() > Self::MAX_KINDS => "list of option kinds",
            _ => return Ok(()),
        };
        Err(MessageError::Field(wrong))
    }
}

impl Message {
    /// Its octets.
    ///
    /// # Errors
    /// [`MessageError::Field`] if a value has no form on the wire.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut octets = vec![self.kind(), 0, 0];
        self.encode_body(&mut octets)?;
        let length = octets.len() - HEAD_LEN;
        if octets.len() > MAX_LEN {
            return Err(MessageError::TooLong(octets.len()));
        }
        octets[1..HEAD_LEN].copy_from_slice(&(length as u16).to_be_bytes());
        Ok(octets)
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Capabilities(_) => 1,
            Self::Offer(_) => 2,
            Self::Accept(_) => 3,
            Self::Confirm { .. } => 4,
            Self::Done { .. } => 5,
            Self::Refuse { .. } => 6,
        }
    }

    fn encode_body(&self, octets: &mut Vec<u8>) -> Result<(), MessageError> {
        match self {
            Self::Capabilities(capabilities) => {
                capabilities.check()?;
                octets.extend(capabilities.version.to_be_bytes());
                put_text(octets, &capabilities.software);
                octets.push(capabilities.algorithms.len() as u8);
                for name in &capabilities.algorithms {
                    put_text(octets, name);
                }
                octets.push(capabilities.option_kinds.len() as u8);
                octets.extend(&capabilities.option_kinds);
                let seconds = u32::try_from(capabilities.rekey_interval.as_secs()).unwrap_or(u32::MAX);
                octets.extend(seconds.to_be_bytes());
            }
            Self::Offer(offer) => {
                octets.extend(offer.id.to_be_bytes());
                offer.connection.encode(octets);
                octets.extend([offer.role.number(), agreed_id(offer.recv_id)?.0, offer.tcp_options.number()]);
                octets.extend(offer.nonce);
            }
            Self::Accept(accept) => {
                octets.extend(accept.id.to_be_bytes());
                octets.push(agreed_id(accept.recv_id)?.0);
                octets.extend(accept.nonce);
                if accept.algorithm.len() > Capabilities::MAX_NAME {
                    return Err(MessageError::Field("algorithm"));
                }
                put_text(octets, &accept.algorithm);
                octets.extend(accept.confirmation);
            }
            Self::Confirm { id, confirmation } => {
                octets.extend(id.to_be_bytes());
                octets.extend(confirmation);
            }
            Self::Done { id } => octets.extend(id.to_be_bytes()),
            Self::Refuse { id, reason } => {
                octets.extend(id.to_be_bytes());
                octets.push(1 + *reason as u8);
            }
        }
        Ok(())
    }
}

impl<'a> Raw<'a> {
    /// The first message of `octets`, and what comes after it; `None` until all of it is there.
    ///
    /// # Errors
    /// [`MessageError::TooLong`], as soon as its length says so.
    pub fn split(octets: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, MessageError> {
        let [_, high, low, ..] = *octets else { return Ok(None) };
        let length = HEAD_LEN + usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_LEN {
            return Err(MessageError::TooLong(length));
        }
        Ok(octets.split_at_checked(length).map(|(octets, after)| (Self { octets }, after)))
    }

    /// What it says, if its sender speaks `version` at most; `None` if the sender can speak a higher version than we, and
    /// this is of one of those.
    ///
    /// # Errors
    /// [`MessageError`]
    pub fn decode(&self, version: u16) -> Result<Option<Message>, MessageError> {
        let [kind, _, _, body @ ..] = self.octets else { return Ok(None) };
        let mut reader = Reader::new(*kind, body);
        let message = match kind {
            1 => Message::Capabilities(reader.capabilities()?),
            2 => Message::Offer(reader.offer()?),
            3 => Message::Accept(reader.accept()?),
            4 => Message::Confirm { id: reader.u32()?, confirmation: reader.array()? },
            5 => Message::Done { id: reader.u32()? },
            6 => Message::Refuse { id: reader.u32()?, reason: reader.refusal()? },
            _ if version > VERSION => return Ok(None),
            _ => return Err(MessageError::UnknownType(*kind)),
        };
        match &message {
            // A higher version may have more to tell.
            Message::Capabilities(capabilities) if capabilities.version > VERSION => {}
            _ => reader.end()?,
        }
        Ok(Some(message))
    }
}

fn agreed_id(id: KeyId) -> Result<KeyId, MessageError> {
    if id < FIRST_AGREED_ID {
        Err(MessageError::Field("KeyID: those below 128 are not for agreed keys"))
    } else {
        Ok(id)
    }
}
