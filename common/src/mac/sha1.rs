//! The compression function of SHA-1 (FIPS 180-4, 6.1.2).

/// Initial hash value; the last three words are not used.
pub(super) const INITIAL: [u32; 8] =
    [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0, 0, 0, 0];

/// Mixes the block in the first 16 words of `schedule` into the first 5 words of `state`.
///
/// The schedule is expanded before the rounds, not between them: the five variables and what a round needs
/// just fit the ten registers of BPF, and anything more goes to the stack in the middle of the chain.
#[inline(always)]
pub(super) fn compress(state: &mut [u32; 8], schedule: &mut [u32; 80]) {
    let mut t = 16;
    while t < 80 {
        expand(schedule, t);
        expand(schedule, t + 1);
        expand(schedule, t + 2);
        expand(schedule, t + 3);
        t += 4;
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

/// Word `t` of the message schedule, 16 to 79.
#[inline(always)]
fn expand(schedule: &mut [u32; 80], t: usize) {
    schedule[t] = (schedule[t - 3] ^ schedule[t - 8] ^ schedule[t - 14] ^ schedule[t - 16]).rotate_left(1);
}

/// The rounds of a stage. Five of them bring each variable back to its place: no moves.
#[inline(always)]
fn twenty_rounds<const STAGE: usize>(v: [u32; 5], schedule: &[u32; 80]) -> [u32; 5] {
    let [mut a, mut b, mut c, mut d, mut e] = v;
    let mut t = STAGE * 20;
    while t < STAGE * 20 + 20 {
        (e, b) = round::<STAGE>(a, b, c, d, e, schedule[t]);
        (d, a) = round::<STAGE>(e, a, b, c, d, schedule[t + 1]);
        (c, e) = round::<STAGE>(d, e, a, b, c, schedule[t + 2]);
        (b, d) = round::<STAGE>(c, d, e, a, b, schedule[t + 3]);
        (a, c) = round::<STAGE>(b, c, d, e, a, schedule[t + 4]);
        t += 5;
    }
    [a, b, c, d, e]
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
