//! Master key tuples and the traffic keys of a connection (RFC 5925 §3.1; RFC 5926).

pub use chain::{ChainKey, KeyChain, Lifetime};
pub use derive::Role;
pub use master_key::MasterKey;
use tcpauth_common::{Algorithm, Kdf, KeyId};

mod chain;
mod derive;
mod master_key;
pub mod segment;
#[cfg(test)]
mod tests;

/// Whether TCP options other than TCP-AO are under the MAC (RFC 5925 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpOptions {
    /// They are: the default of RFC 5925.
    #[default]
    Include,
    /// They are left out, so that a middlebox may change them.
    Exclude,
}

impl TcpOptions {
    /// Both, with their names in configuration and output.
    pub const NAMES: [(&str, Self); 2] = [("include", Self::Include), ("exclude", Self::Exclude)];

    /// Returns the name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Include => "include",
            Self::Exclude => "exclude",
        }
    }

    /// Returns what has this name, if anything.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, options)| options)
    }
}

/// Master key tuple: a shared secret and how segments are signed with keys derived from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Mkt {
    /// KeyID of segments we send: the peer's RecvID.
    pub send_id: KeyId,
    /// KeyID of segments we accept: the peer's SendID.
    pub recv_id: KeyId,
    /// MAC algorithm.
    pub algorithm: Algorithm,
    /// Key derivation.
    pub kdf: Kdf,
    /// Coverage of TCP options.
    pub tcp_options: TcpOptions,
    /// The shared secret.
    pub master_key: MasterKey,
}
