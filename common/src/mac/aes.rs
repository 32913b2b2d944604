//! AES-128 encryption (FIPS 197) by table look-up: the eBPF instruction set has nothing better. The tables
//! are computed at compile time.

/// Words of the expanded key.
const ROUND_KEY_WORDS: usize = 44;

/// SubBytes.
static SBOX: [u8; 256] = sbox();

/// SubBytes and MixColumns of an octet in row 0, 1, 2 and 3 of a column.
pub static TABLES: [[u32; 256]; 4] = [table(0), table(8), table(16), table(24)];

/// The expanded key, in the first 44 words.
pub type Schedule = [u32; 80];

/// Expands the key (four big-endian words) into `schedule`.
#[inline(always)]
pub(super) fn expand_key(schedule: &mut Schedule, key: [u32; 4]) {
    let [mut w0, mut w1, mut w2, mut w3] = key;
    schedule[0] = w0;
    schedule[1] = w1;
    schedule[2] = w2;
    schedule[3] = w3;
    let mut constant = 1u32;
    let mut i = 4;
    while i < ROUND_KEY_WORDS {
        w0 ^= substitute(w3.rotate_left(8)) ^ (constant << 24);
        w1 ^= w0;
        w2 ^= w1;
        w3 ^= w2;
        schedule[i] = w0;
        schedule[i + 1] = w1;
        schedule[i + 2] = w2;
        schedule[i + 3] = w3;
        // Doubling in GF(2^8).
        constant = (constant << 1) ^ ((constant >> 7) * 0x11b);
        i += 4;
    }
}

/// Encrypts a block of four big-endian words with the expanded key in `schedule`.
#[inline(always)]
pub(super) fn encrypt(schedule: &Schedule, block: [u32; 4]) -> [u32; 4] {
    let mut s0 = block[0] ^ schedule[0];
    let mut s1 = block[1] ^ schedule[1];
    let mut s2 = block[2] ^ schedule[2];
    let mut s3 = block[3] ^ schedule[3];
    let mut i = 4;
    while i < ROUND_KEY_WORDS - 4 {
        let t0 = mix(s0, s1, s2, s3) ^ schedule[i];
        let t1 = mix(s1, s2, s3, s0) ^ schedule[i + 1];
        let t2 = mix(s2, s3, s0, s1) ^ schedule[i + 2];
        let t3 = mix(s3, s0, s1, s2) ^ schedule[i + 3];
        (s0, s1, s2, s3) = (t0, t1, t2, t3);
        i += 4;
    }
    last_round([s0, s1, s2, s3], schedule)
}

/// SubBytes, ShiftRows and AddRoundKey.
#[inline(always)]
fn last_round([s0, s1, s2, s3]: [u32; 4], schedule: &Schedule) -> [u32; 4] {
    [
        last(s0, s1, s2, s3) ^ schedule[40],
        last(s1, s2, s3, s0) ^ schedule[41],
        last(s2, s3, s0, s1) ^ schedule[42],
        last(s3, s0, s1, s2) ^ schedule[43],
    ]
}

/// A column of ShiftRows, SubBytes and MixColumns together.
#[inline(always)]
fn mix(a: u32, b: u32, c: u32, d: u32) -> u32 {
    TABLES[0][(a >> 24) as u8 as usize]
        ^ TABLES[1][(b >> 16) as u8 as usize]
        ^ TABLES[2][(c >> 8) as u8 as usize]
        ^ TABLES[3][d as u8 as usize]
}

/// A column of the last round, which has no MixColumns.
#[inline(always)]
fn last(a: u32, b: u32, c: u32, d: u32) -> u32 {
    ((SBOX[(a >> 24) as u8 as usize] as u32) << 24)
        | ((SBOX[(b >> 16) as u8 as usize] as u32) << 16)
        | ((SBOX[(c >> 8) as u8 as usize] as u32) << 8)
        | (SBOX[d as u8 as usize] as u32)
}

#[inline(always)]
fn substitute(word: u32) -> u32 {
    last(word, word, word, word)
}

/// The S-box: the inverse in GF(2^8), then the affine map of FIPS 197, 5.1.1.
const fn sbox() -> [u8; 256] {
    let mut sbox = [0; 256];
    // `p` runs through all units as powers of 3, and `q` through their inverses.
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p ^= double(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        if q & 0x80 != 0 {
            q ^= 0x09;
        }
        sbox[p as usize] =
            q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        if p == 1 {
            break;
        }
    }
    sbox[0] = 0x63;
    sbox
}

const fn table(rotation: u32) -> [u32; 256] {
    let sbox = sbox();
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let s = sbox[i];
        let column = u32::from_be_bytes([double(s), s, s, double(s) ^ s]);
        table[i] = column.rotate_right(rotation);
        i += 1;
    }
    table
}

/// Multiplication by x in GF(2^8).
const fn double(octet: u8) -> u8 {
    (octet << 1) ^ ((octet >> 7) * 0x1b)
}
