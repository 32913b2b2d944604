//! Ethernet frames with a TCP segment: read, and forged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP flags.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// Kind of the TCP-AO option.
const TCP_AO: u8 = 29;

/// Kind of the option of selective acknowledgments.
const SACK: u8 = 5;

/// A TCP segment, as seen on the wire or about to be forged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it claims to come from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// [`flags`].
    pub flags: u8,
    /// Window, unscaled.
    pub window: u16,
    /// Options, padded to a multiple of four octets.
    pub options: Vec<u8>,
    /// Data.
    pub data: Vec<u8>,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

impl Segment {
    /// The segment in an Ethernet frame, if there is one and it is whole.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ether_type = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
        let ip = &frame[14..];
        let (source, destination, hop_limit, tcp): (IpAddr, IpAddr, u8, &[u8]) = match ether_type {
            0x0800 => {
                let header = usize::from(ip.first()? & 0xf) * 4;
                let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
                if *ip.get(9)? != libc::IPPROTO_TCP as u8 {
                    return None;
                }
                let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
                let destination: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
                (source.into(), destination.into(), ip[8], ip.get(header..total)?)
            }
            0x86dd => {
                let total = 40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
                if *ip.get(6)? != libc::IPPROTO_TCP as u8 {
                    return None;
                }
                let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
                let destination: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
                (source.into(), destination.into(), ip[7], ip.get(40..total)?)
            }
            _ => return None,
        };
        let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        let ports = word(0)?;
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Self {
            source: SocketAddr::new(source, (ports >> 16) as u16),
            destination: SocketAddr::new(destination, ports as u16),
            seq: word(4)?,
            ack: word(8)?,
            flags: *tcp.get(13)?,
            window: word(12)? as u16,
            options: tcp.get(20..header)?.to_vec(),
            data: tcp.get(header..)?.to_vec(),
            hop_limit,
        })
    }

    /// An Ethernet frame with this segment, its checksums right. Of a segment as it was on the wire, the MAC is
    /// right too.
    pub fn frame(&self, source_mac: [u8; 6], destination_mac: [u8; 6]) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(20 + self.options.len() + self.data.len());
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(20 + self.options.len() as u8) << 2, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.extend(&self.data);
        let mut frame = [destination_mac, source_mac].concat();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                fill_checksum(&mut tcp, &[&source.octets(), &destination.octets()]);
                frame.extend(0x0800_u16.to_be_bytes());
                frame.extend(self.ipv4_header(source, destination, tcp.len()));
            }
            (source, destination) => {
                let (source, destination) = (as_v6(source), as_v6(destination));
                fill_checksum(&mut tcp, &[&source.octets(), &destination.octets()]);
                frame.extend(0x86dd_u16.to_be_bytes());
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((tcp.len() as u16).to_be_bytes());
                frame.extend([libc::IPPROTO_TCP as u8, self.hop_limit]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
        }
        frame.extend(tcp);
        frame
    }

    /// KeyID and MAC of its TCP-AO option, if it has one.
    pub fn tcp_ao(&self) -> Option<(u8, &[u8])> {
        let option = self.option(TCP_AO)?;
        Some((*option.get(2)?, option.get(4..)?))
    }

    /// Edges of the blocks that it says have arrived, out of order (RFC 2018).
    pub fn sack_edges(&self) -> Vec<u32> {
        let octets = self.option(SACK).and_then(|option| option.get(2..)).unwrap_or_default();
        octets.chunks_exact(4).map(|edge| u32::from_be_bytes([edge[0], edge[1], edge[2], edge[3]])).collect()
    }

    /// The octets of an option, from its kind on.
    fn option(&self, wanted: u8) -> Option<&[u8]> {
        let mut rest = &self.options[..];
        loop {
            match *rest {
                [1, ref after @ ..] => rest = after,
                [kind, length, ..] if kind == wanted => return rest.get(..usize::from(length)),
                [kind, length, ..] if kind != 0 && length >= 2 => rest = rest.get(usize::from(length)..)?,
                _ => return None,
            }
        }
    }

    /// Sequence number of what its sender sends next.
    pub fn next_seq(&self) -> u32 {
        let controls = u32::from(self.flags & flags::SYN != 0) + u32::from(self.flags & flags::FIN != 0);
        self.seq.wrapping_add(self.data.len() as u32).wrapping_add(controls)
    }

    fn ipv4_header(&self, source: Ipv4Addr, destination: Ipv4Addr, tcp_len: usize) -> [u8; 20] {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(20 + tcp_len as u16).to_be_bytes());
        header[6] = 0x40; // don't fragment
        header[8] = self.hop_limit;
        header[9] = libc::IPPROTO_TCP as u8;
        header[12..16].copy_from_slice(&source.octets());
        header[16..].copy_from_slice(&destination.octets());
        let checksum = !fold(sum(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }
}

/// A TCP-AO option of 16 octets whose MAC is `mac` twelve times.
pub fn tcp_ao_option(key_id: u8, mac: u8) -> Vec<u8> {
    tcp_ao_option_of(key_id, mac, 12)
}

/// A TCP-AO option whose MAC is `mac` `mac_len` times.
pub fn tcp_ao_option_of(key_id: u8, mac: u8, mac_len: usize) -> Vec<u8> {
    let mut option = vec![TCP_AO, 4 + mac_len as u8, key_id, key_id];
    option.resize(4 + mac_len, mac);
    option
}

