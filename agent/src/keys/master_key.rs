//! The shared secret of a neighbour.

use zeroize::Zeroizing;

/// A shared secret of one octet or more. Wiped when dropped; has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(Zeroizing<Vec<u8>>);

impl MasterKey {
    /// A master key of these octets; `None` if there are none.
    pub fn new(octets: Zeroizing<Vec<u8>>) -> Option<Self> {
        (!octets.is_empty()).then_some(Self(octets))
    }

    /// The octets.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl From<&Zeroizing<[u8; 32]>> for MasterKey {
    fn from(octets: &Zeroizing<[u8; 32]>) -> Self {
        Self(Zeroizing::new(octets.to_vec()))
    }
}
