//! The compression function of SHA-1 (FIPS 180-4, 6.1.2), by the instruction.
//!
//! What a round needs fits the ten registers of BPF, but the compiler does not find it: it loads words early and has
//! to put the variables on the stack, and it adds the constant last, in the chain from one `e` to the next. The
//! schedule is expanded between the rounds, which leave units of the processor idle.

use core::arch::asm;

use tcpauth_common::mac::sha1::{Schedule, rotate_left};

/// The variables of FIPS 180-4.
type Variables = [u32; 5];

/// Mixes the block in the first 8 pairs of `schedule` into the first 5 words of `state`.
#[inline(always)]
pub fn compress(state: &mut [u32; 8], schedule: &mut Schedule) {
    let v = [state[0], state[1], state[2], state[3], state[4]];
    let v = ten_rounds::<0>(v, schedule);
    let v = ten_rounds::<5>(v, schedule);
    let v = ten_rounds::<10>(v, schedule);
    let v = ten_rounds::<15>(v, schedule);
    let v = ten_rounds::<20>(v, schedule);
    let v = ten_rounds::<25>(v, schedule);
    let v = ten_rounds::<30>(v, schedule);
    let v = ten_rounds::<35>(v, schedule);
    state[0] = state[0].wrapping_add(v[0]);
    state[1] = state[1].wrapping_add(v[1]);
    state[2] = state[2].wrapping_add(v[2]);
    state[3] = state[3].wrapping_add(v[3]);
    state[4] = state[4].wrapping_add(v[4]);
}

/// The rounds of five pairs of words, the first of which is number `PAIR`, and the expansion of the pairs eight
/// further on. Five rounds bring each variable back to its place.
#[inline(always)]
fn ten_rounds<const PAIR: usize>(
    [mut a, mut b, mut c, mut d, mut e]: Variables,
    schedule: &mut Schedule,
) -> Variables {
    (e, b) = round::<PAIR, 0>(a, b, c, d, e, schedule);
    (d, a) = round::<PAIR, 1>(e, a, b, c, d, schedule);
    expand::<PAIR, 0>(schedule);
    (c, e) = round::<PAIR, 2>(d, e, a, b, c, schedule);
    (b, d) = round::<PAIR, 3>(c, d, e, a, b, schedule);
    expand::<PAIR, 1>(schedule);
    (a, c) = round::<PAIR, 4>(b, c, d, e, a, schedule);
    (e, b) = round::<PAIR, 5>(a, b, c, d, e, schedule);
    expand::<PAIR, 2>(schedule);
    (d, a) = round::<PAIR, 6>(e, a, b, c, d, schedule);
    (c, e) = round::<PAIR, 7>(d, e, a, b, c, schedule);
    expand::<PAIR, 3>(schedule);
    (b, d) = round::<PAIR, 8>(c, d, e, a, b, schedule);
    (a, c) = round::<PAIR, 9>(b, c, d, e, a, schedule);
    expand::<PAIR, 4>(schedule);
    [a, b, c, d, e]
}

