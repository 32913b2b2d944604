//! The TC programs of tcpauth.
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | `egress` | egress of a protected interface | segments to a neighbour go into the lane |
//! | `seal` | ingress of the lane's far end | gives them their MAC and sends them to the interface |
//! | `ingress` | ingress of a protected interface | verifies segments from a neighbour |
//! | `ingress_again` | ingress of loopback, VRFs and the like | the same, except for what has verified elsewhere |
//! | `egress_l3`, `ingress_l3` | the same, of a tunnel | the same, without Ethernet headers |
//! | `release` | ingress of the lane's near end | lets a held segment go on to the stack |
//! | `rekey` | none: the daemon runs it | changes the keys of a session at work |

#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the macro that makes a program's entry documents nothing")]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    segment::{BARE_IP, ETHERNET},
    verified::Arrival,
};

mod account;
#[cfg(target_arch = "bpf")]
mod aes;
mod authenticate;
mod barrier;
mod egress;
mod frame;
mod headroom;
mod hold;
mod icmp;
mod ingress;
mod inner;
mod maps;
mod neighbor;
mod options;
mod priority;
mod rekey;
mod release;
mod scratch;
mod seal;
mod segment;
#[cfg(target_arch = "bpf")]
mod sha1;
#[cfg(target_arch = "bpf")]
mod sha256;
#[cfg(target_arch = "bpf")]
mod siphash;
mod socket;
mod strip;
mod verified;

/// See [`mod@egress`].
#[classifier]
pub fn egress(ctx: TcContext) -> i32 {
    egress::run(ctx.skb.skb, ETHERNET)
}

/// The same for an interface that carries bare IP packets.
#[classifier]
pub fn egress_l3(ctx: TcContext) -> i32 {
    egress::run(ctx.skb.skb, BARE_IP)
}

/// See [`mod@seal`].
#[classifier]
pub fn seal(ctx: TcContext) -> i32 {
    seal::run(ctx.skb.skb)
}

/// See [`mod@ingress`].
#[classifier]
pub fn ingress(ctx: TcContext) -> i32 {
    ingress::run(ctx.skb.skb, ETHERNET, Arrival::First)
}

/// The same for an interface that packets reach from inside this host.
#[classifier]
pub fn ingress_again(ctx: TcContext) -> i32 {
    ingress::run(ctx.skb.skb, ETHERNET, Arrival::Again)
}

/// The same for an interface that carries bare IP packets.
#[classifier]
pub fn ingress_l3(ctx: TcContext) -> i32 {
    ingress::run(ctx.skb.skb, BARE_IP, Arrival::First)
}

/// See [`mod@release`].
#[classifier]
pub fn release(ctx: TcContext) -> i32 {
    release::run(ctx.skb.skb)
}

/// See [`mod@rekey`].
#[classifier]
pub fn rekey(ctx: TcContext) -> i32 {
    rekey::run(ctx.skb.skb)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that only GPL programs may call are used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
