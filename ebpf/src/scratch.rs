//! Working memory of the programs: the BPF stack of 512 octets is too small for a segment's headers and a MAC.

use core::{
    ffi::c_void,
    hint::cold_path,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::{helpers::bpf_loop, macros::map, maps::PerCpuArray};
use tcpauth_common::{
    layout::{Held, MAX_HELD, Quartet},
    mac::Workspace,
    option::{Header, OptionRewrite, OptionWalk},
    translation::SackTranslation,
};

use crate::{
    authenticate::Covered,
    neighbor::{Isns, Neighbor},
    segment::Segment,
};

/// The working memory of one run of a program, which gives it back when this is dropped.
///
/// A run has one for itself: with PREEMPT_RT, since Linux 6.18, a program may be preempted on its CPU by another run of
/// the same or of another program, which may even have to wait for it. If two runs had the same memory, the MAC of one
/// segment could let another one pass.
pub struct Memory {
    element: *mut Element,
}

/// Elements of a CPU: so many runs may be in the middle of their work at a time. On all other kernels there is one.
pub const ELEMENTS: u32 = 4;

/// An element of the map.
#[repr(C)]
struct Element {
    /// 1 while a run has it.
    busy: u64,
    scratch: Scratch,
}

#[map]
static SCRATCH: PerCpuArray<Element> = PerCpuArray::with_max_entries(ELEMENTS, 0);

impl Memory {
    /// Takes memory of this CPU, on which the kernel keeps the run. `None` if other runs have all of it.
    #[inline(always)]
    pub fn take() -> Option<Self> {
        let mut number = 0;
        while number < ELEMENTS {
            let element = SCRATCH.get_ptr_mut(number)?;
            // SAFETY: a map value, which lives while the program runs.
            if unsafe { exchange(&raw mut (*element).busy, 1) } == 0 {
                return Some(Self { element });
            }
            cold_path();
            number += 1;
        }
        None
    }

    /// What is in it: anything, from an earlier run.
    #[inline(always)]
    pub fn scratch(&mut self) -> &mut Scratch {
        // SAFETY: a map value, which lives while the program runs and is this run's alone.
        unsafe { &mut (*self.element).scratch }
    }
}

impl Drop for Memory {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as above. Only runs on this CPU look at it, so that no barrier is needed but the compiler's.
        unsafe {
            compiler_fence(Ordering::SeqCst);
            (&raw mut (*self.element).busy).write_volatile(0);
        }
    }
}

/// What a run works with. Global functions get a pointer to it, which they have to compare with null, because the verifier
/// follows them by themselves and supposes that it may be.
#[repr(C)]
pub struct Scratch {
    /// The segment at hand.
    pub segment: Segment,
    /// Whose it is.
    pub neighbor: Neighbor,
    /// The ends of its connection.
    pub quartet: Quartet,
    /// The ISNs of its session.
    pub isns: Isns,
    /// What its MAC is taken of.
    pub covered: Covered,
    /// Its TCP header as it came.
    pub header: Header,
    /// Its TCP header as it goes on.
    pub rewritten: Header,
    /// What its options were found to be.
    pub walk: OptionWalk,
    /// Its option, when it arrived.
    pub option: AuthOption,
    /// How its options are rewritten.
    pub rewrite: OptionRewrite,
    /// How its selective acknowledgments are translated.
    pub sacks: SackTranslation,
    /// Headers on their way around a hole for the option.
    pub moved: [u8; 256],
    /// Record for the daemon.
    pub held: HeldRecord,
    /// Where the TCP header begins that an ICMP message quotes, octets from the start of the frame.
    pub quoted_at: u32,
    /// Octets under the MAC.
    pub mac_len: u32,
    /// Steps that the MAC takes.
    pub mac_steps: u32,
    /// Where the MAC is computed.
    pub workspace: Workspace,
}

/// The TCP-AO or TCP-MD5 option of a segment that arrived. Offsets from the start of the TCP header, octets.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AuthOption {
    pub at: u32,
    pub len: u32,
    pub mac_at: u32,
    pub mac_len: u32,
    /// What it takes, with what fills whole words.
    pub room: u32,
}

/// A held segment for the ring buffer.
#[repr(C)]
pub struct HeldRecord {
    pub head: Held,
    pub frame: [u8; MAX_HELD],
}

/// What `bpf_loop` (Linux 5.17) calls: with the number of the call and what [`Scratch::repeat`] gives it. 1 ends the loop.
pub type Body = extern "C" fn(u64, *mut c_void) -> i64;

impl Scratch {
    /// Calls `body` with this memory, `times` times or until it says that it is enough. The verifier follows it once.
    #[inline(always)]
    pub fn repeat(&mut self, times: u32, body: Body) {
        // The kernel hands on nothing but pointers to the stack.
        let mut scratch: *mut Self = self;
        // SAFETY: the body has the signature that the kernel calls, and `scratch` outlives the loop.
        unsafe { bpf_loop(times, body as *mut c_void, (&raw mut scratch).cast(), 0) };
    }

    /// The memory in the body of a loop.
    ///
    /// # Safety
    /// `context` is what [`Scratch::repeat`] gave to the body.
    #[inline(always)]
    pub unsafe fn of_loop<'run>(context: *mut c_void) -> Option<&'run mut Self> {
        // SAFETY: by the contract it points to a pointer to memory that is the run's, and the loop's while it runs.
        unsafe { context.cast::<*mut Self>().read().as_mut() }
    }
}

/// Puts `value` at `place` and returns what was there, in one instruction that nothing can come between.
///
/// # Safety
/// `place` is a word of a map value.
#[inline(always)]
unsafe fn exchange(place: *mut u64, value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let was = {
        let mut was = value;
        // SAFETY: aligned and alive by the contract.
        unsafe { core::arch::asm!("{0} = xchg_64({1} + 0, {0})", inout(reg) was, in(reg) place) };
        was
    };
    // So that lints can be run on the host.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    let was = unsafe { core::ptr::replace(place, value) };
    was
}
