//! The configuration: neighbours, each with its master key tuple and policy.

pub use peer::Peer;

use crate::keys::Mkt;

mod peer;

/// A parsed configuration: no field of it can be wrong any more.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The neighbours, in the order of their peers ([`Peer`]'s `Ord`); no two have the same peer.
    pub neighbors: Vec<Neighbor>,
}

/// One neighbour, or a prefix of dynamic neighbours that share a policy.
#[derive(Clone, PartialEq, Eq)]
pub struct Neighbor {
    /// Whom it is about.
    pub peer: Peer,
    /// How segments to and from it are signed.
    pub mkt: Mkt,
    /// TCP port that makes a connection with it a protected session, at either end. Default 179.
    pub port: u16,
    /// GTSM (RFC 5082): hops away at most, 1 to 254; segments with a hop limit below 256 − hops are refused.
    pub ttl_security: Option<u8>,
    /// Where the keys of a connection come from.
    pub key_management: KeyManagement,
    /// What becomes of segments without a MAC.
    pub unauthenticated: Unauthenticated,
}

/// Where the keys of a connection come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyManagement {
    /// From the master key, the quartet and both ISNs.
    #[default]
    Implicit,
}

/// What becomes of segments of a neighbour that carry no MAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unauthenticated {
    /// They are dropped.
    #[default]
    Drop,
}
