//! Working memory of the programs: the BPF stack of 512 octets is too small for a segment's headers and a MAC.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcpauth_common::{
    layout::{Held, MAX_HELD, Quartet},
    mac::Workspace,
    option::{Header, OptionRewrite, OptionWalk},
    translation::SackTranslation,
};

use crate::{authenticate::Covered, neighbor::Neighbor, segment::Segment};

/// Working memory of one program run.
///
/// The programs run with bottom halves off and do not nest on a CPU, so one per CPU is enough.
#[repr(C)]
pub struct Scratch {
    /// The segment at hand.
    pub segment: Segment,
    /// Whose it is.
    pub neighbor: Neighbor,
    /// The ends of its connection.
    pub quartet: Quartet,
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

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's working memory. A reference lives until the next call: `bpf_loop` bodies take their own.
#[inline(always)]
pub fn scratch<'run>() -> Option<&'run mut Scratch> {
    // SAFETY: the map value is this CPU's alone while the program runs, and no two references that the
    // callers keep are used alternately.
    unsafe { SCRATCH.get_ptr_mut(0).map(|scratch| &mut *scratch) }
}
