//! Ingress of a protected interface: segments from a neighbour are verified, or held for keys, or dropped.

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    helpers::{bpf_check_mtu, bpf_csum_diff, bpf_ktime_get_ns, bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::TcContext,
};
use tcpauth_common::{
    Algorithm, DropReason, SeqNumber,
    key_choice::{self, KeyChoice, flag},
    layout::{Direction, KeySlot, Session},
    option::{BASE_HEADER, MAX_HEADER, kind},
    sequence::{ExtendedSeq, within_window},
};

use crate::{
    account::{self, Refusal, refuse},
    authenticate::{self, Covered, MAX_DATA},
    barrier::{opaque, skb_field},
    hold::hold,
    icmp,
    maps::{SESSIONS, Scratch, scratch},
    neighbor::{self, Neighbor, PeerEnd},
    options,
    segment::{self, Content, ETHERTYPE_IPV4, IPV4_HEADER, IPV6_HEADER},
};

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u32 = 16;

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let ifindex = skb_field!(ctx, ifindex);
    let Some(scratch) = scratch() else { return TC_ACT_UNSPEC };
    let content = segment::locate(ctx, scratch);
    let neighbor = match content {
        Content::Tcp => neighbor::of_tcp(&scratch.segment, PeerEnd::Source, ifindex),
        Content::TcpWithoutPorts => {
            neighbor::of_tcp_without_ports(&scratch.segment, PeerEnd::Source, ifindex)
        }
        Content::Icmp => return icmp::run(ctx, ifindex),
        Content::Other => None,
    };
    let Some(neighbor) = neighbor else { return TC_ACT_UNSPEC };
    if neighbor::is_for_vlan_interface(&scratch.segment, ifindex) {
        return TC_ACT_UNSPEC;
    }
    scratch.header = Default::default();
    scratch.walk = Default::default();
    match verify(ctx, &neighbor, content, ifindex) {
        Ok(verdict) => verdict,
        Err(refusal) => refuse(ctx, &refusal, Direction::Inbound),
    }
}

/// Cheap checks first, the MAC last: a flood that guesses none of them costs no hashing.
#[inline(always)]
fn verify(ctx: &TcContext, neighbor: &Neighbor, content: Content, ifindex: u32) -> Result<i32, Refusal> {
    let because = |reason| Refusal::of(neighbor, reason);
    let scratch = scratch().ok_or(because(DropReason::Malformed))?;
    if neighbor.wrong_interface {
        return Err(because(DropReason::WrongInterface));
    }
    if content == Content::TcpWithoutPorts || scratch.segment.fragment != 0 {
        return Err(because(DropReason::Fragment));
    }
    if skb_field!(ctx, gso_size) != 0 {
        return Err(because(DropReason::Merged));
    }
    let header_len = segment::read_header(ctx, scratch).map_err(because)?;
    options::walk(header_len).ok_or(because(DropReason::Malformed))?;

    let quartet = neighbor::quartet(&scratch.segment, PeerEnd::Source, neighbor.scope);
    let session = SESSIONS.get_ptr_mut(&quartet);
    let because = |reason| Refusal::of(neighbor, reason).in_session(session);
    let seq = segment::seq(&scratch.header);
    let flags = segment::flags(&scratch.header);
    check_option(scratch, neighbor, session, header_len).map_err(because)?;
    if scratch.segment.hop_limit < neighbor.policy.min_hop_limit {
        return Err(because(DropReason::WrongHopLimit));
    }
    // SAFETY: map values live while the program runs.
    let choice = key_choice::inbound(session.map(|session| unsafe { &*session }), flags, seq);
    let is_syn_key = match choice {
        KeyChoice::Hold => {
            return hold(ctx, neighbor, &quartet, ifindex, Direction::Inbound).map_err(because);
        }
        KeyChoice::Refuse(reason) => return Err(because(reason)),
        KeyChoice::Syn => true,
        KeyChoice::Traffic => false,
    };
    let session = session.ok_or(because(DropReason::NoSession))?;
    // SAFETY: as above.
    let slot: &KeySlot = unsafe { if is_syn_key { &(*session).syn } else { &(*session).traffic } };
    let algorithm = Algorithm::from_number(slot.algorithm).ok_or(because(DropReason::NoSession))?;
    // SAFETY: as above.
    let (received, expected, window, peer_isn) = unsafe {
        ((*session).recv_seq, (*session).local_ack, (*session).local_window, (*session).peer_isn)
    };
    let is_first = is_syn_key || (flags & flag::SYN != 0 && seq.0 == peer_isn.0);
    if !is_first && !within_window(seq, SeqNumber(expected), window) {
        return Err(because(DropReason::OutsideWindow));
    }

    let mac_at = opaque(scratch.walk.ao_at) + 4;
    let mac_len = algorithm.mac_len() as u32;
    let mut i = 0;
    while i < 15 {
        scratch.rewritten.words[i] = scratch.header.words[i];
        i += 1;
    }
    let mut i = 0;
    while i < 16 {
        if i < mac_len {
            scratch.rewritten.set_octet(mac_at + i, 0);
        }
        i += 1;
    }
    scratch.rewritten.words[4] &= 0xffff_0000u32.to_le();
    let extended = ExtendedSeq(received).extend(seq);
    let covered = Covered {
        header_len,
        option_at: scratch.walk.ao_at,
        data_at: scratch.segment.l4 + header_len,
        data_len: scratch.segment.len() - header_len,
        sne: if is_syn_key { 0 } else { extended.sne() },
        algorithm: slot.algorithm,
        flags: slot.flags,
    };
    authenticate::compute(ctx, &covered, &raw const slot.recv).map_err(because)?;
    if !authenticate::matches(scratch, mac_at, mac_len) {
        return Err(because(DropReason::WrongMac));
    }

    note_received(session, flags, extended, is_syn_key);
    account::count_verified(neighbor.number, session, scratch.segment.len());
    take_option_away(ctx, header_len, flags).ok_or(because(DropReason::Malformed))?;
    Ok(TC_ACT_UNSPEC)
}

