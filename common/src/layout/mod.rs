//! Keys and values of the eBPF maps, and the events in the ring buffers.
//!
//! All are `repr(C)`, without padding that is not named (a hash map compares padding too), with
//! integers in host byte order unless a field says otherwise. [`LAYOUT_VERSION`] changes with them.

use core::net::IpAddr;

pub use session::{KeyChange, KeyMaterial, KeySlot, MAX_KEYS, Session, SessionCounters, SynKey};

use crate::{DropReason, KeyId};

mod session;

/// Version of everything in this file; kept in [`Settings`] so that a daemon recognises pinned maps
/// it cannot use.
pub const LAYOUT_VERSION: u32 = 6;

/// The name of each map, as pinned below the instance's folder.
pub mod maps {
    /// `Array<Settings>` of one.
    pub const SETTINGS: &str = "SETTINGS";
    /// `Array<u8>` indexed by TCP port (host order): 1 if some neighbour's session may use it.
    pub const PORTS: &str = "PORTS";
    /// `LpmTrie<PeerPrefix, PeerRule>`: which neighbour an address is.
    pub const PEERS: &str = "PEERS";
    /// `HashMap<[u8; 16], u8>`: addresses of this host (IPv4 as ::ffff:a.b.c.d).
    pub const LOCALS: &str = "LOCALS";
    /// `LpmTrie<OwnEnd, u32>`: ends of sessions that are behind this host, and the index of the interface
    /// their segments arrive by (0: they do not arrive, as from a macvlan).
    pub const FORWARDED: &str = "FORWARDED";
    /// `Array<Policy>` by neighbour number.
    pub const POLICIES: &str = "POLICIES";
    /// `HashMap<u32, Counters>` by neighbour number, or [`super::Counters::OF_NO_NEIGHBOR`]; written by the programs.
    pub const COUNTERS: &str = "COUNTERS";
    /// `HashMap<u32, Bucket>` by neighbour number, or [`super::Bucket::OF_ALL`]; written by the programs.
    pub const BUCKETS: &str = "BUCKETS";
    /// `HashMap<Quartet, Session>`.
    pub const SESSIONS: &str = "SESSIONS";
    /// `HashMap<u32, u16>`: interface index to its slot (never 0).
    pub const SLOTS: &str = "SLOTS";
    /// `Array<u32>`: slot to interface index.
    pub const INTERFACES: &str = "INTERFACES";
    /// `HashMap<VlanTag, u32>`: tagged frames that a VLAN interface of this host takes.
    pub const VLANS: &str = "VLANS";
    /// Ring buffer of [`super::Held`] followed by the frame: SYNs of peers, which anybody can forge.
    pub const HELD: &str = "HELD";
    /// The same for segments of our own end and the answers to them, which a flood must not delay.
    pub const HELD_OWN: &str = "HELD_OWN";
    /// Ring buffer of [`super::Dropped`].
    pub const DROPPED: &str = "DROPPED";
}

/// Slots for interfaces, one of them (0) unused.
pub const MAX_INTERFACES: u32 = 4096;

/// Largest frame that can be held for keys, in octets: a SYN full of data (RFC 7413) over an MTU of 1500, with tags. TCP
/// sends a longer one again without data.
pub const MAX_HELD: usize = 2048;

/// Most sessions of all neighbors.
pub const MAX_SESSIONS: u32 = 262_144;

/// What the programs need to know of the daemon's arrangements.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`LAYOUT_VERSION`] of the daemon that wrote this.
    pub layout_version: u32,
    /// Interface index of the lane's near end, into which sessions' segments are redirected.
    pub lane0: u32,
    /// Interface index of the lane's far end, where segments are sealed.
    pub lane1: u32,
    /// Inode number of the network namespace that the lane is in.
    pub netns: u32,
}

/// An address of a neighbour for the LPM trie, prefix length first as the kernel wants it.
///
/// The data is the interface index in network byte order (0: any interface) and the address, IPv4
/// as ::ffff:a.b.c.d. `prefix_len` counts bits of both: 32 + 96 + n for an IPv4 prefix /n.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerPrefix {
    /// Bits of `scope` and `address` that count, 32 to 160.
    pub prefix_len: u32,
    /// Interface index, network byte order; 0 for any.
    pub scope: [u8; 4],
    /// The address, IPv4-mapped for IPv4.
    pub address: [u8; 16],
}

/// An end of a neighbour's sessions that is behind this host, for the LPM trie.
///
/// The data is the neighbour's number in network byte order and the address, IPv4 as ::ffff:a.b.c.d.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnEnd {
    /// Bits of `neighbor` and `address` that count, 32 to 160.
    pub prefix_len: u32,
    /// The neighbour's number, network byte order.
    pub neighbor: [u8; 4],
    /// The address, IPv4-mapped for IPv4.
    pub address: [u8; 16],
}

