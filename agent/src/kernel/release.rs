//! Sends held segments on, the way they were going, through the lane.

use std::{
    borrow::Cow,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, setsockopt, socket, sockopt,
};
use tcpauth_common::layout::{Direction, Held};

use super::{ETHERTYPE_8021Q, KernelError, error::is_privilege};

/// Length of the two MAC addresses, after which a VLAN header stands.
const MAC_ADDRESSES: usize = 12;

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
        self.send_marked(lane, held.ifindex, &for_lane(held, frame))
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

/// The frame as the lane takes it: with an Ethernet header, and in it the VLAN tag that the kernel had beside it.
fn for_lane<'f>(held: &Held, frame: &'f [u8]) -> Cow<'f, [u8]> {
    if held.l3_offset == 0 {
        // From a link without such headers; the redirect out of the lane takes it away again.
        return Cow::Owned([&[0; MAC_ADDRESSES][..], &held.ethertype.to_be_bytes(), frame].concat());
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
    use super::*;

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
        for ethertype in [0x0800u16, 0x86dd] {
            let held = Held { ethertype, ..Held::default() };
            let frame = for_lane(&held, b"packet");
            assert_eq!(frame[..12], [0; 12]);
            assert_eq!(frame[12..14], ethertype.to_be_bytes());
            assert_eq!(&frame[14..], b"packet");
        }
    }

    #[test]
    fn each_direction_has_its_end_of_the_lane() {
        let held = |direction: Direction| Held { direction: direction as u8, ..Held::default() };
        assert_eq!(lane_for(&held(Direction::Outbound), 3, 4), 3);
        assert_eq!(lane_for(&held(Direction::Inbound), 3, 4), 4);
    }
}
