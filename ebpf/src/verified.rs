//! A mark on what has passed `ingress`, for interfaces that a packet may reach afterwards on its way through this host:
//! the option is gone by then, and a second check would refuse the segment.

use core::hint::cold_path;

use aya_ebpf::bindings::__sk_buff;

use crate::barrier::{set_skb_field, skb_field};

/// The mark, in `tc_index`: it stays with a packet on its way through the host, and nothing on the wire sets it. A
/// container can set it on what it sends by a veth, so it counts nowhere but behind another `ingress`, which takes it
/// off what has not passed its checks.
const MARK: u32 = 0x7463;

/// By which way a packet comes to an interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// From outside.
    First,
    /// From inside this host: if it came from outside, it has passed the program of another interface.
    Again,
}

/// Whether the packet has passed these checks before. Takes the mark off a packet that comes from outside.
#[inline(always)]
pub fn has_passed(skb: *mut __sk_buff, arrival: Arrival) -> bool {
    if skb_field!(skb, tc_index) != MARK {
        return false;
    }
    cold_path();
    if arrival == Arrival::First {
        set_skb_field!(skb, tc_index, 0);
    }
    arrival == Arrival::Again
}

/// Says that the packet has passed these checks.
#[inline(always)]
pub fn mark(skb: *mut __sk_buff) {
    set_skb_field!(skb, tc_index, MARK);
}
