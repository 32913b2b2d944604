//! The compression function of SHA-256 (FIPS 180-4, 6.2.2), by the instruction.
//!
//! Eight variables and what a round needs are more than the ten registers of BPF. Of the variables, `c`, `d` and `h`
//! are wanted once in a round at most: they stay in memory, where the last four values of `a` and of `e` are kept, and
//! the majority needs but where `b` and `c` differ, which the round before knows. The schedule is expanded between
//! the rounds, which leave units of the processor idle.
//!
//! | register | holds |
//! |---|---|
//! | 0 | the address of the schedule's word of the first round |
//! | 1, 2, 3 | `a`, `b` and the sum that becomes `a`, changing places each round |
//! | 4, 5, 6 | `e`, `f`, `g`, changing places each round |
//! | 7, 8 | where `b` and `c` differ, and one to work in, changing places each round |
//! | 9 | to work in |

use core::arch::asm;

use tcpauth_common::mac::sha256::{K, Schedule};

/// Where in the schedule, which has room behind its 64 words, the last four values of `a` and of `e` are.
const A_HISTORY: usize = 64;
const E_HISTORY: usize = 68;

/// What goes from round to round in registers.
#[derive(Clone, Copy)]
struct Variables {
    a: u32,
    b: u32,
    e: u32,
    f: u32,
    g: u32,
    /// Where `b` and `c` differ.
    differ: u32,
}

/// Mixes the block in the first 16 words of `schedule` into `state`.
#[inline(always)]
pub fn compress(state: &mut [u32; 8], schedule: &mut Schedule) {
    let mut i = 0;
    while i < 4 {
        schedule[A_HISTORY + i] = state[3 - i];
        schedule[E_HISTORY + i] = state[7 - i];
        i += 1;
    }
    let [a, b, c, _, e, f, g, _] = *state;
    let v = Variables { a, b, e, f, g, differ: b ^ c };
    let v = sixteen_rounds::<0>(v, schedule);
    let v = sixteen_rounds::<16>(v, schedule);
    let v = sixteen_rounds::<32>(v, schedule);
    sixteen_rounds::<48>(v, schedule);
    let mut i = 0;
    while i < 4 {
        state[3 - i] = state[3 - i].wrapping_add(schedule[A_HISTORY + i]);
        state[7 - i] = state[7 - i].wrapping_add(schedule[E_HISTORY + i]);
        i += 1;
    }
}

/// The word 16 further on, from this one and those 1, 9 and 14 further on. The upper half of a register is used to
/// rotate: see [`round`].
macro_rules! expand {
    ($w0:literal $w1:literal $w9:literal $w14:literal $w16:literal, $x:literal $t:literal) => {
        concat!(
            "w9 = *(u32 *)(r0 + ",
            $w1,
            ")\n",
            "r",
            $t,
            " = r9\n",
            "r",
            $t,
            " <<= 32\n",
            "r",
            $t,
            " |= r9\n",
            "w9 >>= 3\n",
            "r",
            $t,
            " >>= 7\n",
            "w9 ^= w",
            $t,
            "\n",
            "r",
            $t,
            " >>= 11\n",
            "w9 ^= w",
            $t,
            "\n",
            "w",
            $x,
            " = *(u32 *)(r0 + ",
            $w0,
            ")\n",
            "w9 += w",
            $x,
            "\n",
            "w",
            $x,
            " = *(u32 *)(r0 + ",
            $w9,
            ")\n",
            "w9 += w",
            $x,
            "\n",
            "w",
            $x,
            " = *(u32 *)(r0 + ",
            $w14,
            ")\n",
            "r",
            $t,
            " = r",
            $x,
            "\n",
            "r",
            $t,
            " <<= 32\n",
            "r",
            $t,
            " |= r",
            $x,
            "\n",
            "w",
            $x,
            " >>= 10\n",
            "r",
            $t,
            " >>= 17\n",
            "w",
            $x,
            " ^= w",
            $t,
            "\n",
            "r",
            $t,
            " >>= 2\n",
            "w",
            $x,
            " ^= w",
            $t,
            "\n",
            "w9 += w",
            $x,
            "\n",
            "*(u32 *)(r0 + ",
            $w16,
            ") = w9",
        )
    };
}

/// No word is needed any more.
macro_rules! expand_no_more {
    ($($offset:literal)*, $($register:literal)*) => {
        ""
    };
}

