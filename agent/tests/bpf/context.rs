//! BPF test-run: one run of a program on a frame (bpf(2), BPF_PROG_TEST_RUN).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// What a TC program tells the kernel to do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// TC_ACT_UNSPEC: it goes on as if there were no program.
    Pass,
    /// TC_ACT_SHOT.
    Drop,
    /// TC_ACT_REDIRECT: `bpf_redirect` was called.
    Redirect,
}

/// What the kernel says of the frame beside its octets: the fields of `__sk_buff` that a test-run may set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// The interface: one of the thread's network namespace, or 0 or 1 for its loopback.
    pub ifindex: u32,
    /// The interface by which it came to this host.
    pub ingress_ifindex: u32,
    /// SO_MARK.
    pub mark: u32,
    /// Segment size of a super-packet, else 0.
    pub gso_size: u32,
    /// As from an interface that sums up each packet (CHECKSUM_COMPLETE); the kernel refuses the run
    /// with EBADMSG if the sum is no longer the packet's after it.
    pub summed: bool,
}

/// `union bpf_attr` as BPF_PROG_TEST_RUN has it (linux/bpf.h).
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

const BPF_PROG_TEST_RUN: i32 = 10;
const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 4;

/// Length of `struct __sk_buff`, octets.
const CONTEXT_LEN: usize = 192;

impl Context {
    /// Runs `program` on `frame`; what it decides, and the frame as it leaves it.
    ///
    /// # Errors
    /// What the kernel says: EINVAL for a frame longer than a page or a context that is not allowed.
    pub fn run(&self, program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<(Verdict, Vec<u8>)> {
        self.timed_run(program, frame).map(|(verdict, out, _)| (verdict, out))
    }

    /// The same, and how long it took, nanoseconds.
    ///
    /// # Errors
    /// As of [`Self::run`].
    pub fn timed_run(&self, program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<(Verdict, Vec<u8>, u32)> {
        let context = self.octets();
        let mut out = vec![0; frame.len() + 256];
        let mut attr = TestRun {
            prog_fd: program.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_size_out: out.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat: 1,
            ctx_size_in: context.len() as u32,
            ctx_in: context.as_ptr() as u64,
            flags: if self.summed { BPF_F_TEST_SKB_CHECKSUM_COMPLETE } else { 0 },
            ..TestRun::default()
        };
        // SAFETY: the attribute has the layout of the command, and its buffers outlive the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        out.truncate(attr.data_size_out as usize);
        let verdict = match attr.retval as i32 {
            -1 => Verdict::Pass,
            2 => Verdict::Drop,
            7 => Verdict::Redirect,
            other => panic!("no program returns {other}"),
        };
        Ok((verdict, out, attr.duration))
    }

    fn octets(&self) -> [u8; CONTEXT_LEN] {
        let mut octets = [0; CONTEXT_LEN];
        for (at, value) in
            [(8, self.mark), (36, self.ingress_ifindex), (40, self.ifindex), (176, self.gso_size)]
        {
            octets[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        octets
    }
}
