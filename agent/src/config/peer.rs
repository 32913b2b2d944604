//! The address, prefix or link-local address that a neighbour is configured by.

use std::net::IpAddr;

/// Whom a neighbour entry is about: one address, or a prefix of dynamic neighbours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The address, host bits zero for a prefix.
    pub address: IpAddr,
    /// Length of the prefix in bits: 32 or 128 for one address.
    pub prefix_len: u8,
    /// Interface it is reached by, if bound to one; always for link-local addresses.
    pub interface: Option<String>,
}

impl Peer {
    /// Whether this is one address and not a prefix of dynamic neighbours.
    pub fn is_host(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

/// As in the configuration: `192.0.2.1`, `2001:db8::/64`, `fe80::1%eth0`.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)?;
        if !self.is_host() {
            write!(f, "/{}", self.prefix_len)?;
        }
        match &self.interface {
            Some(interface) => write!(f, "%{interface}"),
            None => Ok(()),
        }
    }
}
