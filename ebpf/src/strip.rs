//! Taking the option off a segment that verified, before the stack sees it.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_check_mtu, bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_store_bytes},
};
use tcpauth_common::{
    Algorithm,
    key_choice::flag,
    layout::{ETHERTYPE_IPV4, KeySlot},
    option::{BASE_HEADER, MAX_HEADER, TIMESTAMPS_LEN, kind},
    translation::Translation,
};

use crate::{
    authenticate::MAX_MSS,
    barrier::within,
    ingress::is_md5,
    options,
    scratch::{AuthOption, Scratch},
    segment::{self, IPV4_HEADER, IPV6_HEADER, NEVER_ZERO, TCP_CHECKSUM},
};

/// Turns the option into NOPs: a stack with TCP-AO would refuse it on a socket without keys. In a SYN, lowers
/// the MSS by the longest option's length, so that what our stack sends has room for any, and refuses timestamps where no
/// MAC covers them. `seq` and `ack` are the [`Translation`] of its numbers. 0 if it cannot. RFC 5925 §7.6.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_option_away(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    header_len: u32,
    seq: u32,
    ack: u32,
) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let AuthOption { at, len, .. } = scratch.option;
    // As in `seal`: what no MAC covers must not decide which segments are old.
    let is_outside = is_md5(scratch) || scratch.covered.flags & u32::from(KeySlot::EXCLUDE_OPTIONS) != 0;
    let has_timestamps = is_outside && scratch.walk.timestamps_at != 0;
    let new = &mut scratch.rewritten;
    new.words[4] = scratch.header.words[4];
    let mut i = 0;
    while i < 20 && i < len {
        new.set_octet(at + i, kind::NOP);
        i += 1;
    }
    if !(Translation { seq, ack }).is_none() {
        options::translate(scratch, seq, ack);
    }
    let new = &mut scratch.rewritten;
    let is_syn = segment::flags(&scratch.header) & flag::SYN != 0;
    if is_syn && has_timestamps {
        let mut i = 0;
        while i < TIMESTAMPS_LEN {
            new.set_octet(scratch.walk.timestamps_at + i, kind::NOP);
            i += 1;
        }
    }
    if is_syn && scratch.walk.mss_at != 0 {
        let mss_at = scratch.walk.mss_at + 2;
        let ip_len = if scratch.segment.ethertype == ETHERTYPE_IPV4 { IPV4_HEADER } else { IPV6_HEADER };
        let mut mtu = 0u32;
        // SAFETY: the pointer is to a local variable.
        unsafe { bpf_check_mtu(skb.cast(), 0, &raw mut mtu, 0, 0) };
        let most = mtu.saturating_sub(ip_len + BASE_HEADER).min(MAX_MSS);
        let mss = u32::from(new.number16(mss_at)).min(most);
        new.set_number16(mss_at, mss.saturating_sub(Algorithm::MOST_OPTION_LEN as u32) as u16);
    }
    let Some(header_len) = within::<{ BASE_HEADER as i32 }, { MAX_HEADER as i32 }>(header_len) else {
        return 0;
    };
    let l4 = scratch.segment.l4;
    let (old, new) = (&raw mut scratch.header.words, &raw mut scratch.rewritten.words);
    // SAFETY: lengths are bounded above; pointers are to the scratch value.
    unsafe {
        // What the header changes by, the checksum changes back: a sum of the whole packet stays right.
        if bpf_skb_store_bytes(skb, l4, new.cast(), header_len, 0) != 0 {
            return 0;
        }
        let difference = bpf_csum_diff(old.cast(), header_len & !3, new.cast(), header_len & !3, 0);
        if difference < 0
            || bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, 0, difference as u64, NEVER_ZERO) != 0
        {
            return 0;
        }
    }
    1
}
