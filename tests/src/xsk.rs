//! AF_XDP: a socket that sends whole frames past queues and TC.

use std::{
    ffi::c_void,
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};

use crate::{link, namespace::Namespace, wire::set_option};

const SOL_XDP: libc::c_int = 283;
const MMAP_OFFSETS: libc::c_int = 1;
const TX_RING: libc::c_int = 3;
const UMEM_REG: libc::c_int = 4;
const FILL_RING: libc::c_int = 5;
const COMPLETION_RING: libc::c_int = 6;
/// Where the ring of frames to send is mapped (XDP_PGOFF_TX_RING).
const TX_RING_AT: libc::off_t = 0x8000_0000;
/// Frames are copied, whatever the driver can do.
const COPY: u16 = 1 << 1;

/// Octets that a frame has room for.
const CHUNK: usize = 4096;
/// Entries of a ring.
const ENTRIES: u32 = 64;

/// `struct xdp_umem_reg`, as of Linux 5.4.
#[repr(C)]
#[derive(Clone, Copy)]
struct Memory {
    address: u64,
    length: u64,
    chunk_size: u32,
    headroom: u32,
    flags: u32,
}

/// `struct sockaddr_xdp`.
#[repr(C)]
struct Address {
    family: u16,
    flags: u16,
    ifindex: u32,
    queue: u32,
    shared: u32,
}

/// `struct xdp_ring_offset`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RingOffsets {
    producer: u64,
    consumer: u64,
    descriptors: u64,
    flags: u64,
}

/// `struct xdp_desc`.
#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    options: u32,
}

/// Sends one frame out of `interface`.
///
/// # Errors
/// If the kernel has no such sockets, or refuses this.
pub fn send(namespace: &Namespace, interface: &str, frame: &[u8]) -> Result<()> {
    ensure!(frame.len() <= CHUNK, "the frame has {} octets", frame.len());
    namespace.enter(|| {
        // SAFETY: no pointers.
        let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) };
        ensure!(socket >= 0, "AF_XDP: {}", io::Error::last_os_error());
        // SAFETY: a descriptor that the kernel has just given.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let memory = Mapping::anonymous(CHUNK)?;
        // SAFETY: the mapping has room for the frame, and nobody else has it yet.
        unsafe { ptr::copy_nonoverlapping(frame.as_ptr(), memory.start.cast(), frame.len()) };
        let registered = Memory {
            address: memory.start as u64,
            length: CHUNK as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: 0,
        };
        set_option(&socket, SOL_XDP, UMEM_REG, &registered).context("XDP_UMEM_REG")?;
        for ring in [FILL_RING, COMPLETION_RING, TX_RING] {
            set_option(&socket, SOL_XDP, ring, &ENTRIES).context("a ring")?;
        }
        let at = tx_offsets(&socket)?;
        let ring = Mapping::of(&socket, TX_RING_AT, at.descriptors as usize + ENTRIES as usize * 16)?;
        bind(&socket, interface)?;
        // SAFETY: the kernel laid the ring out so; it reads the descriptor once the producer's number is there.
        unsafe {
            let descriptor = ring.start.byte_add(at.descriptors as usize).cast::<Descriptor>();
            descriptor.write(Descriptor { address: 0, length: frame.len() as u32, options: 0 });
            (*ring.start.byte_add(at.producer as usize).cast::<AtomicU32>()).store(1, Ordering::Release);
        }
        // SAFETY: no data and no address: it tells the kernel to look at the ring.
        let sent =
            unsafe { libc::sendto(socket.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        ensure!(sent >= 0, "AF_XDP does not send: {}", io::Error::last_os_error());
        Ok(())
    })
}

fn tx_offsets(socket: &OwnedFd) -> Result<RingOffsets> {
    // Of the rings to receive, to send, to fill, of completions.
    let mut offsets = [RingOffsets::default(); 4];
    let mut length = mem::size_of_val(&offsets) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` octets.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_XDP,
            MMAP_OFFSETS,
            offsets.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    ensure!(result == 0, "XDP_MMAP_OFFSETS: {}", io::Error::last_os_error());
    Ok(offsets[1])
}

fn bind(socket: &OwnedFd, interface: &str) -> Result<()> {
    let address = Address {
        family: libc::AF_XDP as u16,
        flags: COPY,
        ifindex: link::index(interface)?,
        queue: 0,
        shared: 0,
    };
    let length = mem::size_of::<Address>() as libc::socklen_t;
    // SAFETY: the address is a plain structure of that length, read during the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(result == 0, "AF_XDP on {interface}: {}", io::Error::last_os_error());
    Ok(())
}

/// Mapped memory.
struct Mapping {
    start: *mut c_void,
    length: usize,
}

impl Mapping {
    fn anonymous(length: usize) -> Result<Self> {
        Self::new(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn of(file: &OwnedFd, at: libc::off_t, length: usize) -> Result<Self> {
        Self::new(length, libc::MAP_SHARED | libc::MAP_POPULATE, file.as_raw_fd(), at)
    }

    fn new(length: usize, flags: libc::c_int, file: libc::c_int, at: libc::off_t) -> Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, file, at) };
        ensure!(start != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing points into it any more.
        unsafe { libc::munmap(self.start, self.length) };
    }
}
