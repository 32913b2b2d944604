//! BPF test-run: a pinned program, run on one frame again and again (bpf(2), BPF_PROG_TEST_RUN).

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::syscall::bpf;

const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// Length of `struct __sk_buff` and where its `ifindex` is, octets.
const CONTEXT_LEN: usize = 192;
const IFINDEX_AT: usize = 40;

/// What TC programs return for a frame that goes no further.
const TC_ACT_SHOT: u32 = 2;

/// `union bpf_attr` as BPF_PROG_TEST_RUN has it.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// Nanoseconds of a run of `program` that drops `frame`, arriving at interface `ifindex` of the thread's network
/// namespace: the mean of `repeat` runs. `None` if the kernel takes no frame of this length.
///
/// # Errors
/// If the kernel refuses, or the program does anything else with the frame.
pub fn nanoseconds(program: &OwnedFd, ifindex: u32, frame: &[u8], repeat: u32) -> Result<Option<f64>> {
    let mut context = [0; CONTEXT_LEN];
    context[IFINDEX_AT..IFINDEX_AT + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ctx_size_in: context.len() as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the attribute has the layout of this command, and its buffers outlive the call.
    match unsafe { bpf(BPF_PROG_TEST_RUN, &mut run) } {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
        Err(error) => return Err(error).context("BPF_PROG_TEST_RUN"),
    }
    anyhow::ensure!(run.retval == TC_ACT_SHOT, "the program returned {} for a forged segment", run.retval);
    Ok(Some(f64::from(run.duration)))
}
