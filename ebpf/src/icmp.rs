//! ICMP about protected connections (RFC 5925 §7.8): hard errors would let a stranger end them.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_l4_csum_replace, bpf_skb_store_bytes},
};
use tcpauth_common::{
    Algorithm, DropReason,
    layout::{Direction, ETHERTYPE_IPV4, Session},
    rollover::slot_at,
};

use crate::{
    account,
    authenticate::room_of,
    frame, neighbor,
    scratch::Scratch,
    segment::{
        self, IPV4_HEADER, IPV6_FRAGMENT, IPV6_HEADER, LATER_FRAGMENT, MAX_EXTENSIONS, PROTOCOL_ICMP,
        PROTOCOL_ICMPV6, PROTOCOL_TCP,
    },
    verified,
};

/// Octets before the quoted packet.
const ICMP_HEADER: u32 = 8;
const ICMPV6_PACKET_TOO_BIG: u8 = 2;
/// Links of IPv6 carry at least this.
const IPV6_LEAST_MTU: u32 = 1280;

/// Decides about an ICMP message that quotes a segment of a protected session (RFC 5925 §7.8).
#[inline(always)]
pub fn run(skb: *mut __sk_buff, scratch: &mut Scratch, ifindex: u32) -> i32 {
    let segment = &scratch.segment;
    let is_ipv4 = segment.ethertype == ETHERTYPE_IPV4;
    let l4 = segment.l4;
    let mut icmp = [0u8; ICMP_HEADER as usize];
    if segment.fragment == LATER_FRAGMENT || !frame::load(skb, l4, &mut icmp) {
        return TC_ACT_UNSPEC;
    }
    let (is_hard, is_too_big) = match (segment.protocol, icmp[0], icmp[1]) {
        // Destination unreachable: protocol, port, fragmentation needed.
        (PROTOCOL_ICMP, 3, 2..=4) => (true, false),
        // Destination unreachable: prohibited, port.
        (PROTOCOL_ICMPV6, 1, 1 | 4) => (true, false),
        (PROTOCOL_ICMPV6, ICMPV6_PACKET_TOO_BIG, _) => (false, true),
        _ => return TC_ACT_UNSPEC,
    };
    let Some(about_tcp) = find_quoted(skb, scratch, l4 + ICMP_HEADER, is_ipv4) else {
        // A first fragment, or a quotation with more extension headers than are followed. No router sends the
        // like, and our stack would find out what this cannot.
        return if is_hard { TC_ACT_SHOT } else { TC_ACT_UNSPEC };
    };
    if !about_tcp {
        return TC_ACT_UNSPEC;
    }
    let Some(session) = quoted_session(scratch, ifindex) else { return TC_ACT_UNSPEC };
    // SAFETY: map values live while the program runs.
    let session = unsafe { &mut *session };
    let known = session.flags;
    if is_hard && known & Session::LOCAL_ISN != 0 && known & Session::PEER_ISN != 0 {
        return account::refuse(skb, scratch, session, DropReason::Icmp, Direction::Inbound);
    }
    if is_too_big {
        let sealing = session.rollover.sealing(&session.slots);
        let room = slot_at(&session.slots, sealing).map_or(0, |slot| room_of(slot.algorithm));
        if session.sent_before != 0 && session.phase == Session::OPEN {
            give_number_of_stack(skb, scratch, l4, session.sent_before);
        }
        let mtu = u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]);
        lower_mtu(skb, l4, mtu, room);
        // It is changed once.
        verified::mark(skb);
        leave_room(session, mtu, room);
    }
    TC_ACT_UNSPEC
}

