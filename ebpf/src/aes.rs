//! AES-128 encryption (FIPS 197) by table look-up, by the instruction.
//!
//! Old and new state, the addresses of tables and keys, and one register to work in are just what BPF has: the
//! compiler puts some of it on the stack, and it shifts twice to make an offset of an octet. Column by column, so
//! that the next round can begin with the first while the last is not done.

use core::arch::asm;

use tcpauth_common::mac::aes::{Schedule, TABLES};

/// A block of four big-endian words, each in a register of its own.
type Block = [u64; 4];

/// Encrypts a block of four big-endian words with the expanded key in `schedule`.
#[inline(always)]
pub fn encrypt(schedule: &Schedule, block: [u32; 4]) -> [u32; 4] {
    let block = [
        u64::from(block[0] ^ schedule[0]),
        u64::from(block[1] ^ schedule[1]),
        u64::from(block[2] ^ schedule[2]),
        u64::from(block[3] ^ schedule[3]),
    ];
    let block = round::<1>(block, schedule);
    let block = round::<2>(block, schedule);
    let block = round::<3>(block, schedule);
    let block = round::<4>(block, schedule);
    let block = round::<5>(block, schedule);
    let block = round::<6>(block, schedule);
    let block = round::<7>(block, schedule);
    let block = round::<8>(block, schedule);
    let block = round::<9>(block, schedule);
    let block = round::<10>(block, schedule);
    block.map(|word| word as u32)
}

/// Looks up the first (highest), second, third or fourth octet of the register `word`, and leaves what it adds to
/// its column in the register `to`. In the last round, that is SubBytes alone: the second octet of a table's entry.
#[rustfmt::skip]
macro_rules! octet {
    (mixed 1 $to:literal $word:literal) => { octet!($to $word ">>= 22" "*(u32 *)(" "+ 0)") };
    (mixed 2 $to:literal $word:literal) => { octet!($to $word ">>= 14" "*(u32 *)(" "+ 0x400)") };
    (mixed 3 $to:literal $word:literal) => { octet!($to $word ">>= 6" "*(u32 *)(" "+ 0x800)") };
    (mixed 4 $to:literal $word:literal) => { octet!($to $word "<<= 2" "*(u32 *)(" "+ 0xc00)") };
    (last 1 $to:literal $word:literal) => {
        concat!(octet!($to $word ">>= 22" "*(u8 *)(" "+ 1)"), "\n", $to, " <<= 24")
    };
    (last 2 $to:literal $word:literal) => {
        concat!(octet!($to $word ">>= 14" "*(u8 *)(" "+ 1)"), "\n", $to, " <<= 16")
    };
    (last 3 $to:literal $word:literal) => {
        concat!(octet!($to $word ">>= 6" "*(u8 *)(" "+ 1)"), "\n", $to, " <<= 8")
    };
    (last 4 $to:literal $word:literal) => { octet!($to $word "<<= 2" "*(u8 *)(" "+ 1)") };
    ($to:literal $word:literal $shift:literal $load:literal $offset:literal) => {
        concat!(
            $to, " = ", $word, "\n",
            $to, " ", $shift, "\n",
            $to, " &= 0x3fc\n",
            $to, " += {tables}\n",
            $to, " = ", $load, $to, $offset
        )
    };
}

/// Round `ROUND`: SubBytes, ShiftRows, MixColumns (but in the last) and AddRoundKey.
#[inline(always)]
fn round<const ROUND: usize>([mut s0, s1, s2, s3]: Block, schedule: &Schedule) -> Block {
    let (t0, t1, t2): (u64, u64, u64);
    macro_rules! columns {
        ($kind:tt) => {
            // SAFETY: reads the tables, at offsets that are masked, and round keys.
            unsafe {
                asm!(
                    "{t0} = *(u32 *)({schedule} + {key0})",
                    octet!($kind 1 "{x}" "{s0}"),
                    "{t0} ^= {x}",
                    octet!($kind 2 "{x}" "{s1}"),
                    "{t0} ^= {x}",
                    octet!($kind 3 "{x}" "{s2}"),
                    "{t0} ^= {x}",
                    octet!($kind 4 "{x}" "{s3}"),
                    "{t0} ^= {x}",
                    "{t1} = *(u32 *)({schedule} + {key1})",
                    octet!($kind 4 "{x}" "{s0}"),
                    "{t1} ^= {x}",
                    octet!($kind 1 "{x}" "{s1}"),
                    "{t1} ^= {x}",
                    octet!($kind 2 "{x}" "{s2}"),
                    "{t1} ^= {x}",
                    octet!($kind 3 "{x}" "{s3}"),
                    "{t1} ^= {x}",
                    "{t2} = *(u32 *)({schedule} + {key2})",
                    octet!($kind 3 "{x}" "{s0}"),
                    "{t2} ^= {x}",
                    octet!($kind 4 "{x}" "{s1}"),
                    "{t2} ^= {x}",
                    octet!($kind 1 "{x}" "{s2}"),
                    "{t2} ^= {x}",
                    octet!($kind 2 "{x}" "{s3}"),
                    "{t2} ^= {x}",
                    // The last column goes where the first word was.
                    octet!($kind 2 "{x}" "{s0}"),
                    "{s0} = *(u32 *)({schedule} + {key3})",
                    "{s0} ^= {x}",
                    octet!($kind 3 "{x}" "{s1}"),
                    "{s0} ^= {x}",
                    octet!($kind 4 "{x}" "{s2}"),
                    "{s0} ^= {x}",
                    octet!($kind 1 "{x}" "{s3}"),
                    "{s0} ^= {x}",
                    s0 = inout(reg) s0,
                    s1 = in(reg) s1,
                    s2 = in(reg) s2,
                    s3 = in(reg) s3,
                    t0 = out(reg) t0,
                    t1 = out(reg) t1,
                    t2 = out(reg) t2,
                    x = out(reg) _,
                    tables = in(reg) &TABLES,
                    schedule = in(reg) schedule,
                    key0 = const ROUND * 16,
                    key1 = const ROUND * 16 + 4,
                    key2 = const ROUND * 16 + 8,
                    key3 = const ROUND * 16 + 12,
                    options(pure, readonly, nostack)
                )
            }
        };
    }
    if ROUND < 10 {
        columns!(mixed);
    } else {
        columns!(last);
    }
    [t0, t1, t2, s0]
}
