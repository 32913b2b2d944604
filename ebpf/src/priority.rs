//! How the priority and the mark of a segment get through the lane, whose kernel function takes the priority away, and
//! through the daemon's hands: queueing disciplines and filters of the interface go by both.

use aya_ebpf::bindings::__sk_buff;
use tcpauth_common::layout::{MAX_INTERFACES, Session};

use crate::barrier::{set_skb_field, skb_field};

/// Bits of `tc_index`, of 16, that the slot of an interface takes. The priority is in the others.
const SLOT_BITS: u32 = 12;
/// TC_PRIO_MAX. Above are classes of one queueing discipline only, which `SO_PRIORITY` may name.
const HIGHEST: u32 = 15;

const _: () = assert!(MAX_INTERFACES <= 1 << SLOT_BITS && HIGHEST << SLOT_BITS <= 0xffff);

/// Sends the segment's priority and the slot of its interface through the lane.
#[inline(always)]
pub fn into_lane(skb: *mut __sk_buff, slot: u16) {
    let priority = skb_field!(skb, priority);
    let priority = if priority > HIGHEST { HIGHEST } else { priority };
    set_skb_field!(skb, tc_index, u32::from(slot) | priority << SLOT_BITS);
}

/// The slot that a segment has in the lane, 0 if the daemon sent it; and its priority.
#[inline(always)]
pub fn out_of_lane(skb: *mut __sk_buff) -> (u32, u32) {
    let index = skb_field!(skb, tc_index) & 0xffff;
    (index & ((1 << SLOT_BITS) - 1), index >> SLOT_BITS)
}

/// Gives the segment its priority back.
#[inline(always)]
pub fn restore(skb: *mut __sk_buff, priority: u32) {
    set_skb_field!(skb, priority, priority);
}

/// Gives a segment that the daemon sent what our stack's SYN had in `session`, which may be null. Its mark was for us.
#[inline(always)]
pub fn restore_of(skb: *mut __sk_buff, session: *const Session) {
    // SAFETY: null or a map value, which lives while the program runs.
    let (mark, priority) =
        unsafe { session.as_ref() }.map_or((0, 0), |session| (session.mark, session.priority));
    restore(skb, priority);
    set_skb_field!(skb, mark, mark);
}
