//! Frames that the daemon makes itself, with the headers of one that was held.

use std::net::IpAddr;

use tcpauth_common::{
    Algorithm,
    layout::{Direction, ETHERTYPE_IPV4, Held, KeySlot},
    option::kind,
};

use crate::{
    checksum::{checksum, fill_in},
    keys::segment::segment_mac,
};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Length of the two MAC addresses of an Ethernet header.
const MAC_ADDRESSES: usize = 12;
/// IP protocol number of TCP.
const TCP: u8 = 6;
/// Don't fragment, in the flags of an IPv4 header.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
/// Hop limit of what we send where nothing says another.
const HOP_LIMIT: u8 = 64;
/// Hop limit of what is to look as if it came from next door, whatever `ttl-security` says.
const NEXT_DOOR: u8 = 255;

/// Everything below TCP of a connection's segments, as our end sends them.
#[derive(Clone)]
pub struct Template {
    held: Held,
    /// Up to the IP header.
    link: Vec<u8>,
    /// The IP header, without options and extensions.
    ip: Vec<u8>,
}

impl Template {
    /// That of a held frame; of one that arrived, turned around. `None` if its offsets make no sense.
    pub fn of(held: &Held, frame: &[u8]) -> Option<Self> {
        let l3 = usize::from(held.l3_offset);
        let link = frame.get(..l3)?.to_vec();
        let ip = frame.get(l3..l3 + header_len(held))?.to_vec();
        let template =
            Self { held: Held { direction: Direction::Outbound as u8, verified: 0, ..*held }, link, ip };
        if held.direction == Direction::Outbound as u8 {
            return Some(template);
        }
        let mut template = template.turned_around();
        *template.hop_limit() = HOP_LIMIT;
        Some(template)
    }

    /// A frame with `tcp`, header and data, whose checksum it fills in; and what to release it by. Inbound, it looks as
    /// if it came from the peer, the way that our end's go.
    pub fn frame(&self, direction: Direction, mut tcp: Vec<u8>) -> (Held, Vec<u8>) {
        let mut template = match direction {
            Direction::Outbound => self.clone(),
            Direction::Inbound => self.turned_around(),
        };
        if direction == Direction::Inbound {
            *template.hop_limit() = NEXT_DOOR;
        }
        let Self { mut held, link, mut ip } = template;
        if held.ethertype == ETHERTYPE_IPV4 {
            ip[0] = 0x45;
            // What was said of congestion was of that packet.
            ip[1] &= 0xfc;
            ip[2..4].copy_from_slice(&((IPV4_HEADER + tcp.len()) as u16).to_be_bytes());
            ip[4..8].copy_from_slice(&[0, 0, DONT_FRAGMENT[0], DONT_FRAGMENT[1]]);
            ip[9] = TCP;
            ip[10..12].fill(0);
            let checksum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&checksum);
        } else {
            ip[1] &= 0xcf;
            ip[4..6].copy_from_slice(&(tcp.len() as u16).to_be_bytes());
            ip[6] = TCP;
        }
        let addresses = if held.ethertype == ETHERTYPE_IPV4 { &ip[12..] } else { &ip[8..] };
        fill_in(&mut tcp, addresses);
        held.direction = direction as u8;
        held.l4_offset = (link.len() + ip.len()) as u16;
        let frame = [link, ip, tcp].concat();
        held.frame_len = frame.len() as u32;
        (held, frame)
    }

    fn turned_around(&self) -> Self {
        let mut turned = self.clone();
        if let Some(addresses) = turned.link.get_mut(..MAC_ADDRESSES) {
            addresses.rotate_left(MAC_ADDRESSES / 2);
        }
        let from = if turned.held.ethertype == ETHERTYPE_IPV4 { 12 } else { 8 };
        let addresses = &mut turned.ip[from..];
        let half = addresses.len() / 2;
        addresses.rotate_left(half);
        turned
    }

    fn hop_limit(&mut self) -> &mut u8 {
        let at = if self.held.ethertype == ETHERTYPE_IPV4 { 8 } else { 7 };
        &mut self.ip[at]
    }
}

/// `tcp`, a header without data, signed as the peer signs it with the key in `slot`. `None` if that holds none.
pub fn signed_by_peer(tcp: &[u8], slot: &KeySlot, sne: u32, peer: IpAddr, local: IpAddr) -> Option<Vec<u8>> {
    let algorithm = Algorithm::from_number(slot.algorithm)?;
    let option_len = algorithm.option_len();
    let mut signed = tcp.to_vec();
    let mac_at = signed.len() + 4;
    signed.extend([kind::AO, option_len as u8, slot.recv_id.0, slot.send_id.0]);
    signed.resize(tcp.len() + option_len, 0);
    signed[12] = ((signed.len() / 4) << 4) as u8;
    let exclude = slot.flags & KeySlot::EXCLUDE_OPTIONS != 0;
    let mac = segment_mac(&slot.recv, algorithm, exclude, sne, peer, local, &signed).ok()?;
    signed[mac_at..].copy_from_slice(&mac[..algorithm.mac_len()]);
    Some(signed)
}

