//! Interfaces as netlink describes them, and which of them get the programs.

use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoPortKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage, VlanProtocol,
};

use super::{ETHERTYPE_8021AD, ETHERTYPE_8021Q, LANE0, LANE1};

/// An interface of the network namespace that segments of a neighbour might use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, octets.
    pub mtu: u32,
    /// What it is, as far as attaching is concerned.
    pub kind: LinkKind,
    /// Index of the VRF that it is a member of.
    pub vrf: Option<u32>,
}

/// What an interface is, as far as attaching is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Carries Ethernet frames.
    Ethernet,
    /// Carries IP packets without a header in front: tunnels, PPP, WireGuard.
    Ip,
    /// Takes the frames of one VLAN from another interface.
    Vlan {
        /// Index of the interface that carries the tagged frames.
        lower: u32,
        /// VLAN identifier, 1 to 4094.
        vid: u16,
        /// EtherType of the tag: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
        protocol: u16,
    },
    /// A VLAN interface that is part of a bridge, bond or team: the master's programs see its frames, and the
    /// interface below has to leave them to those.
    VlanPort {
        /// Index of the interface that carries the tagged frames.
        lower: u32,
        /// VLAN identifier, 1 to 4094.
        vid: u16,
        /// EtherType of the tag: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
        protocol: u16,
        /// Index of the bridge, bond or team.
        master: u32,
    },
    /// A macvlan, macvtap or ipvlan: its frames pass the programs of the interface below.
    Upper {
        /// Index of the interface below.
        lower: u32,
    },
    /// Carries Ethernet frames that have passed the programs of the interface below in part: a port of a switch (DSA)
    /// or of a ring (HSR, PRP), MACsec. The tag or trailer that it takes off may leave the segment readable there.
    Upon,
    /// Loopback, where packets taken out of a tunnel or a label may arrive.
    Loopback,
    /// A VRF, where packets taken out of a label, and those of a route from another table, arrive. What arrives by one
    /// of its members passes that one's programs only.
    Vrf,
    /// Carries no Ethernet frames, so the programs cannot work there; why, for the operator.
    Unprotected(String),
}

impl Link {
    /// The link in a netlink message; `None` for those that are none of our business:
    /// the lane, and ports of a bridge, bond or team (their master is attached instead).
    pub(super) fn parse(message: &LinkMessage) -> Option<Self> {
        let mut name = None;
        let mut mtu = 0;
        let mut lower = None;
        let mut elsewhere = false;
        let mut has_remote = false;
        let mut master = None;
        let mut info: &[LinkInfo] = &[];
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = Some(value.as_str()),
                LinkAttribute::Mtu(value) => mtu = *value,
                LinkAttribute::Link(value) => lower = Some(*value),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::Controller(value) => master = Some(*value),
                // Of a tunnel, the remote end's address.
                LinkAttribute::Broadcast(value) => has_remote = value.iter().any(|octet| *octet != 0),
                LinkAttribute::LinkInfo(value) => info = value,
                _ => {}
            }
        }
        let name = name?;
        if name == LANE0 || name == LANE1 {
            return None;
        }
        // An interface whose lower one is in another namespace is the first of this one that frames pass.
        let lower = lower.filter(|_| !elsewhere);
        let index = message.header.index;
        if let Some(master) = master.filter(|_| !is_vrf_member(info)) {
            let LinkKind::Vlan { lower, vid, protocol } = vlan(info, lower?)? else { return None };
            let kind = LinkKind::VlanPort { lower, vid, protocol, master };
            return Some(Self { index, name: name.to_owned(), mtu, kind, vrf: None });
        }
        let kind = match (message.header.link_layer_type, lower) {
            _ if message.header.flags.contains(LinkFlags::Loopback) => LinkKind::Loopback,
            _ if info.contains(&LinkInfo::Kind(InfoKind::Vrf)) => LinkKind::Vrf,
            (LinkLayerType::Ether, _) if !elsewhere && is_upon(info) => LinkKind::Upon,
            (LinkLayerType::Ether, Some(lower)) if is_upper(info) => LinkKind::Upper { lower },
            (LinkLayerType::Ether, Some(lower)) => vlan(info, lower).unwrap_or(LinkKind::Ethernet),
            (LinkLayerType::Ether, None) => LinkKind::Ethernet,
            (LinkLayerType::Ipgre | LinkLayerType::Ip6gre, _) if !has_remote => {
                let reason = "a GRE tunnel without a remote end sends packets with another header in front";
                LinkKind::Unprotected(reason.to_owned())
            }
            (other, _) if is_bare(other) => LinkKind::Ip,
            (other, _) => LinkKind::Unprotected(format!("frames of link type {other:?} are not understood")),
        };
        Some(Self { index, name: name.to_owned(), mtu, kind, vrf: master })
    }

    /// Whether packets reach it from inside this host only: no neighbor is behind it.
    pub fn is_internal(&self) -> bool {
        matches!(self.kind, LinkKind::Loopback | LinkKind::Vrf)
    }
}

