//! Ingress of a protected interface: segments from a neighbour are verified, or held for keys, or dropped.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_check_mtu, bpf_csum_diff, bpf_ktime_get_ns, bpf_l4_csum_replace, bpf_skb_store_bytes},
};
use tcpauth_common::{
    Algorithm, DropReason, KeyId, SeqNumber,
    key_choice::{self, KeyChoice, flag},
    layout::{Direction, ETHERTYPE_IPV4, Session},
    option::{BASE_HEADER, MAX_HEADER, kind},
    sequence::{ExtendedSeq, within_window},
};

use crate::{
    account::{self, refuse},
    authenticate::{self, Covered, Key, MAX_MSS, authenticate},
    barrier::{opaque, skb_field},
    hold::hold,
    icmp,
    neighbor::{self, PeerEnd},
    scratch::{Scratch, scratch},
    segment::{self, Content, IPV4_HEADER, IPV6_HEADER, TCP_CHECKSUM, UNFOLLOWED},
};

#[inline(always)]
pub fn run(skb: *mut __sk_buff, link_header: u32) -> i32 {
    let ifindex = skb_field!(skb, ifindex);
    let Some(scratch) = scratch() else { return TC_ACT_UNSPEC };
    let content = segment::locate(skb, scratch, link_header);
    if neighbor::is_for_vlan_interface(&scratch.segment, ifindex) {
        return TC_ACT_UNSPEC;
    }
    let session = match content {
        Content::Tcp => neighbor::of_tcp(scratch, PeerEnd::Source, ifindex),
        Content::TcpWithoutPorts => neighbor::of_tcp_without_ports(scratch, PeerEnd::Source, ifindex),
        Content::Icmp => return icmp::run(skb, ifindex),
        Content::Tags => return TC_ACT_SHOT,
        Content::Other => None,
    };
    let Some(session) = session else {
        // Nobody can tell what is behind so many extension headers: an ICMP error about a session, for instance.
        let is_hidden =
            scratch.segment.fragment == UNFOLLOWED && neighbor::is_local(&scratch.segment.destination);
        return if is_hidden { TC_ACT_SHOT } else { TC_ACT_UNSPEC };
    };
    match verify(skb, session, content, ifindex) {
        Ok(verdict) => verdict,
        Err(reason) => refuse(skb, session, reason, Direction::Inbound),
    }
}

/// Cheap checks first, the MAC last: a flood that guesses none of them costs no hashing.
#[inline(always)]
fn verify(
    skb: *mut __sk_buff,
    session: *mut Session,
    content: Content,
    ifindex: u32,
) -> Result<i32, DropReason> {
    let header_len = segment::admit(skb, content)?;
    let scratch = scratch().ok_or(DropReason::Malformed)?;
    let (seq, ack) = (segment::seq(&scratch.header), segment::ack(&scratch.header));
    let flags = segment::flags(&scratch.header);
    check_option(scratch, session, header_len)?;
    if scratch.segment.hop_limit < scratch.neighbor.policy.min_hop_limit {
        return Err(DropReason::WrongHopLimit);
    }
    // SAFETY: null or a map value, which lives while the program runs.
    let is_syn_key = match key_choice::inbound(unsafe { session.as_ref() }, flags, seq, ack) {
        KeyChoice::Hold => return hold(skb, ifindex, Direction::Inbound),
        KeyChoice::Refuse(reason) => return Err(reason),
        KeyChoice::Syn => true,
        KeyChoice::Traffic => false,
    };
    // SAFETY: as above.
    let of_session = unsafe { session.as_ref() }.ok_or(DropReason::NoSession)?;
    let key = if is_syn_key { Key::of_syn(&of_session.syn_recv)? } else { Key::received(of_session)? };
    // SAFETY: as above.
    let (received, expected, window, peer_isn) =
        unsafe { ((*session).recv_seq, (*session).local_ack, (*session).local_window, (*session).peer_isn) };
    let is_first = is_syn_key || (flags & flag::SYN != 0 && seq.0 == peer_isn.0);
    if !is_first && !within_window(seq, SeqNumber(expected), window) {
        return Err(DropReason::OutsideWindow);
    }

    let extended = ExtendedSeq(received).extend(seq);
    let mac_len = key.algorithm.mac_len() as u32;
    blank_mac(mac_len);
    scratch.covered = Covered {
        header_len,
        option_at: scratch.walk.ao_at,
        data_at: scratch.segment.l4 + header_len,
        data_len: scratch.segment.len() - header_len,
        sne: if is_syn_key { 0 } else { extended.sne() },
        algorithm: key.algorithm as u32,
        flags: u32::from(key.flags),
    };
    if authenticate(skb, key.material) == 0 {
        return Err(DropReason::Malformed);
    }
    if !authenticate::matches(scratch, scratch.walk.ao_at + 4, mac_len) {
        return Err(DropReason::WrongMac);
    }
    note_received(session, flags, extended, is_syn_key);
    account::count_verified(scratch.neighbor.number, session, scratch.segment.len());
    if take_option_away(skb, header_len) == 0 {
        return Err(DropReason::Malformed);
    }
    Ok(TC_ACT_UNSPEC)
}

