//! The running configuration: neighbours with the numbers that the data plane knows them by, and what
//! the maps have to say of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
};

use jiff::Timestamp;
use tcpauth_common::{
    KeyId,
    layout::{OwnEnd, PeerPrefix, PeerRule, Policy, Quartet},
};

use crate::{
    config::{Neighbor, Peer, Unauthenticated, Wire},
    kernel::mapped,
    sessions::AGREED_IDS,
};

/// Neighbours by number. Holds secrets: no `Debug`.
#[derive(Clone, Default)]
pub struct Neighbors {
    by_number: BTreeMap<u32, Neighbor>,
    /// Numbers of those that are one address, by it; there is one on each interface at most.
    hosts: HashMap<[u8; 16], Vec<u32>>,
    /// Numbers of the others.
    prefixes: Vec<u32>,
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

impl Rules {
    /// A side that `old` says was told to sign is told so while its neighbour is the same and in that mode.
    pub fn keep_told(&mut self, old: &Self) {
        for (number, policy) in &mut self.policies {
            let is_told = old.policies.get(number).is_some_and(|old| old.flags & Policy::SIGN != 0);
            if is_told && policy.flags & Policy::ACCEPT_UNSIGNED != 0 {
                policy.flags |= Policy::SIGN;
            }
        }
    }
}

impl Neighbors {
    /// Numbers the neighbours of a configuration. One keeps the number it had in `previous`, or, after a
    /// start, the one its address has in `pinned`; so its sessions and counters go on.
    pub fn number(
        neighbors: impl IntoIterator<Item = Neighbor>,
        previous: &Self,
        pinned: &HashMap<PeerPrefix, PeerRule>,
        index_of: &dyn Fn(&str) -> Option<u32>,
    ) -> Self {
        let known: HashMap<&Peer, u32> =
            previous.by_number.iter().map(|(number, neighbor)| (&neighbor.peer, *number)).collect();
        let mut by_number = BTreeMap::new();
        let mut without = Vec::new();
        for neighbor in neighbors {
            let number = known
                .get(&neighbor.peer)
                .copied()
                .or_else(|| pinned_number(&neighbor.peer, pinned, index_of));
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
        Self::indexed(by_number)
    }

    fn indexed(by_number: BTreeMap<u32, Neighbor>) -> Self {
        let mut hosts: HashMap<[u8; 16], Vec<u32>> = HashMap::new();
        let mut prefixes = Vec::new();
        for (number, Neighbor { peer, .. }) in &by_number {
            let same =
                if peer.is_host() { hosts.entry(mapped(peer.address)).or_default() } else { &mut prefixes };
            same.push(*number);
        }
        Self { by_number, hosts, prefixes }
    }

    /// The neighbour with this number.
    pub fn numbered(&self, number: u32) -> Option<&Neighbor> {
        self.by_number.get(&number)
    }

    /// All, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Neighbor)> {
        self.by_number.iter().map(|(number, neighbor)| (*number, neighbor))
    }

    /// The numbers of all.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.by_number.keys().copied()
    }

    /// The neighbour whose prefix is the longest to have `address`.
    pub fn covering(&self, address: IpAddr) -> Option<(u32, &Neighbor)> {
        self.having(mapped(address)).max_by_key(|(_, neighbor)| neighbor.peer.prefix_len)
    }

    /// The neighbours that have an address of a map's key, on whatever interface.
    pub fn having(&self, address: [u8; 16]) -> impl Iterator<Item = (u32, &Neighbor)> {
        let hosts = self.hosts.get(&address).into_iter().flatten();
        (hosts.chain(&self.prefixes))
            .filter_map(|number| Some((*number, self.by_number.get(number)?)))
            .filter(move |(_, neighbor)| covers(&neighbor.peer, &address))
    }