/// What an address in the LPM trie means.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerRule {
    /// The neighbour's number.
    pub neighbor: u32,
    /// Interface index the neighbour is bound to, 0 if none: the `scope` of its quartets.
    pub scope: u32,
    /// [`PeerRule::WRONG_INTERFACE`], [`PeerRule::NOBODY`].
    pub flags: u32,
}

impl PeerRule {
    /// The neighbour is bound to an interface, and this entry stands for all the others.
    pub const WRONG_INTERFACE: u32 = 1;
    /// No neighbour: a hole in a shorter prefix (all of IPv4 in an IPv6 prefix that is short enough).
    pub const NOBODY: u32 = 2;
}

/// What holds for all segments of a neighbour, before any session exists.
///
/// The kernel writes it over while programs read: what has to change together is in the first eight octets, which are
/// an aligned word and read at once. Of `recv_ids` a program may see a part, and hold or refuse a segment that is sent
/// again.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// TCP port that makes a connection this neighbour's session, at either end; 0: there is no such neighbour.
    pub port: u16,
    /// Lowest hop limit (TTL) accepted (RFC 5082), 0 for any. If not 0, sealed segments leave with 255.
    pub min_hop_limit: u8,
    /// [`Policy::TCP_MD5`] and the other bits.
    pub flags: u8,
    /// TCP port of the channel on which keys are agreed with the neighbour; 0: there is none. Its connections are
    /// protected as those with `port`.
    pub kmp_port: u16,
    /// Zero.
    pub reserved: u16,
    /// KeyIDs that arriving segments may carry, a bit each: KeyID n is bit n % 32 of word n / 32.
    pub recv_ids: [u32; 8],
}

impl Policy {
    /// Where no neighbour has the number.
    pub const MISSING: Self =
        Self { port: 0, min_hop_limit: 0, flags: 0, kmp_port: 0, reserved: 0, recv_ids: [0; 8] };

    /// Whether no neighbour has the number.
    #[inline(always)]
    pub const fn is_missing(&self) -> bool {
        self.port == 0
    }

    /// The neighbour's segments carry the option of RFC 2385, which has no KeyID.
    pub const TCP_MD5: u8 = 1;
    /// `accept-until-authenticated`: see [`crate::unsigned`].
    pub const ACCEPT_UNSIGNED: u8 = 2;
    /// With [`Policy::ACCEPT_UNSIGNED`]: this side was told to sign.
    pub const SIGN: u8 = 4;

    /// Whether a connection with these ports at its ends, in either order, is the neighbour's: a session, or the
    /// channel on which keys are agreed.
    #[inline(always)]
    pub const fn has_port(&self, one: u16, other: u16) -> bool {
        let is_session = self.port == one || self.port == other;
        let is_channel = self.kmp_port != 0 && (self.kmp_port == one || self.kmp_port == other);
        is_session || is_channel
    }

    /// Whether arriving segments may carry `id`.
    #[inline(always)]
    pub const fn accepts(&self, id: KeyId) -> bool {
        self.recv_ids[(id.0 >> 5) as usize] >> (id.0 & 31) & 1 != 0
    }

    /// Lets arriving segments carry `id`.
    pub const fn accept(&mut self, id: KeyId) {
        self.recv_ids[(id.0 >> 5) as usize] |= 1 << (id.0 & 31);
    }
}

/// Counts of one neighbour. Segments and octets of TCP header and data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// What was sealed and verified.
    pub passed: Passed,
    /// Segments dropped, by [`DropReason`] number.
    pub dropped: [u64; DropReason::SLOTS],
    /// For records in [`maps::DROPPED`]; here, so that a drop takes one look-up. Filled by the coarse clock.
    pub events: Tokens,
}

impl Counters {
    /// Number, of no neighbor, of the counters of segments whose neighbor was not looked for.
    pub const OF_NO_NEIGHBOR: u32 = 0;
}

/// Segments that went through, octets of TCP header and data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Segments sealed.
    pub signed_segments: u64,
    /// Their octets, option included.
    pub signed_octets: u64,
    /// Segments that verified.
    pub verified_segments: u64,
    /// Their octets, option included.
    pub verified_octets: u64,
    /// Segments that left without the option, as [`crate::unsigned`] says.
    pub unsigned_sent: u64,
    /// Segments that were accepted without the option.
    pub unsigned_received: u64,
}

/// A token bucket, filled with time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// When it was last filled, nanoseconds of CLOCK_MONOTONIC, or of CLOCK_MONOTONIC_COARSE; a bucket has one clock.
    pub filled: u64,
    /// Tokens left.
    pub left: u64,
}

/// Token buckets of one neighbour; written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// For segments held on arrival: forged SYNs end here.
    pub inbound: Tokens,
    /// For segments held on their way out: apart, so that forged ones cannot starve them.
    pub outbound: Tokens,
    /// For SYNs held on their way out that no TCP socket of this host sent: those of a raw socket, which may flood, and
    /// those of ends behind this host.
    pub without_socket: Tokens,
    /// For answers to our SYNs that acknowledge the right number.
    pub answers: Tokens,
}

