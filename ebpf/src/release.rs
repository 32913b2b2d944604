//! Ingress of the lane's near end: a held segment that the daemon lets go on towards the stack. It arrives at
//! its interface once more and is verified there, with the keys that were missing.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::bpf_redirect,
};

use crate::barrier::{set_skb_field, skb_field};

#[inline(always)]
pub fn run(skb: *mut __sk_buff) -> i32 {
    // The daemon marks the frame with its interface.
    let ifindex = skb_field!(skb, mark);
    // The mark was for us; the stack's rules must not see it.
    set_skb_field!(skb, mark, 0);
    // SAFETY: no pointers.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}
