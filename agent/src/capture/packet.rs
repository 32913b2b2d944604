//! From a frame to the TCP segment in it: link layer, VLAN tags, PPPoE, MPLS labels, IPv4 and IPv6 headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::file::Link;
use super::other::Other;

/// An IP packet that carries TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'f> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address; the final one if a routing header names more.
    pub destination: IpAddr,
    /// What is in it.
    pub body: Body<'f>,
}

/// What a packet has of a TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'f> {
    /// TCP header and data, whole.
    Segment(&'f [u8]),
    /// The beginning of TCP header and data: not all of it was captured.
    CutShort(&'f [u8]),
    /// A super-packet of the host, longer than IP's length field can say.
    Merged(&'f [u8]),
    /// A fragment of a segment.
    Fragment {
        /// Identification of the packet it is of.
        id: u32,
        /// The octets of the segment's beginning, if this is the first fragment.
        first: Option<&'f [u8]>,
    },
}

impl Packet<'_> {
    /// Source and destination port, if they were captured and this is not a later fragment.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let octets = match self.body {
            Body::Segment(octets) | Body::CutShort(octets) | Body::Merged(octets) => octets,
            Body::Fragment { first, .. } => first?,
        };
        Some((u16_at(octets, 0)?, u16_at(octets, 2)?))
    }
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'f> {
    /// TCP in IP.
    Tcp(Packet<'f>),
    /// Something else, or nothing that can be read.
    Other(Other),
}

/// Decodes a frame.
pub fn decode(link: Link, frame: &[u8]) -> Content<'_> {
    link_layer(link, frame).unwrap_or(Content::Other(Other::Unreadable))
}

/// `None` here and below if headers contradict themselves, or too little was captured of them.
fn link_layer(link: Link, frame: &[u8]) -> Option<Content<'_>> {
    let (protocol, rest) = match link {
        Link::Ethernet => (u16_at(frame, 12)?, frame.get(14..)?),
        Link::CookedV1 => (u16_at(frame, 14)?, frame.get(16..)?),
        Link::CookedV2 => (u16_at(frame, 0)?, frame.get(20..)?),
        Link::RawIp => return bare_ip(frame, None),
        Link::Other(number) => return Some(Content::Other(Other::Link(number))),
    };
    network_layer(protocol, rest)
}

fn network_layer(mut protocol: u16, mut rest: &[u8]) -> Option<Content<'_>> {
    loop {
        (protocol, rest) = match protocol {
            IPV4 => return ipv4(rest),
            IPV6 => return ipv6(rest),
            VLAN | SERVICE_VLAN | OLD_SERVICE_VLAN => (u16_at(rest, 2)?, rest.get(4..)?),
            PPPOE_SESSION => match pppoe(rest)? {
                (PPP_IPV4, packet) => (IPV4, packet),
                (PPP_IPV6, packet) => (IPV6, packet),
                (PPP_MPLS, labels) => (MPLS, labels),
                _ => return Some(Content::Other(Other::EtherType(protocol))),
            },
            MPLS | MPLS_MULTICAST => return bare_ip(behind_labels(rest)?, Some(protocol)),
            ..LOWEST_ETHERTYPE => return Some(Content::Other(Other::Llc)),
            _ => return Some(Content::Other(Other::EtherType(protocol))),
        };
    }
}

/// Decodes an IP packet whose version no header before it gives. Anything else becomes [`Other::EtherType`] of `otherwise`;
/// without one it is unreadable.
fn bare_ip(octets: &[u8], otherwise: Option<u16>) -> Option<Content<'_>> {
    match octets.first()? >> 4 {
        4 => ipv4(octets),
        6 => ipv6(octets),
        _ => otherwise.map(|protocol| Content::Other(Other::EtherType(protocol))),
    }
}

/// The PPP protocol and what it carries, of a PPPoE session (RFC 2516): version and type, code, session, length.
fn pppoe(octets: &[u8]) -> Option<(u16, &[u8])> {
    let ppp = octets.get(6..)?;
    // One octet, which is odd, if the ends agreed to compress it (RFC 1661 §6.5).
    match *ppp.first()? {
        short if short & 1 == 1 => Some((short.into(), &ppp[1..])),
        _ => Some((u16_at(ppp, 0)?, ppp.get(2..)?)),
    }
}

/// What follows the last entry of a stack of MPLS labels (RFC 3032).
fn behind_labels(mut octets: &[u8]) -> Option<&[u8]> {
    loop {
        let is_last = octets.get(2)? & 1 == 1;
        octets = octets.get(4..)?;
        if is_last {
            return Some(octets);
        }
    }
}

fn ipv4(octets: &[u8]) -> Option<Content<'_>> {
    let header_len = usize::from(octets.first()? & 0x0f) * 4;
    if octets[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let protocol = *octets.get(9)?;
    let payload = octets.get(header_len..).unwrap_or_default();
    let fragment = u16_at(octets, 6)?;
    if protocol != TCP {
        return Some(Content::Other(other_in_ip(protocol, payload)));
    }
    let source = Ipv4Addr::from(*octets.get(12..)?.first_chunk::<4>()?);
    let destination = Ipv4Addr::from(*octets.get(16..)?.first_chunk::<4>()?);
    let body = if fragment & MORE_OR_OFFSET != 0 {
        let id = u16_at(octets, 4)?.into();
        Body::Fragment { id, first: (fragment & OFFSET == 0).then_some(payload) }
    } else {
        match usize::from(u16_at(octets, 2)?) {
            0 => Body::Merged(payload),
            len => body(payload, len.checked_sub(header_len)?),
        }
    };
    Some(Content::Tcp(Packet { source: source.into(), destination: destination.into(), body }))
}

