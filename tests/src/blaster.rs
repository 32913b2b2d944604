//! Frames sent at the highest rate that a CPU can.

use std::{
    io, mem,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::Result;
use socket2::Socket;

use crate::{
    network::{INTERFACE, Router},
    wire::{send_only_socket, set_option},
};

/// Frames given to the kernel in one call.
pub const BATCH: usize = 64;

/// A thread that sends until it is stopped.
pub struct Blaster {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Blaster {
    /// Starts to send from `host`'s interface. For each batch `frames` is asked for what it consists of: [`BATCH`]
    /// frames, or fewer, which are then repeated; not none.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start(host: &Router, mut frames: impl FnMut() -> Vec<Vec<u8>> + Send + 'static) -> Result<Self> {
        let socket = host.namespace.enter(|| send_only_socket(INTERFACE))?;
        // Past the queue of the interface: one lock less for each frame.
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_i32)?;
        let shared = Arc::new(Shared::default());
        let sink = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !sink.stop.load(Ordering::Relaxed) {
                let sent = send_batch(&socket, &frames())?;
                sink.sent.fetch_add(sent, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Stops, and gives the number of frames sent.
    ///
    /// # Errors
    /// If the kernel refused one.
    pub fn stop(mut self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(self.sent())
    }
}

impl Drop for Blaster {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How many the kernel took; none if its buffers are full.
fn send_batch(socket: &Socket, frames: &[Vec<u8>]) -> Result<u64> {
    let mut parts: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let Some(last) = parts.len().checked_sub(1) else { return Ok(0) };
    let mut messages: Vec<libc::mmsghdr> = Vec::with_capacity(BATCH);
    for index in 0..BATCH {
        // SAFETY: zeros are valid for this plain structure.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut parts[index % (last + 1)];
        message.msg_hdr.msg_iovlen = 1;
        messages.push(message);
    }
    // SAFETY: the messages point to `parts` and these to `frames`, all of which outlive the call; the kernel only
    // reads the frames.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
    match u64::try_from(sent) {
        Ok(sent) => Ok(sent),
        Err(_) => match io::Error::last_os_error() {
            full if full.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
            error => Err(error.into()),
        },
    }
}
