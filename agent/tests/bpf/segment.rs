//! Frames with a TCP segment: built, and taken apart with every length and checksum checked.

use std::net::{IpAddr, SocketAddr};

/// A TCP segment and what carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    /// TCP options, whole words.
    pub options: Vec<u8>,
    pub data: Vec<u8>,
    pub hop_limit: u8,
    /// IPv4 options, whole words.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers before TCP, each its number and octets, of which the first is 0 here.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// VLAN identifier of an 802.1Q header.
    pub vlan: Option<u16>,
}

const ETHERNET: usize = 14;
const TCP: u8 = 6;

impl Segment {
    /// An Ethernet frame, all lengths and checksums right.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(if self.source.is_ipv4() { [0x08, 0] } else { [0x86, 0xdd] });
        frame.extend(self.packet());
        frame
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let tcp = self.tcp();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                assert_eq!(self.ip_options.len() % 4, 0);
                let header_len = 20 + self.ip_options.len();
                let total = (header_len + tcp.len()) as u16;
                let mut ip = vec![0x40 | (header_len / 4) as u8, 0xc0];
                ip.extend(total.to_be_bytes());
                ip.extend([0x12, 0x34, 0x40, 0, self.hop_limit, TCP, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(&self.ip_options);
                let checksum = !sum(&ip);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                ip.extend(tcp);
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let between: usize = self.extensions.iter().map(|(_, octets)| octets.len()).sum();
                let mut ip = vec![0x6c, 0x01, 0x23, 0x45];
                ip.extend(((between + tcp.len()) as u16).to_be_bytes());
                ip.extend([self.extensions.first().map_or(TCP, |(number, _)| *number), self.hop_limit]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                for (index, (_, octets)) in self.extensions.iter().enumerate() {
                    ip.push(self.extensions.get(index + 1).map_or(TCP, |(number, _)| *number));
                    ip.extend(&octets[1..]);
                }
                ip.extend(tcp);
                ip
            }
            _ => panic!("two families"),
        }
    }

    /// TCP header and data.
    pub fn tcp(&self) -> Vec<u8> {
        assert_eq!(self.options.len() % 4, 0, "options fill whole words");
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([((20 + self.options.len()) as u8 / 4) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&self.options);
        tcp.extend(&self.data);
        let checksum = !tcp_sum(self.source.ip(), self.destination.ip(), &tcp);
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        tcp
    }

    /// Offset of the IP header in the frame.
    pub fn l3(&self) -> usize {
        ETHERNET + if self.vlan.is_some() { 4 } else { 0 }
    }

    /// Offset of the TCP header in the frame.
    pub fn l4(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, octets)| octets.len()).sum();
        self.l3() + if self.source.is_ipv4() { 20 } else { 40 } + self.ip_options.len() + extensions
    }

    /// The segment of a frame.
    ///
    /// # Panics
    /// If a length or a checksum is not right.
    pub fn of_frame(frame: &[u8]) -> Self {
        let (vlan, at) = match frame[12..14] {
            [0x81, 0] => (Some(u16::from_be_bytes([frame[14], frame[15]])), 16),
            _ => (None, 12),
        };
        let packet = &frame[at + 2..];
        let mut segment = match frame[at..at + 2] {
            [0x08, 0] => Self::of_ipv4(packet),
            [0x86, 0xdd] => Self::of_ipv6(packet),
            _ => panic!("no IP"),
        };
        segment.vlan = vlan;
        segment
    }

    fn of_ipv4(packet: &[u8]) -> Self {
        let header_len = usize::from(packet[0] & 15) * 4;
        assert_eq!(usize::from(number16(packet, 2)), packet.len(), "total length");
        assert_eq!(sum(&packet[..header_len]), 0xffff, "IP header checksum");
        assert_eq!(packet[9], TCP);
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        let mut segment = Self::of_tcp(address(12), address(16), &packet[header_len..]);
        segment.hop_limit = packet[8];
        segment.ip_options = packet[20..header_len].to_vec();
        segment
    }

    fn of_ipv6(packet: &[u8]) -> Self {
        assert_eq!(usize::from(number16(packet, 4)) + 40, packet.len(), "payload length");
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        let (mut next, mut at, mut extensions) = (packet[6], 40, Vec::new());
        while next != TCP {
            let len = if next == 44 { 8 } else { usize::from(packet[at + 1]) * 8 + 8 };
            let mut extension = packet[at..at + len].to_vec();
            let number = std::mem::replace(&mut next, extension[0]);
            extension[0] = 0;
            extensions.push((number, extension));
            at += len;
        }
        let mut segment = Self::of_tcp(address(8), address(24), &packet[at..]);
        segment.hop_limit = packet[7];
        segment.extensions = extensions;
        segment
    }

    fn of_tcp(source: IpAddr, destination: IpAddr, tcp: &[u8]) -> Self {
        let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let header_len = usize::from(tcp[12] >> 4) * 4;
        assert_eq!(tcp_sum(source, destination, tcp), 0xffff, "TCP checksum");
        Self {
            source: (source, number16(tcp, 0)).into(),
            destination: (destination, number16(tcp, 2)).into(),
            seq: number(4),
            ack: number(8),
            flags: tcp[13],
            window: number16(tcp, 14),
            urgent: number16(tcp, 18),
            options: tcp[20..header_len].to_vec(),
            data: tcp[header_len..].to_vec(),
            hop_limit: 0,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            vlan: None,
        }
    }
}

/// The 16-bit number, network byte order, at `at`.
pub fn number16(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

/// The ones' complement sum of RFC 1071, not inverted: 0xffff of what carries its checksum.
pub fn sum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// [`sum`] of a segment with its pseudo-header.
pub fn tcp_sum(source: IpAddr, destination: IpAddr, tcp: &[u8]) -> u16 {
    pseudo_sum(source, destination, TCP, tcp)
}

/// [`sum`] of what follows the IP header, with the pseudo-header.
pub fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let mut all = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => all.extend(address.octets()),
            IpAddr::V6(address) => all.extend(address.octets()),
        }
    }
    all.extend((payload.len() as u32).to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all.extend(payload);
    sum(&all)
}
