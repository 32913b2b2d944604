//! Whose segment it is.

use core::hint::cold_path;

use aya_ebpf::{bindings::__sk_buff, maps::lpm_trie::Key};
use tcpauth_common::{
    Isn,
    layout::{PeerRule, Policy, Quartet, Session, VlanTag},
};

use crate::{
    account,
    maps::{FORWARDED, LOCALS, PEERS, POLICIES, PORTS, SESSIONS, VLANS},
    scratch::Scratch,
    segment::{self, LATER_FRAGMENT, Segment},
    socket,
    verified::Arrival,
};

/// A protected segment's neighbour.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Neighbor {
    /// Its number.
    pub number: u32,
    /// Interface index it is bound to, else 0.
    pub scope: u32,
    /// 1 if the segment is on another interface than the one the neighbour is bound to.
    pub wrong_interface: u32,
    /// What holds for its segments.
    pub policy: Policy,
}

/// The ISNs in a session, by which it is told from another one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isns {
    local: Isn,
    peer: Isn,
}

impl Isns {
    #[inline(always)]
    fn of(session: *const Session) -> Self {
        // SAFETY: a map value, which lives while the program runs. Read anew each time: that is what it is for.
        unsafe {
            Self {
                local: (&raw const (*session).local_isn).read_volatile(),
                peer: (&raw const (*session).peer_isn).read_volatile(),
            }
        }
    }
}

/// Which end of the segment is the neighbour's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    /// The segment arrives.
    Source(Arrival),
    /// The segment leaves.
    Destination,
}

/// Whose a segment is that leaves for a neighbour.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Our end's: made here, or by an end behind us that the neighbour's `forwarded` names.
    Own,
    /// It is forwarded and says that it comes from this host.
    Spoofed,
    /// It is forwarded, from somebody whose sessions are no business of ours.
    Stranger,
}

/// Finds whose session the TCP segment in `scratch` belongs to, on interface `ifindex`: leaves neighbour and
/// quartet in `scratch` and returns the session, null if there is none yet. `None` if it is nobody's business.
#[inline(always)]
pub fn of_tcp(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    peer_end: PeerEnd,
    ifindex: u32,
) -> Option<*mut Session> {
    let segment = &scratch.segment;
    if !is_protected_port(segment.source_port) && !is_protected_port(segment.destination_port) {
        return None;
    }
    scratch.quartet = quartet(segment, peer_end);
    // Most segments have a session, which knows its neighbour: no look-up by prefix.
    if let Some(session) = session_of(&scratch.quartet) {
        scratch.isns = Isns::of(session);
        // SAFETY: map values live while the program runs.
        let number = unsafe { (*session).neighbor };
        let policy = policy_of(number);
        if !policy.is_missing() {
            scratch.neighbor = Neighbor { number, scope: 0, wrong_interface: 0, policy };
            return Some(session);
        }
    }
    cold_path();
    scratch.neighbor = of_rule(rule_of(&scratch.quartet.peer, ifindex)?);
    let policy = &scratch.neighbor.policy;
    if !policy.is_missing() && !policy.has_port(segment.source_port, segment.destination_port) {
        return None;
    }
    scratch.quartet.scope = scratch.neighbor.scope;
    let session = session_of(&scratch.quartet).unwrap_or(core::ptr::null_mut());
    if !session.is_null() {
        scratch.isns = Isns::of(session);
    }
    let is_ours = !session.is_null()
        || peer_end == PeerEnd::Destination
        || is_from_elsewhere(scratch, peer_end)
            // The route counts without a socket, too: from a local address a source route may go on to another one.
            && (is_own_end(scratch)
                || socket::has_socket(skb, scratch) != 0
                || socket::leads_here(skb, scratch) != 0);
    is_ours.then_some(session)
}

/// The same for a fragment or packet whose ports nobody can read. A later fragment is left alone: it comes to
/// nothing without the first.
#[inline(always)]
pub fn of_tcp_without_ports(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    peer_end: PeerEnd,
    ifindex: u32,
) -> Option<*mut Session> {
    if scratch.segment.fragment == LATER_FRAGMENT {
        return None;
    }
    scratch.quartet = quartet(&scratch.segment, peer_end);
    scratch.neighbor = of_rule(rule_of(&scratch.quartet.peer, ifindex)?);
    let is_ours = peer_end == PeerEnd::Destination
        || is_from_elsewhere(scratch, peer_end)
            && (is_own_end(scratch) || socket::leads_here(skb, scratch) != 0);
    is_ours.then_some(core::ptr::null_mut())
}

/// Whether `session` is still the one that [`of_tcp`] found. An element of the map that the daemon removes or replaces is
/// used again at once, for whatever session comes next, while a program takes a MAC with its keys: what follows from its
/// segment must not move that one. The segment is as if lost; TCP sends it again.
#[inline(always)]
pub fn has_stayed(scratch: &Scratch, session: *const Session) -> bool {
    Isns::of(session) == scratch.isns
}

/// Whose the segment in `scratch` is, which is of `session` (or null) and arrived by the interface `arrived` (0: by none;
/// it was made here, or by a container on a macvlan). To sign what others send would make this host an oracle for
/// whoever sends it forged segments to forward.
#[inline(always)]
pub fn origin(skb: *mut __sk_buff, scratch: &Scratch, session: *const Session, arrived: u32) -> Origin {
    let is_local = is_local(&scratch.quartet.local);
    if (is_local && arrived == 0) || forwarded_by(scratch) == Some(arrived) {
        return Origin::Own;
    }
    if is_local {
        return Origin::Spoofed;
    }
    cold_path();
    // The list of addresses is not all: an address may be a local route's, or new, or gone while its session lives.
    match (session.is_null(), arrived) {
        (false, 0) => Origin::Own,
        (false, _) => Origin::Spoofed,
        (true, 0) if socket::has_socket(skb, scratch) != 0 => Origin::Own,
        (true, _) => Origin::Stranger,
    }
}

