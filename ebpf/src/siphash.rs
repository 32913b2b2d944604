//! SipHash-2-4's mixing of a word, by the instruction: the compiler takes a fifth more of them.

use core::arch::asm;

use tcpauth_common::mac::{INPUT_WORDS, siphash::Variables};

/// SipRound. `t` is to work in: BPF has no rotation.
macro_rules! round {
    () => {
        "{v0} += {v1}
        {t} = {v1}
        {t} >>= 51
        {v1} <<= 13
        {v1} |= {t}
        {v1} ^= {v0}
        {v2} += {v3}
        {t} = {v3}
        {t} >>= 48
        {v3} <<= 16
        {v3} |= {t}
        {v3} ^= {v2}
        {t} = {v0}
        {t} >>= 32
        {v0} <<= 32
        {v0} |= {t}
        {v0} += {v3}
        {v2} += {v1}
        {t} = {v1}
        {t} >>= 47
        {v1} <<= 17
        {v1} |= {t}
        {v1} ^= {v2}
        {t} = {v3}
        {t} >>= 43
        {v3} <<= 21
        {v3} |= {t}
        {v3} ^= {v0}
        {t} = {v2}
        {t} >>= 32
        {v2} <<= 32
        {v2} |= {t}"
    };
}

/// Mixes the word of 8 octets at index `at` of `input` into the variables.
#[inline(always)]
pub fn absorb(
    [mut v0, mut v1, mut v2, mut v3]: Variables,
    input: &[u32; INPUT_WORDS],
    at: usize,
) -> Variables {
    // SAFETY: `at` is even, so that two words follow, and those are aligned.
    unsafe {
        asm!(
            "{word} = *(u64 *)({input} + 0)",
            "{v3} ^= {word}",
            round!(),
            round!(),
            "{v0} ^= {word}",
            v0 = inout(reg) v0,
            v1 = inout(reg) v1,
            v2 = inout(reg) v2,
            v3 = inout(reg) v3,
            word = out(reg) _,
            t = out(reg) _,
            input = in(reg) &raw const input[at],
            options(pure, readonly, nostack)
        );
    }
    [v0, v1, v2, v3]
}
