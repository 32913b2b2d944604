//! HMAC (RFC 2104) over SHA-1 and SHA-256, from the two hash states of a prepared key.

use super::{
    BLOCK_WORDS, INPUT_WORDS, LAST_BLOCK, Workspace, pad,
    sha1::{Schedule, pair},
    sha256,
};

/// The word that begins the padding.
const PADDING: u32 = 0x8000_0000;

#[inline(always)]
pub(super) fn start(ws: &mut Workspace, len: u32) -> u32 {
    let mut i = 0;
    while i < 8 {
        ws.state[i] = ws.key.words[i];
        i += 1;
    }
    let blocks = pad(ws, len);
    // The block of the inner pad went before.
    let bits = (64 + len) << 3;
    ws.input[(blocks * BLOCK_WORDS).wrapping_sub(1) as usize & (INPUT_WORDS - 1)] = bits.to_be();
    ws.blocks = blocks;
    // One more for the outer hash.
    blocks + 1
}

#[inline(always)]
pub(super) fn step_sha1(ws: &mut Workspace, index: u32, compress: impl FnOnce(&mut [u32; 8], &mut Schedule)) {
    if index < ws.blocks {
        let base = first_word(index);
        let mut i = 0;
        while i < BLOCK_WORDS as usize {
            // Swapped as one, the two words also change places, back again.
            ws.pairs[i / 2] = pair(ws.input[base + i + 1], ws.input[base + i]).swap_bytes();
            i += 2;
        }
    } else {
        let digest = ws.state;
        ws.pairs[0] = pair(digest[0], digest[1]);
        ws.pairs[1] = pair(digest[2], digest[3]);
        ws.pairs[2] = pair(digest[4], PADDING);
        ws.pairs[3] = 0;
        ws.pairs[4] = 0;
        ws.pairs[5] = 0;
        ws.pairs[6] = 0;
        ws.pairs[7] = (64 + 20) * 8;
        begin_outer(ws);
    }
    compress(&mut ws.state, &mut ws.pairs);
}

#[inline(always)]
pub(super) fn step_sha256(
    ws: &mut Workspace,
    index: u32,
    compress: impl FnOnce(&mut [u32; 8], &mut sha256::Schedule),
) {
    if index < ws.blocks {
        let base = first_word(index);
        let mut i = 0;
        while i < BLOCK_WORDS as usize {
            ws.schedule[i] = u32::from_be(ws.input[base + i]);
            i += 1;
        }
    } else {
        let mut i = 0;
        while i < 8 {
            ws.schedule[i] = ws.state[i];
            ws.schedule[8 + i] = 0;
            i += 1;
        }
        ws.schedule[8] = PADDING;
        ws.schedule[15] = (64 + 32) * 8;
        begin_outer(ws);
    }
    compress(&mut ws.state, &mut ws.schedule);
}

#[inline(always)]
pub(super) fn finish(ws: &mut Workspace) {
    let mut i = 0;
    while i < 4 {
        ws.mac[i] = ws.state[i].to_be();
        i += 1;
    }
}

/// Index of the first word of block `index` of the input.
#[inline(always)]
fn first_word(index: u32) -> usize {
    ((index & LAST_BLOCK) * BLOCK_WORDS) as usize
}

/// Puts the state after the outer pad into the state.
#[inline(always)]
fn begin_outer(ws: &mut Workspace) {
    let mut i = 0;
    while i < 8 {
        ws.state[i] = ws.key.words[8 + i];
        i += 1;
    }
}