fn header_len(held: &Held) -> usize {
    if held.ethertype == ETHERTYPE_IPV4 { IPV4_HEADER } else { IPV6_HEADER }
}

#[cfg(test)]
mod tests {
    use tcpauth_common::{
        Isn,
        key_choice::flag::{ACK, RST, SYN},
    };

    use super::*;
    use crate::{
        keys::Role,
        kmp::stream,
        sessions::{
            Segment, address,
            testing::{Draft, mirrored, mkt, quartet},
        },
    };

    fn segment() -> stream::Segment {
        stream::Segment { seq: 5, ack: 9, flags: ACK, window: 64, timestamps: None, data: b"odd".to_vec() }
    }

    /// What a receiver computes over pseudo-header and segment is zero.
    fn is_sound(held: &Held, frame: &[u8]) -> bool {
        let l3 = usize::from(held.l3_offset);
        let (ip, tcp) = frame[l3..].split_at(header_len(held));
        let is_ipv4 = held.ethertype == ETHERTYPE_IPV4;
        let addresses = if is_ipv4 { &ip[12..] } else { &ip[8..] };
        let pseudo_header = [[0, TCP], (tcp.len() as u16).to_be_bytes()].concat();
        let is_ip_sound = !is_ipv4 || checksum(&[ip]) == [0; 2];
        is_ip_sound && checksum(&[addresses, &pseudo_header, tcp]) == [0; 2]
    }

    #[test]
    fn a_frame_has_the_headers_of_the_held_one() {
        for ipv6 in [false, true] {
            for of in [Direction::Outbound, Direction::Inbound] {
                let draft = Draft { quartet: quartet(ipv6), ..Draft::new(of, SYN, 1, 0) };
                let (held, frame) = draft.hold();
                let template = Template::of(&held, &frame).unwrap();
                for direction in [Direction::Outbound, Direction::Inbound] {
                    let (local, peer) = (draft.quartet.local_port, draft.quartet.peer_port);
                    let (from, to) =
                        if direction == Direction::Outbound { (local, peer) } else { (peer, local) };
                    let (made, octets) = template.frame(direction, segment().octets(from, to));
                    assert_eq!((made.ifindex, made.neighbor), (held.ifindex, held.neighbor));
                    assert!(is_sound(&made, &octets));
                    let found = Segment::parse(&made, &octets).ok().unwrap();
                    assert_eq!(stream::Segment::parse(found.octets()), Some(segment()));
                    // The same way: the same addresses at the same places, else turned around.
                    let l3 = usize::from(held.l3_offset);
                    let addresses = if ipv6 { l3 + 8..l3 + 40 } else { l3 + 12..l3 + 20 };
                    assert_eq!(octets[addresses.clone()] == frame[addresses], of == direction);
                    assert_eq!(octets[..6] == frame[..6], of == direction || frame[..6] == frame[6..12]);
                    assert_eq!(found.hop_limit(), if direction == Direction::Inbound { 255 } else { 64 });
                }
            }
        }
    }

    #[test]
    fn what_is_signed_as_the_peer_signs_verifies() {
        for algorithm in Algorithm::TCP_AO {
            let (ours, quartet) = (mkt("password", algorithm), quartet(false));
            let slot = ours.traffic_slot(&quartet, Isn(1), Isn(2), Role::Client);
            let reset = stream::Segment { flags: RST | ACK, data: Vec::new(), ..segment() };
            let tcp = reset.octets(quartet.peer_port, quartet.local_port);
            let (peer, local) = (address(quartet.peer), address(quartet.local));
            let signed = signed_by_peer(&tcp, &slot, 0, peer, local).unwrap();
            let draft = Draft::new(Direction::Inbound, RST, 1, 0);
            let (held, frame) = draft.hold();
            let (held, frame) = Template::of(&held, &frame).unwrap().frame(Direction::Inbound, signed);
            assert!(is_sound(&held, &frame));
            let segment = Segment::parse(&held, &frame).ok().unwrap();
            assert_eq!(segment.check_mac(&ours, &quartet, &slot.recv), Ok(()));
            assert_eq!(segment.key_id(), Some(ours.recv_id));
            let theirs = mirrored(&ours).traffic_slot(&quartet, Isn(1), Isn(3), Role::Client);
            assert!(segment.check_mac(&ours, &quartet, &theirs.recv).is_err());
        }
        assert!(signed_by_peer(&[0; 20], &KeySlot::default(), 0, [0; 4].into(), [0; 4].into()).is_none());
    }
}
