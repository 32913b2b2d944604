//! Makes room for the option where our stack leaves none: in a connection that began without the option, and where
//! the interface, or the path of IPv6, carries less than the MSS of the handshake supposed.
//!
//! Super-packets are told to be cut into smaller segments before they are cut. A segment that is too long by itself
//! goes through the lane twice more, in two pieces. Both are of this connection only and need nothing of the stack.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_PSEUDO_HDR, TC_ACT_SHOT,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_check_mtu_ret::BPF_MTU_CHK_RET_FRAG_NEEDED,
    },
    helpers::{
        bpf_check_mtu, bpf_clone_redirect, bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace,
        bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_store_bytes,
    },
};
use tcpauth_common::{
    Algorithm,
    layout::{ETHERTYPE_IPV4, Session},
    option::{BASE_HEADER, MAX_HEADER},
};

use crate::{
    barrier::{opaque, skb_field, within},
    frame::{load, load_raw},
    maps::SETTINGS,
    scratch::Scratch,
    segment::{self, PROTOCOL_TCP, Segment, TCP_CHECKSUM},
};

/// Offset of data offset and flags in a TCP header, 16 bits.
const TCP_FLAGS: u32 = 12;
/// FIN and PSH, which the last piece of a segment has.
const OF_LAST: u16 = 0x0009;
/// Octets that a piece takes from a segment at most. What is left may be too long still, and is cut again.
const MOST_CUT: u32 = 256;
/// Segments are not cut for links that carry less than this beside the IP header and the option.
const LEAST_LARGEST: u32 = 256;

/// Makes the kernel cut the super-packet `skb` into segments that leave room for the option, if our stack leaves
/// none.
#[inline(always)]
pub fn lower_segment_size(skb: *mut __sk_buff, session: *const Session, l4: u32) {
    // SAFETY: null or a map value, which lives while the program runs.
    let Some(session) = (unsafe { session.as_ref() }) else { return };
    let size = skb_field!(skb, gso_size);
    let mut offset = [0u8; 1];
    if session.largest_segment == 0 || size == 0 || !load(skb, l4 + TCP_FLAGS, &mut offset) {
        return;
    }
    let segment_len = size + (u32::from(offset[0]) >> 4) * 4;
    if segment_len <= session.largest_segment {
        return;
    }
    let by = (segment_len - session.largest_segment) as i32;
    // The kernel lowers the size of segments by what their headers grow; that they shrink again it is told to ignore.
    // SAFETY: no pointers but the context.
    unsafe {
        if bpf_skb_adjust_room(skb, by, BPF_ADJ_ROOM_MAC, 0) == 0 {
            bpf_skb_adjust_room(skb, -by, BPF_ADJ_ROOM_MAC, u64::from(BPF_F_ADJ_ROOM_FIXED_GSO));
        }
    }
}

/// Returns the most octets of TCP header and data that leave room for the option, if the segment of our end, about to be
/// signed and to leave by interface `ifindex`, has more. Notes in the session what the interface's MTU allows.
#[inline(always)]
pub fn exceeded_limit(
    skb: *mut __sk_buff,
    session: *mut Session,
    segment: &Segment,
    header_len: u32,
    ifindex: u32,
) -> Option<u32> {
    // SAFETY: a map value, which lives while the program runs.
    let known = unsafe { (*session).largest_segment };
    if segment.len() == header_len {
        return None;
    }
    if known != 0 && segment.len() > known {
        return Some(known);
    }
    let others = segment.l4.wrapping_sub(segment.l3) + Algorithm::MOST_OPTION_LEN as u32;
    // In: octets of the IP packet. Out: the MTU.
    let mut mtu = segment.len() + others;
    // SAFETY: the pointer is to a local variable.
    let verdict = unsafe { bpf_check_mtu(skb.cast(), ifindex, &raw mut mtu, 0, 0) };
    let largest = mtu.saturating_sub(others);
    if verdict != i64::from(BPF_MTU_CHK_RET_FRAG_NEEDED) || largest < LEAST_LARGEST {
        return None;
    }
    // SAFETY: as above. A single word; of two CPUs that race, both write what an interface allows.
    unsafe { (*session).largest_segment = largest };
    Some(largest)
}

