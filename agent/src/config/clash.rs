//! Neighbours that cannot both be configured: the same one, or such that a segment could be of either.

use std::collections::HashMap;
use std::ops::Range;

use super::error::Subject;
use super::{Peer, Problem};

/// The clashes among peers in the order of the file, one at most for each: (wrong, other, why).
pub(super) fn clashes(places: &[(Peer, Range<usize>, Subject)]) -> Vec<(usize, usize, Clash)> {
    let mut found = Vec::new();
    let mut first_with_address: HashMap<_, usize> = HashMap::new();
    let mut first_with_interface: HashMap<_, usize> = HashMap::new();
    for (index, (peer, ..)) in places.iter().enumerate() {
        let same = *first_with_interface.entry(peer).or_insert(index);
        let first = *first_with_address.entry((peer.address, peer.prefix_len)).or_insert(index);
        let other = if same == index { first } else { same };
        if other != index {
            found.extend(Clash::between(peer, &places[other].0).map(|clash| (index, other, clash)));
        }
    }
    for (bound, (prefix, ..)) in places.iter().enumerate() {
        if prefix.interface.is_none() || prefix.is_host() {
            continue;
        }
        for (index, (peer, ..)) in
            places.iter().enumerate().filter(|(_, (peer, ..))| peer.interface.is_none())
        {
            if (peer.address, peer.prefix_len) == (prefix.address, prefix.prefix_len) {
                continue;
            }
            found.extend(Clash::between(peer, prefix).map(|clash| (index, bound, clash)));
        }
    }
    found
}

/// Why two neighbours cannot both be configured.
#[derive(Clone, Copy)]
pub(super) enum Clash {
    /// They are the same.
    Same,
    /// They differ only in that one has no interface: which of them a segment belongs to would hang on the way it
    /// takes. Two that are bound are two routers, in two VRFs.
    OtherInterface,
    /// One is an unbound part of a bound prefix: on that interface both the interface and the
    /// longer match would have to win.
    InsideBoundPrefix,
}

impl Clash {
    /// What is wrong with `wrong` beside `other`.
    fn between(wrong: &Peer, other: &Peer) -> Option<Self> {
        let same_addresses = (wrong.address, wrong.prefix_len) == (other.address, other.prefix_len);
        if wrong == other {
            Some(Self::Same)
        } else if same_addresses && wrong.interface.is_some() != other.interface.is_some() {
            Some(Self::OtherInterface)
        } else if wrong.interface.is_none() && other.interface.is_some() && other.contains(wrong) {
            Some(Self::InsideBoundPrefix)
        } else {
            None
        }
    }

    pub(super) fn problem(self, other: &str) -> Problem {
        let other = other.to_owned();
        match self {
            Self::Same => Problem::SameNeighbor { other },
            Self::OtherInterface => Problem::SameOnOtherInterface { other },
            Self::InsideBoundPrefix => Problem::InsideBoundPrefix { other },
        }
    }
}
