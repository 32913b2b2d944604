#![no_std]
#![no_main]
#![allow(missing_docs)]
use aya_ebpf::{macros::{classifier, map}, maps::PerCpuArray, programs::TcContext, helpers::generated::bpf_loop};
use aya_ebpf::EbpfContext;
use tcpauth_common::{Algorithm, mac::{self, Workspace}};
use core::ffi::c_void;

#[map]
static WORKSPACE: PerCpuArray<Workspace> = PerCpuArray::with_max_entries(1, 0);

struct Ctx { ws: *mut Workspace }

macro_rules! program {
    ($name:ident, $step:ident, $algorithm:expr) => {
        unsafe extern "C" fn $step(index: u32, ctx: *mut c_void) -> i64 {
            let ws = unsafe { &mut *(*(ctx as *mut Ctx)).ws };
            mac::step(ws, $algorithm, index);
            0
        }
        #[classifier]
        pub fn $name(ctx: TcContext) -> i32 {
            let Some(ws) = WORKSPACE.get_ptr_mut(0) else { return 9 };
            let w = unsafe { &mut *ws };
            let len = ctx.len();
            let len = unsafe { core::ptr::read_volatile(&len) };
            if len == 0 || len > 16000 { return 8 }
            let r = unsafe { aya_ebpf::helpers::generated::bpf_skb_load_bytes(ctx.as_ptr() as *const _, 0, w.input.as_mut_ptr() as *mut _, len) };
            if r != 0 { return 7 }
            let steps = mac::start(w, $algorithm, len);
            let mut c = Ctx { ws };
            unsafe { bpf_loop(steps, $step as *mut c_void, &raw mut c as *mut c_void, 0) };
            mac::finish(w, $algorithm, len);
            let m = w.mac;
            unsafe { aya_ebpf::helpers::generated::bpf_skb_store_bytes(ctx.as_ptr() as *mut _, 0, m.as_ptr() as *const _, 16, 0) };
            3
        }
    };
}
program!(sha1, step1, Algorithm::HmacSha1_96);
program!(sha256, step2, Algorithm::HmacSha256_128);
program!(cmac, step3, Algorithm::Aes128Cmac96);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