/// Sends the segment, whose header of `header_len` octets is in `scratch.header`, into the lane again in two pieces.
/// The verdict.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn split(skb: *mut __sk_buff, scratch: *mut Scratch, header_len: u32, largest: u32) -> i32 {
    // SAFETY: null or the run's memory.
    let (Some(settings), Some(scratch)) = (SETTINGS.get(0), unsafe { scratch.as_mut() }) else {
        return TC_ACT_SHOT;
    };
    let Some(header_len) = within::<{ BASE_HEADER as i32 }, { MAX_HEADER as i32 }>(header_len) else {
        return TC_ACT_SHOT;
    };
    let data_len = scratch.segment.len().wrapping_sub(header_len);
    // What is kept is whole words, so that the other piece begins at an even octet for its checksum.
    let most = largest.wrapping_sub(header_len) & !3;
    let least = data_len.saturating_sub(MOST_CUT).next_multiple_of(4);
    let cut = data_len.wrapping_sub(core::cmp::max(most, least));
    if most >= data_len {
        return TC_ACT_SHOT;
    }
    let Some(cut) = within::<1, { MOST_CUT as i32 }>(cut) else { return TC_ACT_SHOT };
    let kept = data_len - cut;
    if !cut_off(skb, scratch, kept, cut) {
        return TC_ACT_SHOT;
    }
    // SAFETY: no pointers but the context.
    if unsafe { bpf_clone_redirect(skb, settings.lane0, 0) } != 0 {
        return TC_ACT_SHOT;
    }
    if !become_rest(skb, scratch, header_len, kept, cut) {
        return TC_ACT_SHOT;
    }
    // SAFETY: no pointers.
    unsafe { bpf_redirect(settings.lane0, 0) as i32 }
}

/// Makes the segment its first `kept` octets of data; the others are put into `scratch.moved`.
#[inline(always)]
fn cut_off(skb: *mut __sk_buff, scratch: &mut Scratch, kept: u32, cut: u32) -> bool {
    let end = scratch.segment.end;
    scratch.moved = [0; 256];
    if !load_raw(skb, end - cut, scratch.moved.as_mut_ptr(), cut) {
        return false;
    }
    let flags = flags_of(scratch);
    let (l4, len) = (scratch.segment.l4, scratch.segment.len());
    let fewer = ((len as u16).to_be(), ((len - cut) as u16).to_be());
    // SAFETY: lengths are bounded by the caller; pointers are to the scratch value.
    unsafe {
        if bpf_skb_change_tail(skb, end - cut, 0) != 0 {
            return false;
        }
        let difference =
            bpf_csum_diff(scratch.moved.as_mut_ptr().cast(), words(cut), core::ptr::null_mut(), 0, 0);
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | 2;
        difference >= 0
            && bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, 0, difference as u64, 0) == 0
            && bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, fewer.0.into(), fewer.1.into(), pseudo) == 0
            && bpf_l4_csum_replace(
                skb,
                l4 + TCP_CHECKSUM,
                flags.to_be().into(),
                (flags & !OF_LAST).to_be().into(),
                2,
            ) == 0
            && store16(skb, l4 + TCP_FLAGS, flags & !OF_LAST)
            && lower_ip_len(skb, scratch, 0, cut)
            && kept > 0
    }
}