/// Whether the segment in `scratch` has no authentication option and may do without by `rule`, of
/// [`tcpauth_common::unsigned`].
#[inline(always)]
pub fn may_be_unsigned(
    scratch: &Scratch,
    session: *const Session,
    rule: impl Fn(Option<&Session>, &Policy, u8, bool) -> bool,
) -> bool {
    let Neighbor { number, policy, .. } = &scratch.neighbor;
    if policy.flags & Policy::ACCEPT_UNSIGNED == 0 || scratch.walk.authentications != 0 {
        return false;
    }
    let flags = segment::flags(&scratch.header);
    // SAFETY: null or a map value, which lives while the program runs.
    rule(unsafe { session.as_ref() }, policy, flags, account::has_authenticated(*number))
}

/// Whether the frame is tagged for a VLAN interface of this host, which has programs of its own.
#[inline(always)]
pub fn is_for_vlan_interface(segment: &Segment, ifindex: u32) -> bool {
    let tag = VlanTag { lower: ifindex, vid: segment.vlan, protocol: segment.vlan_protocol };
    segment.vlan != 0 && VLANS.get_ptr(tag).is_some()
}

/// Whether the address is this host's.
#[inline(always)]
pub fn is_local(address: &[u8; 16]) -> bool {
    LOCALS.get_ptr(address).is_some()
}

/// Whether some neighbour's sessions may have this port.
#[inline(always)]
pub fn is_protected_port(port: u16) -> bool {
    PORTS.get(u32::from(port)).is_some_and(|protected| *protected != 0)
}

/// The rule for `address` on interface `ifindex`.
#[inline(always)]
pub fn rule_of(address: &[u8; 16], ifindex: u32) -> Option<&'static PeerRule> {
    let rule = match PEERS.get(prefix_key(ifindex, address)) {
        Some(rule) => rule,
        None => PEERS.get(prefix_key(0, address))?,
    };
    if rule.flags & PeerRule::NOBODY != 0 { None } else { Some(rule) }
}

/// The neighbour that a rule names.
#[inline(always)]
pub fn of_rule(rule: &PeerRule) -> Neighbor {
    let policy = policy_of(rule.neighbor);
    // Segments of a neighbour whose policy is missing are refused.
    let wrong_interface = u32::from(rule.flags & PeerRule::WRONG_INTERFACE != 0 || policy.is_missing());
    Neighbor { number: rule.neighbor, scope: rule.scope, wrong_interface, policy }
}

/// The session of a connection. The key is read where it lies: a copy takes as long as its hash.
#[inline(always)]
pub fn session_of(quartet: &Quartet) -> Option<*mut Session> {
    SESSIONS.get_ptr_mut(quartet)
}

/// The ends of the segment's connection, for a neighbour that is not bound to an interface.
#[inline(always)]
fn quartet(segment: &Segment, peer_end: PeerEnd) -> Quartet {
    let (local, local_port, peer, peer_port) = match peer_end {
        PeerEnd::Source(_) => {
            (segment.destination, segment.destination_port, segment.source, segment.source_port)
        }
        PeerEnd::Destination => {
            (segment.source, segment.source_port, segment.destination, segment.destination_port)
        }
    };
    Quartet { local, peer, local_port, peer_port, scope: 0 }
}

/// The policy of the neighbour with this number, as it is now.
#[inline(always)]
fn policy_of(number: u32) -> Policy {
    let Some(policy) = POLICIES.get_ptr(number) else { return Policy::MISSING };
    let mut words = [0u64; size_of::<Policy>() / 8];
    let mut i = 0;
    while i < words.len() {
        // SAFETY: a map value, which lives while the program runs, of as many aligned words. Each is read at once.
        words[i] = unsafe { policy.cast::<u64>().add(i).read_volatile() };
        i += 1;
    }
    // SAFETY: of the same size, and valid whatever its bits are.
    unsafe { core::mem::transmute::<[u64; size_of::<Policy>() / 8], Policy>(words) }
}

/// Whether our end of the connection in `scratch` has an address of this host, or is behind it.
#[inline(always)]
fn is_own_end(scratch: &Scratch) -> bool {
    is_local(&scratch.quartet.local) || forwarded_by(scratch).is_some()
}

/// Whether the peer's end of the connection in `scratch` is not on this host too: a prefix of neighbors may contain our
/// own address, and connections within this host have no neighbor.
#[inline(always)]
fn is_from_elsewhere(scratch: &Scratch, peer_end: PeerEnd) -> bool {
    peer_end != PeerEnd::Source(Arrival::Again) || !is_local(&scratch.quartet.peer)
}

/// The interface by which segments of our end of the connection in `scratch` arrive, if it is behind us.
#[inline(always)]
fn forwarded_by(scratch: &Scratch) -> Option<u32> {
    FORWARDED.get(prefix_key(scratch.neighbor.number, &scratch.quartet.local)).copied()
}

/// A whole key of `PEERS` (`number` is an interface index) or `FORWARDED` (a neighbour's number).
#[inline(always)]
fn prefix_key(number: u32, address: &[u8; 16]) -> Key<[u8; 20]> {
    let mut key = Key::new(160, [0u8; 20]);
    let number = number.to_be_bytes();
    let mut i = 0;
    while i < 4 {
        key.data[i] = number[i];
        i += 1;
    }
    let mut i = 0;
    while i < 16 {
        key.data[4 + i] = address[i];
        i += 1;
    }
    key
}
