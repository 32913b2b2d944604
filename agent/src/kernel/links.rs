//! Interfaces as netlink describes them, and which of them get the programs.

use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoPortKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage, VlanProtocol,
};

use super::{LANE0, LANE1};

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
}

/// What an interface is, as far as attaching is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Carries Ethernet frames.
    Ethernet,
    /// Takes the frames of one 802.1Q VLAN from another interface.
    Vlan {
        /// Index of the interface that carries the tagged frames.
        lower: u32,
        /// VLAN identifier, 1 to 4094.
        vid: u16,
    },
    /// Carries no Ethernet frames, so the programs cannot work there; why, for the operator.
    Unprotected(String),
}

impl Link {
    /// The link in a netlink message; `None` for those that are none of our business: loopback,
    /// the lane, ports of a bridge, bond or team (their master is attached instead) and VRF masters.
    pub(super) fn parse(message: &LinkMessage) -> Option<Self> {
        let mut name = None;
        let mut mtu = 0;
        let mut lower = None;
        let mut elsewhere = false;
        let mut info: &[LinkInfo] = &[];
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = Some(value.as_str()),
                LinkAttribute::Mtu(value) => mtu = *value,
                LinkAttribute::Link(value) => lower = Some(*value),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(value) => info = value,
                _ => {}
            }
        }
        let name = name?;
        if message.header.flags.contains(LinkFlags::Loopback)
            || name == LANE0
            || name == LANE1
            || is_inner(info)
        {
            return None;
        }
        let kind = match (message.header.link_layer_type, vlan_id(info), lower) {
            (LinkLayerType::Ether, Some(vid), Some(lower)) if !elsewhere => LinkKind::Vlan { lower, vid },
            (LinkLayerType::Ether, ..) => LinkKind::Ethernet,
            (other, ..) => LinkKind::Unprotected(format!("link type {other:?} carries no Ethernet frames")),
        };
        Some(Self { index: message.header.index, name: name.to_owned(), mtu, kind })
    }
}

/// Whether the link is part of another one, or one through which frames pass a second time.
fn is_inner(info: &[LinkInfo]) -> bool {
    info.iter().any(|info| {
        matches!(
            info,
            LinkInfo::PortKind(InfoPortKind::Bridge | InfoPortKind::Bond | InfoPortKind::Team)
                | LinkInfo::Kind(InfoKind::Vrf)
        )
    })
}

/// VLAN identifier of an 802.1Q interface. One of 802.1ad is like any other: its tag is not the one looked at.
fn vlan_id(info: &[LinkInfo]) -> Option<u16> {
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    if data
        .iter()
        .any(|item| matches!(item, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q))
    {
        return None;
    }
    data.iter().find_map(|item| match item {
        InfoVlan::Id(vid) => Some(*vid),
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

    fn vlan(protocol: VlanProtocol) -> Vec<LinkInfo> {
        let data = vec![InfoVlan::Protocol(protocol), InfoVlan::Id(7)];
        vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(data))]
    }

    #[test]
    fn a_vlan_is_known_by_its_lower_interface_and_identifier() {
        let link = Link::parse(&message("eth0.7", vlan(VlanProtocol::Ieee8021Q))).unwrap();
        let kind = LinkKind::Vlan { lower: 2, vid: 7 };
        assert_eq!(link, Link { index: 5, name: "eth0.7".to_owned(), mtu: 1500, kind });
    }

    #[test]
    fn a_vlan_with_another_tag_or_in_another_namespace_is_an_interface_like_any_other() {
        let mut moved = message("eth0.7", vlan(VlanProtocol::Ieee8021Q));
        moved.attributes.push(LinkAttribute::LinkNetNsId(0));
        for message in [message("eth0.7", vlan(VlanProtocol::Ieee8021Ad)), moved] {
            assert_eq!(Link::parse(&message).unwrap().kind, LinkKind::Ethernet);
        }
    }

    #[test]
    fn ports_and_masters_through_which_frames_pass_twice_are_left_out() {
        for port in [InfoPortKind::Bridge, InfoPortKind::Bond, InfoPortKind::Team] {
            assert_eq!(Link::parse(&message("eth0", vec![LinkInfo::PortKind(port)])), None);
        }
        assert_eq!(Link::parse(&message("red", vec![LinkInfo::Kind(InfoKind::Vrf)])), None);
        assert_eq!(Link::parse(&message(LANE1, vec![LinkInfo::Kind(InfoKind::Veth)])), None);
        let mut loopback = message("lo", Vec::new());
        loopback.header.flags = LinkFlags::Loopback;
        assert_eq!(Link::parse(&loopback), None);
    }

    #[test]
    fn a_member_of_a_vrf_is_attached_to() {
        let member = message("eth0", vec![LinkInfo::PortKind(InfoPortKind::Vrf)]);
        assert_eq!(Link::parse(&member).unwrap().kind, LinkKind::Ethernet);
    }

    #[test]
    fn a_link_without_ethernet_frames_is_told_as_unprotected() {
        let mut tun = message("tun0", Vec::new());
        tun.header.link_layer_type = LinkLayerType::None;
        assert!(matches!(Link::parse(&tun).unwrap().kind, LinkKind::Unprotected(_)));
    }
}
