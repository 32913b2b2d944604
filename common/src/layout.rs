//! Keys and values of the eBPF maps, and the events in the ring buffers.
//!
//! All are `repr(C)`, without padding that is not named (a hash map compares padding too), with
//! integers in host byte order unless a field says otherwise. [`LAYOUT_VERSION`] changes with them.

use crate::{DropReason, Isn, KeyId, rollover::Rollover};

/// Version of everything in this file; kept in [`Settings`] so that a daemon recognises pinned maps
/// it cannot use.
pub const LAYOUT_VERSION: u32 = 3;

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
    /// `HashMap<u32, Policy>` by neighbour number.
    pub const POLICIES: &str = "POLICIES";
    /// `HashMap<u32, Counters>` by neighbour number; written by the programs.
    pub const COUNTERS: &str = "COUNTERS";
    /// `HashMap<u32, Bucket>` by neighbour number; written by the programs.
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

/// Largest frame that can be held for keys, in octets. SYN, SYN-ACK and RST carry no data (a SYN
/// with data is cut off at the sender by the loss of its Fast Open option).
pub const MAX_HELD: usize = 512;

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
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// TCP port that makes a connection this neighbour's session, at either end.
    pub port: u16,
    /// Lowest hop limit (TTL) accepted (RFC 5082), 0 for any. If not 0, sealed segments leave with 255.
    pub min_hop_limit: u8,
    /// [`Policy::TCP_MD5`] and the other bits.
    pub flags: u8,
    /// KeyIDs that arriving segments may carry, a bit each: KeyID n is bit n % 32 of word n / 32.
    pub recv_ids: [u32; 8],
}

impl Policy {
    /// The neighbour's segments carry the option of RFC 2385, which has no KeyID.
    pub const TCP_MD5: u8 = 1;
    /// `accept-until-authenticated`: see [`crate::unsigned`].
    pub const ACCEPT_UNSIGNED: u8 = 2;
    /// With [`Policy::ACCEPT_UNSIGNED`]: this side was told to sign.
    pub const SIGN: u8 = 4;

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
}

/// Counts of one session.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// What was sealed and verified.
    pub passed: Passed,
    /// Segments dropped, by [`DropReason`] number; each wraps.
    pub dropped: [u32; DropReason::SLOTS],
}

impl From<SessionCounters> for Counters {
    fn from(counters: SessionCounters) -> Self {
        Self { passed: counters.passed, dropped: counters.dropped.map(u64::from) }
    }
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
    /// When it was last filled, nanoseconds of CLOCK_MONOTONIC.
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
    /// For answers to our SYNs that acknowledge the right number.
    pub answers: Tokens,
    /// For records in [`maps::DROPPED`].
    pub events: Tokens,
}

/// The two ends of a connection, seen from this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

/// Key state of one direction, ready for the data plane; what the words are is
/// the algorithm's affair ([`crate::mac`]). Holds secrets: no `Debug`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct KeyMaterial {
    /// HMAC: hash state after the inner pad, then after the outer pad, 8 words each.
    /// AES-CMAC: the key (4 words), K1 (4 words), zeros.
    /// SipHash: its four variables (8 words), zeros.
    /// MD5: half of a password; [`KeySlot::send`] and [`KeySlot::recv`] are one ([`crate::mac::password`]).
    pub words: [u32; 16],
}

/// One master key tuple's traffic keys for a connection. Holds secrets: no `Debug`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct KeySlot {
    /// [`crate::Algorithm`] number; 0: the slot is empty.
    pub algorithm: u8,
    /// KeyID of segments we send.
    pub send_id: KeyId,
    /// KeyID of segments we accept, and our RNextKeyID.
    pub recv_id: KeyId,
    /// [`KeySlot::EXCLUDE_OPTIONS`] and the other bits.
    pub flags: u8,
    /// Keys the segments we send.
    pub send: KeyMaterial,
    /// Keys the segments we accept.
    pub recv: KeyMaterial,
}

impl KeySlot {
    /// TCP options other than TCP-AO are not under the MAC.
    pub const EXCLUDE_OPTIONS: u8 = 1;
    /// Segments may be sealed with it: its send-lifetime has begun and has not ended.
    pub const SEND: u8 = 2;
    /// Segments are accepted with it: its accept-lifetime has begun and has not ended.
    pub const ACCEPT: u8 = 4;
}

/// Key of SYN segments without ACK in one direction (the other end's ISN counts as 0). Holds a secret: no `Debug`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SynKey {
    /// [`crate::Algorithm`] number; 0: there is none.
    pub algorithm: u8,
    /// KeyID in the SYN.
    pub key_id: KeyId,
    /// RNextKeyID in the SYN.
    pub rnext_id: KeyId,
    /// [`KeySlot::EXCLUDE_OPTIONS`].
    pub flags: u8,
    /// The key.
    pub material: KeyMaterial,
}

/// Keys that a session can have at once.
pub const MAX_KEYS: usize = 3;

