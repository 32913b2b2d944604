//! The running configuration: neighbours with the numbers that the data plane knows them by, and what
//! the maps have to say of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use tcpauth_common::layout::{OwnEnd, PeerPrefix, PeerRule, Policy, Quartet};

use crate::{
    config::{Neighbor, Peer},
    kernel::mapped,
};

/// Neighbours by number. Holds secrets: no `Debug`.
#[derive(Clone, Default)]
pub struct Neighbors {
    by_number: BTreeMap<u32, Neighbor>,
}

/// What the maps have to say. Compared with what they said before, this is what has to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For `PEERS`.
    pub peers: HashMap<PeerPrefix, PeerRule>,
    /// For `FORWARDED`.
    pub forwarded: HashMap<OwnEnd, u32>,
    /// For `POLICIES`.
    pub policies: BTreeMap<u32, Policy>,
    /// For `PORTS`.
    pub ports: BTreeSet<u16>,
}

/// Whose a quartet is.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// The neighbour's number.
    pub number: u32,
    /// The neighbour.
    pub neighbor: &'a Neighbor,
}

impl Neighbors {
    /// Numbers the neighbours of a configuration. One keeps the number it had in `previous`, or, after a
    /// start, the one its address has in `pinned`; so its sessions and counters go on.
    pub fn number(
        neighbors: impl IntoIterator<Item = Neighbor>,
        previous: &Self,
        pinned: &HashMap<PeerPrefix, PeerRule>,
    ) -> Self {
        let known: HashMap<&Peer, u32> =
            previous.by_number.iter().map(|(number, neighbor)| (&neighbor.peer, *number)).collect();
        let mut by_number = BTreeMap::new();
        let mut without = Vec::new();
        for neighbor in neighbors {
            let number = known.get(&neighbor.peer).copied().or_else(|| pinned_number(&neighbor.peer, pinned));
            match number {
                Some(number) if !by_number.contains_key(&number) => {
                    by_number.insert(number, neighbor);
                }
                _ => without.push(neighbor),
            }
        }
        // A number is not given again at once: counters and sessions of its last bearer may be there.
        let taken: BTreeSet<u32> = (by_number.keys().copied())
            .chain(previous.by_number.keys().copied())
            .chain(pinned.values().map(|rule| rule.neighbor))
            .collect();
        let free = (1..).filter(|number| !taken.contains(number));
        by_number.extend(free.zip(without));
        Self { by_number }
    }

    /// The neighbour with this number.
    pub fn numbered(&self, number: u32) -> Option<&Neighbor> {
        self.by_number.get(&number)
    }

    /// All, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Neighbor)> {
        self.by_number.iter().map(|(number, neighbor)| (*number, neighbor))
    }

    /// The neighbour whose prefix is the longest to have `address`.
    pub fn covering(&self, address: IpAddr) -> Option<(u32, &Neighbor)> {
        let address = mapped(address);
        self.iter()
            .filter(|(_, neighbor)| covers(&neighbor.peer, &address))
            .max_by_key(|(_, neighbor)| neighbor.peer.prefix_len)
    }

    /// The neighbour whose rules hold for a connection: the longest prefix among those of its scope, and
    /// only if one of its ports is the neighbour's.
    pub fn owner(&self, quartet: &Quartet, index_of: &dyn Fn(&str) -> Option<u32>) -> Option<Owner<'_>> {
        let scope_of = |peer: &Peer| peer.interface.as_deref().map_or(Some(0), index_of);
        let (number, neighbor) = self
            .iter()
            .filter(|(_, neighbor)| covers(&neighbor.peer, &quartet.peer))
            .filter(|(_, neighbor)| scope_of(&neighbor.peer) == Some(quartet.scope))
            .max_by_key(|(_, neighbor)| neighbor.peer.prefix_len)?;
        let has_port = [quartet.local_port, quartet.peer_port].contains(&neighbor.port);
        has_port.then_some(Owner { number, neighbor })
    }

    /// What the maps have to say, with interfaces as `index_of` resolves them now.
    pub fn rules(&self, index_of: &dyn Fn(&str) -> Option<u32>) -> Rules {
        let mut rules = Rules::default();
        let mut elsewhere = Vec::new();
        for (number, neighbor) in self.iter() {
            let peer = &neighbor.peer;
            rules.policies.insert(number, policy(neighbor));
            rules.ports.insert(neighbor.port);
            // None for an end whose interface does not exist: nothing can arrive by it.
            rules.forwarded.extend(neighbor.forwarded.iter().filter_map(|end| {
                let ifindex = end.interface.as_deref().map_or(Some(0), index_of)?;
                Some((own_end(number, end), ifindex))
            }));
            let Some(interface) = &peer.interface else {
                rules.peers.insert(prefix(peer, 0), PeerRule { neighbor: number, scope: 0, flags: 0 });
                continue;
            };
            let scope = index_of(interface);
            if let Some(scope) = scope {
                rules.peers.insert(prefix(peer, scope), PeerRule { neighbor: number, scope, flags: 0 });
            }
            if !peer.is_link_local() {
                let flags = PeerRule::WRONG_INTERFACE;
                let rule = PeerRule { neighbor: number, scope: scope.unwrap_or(0), flags };
                elsewhere.push((prefix(peer, 0), rule));
            }
        }
        // A neighbour of the same address that is bound to nothing has all other interfaces.
        for (prefix, rule) in elsewhere {
            rules.peers.entry(prefix).or_insert(rule);
        }
        rules
    }
}

