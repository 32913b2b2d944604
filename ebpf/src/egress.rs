//! Egress of a protected interface: segments to a neighbour go into the lane, all else passes.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_redirect,
};

use crate::{
    barrier::skb_field,
    maps::{SETTINGS, SLOTS, scratch},
    neighbor::{self, PeerEnd},
    segment::{self, Content},
};

#[inline(always)]
pub fn run(skb: *mut __sk_buff) -> i32 {
    let Some(settings) = SETTINGS.get(0) else { return TC_ACT_SHOT };
    if skb_field!(skb, ingress_ifindex) == settings.lane1 {
        // Sealed already.
        return TC_ACT_UNSPEC;
    }
    let ifindex = skb_field!(skb, ifindex);
    let Some(scratch) = scratch() else { return TC_ACT_SHOT };
    let session = match segment::locate(skb, scratch) {
        Content::Tcp => neighbor::of_tcp(scratch, PeerEnd::Destination, ifindex),
        Content::TcpWithoutPorts => neighbor::of_tcp_without_ports(scratch, PeerEnd::Destination, ifindex),
        Content::Icmp | Content::Other => None,
    };
    if session.is_none() {
        return TC_ACT_UNSPEC;
    }
    let Some(slot) = SLOTS.get_ptr(ifindex) else { return TC_ACT_SHOT };
    // SAFETY: the map value lives while the program runs, and the context is the kernel's.
    unsafe { (&raw mut (*skb).tc_index).write_volatile(u32::from(*slot)) };
    // SAFETY: no pointers.
    unsafe { bpf_redirect(settings.lane0, 0) as i32 }
}