    /// The neighbour whose rules hold for a connection: the longest prefix, if it is of the connection's scope and
    /// one of the ports is the neighbour's. A global address bound to an interface is nobody else's on any other.
    pub fn owner(&self, quartet: &Quartet, index_of: &dyn Fn(&str) -> Option<u32>) -> Option<Owner<'_>> {
        let scope_of = |peer: &Peer| peer.interface.as_deref().map_or(Some(0), index_of);
        let is_in_scope = |peer: &Peer| scope_of(peer) == Some(quartet.scope);
        let (number, neighbor) = self
            .having(quartet.peer)
            .filter(|(_, Neighbor { peer, .. })| {
                is_in_scope(peer) || (quartet.scope == 0 && !peer.is_link_local())
            })
            .max_by_key(|(_, Neighbor { peer, .. })| (peer.prefix_len, is_in_scope(peer)))
            .filter(|(_, Neighbor { peer, .. })| is_in_scope(peer))?;
        let is_end = |port: u16| [quartet.local_port, quartet.peer_port].contains(&port);
        let has_port = is_end(neighbor.port) || neighbor.kmp.as_ref().is_some_and(|kmp| is_end(kmp.port));
        has_port.then_some(Owner { number, neighbor })
    }

    /// Whether our end of the connection is one behind this host that the neighbour's `forwarded` names.
    pub fn is_forwarded(&self, number: u32, quartet: &Quartet) -> bool {
        let forwarded = self.numbered(number).map_or(&[][..], |neighbor| &neighbor.forwarded);
        forwarded.iter().any(|end| covers(end, &quartet.local))
    }

    /// What the maps have to say, with interfaces as they are now: `index_of` tells whose programs see the segments
    /// of a neighbour bound to one, `arrival` by which segments arrive that are to be forwarded. `now` decides which
    /// keys are accepted.
    pub fn rules(
        &self,
        now: Timestamp,
        index_of: &dyn Fn(&str) -> Option<u32>,
        arrival: &dyn Fn(&str) -> Option<u32>,
    ) -> Rules {
        let mut rules = Rules::default();
        let mut elsewhere = Vec::new();
        for (number, neighbor) in self.iter() {
            let peer = &neighbor.peer;
            rules.policies.insert(number, policy(neighbor, now));
            rules.ports.insert(neighbor.port);
            rules.ports.extend(neighbor.kmp.as_ref().map(|kmp| kmp.port));
            // None for an end whose interface does not exist: nothing can arrive by it.
            rules.forwarded.extend(neighbor.forwarded.iter().filter_map(|end| {
                let ifindex = end.interface.as_deref().map_or(Some(0), arrival)?;
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
        keep_out_ipv4(&mut rules.peers);
        rules
    }
}

/// An IPv6 prefix that is short enough has all of ::ffff:0:0/96 in it, where the maps have IPv4; but it is not
/// about IPv4. Where it is bound to an interface, the IPv4 rules for any interface have to be beside it, as a
/// rule with the interface goes before them.
fn keep_out_ipv4(peers: &mut HashMap<PeerPrefix, PeerRule>) {
    let ipv4 = PeerPrefix { prefix_len: 32 + 96, scope: [0; 4], address: mapped([0, 0, 0, 0].into()) };
    let scopes: BTreeSet<[u8; 4]> = (peers.keys())
        .filter(|key| {
            key.prefix_len < ipv4.prefix_len && same_bits(&key.address, &ipv4.address, key.prefix_len - 32)
        })
        .map(|key| key.scope)
        .collect();
    let anywhere: Vec<(PeerPrefix, PeerRule)> = (peers.iter())
        .filter(|(key, _)| key.scope == [0; 4] && key.prefix_len >= ipv4.prefix_len)
        .filter(|(key, _)| same_bits(&key.address, &ipv4.address, 96))
        .map(|(key, rule)| (*key, *rule))
        .collect();
    for scope in scopes {
        for (key, rule) in &anywhere {
            peers.entry(PeerPrefix { scope, ..*key }).or_insert(*rule);
        }
        let nobody = PeerRule { neighbor: 0, scope: 0, flags: PeerRule::NOBODY };
        peers.entry(PeerPrefix { scope, ..ipv4 }).or_insert(nobody);
    }
}

/// Whether the first `bits` bits of two addresses are the same.
fn same_bits(a: &[u8; 16], b: &[u8; 16], bits: u32) -> bool {
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    (u128::from_be_bytes(*a) ^ u128::from_be_bytes(*b)) & mask == 0
}

/// The octets and the mask of `peer` cover an address of a map's key.
pub fn covers(peer: &Peer, address: &[u8; 16]) -> bool {
    let bits = u32::from(peer.prefix_len) + if peer.address.is_ipv4() { 96 } else { 0 };
    // An IPv6 prefix is not about IPv4, however short.
    let is_ipv4 = Ipv6Addr::from(*address).to_ipv4_mapped().is_some();
    is_ipv4 == peer.address.is_ipv4() && same_bits(&mapped(peer.address), address, bits)
}

fn pinned_number(
    peer: &Peer,
    pinned: &HashMap<PeerPrefix, PeerRule>,
    index_of: &dyn Fn(&str) -> Option<u32>,
) -> Option<u32> {
    let plain = prefix(peer, 0);
    // A rule that is copied into another scope is not the neighbour's own.
    let is_own = |scope: u32, rule: &PeerRule| rule.flags == 0 && rule.scope == scope;
    match &peer.interface {
        None => pinned.get(&plain).filter(|rule| is_own(0, rule)),
        Some(interface) => {
            let scope = index_of(interface);
            let there =
                scope.and_then(|scope| pinned.get(&prefix(peer, scope)).filter(|rule| is_own(scope, rule)));
            // Which interface it was is not in the map by name; the address bound to any tells enough.
            let anywhere = || {
                pinned.iter().find(|(key, rule)| {
                    let same = (key.prefix_len, key.address) == (plain.prefix_len, plain.address);
                    let own = is_own(u32::from_be_bytes(key.scope), rule) && key.scope != [0; 4];
                    same && (own || rule.flags & PeerRule::WRONG_INTERFACE != 0)
                })
            };
            there.or_else(|| anywhere().map(|(_, rule)| rule))
        }
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

fn policy(neighbor: &Neighbor, now: Timestamp) -> Policy {
    let mut policy = Policy {
        port: neighbor.port,
        // 256 − hops: 1 hop away is a hop limit of 255.
        min_hop_limit: neighbor.ttl_security.map_or(0, |hops| 0u8.wrapping_sub(hops)),
        flags: if neighbor.wire == Wire::TcpMd5 { Policy::TCP_MD5 } else { 0 },
        ..Policy::default()
    };
    // Where no key serves, a SYN is to be refused for that, and not for its KeyID: sessions does so.
    let is_closed = neighbor.keys.is_closed(now);
    for key in neighbor.keys.keys.iter().filter(|key| is_closed || key.is_accepted(now)) {
        policy.accept(key.mkt.recv_id);
    }
    if let Some(kmp) = &neighbor.kmp {
        policy.kmp_port = kmp.port;
        // Those of agreed keys are chosen when they are: before, it is not known which.
        AGREED_IDS.for_each(|id| policy.accept(KeyId(id)));
    }
    if neighbor.unauthenticated == Unauthenticated::AcceptUntilAuthenticated {
        policy.flags |= Policy::ACCEPT_UNSIGNED;
    }
    policy
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
        Neighbors::number(
            peers.iter().map(|peer| neighbor(peer)),
            &Neighbors::default(),
            &HashMap::new(),
            &index_of,
        )
    }

    fn number_of(neighbors: &Neighbors, peer: &str) -> u32 {
        neighbors.iter().find(|(_, neighbor)| neighbor.peer.to_string() == peer).unwrap().0
    }

    #[test]
    fn numbers_stay_with_their_neighbours() {
        let first = numbered(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let config = ["192.0.2.9", "192.0.2.3", "192.0.2.1"].map(neighbor);
        let second = Neighbors::number(config, &first, &HashMap::new(), &index_of);
        assert_eq!(number_of(&second, "192.0.2.1"), number_of(&first, "192.0.2.1"));
        assert_eq!(number_of(&second, "192.0.2.3"), number_of(&first, "192.0.2.3"));
        assert_eq!(number_of(&second, "192.0.2.9"), 4);
    }

    #[test]
    fn numbers_come_back_from_the_maps() {
        let peers = ["2001:db8::1", "192.0.2.0/24", "fe80::1%eth0", "192.0.2.7%eth1", "192.0.2.7"];
        let first = numbered(&peers);
        let pinned = first.rules(Timestamp::UNIX_EPOCH, &index_of, &index_of).peers;
        let reversed = peers.iter().rev().map(|peer| neighbor(peer));
        let second = Neighbors::number(reversed, &Neighbors::default(), &pinned, &index_of);
        for peer in peers {
            assert_eq!(number_of(&second, peer), number_of(&first, peer), "{peer}");
        }
    }

    #[test]
    fn bound_neighbours_follow_their_interface() {
        let neighbors = numbered(&["fe80::1%eth0", "192.0.2.7%eth1", "fe80::2%eth9", "192.0.2.8%eth9"]);
        let rules = neighbors.rules(Timestamp::UNIX_EPOCH, &index_of, &index_of);
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
        let neighbors = Neighbors::number([router], &Neighbors::default(), &HashMap::new(), &index_of);
        let ends = |rules: Rules| -> BTreeMap<_, _> {
            let shown = |end: OwnEnd| (u32::from_be_bytes(end.neighbor), end.prefix_len, end.address);
            rules.forwarded.into_iter().map(|(end, ifindex)| (shown(end), ifindex)).collect()
        };
        let address = |text: &str| mapped(text.parse().unwrap());
        let mut wanted =
            BTreeMap::from([((1, 160, address("172.17.0.2")), 7), ((1, 160, address("192.0.2.9")), 0)]);
        assert_eq!(ends(neighbors.rules(Timestamp::UNIX_EPOCH, &index_of, &index_of)), wanted);
        wanted.insert((1, 152, address("10.88.0.0")), 11);
        let later = |name: &str| if name == "eth9" { Some(11) } else { index_of(name) };
        assert_eq!(ends(neighbors.rules(Timestamp::UNIX_EPOCH, &index_of, &later)), wanted);
    }

    #[test]
    fn an_unbound_neighbour_has_the_other_interfaces() {
        let neighbors = numbered(&["192.0.2.7%eth1", "192.0.2.7"]);
        let rules = neighbors.rules(Timestamp::UNIX_EPOCH, &index_of, &index_of);
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
        assert_eq!(owner([192, 0, 2, 9], 0, 179), None, "bound to an interface: not the shorter prefix's");
        assert_eq!(owner([192, 0, 2, 7], 0, 180), None);
    }

    #[test]
    fn an_address_in_two_vrfs_is_two_neighbours() {
        let peers = ["10.0.0.1%eth0", "10.0.0.1%eth1"];
        let first = numbered(&peers);
        let pinned = first.rules(Timestamp::UNIX_EPOCH, &index_of, &index_of).peers;
        assert_eq!(pinned.len(), 3, "one for each interface, and for the others");
        let reversed = peers.iter().rev().map(|peer| neighbor(peer));
        let second = Neighbors::number(reversed, &Neighbors::default(), &pinned, &index_of);
        for (peer, scope) in peers.into_iter().zip([7, 8]) {
            assert_eq!(number_of(&second, peer), number_of(&first, peer));
            let quartet =
                Quartet { peer: mapped([10, 0, 0, 1].into()), peer_port: 179, scope, ..Quartet::default() };
            assert_eq!(second.owner(&quartet, &index_of).unwrap().number, number_of(&first, peer));
        }
    }

    #[test]
    fn a_short_ipv6_prefix_is_not_about_ipv4() {
        let ipv4 = |scope: u32| PeerPrefix {
            prefix_len: 128,
            scope: scope.to_be_bytes(),
            address: mapped([0, 0, 0, 0].into()),
        };
        let rules = |peers: &[&str]| numbered(peers).rules(Timestamp::UNIX_EPOCH, &index_of, &index_of).peers;
        let nobody = PeerRule { neighbor: 0, scope: 0, flags: PeerRule::NOBODY };
        assert_eq!(rules(&["::/0"]).get(&ipv4(0)), Some(&nobody));
        assert_eq!(rules(&["::/80"]).get(&ipv4(0)), Some(&nobody));
        assert_eq!(rules(&["2001:db8::/32"]).len(), 1);
        assert_eq!(rules(&["::/0", "0.0.0.0/0"])[&ipv4(0)].neighbor, 2);
        let bound = rules(&["::/0%eth0", "192.0.2.1"]);
        assert_eq!((bound[&ipv4(7)], bound[&ipv4(0)]), (nobody, nobody));
        let router = prefix(&"192.0.2.1".parse().unwrap(), 7);
        assert_eq!(bound[&router].neighbor, 2, "it is known on eth0 too");
        assert!(!covers(&"::/0".parse().unwrap(), &mapped([192, 0, 2, 1].into())));
    }

    #[test]
    fn the_channel_for_keys_is_protected_as_sessions_are() {
        let mut config = crate::config::Config::parse(
            "[neighbor.\"192.0.2.1\"]\npassword = \"a\"\nkey-management = \"external\"\nkmp-port = 1700\n\
             [neighbor.\"192.0.2.2\"]\npassword = \"a\"\n",
            std::path::Path::new("test.toml"),
        )
        .ok()
        .unwrap();
        let neighbors =
            Neighbors::number(config.neighbors.drain(..), &Neighbors::default(), &HashMap::new(), &index_of);
        let rules = neighbors.rules(Timestamp::UNIX_EPOCH, &index_of, &index_of);
        assert_eq!(rules.ports, BTreeSet::from([179, 1700]));
        let policies = &rules.policies;
        let accepted = |number: u32| (0..=255).filter(move |id| policies[&number].accepts(KeyId(*id)));
        assert_eq!(accepted(1).collect::<Vec<_>>(), [1].into_iter().chain(128..=255).collect::<Vec<_>>());
        assert_eq!(accepted(2).collect::<Vec<_>>(), [1]);
        assert_eq!([1, 2].map(|number| rules.policies[&number].kmp_port), [1700, 0]);
        for (last, peer_port, expected) in [(1, 1700, Some(1)), (2, 1700, None), (2, 179, Some(2))] {
            let peer = mapped([192, 0, 2, last].into());
            let quartet = Quartet { peer, peer_port, local_port: 40000, ..Quartet::default() };
            assert_eq!(neighbors.owner(&quartet, &index_of).map(|owner| owner.number), expected);
        }
    }

    #[test]
    fn ttl_security_of_one_hop_asks_for_255() {
        let mut one = neighbor("192.0.2.1");
        one.ttl_security = Some(1);
        assert_eq!(policy(&one, Timestamp::UNIX_EPOCH).min_hop_limit, 255);
        one.ttl_security = Some(254);
        assert_eq!(policy(&one, Timestamp::UNIX_EPOCH).min_hop_limit, 2);
    }
}
