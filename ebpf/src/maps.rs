//! The maps, by the names of [`tcpauth_common::layout::maps`], and per-CPU scratch memory.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use tcpauth_common::{
    layout::{
        Bucket, Counters, Held, MAX_HELD, MAX_INTERFACES, PeerRule, Policy, Quartet, Session, Settings,
        VlanTag,
    },
    mac::Workspace,
    option::{Header, OptionRewrite, OptionWalk},
};

use crate::{authenticate::Covered, neighbor::Neighbor, segment::Segment};

/// Most neighbours, prefixes counted as one.
const MAX_NEIGHBORS: u32 = 65_536;

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub static PORTS: Array<u8> = Array::with_max_entries(65_536, 0);
/// Scope (interface index, network byte order, 4 octets) and address (16 octets).
#[map]
pub static PEERS: LpmTrie<[u8; 20], PeerRule> =
    LpmTrie::with_max_entries(2 * MAX_NEIGHBORS, BPF_F_NO_PREALLOC);
/// Neighbour's number (network byte order, 4 octets) and address (16 octets).
#[map]
pub static FORWARDED: LpmTrie<[u8; 20], u32> = LpmTrie::with_max_entries(MAX_NEIGHBORS, BPF_F_NO_PREALLOC);
#[map]
pub static LOCALS: HashMap<[u8; 16], u8> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
#[map]
pub static POLICIES: HashMap<u32, Policy> = HashMap::with_max_entries(MAX_NEIGHBORS, BPF_F_NO_PREALLOC);
#[map]
pub static COUNTERS: HashMap<u32, Counters> = HashMap::with_max_entries(MAX_NEIGHBORS, BPF_F_NO_PREALLOC);
#[map]
pub static BUCKETS: HashMap<u32, Bucket> = HashMap::with_max_entries(MAX_NEIGHBORS, BPF_F_NO_PREALLOC);
/// Never evicts: a session's keys cannot be had again without its ISNs.
#[map]
pub static SESSIONS: HashMap<Quartet, Session> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);
#[map]
pub static SLOTS: HashMap<u32, u16> = HashMap::with_max_entries(MAX_INTERFACES, BPF_F_NO_PREALLOC);
#[map]
pub static INTERFACES: Array<u32> = Array::with_max_entries(MAX_INTERFACES, 0);
#[map]
pub static VLANS: HashMap<VlanTag, u32> = HashMap::with_max_entries(MAX_INTERFACES, BPF_F_NO_PREALLOC);
#[map]
pub static HELD: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
#[map]
pub static HELD_OWN: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
#[map]
pub static DROPPED: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// Working memory of one program run. The BPF stack of 512 octets is too small for it.
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
    /// How its options are rewritten.
    pub rewrite: OptionRewrite,
    /// Headers on their way around a hole for the option.
    pub moved: [u8; 256],
    /// Record for the daemon.
    pub held: HeldRecord,
    /// Octets under the MAC.
    pub mac_len: u32,
    /// Steps that the MAC takes.
    pub mac_steps: u32,
    /// Where the MAC is computed.
    pub workspace: Workspace,
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
