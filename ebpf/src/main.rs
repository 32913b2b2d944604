//! TC programs of tcpauth.
#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};

/// placeholder
#[classifier]
pub fn egress(_ctx: TcContext) -> i32 {
    -1
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