impl Bucket {
    /// Number, of no neighbor, of the bucket whose `inbound` is for all neighbors together.
    pub const OF_ALL: u32 = 0;
}

/// The two ends of a connection, seen from this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quartet {
    /// Our end's address (ours, or a container's behind us), IPv4-mapped for IPv4.
    pub local: [u8; 16],
    /// The neighbour's address.
    pub peer: [u8; 16],
    /// Our end's port.
    pub local_port: u16,
    /// The neighbour's port.
    pub peer_port: u16,
    /// Interface index of a neighbour bound to one ([`PeerRule::scope`]), else 0.
    pub scope: u32,
}

impl Quartet {
    /// Whether our end has the lower address or, of equal ones, port: where both ends would do the same, one counts.
    pub fn is_lower(&self) -> bool {
        (self.local, self.local_port) < (self.peer, self.peer_port)
    }
}

/// Key of [`maps::VLANS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// Index of the interface on which the tagged frame is seen.
    pub lower: u32,
    /// VLAN identifier, 1 to 4094.
    pub vid: u16,
    /// Tag protocol, host byte order: 0x8100 or 0x88a8.
    pub protocol: u16,
}

/// An address as the maps have it: IPv4 as ::ffff:a.b.c.d.
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Which way a held segment was going.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the neighbour to our end.
    Inbound = 0,
    /// From our end to the neighbour.
    Outbound = 1,
}

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Head of a record in [`maps::HELD`]; `frame_len` octets of frame follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// When it was held, nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// Ends of the connection.
    pub quartet: Quartet,
    /// The neighbour's number.
    pub neighbor: u32,
    /// Interface it was leaving or arriving by.
    pub ifindex: u32,
    /// Length of the frame that follows, octets.
    pub frame_len: u32,
    /// VLAN tag control information that the frame carries beside its octets.
    pub vlan_tci: u16,
    /// 1 if `vlan_tci` counts.
    pub vlan_present: u8,
    /// [`Direction`] number.
    pub direction: u8,
    /// Offset of the segment's IP header in the frame, octets.
    pub l3_offset: u16,
    /// Offset of the TCP header in the frame, octets.
    pub l4_offset: u16,
    /// EtherType of that IP header, host byte order: [`ETHERTYPE_IPV4`] or [`ETHERTYPE_IPV6`].
    pub ethertype: u16,
    /// Tag protocol of `vlan_tci`, host byte order: 0x8100 or 0x88a8.
    pub vlan_protocol: u16,
    /// 1: it arrived, verified, and is part of a handshake on its connection ([`Session::HANDSHAKE`]). Else keys are
    /// missing.
    pub verified: u32,
    /// Mark of our own end's segment; 0 if it arrived.
    pub mark: u32,
    /// Priority of our own end's segment, at most 15; 0 if it arrived.
    pub priority: u32,
    /// 1 if the frame begins with an IP header, as it does on a link without Ethernet headers.
    pub is_bare: u32,
}

/// A record in [`maps::DROPPED`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// When it was dropped, nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// Ends of the connection.
    pub quartet: Quartet,
    /// The neighbour's number.
    pub neighbor: u32,
    /// Interface it was leaving or arriving by.
    pub ifindex: u32,
    /// Sequence number.
    pub seq: u32,
    /// Length of TCP header and data, octets.
    pub segment_len: u32,
    /// [`DropReason`] number.
    pub reason: u8,
    /// [`Direction`] number.
    pub direction: u8,
    /// TCP flags octet.
    pub tcp_flags: u8,
    /// KeyID of the option, if there was one.
    pub key_id: u8,
    /// Which authentication options the segment carried, where they were read: [`Dropped::NO_OPTION`] and others.
    pub options: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Dropped {
    /// [`Dropped::options`]: none.
    pub const NO_OPTION: u8 = 1;
    /// [`Dropped::options`]: TCP-AO.
    pub const AO_OPTION: u8 = 2;
    /// [`Dropped::options`]: TCP-MD5.
    pub const MD5_OPTION: u8 = 3;
    /// [`Dropped::options`]: more than one.
    pub const SEVERAL_OPTIONS: u8 = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_has_the_port_of_its_sessions_and_that_of_its_channel() {
        let policy = Policy { port: 179, kmp_port: 17179, ..Policy::default() };
        for (one, other, wanted) in [
            (179, 40000, true),
            (40000, 179, true),
            (17179, 40000, true),
            (40000, 17179, true),
            (179, 17179, true),
            (40000, 50000, false),
            (0, 40000, false),
        ] {
            assert_eq!(policy.has_port(one, other), wanted, "{one} {other}");
        }
        let without = Policy { kmp_port: 0, ..policy };
        for (one, other) in [(17179, 40000), (40000, 17179), (0, 40000), (40000, 0)] {
            assert!(!without.has_port(one, other), "{one} {other}");
        }
        assert!(without.has_port(40000, 179));
    }
}
