//! Ingress of the lane's near end: a held segment that the daemon lets go on towards the stack. It arrives at
//! its interface once more and is verified there, with the keys that were missing.

use aya_ebpf::{bindings::BPF_F_INGRESS, helpers::bpf_redirect, programs::TcContext};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    // SAFETY: the kernel hands a valid context to the program; the daemon marks the frame with the interface.
    unsafe { bpf_redirect((*ctx.skb.skb).mark, u64::from(BPF_F_INGRESS)) as i32 }
}