/// One TCP-AO option, with the KeyID and the length that the session's key has, or else the neighbour's.
#[inline(always)]
fn check_option(scratch: &Scratch, session: *const Session, header_len: u32) -> Result<(), DropReason> {
    let walk = &scratch.walk;
    if walk.authentications > 1 {
        return Err(DropReason::OptionTwice);
    }
    if walk.ao_at == 0 {
        return Err(DropReason::NoOption);
    }
    if walk.ao_len < 4 || walk.ao_at + walk.ao_len > header_len {
        return Err(DropReason::Malformed);
    }
    let key_id = KeyId(scratch.header.octet(walk.ao_at + 2));
    // SAFETY: null or a map value, which lives while the program runs.
    let slot = unsafe { session.as_ref() }.map(|session| &session.slots[0]);
    match slot.and_then(|slot| Some((slot, Algorithm::from_number(slot.algorithm)?))) {
        Some((slot, _)) if slot.recv_id != key_id => Err(DropReason::UnknownKeyId),
        Some((_, algorithm)) if walk.ao_len != algorithm.option_len() as u32 => Err(DropReason::WrongLength),
        None if !scratch.neighbor.policy.accepts(key_id) => Err(DropReason::UnknownKeyId),
        _ => Ok(()),
    }
}

/// Copies the header to `scratch.rewritten`, MAC and checksum zero.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn blank_mac(mac_len: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let mac_at = scratch.walk.ao_at + 4;
    let mut i = 0;
    while i < 15 {
        scratch.rewritten.words[i] = scratch.header.words[i];
        i += 1;
    }
    let mut i = 0;
    while i < 16 && i < mac_len {
        scratch.rewritten.set_octet(mac_at + i, 0);
        i += 1;
    }
    scratch.rewritten.words[4] &= 0xffff_0000u32.to_le();
    1
}

/// Turns the option into NOPs: a stack with TCP-AO would refuse it on a socket without keys. In a SYN, lowers
/// the MSS by the option's length, so that what our stack sends has room for it. 0 if it cannot.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_option_away(skb: *mut __sk_buff, header_len: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let (at, len) = (scratch.walk.ao_at, scratch.walk.ao_len);
    let new = &mut scratch.rewritten;
    new.words[4] = scratch.header.words[4];
    let mut i = 0;
    while i < 20 && i < len {
        new.set_octet(at + i, kind::NOP);
        i += 1;
    }
    if segment::flags(&scratch.header) & flag::SYN != 0 && scratch.walk.mss_at != 0 {
        let mss_at = scratch.walk.mss_at + 2;
        let ip_len = if scratch.segment.ethertype == ETHERTYPE_IPV4 { IPV4_HEADER } else { IPV6_HEADER };
        let mut mtu = 0u32;
        // SAFETY: the pointer is to a local variable.
        unsafe { bpf_check_mtu(skb.cast(), 0, &raw mut mtu, 0, 0) };
        let most = mtu.saturating_sub(ip_len + BASE_HEADER).min(MAX_MSS);
        let mss = u32::from(new.number16(mss_at)).min(most);
        new.set_number16(mss_at, mss.saturating_sub(len) as u16);
    }
    let header_len = opaque(header_len);
    if !(BASE_HEADER..=MAX_HEADER).contains(&header_len) {
        return 0;
    }
    let l4 = scratch.segment.l4;
    let (old, new) = (&raw mut scratch.header.words, &raw mut scratch.rewritten.words);
    // SAFETY: lengths are bounded above; pointers are to the scratch value.
    unsafe {
        // What the header changes by, the checksum changes back: a sum of the whole packet stays right.
        if bpf_skb_store_bytes(skb, l4, new.cast(), header_len, 0) != 0 {
            return 0;
        }
        let difference = bpf_csum_diff(old.cast(), header_len & !3, new.cast(), header_len & !3, 0);
        if difference < 0 || bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, 0, difference as u64, 0) != 0 {
            return 0;
        }
    }
    1
}

/// Moves the session's state past a segment that verified, and only then.
#[inline(always)]
fn note_received(session: *mut Session, flags: u8, extended: ExtendedSeq, is_syn_key: bool) {
    // SAFETY: the session lives while the program runs. Fields are single words; two CPUs may race, and the
    // later of two segments then counts a little later.
    unsafe {
        let session = &mut *session;
        session.last_segment = bpf_ktime_get_ns();
        if !is_syn_key {
            session.recv_seq = ExtendedSeq(session.recv_seq).advanced_to(extended).0;
        }
        if flags & flag::FIN != 0 {
            session.seen |= Session::FIN_RECEIVED;
        }
        if flags & flag::RST != 0 {
            session.seen |= Session::RST_RECEIVED;
        }
    }
}
