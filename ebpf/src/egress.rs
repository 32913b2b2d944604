//! Egress of a protected interface: our ends' segments to a neighbour go into the lane, all else passes.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_redirect, bpf_skb_change_head, bpf_skb_store_bytes},
};
use tcpauth_common::{DropReason, layout::Direction};

use crate::{
    account::{self, refuse},
    barrier::skb_field,
    headroom,
    maps::{SETTINGS, SLOTS},
    neighbor::{self, Origin, PeerEnd},
    priority,
    scratch::Memory,
    segment::{self, BARE_IP, Content, ETHERNET, ETHERTYPE},
};

#[inline(always)]
pub fn run(skb: *mut __sk_buff, link_header: u32) -> i32 {
    let Some(settings) = SETTINGS.get(0) else { return TC_ACT_SHOT };
    let arrived = skb_field!(skb, ingress_ifindex);
    if arrived == settings.lane1 {
        // Sealed already.
        return TC_ACT_UNSPEC;
    }
    let ifindex = skb_field!(skb, ifindex);
    let Some(mut memory) = Memory::take() else { return account::refuse_without_memory() };
    let scratch = memory.scratch();
    let session = match segment::locate(skb, scratch, link_header) {
        Content::Tcp => neighbor::of_tcp(skb, scratch, PeerEnd::Destination, ifindex),
        Content::TcpWithoutPorts => {
            neighbor::of_tcp_without_ports(skb, scratch, PeerEnd::Destination, ifindex)
        }
        Content::Tags | Content::Unreadable => return TC_ACT_SHOT,
        Content::Icmp | Content::Encapsulated | Content::Other => None,
    };
    let Some(session) = session else { return TC_ACT_UNSPEC };
    match neighbor::origin(skb, scratch, session, arrived) {
        Origin::Own => {}
        Origin::Spoofed => return refuse(skb, scratch, session, DropReason::Spoofed, Direction::Outbound),
        Origin::Stranger => return TC_ACT_UNSPEC,
    }
    let Some(slot) = SLOTS.get_ptr(ifindex) else { return TC_ACT_SHOT };
    // SAFETY: the map value lives while the program runs.
    priority::into_lane(skb, unsafe { *slot });
    headroom::lower_segment_size(skb, session, scratch.segment.l4);
    if link_header == BARE_IP && !put_ethernet_header(skb, scratch.segment.ethertype) {
        return TC_ACT_SHOT;
    }
    // SAFETY: no pointers.
    unsafe { bpf_redirect(settings.lane0, 0) as i32 }
}

/// The lane is of Ethernet; the redirect out of it takes the header away again.
#[inline(always)]
fn put_ethernet_header(skb: *mut __sk_buff, ethertype: u16) -> bool {
    let ethertype = ethertype.to_be();
    // SAFETY: the pointer is to a local variable of 2 octets.
    unsafe {
        bpf_skb_change_head(skb, ETHERNET, 0) == 0
            && bpf_skb_store_bytes(skb, ETHERTYPE, (&raw const ethertype).cast(), 2, 0) == 0
    }
}
