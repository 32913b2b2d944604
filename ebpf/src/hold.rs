//! Holding a segment: copied to the daemon, which lets it go on when its keys are there.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::bpf_ktime_get_ns,
};
use tcpauth_common::{
    DropReason,
    key_choice::is_first_syn,
    layout::{Bucket, Direction, Held, MAX_HELD},
};

use crate::{
    barrier::{skb_field, within},
    frame::load_raw,
    maps::{BUCKETS, HELD, HELD_OWN},
    scratch::Scratch,
    segment,
};

/// Segments of a neighbour, each way, that are held in a second. Above it is a flood of forged SYNs, and must
/// not starve other neighbours.
const HELD_PER_SECOND: u64 = 1000;
/// SYNs for a neighbor that are held on their way out in a second and that no TCP socket of this host sent: those of ends
/// behind this host, of which each sends one a second, or a flood by a raw socket. They leave the sockets' alone.
const WITHOUT_SOCKET_PER_SECOND: u64 = 100;
/// TCP_SYN_SENT: only a TCP socket is in this state.
const SYN_SENT: u32 = 2;
/// SYNs of all neighbors together that are held on arrival in a second: as many as `HELD` has room for, if they carry no
/// data.
const FORGEABLE_PER_SECOND: u64 = 4000;

/// Takes the segment off its way and hands it to the daemon.
#[inline(always)]
pub fn hold(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    ifindex: u32,
    direction: Direction,
) -> Result<i32, DropReason> {
    taken(hand_over(skb, scratch, ifindex, direction as u32, 0))
}

/// Takes a segment of the peer that verified, as it came, off its way and hands it to the daemon, whose it is.
#[inline(always)]
pub fn divert(skb: *mut __sk_buff, scratch: &mut Scratch) -> Result<i32, DropReason> {
    taken(hand_over(skb, scratch, skb_field!(skb, ifindex), Direction::Inbound as u32, 1))
}

#[inline(always)]
fn taken(handed_over: u32) -> Result<i32, DropReason> {
    match handed_over {
        // Not an error to TCP: on its way out the segment is past the lane's device already.
        HANDED_OVER => Ok(TC_ACT_SHOT),
        RATE_LIMITED => Err(DropReason::RateLimited),
        OVERLOAD => Err(DropReason::Overload),
        _ => Err(DropReason::Malformed),
    }
}

const HANDED_OVER: u32 = 0;
const RATE_LIMITED: u32 = 1;
const OVERLOAD: u32 = 2;
const MALFORMED: u32 = 3;

/// `verified` is [`Held::verified`].
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hand_over(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    ifindex: u32,
    direction: u32,
    verified: u32,
) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return MALFORMED };
    let Some(bucket) = BUCKETS.get_ptr_mut(scratch.neighbor.number) else { return RATE_LIMITED };
    // Anybody can forge a SYN; what our end sends, and the answers to it, must not wait behind those.
    let is_own = direction == Direction::Outbound as u32;
    let opens = is_first_syn(segment::flags(&scratch.header));
    let is_forgeable = !is_own && verified == 0 && opens;
    let is_without_socket = is_own && opens && !is_of_connecting_socket(skb);
    // SAFETY: map values live while the program runs; races only make the rate inexact.
    let tokens = unsafe {
        if is_without_socket {
            &mut (*bucket).without_socket
        } else if is_own {
            &mut (*bucket).outbound
        } else if is_forgeable {
            &mut (*bucket).inbound
        } else {
            &mut (*bucket).answers
        }
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let rate = if is_without_socket { WITHOUT_SOCKET_PER_SECOND } else { HELD_PER_SECOND };
    if !tokens.take(rate, now) {
        return RATE_LIMITED;
    }
    if is_forgeable {
        let Some(all) = BUCKETS.get_ptr_mut(Bucket::OF_ALL) else { return RATE_LIMITED };
        // SAFETY: as above.
        if !unsafe { (*all).inbound.take(FORGEABLE_PER_SECOND, now) } {
            return RATE_LIMITED;
        }
    }
    let Some(len) = within::<1, { MAX_HELD as i32 }>(skb_field!(skb, len)) else { return MALFORMED };
    scratch.held.head = Held {
        time: now,
        quartet: scratch.quartet,
        neighbor: scratch.neighbor.number,
        ifindex,
        frame_len: len,
        vlan_tci: skb_field!(skb, vlan_tci) as u16,
        vlan_present: (skb_field!(skb, vlan_present) != 0) as u8,
        direction: direction as u8,
        l3_offset: scratch.segment.l3 as u16,
        l4_offset: scratch.segment.l4 as u16,
        ethertype: scratch.segment.ethertype,
        vlan_protocol: u16::from_be(skb_field!(skb, vlan_proto) as u16),
        verified,
        mark: if is_own { skb_field!(skb, mark) } else { 0 },
        priority: if is_own { skb_field!(skb, priority) } else { 0 },
        is_bare: scratch.segment.is_bare.into(),
    };
    if !load_raw(skb, 0, scratch.held.frame.as_mut_ptr(), len) {
        return MALFORMED;
    }
    let record_len = size_of::<Held>() + len as usize;
    // SAFETY: `len` is at most `MAX_HELD`, so the record is within `scratch.held`.
    let record = unsafe { core::slice::from_raw_parts((&raw const scratch.held).cast::<u8>(), record_len) };
    let handed_over =
        if is_forgeable { HELD.output::<[u8]>(record, 0) } else { HELD_OWN.output::<[u8]>(record, 0) };
    if handed_over.is_err() { OVERLOAD } else { HANDED_OVER }
}

/// Whether a TCP socket that opens a connection sent the segment: the kernel keeps it beside the packet, through the lane,
/// until the packet leaves or is forwarded.
#[inline(always)]
fn is_of_connecting_socket(skb: *mut __sk_buff) -> bool {
    // SAFETY: fields of the context and of the socket; the kernel rewrites each access, and the packet holds the socket.
    unsafe {
        let socket = (&raw const (*skb).__bindgen_anon_2.sk).read_volatile();
        !socket.is_null() && (&raw const (*socket).state).read_volatile() == SYN_SENT
    }
}
