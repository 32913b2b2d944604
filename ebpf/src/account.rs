//! Counting, and telling the daemon of drops.

use aya_ebpf::{bindings::TC_ACT_SHOT, helpers::bpf_ktime_get_ns, programs::TcContext};
use tcpauth_common::{
    DropReason,
    layout::{Counters, Direction, Dropped, Quartet, Session, Tokens},
    option::Header,
};

use crate::{
    barrier::skb_field,
    maps::{BUCKETS, COUNTERS, DROPPED, scratch},
    neighbor::{Neighbor, PeerEnd, quartet},
    segment,
};

/// Why and whose segment is refused.
#[derive(Clone, Copy)]
pub struct Refusal {
    pub reason: DropReason,
    pub neighbor: u32,
    pub scope: u32,
    /// Null if there is none.
    pub session: *mut Session,
}

impl Refusal {
    /// A segment of no session.
    #[inline(always)]
    pub fn of(neighbor: &Neighbor, reason: DropReason) -> Self {
        Self { reason, neighbor: neighbor.number, scope: neighbor.scope, session: core::ptr::null_mut() }
    }

    /// The same, counted to `session` too.
    #[inline(always)]
    pub fn in_session(self, session: Option<*mut Session>) -> Self {
        Self { session: session.unwrap_or(core::ptr::null_mut()), ..self }
    }
}

/// Counts a refusal, tells of it if its rate allows, and drops the segment.
#[inline(always)]
pub fn refuse(ctx: &TcContext, refusal: &Refusal, direction: Direction) -> i32 {
    count_quietly(refusal);
    tell(ctx, refusal, direction);
    TC_ACT_SHOT
}

/// Counts a refusal without a record for the daemon.
#[inline(always)]
pub fn count_quietly(refusal: &Refusal) {
    let reason = refusal.reason as usize & (DropReason::COUNT - 1);
    count(refusal.neighbor, refusal.reason);
    if !refusal.session.is_null() {
        // SAFETY: map values live while the program runs; counters are only added to atomically.
        unsafe { add(&raw mut (*refusal.session).counters.dropped[reason], 1) };
    }
}

/// Counts a segment of `octets` that was sealed.
#[inline(always)]
pub fn count_signed(neighbor: u32, session: *mut Session, octets: u32) {
    // SAFETY: as in `count_quietly`.
    unsafe {
        add(&raw mut (*session).counters.signed_segments, 1);
        add(&raw mut (*session).counters.signed_octets, u64::from(octets));
        if let Some(counters) = COUNTERS.get_ptr_mut(neighbor) {
            add(&raw mut (*counters).signed_segments, 1);
            add(&raw mut (*counters).signed_octets, u64::from(octets));
        }
    }
}

/// Counts a segment of `octets` that verified.
#[inline(always)]
pub fn count_verified(neighbor: u32, session: *mut Session, octets: u32) {
    // SAFETY: as in `count_quietly`.
    unsafe {
        add(&raw mut (*session).counters.verified_segments, 1);
        add(&raw mut (*session).counters.verified_octets, u64::from(octets));
        if let Some(counters) = COUNTERS.get_ptr_mut(neighbor) {
            add(&raw mut (*counters).verified_segments, 1);
            add(&raw mut (*counters).verified_octets, u64::from(octets));
        }
    }
}

/// Counts something that befell a neighbour, without dropping.
#[inline(always)]
pub fn count(neighbor: u32, reason: DropReason) {
    // SAFETY: as in `count_quietly`.
    unsafe {
        if let Some(counters) = COUNTERS.get_ptr_mut(neighbor) {
            add(&raw mut (*counters).dropped[reason as usize & (DropReason::COUNT - 1)], 1);
        }
    }
}

/// Takes a token from a bucket that gains `rate` a second up to `rate`; false if it is empty.
///
/// Two CPUs may take the same token: the rate is a guard, not a contract.
#[inline(always)]
pub fn take_token(tokens: &mut Tokens, rate: u64) -> bool {
    const SECOND: u64 = 1_000_000_000;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let elapsed = now.wrapping_sub(tokens.filled);
    if elapsed >= SECOND {
        tokens.left = rate;
        tokens.filled = now;
    } else {
        let gained = elapsed * rate / SECOND;
        if gained > 0 {
            let left = tokens.left + gained;
            tokens.left = if left > rate { rate } else { left };
            tokens.filled = now;
        }
    }
    if tokens.left == 0 {
        return false;
    }
    tokens.left -= 1;
    true
}

/// Drop events of a neighbour in a second; the counters count all.
const EVENTS_PER_SECOND: u64 = 20;

#[inline(always)]
fn tell(ctx: &TcContext, refusal: &Refusal, direction: Direction) {
    let Some(bucket) = BUCKETS.get_ptr_mut(refusal.neighbor) else { return };
    // SAFETY: as in `count_quietly`; races only make the rate inexact.
    if !take_token(unsafe { &mut (*bucket).events }, EVENTS_PER_SECOND) {
        return;
    }
    let Some(scratch) = scratch() else { return };
    let Some(mut record) = DROPPED.reserve::<Dropped>(0) else {
        count(refusal.neighbor, DropReason::Overload);
        return;
    };
    let peer_end = match direction {
        Direction::Inbound => PeerEnd::Source,
        Direction::Outbound => PeerEnd::Destination,
    };
    let quartet: Quartet = quartet(&scratch.segment, peer_end, refusal.scope);
    let header: &Header = &scratch.header;
    let key_id = if scratch.walk.ao_at != 0 { header.octet(scratch.walk.ao_at + 2) } else { 0 };
    record.write(Dropped {
        // SAFETY: no arguments.
        time: unsafe { bpf_ktime_get_ns() },
        quartet,
        neighbor: refusal.neighbor,
        ifindex: skb_field!(ctx, ifindex),
        seq: segment::seq(header).0,
        segment_len: scratch.segment.len(),
        reason: refusal.reason as u8,
        direction: direction as u8,
        tcp_flags: segment::flags(header),
        key_id,
        reserved: 0,
    });
    record.submit(0);
}

/// Adds to a counter that other CPUs add to as well.
///
/// `core::sync::atomic` has no additions on this target, which lacks compare-and-swap in its description.
///
/// # Safety
/// `counter` points to a counter in a map value.
#[inline(always)]
unsafe fn add(counter: *mut u64, amount: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: aligned and alive by the contract; all writers are atomic.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) amount)
    };
    // So that lints can be run on the host.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        *counter += amount
    };
}

const _: () = assert!(size_of::<Counters>() == 8 * (4 + DropReason::COUNT));
