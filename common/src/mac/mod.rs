//! The MAC algorithms, in one source for the eBPF programs and the host.
//!
//! A MAC is computed in steps, so that the programs can run them in `bpf_loop`, where the verifier
//! follows one step only: [`start`], then [`step`] for each index below what `start` returned, then
//! [`finish`]. Everything lives in a [`Workspace`] (a per-CPU map value: the BPF stack is too small).
//! [`mac`] is the same on the host. The programs bring their own innermost functions, written by the instruction
//! (`step_hmac_sha1` and so on); those here are for the host.
//!
//! | algorithm | a step | words of [`KeyMaterial`] |
//! |---|---|---|
//! | HMAC-SHA-1, HMAC-SHA-256 | one block of 64 octets; the last, the outer hash | hash states after the inner pad (0 to 7) and the outer pad (8 to 15) |
//! | AES-128-CMAC | four blocks of 16 octets | key (0 to 3), K1 (4 to 7), big-endian values |
//! | SipHash-2-4 | sixteen words of 8 octets | the four variables before the first word (0 to 7), lower half first |
//! | MD5 | one block of 64 octets | none: the password is the end of the input, put there from the [`password`] |

pub use md5::{MAX_PASSWORD, password};

use crate::{Algorithm, layout::KeyMaterial};

pub mod aes;
mod cmac;
mod hmac;
mod md5;
pub(crate) mod oneshot;
pub mod sha1;
pub mod sha256;
pub mod siphash;

/// Words of [`Workspace::input`].
pub const INPUT_WORDS: usize = 4096;

/// The longest input of a MAC, in octets: room for the padding stays behind it.
pub const MAX_INPUT: u32 = (INPUT_WORDS * 4 - 128) as u32;

/// Words of a hash block.
const BLOCK_WORDS: u32 = 16;

/// Largest index of a hash block in the input; a mask too.
const LAST_BLOCK: u32 = INPUT_WORDS as u32 / BLOCK_WORDS - 1;

/// Where a MAC is computed. Holds secrets: no `Debug`. Aligned so that two words can be loaded as one.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Workspace {
    /// The octets to authenticate, as they lie in memory. Padding is written behind them.
    pub input: [u32; INPUT_WORDS],
    /// SHA-256: message schedule. AES: round keys.
    pub schedule: [u32; 80],
    /// SHA-1: message schedule.
    pub pairs: sha1::Schedule,
    /// SHA, MD5: hash state. AES-CMAC: the chaining value (4 words) and the last block's subkey. SipHash: the four variables, lower half first.
    pub state: [u32; 8],
    /// The MAC after [`finish`], its first 16 octets as they lie in memory.
    pub mac: [u32; 4],
    /// The key, put here before [`start`].
    pub key: KeyMaterial,
    /// Blocks that [`step`] has to work through.
    pub blocks: u32,
    /// Zero.
    pub reserved: u32,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            input: [0; INPUT_WORDS],
            schedule: [0; 80],
            pairs: [0; 40],
            state: [0; 8],
            mac: [0; 4],
            key: KeyMaterial { words: [0; 16] },
            blocks: 0,
            reserved: 0,
        }
    }
}

impl Workspace {
    /// Puts the concatenation of `parts` into `input` and returns its length in octets, or `None` if it is
    /// longer than [`MAX_INPUT`]. For the host.
    pub fn load(&mut self, parts: &[&[u8]]) -> Option<u32> {
        let mut len = 0;
        for &octet in parts.iter().copied().flatten() {
            if len >= MAX_INPUT {
                return None;
            }
            let word = self.input.get_mut(len as usize / 4)?;
            let mut octets = word.to_ne_bytes();
            octets[len as usize % 4] = octet;
            *word = u32::from_ne_bytes(octets);
            len += 1;
        }
        Some(len)
    }

    /// The MAC that [`finish`] left, 16 octets, not yet cut to the algorithm's length.
    pub fn mac_octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (to, word) in octets.chunks_exact_mut(4).zip(self.mac) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }
}

/// The key material of a traffic key, computed once per key. An AES or SipHash key is cut or zero-padded to 16
/// octets; an HMAC key may have any length; of MD5 see [`password`].
pub fn prepare(algorithm: Algorithm, traffic_key: &[u8]) -> KeyMaterial {
    match algorithm {
        Algorithm::HmacSha1_96 => oneshot::hmac_key(oneshot::Hash::Sha1, traffic_key),
        Algorithm::HmacSha256_96 | Algorithm::HmacSha256_128 => {
            oneshot::hmac_key(oneshot::Hash::Sha256, traffic_key)
        }
        Algorithm::Aes128Cmac96 => cmac::prepare(traffic_key),
        Algorithm::SipHash2_4_96 => siphash::prepare(traffic_key),
        Algorithm::Md5 => KeyMaterial::default(),
    }
}

