//! Frames that are not a neighbor's segments: their kinds explain to the operator why a capture has no segments.

use std::collections::BTreeMap;
use std::fmt;

/// The kind of a frame that is not a neighbor's segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Other {
    /// TCP between addresses or ports that belong to no neighbor.
    Stranger,
    /// Of this link type (LINKTYPE number), which is not read.
    Link(u32),
    /// IEEE 802.3 with LLC: spanning tree, IS-IS.
    Llc,
    /// Of another protocol than IP, with this EtherType.
    EtherType(u16),
    /// IP that carries another protocol than TCP.
    Ip(u8),
    /// Frames in VXLAN.
    Vxlan,
    /// Frames that a switch mirrors by ERSPAN.
    Erspan,
    /// Its headers contradict themselves, or too little of them was captured.
    Unreadable,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stranger => f.write_str("TCP of other addresses or ports"),
            Self::Link(number) => write!(f, "link type {number}"),
            Self::Llc => f.write_str("802.3 LLC"),
            Self::EtherType(number) => match ETHERTYPES.iter().find(|(known, _)| known == number) {
                Some((_, name)) => write!(f, "{number:#06x} {name}"),
                None => write!(f, "{number:#06x}"),
            },
            Self::Ip(number) => match IP_PROTOCOLS.iter().find(|(known, _)| known == number) {
                Some((_, name)) => write!(f, "IP protocol {number} {name}"),
                None => write!(f, "IP protocol {number}"),
            },
            Self::Vxlan => f.write_str("VXLAN"),
            Self::Erspan => f.write_str("ERSPAN"),
            Self::Unreadable => f.write_str("unreadable"),
        }
    }
}

/// How many there were of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others(BTreeMap<Other, u64>);

impl Others {
    /// Counts one more.
    pub fn count(&mut self, other: Other) {
        *self.0.entry(other).or_default() += 1;
    }

    /// Whether there were any at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there was one of this sort.
    pub fn contains(&self, other: Other) -> bool {
        self.0.contains_key(&other)
    }

    /// Each sort, and how many there were.
    pub fn iter(&self) -> impl Iterator<Item = (Other, u64)> {
        self.0.iter().map(|(other, count)| (*other, *count))
    }

    /// Explains to the operator, one line for each kind, which frames may hide a neighbor's segments; if the capture has no
    /// such segment, it names all kinds.
    pub fn explanation(&self, has_segments: bool) -> String {
        let mut lines = String::new();
        for (other, count) in self.iter() {
            let remedy = match other {
                Other::Link(_) => {
                    ", which tcpauth does not read: capture on an Ethernet interface, on `any`, or raw IP"
                }
                Other::Unreadable => {
                    ": too little of their headers was captured (capture with `-s 0`), or they are damaged"
                }
                _ if has_segments => continue,
                Other::Vxlan => {
                    ", which is not looked into: capture where the tunnel ends, or strip it (over IPv4: `editcap -C 50`)"
                }
                Other::Erspan => ", which is not looked into: strip it (type II over IPv4: `editcap -C 50`)",
                Other::Stranger | Other::Llc | Other::EtherType(_) | Other::Ip(_) => "",
            };
            lines += &format!("other frames {count}: {other}{remedy}\n");
        }
        lines
    }
}

/// What an operator may meet where BGP was expected.
const ETHERTYPES: [(u16, &str); 9] = [
    (0x0806, "ARP"),
    (0x8809, "LACP"),
    (0x8847, "MPLS"),
    (0x8848, "MPLS"),
    (0x8863, "PPPoE discovery"),
    (0x8864, "PPPoE"),
    (0x88cc, "LLDP"),
    (0x88e5, "MACsec"),
    (0x894f, "NSH"),
];

const IP_PROTOCOLS: [(u8, &str); 10] = [
    (1, "ICMP"),
    (4, "IPv4 in IP"),
    (17, "UDP"),
    (41, "IPv6 in IP"),
    (47, "GRE"),
    (50, "ESP (IPsec)"),
    (51, "AH (IPsec)"),
    (58, "ICMPv6"),
    (89, "OSPF"),
    (112, "VRRP"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hide_segments_is_always_told_and_the_rest_if_there_are_none() {
        let mut others = Others::default();
        for other in
            [Other::EtherType(0x0806), Other::Link(189), Other::Erspan, Other::Link(189), Other::Ip(50)]
        {
            others.count(other);
        }
        let link = "other frames 2: link type 189, which tcpauth does not read: capture on an Ethernet interface, on `any`, \
                    or raw IP\n";
        assert_eq!(others.explanation(true), link);
        let all = others.explanation(false);
        assert_eq!(
            all,
            format!(
                "{link}other frames 1: 0x0806 ARP\nother frames 1: IP protocol 50 ESP (IPsec)\nother frames 1: ERSPAN, which is \
                 not looked into: strip it (type II over IPv4: `editcap -C 50`)\n"
            )
        );
        assert!(others.contains(Other::Erspan) && !others.contains(Other::Vxlan));
    }

    #[test]
    fn known_numbers_have_names() {
        let shown = [Other::EtherType(0x8864), Other::EtherType(0x1234), Other::Ip(17), Other::Ip(200)]
            .map(|other| other.to_string());
        assert_eq!(shown, ["0x8864 PPPoE", "0x1234", "IP protocol 17 UDP", "IP protocol 200"]);
    }
}