/// One TCP-AO option, with the KeyID and the length that the session's key has, or else the neighbour's.
#[inline(always)]
fn check_option(
    scratch: &Scratch,
    neighbor: &Neighbor,
    session: Option<*mut Session>,
    header_len: u32,
) -> Result<(), DropReason> {
    let walk = &scratch.walk;
    if walk.malformed != 0 {
        return Err(DropReason::Malformed);
    }
    if walk.authentications > 1 {
        return Err(DropReason::OptionTwice);
    }
    if walk.ao_at == 0 {
        return Err(DropReason::NoOption);
    }
    if walk.ao_len < 4 || walk.ao_at + walk.ao_len > header_len {
        return Err(DropReason::WrongLength);
    }
    let (mut recv_id, mut option_len) = (neighbor.policy.recv_id, u32::from(neighbor.policy.option_len));
    if let Some(session) = session {
        // SAFETY: map values live while the program runs.
        let slot = unsafe { &(*session).traffic };
        if let Some(algorithm) = Algorithm::from_number(slot.algorithm) {
            recv_id = slot.recv_id.0;
            option_len = algorithm.option_len() as u32;
        }
    }
    if scratch.header.octet(walk.ao_at + 2) != recv_id {
        return Err(DropReason::UnknownKeyId);
    }
    if walk.ao_len != option_len {
        return Err(DropReason::WrongLength);
    }
    Ok(())
}

/// Turns the option into NOPs: a stack with TCP-AO would refuse it on a socket without keys. In a SYN, lowers
/// the MSS by the option's length, so that what our stack sends has room for it.
#[inline(always)]
fn take_option_away(ctx: &TcContext, header_len: u32, flags: u8) -> Option<()> {
    let skb = ctx.skb.skb;
    let scratch = scratch()?;
    let (at, len) = (scratch.walk.ao_at, scratch.walk.ao_len);
    let new = &mut scratch.rewritten;
    new.words[4] = scratch.header.words[4];
    let mut i = 0;
    while i < 20 {
        if i < len {
            new.set_octet(at + i, kind::NOP);
        }
        i += 1;
    }
    if flags & flag::SYN != 0 && scratch.walk.mss_at != 0 {
        let mss_at = scratch.walk.mss_at + 2;
        let ip_len = if scratch.segment.ethertype == ETHERTYPE_IPV4 { IPV4_HEADER } else { IPV6_HEADER };
        let mut mtu = 0u32;
        // SAFETY: the pointer is to a local variable.
        unsafe { bpf_check_mtu(skb.cast(), 0, &raw mut mtu, 0, 0) };
        let mut mss = u32::from(new.number16(mss_at));
        let most = mtu.saturating_sub(ip_len + BASE_HEADER);
        if mss > most {
            mss = most;
        }
        if mss > MAX_DATA {
            mss = MAX_DATA;
        }
        new.set_number16(mss_at, mss.saturating_sub(len) as u16);
    }
    let header_len = opaque(header_len);
    if !(BASE_HEADER..=MAX_HEADER).contains(&header_len) {
        return None;
    }
    let l4 = scratch.segment.l4;
    let (old, new) = (&raw mut scratch.header.words, &raw mut scratch.rewritten.words);
    // SAFETY: lengths are bounded above; pointers are to the scratch value.
    unsafe {
        // What the header changes by, the checksum changes back: a sum of the whole packet stays right.
        if bpf_skb_store_bytes(skb, l4, new.cast(), header_len, 0) != 0 {
            return None;
        }
        let difference = bpf_csum_diff(old.cast(), header_len & !3, new.cast(), header_len & !3, 0);
        if difference < 0 || bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, 0, difference as u64, 0) != 0 {
            return None;
        }
    }
    Some(())
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
            let advanced = ExtendedSeq(session.recv_seq).advanced_to(extended);
            session.recv_seq = advanced.0;
        }
        if flags & flag::FIN != 0 {
            session.seen |= Session::FIN_RECEIVED;
        }
        if flags & flag::RST != 0 {
            session.seen |= Session::RST_RECEIVED;
        }
    }
}
