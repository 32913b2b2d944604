//! Segments wrapped in every odd way that a stranger can: tags, IP options, extension headers, fragments, tunnels,
//! and headers that lie.

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    frame::{Segment, fill_checksum, fold, sum},
    impair::Random,
};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// The host that is attacked, as the attacker knows it.
pub struct Target {
    /// Ethernet addresses, the attacker's and the target's.
    pub macs: ([u8; 6], [u8; 6]),
    /// The attacker's address.
    pub attacker: IpAddr,
    /// Addresses of the target's beside that of the connection, of both families.
    pub others: Vec<IpAddr>,
    /// Ethernet address of its VXLAN interface, which takes network [`VXLAN_NETWORK`] at the usual port.
    pub vxlan: [u8; 6],
}

/// Number of the target's VXLAN.
pub const VXLAN_NETWORK: u32 = 7;

/// A way of wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrapping {
    /// None.
    Plain,
    /// VLAN tags, most of them for a priority only.
    Tags,
    /// IP options, or extension headers.
    Headers,
    /// To another address of the target, and from there to the connection's: source route, or segment routing.
    Detour,
    /// Fragments, in any order, and some that overlap.
    Fragments,
    /// In another IP packet, perhaps by GRE.
    Tunnel,
    /// In VXLAN.
    Vxlan,
    /// With a wrong octet or two in the IP header.
    Damaged,
    /// IPv4 addresses mapped into IPv6 ones.
    Mapped,
    /// Less or more than there should be.
    Length,
}

impl Wrapping {
    /// All.
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::Tags,
        Self::Headers,
        Self::Detour,
        Self::Fragments,
        Self::Tunnel,
        Self::Vxlan,
        Self::Damaged,
        Self::Mapped,
        Self::Length,
    ];

    /// The frames that carry `tcp`, the octets of `segment`.
    pub fn wrap(self, segment: &Segment, tcp: &[u8], target: &Target, random: &mut Random) -> Vec<Vec<u8>> {
        let ends = (segment.source.ip(), segment.destination.ip());
        let plain = Packet { ends, headers: Vec::new(), options: Vec::new(), protocol: TCP };
        let one = |packet: Vec<u8>| vec![framed(target.macs, &packet)];
        match self {
            Self::Plain => one(plain.octets(tcp)),
            Self::Tags => vec![tagged(&framed(target.macs, &plain.octets(tcp)), random)],
            Self::Headers => one(plain.with_headers(random).octets(tcp)),
            Self::Detour => one(plain.by_detour(target, random).octets(tcp)),
            Self::Fragments => {
                let pieces = plain.with_headers(random).fragments(tcp, random);
                pieces.iter().map(|piece| framed(target.macs, piece)).collect()
            }
            Self::Tunnel => one(in_tunnel(&plain.octets(tcp), segment.destination.ip(), target, random)),
            Self::Vxlan => one(in_vxlan(&plain.octets(tcp), target)),
            Self::Damaged => one(damaged(plain.octets(tcp), random)),
            Self::Mapped => {
                let mapped = |address| match address {
                    IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
                    IpAddr::V6(address) => IpAddr::V6(address),
                };
                one(Packet { ends: (mapped(ends.0), mapped(ends.1)), ..plain }.octets(tcp))
            }
            Self::Length => {
                let mut frame = framed(target.macs, &plain.octets(tcp));
                match random.below(2) {
                    0 => frame.truncate(frame.len() - 1 - random.below(tcp.len() as u32) as usize),
                    _ => {
                        let more = 1 + random.below(30);
                        frame.extend(octets(random, more));
                    }
                }
                vec![frame]
            }
        }
    }
}

/// The octets of a TCP segment made odd: any options, data offset, urgent pointer and reserved bits.
pub fn odd_tcp(segment: &Segment, random: &mut Random) -> Vec<u8> {
    let header = if segment.source.is_ipv4() { 34 } else { 54 };
    let mut tcp = segment.frame([0; 6], [0; 6])[header..].to_vec();
    match random.below(8) {
        0 => tcp[12] = octets(random, 1)[0],
        1 => tcp[12] |= octets(random, 1)[0] & 0x0f,
        2 => {
            tcp[13] |= 0x20;
            tcp[18..20].copy_from_slice(&octets(random, 2));
        }
        _ => {}
    }
    tcp[16..18].fill(0);
    match (segment.source.ip(), segment.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            fill_checksum(&mut tcp, &[&source.octets(), &destination.octets()]);
        }
        (source, destination) => fill_checksum(&mut tcp, &[&octets_of(source), &octets_of(destination)]),
    }
    tcp
}