/// A connection of a neighbour. Holds secrets: no `Debug`.
///
/// The daemon writes it when ISNs become known; the programs move sequence state and counters.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Session {
    /// The neighbour's number.
    pub neighbor: u32,
    /// [`Session::LOCAL_ISN`] and the other bits.
    pub flags: u32,
    /// ISN of our end, if `flags` says it is known.
    pub local_isn: Isn,
    /// ISN of the peer, if `flags` says it is known.
    pub peer_isn: Isn,
    /// Highest sequence number sent, extended: SNE in the upper 32 bits.
    pub send_seq: u64,
    /// Highest sequence number verified, extended: SNE in the upper 32 bits.
    pub recv_seq: u64,
    /// Highest acknowledgment our end sent: what it expects next.
    pub local_ack: u32,
    /// Largest window our end advertised, octets.
    pub local_window: u32,
    /// Window scale of our end's SYN, 0 to 14.
    pub local_wscale: u32,
    /// [`Session::FIN_SENT`] and the other bits, set by the programs.
    pub seen: u32,
    /// When the daemon made the session, nanoseconds of CLOCK_MONOTONIC.
    pub created: u64,
    /// When a segment was last sealed or verified, nanoseconds of CLOCK_MONOTONIC.
    pub last_segment: u64,
    /// What was counted.
    pub counters: SessionCounters,
    /// ISN of the peer's SYN that `syn_recv` verifies, if `flags` has [`Session::SYN_RECV`]. Differs from
    /// `peer_isn` when the peer begins a new connection with the quartet of an old one.
    pub syn_recv_isn: Isn,
    /// 1 from when the first segment verified, set by the programs.
    pub authenticated: u32,
    /// With [`Session::ADOPTED`]: most octets of TCP header and data of a segment that leave room for any
    /// authentication option. The stack, which does not know of it, makes longer ones.
    pub largest_segment: u32,
    /// Zero.
    pub reserved: u32,
    /// Key of our SYN without ACK.
    pub syn_send: SynKey,
    /// Key of the peer's SYN without ACK.
    pub syn_recv: SynKey,
    /// Which of `slots` keys what.
    pub rollover: Rollover,
    /// Keys of all other segments; empty until both ISNs are known.
    pub slots: [KeySlot; MAX_KEYS],
    /// Zero.
    pub padding: u32,
}

impl Session {
    /// `local_isn` is known.
    pub const LOCAL_ISN: u32 = 1;
    /// `peer_isn` is known.
    pub const PEER_ISN: u32 = 2;
    /// `syn_recv` and `syn_recv_isn` are set.
    pub const SYN_RECV: u32 = 4;
    /// Our end is the client: it sent the first SYN. Of two SYNs that crossed, the end with the lower address, then
    /// port, counts as the client.
    pub const CLIENT: u32 = 8;
    /// The connection was up before it was protected: see [`crate::unsigned`].
    pub const ADOPTED: u32 = 16;
    /// In `seen`: a FIN was sealed.
    pub const FIN_SENT: u32 = 1;
    /// In `seen`: a FIN verified.
    pub const FIN_RECEIVED: u32 = 2;
    /// In `seen`: an RST was sealed.
    pub const RST_SENT: u32 = 4;
    /// In `seen`: an RST verified.
    pub const RST_RECEIVED: u32 = 8;
}

/// How the keys of an established session change: what the program `rekey` is given as its packet. The daemon does
/// not write such a session itself, because programs are at work on it. Holds secrets: no `Debug`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KeyChange {
    /// Whose keys.
    pub quartet: Quartet,
    /// The session must have this ISN, else it is another connection's.
    pub local_isn: Isn,
    /// As `local_isn`.
    pub peer_isn: Isn,
    /// Slots that are written, a bit each; their sequence number of switch-over is forgotten.
    pub written: u32,
    /// [`Rollover::order`] afterwards; slots that are not in it are emptied.
    pub order: u32,
    /// [`Rollover::rnext`] afterwards.
    pub rnext: u32,
    /// The slot to send with if that of now may not be sent with any more, or if `flags` says so.
    pub current: u32,
    /// [`KeyChange::MOVE_CURRENT`] and the other bits.
    pub flags: u32,
    /// [`Session::neighbor`] afterwards.
    pub neighbor: u32,
    /// [`KeySlot::SEND`] and [`KeySlot::ACCEPT`] of each slot afterwards, written or not.
    pub usable: [u8; MAX_KEYS],
    /// Zero.
    pub reserved: u8,
    /// With [`KeyChange::SET_SYN`]: [`Session::syn_recv_isn`] afterwards.
    pub syn_recv_isn: Isn,
    /// With [`KeyChange::SET_SYN`]: [`Session::syn_recv`] afterwards.
    pub syn_recv: SynKey,
    /// What is written.
    pub slots: [KeySlot; MAX_KEYS],
}

impl KeyChange {
    /// Send with `current` at once, not only when the peer follows.
    pub const MOVE_CURRENT: u32 = 1;
    /// The key of the peer's SYN is not accepted any more: the SYN, sent again, has to verify anew.
    pub const FORGET_SYN: u32 = 2;
    /// The peer's SYN that verified last is another: that of a new connection, or an old one played again.
    pub const SET_SYN: u32 = 4;
    /// What `rekey` returns: done.
    pub const DONE: u32 = 0;
    /// What `rekey` returns: there is no such session.
    pub const NO_SESSION: u32 = 1;
    /// What `rekey` returns: the session has other ISNs.
    pub const OTHER_CONNECTION: u32 = 2;
    /// What `rekey` returns: this is no such record.
    pub const MALFORMED: u32 = 3;
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
    /// Offset of the IP header in the frame, octets; 0 on a link without Ethernet headers.
    pub l3_offset: u16,
    /// Offset of the TCP header in the frame, octets.
    pub l4_offset: u16,
    /// EtherType of the network layer, host byte order: [`ETHERTYPE_IPV4`] or [`ETHERTYPE_IPV6`].
    pub ethertype: u16,
    /// Tag protocol of `vlan_tci`, host byte order: 0x8100 or 0x88a8.
    pub vlan_protocol: u16,
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
    /// Zero.
    pub reserved: u32,
}
