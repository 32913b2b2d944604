//! The walk over a segment's TCP options, their rewriting and their translation, in `bpf_loop`.

use core::{ffi::c_void, hint::cold_path};

use aya_ebpf::helpers::bpf_loop;
use tcpauth_common::{
    option::{OptionRewrite, OptionWalk},
    translation::{SackTranslation, Translation},
};

use crate::scratch::scratch;

/// Walks over the options of `scratch.header`, `header_len` octets long, into `scratch.walk`.
#[inline(always)]
pub fn walk(header_len: u32) -> Option<()> {
    let scratch = scratch()?;
    if let Some(walk) = OptionWalk::at_a_glance(&scratch.header, header_len) {
        scratch.walk = walk;
        return Some(());
    }
    cold_path();
    scratch.walk = OptionWalk::over(header_len);
    // SAFETY: the callback has the signature that the kernel calls.
    unsafe { bpf_loop(OptionWalk::MAX_STEPS, walk_step as *mut c_void, core::ptr::null_mut(), 0) };
    Some(())
}

/// Rewrites the options of `scratch.header`, after a walk, into `scratch.rewritten` so that `room` octets are
/// left, without timestamps or with them; the new header's length, octets.
#[inline(always)]
pub fn rewrite(room: u32, without_timestamps: bool) -> Option<u32> {
    let before = scratch()?;
    before.rewrite = OptionRewrite::after(&before.walk, room, without_timestamps);
    // SAFETY: the callback has the signature that the kernel calls.
    unsafe { bpf_loop(OptionRewrite::MAX_STEPS, rewrite_step as *mut c_void, core::ptr::null_mut(), 0) };
    let after = scratch()?;
    Some(after.rewrite.pad(&mut after.rewritten))
}

/// Translates the numbers of the segment in `scratch.rewritten`, after a walk over it.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn translate(seq: u32, ack: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let translation = Translation { seq, ack };
    translation.apply(&mut scratch.rewritten);
    if scratch.walk.has_sack != 0 {
        scratch.sacks = SackTranslation::over(&scratch.rewritten, translation);
        // SAFETY: the callback has the signature that the kernel calls.
        unsafe {
            bpf_loop(SackTranslation::MAX_STEPS, translate_step as *mut c_void, core::ptr::null_mut(), 0)
        };
    }
    1
}

extern "C" fn walk_step(_: u64, _: *mut c_void) -> i64 {
    let Some(scratch) = scratch() else { return 1 };
    if scratch.walk.step(&scratch.header) { 0 } else { 1 }
}

extern "C" fn rewrite_step(_: u64, _: *mut c_void) -> i64 {
    let Some(scratch) = scratch() else { return 1 };
    if scratch.rewrite.step(&scratch.header, &mut scratch.rewritten) { 0 } else { 1 }
}

extern "C" fn translate_step(_: u64, _: *mut c_void) -> i64 {
    let Some(scratch) = scratch() else { return 1 };
    if scratch.sacks.step(&mut scratch.rewritten) { 0 } else { 1 }
}