/// The octets and the mask of `peer` cover an address of a map's key.
pub fn covers(peer: &Peer, address: &[u8; 16]) -> bool {
    let bits = u32::from(peer.prefix_len) + if peer.address.is_ipv4() { 96 } else { 0 };
    let (ours, theirs) = (u128::from_be_bytes(mapped(peer.address)), u128::from_be_bytes(*address));
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    (ours ^ theirs) & mask == 0
}

fn pinned_number(peer: &Peer, pinned: &HashMap<PeerPrefix, PeerRule>) -> Option<u32> {
    let plain = PeerPrefix { scope: [0; 4], ..prefix(peer, 0) };
    match peer.interface {
        None => pinned.get(&plain).filter(|rule| rule.flags & PeerRule::WRONG_INTERFACE == 0),
        // Which interface it was is not in the map by name; the address bound to any tells enough.
        Some(_) => pinned
            .iter()
            .find(|(key, rule)| {
                (key.prefix_len, key.address) == (plain.prefix_len, plain.address)
                    && (key.scope != [0; 4] || rule.flags & PeerRule::WRONG_INTERFACE != 0)
            })
            .map(|(_, rule)| rule),
    }
    .map(|rule| rule.neighbor)
}

fn prefix(peer: &Peer, scope: u32) -> PeerPrefix {
    let family_bits = if peer.address.is_ipv4() { 96 } else { 0 };
    PeerPrefix {
        prefix_len: 32 + family_bits + u32::from(peer.prefix_len),
        scope: scope.to_be_bytes(),
        address: mapped(peer.address),
    }
}

fn own_end(number: u32, end: &Peer) -> OwnEnd {
    let PeerPrefix { prefix_len, address, .. } = prefix(end, 0);
    OwnEnd { prefix_len, neighbor: number.to_be_bytes(), address }
}