/// A round with the word at offset `w` and the constant `k`; `a4` and `e4` are the offsets where `d` and `h` are, and
/// where the new `a` and `e` go.
macro_rules! round {
    (
        $w:literal $k:literal $a4:literal $e4:literal,
        $a:literal $b:literal $x:literal, $e:literal $f:literal $g:literal, $differ:literal $t:literal
    ) => {
        concat!(
            // h + word + constant
            "w",
            $x,
            " = *(u32 *)(r0 + ",
            $w,
            ")\n",
            "w",
            $x,
            " += ",
            $k,
            "\n",
            "w9 = *(u32 *)(r0 + ",
            $e4,
            ")\n",
            "w",
            $x,
            " += w9\n",
            // Ch(e, f, g)
            "w9 = w",
            $f,
            "\n",
            "w9 ^= w",
            $g,
            "\n",
            "w9 &= w",
            $e,
            "\n",
            "w9 ^= w",
            $g,
            "\n",
            "w",
            $x,
            " += w9\n",
            "w",
            $g,
            " = *(u32 *)(r0 + ",
            $a4,
            ")\n",
            // Sum 1 of e, which is put into both halves: shifted, the lower one is rotated
            "r",
            $t,
            " = r",
            $e,
            "\n",
            "r",
            $t,
            " <<= 32\n",
            "r",
            $t,
            " |= r",
            $e,
            "\n",
            "r",
            $t,
            " >>= 6\n",
            "r9 = r",
            $t,
            "\n",
            "r",
            $t,
            " >>= 5\n",
            "r9 ^= r",
            $t,
            "\n",
            "r",
            $t,
            " >>= 14\n",
            "r9 ^= r",
            $t,
            "\n",
            "w",
            $x,
            " += w9\n",
            // d + all this
            "w",
            $g,
            " += w",
            $x,
            "\n",
            "*(u32 *)(r0 + ",
            $e4,
            ") = w",
            $g,
            "\n",
            // Sum 0 of a
            "r",
            $t,
            " = r",
            $a,
            "\n",
            "r",
            $t,
            " <<= 32\n",
            "r",
            $t,
            " |= r",
            $a,
            "\n",
            "r",
            $t,
            " >>= 2\n",
            "r9 = r",
            $t,
            "\n",
            "r",
            $t,
            " >>= 11\n",
            "r9 ^= r",
            $t,
            "\n",
            "r",
            $t,
            " >>= 9\n",
            "r9 ^= r",
            $t,
            "\n",
            "w",
            $x,
            " += w9\n",
            // Maj(a, b, c)
            "w",
            $t,
            " = w",
            $a,
            "\n",
            "w",
            $t,
            " ^= w",
            $b,
            "\n",
            "w",
            $differ,
            " &= w",
            $t,
            "\n",
            "w",
            $differ,
            " ^= w",
            $b,
            "\n",
            "w",
            $x,
            " += w",
            $differ,
            "\n",
            "*(u32 *)(r0 + ",
            $a4,
            ") = w",
            $x,
        )
    };
}

