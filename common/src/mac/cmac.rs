//! AES-128-CMAC (RFC 4493).

use super::{INPUT_WORDS, Workspace, aes, mark_end};
use crate::layout::KeyMaterial;

/// Words of an AES block.
const BLOCK_WORDS: u32 = 4;

/// Largest index of a block in the input; a mask too.
const LAST_BLOCK: u32 = INPUT_WORDS as u32 / BLOCK_WORDS - 1;

/// Where in the state the last block's subkey is, behind the chaining value.
const SUBKEY: usize = 4;

/// AES blocks in one step.
const BLOCKS_PER_STEP: u32 = 4;

/// The key and the subkey K1 (RFC 4493 §2.3). The key is cut or zero-padded to 16 octets.
pub(super) fn prepare(key: &[u8]) -> KeyMaterial {
    let mut octets = [0; 16];
    for (to, &from) in octets.iter_mut().zip(key) {
        *to = from;
    }
    let key = words(octets);
    let mut schedule = [0; 80];
    aes::expand_key(&mut schedule, key);
    let k1 = double(aes::encrypt(&schedule, [0; 4]));
    let mut material = KeyMaterial::default();
    material.words[..4].copy_from_slice(&key);
    material.words[4..8].copy_from_slice(&k1);
    material
}

#[inline(always)]
pub(super) fn start(ws: &mut Workspace, len: u32) -> u32 {
    let key = [ws.key.words[0], ws.key.words[1], ws.key.words[2], ws.key.words[3]];
    aes::expand_key(&mut ws.schedule, key);
    let mut i = 0;
    while i < 4 {
        ws.state[i] = 0;
        i += 1;
    }
    if !is_whole(len) {
        let mut word = mark_end(ws, len);
        let mut i = 0;
        while i < BLOCK_WORDS {
            if word & (BLOCK_WORDS - 1) != 0 {
                ws.input[word as usize & (INPUT_WORDS - 1)] = 0;
                word += 1;
            }
            i += 1;
        }
    }
    // Of the two subkeys, the one that this message takes.
    let k1 = [ws.key.words[4], ws.key.words[5], ws.key.words[6], ws.key.words[7]];
    let subkey = if is_whole(len) { k1 } else { double(k1) };
    let mut i = 0;
    while i < 4 {
        ws.state[SUBKEY + i] = subkey[i];
        i += 1;
    }
    ws.blocks = last_block(len) + 1;
    ws.blocks.div_ceil(BLOCKS_PER_STEP)
}

#[inline(always)]
pub(super) fn step(ws: &mut Workspace, index: u32, encrypt: impl Fn(&aes::Schedule, [u32; 4]) -> [u32; 4]) {
    let mut state = [ws.state[0], ws.state[1], ws.state[2], ws.state[3]];
    let mut i = 0;
    while i < BLOCKS_PER_STEP {
        let block = index * BLOCKS_PER_STEP + i;
        if block < ws.blocks {
            state = absorb(ws, state, block);
            if block + 1 == ws.blocks {
                let mut i = 0;
                while i < 4 {
                    state[i] ^= ws.state[SUBKEY + i];
                    i += 1;
                }
            }
            state = encrypt(&ws.schedule, state);
        }
        i += 1;
    }
    let mut i = 0;
    while i < 4 {
        ws.state[i] = state[i];
        i += 1;
    }
}

#[inline(always)]
pub(super) fn finish(ws: &mut Workspace) {
    let mut i = 0;
    while i < 4 {
        ws.mac[i] = ws.state[i].to_be();
        i += 1;
    }
}

/// The chaining value with block number `block` of the input XORed in.
#[inline(always)]
fn absorb(ws: &Workspace, state: [u32; 4], block: u32) -> [u32; 4] {
    let base = ((block & LAST_BLOCK) * BLOCK_WORDS) as usize;
    [
        state[0] ^ u32::from_be(ws.input[base]),
        state[1] ^ u32::from_be(ws.input[base + 1]),
        state[2] ^ u32::from_be(ws.input[base + 2]),
        state[3] ^ u32::from_be(ws.input[base + 3]),
    ]
}

/// Index of the last block, which may be partial or (of an empty message) empty.
#[inline(always)]
fn last_block(len: u32) -> u32 {
    (len.saturating_sub(1) >> 4) & LAST_BLOCK
}

/// Whether the last block is full, so that it takes K1 and no padding.
#[inline(always)]
fn is_whole(len: u32) -> bool {
    len != 0 && len & 15 == 0
}

/// Multiplication by x in GF(2^128): K1 from the encrypted zero block, K2 from K1.
#[inline(always)]
pub(super) fn double(block: [u32; 4]) -> [u32; 4] {
    let [a, b, c, d] = block;
    [(a << 1) | (b >> 31), (b << 1) | (c >> 31), (c << 1) | (d >> 31), (d << 1) ^ ((a >> 31) * 0x87)]
}

/// A block as four big-endian words.
pub(super) fn words(octets: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, octets) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*octets);
    }
    words
}
