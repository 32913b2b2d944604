//! Whether an IPsec policy of this host takes the segments of a neighbor past TC.

use std::net::IpAddr;

use super::neighbors::covers;
use crate::{
    config::{Neighbor, Peer},
    kernel::{IpsecPolicy, IpsecWay, mapped},
};

/// IP protocol of TCP.
const TCP: u8 = 6;

/// Returns the ways on which a policy takes the neighbor's segments. `has_local`: whether the prefix has an address of
/// this host.
pub fn taken(
    policies: &[IpsecPolicy],
    neighbor: &Neighbor,
    has_local: impl Fn(&Peer) -> bool,
) -> Vec<IpsecWay> {
    let ways = [IpsecWay::Outbound, IpsecWay::Inbound].into_iter();
    ways.filter(|way| {
        let matching = policies.iter().filter(|policy| policy.way == *way);
        let matching = matching.filter(|policy| matches(policy, neighbor, &has_local));
        matching.min_by_key(|policy| policy.priority).is_some_and(|policy| policy.transforms)
    })
    .collect()
}

/// Whether a policy is about segments of the neighbor.
fn matches(policy: &IpsecPolicy, neighbor: &Neighbor, has_local: &impl Fn(&Peer) -> bool) -> bool {
    let may_be = |(port, mask): (u16, u16)| (port ^ neighbor.port) & mask == 0;
    let is_any = |(_, mask): (u16, u16)| mask == 0;
    // The session's port is at one of the ends, and any at the other.
    let ports = (is_any(policy.local_port) && may_be(policy.peer_port))
        || (is_any(policy.peer_port) && may_be(policy.local_port));
    let prefix = |(address, prefix_len): (IpAddr, u8)| Peer { address, prefix_len, interface: None };
    let (local, peer) = (prefix(policy.local), prefix(policy.peer));
    let overlaps = covers(&peer, &mapped(neighbor.peer.address))
        || covers(&Peer { interface: None, ..neighbor.peer.clone() }, &mapped(peer.address));
    [0, TCP].contains(&policy.protocol) && ports && overlaps && has_local(&local)
}

/// What the policies do with the neighbor's segments, for an operator.
pub fn reason(taken: &[IpsecWay]) -> Option<&'static str> {
    match taken {
        [] => None,
        [IpsecWay::Outbound] => Some(
            "an IPsec policy takes its segments: what this host sends leaves without a MAC (`ip xfrm policy`); use an \
             IPsec interface or a tunnel of another host, or tcpauth without IPsec",
        ),
        [IpsecWay::Inbound] => Some(
            "an IPsec policy takes its segments: what arrives in IPsec is not verified in transport mode (`ip xfrm \
             policy`); use tcpauth without IPsec",
        ),
        _ => Some(
            "an IPsec policy takes its segments: what this host sends leaves without a MAC, and what arrives in IPsec is \
             not verified in transport mode (`ip xfrm policy`); use tcpauth without IPsec",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::testing::neighbor;

    fn policy(way: IpsecWay, peer: &str, prefix_len: u8) -> IpsecPolicy {
        IpsecPolicy {
            way,
            local: ("192.0.2.1".parse().unwrap(), 32),
            peer: (peer.parse().unwrap(), prefix_len),
            local_port: (0, 0),
            peer_port: (0, 0),
            protocol: 0,
            priority: 5,
            transforms: true,
        }
    }

    fn ways(policies: &[IpsecPolicy]) -> Vec<IpsecWay> {
        taken(policies, &neighbor("192.0.2.2"), |local| covers(local, &mapped("192.0.2.1".parse().unwrap())))
    }

    #[test]
    fn a_policy_for_the_neighbor_is_found_on_its_way() {
        use IpsecWay::{Inbound, Outbound};
        let both = [policy(Outbound, "192.0.2.2", 32), policy(Inbound, "192.0.2.0", 24)];
        assert_eq!(ways(&both), [Outbound, Inbound]);
        assert_eq!(ways(&both[..1]), [Outbound]);
        assert_eq!(ways(&[policy(Inbound, "192.0.2.3", 32)]), []);
        // All traffic, but of the other family.
        assert_eq!(ways(&[policy(Outbound, "::", 0)]), []);
        assert_eq!(ways(&[policy(Outbound, "0.0.0.0", 0)]), [Outbound]);
        let elsewhere = IpsecPolicy { local: ("198.51.100.1".parse().unwrap(), 32), ..both[0].clone() };
        assert_eq!(ways(&[elsewhere]), []);
        // A prefix of dynamic neighbors has the policy's address in it.
        let all = |_: &Peer| true;
        assert_eq!(taken(&both[..1], &neighbor("192.0.2.0/24"), all), [Outbound]);
    }

    #[test]
    fn ports_and_protocols_that_are_not_the_sessions_do_not_count() {
        let policy = policy(IpsecWay::Outbound, "192.0.2.2", 32);
        let with = |protocol, local_port, peer_port| {
            !ways(&[IpsecPolicy { protocol, local_port, peer_port, ..policy.clone() }]).is_empty()
        };
        let (any, bgp, other) = ((0, 0), (179, 0xffff), (443, 0xffff));
        assert!(with(6, any, any) && with(6, any, bgp) && with(0, bgp, any));
        assert!(!with(17, any, any) && !with(6, any, other) && !with(6, other, bgp));
    }

    #[test]
    fn a_policy_that_lets_segments_pass_first_leaves_them_alone() {
        let transforming = policy(IpsecWay::Outbound, "0.0.0.0", 0);
        let bypass =
            IpsecPolicy { transforms: false, priority: 1, ..policy(IpsecWay::Outbound, "192.0.2.2", 32) };
        assert_eq!(ways(&[transforming.clone(), bypass.clone()]), []);
        assert_eq!(ways(&[transforming, IpsecPolicy { priority: 9, ..bypass }]), [IpsecWay::Outbound]);
    }
}
