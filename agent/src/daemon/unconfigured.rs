//! Neighbors that an earlier daemon protected and the configuration does not have: they stay as they are in the maps,
//! so their sessions stay protected and no new connection comes up, until an operator lets them go.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use tcpauth_common::layout::{PeerPrefix, PeerRule};

use super::neighbors::{Neighbors, Rules};

/// What the maps say of neighbors that are not configured.
#[derive(Default)]
pub struct Unconfigured(Rules);

impl Unconfigured {
    /// Returns the neighbors that the maps have and `neighbors` does not.
    pub fn found(maps: &Rules, neighbors: &Neighbors) -> Self {
        let mut rules = maps.clone();
        rules.peers.retain(|_, rule| rule.neighbor != 0);
        let mut unconfigured = Self(rules);
        unconfigured.keep_only(&|number| neighbors.numbered(number).is_none());
        unconfigured
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.peers.is_empty()
    }

    /// Whether the neighbor with this number is one.
    pub fn has(&self, number: u32) -> bool {
        self.0.policies.contains_key(&number)
    }

    /// The numbers and addresses that they have in the maps.
    pub fn peers(&self) -> &std::collections::HashMap<PeerPrefix, PeerRule> {
        &self.0.peers
    }

    /// Their names, as an operator would configure them, without the interface.
    pub fn names(&self) -> BTreeSet<String> {
        self.0.peers.keys().map(name).collect()
    }

    /// Adds what the maps have to go on saying of them.
    pub fn add_to(&self, rules: &mut Rules) {
        for (prefix, rule) in &self.0.peers {
            rules.peers.entry(*prefix).or_insert(*rule);
        }
        for (end, interface) in &self.0.forwarded {
            rules.forwarded.entry(*end).or_insert(*interface);
        }
        for (number, policy) in &self.0.policies {
            rules.policies.entry(*number).or_insert(*policy);
            rules.ports.extend([policy.port, policy.kmp_port].into_iter().filter(|port| *port != 0));
        }
    }

    /// Lets the neighbor called `peer` go; `false` if there is none.
    pub fn let_go(&mut self, peer: &str) -> bool {
        let numbers: BTreeSet<u32> = (self.0.peers.iter())
            .filter(|(prefix, _)| name(prefix) == peer)
            .map(|(_, rule)| rule.neighbor)
            .collect();
        self.keep_only(&|number| !numbers.contains(&number));
        !numbers.is_empty()
    }

    /// Forgets those that are configured again.
    pub fn follow(&mut self, neighbors: &Neighbors) {
        self.keep_only(&|number| neighbors.numbered(number).is_none());
    }

    fn keep_only(&mut self, stays: &dyn Fn(u32) -> bool) {
        let Rules { peers, forwarded, policies, ports } = &mut self.0;
        peers.retain(|_, rule| stays(rule.neighbor));
        forwarded.retain(|end, _| stays(u32::from_be_bytes(end.neighbor)));
        policies.retain(|number, _| stays(*number));
        ports.clear();
    }
}

/// `192.0.2.1`, or `192.0.2.0/24`.
fn name(prefix: &PeerPrefix) -> String {
    let address = Ipv6Addr::from(prefix.address);
    let bits = prefix.prefix_len - 32;
    match address.to_ipv4_mapped() {
        Some(address) if bits >= 96 => shown(address.into(), bits - 96, 32),
        _ => shown(address.into(), bits, 128),
    }
}

fn shown(address: IpAddr, bits: u32, all: u32) -> String {
    if bits == all { address.to_string() } else { format!("{address}/{bits}") }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use jiff::Timestamp;

    use super::*;
    use crate::sessions::testing::neighbor;

    fn numbered(peers: &[&str], pinned: &Rules) -> Neighbors {
        let all = peers.iter().map(|peer| neighbor(peer));
        Neighbors::number(all, &Neighbors::default(), &pinned.peers, &|_| None)
    }

    fn rules(neighbors: &Neighbors) -> Rules {
        neighbors.rules(Timestamp::UNIX_EPOCH, &|_| None, &|_| None)
    }

    #[test]
    fn missing_neighbor_keeps_its_rules_until_it_is_let_go() {
        let pinned = rules(&numbered(&["192.0.2.1", "192.0.2.0/24", "2001:db8::1"], &Rules::default()));
        let configured = numbered(&["192.0.2.1"], &pinned);
        let mut unconfigured = Unconfigured::found(&pinned, &configured);
        assert_eq!(unconfigured.names().into_iter().collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::1"]);
        let with = |unconfigured: &Unconfigured| {
            let mut all = rules(&configured);
            unconfigured.add_to(&mut all);
            all
        };
        assert_eq!(with(&unconfigured), pinned);
        assert!(unconfigured.let_go("2001:db8::1") && !unconfigured.let_go("2001:db8::1"));
        assert_eq!(with(&unconfigured).peers.len(), 2);
        unconfigured.follow(&numbered(&["192.0.2.1", "192.0.2.0/24"], &pinned));
        assert!(unconfigured.is_empty());
        assert_eq!(with(&unconfigured), rules(&configured));
    }

    #[test]
    fn nothing_pinned_is_nothing_missing() {
        let configured = numbered(&["192.0.2.1"], &Rules::default());
        let none = Rules { peers: HashMap::new(), ..Rules::default() };
        assert!(Unconfigured::found(&none, &configured).is_empty());
        assert!(Unconfigured::found(&rules(&configured), &configured).is_empty());
    }
}
