//! Reading a frame's octets.

use core::hint::cold_path;

use aya_ebpf::bindings::__sk_buff;

use crate::barrier::{opaque, skb_field, within};

/// Copies `N` octets of the frame at `offset`; false if it has not so many.
#[inline(always)]
pub fn load<const N: usize>(skb: *mut __sk_buff, offset: u32, to: &mut [u8; N]) -> bool {
    load_raw(skb, offset, to.as_mut_ptr(), N as u32)
}

/// Copies `len` octets of the frame at `offset` to `to`, which has room; false if it has not so many.
#[inline(always)]
pub fn load_raw(skb: *mut __sk_buff, offset: u32, to: *mut u8, len: u32) -> bool {
    // SAFETY: the verifier refuses the program if `len` can exceed what `to` points to.
    unsafe { aya_ebpf::helpers::bpf_skb_load_bytes(skb.cast(), offset, to.cast(), len) == 0 }
}

/// Copies `N` words of the frame at `offset`; false if it has not so many octets.
#[inline(always)]
pub fn load_words<const N: usize>(skb: *mut __sk_buff, offset: u32, to: &mut [u32; N]) -> bool {
    load_direct(skb, offset, to) || load_raw(skb, offset, to.as_mut_ptr().cast(), 4 * N as u32)
}

/// Copies `len` octets of the frame at `offset`, which is at most what `to` has room for; what is behind them in `to`
/// may be anything afterwards. False if it has not so many octets.
///
/// As [`load_raw`], but without a call where all that `to` has room for is in the linear part: every frame is looked at
/// with this.
#[inline(always)]
pub fn load_start<const N: usize, const OCTETS: i32>(
    skb: *mut __sk_buff,
    offset: u32,
    to: &mut [u32; N],
    len: u32,
) -> bool {
    const { assert!(OCTETS as usize == 4 * N) };
    load_direct(skb, offset, to) || load_some::<OCTETS>(skb, offset, to.as_mut_ptr().cast(), len)
}

#[inline(always)]
fn load_direct<const N: usize>(skb: *mut __sk_buff, offset: u32, to: &mut [u32; N]) -> bool {
    let near = opaque(offset);
    if near <= MOST_DIRECT {
        let end = skb_field!(skb, data_end) as usize;
        let from = sum(skb_field!(skb, data) as usize, near as usize);
        if from + 4 * N <= end {
            let mut i = 0;
            while i < N {
                to[i] = word_at(from + 4 * i);
                i += 1;
            }
            return true;
        }
    }
    cold_path();
    false
}

/// Copies `len` octets of the frame at `offset` to `to`, which has room for `MOST`; false if it has not so many, or if
/// `len` is more.
#[inline(always)]
pub fn load_some<const MOST: i32>(skb: *mut __sk_buff, offset: u32, to: *mut u8, len: u32) -> bool {
    match within::<1, MOST>(len) {
        Some(len) => load_raw(skb, offset, to, len),
        None => len == 0,
    }
}

/// Largest offset at which octets are read directly: the verifier wants a bound.
const MOST_DIRECT: u32 = 0x3ff;

/// `start` and `offset` added up, of which the compiler knows nothing: it must not add them anew, as the verifier would
/// not know that the second sum is the first, which was compared with the frame's end.
#[inline(always)]
fn sum(start: usize, offset: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    let sum = {
        let mut sum = start;
        // SAFETY: an addition.
        unsafe {
            core::arch::asm!("{0} += {1}", inout(reg) sum, in(reg) offset, options(pure, nomem, preserves_flags))
        };
        sum
    };
    // So that lints can be run on the host.
    #[cfg(not(target_arch = "bpf"))]
    let sum = start + offset;
    sum
}

/// The word at `address`, which need not be aligned: headers lie 14 octets behind the start of a frame. Kernels for CPUs
/// that cannot do that refuse the program; those for x86-64 and arm64 do not.
#[inline(always)]
fn word_at(address: usize) -> u32 {
    #[cfg(target_arch = "bpf")]
    let word = {
        let word: u64;
        // SAFETY: the verifier refuses the program if the word may be outside of the frame.
        unsafe {
            core::arch::asm!("{0} = *(u32 *)({1} + 0)", out(reg) word, in(reg) address, options(readonly, preserves_flags))
        };
        word as u32
    };
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    let word = unsafe { (address as *const u32).read_unaligned() };
    word
}
