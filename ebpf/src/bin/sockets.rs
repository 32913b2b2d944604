//! A BPF iterator over the TCP sockets of a network namespace: a [`TcpSocket`] for each connection that is up.
//!
//! An object of its own, because it needs the kernel's BTF and the TC programs do not. This toolchain cannot
//! relocate (CO-RE), so the daemon reads from the BTF where the members are.

#![no_std]
#![no_main]

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    bindings::seq_file,
    helpers::generated::{bpf_probe_read_kernel, bpf_seq_write, bpf_skc_to_tcp_sock},
};
use tcpauth_common::tcp_socket::{TcpSocket, TcpSocketOffsets};

/// Set by the daemon as it loads the program.
#[unsafe(no_mangle)]
static OFFSETS: Global<TcpSocketOffsets> = Global::new(TcpSocketOffsets {
    state: 0,
    family: 0,
    local_v4: 0,
    peer_v4: 0,
    local_v6: 0,
    peer_v6: 0,
    local_port: 0,
    peer_port: 0,
    ifindex: 0,
    bytes_received: 0,
    bytes_acked: 0,
    rcv_nxt: 0,
    snd_una: 0,
    snd_nxt: 0,
    rcv_wnd: 0,
    mss: 0,
    header_len: 0,
    rcv_wscale: 0,
    md5sig_info: 0,
    ao_info: 0,
});

/// Of include/net/tcp_states.h.
const TCP_ESTABLISHED: u8 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// Above the size of a `tcp_sock`: the verifier wants a bound.
const OFFSET_MASK: u32 = 0x3fff;

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub struct Context {
    meta: *mut Meta,
    sk_common: *mut c_void,
    uid: u32,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
    session_id: u64,
    seq_num: u64,
}

/// Called for each socket, with the socket locked, and once more at the end with none. Returning 0 goes on.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn established(context: &Context) -> i32 {
    let (meta, sk_common) = (context.meta, context.sk_common);
    if sk_common.is_null() {
        return 0;
    }
    // SAFETY: the verifier knows the pointer's type. Not a TCP socket, or one that only is being opened or waits
    // for its end: null.
    let socket: *const u8 = unsafe { bpf_skc_to_tcp_sock(sk_common) }.cast();
    if socket.is_null() {
        return 0;
    }
    let at = OFFSETS.load();
    let family: u16 = read(socket, at.family);
    if read::<u8>(socket, at.state) != TCP_ESTABLISHED || (family != AF_INET && family != AF_INET6) {
        return 0;
    }
    let is_ipv4 = family == AF_INET;
    let wscale = read::<u8>(socket, at.rcv_wscale >> 3) >> (at.rcv_wscale & 7) & 15;
    let record = TcpSocket {
        bytes_received: read(socket, at.bytes_received),
        bytes_acked: read(socket, at.bytes_acked),
        local: if is_ipv4 { mapped(read(socket, at.local_v4)) } else { read(socket, at.local_v6) },
        peer: if is_ipv4 { mapped(read(socket, at.peer_v4)) } else { read(socket, at.peer_v6) },
        local_port: read(socket, at.local_port),
        peer_port: u16::from_be(read(socket, at.peer_port)),
        ifindex: read(socket, at.ifindex),
        rcv_nxt: read(socket, at.rcv_nxt),
        snd_una: read(socket, at.snd_una),
        snd_nxt: read(socket, at.snd_nxt),
        rcv_wnd: read(socket, at.rcv_wnd),
        mss: read(socket, at.mss),
        header_len: read(socket, at.header_len),
        rcv_wscale: wscale,
        is_signed: u8::from(is_set(socket, at.md5sig_info) || is_set(socket, at.ao_info)),
    };
    // SAFETY: the record outlives the call. Where the buffer is full, the kernel calls again for this socket.
    unsafe { bpf_seq_write((*meta).seq, (&raw const record).cast(), size_of::<TcpSocket>() as u32) };
    0
}

/// The member at `offset`: an integer, or octets.
#[inline(always)]
fn read<T: Default>(socket: *const u8, offset: u32) -> T {
    let mut value = T::default();
    let from = socket.wrapping_add((offset & OFFSET_MASK) as usize);
    // SAFETY: the helper writes as many octets as the variable has, zeros if it cannot read.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from.cast()) };
    value
}

/// Whether the pointer at `offset` is one; not if this kernel has no such member.
#[inline(always)]
fn is_set(socket: *const u8, offset: u32) -> bool {
    offset != 0 && read::<u64>(socket, offset) != 0
}

/// ::ffff:a.b.c.d
#[inline(always)]
fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that only GPL programs may call are used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
