//! Whose segment it is.

use tcpauth_common::layout::{PeerRule, Policy, Quartet, Session, VlanTag};

use crate::{
    maps::{LOCALS, PEERS, POLICIES, PORTS, SESSIONS, Scratch, VLANS},
    segment::{LATER_FRAGMENT, Segment},
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

/// Which end of the segment is the neighbour's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    Source,
    Destination,
}

/// Finds whose session the TCP segment in `scratch` belongs to, on interface `ifindex`: leaves neighbour and
/// quartet in `scratch` and returns the session, null if there is none yet. `None` if it is nobody's business.
#[inline(always)]
pub fn of_tcp(scratch: &mut Scratch, peer_end: PeerEnd, ifindex: u32) -> Option<*mut Session> {
    let segment = &scratch.segment;
    if !is_protected_port(segment.source_port) && !is_protected_port(segment.destination_port) {
        return None;
    }
    scratch.quartet = quartet(segment, peer_end);
    // Most segments have a session, which knows its neighbour: no look-up by prefix.
    if let Some(session) = SESSIONS.get_ptr_mut(&scratch.quartet) {
        // SAFETY: map values live while the program runs.
        let number = unsafe { (*session).neighbor };
        if let Some(policy) = policy_of(number) {
            scratch.neighbor = Neighbor { number, scope: 0, wrong_interface: 0, policy: *policy };
            return Some(session);
        }
    }
    scratch.neighbor = of_addresses(segment, peer_end, ifindex)?;
    let port = scratch.neighbor.policy.port;
    if segment.source_port != port && segment.destination_port != port {
        return None;
    }
    scratch.quartet.scope = scratch.neighbor.scope;
    Some(SESSIONS.get_ptr_mut(&scratch.quartet).unwrap_or(core::ptr::null_mut()))
}

/// The same for a fragment or packet whose ports nobody can read. A later fragment is left alone: it comes to
/// nothing without the first.
#[inline(always)]
pub fn of_tcp_without_ports(scratch: &mut Scratch, peer_end: PeerEnd, ifindex: u32) -> Option<*mut Session> {
    if scratch.segment.fragment == LATER_FRAGMENT {
        return None;
    }
    scratch.neighbor = of_addresses(&scratch.segment, peer_end, ifindex)?;
    scratch.quartet = quartet(&scratch.segment, peer_end);
    Some(core::ptr::null_mut())
}

/// Whether the frame is tagged for a VLAN interface of this host, which has programs of its own.
#[inline(always)]
pub fn is_for_vlan_interface(segment: &Segment, ifindex: u32) -> bool {
    let tag = VlanTag { lower: ifindex, vid: u32::from(segment.vlan) };
    segment.vlan != 0 && VLANS.get_ptr(tag).is_some()
}

/// Whether some neighbour's sessions may have this port.
#[inline(always)]
pub fn is_protected_port(port: u16) -> bool {
    PORTS.get(u32::from(port)).is_some_and(|protected| *protected != 0)
}

/// The neighbour that `address` on `ifindex` is configured as.
#[inline(always)]
pub fn rule_of(address: &[u8; 16], ifindex: u32) -> Option<&'static PeerRule> {
    // Built in place: the key needs no second copy on the small stack.
    let mut key = aya_ebpf::maps::lpm_trie::Key::new(160, [0u8; 20]);
    key.data[..4].copy_from_slice(&ifindex.to_be_bytes());
    let mut i = 0;
    while i < 16 {
        key.data[4 + i] = address[i];
        i += 1;
    }
    if let Some(rule) = PEERS.get(&key) {
        return Some(rule);
    }
    key.data[..4].copy_from_slice(&[0; 4]);
    PEERS.get(&key)
}

/// The ends of the segment's connection, for a neighbour that is not bound to an interface.
#[inline(always)]
fn quartet(segment: &Segment, peer_end: PeerEnd) -> Quartet {
    let (local, local_port, peer, peer_port) = match peer_end {
        PeerEnd::Source => {
            (segment.destination, segment.destination_port, segment.source, segment.source_port)
        }
        PeerEnd::Destination => {
            (segment.source, segment.source_port, segment.destination, segment.destination_port)
        }
    };
    Quartet { local, peer, local_port, peer_port, scope: 0 }
}

#[inline(always)]
fn policy_of(number: u32) -> Option<&'static Policy> {
    // SAFETY: entries are replaced whole by the daemon, never freed while the program runs.
    POLICIES.get_ptr(number).map(|policy| unsafe { &*policy })
}

#[inline(always)]
fn of_addresses(segment: &Segment, peer_end: PeerEnd, ifindex: u32) -> Option<Neighbor> {
    let (peer, other) = match peer_end {
        PeerEnd::Source => (&segment.source, &segment.destination),
        PeerEnd::Destination => (&segment.destination, &segment.source),
    };
    let rule = rule_of(peer, ifindex)?;
    if rule.flags & PeerRule::HOST != 0 && is_transit(peer, other) {
        return None;
    }
    of_rule(rule)
}

/// The neighbour that a rule names.
#[inline(always)]
pub fn of_rule(rule: &PeerRule) -> Option<Neighbor> {
    Some(Neighbor {
        number: rule.neighbor,
        scope: rule.scope,
        wrong_interface: (rule.flags & PeerRule::WRONG_INTERFACE != 0) as u32,
        policy: *policy_of(rule.neighbor)?,
    })
}

/// Whether a session between two neighbours only passes through this host, as in a full mesh of iBGP: it is
/// theirs to protect. Only told of single addresses: within a prefix it cannot be known who is behind us.
#[inline(always)]
fn is_transit(peer: &[u8; 16], other: &[u8; 16]) -> bool {
    rule_of(other, 0).is_some_and(|rule| rule.flags & PeerRule::HOST != 0)
        && LOCALS.get_ptr(other).is_none()
        && LOCALS.get_ptr(peer).is_none()
}
