//! A session, its keys, and how those change.

use super::{Counters, Passed, Quartet};
use crate::{DropReason, Isn, KeyId, rollover::Rollover};

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
/// The daemon writes it when ISNs become known; the programs move sequence state and counters. RFC 5925 §4.
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
    /// Most octets of TCP header and data of a segment that leave room for any authentication option, if our stack
    /// makes longer ones; otherwise 0. Set with [`Session::ADOPTED`], by the programs for a smaller MTU, and by the daemon for that
    /// of a route.
    pub largest_segment: u32,
    /// Where the connection stands whose keys are agreed on it: [`Session::OPEN`] or another of these.
    pub phase: u32,
    /// Octets of the handshake that went from our end on the connection: what our stack's sequence numbers are behind
    /// those on the wire, once the connection is [`Session::OPEN`].
    pub sent_before: u32,
    /// The same of the peer's end.
    pub received_before: u32,
    /// Key of our SYN without ACK.
    pub syn_send: SynKey,
    /// Key of the peer's SYN without ACK.
    pub syn_recv: SynKey,
    /// Which of `slots` keys what.
    pub rollover: Rollover,
    /// Keys of all other segments; empty until both ISNs are known.
    pub slots: [KeySlot; MAX_KEYS],
    /// Mark of our end's SYN, or of its answer to the peer's: what the daemon sends for our end has the same.
    pub mark: u32,
    /// Priority of it, at most 15.
    pub priority: u32,
    /// Zero.
    pub padding: u32,
}

impl Session {
    /// `local_isn` is known.
    pub const LOCAL_ISN: u32 = 1;
    /// `peer_isn` is known.
    pub const PEER_ISN: u32 = 2;
    /// Both ISNs are known.
    pub const BOTH_ISNS: u32 = Self::LOCAL_ISN | Self::PEER_ISN;
    /// `syn_recv` and `syn_recv_isn` are set.
    pub const SYN_RECV: u32 = 4;
    /// Our end is the client: it sent the first SYN. Of two SYNs that crossed, the end with the lower address, then
    /// port, counts as the client.
    pub const CLIENT: u32 = 8;
    /// The connection was up before it was protected: see [`crate::unsigned`].
    pub const ADOPTED: u32 = 16;
    /// Its keys in `slots` were agreed with the peer's daemon, and follow no key chain.
    pub const AGREED: u32 = 32;
    /// In `phase`: segments go between our stack and the wire. Always, if keys are not agreed on the connection.
    pub const OPEN: u32 = 0;
    /// In `phase`: segments that verify go to the daemon, which sends for our end; but a SYN goes to the server's stack.
    /// What our stack sends is taken, but for SYN and RST.
    pub const HANDSHAKE: u32 = 1;
    /// In `phase`: as [`Session::HANDSHAKE`], until a segment verifies that begins behind the handshake and
    /// acknowledges all of it. That one goes to our stack, and the connection is [`Session::OPEN`].
    pub const SWITCHING: u32 = 2;
    /// In `phase`: no keys were agreed. Nothing passes but a segment with RST.
    pub const FAILED: u32 = 3;
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
    /// With [`KeyChange::SET_PHASE`]: [`Session::phase`] afterwards.
    pub phase: u32,
    /// With [`KeyChange::SET_PHASE`]: [`Session::sent_before`] afterwards.
    pub sent_before: u32,
    /// With [`KeyChange::SET_PHASE`]: [`Session::received_before`] afterwards.
    pub received_before: u32,
    /// With [`KeyChange::LIMIT_SEGMENTS`]: [`Session::largest_segment`] is no more than this afterwards.
    pub largest_segment: u32,
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
    /// The phase of the connection changes, once its keys have.
    pub const SET_PHASE: u32 = 8;
    /// The keys are agreed from now on: [`Session::AGREED`].
    pub const SET_AGREED: u32 = 16;
    /// The keys are those of the neighbour's chain from now on, and no agreed ones.
    pub const FOLLOW_CHAIN: u32 = 32;
    /// Segments that leave no room for the option are cut from now on.
    pub const LIMIT_SEGMENTS: u32 = 64;
    /// What `rekey` returns: done.
    pub const DONE: u32 = 0;
    /// What `rekey` returns: there is no such session.
    pub const NO_SESSION: u32 = 1;
    /// What `rekey` returns: the session has other ISNs.
    pub const OTHER_CONNECTION: u32 = 2;
    /// What `rekey` returns: this is no such record.
    pub const MALFORMED: u32 = 3;
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
        let dropped = counters.dropped.map(u64::from);
        Self { passed: counters.passed, dropped, ..Self::default() }
    }
}
