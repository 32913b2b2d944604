//! Sends held segments on, the way they were going, through the lane.

use std::{
    borrow::Cow,
    io,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, setsockopt, socket, sockopt,
};
use tcpauth_common::layout::{Direction, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Held};

use super::{ETHERTYPE_8021Q, KernelError, error::is_privilege};
use crate::checksum::{fill_in, is_partial};

/// Length of the two MAC addresses, after which a VLAN header stands.
const MAC_ADDRESSES: usize = 12;
const IPV6_HEADER: usize = 40;
/// Length of a TCP header without options.
const TCP_HEADER: usize = 20;

/// A packet socket in the daemon's network namespace that only sends.
pub(super) struct Releaser {
    socket: OwnedFd,
}

impl Releaser {
    pub(super) fn new() -> Result<Self, KernelError> {
        // Protocol 0: nothing is received.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .map_err(io::Error::from)
            .map_err(|source| match is_privilege(&source) {
                true => KernelError::NotRoot { action: "open a packet socket".to_owned() },
                false => KernelError::System { action: "open a packet socket", source },
            })?;
        Ok(Self { socket })
    }

    /// Sends `frame` on lane interface `lane`; the program at its other end takes it to `held.ifindex`.
    pub(super) fn send(&self, lane: u32, held: &Held, frame: &[u8]) -> Result<(), KernelError> {
        self.send_marked(lane, held.ifindex, &for_lane(held, &with_checksum(held, frame)))
            .map_err(|source| KernelError::Release { source })
    }

    fn send_marked(&self, lane: u32, mark: u32, frame: &[u8]) -> io::Result<()> {
        setsockopt(&self.socket, sockopt::Mark, &mark)?;
        let sent = sendto(self.socket.as_raw_fd(), frame, &link_address(lane)?, MsgFlags::MSG_DONTWAIT)?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// Which end of the lane takes a frame in at its egress: the other end's program passes it on.
pub(super) fn lane_for(held: &Held, lane0: u32, lane1: u32) -> u32 {
    if held.direction == Direction::Outbound as u8 { lane0 } else { lane1 }
}

/// Completes a checksum that the sender left to its interface: the packet socket sends octets, and the receiver would
/// drop the segment. No other checksum is touched, so that a damaged segment is still found.
fn with_checksum<'f>(held: &Held, frame: &'f [u8]) -> Cow<'f, [u8]> {
    let Some((addresses, tcp)) = tcp_of(held, frame) else { return Cow::Borrowed(frame) };
    if !is_partial(&frame[tcp.clone()], &frame[addresses.clone()]) {
        return Cow::Borrowed(frame);
    }
    let addresses = frame[addresses].to_vec();
    let mut completed = frame.to_vec();
    fill_in(&mut completed[tcp], &addresses);
    Cow::Owned(completed)
}

/// Returns where the IP addresses and the TCP segment lie in the frame. `None` if the frame is not so long.
fn tcp_of(held: &Held, frame: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    let (l3, l4) = (usize::from(held.l3_offset), usize::from(held.l4_offset));
    let (addresses, length_at, header) = match held.ethertype {
        ETHERTYPE_IPV4 => (l3 + 12..l3 + 20, l3 + 2, 0),
        ETHERTYPE_IPV6 => (l3 + 8..l3 + 40, l3 + 4, IPV6_HEADER),
        _ => return None,
    };
    let &[high, low] = frame.get(length_at..length_at + 2)? else { return None };
    let end = l3 + header + usize::from(u16::from_be_bytes([high, low]));
    frame.get(addresses.clone())?;
    let is_whole = frame.get(l4..end).is_some_and(|tcp| tcp.len() >= TCP_HEADER);
    is_whole.then_some((addresses, l4..end))
}

