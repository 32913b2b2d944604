//! HMAC (RFC 2104) over SHA-1 and SHA-256, from the two hash states of a prepared key.

use super::{BLOCK_WORDS, INPUT_WORDS, LAST_BLOCK, Workspace, pad, sha1, sha256};

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
    blocks
}

#[inline(always)]
pub(super) fn step_sha1(ws: &mut Workspace, index: u32) {
    load_block(ws, index);
    sha1::compress(&mut ws.state, &mut ws.schedule);
}

#[inline(always)]
pub(super) fn step_sha256(ws: &mut Workspace, index: u32) {
    load_block(ws, index);
    sha256::compress(&mut ws.state, &mut ws.schedule);
}

#[inline(always)]
pub(super) fn finish_sha1(ws: &mut Workspace) {
    load_digest(ws, 5);
    sha1::compress(&mut ws.state, &mut ws.schedule);
    leave_mac(ws);
}

#[inline(always)]
pub(super) fn finish_sha256(ws: &mut Workspace) {
    load_digest(ws, 8);
    sha256::compress(&mut ws.state, &mut ws.schedule);
    leave_mac(ws);
}

/// Puts block `index` of the input at the head of the schedule.
#[inline(always)]
fn load_block(ws: &mut Workspace, index: u32) {
    let base = ((index & LAST_BLOCK) * BLOCK_WORDS) as usize;
    let mut i = 0;
    while i < BLOCK_WORDS as usize {
        ws.schedule[i] = u32::from_be(ws.input[base + i]);
        i += 1;
    }
}

/// Puts the inner digest of `words` words, padded to the block of the outer hash, at the head of the
/// schedule, and the state after the outer pad into the state.
#[inline(always)]
fn load_digest(ws: &mut Workspace, words: usize) {
    let mut i = 0;
    while i < 8 {
        ws.schedule[i] = if i < words { ws.state[i] } else { 0 };
        ws.schedule[8 + i] = 0;
        ws.state[i] = ws.key.words[8 + i];
        i += 1;
    }
    ws.schedule[words] = 0x8000_0000;
    ws.schedule[15] = (64 + words as u32 * 4) * 8;
}

#[inline(always)]
fn leave_mac(ws: &mut Workspace) {
    let mut i = 0;
    while i < 4 {
        ws.mac[i] = ws.state[i].to_be();
        i += 1;
    }
}