fn ipv6(octets: &[u8]) -> Option<Content<'_>> {
    if octets.first()? >> 4 != 6 {
        return None;
    }
    let len = usize::from(u16_at(octets, 4)?);
    let source = address(octets, 8)?;
    let mut destination = address(octets, 24)?;
    let mut next = octets[6];
    let mut at = IPV6_HEADER;
    let mut fragment = None;
    while next != TCP {
        let header = octets.get(at..)?;
        let mut header_len = 8;
        match next {
            HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING => {
                header_len += usize::from(*header.get(1)?) * 8;
                if next == ROUTING
                    && let Some(last) = final_destination(header.get(..header_len)?)
                {
                    destination = last;
                }
            }
            FRAGMENT => {
                let field = u16_at(header, 2)?;
                let id = u32::from_be_bytes(*header.get(4..)?.first_chunk()?);
                // A later fragment's headers are not here: what counts is that it is of TCP.
                if field & 0xfff8 != 0 {
                    if header[0] != TCP {
                        return Some(Content::Other(Other::Ip(header[0])));
                    }
                    let body = Body::Fragment { id, first: None };
                    let (source, destination) = (source.into(), destination.into());
                    return Some(Content::Tcp(Packet { source, destination, body }));
                }
                // Neither offset nor more to come: a whole packet (RFC 6946).
                fragment = (field & 1 != 0).then_some(id);
            }
            protocol => return Some(Content::Other(other_in_ip(protocol, header))),
        }
        next = *header.first()?;
        at += header_len;
    }
    let payload = octets.get(at..).unwrap_or_default();
    let body = match (fragment, len) {
        (Some(id), _) => Body::Fragment { id, first: Some(payload) },
        (None, 0) => Body::Merged(payload),
        (None, len) => body(payload, (IPV6_HEADER + len).checked_sub(at)?),
    };
    Some(Content::Tcp(Packet { source: source.into(), destination: destination.into(), body }))
}

/// What a packet of another protocol than TCP is: those that carry frames of others are told apart.
fn other_in_ip(protocol: u8, payload: &[u8]) -> Other {
    match (protocol, u16_at(payload, 2)) {
        (UDP, Some(VXLAN | VXLAN_OF_LINUX)) => Other::Vxlan,
        (GRE, Some(ERSPAN | ERSPAN_III)) => Other::Erspan,
        _ => Other::Ip(protocol),
    }
}

/// The segment of `len` octets that `payload` begins with; link-layer padding may follow.
fn body(payload: &[u8], len: usize) -> Body<'_> {
    match payload.get(..len) {
        Some(segment) => Body::Segment(segment),
        None => Body::CutShort(payload),
    }
}

/// Where a packet with this routing header ends up, which is what its checksum and MAC are over
/// (RFC 8200 §8.1), if there is a stop before.
fn final_destination(header: &[u8]) -> Option<Ipv6Addr> {
    let (routing_type, segments_left) = (*header.get(2)?, *header.get(3)?);
    match (routing_type, segments_left) {
        (_, 0) => None,
        (SEGMENT_ROUTING, _) => address(header, 8),
        (SOURCE_ROUTE | HOME_ADDRESS, _) => address(header, header.len().checked_sub(16)?),
        _ => None,
    }
}

fn address(octets: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*octets.get(at..)?.first_chunk::<16>()?))
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*octets.get(at..)?.first_chunk()?))
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const OLD_SERVICE_VLAN: u16 = 0x9100;
const MPLS: u16 = 0x8847;
const MPLS_MULTICAST: u16 = 0x8848;
const PPPOE_SESSION: u16 = 0x8864;
/// What is less is the length of an IEEE 802.3 frame.
const LOWEST_ETHERTYPE: u16 = 0x0600;

/// Protocols of PPP; the first two are the same in one octet.
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: u16 = 0x0281;

/// Of IPv4's flags and fragment offset: more fragments follow, or some come before.
const MORE_OR_OFFSET: u16 = 0x3fff;
const OFFSET: u16 = 0x1fff;

const IPV6_HEADER: usize = 40;
const HOP_BY_HOP: u8 = 0;
/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const GRE: u8 = 47;
const DESTINATION_OPTIONS: u8 = 60;

/// Routing types.
const SOURCE_ROUTE: u8 = 0;
const HOME_ADDRESS: u8 = 2;
const SEGMENT_ROUTING: u8 = 4;

/// Destination ports of VXLAN, and protocols in GRE of ERSPAN: both stand at the same place.
const VXLAN: u16 = 4789;
const VXLAN_OF_LINUX: u16 = 8472;
const ERSPAN: u16 = 0x88be;
const ERSPAN_III: u16 = 0x22eb;