/// The same frame behind `tags` 802.1Q tags that give a priority but no VLAN.
pub fn with_priority_tags(frame: &[u8], tags: usize) -> Vec<u8> {
    let tag = [0x81, 0x00, 0x00, 0x00];
    [&frame[..12], &tag.repeat(tags), &frame[12..]].concat()
}

/// The packet of a frame behind an MPLS label.
pub fn behind_label(frame: &[u8], label: u32) -> Vec<u8> {
    // The last label, and a TTL.
    let entry = label << 12 | 1 << 8 | 64;
    [&frame[..12], &[0x88, 0x47], &entry.to_be_bytes(), &frame[14..]].concat()
}

/// An IPv6 extension header: its number, and its octets, the first of which is the number of what follows.
pub type Extension = (u8, Vec<u8>);

/// The packet of a frame inside of an IPv6 packet with extension headers.
pub fn inside_ipv6(
    frame: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    extensions: &[Extension],
) -> Vec<u8> {
    let mut next = if frame[12..14] == [0x08, 0x00] { libc::IPPROTO_IPIP } else { libc::IPPROTO_IPV6 } as u8;
    let mut payload = frame[14..].to_vec();
    for (number, octets) in extensions.iter().rev() {
        payload = [&[next], &octets[1..], &payload[..]].concat();
        next = *number;
    }
    let mut outer = [&frame[..12], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    outer.extend((payload.len() as u16).to_be_bytes());
    outer.extend([next, 64]);
    outer.extend(source.octets());
    outer.extend(destination.octets());
    outer.extend(payload);
    outer
}

/// Makes an IPv4 frame the first fragment of a packet.
pub fn mark_fragment(frame: &mut [u8]) {
    let header = &mut frame[14..34];
    header[6] = 0x20; // more fragments
    header[10..12].fill(0);
    let checksum = !fold(sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// An ICMP error "destination unreachable" of `code` in an IPv4 frame, from `reporter` to the sender of
/// `segment`, which it quotes; `macs` are its source and destination.
pub fn icmp_unreachable(
    segment: &Segment,
    code: u8,
    reporter: Ipv4Addr,
    macs: ([u8; 6], [u8; 6]),
) -> Vec<u8> {
    let quoted = segment.frame(macs.1, macs.0);
    let mut icmp = vec![3, code, 0, 0, 0, 0, 0, 0];
    icmp.extend(&quoted[14..14 + 28]);
    let checksum = !fold(sum(&icmp));
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    // The header of a segment as long as the message, made an ICMP message's.
    let carrier = Segment {
        source: SocketAddr::new(reporter.into(), 0),
        destination: SocketAddr::new(segment.source.ip(), 0),
        options: Vec::new(),
        data: vec![0; icmp.len() - 20],
        ..segment.clone()
    };
    let mut frame = carrier.frame(macs.0, macs.1);
    frame[14 + 9] = libc::IPPROTO_ICMP as u8;
    frame[24..26].fill(0);
    let checksum = !fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame[34..].copy_from_slice(&icmp);
    frame
}

pub(crate) fn fill_checksum(tcp: &mut [u8], addresses: &[&[u8]; 2]) {
    let pseudo = sum(addresses[0]) + sum(addresses[1]) + libc::IPPROTO_TCP as u32 + tcp.len() as u32;
    let checksum = !fold(pseudo + sum(tcp));
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
}

pub(crate) fn sum(octets: &[u8]) -> u32 {
    octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(source: &str, destination: &str) -> Segment {
        Segment {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            seq: 0xffff_fff0,
            ack: 7,
            flags: flags::ACK | flags::PSH,
            window: 502,
            options: [vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], tcp_ao_option(9, 0xab)].concat(),
            data: b"odd".to_vec(),
            hop_limit: 64,
        }
    }

    #[test]
    fn a_forged_frame_is_read_as_it_was_meant() {
        for segment in
            [segment("192.0.2.1:179", "192.0.2.2:40000"), segment("[2001:db8::1]:179", "[2001:db8::2]:40000")]
        {
            let frame = segment.frame([2; 6], [4; 6]);
            let read = Segment::parse(&frame).unwrap();
            assert_eq!(read, segment);
            assert_eq!(read.tcp_ao(), Some((9, &[0xab; 12][..])));
            assert_eq!(read.next_seq(), 0xffff_fff3);
        }
    }

    #[test]
    fn a_packet_inside_of_another_is_behind_its_extension_headers() {
        let frame = segment("[2001:db8::1]:179", "[2001:db8::2]:40000").frame([2; 6], [4; 6]);
        let [source, destination] = [1, 2].map(|end| Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, end));
        let options = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
        let outer = inside_ipv6(&frame, source, destination, &[options.clone(), options]);
        assert_eq!(
            outer[14 + 4..14 + 7],
            [&((16 + frame.len() - 14) as u16).to_be_bytes()[..], &[60]].concat()
        );
        assert_eq!((outer[54], outer[62]), (60, 41));
        assert_eq!(outer[70..], frame[14..]);
    }

    #[test]
    fn checksums_add_up() {
        let frame = segment("192.0.2.1:179", "192.0.2.2:40000").frame([2; 6], [4; 6]);
        assert_eq!(fold(sum(&frame[14..34])), 0xffff);
        let tcp = &frame[34..];
        assert_eq!(fold(sum(&frame[26..34]) + 6 + tcp.len() as u32 + sum(tcp)), 0xffff);
    }
}