/// Leaves in the scratch memory the ends of the TCP segment quoted at `at`, which our end sent, where it begins, and its
/// sequence number. False if it is no TCP segment, `None` if that cannot be told.
#[inline(always)]
fn find_quoted(skb: *mut __sk_buff, scratch: &mut Scratch, at: u32, is_ipv4: bool) -> Option<bool> {
    let quartet = &mut scratch.quartet;
    let tcp_at = if is_ipv4 {
        let mut ip = [0u8; IPV4_HEADER as usize];
        if !frame::load(skb, at, &mut ip) {
            return None;
        }
        if ip[9] != PROTOCOL_TCP {
            return Some(false);
        }
        quartet.local = segment::mapped([ip[12], ip[13], ip[14], ip[15]]);
        quartet.peer = segment::mapped([ip[16], ip[17], ip[18], ip[19]]);
        at + u32::from(ip[0] & 0x0f) * 4
    } else {
        let mut next = [0u8; 1];
        if !frame::load(skb, at + 6, &mut next)
            || !frame::load(skb, at + 8, &mut quartet.local)
            || !frame::load(skb, at + 24, &mut quartet.peer)
        {
            return None;
        }
        let (mut next, mut tcp_at) = (next[0], at + IPV6_HEADER);
        let mut i = 0;
        while i < MAX_EXTENSIONS && segment::is_extension(next) {
            let mut extension = [0u8; 2];
            if !frame::load(skb, tcp_at, &mut extension) {
                return None;
            }
            let len = if next == IPV6_FRAGMENT { 8 } else { (u32::from(extension[1]) + 1) * 8 };
            next = extension[0];
            tcp_at += len;
            i += 1;
        }
        if segment::is_extension(next) {
            return None;
        }
        if next != PROTOCOL_TCP {
            return Some(false);
        }
        tcp_at
    };
    let mut tcp = [0u8; 8];
    if !frame::load(skb, tcp_at, &mut tcp) {
        return None;
    }
    quartet.local_port = u16::from_be_bytes([tcp[0], tcp[1]]);
    quartet.peer_port = u16::from_be_bytes([tcp[2], tcp[3]]);
    segment::forget_header(scratch);
    scratch.quoted_at = tcp_at;
    scratch.header.words[1] = u32::from_ne_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    Some(true)
}

/// The session whose ends are in the scratch memory, if it is a neighbour's. Leaves there whose it is, for the
/// record of the drop.
#[inline(always)]
fn quoted_session(scratch: &mut Scratch, ifindex: u32) -> Option<*mut Session> {
    let quartet = &mut scratch.quartet;
    if !neighbor::is_protected_port(quartet.local_port) && !neighbor::is_protected_port(quartet.peer_port) {
        return None;
    }
    let rule = neighbor::rule_of(&quartet.peer, ifindex)?;
    quartet.scope = rule.scope;
    scratch.neighbor = neighbor::of_rule(rule);
    neighbor::session_of(&scratch.quartet)
}

/// The message quotes the number on the wire, by which our stack would not know its segment.
#[inline(always)]
fn give_number_of_stack(skb: *mut __sk_buff, scratch: &Scratch, l4: u32, sent_before: u32) {
    let number_at = scratch.quoted_at + 4;
    let wire = scratch.header.words[1];
    let ours = u32::from_be(wire).wrapping_sub(sent_before).to_be();
    // SAFETY: the pointer is to a local variable of 4 octets. Failure leaves the message as it was.
    unsafe {
        if bpf_skb_store_bytes(skb, number_at, (&raw const ours).cast(), 4, 0) == 0 {
            bpf_l4_csum_replace(skb, l4 + 2, u64::from(wire), u64::from(ours), 4);
        }
    }
}

/// Lowers the MTU of a Packet Too Big by `room`, because it speaks of the sealed segment and our stack makes it without
/// the option. Not below 1280, because Linux ignores such a message.
#[inline(always)]
fn lower_mtu(skb: *mut __sk_buff, l4: u32, mtu: u32, room: u32) {
    if mtu < IPV6_LEAST_MTU {
        return;
    }
    let lowered = (mtu - room).max(IPV6_LEAST_MTU).to_be();
    // SAFETY: the pointer is to a local variable of 4 octets. Failure leaves the message as it was.
    unsafe {
        if bpf_skb_store_bytes(skb, l4 + 4, (&raw const lowered).cast(), 4, 0) == 0 {
            bpf_l4_csum_replace(skb, l4 + 2, u64::from(mtu.to_be()), u64::from(lowered), 4);
        }
    }
}

/// Has the session's segments cut where the path is so narrow that sealed ones would exceed it: our stack makes packets
/// of 1280 octets whatever it is told (RFC 8200 §5).
#[inline(always)]
fn leave_room(session: &mut Session, mtu: u32, room: u32) {
    if mtu < IPV6_LEAST_MTU || mtu >= IPV6_LEAST_MTU + room {
        return;
    }
    let largest = mtu - IPV6_HEADER - Algorithm::MOST_OPTION_LEN as u32;
    if session.largest_segment == 0 || session.largest_segment > largest {
        session.largest_segment = largest;
    }
}