/// Makes what [`cut_off`] has left the segment with the other `cut` octets of data.
#[inline(always)]
fn become_rest(skb: *mut __sk_buff, scratch: &mut Scratch, header_len: u32, kept: u32, cut: u32) -> bool {
    let l4 = scratch.segment.l4;
    let data_at = l4 + header_len;
    scratch.header.words[1] = (segment::seq(&scratch.header).0.wrapping_add(kept)).to_be();
    scratch.header.words[4] &= 0xffff_0000u32.to_le();
    let sum = sum(scratch, header_len, cut);
    scratch.header.set_number16(TCP_CHECKSUM, !sum);
    // SAFETY: lengths are bounded by the caller; pointers are to the scratch value.
    unsafe {
        bpf_skb_store_bytes(skb, l4, (&raw const scratch.header.words).cast(), header_len, 0) == 0
            && bpf_skb_store_bytes(skb, data_at, scratch.moved.as_ptr().cast(), cut, 0) == 0
            && bpf_skb_change_tail(skb, data_at + cut, 0) == 0
            && lower_ip_len(skb, scratch, cut, kept)
    }
}

/// One's complement sum of pseudo-header, `scratch.header` and `cut` octets of `scratch.moved`.
#[inline(always)]
fn sum(scratch: &mut Scratch, header_len: u32, cut: u32) -> u16 {
    let len = header_len + cut;
    let mut last = u32::from_be_bytes([0, PROTOCOL_TCP, (len >> 8) as u8, len as u8]).to_be();
    let none = core::ptr::null_mut();
    let ip = scratch.segment.ip.as_mut_ptr();
    // SAFETY: the addresses lie within the IP header; lengths are bounded by the callers.
    let sum = unsafe {
        let sum = if scratch.segment.ethertype == ETHERTYPE_IPV4 {
            bpf_csum_diff(none, 0, ip.add(12).cast(), 8, 0)
        } else {
            bpf_csum_diff(none, 0, ip.add(8).cast(), 32, 0)
        };
        let sum = bpf_csum_diff(none, 0, &raw mut last, 4, sum as u32);
        let header = (&raw mut scratch.header.words).cast();
        let sum = bpf_csum_diff(none, 0, header, header_len & !3, sum as u32);
        bpf_csum_diff(none, 0, scratch.moved.as_mut_ptr().cast(), words(cut), sum as u32)
    } as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // The kernel's sums are of words in memory order.
    u16::from_be(sum as u16)
}

/// Lowers the length in the IP header from what it was less `from` to what it was less `to`.
#[inline(always)]
fn lower_ip_len(skb: *mut __sk_buff, scratch: &Scratch, from: u32, to: u32) -> bool {
    let (l3, ip) = (scratch.segment.l3, &scratch.segment.ip);
    let is_ipv4 = scratch.segment.ethertype == ETHERTYPE_IPV4;
    let at = if is_ipv4 { 2 } else { 4 };
    let was = if is_ipv4 { [ip[2], ip[3]] } else { [ip[4], ip[5]] };
    let was = u16::from_be_bytes(was);
    let (from, to) = (was.wrapping_sub(from as u16), was.wrapping_sub(to as u16));
    // SAFETY: no pointers but the context.
    store16(skb, l3 + at, to)
        && (!is_ipv4
            || unsafe { bpf_l3_csum_replace(skb, l3 + 10, from.to_be().into(), to.to_be().into(), 2) == 0 })
}

#[inline(always)]
fn flags_of(scratch: &Scratch) -> u16 {
    scratch.header.number16(TCP_FLAGS)
}

/// Octets of the words that `cut` octets fill.
#[inline(always)]
fn words(cut: u32) -> u32 {
    let words = opaque((cut + 3) & !3);
    if words > MOST_CUT { MOST_CUT } else { words }
}

#[inline(always)]
fn store16(skb: *mut __sk_buff, at: u32, value: u16) -> bool {
    let value = value.to_be();
    // SAFETY: the pointer is to a local variable of 2 octets.
    unsafe { bpf_skb_store_bytes(skb, at, (&raw const value).cast(), 2, 0) == 0 }
}
