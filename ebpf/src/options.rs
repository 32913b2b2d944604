//! The walk over a segment's TCP options, their rewriting and their translation, in `bpf_loop`.

use core::{ffi::c_void, hint::cold_path};

use tcpauth_common::{
    option::{OptionRewrite, OptionWalk},
    translation::{SackTranslation, Translation},
};

use crate::scratch::Scratch;

/// Walks over the options of `scratch.header`, `header_len` octets long, into `scratch.walk`.
#[inline(always)]
pub fn walk(scratch: &mut Scratch, header_len: u32) {
    if let Some(walk) = OptionWalk::at_a_glance(&scratch.header, header_len) {
        scratch.walk = walk;
        return;
    }
    cold_path();
    scratch.walk = OptionWalk::over(header_len);
    scratch.repeat(OptionWalk::MAX_STEPS, walk_step);
}

/// Rewrites the options of `scratch.header`, after a walk, into `scratch.rewritten` so that `room` octets are
/// left, without timestamps or with them; the new header's length, octets.
#[inline(always)]
pub fn rewrite(scratch: &mut Scratch, room: u32, without_timestamps: bool) -> u32 {
    scratch.rewrite = OptionRewrite::after(&scratch.walk, room, without_timestamps);
    scratch.repeat(OptionRewrite::MAX_STEPS, rewrite_step);
    scratch.rewrite.pad(&mut scratch.rewritten)
}

/// Translates the numbers of the segment in `scratch.rewritten`, after a walk over it.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn translate(scratch: *mut Scratch, seq: u32, ack: u32) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let translation = Translation { seq, ack };
    translation.apply(&mut scratch.rewritten);
    if scratch.walk.has_sack != 0 {
        scratch.sacks = SackTranslation::over(&scratch.rewritten, translation);
        scratch.repeat(SackTranslation::MAX_STEPS, translate_step);
    }
    1
}

extern "C" fn walk_step(_: u64, context: *mut c_void) -> i64 {
    // SAFETY: given by `repeat`.
    let Some(scratch) = (unsafe { Scratch::of_loop(context) }) else { return 1 };
    if scratch.walk.step(&scratch.header) { 0 } else { 1 }
}

extern "C" fn rewrite_step(_: u64, context: *mut c_void) -> i64 {
    // SAFETY: given by `repeat`.
    let Some(scratch) = (unsafe { Scratch::of_loop(context) }) else { return 1 };
    if scratch.rewrite.step(&scratch.header, &mut scratch.rewritten) { 0 } else { 1 }
}

extern "C" fn translate_step(_: u64, context: *mut c_void) -> i64 {
    // SAFETY: given by `repeat`.
    let Some(scratch) = (unsafe { Scratch::of_loop(context) }) else { return 1 };
    if scratch.sacks.step(&mut scratch.rewritten) { 0 } else { 1 }
}
