//! Marks and priorities of the frames that leave an interface, as its queueing discipline sees them.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use socket2::Socket;

use crate::{
    namespace::Namespace,
    wire::{packet_socket, set_option, would_block},
};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
/// PACKET_OUTGOING.
const OUTGOING: i32 = 4;
const IPV4: u16 = 0x0800;
/// Octets of a frame that are kept: enough to count it.
const KEPT: i32 = 64;

/// Offsets in `struct __sk_buff`.
mod field {
    pub const PKT_TYPE: u16 = 4;
    pub const MARK: u16 = 8;
    pub const PROTOCOL: u16 = 16;
    pub const PRIORITY: u16 = 32;
}

/// Counts IPv4 packets that leave an interface with a certain mark and priority, and those without.
pub struct Marks {
    with: Socket,
    without: Socket,
}

impl Marks {
    /// Begins to count.
    ///
    /// # Errors
    /// If the kernel refuses socket or program.
    pub fn watch(namespace: &Namespace, interface: &str, mark: u32, priority: u32) -> Result<Self> {
        let watch = |kept_with, kept_without| {
            namespace.enter(|| {
                let socket = packet_socket(interface)?;
                socket.set_nonblocking(true)?;
                let filter = filter(mark, priority, kept_with, kept_without).context("a socket filter")?;
                set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &filter.as_raw_fd())?;
                Ok(socket)
            })
        };
        Ok(Self { with: watch(KEPT, 0)?, without: watch(0, KEPT)? })
    }

    /// Packets since it was last asked: with mark and priority, and those that lack one.
    ///
    /// # Errors
    /// If a socket fails.
    pub fn counts(&self) -> Result<(usize, usize)> {
        Ok((count(&self.with)?, count(&self.without)?))
    }
}

fn count(socket: &Socket) -> Result<usize> {
    let mut packets = 0;
    let mut buffer = [const { std::mem::MaybeUninit::uninit() }; KEPT as usize];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => packets += 1,
            Err(error) if would_block(&error) => return Ok(packets),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A program that keeps so many octets of outgoing IPv4 packets with mark and priority, and of those without.
fn filter(mark: u32, priority: u32, with: i32, without: i32) -> io::Result<OwnedFd> {
    let instructions = [
        load(field::PKT_TYPE),
        unless(OUTGOING, 8),
        load(field::PROTOCOL),
        unless(IPV4.to_be().into(), 6),
        load(field::PRIORITY),
        unless(priority.cast_signed(), 6),
        load(field::MARK),
        unless(mark.cast_signed(), 4),
        answer(with),
        END,
        answer(0),
        END,
        answer(without),
        END,
    ];
    let license = c"GPL";
    // prog_type and insn_cnt, insns, license
    let attribute: [u64; 3] = [
        u64::from(BPF_PROG_TYPE_SOCKET_FILTER) | (instructions.len() as u64) << 32,
        instructions.as_ptr() as u64,
        license.as_ptr() as u64,
    ];
    // SAFETY: the attribute and what it points to outlive the call.
    let made =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attribute.as_ptr(), size_of_val(&attribute)) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
}

/// `w2 = *(u32 *)(r1 + offset)`
fn load(offset: u16) -> u64 {
    0x61 | 0x12 << 8 | u64::from(offset) << 16
}

/// `if w2 != value goto +by`
fn unless(value: i32, by: u16) -> u64 {
    0x56 | 0x02 << 8 | u64::from(by) << 16 | u64::from(value.cast_unsigned()) << 32
}

/// `w0 = value`
fn answer(value: i32) -> u64 {
    0xb4 | u64::from(value.cast_unsigned()) << 32
}

/// `exit`
const END: u64 = 0x95;