/// Name of an interface that is a port of a bridge, bond or team, and index of that one.
pub(super) fn port_of(message: &LinkMessage) -> Option<(String, u32)> {
    let (mut name, mut master, mut is_in_vrf) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Controller(value) => master = Some(*value),
            LinkAttribute::LinkInfo(info) => is_in_vrf = is_vrf_member(info),
            _ => {}
        }
    }
    name.zip(master.filter(|_| !is_in_vrf))
}

/// Whether the link is part of a VRF: its frames do not pass the master's programs, as those of other ports do.
fn is_vrf_member(info: &[LinkInfo]) -> bool {
    info.contains(&LinkInfo::PortKind(InfoPortKind::Vrf))
}

/// Whether the link's frames pass the one below it, and its programs.
fn is_upper(info: &[LinkInfo]) -> bool {
    info.iter().any(|info| {
        matches!(
            info,
            LinkInfo::Kind(InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap)
        )
    })
}

/// Whether the link's frames pass the programs of the one below it, which may or may not find the segment in them.
fn is_upon(info: &[LinkInfo]) -> bool {
    info.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Dsa | InfoKind::Hsr | InfoKind::MacSec)))
}

/// Link types that the kernel says have no MAC header (`dev_is_mac_header_xmit`).
fn is_bare(layer: LinkLayerType) -> bool {
    matches!(
        layer,
        LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre
            | LinkLayerType::Void
            | LinkLayerType::None
            | LinkLayerType::Rawip
            | LinkLayerType::Pimreg
            | LinkLayerType::Ppp
    )
}

