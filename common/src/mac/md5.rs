//! MD5 (RFC 1321), keyed as RFC 2385 does it: by a password at the end of the input.

use super::{BLOCK_WORDS, INPUT_WORDS, LAST_BLOCK, Workspace, pad};
use crate::layout::KeyMaterial;

/// Longest password, octets: that of Linux (TCP_MD5SIG_MAXKEYLEN).
pub const MAX_PASSWORD: usize = 80;

/// Initial state (RFC 1321 §3.3).
const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Integer part of 2^32 times the absolute sine of 1 to 64 (RFC 1321 §3.4).
#[rustfmt::skip]
const K: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// Rotations of each stage's four rounds.
const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// A password as the `send` and `recv` of a [`KeySlot`](crate::layout::KeySlot) hold it together: its length in octets
/// as the first word, then its octets as they lie in memory. Cut to [`MAX_PASSWORD`] octets.
pub fn password(octets: &[u8]) -> [KeyMaterial; 2] {
    let mut words = [0; 32];
    let octets = &octets[..octets.len().min(MAX_PASSWORD)];
    words[0] = octets.len() as u32;
    for (word, octets) in words[1..].iter_mut().zip(octets.chunks(4)) {
        let mut four = [0; 4];
        four[..octets.len()].copy_from_slice(octets);
        *word = u32::from_ne_bytes(four);
    }
    let mut materials = [KeyMaterial::default(); 2];
    for (material, words) in materials.iter_mut().zip(words.as_chunks::<16>().0) {
        material.words = *words;
    }
    materials
}

#[inline(always)]
pub(super) fn start(ws: &mut Workspace, len: u32) -> u32 {
    let mut i = 0;
    while i < 4 {
        ws.state[i] = INITIAL[i];
        i += 1;
    }
    let blocks = pad(ws, len);
    ws.input[(blocks * BLOCK_WORDS).wrapping_sub(2) as usize & (INPUT_WORDS - 1)] = (len << 3).to_le();
    ws.blocks = blocks;
    blocks
}

#[inline(always)]
pub(super) fn step(ws: &mut Workspace, index: u32) {
    let base = ((index & LAST_BLOCK) * BLOCK_WORDS) as usize;
    let mut v = [ws.state[0], ws.state[1], ws.state[2], ws.state[3]];
    v = four_rounds::<0>(v, ws, base);
    v = four_rounds::<4>(v, ws, base);
    v = four_rounds::<8>(v, ws, base);
    v = four_rounds::<12>(v, ws, base);
    v = four_rounds::<16>(v, ws, base);
    v = four_rounds::<20>(v, ws, base);
    v = four_rounds::<24>(v, ws, base);
    v = four_rounds::<28>(v, ws, base);
    v = four_rounds::<32>(v, ws, base);
    v = four_rounds::<36>(v, ws, base);
    v = four_rounds::<40>(v, ws, base);
    v = four_rounds::<44>(v, ws, base);
    v = four_rounds::<48>(v, ws, base);
    v = four_rounds::<52>(v, ws, base);
    v = four_rounds::<56>(v, ws, base);
    v = four_rounds::<60>(v, ws, base);
    let mut i = 0;
    while i < 4 {
        ws.state[i] = ws.state[i].wrapping_add(v[i]);
        i += 1;
    }
}

#[inline(always)]
pub(super) fn finish(ws: &mut Workspace) {
    let mut i = 0;
    while i < 4 {
        ws.mac[i] = ws.state[i].to_le();
        i += 1;
    }
}

/// Rounds `T` to `T + 3` of 64 on the block whose first word is number `base` of the input. Four of them bring each
/// variable back to its place: no moves.
#[inline(always)]
fn four_rounds<const T: usize>([a, b, c, d]: [u32; 4], ws: &Workspace, base: usize) -> [u32; 4] {
    let a = round(T, a, b, c, d, ws.input[base + word_of_round(T)]);
    let d = round(T + 1, d, a, b, c, ws.input[base + word_of_round(T + 1)]);
    let c = round(T + 2, c, d, a, b, ws.input[base + word_of_round(T + 2)]);
    let b = round(T + 3, b, c, d, a, ws.input[base + word_of_round(T + 3)]);
    [a, b, c, d]
}

/// Round `t`: the new `a`.
#[inline(always)]
fn round(t: usize, a: u32, b: u32, c: u32, d: u32, word: u32) -> u32 {
    let mixed = match t / 16 {
        0 => d ^ (b & (c ^ d)),
        1 => c ^ (d & (b ^ c)),
        2 => b ^ c ^ d,
        _ => c ^ (b | !d),
    };
    let sum = a.wrapping_add(mixed).wrapping_add(u32::from_le(word)).wrapping_add(K[t]);
    b.wrapping_add(sum.rotate_left(SHIFTS[t / 16][t % 4]))
}

/// Which of a block's sixteen words goes into round `t`.
#[inline(always)]
const fn word_of_round(t: usize) -> usize {
    match t / 16 {
        0 => t % 16,
        1 => (5 * t + 1) % 16,
        2 => (3 * t + 5) % 16,
        _ => 7 * t % 16,
    }
}