/// Round `2 * PAIR + NEXT`: the new `e` (which the next round calls `a`) and the new `b`.
#[inline(always)]
fn round<const PAIR: usize, const NEXT: usize>(
    a: u32,
    mut b: u32,
    c: u32,
    d: u32,
    mut e: u32,
    schedule: &Schedule,
) -> (u32, u32) {
    // The function of the stage is added to `e` by way of `t`.
    macro_rules! round {
        ($constant:literal, $($function:literal),*) => {
            // SAFETY: computes with registers, but for a word of the schedule, `PAIR` being below 36.
            unsafe {
                asm!(
                    "{t} = *(u32 *)({schedule} + {at})",
                    concat!("{e} += ", $constant),
                    "{e} += {t}",
                    $($function,)*
                    "{e} += {t}",
                    "{t} = {a}",
                    "{t} <<= 5",
                    "{u} = {a}",
                    "{u} >>= 27",
                    "{t} |= {u}",
                    "{e} += {t}",
                    "{u} = {b}",
                    "{u} <<= 30",
                    "{b} >>= 2",
                    "{b} |= {u}",
                    a = in(wreg) a,
                    b = inout(wreg) b,
                    c = in(wreg) c,
                    d = in(wreg) d,
                    e = inout(wreg) e,
                    t = out(wreg) _,
                    u = out(wreg) _,
                    schedule = in(reg) schedule,
                    // The first word of a pair is in its upper half.
                    at = const { (2 * PAIR + NEXT ^ 1) * 4 },
                    options(pure, readonly, nostack)
                )
            }
        };
    }
    match PAIR / 10 {
        0 => round!("0x5a827999", "{t} = {c}", "{t} ^= {d}", "{t} &= {b}", "{t} ^= {d}"),
        1 => round!("0x6ed9eba1", "{t} = {c}", "{t} ^= {d}", "{t} ^= {b}"),
        // Two summands that have no bit in common.
        2 => round!(
            "0x8f1bbcdc",
            "{t} = {c}",
            "{t} &= {d}",
            "{e} += {t}",
            "{t} = {c}",
            "{t} ^= {d}",
            "{t} &= {b}"
        ),
        _ => round!("0xca62c1d6", "{t} = {c}", "{t} ^= {d}", "{t} ^= {b}"),
    }
    (e, b)
}

/// Expands the pair that is eight further on than number `PAIR + NEXT`, if there is one.
#[inline(always)]
fn expand<const PAIR: usize, const NEXT: usize>(schedule: &mut Schedule) {
    let mut mixed: u64;
    if PAIR + NEXT < 8 {
        // SAFETY: reads pairs of the schedule, seven further on at most.
        unsafe {
            asm!(
                "{mixed} = *(u32 *)({schedule} + {at3})",
                "{mixed} <<= 32",
                "{t} = *(u32 *)({schedule} + {at2})",
                "{mixed} |= {t}",
                "{t} = *(u64 *)({schedule} + {at8})",
                "{mixed} ^= {t}",
                "{t} = *(u64 *)({schedule} + {at14})",
                "{mixed} ^= {t}",
                "{t} = *(u64 *)({schedule} + {at16})",
                "{mixed} ^= {t}",
                mixed = out(reg) mixed,
                t = out(reg) _,
                schedule = in(reg) schedule,
                at3 = const (PAIR + NEXT + 6) * 8,
                at2 = const (PAIR + NEXT + 7) * 8 + 4,
                at8 = const (PAIR + NEXT + 4) * 8,
                at14 = const (PAIR + NEXT + 1) * 8,
                at16 = const (PAIR + NEXT) * 8,
                options(pure, readonly, nostack)
            );
        }
        schedule[PAIR + NEXT + 8] = rotate_left::<1>(mixed);
    } else if PAIR + NEXT < 32 {
        // SAFETY: reads pairs of the schedule, five further on at most, eight back at most.
        unsafe {
            asm!(
                "{mixed} = *(u64 *)({schedule} + {at6})",
                "{t} = *(u64 *)({schedule} + {at16})",
                "{mixed} ^= {t}",
                "{t} = *(u64 *)({schedule} + {at28})",
                "{mixed} ^= {t}",
                "{t} = *(u64 *)({schedule} + {at32})",
                "{mixed} ^= {t}",
                mixed = out(reg) mixed,
                t = out(reg) _,
                schedule = in(reg) schedule,
                at6 = const (PAIR + NEXT + 5) * 8,
                at16 = const (PAIR + NEXT) * 8,
                at28 = const (PAIR + NEXT).saturating_sub(6) * 8,
                at32 = const (PAIR + NEXT).saturating_sub(8) * 8,
                options(pure, readonly, nostack)
            );
        }
        schedule[PAIR + NEXT + 8] = rotate_left::<2>(mixed);
    }
}
