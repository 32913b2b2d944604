//! From a frame to the TCP segment in it: link layer, VLAN tags, IPv4 and IPv6 headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::file::Link;

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

/// The TCP packet in a frame; `None` if it carries something else, or too little was captured to tell.
pub fn decode(link: Link, frame: &[u8]) -> Option<Packet<'_>> {
    let (mut protocol, mut rest) = match link {
        Link::Ethernet => (u16_at(frame, 12)?, frame.get(14..)?),
        Link::CookedV1 => (u16_at(frame, 14)?, frame.get(16..)?),
        Link::CookedV2 => (u16_at(frame, 0)?, frame.get(20..)?),
        Link::RawIp => match frame.first()? >> 4 {
            4 => (IPV4, frame),
            6 => (IPV6, frame),
            _ => return None,
        },
    };
    while matches!(protocol, VLAN | SERVICE_VLAN | OLD_SERVICE_VLAN) {
        (protocol, rest) = (u16_at(rest, 2)?, rest.get(4..)?);
    }
    match protocol {
        IPV4 => ipv4(rest),
        IPV6 => ipv6(rest),
        _ => None,
    }
}

fn ipv4(octets: &[u8]) -> Option<Packet<'_>> {
    let header_len = usize::from(octets.first()? & 0x0f) * 4;
    if octets[0] >> 4 != 4 || header_len < 20 || *octets.get(9)? != TCP {
        return None;
    }
    let source = Ipv4Addr::from(*octets.get(12..)?.first_chunk::<4>()?);
    let destination = Ipv4Addr::from(*octets.get(16..)?.first_chunk::<4>()?);
    let payload = octets.get(header_len..).unwrap_or_default();
    let fragment = u16_at(octets, 6)?;
    let body = if fragment & MORE_OR_OFFSET != 0 {
        let id = u16_at(octets, 4)?.into();
        Body::Fragment { id, first: (fragment & OFFSET == 0).then_some(payload) }
    } else {
        match usize::from(u16_at(octets, 2)?) {
            0 => Body::Merged(payload),
            len => body(payload, len.checked_sub(header_len)?),
        }
    };
    Some(Packet { source: source.into(), destination: destination.into(), body })
}

fn ipv6(octets: &[u8]) -> Option<Packet<'_>> {
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
                    let body = Body::Fragment { id, first: None };
                    return (header[0] == TCP).then_some(Packet {
                        source: source.into(),
                        destination: destination.into(),
                        body,
                    });
                }
                // Neither offset nor more to come: a whole packet (RFC 6946).
                fragment = (field & 1 != 0).then_some(id);
            }
            _ => return None,
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
    Some(Packet { source: source.into(), destination: destination.into(), body })
}

/// The segment of `len` octets that `payload` begins with; link-layer padding may follow.
fn body(payload: &[u8], len: usize) -> Body<'_> {
    match payload.get(..len) {
        Some(segment) => Body::Segment(segment),
        None => Body::CutShort(payload),
    }
}

/// Where a packet with this routing header ends up, which is what its checksum and MAC are over
/// (RFC 8200, 8.1), if there is a stop before.
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

/// Of IPv4's flags and fragment offset: more fragments follow, or some come before.
const MORE_OR_OFFSET: u16 = 0x3fff;
const OFFSET: u16 = 0x1fff;

const IPV6_HEADER: usize = 40;
const HOP_BY_HOP: u8 = 0;
/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Routing types.
const SOURCE_ROUTE: u8 = 0;
const HOME_ADDRESS: u8 = 2;
const SEGMENT_ROUTING: u8 = 4;
