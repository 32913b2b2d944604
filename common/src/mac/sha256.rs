//! The compression function of SHA-256 (FIPS 180-4, 6.2.2).

/// Initial hash value.
pub(super) const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The message schedule, in the first 64 words, and room to work in.
pub type Schedule = [u32; 80];

/// Round constants.
#[rustfmt::skip]
pub const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Mixes the block in the first 16 words of `schedule` into `state`.
///
/// The eBPF programs have their own, in assembly.
#[inline(always)]
pub(super) fn compress(state: &mut [u32; 8], schedule: &mut Schedule) {
    let mut t = 16;
    while t < 64 {
        let (w2, w15) = (schedule[t - 2], schedule[t - 15]);
        let s0 = w15.rotate_right(7) ^ w15.rotate_right(18) ^ (w15 >> 3);
        let s1 = w2.rotate_right(17) ^ w2.rotate_right(19) ^ (w2 >> 10);
        schedule[t] = schedule[t - 16].wrapping_add(s0).wrapping_add(schedule[t - 7]).wrapping_add(s1);
        t += 1;
    }
    let mut v = *state;
    t = 0;
    while t < 64 {
        v = eight_rounds(v, schedule, t);
        t += 8;
    }
    let mut i = 0;
    while i < 8 {
        state[i] = state[i].wrapping_add(v[i]);
        i += 1;
    }
}

/// Eight rounds bring each variable back to its place: no moves.
#[inline(always)]
fn eight_rounds([a, b, c, d, e, f, g, h]: [u32; 8], schedule: &Schedule, t: usize) -> [u32; 8] {
    let (d, h) = round(a, b, c, d, e, f, g, h, schedule, t);
    let (c, g) = round(h, a, b, c, d, e, f, g, schedule, t + 1);
    let (b, f) = round(g, h, a, b, c, d, e, f, schedule, t + 2);
    let (a, e) = round(f, g, h, a, b, c, d, e, schedule, t + 3);
    let (h, d) = round(e, f, g, h, a, b, c, d, schedule, t + 4);
    let (g, c) = round(d, e, f, g, h, a, b, c, schedule, t + 5);
    let (f, b) = round(c, d, e, f, g, h, a, b, schedule, t + 6);
    let (e, a) = round(b, c, d, e, f, g, h, a, schedule, t + 7);
    [a, b, c, d, e, f, g, h]
}

/// Round `t`: the new `d` (which the next round calls `e`) and the new `h` (which it calls `a`).
#[expect(clippy::too_many_arguments, reason = "the eight variables of FIPS 180-4 and their word")]
#[inline(always)]
fn round(
    a: u32,
    b: u32,
    c: u32,
    d: u32,
    e: u32,
    f: u32,
    g: u32,
    h: u32,
    schedule: &Schedule,
    t: usize,
) -> (u32, u32) {
    let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
    let choice = g ^ (e & (f ^ g));
    let t1 = h.wrapping_add(K[t]).wrapping_add(schedule[t]).wrapping_add(choice).wrapping_add(sum1);
    let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
    let majority = (a & b) | (c & (a | b));
    (d.wrapping_add(t1), t1.wrapping_add(sum0).wrapping_add(majority))
}
