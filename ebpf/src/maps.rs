//! The maps, by the names of [`tcpauth_common::layout::maps`].

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, RingBuf},
};
use tcpauth_common::layout::{
    Bucket, Counters, MAX_INTERFACES, MAX_SESSIONS, PeerRule, Policy, Quartet, Session, Settings, VlanTag,
};

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
/// An array: each segment asks for one, and an index is not hashed. Numbers begin at 1.
#[map]
pub static POLICIES: Array<Policy> = Array::with_max_entries(MAX_NEIGHBORS + 1, 0);
/// By a neighbor's number, or [`Counters::OF_NO_NEIGHBOR`].
#[map]
pub static COUNTERS: HashMap<u32, Counters> = HashMap::with_max_entries(MAX_NEIGHBORS + 1, BPF_F_NO_PREALLOC);
/// By a neighbor's number, or [`Bucket::OF_ALL`].
#[map]
pub static BUCKETS: HashMap<u32, Bucket> = HashMap::with_max_entries(MAX_NEIGHBORS + 1, BPF_F_NO_PREALLOC);
/// Never evicts: a session's keys cannot be had again without its ISNs.
#[map]
pub static SESSIONS: HashMap<Quartet, Session> = HashMap::with_max_entries(MAX_SESSIONS, BPF_F_NO_PREALLOC);
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
