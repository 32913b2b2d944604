//! The compression function of SHA-1 (FIPS 180-4, 6.1.2).

/// Initial hash value; the last three words are not used.
pub(super) const INITIAL: [u32; 8] =
    [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0, 0, 0, 0];

/// The message schedule: pairs of words, the first in the upper half, so that two are expanded at a time.
pub type Schedule = [u64; 40];

/// Two words as they are in a [`Schedule`].
#[inline(always)]
pub(super) fn pair(first: u32, second: u32) -> u64 {
    ((first as u64) << 32) | second as u64
}

/// Mixes the block in the first 8 pairs of `schedule` into the first 5 words of `state`.
///
/// The eBPF programs have their own, in assembly.
#[inline(always)]
pub(super) fn compress(state: &mut [u32; 8], schedule: &mut Schedule) {
    let mut k = 8;
    while k < 16 {
        let shifted = (schedule[k - 2] << 32) | (schedule[k - 1] >> 32);
        schedule[k] = rotate_left::<1>(shifted ^ schedule[k - 4] ^ schedule[k - 7] ^ schedule[k - 8]);
        k += 1;
    }
    // The recurrence applied twice: no pair is put together from two any more.
    while k < 40 {
        schedule[k] =
            rotate_left::<2>(schedule[k - 3] ^ schedule[k - 8] ^ schedule[k - 14] ^ schedule[k - 16]);
        k += 1;
    }
    let v = [state[0], state[1], state[2], state[3], state[4]];
    let v = twenty_rounds::<0>(v, schedule);
    let v = twenty_rounds::<1>(v, schedule);
    let v = twenty_rounds::<2>(v, schedule);
    let v = twenty_rounds::<3>(v, schedule);
    state[0] = state[0].wrapping_add(v[0]);
    state[1] = state[1].wrapping_add(v[1]);
    state[2] = state[2].wrapping_add(v[2]);
    state[3] = state[3].wrapping_add(v[3]);
    state[4] = state[4].wrapping_add(v[4]);
}

/// Both words of a pair, rotated.
#[inline(always)]
pub fn rotate_left<const BITS: u32>(pair: u64) -> u64 {
    let low = ((1 << BITS) - 1) * 0x0000_0001_0000_0001;
    ((pair << BITS) & !low) | ((pair >> (32 - BITS)) & low)
}

/// The rounds of a stage. Five of them bring each variable back to its place: no moves.
#[inline(always)]
fn twenty_rounds<const STAGE: usize>(v: [u32; 5], schedule: &Schedule) -> [u32; 5] {
    let [mut a, mut b, mut c, mut d, mut e] = v;
    let mut k = STAGE * 10;
    while k < STAGE * 10 + 10 {
        (e, b) = round::<STAGE>(a, b, c, d, e, first(schedule[k]));
        (d, a) = round::<STAGE>(e, a, b, c, d, second(schedule[k]));
        (c, e) = round::<STAGE>(d, e, a, b, c, first(schedule[k + 1]));
        (b, d) = round::<STAGE>(c, d, e, a, b, second(schedule[k + 1]));
        (a, c) = round::<STAGE>(b, c, d, e, a, first(schedule[k + 2]));
        (e, b) = round::<STAGE>(a, b, c, d, e, second(schedule[k + 2]));
        (d, a) = round::<STAGE>(e, a, b, c, d, first(schedule[k + 3]));
        (c, e) = round::<STAGE>(d, e, a, b, c, second(schedule[k + 3]));
        (b, d) = round::<STAGE>(c, d, e, a, b, first(schedule[k + 4]));
        (a, c) = round::<STAGE>(b, c, d, e, a, second(schedule[k + 4]));
        k += 5;
    }
    [a, b, c, d, e]
}

#[inline(always)]
fn first(pair: u64) -> u32 {
    (pair >> 32) as u32
}

#[inline(always)]
fn second(pair: u64) -> u32 {
    pair as u32
}

/// One round of a stage: the new `e` (which the next round calls `a`) and the new `b`.
#[inline(always)]
fn round<const STAGE: usize>(a: u32, b: u32, c: u32, d: u32, e: u32, word: u32) -> (u32, u32) {
    let (mixed, constant) = match STAGE {
        0 => (d ^ (b & (c ^ d)), 0x5a82_7999),
        1 => (b ^ c ^ d, 0x6ed9_eba1),
        2 => ((b & c) | (d & (b | c)), 0x8f1b_bcdc),
        _ => (b ^ c ^ d, 0xca62_c1d6u32),
    };
    let e = e.wrapping_add(constant).wrapping_add(word).wrapping_add(mixed).wrapping_add(a.rotate_left(5));
    (e, b.rotate_left(30))
}