/// What a VLAN interface takes from the one below it.
fn vlan(info: &[LinkInfo], lower: u32) -> Option<LinkKind> {
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let is_8021ad = data.iter().any(|item| matches!(item, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    let protocol = if is_8021ad { ETHERTYPE_8021AD } else { ETHERTYPE_8021Q };
    data.iter().find_map(|item| match item {
        InfoVlan::Id(vid) => Some(LinkKind::Vlan { lower, vid: *vid, protocol }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, info: Vec<LinkInfo>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 5;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(info),
        ];
        message
    }

    fn vlan_info(protocol: VlanProtocol) -> Vec<LinkInfo> {
        let data = vec![InfoVlan::Protocol(protocol), InfoVlan::Id(7)];
        vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(data))]
    }

    fn kind(message: &LinkMessage) -> LinkKind {
        Link::parse(message).unwrap().kind
    }

    #[test]
    fn a_vlan_is_known_by_its_lower_interface_tag_and_identifier() {
        for (tag, protocol) in [(VlanProtocol::Ieee8021Q, 0x8100), (VlanProtocol::Ieee8021Ad, 0x88a8)] {
            let link = Link::parse(&message("eth0.7", vlan_info(tag))).unwrap();
            let kind = LinkKind::Vlan { lower: 2, vid: 7, protocol };
            assert_eq!(link, Link { index: 5, name: "eth0.7".to_owned(), mtu: 1500, kind, vrf: None });
        }
    }

    #[test]
    fn what_is_above_an_interface_of_another_namespace_is_like_any_other() {
        let macvlan = vec![LinkInfo::Kind(InfoKind::MacVlan)];
        for info in [vlan_info(VlanProtocol::Ieee8021Q), macvlan] {
            let mut moved = message("eth0.7", info);
            moved.attributes.push(LinkAttribute::LinkNetNsId(0));
            assert_eq!(kind(&moved), LinkKind::Ethernet);
        }
    }

    #[test]
    fn frames_of_a_macvlan_or_ipvlan_pass_the_interface_below() {
        for info in [InfoKind::MacVlan, InfoKind::MacVtap, InfoKind::IpVlan, InfoKind::IpVtap] {
            assert_eq!(kind(&message("mv0", vec![LinkInfo::Kind(info)])), LinkKind::Upper { lower: 2 });
        }
        assert_eq!(kind(&message("v0", vec![LinkInfo::Kind(InfoKind::Veth)])), LinkKind::Ethernet);
    }

    #[test]
    fn ports_whose_frames_pass_the_masters_programs_are_left_out() {
        for port in [InfoPortKind::Bridge, InfoPortKind::Bond, InfoPortKind::Team] {
            let mut part = message("eth0", vec![LinkInfo::PortKind(port)]);
            part.attributes.push(LinkAttribute::Controller(9));
            assert_eq!(Link::parse(&part), None);
            assert_eq!(port_of(&part), Some(("eth0".to_owned(), 9)));
        }
        assert_eq!(Link::parse(&message(LANE1, vec![LinkInfo::Kind(InfoKind::Veth)])), None);
    }

    #[test]
    fn what_packets_reach_from_inside_this_host_is_told_apart() {
        assert_eq!(kind(&message("red", vec![LinkInfo::Kind(InfoKind::Vrf)])), LinkKind::Vrf);
        for above in [InfoKind::Dsa, InfoKind::Hsr, InfoKind::MacSec] {
            let mut link = message("lan1", vec![LinkInfo::Kind(above)]);
            assert_eq!(kind(&link), LinkKind::Upon);
            // Its packets come from another namespace, where nothing was checked.
            link.attributes.push(LinkAttribute::LinkNetNsId(0));
            assert_eq!(kind(&link), LinkKind::Ethernet);
        }
    }

    #[test]
    fn a_vlan_in_a_bridge_leaves_its_frames_to_the_bridge() {
        let mut port = message("eth0.7", vlan_info(VlanProtocol::Ieee8021Q));
        port.attributes.push(LinkAttribute::Controller(9));
        let kind = LinkKind::VlanPort { lower: 2, vid: 7, protocol: 0x8100, master: 9 };
        assert_eq!(Link::parse(&port).unwrap().kind, kind);
    }

    #[test]
    fn a_member_of_a_vrf_is_attached_to() {
        let mut member = message("eth0", vec![LinkInfo::PortKind(InfoPortKind::Vrf)]);
        member.attributes.push(LinkAttribute::Controller(9));
        let link = Link::parse(&member).unwrap();
        assert_eq!((link.kind, link.vrf), (LinkKind::Ethernet, Some(9)));
        assert_eq!(port_of(&member), None);
    }

    #[test]
    fn links_are_told_apart_by_what_they_put_in_front_of_packets() {
        let of = |layer, flags| {
            let mut link = message("x0", Vec::new());
            link.header.link_layer_type = layer;
            link.header.flags = flags;
            link
        };
        let none = LinkFlags::empty();
        assert_eq!(kind(&of(LinkLayerType::Loopback, LinkFlags::Loopback)), LinkKind::Loopback);
        for bare in [
            LinkLayerType::None,
            LinkLayerType::Ppp,
            LinkLayerType::Tunnel,
            LinkLayerType::Tunnel6,
            LinkLayerType::Sit,
            LinkLayerType::Rawip,
        ] {
            assert_eq!(kind(&of(bare, none)), LinkKind::Ip, "{bare:?}");
        }
        assert!(matches!(kind(&of(LinkLayerType::Infiniband, none)), LinkKind::Unprotected(_)));
        for gre in [LinkLayerType::Ipgre, LinkLayerType::Ip6gre] {
            let mut tunnel = of(gre, none);
            tunnel.attributes.push(LinkAttribute::Broadcast(vec![0; 4]));
            assert!(matches!(kind(&tunnel), LinkKind::Unprotected(_)), "the remote end varies");
            tunnel.attributes.push(LinkAttribute::Broadcast(vec![192, 0, 2, 2]));
            assert_eq!(kind(&tunnel), LinkKind::Ip);
        }
    }
}
