//! The compression function of SHA-1 (FIPS 180-4, 6.1.2).

/// Initial hash value; the last three words are not used.
pub(super) const INITIAL: [u32; 8] =
    [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0, 0, 0, 0];

/// Mixes the block in the first 16 words of `schedule` into the first 5 words of `state`.
#[inline(always)]
pub(super) fn compress(state: &mut [u32; 8], schedule: &mut [u32; 80]) {
    let mut v = [state[0], state[1], state[2], state[3], state[4]];
    // Five rounds bring each variable back to its place: no moves.
    let mut t = 0;
    while t < 15 {
        v = five_rounds::<0>(v, schedule, t);
        t += 5;
    }
    // Round 15 is the last one whose word is given; the four after it expand.
    v = five_rounds_expanding::<0>(v, schedule, 15);
    t = 20;
    while t < 40 {
        v = five_rounds_expanding::<1>(v, schedule, t);
        t += 5;
    }
    while t < 60 {
        v = five_rounds_expanding::<2>(v, schedule, t);
        t += 5;
    }
    while t < 80 {
        v = five_rounds_expanding::<3>(v, schedule, t);
        t += 5;
    }
    state[0] = state[0].wrapping_add(v[0]);
    state[1] = state[1].wrapping_add(v[1]);
    state[2] = state[2].wrapping_add(v[2]);
    state[3] = state[3].wrapping_add(v[3]);
    state[4] = state[4].wrapping_add(v[4]);
}

#[inline(always)]
fn five_rounds<const STAGE: u8>([a, b, c, d, e]: [u32; 5], schedule: &[u32; 80], t: usize) -> [u32; 5] {
    let (e, b) = round::<STAGE>(a, b, c, d, e, schedule[t]);
    let (d, a) = round::<STAGE>(e, a, b, c, d, schedule[t + 1]);
    let (c, e) = round::<STAGE>(d, e, a, b, c, schedule[t + 2]);
    let (b, d) = round::<STAGE>(c, d, e, a, b, schedule[t + 3]);
    let (a, c) = round::<STAGE>(b, c, d, e, a, schedule[t + 4]);
    [a, b, c, d, e]
}

#[inline(always)]
fn five_rounds_expanding<const STAGE: u8>(
    [a, b, c, d, e]: [u32; 5],
    schedule: &mut [u32; 80],
    t: usize,
) -> [u32; 5] {
    let first = if t < 16 { schedule[t] } else { expand(schedule, t) };
    let (e, b) = round::<STAGE>(a, b, c, d, e, first);
    let (d, a) = round::<STAGE>(e, a, b, c, d, expand(schedule, t + 1));
    let (c, e) = round::<STAGE>(d, e, a, b, c, expand(schedule, t + 2));
    let (b, d) = round::<STAGE>(c, d, e, a, b, expand(schedule, t + 3));
    let (a, c) = round::<STAGE>(b, c, d, e, a, expand(schedule, t + 4));
    [a, b, c, d, e]
}

/// Word `t` of the message schedule, 16 to 79.
#[inline(always)]
fn expand(schedule: &mut [u32; 80], t: usize) -> u32 {
    let word = (schedule[t - 3] ^ schedule[t - 8] ^ schedule[t - 14] ^ schedule[t - 16]).rotate_left(1);
    schedule[t] = word;
    word
}

/// One round of a stage: the new `e` (which the next round calls `a`) and the new `b`.
#[inline(always)]
fn round<const STAGE: u8>(a: u32, b: u32, c: u32, d: u32, e: u32, word: u32) -> (u32, u32) {
    let (mixed, constant) = match STAGE {
        0 => (d ^ (b & (c ^ d)), 0x5a82_7999),
        1 => (b ^ c ^ d, 0x6ed9_eba1),
        2 => ((b & c) | (d & (b | c)), 0x8f1b_bcdc),
        _ => (b ^ c ^ d, 0xca62_c1d6u32),
    };
    let e = e.wrapping_add(constant).wrapping_add(word).wrapping_add(mixed).wrapping_add(a.rotate_left(5));
    (e, b.rotate_left(30))
}
