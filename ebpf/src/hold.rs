//! Holding a segment: copied to the daemon, which lets it go on when its keys are there.

use aya_ebpf::{bindings::TC_ACT_SHOT, helpers::bpf_ktime_get_ns, programs::TcContext};
use tcpauth_common::{
    DropReason,
    layout::{Direction, Held, MAX_HELD, Quartet},
};

use crate::{
    account::take_token,
    barrier::{opaque, skb_field},
    maps::{BUCKETS, HELD, scratch},
    neighbor::Neighbor,
    segment::load_raw,
};

/// Segments of a neighbour, each way, that are held in a second. Above it is a flood of forged SYNs, and must
/// not starve other neighbours.
const HELD_PER_SECOND: u64 = 1000;

/// Takes the segment off its way and hands it to the daemon.
#[inline(always)]
pub fn hold(
    ctx: &TcContext,
    neighbor: &Neighbor,
    quartet: &Quartet,
    ifindex: u32,
    direction: Direction,
) -> Result<i32, DropReason> {
    let bucket = BUCKETS.get_ptr_mut(neighbor.number).ok_or(DropReason::RateLimited)?;
    // SAFETY: map values live while the program runs; races only make the rate inexact.
    let tokens = unsafe {
        match direction {
            Direction::Inbound => &mut (*bucket).inbound,
            Direction::Outbound => &mut (*bucket).outbound,
        }
    };
    if !take_token(tokens, HELD_PER_SECOND) {
        return Err(DropReason::RateLimited);
    }
    let len = opaque(skb_field!(ctx, len));
    if len == 0 || len > MAX_HELD as u32 {
        return Err(DropReason::Malformed);
    }
    let scratch = scratch().ok_or(DropReason::Malformed)?;
    scratch.held.head = Held {
        // SAFETY: no arguments.
        time: unsafe { bpf_ktime_get_ns() },
        quartet: *quartet,
        neighbor: neighbor.number,
        ifindex,
        frame_len: len,
        vlan_tci: skb_field!(ctx, vlan_tci) as u16,
        vlan_present: (skb_field!(ctx, vlan_present) != 0) as u8,
        direction: direction as u8,
        l3_offset: scratch.segment.l3 as u16,
        l4_offset: scratch.segment.l4 as u16,
        ethertype: scratch.segment.ethertype,
        reserved: 0,
    };
    if !load_raw(ctx.skb.skb, 0, scratch.held.frame.as_mut_ptr(), len) {
        return Err(DropReason::Malformed);
    }
    let record_len = size_of::<Held>() + len as usize;
    // SAFETY: `len` is at most `MAX_HELD`, so the record is within `scratch.held`.
    let record = unsafe { core::slice::from_raw_parts((&raw const scratch.held).cast::<u8>(), record_len) };
    HELD.output::<[u8]>(record, 0).map_err(|_| DropReason::Overload)?;
    // Not an error to TCP: on its way out the segment is past the lane's device already.
    Ok(TC_ACT_SHOT)
}