/// An IP packet to be.
struct Packet {
    ends: (IpAddr, IpAddr),
    /// IPv6: numbers and bodies of extension headers; the first two octets of a body are their place.
    headers: Vec<(u8, Vec<u8>)>,
    /// IPv4.
    options: Vec<u8>,
    protocol: u8,
}

impl Packet {
    fn octets(&self, payload: &[u8]) -> Vec<u8> {
        match self.ends {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.ipv4(payload, 0, 0),
            _ => {
                let (first, chain) = self.chain();
                ipv6(self.ends, first, &[&chain, payload].concat())
            }
        }
    }

    /// Number of the first header, and the chain.
    fn chain(&self) -> (u8, Vec<u8>) {
        let mut next = self.protocol;
        let mut chain = Vec::new();
        for (number, body) in self.headers.iter().rev() {
            let mut header = body.clone();
            header[0] = next;
            if *number != FRAGMENT {
                header[1] = (body.len() / 8 - 1) as u8;
            }
            chain.splice(0..0, header);
            next = *number;
        }
        (next, chain)
    }

    fn ipv4(&self, payload: &[u8], id: u16, fragment: u16) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let length = 20 + options.len();
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + payload.len()) as u16).to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(octets_of(self.ends.0));
        header.extend(octets_of(self.ends.1));
        header.extend(options);
        let checksum = !fold(sum(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header.extend(payload);
        header
    }

    fn with_headers(mut self, random: &mut Random) -> Self {
        if self.ends.0.is_ipv4() {
            // No operations, record route, timestamp, router alert, and what nobody knows.
            let options: [&[u8]; 5] = [
                &[1],
                &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0],
                &[68, 8, 5, 0, 0, 0, 0, 0],
                &[148, 4, 0, 0],
                &[99, 3, 0],
            ];
            for _ in 0..random.below(4) {
                let option = options[random.below(5) as usize];
                if self.options.len() + option.len() <= 40 {
                    self.options.extend(option);
                }
            }
            return self;
        }
        for _ in 0..random.below(9) {
            // Hop-by-hop, destination options, routing, fragment, AH, mobility, HIP.
            let number =
                [0, DESTINATION, DESTINATION, ROUTING, FRAGMENT, 51, 135, 139][random.below(8) as usize];
            let mut body = vec![0, 0, 1, 4, 0, 0, 0, 0];
            match number {
                ROUTING => body[2..4].copy_from_slice(&[[0, 2, 3, 4][random.below(4) as usize], 0]),
                FRAGMENT if random.below(4) == 0 => body[2..4].copy_from_slice(&octets(random, 2)),
                FRAGMENT => body[2..4].fill(0),
                DESTINATION if random.below(2) == 0 => body.extend([1, 6, 0, 0, 0, 0, 0, 0]),
                _ => {}
            }
            self.headers.push((number, body));
        }
        self
    }

    fn by_detour(mut self, target: &Target, random: &mut Random) -> Self {
        let last = self.ends.1;
        let others: Vec<_> =
            target.others.iter().filter(|other| other.is_ipv4() == last.is_ipv4()).copied().collect();
        self.ends.1 = others[random.below(others.len() as u32) as usize];
        if last.is_ipv4() {
            // Loose or strict; the first entry is the next to go to.
            self.options = vec![[131, 137][random.below(2) as usize], 7, 4];
            self.options.extend(octets_of(last));
        } else {
            // The last of two segments is left; the last comes first in the list.
            let mut body = vec![0, 0, 4, 1, 1, 0, 0, 0];
            body.extend(octets_of(last));
            body.extend(octets_of(self.ends.1));
            self.headers.push((ROUTING, body));
        }
        self
    }

    fn fragments(&self, tcp: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
        let is_ipv4 = self.ends.0.is_ipv4();
        let (first, chain) = self.chain();
        let payload = if is_ipv4 { tcp.to_vec() } else { [&chain, tcp].concat() };
        let id = octets(random, 2);
        let id = u16::from_be_bytes([id[0], id[1]]);
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < payload.len() {
            let end = (start + 8 * (1 + random.below(4) as usize)).min(payload.len());
            // Some begin before the one in front ends.
            let from = if start > 0 && random.below(8) == 0 { start - 8 } else { start };
            let more = u16::from(end < payload.len());
            pieces.push(if is_ipv4 {
                self.ipv4(&payload[from..end], id, more << 13 | (from / 8) as u16)
            } else {
                let offset_and_more = (from as u16 | more).to_be_bytes();
                let mut header = vec![first, 0, offset_and_more[0], offset_and_more[1], 0, 0];
                header.extend(id.to_be_bytes());
                ipv6(self.ends, FRAGMENT, &[&header, &payload[from..end]].concat())
            });
            start = end;
        }
        for at in (1..pieces.len()).rev() {
            pieces.swap(at, random.below(at as u32 + 1) as usize);
        }
        pieces
    }
}