fn policy(neighbor: &Neighbor) -> Policy {
    Policy {
        port: neighbor.port,
        // 256 − hops: 1 hop away is a hop limit of 255.
        min_hop_limit: neighbor.ttl_security.map_or(0, |hops| 0u8.wrapping_sub(hops)),
        recv_id: neighbor.mkt.recv_id.0,
        option_len: neighbor.mkt.algorithm.option_len() as u8,
        reserved: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::testing::neighbor;

    fn index_of(name: &str) -> Option<u32> {
        match name {
            "eth0" => Some(7),
            "eth1" => Some(8),
            _ => None,
        }
    }

    fn numbered(peers: &[&str]) -> Neighbors {
        Neighbors::number(peers.iter().map(|peer| neighbor(peer)), &Neighbors::default(), &HashMap::new())
    }

    fn number_of(neighbors: &Neighbors, peer: &str) -> u32 {
        neighbors.iter().find(|(_, neighbor)| neighbor.peer.to_string() == peer).unwrap().0
    }

    #[test]
    fn numbers_stay_with_their_neighbours() {
        let first = numbered(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let config = ["192.0.2.9", "192.0.2.3", "192.0.2.1"].map(neighbor);
        let second = Neighbors::number(config, &first, &HashMap::new());
        assert_eq!(number_of(&second, "192.0.2.1"), number_of(&first, "192.0.2.1"));
        assert_eq!(number_of(&second, "192.0.2.3"), number_of(&first, "192.0.2.3"));
        assert_eq!(number_of(&second, "192.0.2.9"), 4);
    }

    #[test]
    fn numbers_come_back_from_the_maps() {
        let peers = ["2001:db8::1", "192.0.2.0/24", "fe80::1%eth0", "192.0.2.7%eth1", "192.0.2.7"];
        let first = numbered(&peers);
        let pinned = first.rules(&index_of).peers;
        let reversed = peers.iter().rev().map(|peer| neighbor(peer));
        let second = Neighbors::number(reversed, &Neighbors::default(), &pinned);
        for peer in peers {
            assert_eq!(number_of(&second, peer), number_of(&first, peer), "{peer}");
        }
    }

    #[test]
    fn bound_neighbours_follow_their_interface() {
        let neighbors = numbered(&["fe80::1%eth0", "192.0.2.7%eth1", "fe80::2%eth9", "192.0.2.8%eth9"]);
        let rules = neighbors.rules(&index_of);
        let peers: BTreeMap<_, _> = rules
            .peers
            .iter()
            .map(|(key, rule)| ((u32::from_be_bytes(key.scope), rule.neighbor), (rule.scope, rule.flags)))
            .collect();
        let wrong = PeerRule::WRONG_INTERFACE;
        let wanted = [((7, 1), (7, 0)), ((8, 2), (8, 0)), ((0, 2), (8, wrong)), ((0, 4), (0, wrong))];
        assert_eq!(peers, BTreeMap::from(wanted));
        assert_eq!(rules.policies.len(), 4);
    }

    #[test]
    fn ends_behind_us_follow_their_interfaces() {
        let mut router = neighbor("192.0.2.1");
        let ends = ["172.17.0.2%eth0", "10.88.0.0/24%eth9", "192.0.2.9"];
        router.forwarded = ends.map(|end| end.parse().unwrap()).to_vec();
        let neighbors = Neighbors::number([router], &Neighbors::default(), &HashMap::new());
        let ends = |rules: Rules| -> BTreeMap<_, _> {
            let shown = |end: OwnEnd| (u32::from_be_bytes(end.neighbor), end.prefix_len, end.address);
            rules.forwarded.into_iter().map(|(end, ifindex)| (shown(end), ifindex)).collect()
        };
        let address = |text: &str| mapped(text.parse().unwrap());
        let mut wanted =
            BTreeMap::from([((1, 160, address("172.17.0.2")), 7), ((1, 160, address("192.0.2.9")), 0)]);
        assert_eq!(ends(neighbors.rules(&index_of)), wanted);
        wanted.insert((1, 152, address("10.88.0.0")), 11);
        let later = |name: &str| if name == "eth9" { Some(11) } else { index_of(name) };
        assert_eq!(ends(neighbors.rules(&later)), wanted);
    }

    #[test]
    fn an_unbound_neighbour_has_the_other_interfaces() {
        let neighbors = numbered(&["192.0.2.7%eth1", "192.0.2.7"]);
        let rules = neighbors.rules(&index_of);
        assert_eq!(rules.peers.len(), 2);
        assert!(rules.peers.values().all(|rule| rule.flags == 0));
    }

    #[test]
    fn the_longest_prefix_owns_a_connection() {
        let neighbors = numbered(&["192.0.2.0/24", "192.0.2.7", "0.0.0.0/0", "192.0.2.9%eth0"]);
        let owner = |peer: [u8; 4], scope, peer_port| {
            let quartet = Quartet {
                peer: mapped(peer.into()),
                peer_port,
                local_port: 40000,
                scope,
                ..Quartet::default()
            };
            neighbors.owner(&quartet, &index_of).map(|owner| owner.number)
        };
        assert_eq!(owner([192, 0, 2, 7], 0, 179), Some(2));
        assert_eq!(owner([192, 0, 2, 8], 0, 179), Some(1));
        assert_eq!(owner([198, 51, 100, 1], 0, 179), Some(3));
        assert_eq!(owner([192, 0, 2, 9], 7, 179), Some(4));
        assert_eq!(owner([192, 0, 2, 9], 8, 179), None);
        assert_eq!(owner([192, 0, 2, 7], 0, 180), None);
    }

    #[test]
    fn ttl_security_of_one_hop_asks_for_255() {
        let mut one = neighbor("192.0.2.1");
        one.ttl_security = Some(1);
        assert_eq!(policy(&one).min_hop_limit, 255);
        one.ttl_security = Some(254);
        assert_eq!(policy(&one).min_hop_limit, 2);
    }
}