/// Begins a MAC over the first `len` octets of `ws.input` (at most [`MAX_INPUT`]) with `ws.key`, and returns
/// the number of steps. Writes padding behind the input.
#[inline(always)]
pub fn start(ws: &mut Workspace, algorithm: Algorithm, len: u32) -> u32 {
    match algorithm {
        Algorithm::HmacSha1_96 | Algorithm::HmacSha256_96 | Algorithm::HmacSha256_128 => hmac::start(ws, len),
        Algorithm::Aes128Cmac96 => cmac::start(ws, len),
        Algorithm::SipHash2_4_96 => siphash::start(ws, len),
        Algorithm::Md5 => md5::start(ws, len),
    }
}

/// Does step number `index`. Steps are done once each, in order.
#[inline(always)]
pub fn step(ws: &mut Workspace, algorithm: Algorithm, index: u32) {
    match algorithm {
        Algorithm::HmacSha1_96 => hmac::step_sha1(ws, index, sha1::compress),
        Algorithm::HmacSha256_96 | Algorithm::HmacSha256_128 => {
            hmac::step_sha256(ws, index, sha256::compress)
        }
        Algorithm::Aes128Cmac96 => cmac::step(ws, index, aes::encrypt),
        Algorithm::SipHash2_4_96 => siphash::step(ws, index, siphash::absorb),
        Algorithm::Md5 => md5::step(ws, index),
    }
}

/// The same of HMAC-SHA-1, with a compression function of the caller's.
#[inline(always)]
pub fn step_hmac_sha1(
    ws: &mut Workspace,
    index: u32,
    compress: impl FnOnce(&mut [u32; 8], &mut sha1::Schedule),
) {
    hmac::step_sha1(ws, index, compress);
}

/// The same of HMAC-SHA-256, with a compression function of the caller's.
#[inline(always)]
pub fn step_hmac_sha256(
    ws: &mut Workspace,
    index: u32,
    compress: impl FnOnce(&mut [u32; 8], &mut sha256::Schedule),
) {
    hmac::step_sha256(ws, index, compress);
}

/// The same of AES-128-CMAC, with an encryption of the caller's.
#[inline(always)]
pub fn step_aes_cmac(ws: &mut Workspace, index: u32, encrypt: impl Fn(&aes::Schedule, [u32; 4]) -> [u32; 4]) {
    cmac::step(ws, index, encrypt);
}

/// The same of SipHash-2-4, with a mixing of a word of the caller's, which is at an even index of the input.
#[inline(always)]
pub fn step_siphash(
    ws: &mut Workspace,
    index: u32,
    absorb: impl Fn(siphash::Variables, &[u32; INPUT_WORDS], usize) -> siphash::Variables,
) {
    siphash::step(ws, index, absorb);
}

/// Ends the MAC: its first 16 octets are then in `ws.mac`.
#[inline(always)]
pub fn finish(ws: &mut Workspace, algorithm: Algorithm) {
    match algorithm {
        Algorithm::HmacSha1_96 | Algorithm::HmacSha256_96 | Algorithm::HmacSha256_128 => hmac::finish(ws),
        Algorithm::Aes128Cmac96 => cmac::finish(ws),
        Algorithm::SipHash2_4_96 => siphash::finish(ws),
        Algorithm::Md5 => md5::finish(ws),
    }
}

/// A whole MAC over the first `len` octets of `ws.input`, left in `ws.mac`. For the host.
pub fn mac(ws: &mut Workspace, key: &KeyMaterial, algorithm: Algorithm, len: u32) {
    ws.key = *key;
    for index in 0..start(ws, algorithm, len) {
        step(ws, algorithm, index);
    }
    finish(ws, algorithm);
}

/// Writes 0x80 and zeros behind an input of `len` octets, up to the end of the last hash block, whose last two words
/// are for the length; returns the number of blocks.
#[inline(always)]
fn pad(ws: &mut Workspace, len: u32) -> u32 {
    let blocks = (((len + 8) >> 6) + 1) & LAST_BLOCK;
    let mut word = mark_end(ws, len);
    let end = blocks * BLOCK_WORDS;
    let mut i = 0;
    while i < BLOCK_WORDS + 1 {
        if word < end {
            ws.input[word as usize & (INPUT_WORDS - 1)] = 0;
        }
        word += 1;
        i += 1;
    }
    blocks
}

/// Writes 0x80 at octet `at` of the input and zeros to the end of its word; returns the index of the next.
#[inline(always)]
fn mark_end(ws: &mut Workspace, at: u32) -> u32 {
    let word = (at >> 2) & (INPUT_WORDS as u32 - 1);
    let shift = (at & 3) * 8;
    let kept = u32::from_be(ws.input[word as usize]) & !(u32::MAX >> shift);
    ws.input[word as usize] = (kept | (0x8000_0000 >> shift)).to_be();
    word + 1
}

#[cfg(test)]
mod tests;