fn ipv6(ends: (IpAddr, IpAddr), next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(octets_of(ends.0));
    packet.extend(octets_of(ends.1));
    packet.extend(payload);
    packet
}

fn framed(macs: ([u8; 6], [u8; 6]), packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet[0] >> 4 == 6 { IPV6 } else { IPV4 };
    [&macs.1[..], &macs.0, &ether_type.to_be_bytes(), packet].concat()
}

fn tagged(frame: &[u8], random: &mut Random) -> Vec<u8> {
    let mut tags = Vec::new();
    for _ in 0..random.below(4) {
        tags.extend([[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]][random.below(3) as usize]);
        tags.extend([[0x00, 0x00], [0xe0, 0x00], [0x00, 0x05]][random.below(3) as usize]);
    }
    [&frame[..12], &tags, &frame[12..]].concat()
}

fn in_tunnel(packet: &[u8], destination: IpAddr, target: &Target, random: &mut Random) -> Vec<u8> {
    let is_ipv6 = packet[0] >> 4 == 6;
    let (protocol, payload) = match random.below(3) {
        0 => {
            let ether_type = if is_ipv6 { IPV6 } else { IPV4 };
            (47, [&[0, 0], &ether_type.to_be_bytes()[..], packet].concat())
        }
        _ => (if is_ipv6 { 41 } else { 4 }, packet.to_vec()),
    };
    let source = match (destination, target.attacker) {
        (IpAddr::V6(_), IpAddr::V4(attacker)) => IpAddr::V6(attacker.to_ipv6_compatible()),
        (_, attacker) => attacker,
    };
    Packet { ends: (source, destination), headers: Vec::new(), options: Vec::new(), protocol }
        .octets(&payload)
}

/// Over IPv4, to the target's first other address of that family.
fn in_vxlan(packet: &[u8], target: &Target) -> Vec<u8> {
    let inner = framed((target.macs.0, target.vxlan), packet);
    let mut payload = 50_000_u16.to_be_bytes().to_vec();
    payload.extend(4789_u16.to_be_bytes());
    payload.extend((16 + inner.len() as u16).to_be_bytes());
    payload.extend([0, 0, 8, 0, 0, 0]);
    payload.extend((VXLAN_NETWORK << 8).to_be_bytes());
    payload.extend(inner);
    let other =
        target.others.iter().find(|other| other.is_ipv4()).expect("the target has another IPv4 address");
    let ends = (target.attacker, *other);
    Packet { ends, headers: Vec::new(), options: Vec::new(), protocol: UDP }.octets(&payload)
}

fn damaged(mut packet: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let is_ipv4 = packet[0] >> 4 == 4;
    let header = if is_ipv4 { 20 } else { 40 };
    for _ in 0..1 + random.below(2) {
        let at = random.below(header) as usize;
        packet[at] = octets(random, 1)[0];
    }
    let claimed = usize::from(packet[0] & 0xf) * 4;
    if is_ipv4 && (20..=packet.len()).contains(&claimed) && random.below(4) > 0 {
        packet[10..12].fill(0);
        let checksum = !fold(sum(&packet[..claimed]));
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

/// Any octets.
pub fn octets(random: &mut Random, count: u32) -> Vec<u8> {
    (0..count).map(|_| random.below(256) as u8).collect()
}

fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address).to_vec(),
    }
}
