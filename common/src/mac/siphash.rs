//! SipHash-2-4 with an output of 128 bits (Aumasson and Bernstein, 2012; the output as in their reference code).
//!
//! The input counts as little-endian words of 8 octets; the last one, which is partial or empty, ends with the
//! input's length modulo 256.

use super::{INPUT_WORDS, Workspace};
use crate::layout::KeyMaterial;

/// The four variables.
pub type Variables = [u64; 4];

/// SipHash words in one step.
const WORDS_PER_STEP: u32 = 16;

/// Largest index of a SipHash word in the input; a mask too.
const LAST_WORD: u32 = INPUT_WORDS as u32 / 2 - 1;

/// The four variables, keyed, before the first word. The key is cut or zero-padded to 16 octets.
pub(super) fn prepare(key: &[u8]) -> KeyMaterial {
    let mut octets = [0; 16];
    for (to, &from) in octets.iter_mut().zip(key) {
        *to = from;
    }
    let key = u128::from_le_bytes(octets);
    let (k0, k1) = (key as u64, (key >> 64) as u64);
    let v = [
        k0 ^ 0x736f_6d65_7073_6575,
        // 0xee is for the output of 128 bits.
        k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut material = KeyMaterial::default();
    for (halves, word) in material.words.as_chunks_mut::<2>().0.iter_mut().zip(v) {
        *halves = [word as u32, (word >> 32) as u32];
    }
    material
}

#[inline(always)]
pub(super) fn start(ws: &mut Workspace, len: u32) -> u32 {
    let mut i = 0;
    while i < 8 {
        ws.state[i] = ws.key.words[i];
        i += 1;
    }
    let words = ((len >> 3) & LAST_WORD) + 1;
    end_input(ws, len);
    ws.blocks = words;
    words.div_ceil(WORDS_PER_STEP)
}

#[inline(always)]
pub(super) fn step(
    ws: &mut Workspace,
    index: u32,
    absorb: impl Fn(Variables, &[u32; INPUT_WORDS], usize) -> Variables,
) {
    let first = (index & (LAST_WORD / WORDS_PER_STEP)) * WORDS_PER_STEP;
    let left = ws.blocks.saturating_sub(first);
    let mut v = variables(ws);
    let mut i = 0;
    while i < WORDS_PER_STEP {
        if i < left {
            v = absorb(v, &ws.input, (first + i) as usize * 2);
        }
        i += 1;
    }
    let mut i = 0;
    while i < 4 {
        ws.state[2 * i] = v[i] as u32;
        ws.state[2 * i + 1] = (v[i] >> 32) as u32;
        i += 1;
    }
}

/// Mixes the word of 8 octets at index `at` of `input` into the variables.
///
/// The eBPF programs have their own, in assembly.
#[inline(always)]
pub(super) fn absorb(mut v: Variables, input: &[u32; INPUT_WORDS], at: usize) -> Variables {
    let word = joined(input[at], input[at + 1]);
    v[3] ^= word;
    v = round(round(v));
    v[0] ^= word;
    v
}

#[inline(always)]
pub(super) fn finish(ws: &mut Workspace) {
    let mut v = variables(ws);
    v[2] ^= 0xee;
    v = round(round(round(round(v))));
    let lower = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    v = round(round(round(round(v))));
    let upper = v[0] ^ v[1] ^ v[2] ^ v[3];
    ws.mac = [
        (lower as u32).to_le(),
        ((lower >> 32) as u32).to_le(),
        (upper as u32).to_le(),
        ((upper >> 32) as u32).to_le(),
    ];
}

/// Makes the octets behind the input its last word: zeros, and the length modulo 256 in the upmost octet.
#[inline(always)]
fn end_input(ws: &mut Workspace, len: u32) {
    let word = (len >> 2) & (INPUT_WORDS as u32 - 1);
    let kept = u32::from_le(ws.input[word as usize]) & !(u32::MAX << ((len & 3) * 8));
    ws.input[word as usize] = kept.to_le();
    let last = word | 1;
    let kept = if word == last { kept } else { 0 };
    ws.input[last as usize] = (kept | (len << 24)).to_le();
}

#[inline(always)]
fn variables(ws: &Workspace) -> Variables {
    let s = &ws.state;
    [value(s[0], s[1]), value(s[2], s[3]), value(s[4], s[5]), value(s[6], s[7])]
}

/// Two words of the input as one: on little-endian machines a single load.
#[inline(always)]
fn joined(first: u32, second: u32) -> u64 {
    value(u32::from_le(first), u32::from_le(second))
}

#[inline(always)]
fn value(lower: u32, upper: u32) -> u64 {
    (lower as u64) | ((upper as u64) << 32)
}

/// SipRound.
#[inline(always)]
fn round([mut v0, mut v1, mut v2, mut v3]: Variables) -> Variables {
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}