/// The frame as the lane takes it: with an Ethernet header, and in it the VLAN tag that the kernel had beside it.
fn for_lane<'f>(held: &Held, frame: &'f [u8]) -> Cow<'f, [u8]> {
    if held.is_bare != 0 {
        // The redirect out of the lane takes it away again. The segment may be inside of another packet.
        let is_ipv4 = frame.first().is_some_and(|octet| octet >> 4 == 4);
        let ethertype = if is_ipv4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        return Cow::Owned([&[0; MAC_ADDRESSES][..], &ethertype.to_be_bytes(), frame].concat());
    }
    if held.vlan_present == 0 {
        return Cow::Borrowed(frame);
    }
    let protocol = if held.vlan_protocol == 0 { ETHERTYPE_8021Q } else { held.vlan_protocol };
    let (addresses, rest) = frame.split_at(MAC_ADDRESSES.min(frame.len()));
    Cow::Owned([addresses, &protocol.to_be_bytes(), &held.vlan_tci.to_be_bytes(), rest].concat())
}

fn link_address(ifindex: u32) -> io::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a whole sockaddr_ll of family AF_PACKET with its length; it is copied.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(len)) }
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use tcpauth_common::key_choice::flag::SYN;

    use super::*;
    use crate::sessions::testing::{Draft, quartet};

    #[test]
    fn the_tag_stands_after_the_addresses() {
        let frame: Vec<u8> = (0..20).collect();
        let plain = Held { l3_offset: 14, ..Held::default() };
        assert_eq!(for_lane(&plain, &frame), frame);
        for (vlan_protocol, octets) in [(0, [0x81, 0]), (0x8100, [0x81, 0]), (0x88a8, [0x88, 0xa8])] {
            let held = Held { vlan_present: 1, vlan_tci: 0xa00a, vlan_protocol, ..plain };
            let tagged = for_lane(&held, &frame);
            assert_eq!(tagged[..12], frame[..12]);
            assert_eq!(tagged[12..14], octets);
            assert_eq!(tagged[14..16], [0xa0, 0x0a]);
            assert_eq!(tagged[16..], frame[12..]);
        }
    }

    #[test]
    fn a_bare_packet_gets_an_ethernet_header_for_the_lane() {
        for (first, ethertype) in [(0x45, 0x0800u16), (0x60, 0x86dd)] {
            // The segment itself is in an IPv4 packet inside.
            let held = Held { ethertype: ETHERTYPE_IPV4, is_bare: 1, ..Held::default() };
            let packet = [first, 1, 2];
            let frame = for_lane(&held, &packet);
            assert_eq!(frame[..12], [0; 12]);
            assert_eq!(frame[12..14], ethertype.to_be_bytes());
            assert_eq!(frame[14..], packet);
        }
    }

    #[test]
    fn a_partial_checksum_is_completed_and_any_other_stays() {
        for ipv6 in [false, true] {
            let draft = Draft { quartet: quartet(ipv6), ..Draft::new(Direction::Inbound, SYN, 1, 0) };
            let (held, mut frame) = draft.hold();
            let (addresses, tcp) = tcp_of(&held, &frame).unwrap();
            let at = tcp.start + 16;
            let addresses = frame[addresses].to_vec();
            fill_in(&mut frame[tcp.clone()], &addresses);
            assert_eq!(with_checksum(&held, &frame), frame, "complete");
            let whole = frame.clone();
            // The sum of the pseudo-header alone, as the kernel leaves it.
            let partial = (0..=u16::MAX).find(|sum| {
                frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
                is_partial(&frame[tcp.clone()], &addresses)
            });
            assert!(partial.is_some());
            assert_eq!(with_checksum(&held, &frame), whole);
            frame[at] ^= 1;
            assert_eq!(with_checksum(&held, &frame), frame, "damaged");
            // Lengths that lead out of the frame.
            for len in 0..frame.len() {
                assert_eq!(*with_checksum(&held, &frame[..len]), frame[..len]);
            }
        }
    }

    #[test]
    fn each_direction_has_its_end_of_the_lane() {
        let held = |direction: Direction| Held { direction: direction as u8, ..Held::default() };
        assert_eq!(lane_for(&held(Direction::Outbound), 3, 4), 3);
        assert_eq!(lane_for(&held(Direction::Inbound), 3, 4), 4);
    }
}