/// The rounds from number `FIRST` on, and the expansion of the words 16 further on.
#[inline(always)]
fn sixteen_rounds<const FIRST: usize>(v: Variables, schedule: &mut Schedule) -> Variables {
    let Variables { mut a, mut b, mut e, mut f, mut g, mut differ } = v;
    macro_rules! rounds {
        ($expand:ident) => {
            // SAFETY: reads and writes the schedule, 30 words further on than `FIRST` at most, and the histories.
            unsafe {
                asm!(
                    $expand!("0" "4" "36" "56" "64", "3" "8"),
                    round!("0" "{k0}" "{a0}" "{e0}", "1" "2" "3", "4" "5" "6", "7" "8"),
                    $expand!("4" "8" "40" "60" "68", "2" "7"),
                    round!("4" "{k1}" "{a1}" "{e1}", "3" "1" "2", "6" "4" "5", "8" "7"),
                    $expand!("8" "12" "44" "64" "72", "1" "8"),
                    round!("8" "{k2}" "{a2}" "{e2}", "2" "3" "1", "5" "6" "4", "7" "8"),
                    $expand!("12" "16" "48" "68" "76", "3" "7"),
                    round!("12" "{k3}" "{a3}" "{e3}", "1" "2" "3", "4" "5" "6", "8" "7"),
                    $expand!("16" "20" "52" "72" "80", "2" "8"),
                    round!("16" "{k4}" "{a0}" "{e0}", "3" "1" "2", "6" "4" "5", "7" "8"),
                    $expand!("20" "24" "56" "76" "84", "1" "7"),
                    round!("20" "{k5}" "{a1}" "{e1}", "2" "3" "1", "5" "6" "4", "8" "7"),
                    $expand!("24" "28" "60" "80" "88", "3" "8"),
                    round!("24" "{k6}" "{a2}" "{e2}", "1" "2" "3", "4" "5" "6", "7" "8"),
                    $expand!("28" "32" "64" "84" "92", "2" "7"),
                    round!("28" "{k7}" "{a3}" "{e3}", "3" "1" "2", "6" "4" "5", "8" "7"),
                    $expand!("32" "36" "68" "88" "96", "1" "8"),
                    round!("32" "{k8}" "{a0}" "{e0}", "2" "3" "1", "5" "6" "4", "7" "8"),
                    $expand!("36" "40" "72" "92" "100", "3" "7"),
                    round!("36" "{k9}" "{a1}" "{e1}", "1" "2" "3", "4" "5" "6", "8" "7"),
                    $expand!("40" "44" "76" "96" "104", "2" "8"),
                    round!("40" "{k10}" "{a2}" "{e2}", "3" "1" "2", "6" "4" "5", "7" "8"),
                    $expand!("44" "48" "80" "100" "108", "1" "7"),
                    round!("44" "{k11}" "{a3}" "{e3}", "2" "3" "1", "5" "6" "4", "8" "7"),
                    $expand!("48" "52" "84" "104" "112", "3" "8"),
                    round!("48" "{k12}" "{a0}" "{e0}", "1" "2" "3", "4" "5" "6", "7" "8"),
                    $expand!("52" "56" "88" "108" "116", "2" "7"),
                    round!("52" "{k13}" "{a1}" "{e1}", "3" "1" "2", "6" "4" "5", "8" "7"),
                    $expand!("56" "60" "92" "112" "120", "1" "8"),
                    round!("56" "{k14}" "{a2}" "{e2}", "2" "3" "1", "5" "6" "4", "7" "8"),
                    $expand!("60" "64" "96" "116" "124", "3" "7"),
                    round!("60" "{k15}" "{a3}" "{e3}", "1" "2" "3", "4" "5" "6", "8" "7"),
                    in("r0") &raw mut schedule[FIRST],
                    inlateout("w1") a => b,
                    inlateout("w2") b => _,
                    lateout("w3") a,
                    inlateout("w4") e => f,
                    inlateout("w5") f => g,
                    inlateout("w6") g => e,
                    inlateout("w7") differ,
                    out("w8") _,
                    out("w9") _,
                    k0 = const K[FIRST + 0] as i32,
                    k1 = const K[FIRST + 1] as i32,
                    k2 = const K[FIRST + 2] as i32,
                    k3 = const K[FIRST + 3] as i32,
                    k4 = const K[FIRST + 4] as i32,
                    k5 = const K[FIRST + 5] as i32,
                    k6 = const K[FIRST + 6] as i32,
                    k7 = const K[FIRST + 7] as i32,
                    k8 = const K[FIRST + 8] as i32,
                    k9 = const K[FIRST + 9] as i32,
                    k10 = const K[FIRST + 10] as i32,
                    k11 = const K[FIRST + 11] as i32,
                    k12 = const K[FIRST + 12] as i32,
                    k13 = const K[FIRST + 13] as i32,
                    k14 = const K[FIRST + 14] as i32,
                    k15 = const K[FIRST + 15] as i32,
                    a0 = const (A_HISTORY + 0 - FIRST) * 4,
                    a1 = const (A_HISTORY + 1 - FIRST) * 4,
                    a2 = const (A_HISTORY + 2 - FIRST) * 4,
                    a3 = const (A_HISTORY + 3 - FIRST) * 4,
                    e0 = const (E_HISTORY + 0 - FIRST) * 4,
                    e1 = const (E_HISTORY + 1 - FIRST) * 4,
                    e2 = const (E_HISTORY + 2 - FIRST) * 4,
                    e3 = const (E_HISTORY + 3 - FIRST) * 4,
                    options(nostack)
                )
            }
        };
    }
    if FIRST < 48 {
        rounds!(expand);
    } else {
        rounds!(expand_no_more);
    }
    Variables { a, b, e, f, g, differ }
}
