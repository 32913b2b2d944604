//! Counting, and telling the daemon of drops.

use core::hint::cold_path;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
};
use tcpauth_common::{
    DropReason,
    layout::{Counters, Direction, Dropped, Session},
    option::OptionWalk,
};

use crate::{
    barrier::{opaque, skb_field},
    maps::{COUNTERS, DROPPED},
    scratch::Scratch,
    segment,
};

/// Drop events of a neighbour in a second; the counters count all.
const EVENTS_PER_SECOND: u64 = 20;

/// Counts a refusal to `scratch.neighbor` and to the session (which may be null), tells of it if the rate
/// allows, and drops the segment.
#[inline(always)]
pub fn refuse(
    skb: *mut __sk_buff,
    scratch: &Scratch,
    session: *mut Session,
    reason: DropReason,
    direction: Direction,
) -> i32 {
    if let Some(counters) = count_refused(scratch.neighbor.number, session, reason) {
        // SAFETY: a map value, which lives while the program runs; no arguments. Races only make the rate inexact.
        let (events, now) = unsafe { (&mut (*counters).events, bpf_ktime_get_coarse_ns()) };
        if events.take(EVENTS_PER_SECOND, now) {
            cold_path();
            tell(skb, scratch, reason as u32, direction as u32);
        }
    }
    TC_ACT_SHOT
}

/// Counts a segment for which there is no working memory, and drops it: whose it is cannot be told without.
#[inline(always)]
pub fn refuse_without_memory() -> i32 {
    cold_path();
    count_refused(Counters::OF_NO_NEIGHBOR, core::ptr::null_mut(), DropReason::NoMemory);
    TC_ACT_SHOT
}

/// Counts a refusal to a neighbour and to the session, which may be null; the neighbour's counters.
#[inline(always)]
fn count_refused(neighbor: u32, session: *mut Session, reason: DropReason) -> Option<*mut Counters> {
    // The compiler knows that a reason is below SLOTS; the verifier does not.
    let reason = opaque(reason as u32) as usize & (DropReason::SLOTS - 1);
    let counters = COUNTERS.get_ptr_mut(neighbor);
    // SAFETY: map values live while the program runs; these are only added to, atomically.
    unsafe {
        if let Some(counters) = counters {
            add(&raw mut (*counters).dropped[reason], 1);
        }
        if !session.is_null() {
            add_word(&raw mut (*session).counters.dropped[reason], 1);
        }
    }
    counters
}

/// Counts a segment of `octets` that was sealed.
#[inline(always)]
pub fn count_signed(neighbor: u32, session: *mut Session, octets: u32) {
    // SAFETY: as in `count_refused`.
    unsafe {
        add(&raw mut (*session).counters.passed.signed_segments, 1);
        add(&raw mut (*session).counters.passed.signed_octets, u64::from(octets));
        if let Some(counters) = COUNTERS.get_ptr_mut(neighbor) {
            add(&raw mut (*counters).passed.signed_segments, 1);
            add(&raw mut (*counters).passed.signed_octets, u64::from(octets));
        }
    }
}

/// Counts a segment of `octets` that verified.
#[inline(always)]
pub fn count_verified(neighbor: u32, session: *mut Session, octets: u32) {
    // SAFETY: as in `count_refused`.
    unsafe {
        add(&raw mut (*session).counters.passed.verified_segments, 1);
        add(&raw mut (*session).counters.passed.verified_octets, u64::from(octets));
        if let Some(counters) = COUNTERS.get_ptr_mut(neighbor) {
            add(&raw mut (*counters).passed.verified_segments, 1);
            add(&raw mut (*counters).passed.verified_octets, u64::from(octets));
        }
    }
}

/// Counts a segment that went through without the option; `session` may be null.
#[inline(always)]
pub fn count_unsigned(neighbor: u32, session: *mut Session, direction: Direction) {
    // SAFETY: as in `count_refused`.
    unsafe {
        let counters = COUNTERS.get_ptr_mut(neighbor).map(|counters| &raw mut (*counters).passed);
        let of_session = (!session.is_null()).then(|| &raw mut (*session).counters.passed);
        for passed in [counters, of_session].into_iter().flatten() {
            match direction {
                Direction::Outbound => add(&raw mut (*passed).unsigned_sent, 1),
                Direction::Inbound => add(&raw mut (*passed).unsigned_received, 1),
            }
        }
    }
}

/// Whether a segment of the neighbour has ever verified, in whichever connection.
#[inline(always)]
pub fn has_authenticated(neighbor: u32) -> bool {
    // SAFETY: as in `count_refused`.
    COUNTERS.get_ptr_mut(neighbor).is_none_or(|counters| unsafe { (*counters).passed.verified_segments != 0 })
}

/// Puts a record of a drop into the ring buffer.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell(skb: *mut __sk_buff, scratch: *const Scratch, reason: u32, direction: u32) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_ref() }) else { return 0 };
    let Some(mut record) = DROPPED.reserve::<Dropped>(0) else {
        count_refused(scratch.neighbor.number, core::ptr::null_mut(), DropReason::Overload);
        return 0;
    };
    let header = &scratch.header;
    let key_id = if scratch.walk.ao_at != 0 { header.octet(scratch.walk.ao_at + 2) } else { 0 };
    record.write(Dropped {
        // SAFETY: no arguments.
        time: unsafe { bpf_ktime_get_ns() },
        quartet: scratch.quartet,
        neighbor: scratch.neighbor.number,
        ifindex: skb_field!(skb, ifindex),
        seq: segment::seq(header).0,
        segment_len: scratch.segment.len(),
        reason: reason as u8,
        direction: direction as u8,
        tcp_flags: segment::flags(header),
        key_id,
        options: options(&scratch.walk),
        reserved: [0; 3],
    });
    record.submit(0);
    1
}

/// Which authentication options the walk has found, as [`Dropped::options`] has it.
#[inline(always)]
fn options(walk: &OptionWalk) -> u8 {
    match (walk.authentications, walk.ao_at) {
        (0, _) => Dropped::NO_OPTION,
        (1, 0) => Dropped::MD5_OPTION,
        (1, _) => Dropped::AO_OPTION,
        _ => Dropped::SEVERAL_OPTIONS,
    }
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

/// The same for a counter of 32 bits.
///
/// # Safety
/// As of [`add`].
#[inline(always)]
unsafe fn add_word(counter: *mut u32, amount: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: as of `add`.
    unsafe {
        core::arch::asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) counter, in(reg) u64::from(amount))
    };
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as of `add`.
    unsafe {
        *counter += amount
    };
}

const _: () = assert!(size_of::<Counters>() == 8 * (6 + DropReason::SLOTS + 2));
