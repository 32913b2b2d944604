//! Packets inside of packets that no interface takes out: the actions of SRv6 (`End.DT4`, `End.DT6`, `End.DT46` and the
//! like) unpack them between `ingress` and TCP. What a tunnel's interface takes out is left to its program.

use core::hint::cold_path;

use aya_ebpf::bindings::__sk_buff;
use tcpauth_common::layout::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

use crate::{
    neighbor,
    scratch::Scratch,
    segment::{self, Content, PROTOCOL_AH, PROTOCOL_IPV4},
    socket::{self, FORWARDS_NOTHING, HAS_ACTION, NOT_FORWARDED},
};

/// Packets inside of one another that are followed: an action may unpack what leads to the next.
const MAX_NESTED: u32 = 4;

/// Reads the packet that is unpacked from the one in `scratch.segment`, into its place; what it holds.
/// [`Content::Other`] if it is not unpacked here, [`Content::Unreadable`] if it cannot be told what is inside.
#[inline(always)]
pub fn content(skb: *mut __sk_buff, scratch: &mut Scratch) -> Content {
    cold_path();
    match unpack(skb, scratch) {
        TCP => Content::Tcp,
        TCP_WITHOUT_PORTS => Content::TcpWithoutPorts,
        ICMP => Content::Icmp,
        OTHER => Content::Other,
        _ => Content::Unreadable,
    }
}

const OTHER: u32 = 0;
const TCP: u32 = 1;
const TCP_WITHOUT_PORTS: u32 = 2;
const ICMP: u32 = 3;
const UNREADABLE: u32 = 4;

/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unpack(skb: *mut __sk_buff, scratch: *mut Scratch) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return UNREADABLE };
    let mut i = 0;
    while i < MAX_NESTED {
        if is_unpacked_here(skb, scratch) == 0 {
            return OTHER;
        }
        let ethertype = match scratch.segment.protocol {
            // The kernel goes past it without a look at it.
            PROTOCOL_AH => return UNREADABLE,
            PROTOCOL_IPV4 => ETHERTYPE_IPV4,
            _ => ETHERTYPE_IPV6,
        };
        scratch.segment.l3 = scratch.segment.l4;
        match segment::locate_packet(skb, scratch, ethertype) {
            Content::Encapsulated => {}
            Content::Tcp => return TCP,
            Content::TcpWithoutPorts => return TCP_WITHOUT_PORTS,
            Content::Icmp => return ICMP,
            Content::Other => return OTHER,
            Content::Tags | Content::Unreadable => return UNREADABLE,
        }
        i += 1;
    }
    UNREADABLE
}

/// Whether what is inside of the IPv6 packet in `scratch.segment` may come out on this host without arriving by another
/// interface: the route to its destination has an action, or the packet names further destinations.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_unpacked_here(skb: *mut __sk_buff, scratch: *const Scratch) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_ref() }) else { return 1 };
    let segment = &scratch.segment;
    if segment.ethertype != ETHERTYPE_IPV6 {
        return 0;
    }
    let is_routed = u32::from(segment.is_routed);
    // A copy, because Linux 6.1 takes no key of a map from memory that a global function was given.
    let destination = segment.destination;
    if neighbor::is_local(&destination) {
        return is_routed;
    }
    // The kernel looks no route up for a link-local source, and passes such a packet to an action all the same.
    let source = if is_link_local(&segment.source) { [0; 4] } else { socket::words(&segment.source) };
    let destination = socket::words(&destination);
    match socket::route(skb, ETHERTYPE_IPV6, segment.protocol.into(), source, destination) {
        HAS_ACTION | FORWARDS_NOTHING => 1,
        NOT_FORWARDED => is_routed,
        // Where the kernel cannot tell, it is taken to be.
        other => u32::from(other < 0),
    }
}

/// Whether an IPv6 address is of fe80::/10.
#[inline(always)]
fn is_link_local(address: &[u8; 16]) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}
