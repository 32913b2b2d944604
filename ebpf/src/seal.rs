//! Ingress of the lane's far end: plain segments of at most an MTU get their MAC and go to the wire.

use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_NET},
    helpers::{
        bpf_csum_diff, bpf_ktime_get_ns, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect,
        bpf_skb_adjust_room, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use tcpauth_common::{
    Algorithm, DropReason, SeqNumber,
    key_choice::{self, KeyChoice, flag},
    layout::{Direction, KeySlot, Session},
    option::{BASE_HEADER, MAX_HEADER, kind},
    sequence::ExtendedSeq,
};

use crate::{
    account::{self, Refusal, refuse},
    authenticate::{self, Covered, MAX_DATA},
    barrier::{opaque, skb_field},
    hold::hold,
    maps::{INTERFACES, SESSIONS, scratch},
    neighbor::{self, Neighbor, PeerEnd},
    options,
    segment::{self, Content, ETHERTYPE_IPV4, IPV4_HEADER, IPV6_HEADER, load_raw},
};

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u32 = 16;

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let (slot, mark) = (skb_field!(ctx, tc_index), skb_field!(ctx, mark));
    let ifindex = match slot {
        // Let go by the daemon.
        0 => mark,
        slot => match INTERFACES.get(slot) {
            Some(ifindex) => *ifindex,
            None => return TC_ACT_SHOT,
        },
    };
    let Some(scratch) = scratch() else { return TC_ACT_SHOT };
    let content = segment::locate(ctx, scratch);
    let neighbor = match content {
        Content::Tcp => neighbor::of_tcp(&scratch.segment, PeerEnd::Destination, ifindex),
        Content::TcpWithoutPorts => {
            neighbor::of_tcp_without_ports(&scratch.segment, PeerEnd::Destination, ifindex)
        }
        Content::Icmp | Content::Other => None,
    };
    let Some(neighbor) = neighbor else { return TC_ACT_SHOT };
    scratch.header = Default::default();
    scratch.walk = Default::default();
    match seal(ctx, &neighbor, content, ifindex) {
        Ok(verdict) => verdict,
        Err(refusal) => refuse(ctx, &refusal, Direction::Outbound),
    }
}

#[inline(always)]
fn seal(ctx: &TcContext, neighbor: &Neighbor, content: Content, ifindex: u32) -> Result<i32, Refusal> {
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

    let quartet = neighbor::quartet(&scratch.segment, PeerEnd::Destination, neighbor.scope);
    let session = SESSIONS.get_ptr_mut(&quartet);
    let because = |reason| Refusal::of(neighbor, reason).in_session(session);
    let (seq, ack) = (segment::seq(&scratch.header), segment::ack(&scratch.header));
    let flags = segment::flags(&scratch.header);
    if scratch.walk.malformed != 0 {
        return Err(because(DropReason::Malformed));
    }
    if scratch.walk.authentications != 0 {
        // The application asked the kernel to sign as well: the peer could only drop it.
        return Err(because(DropReason::OptionTwice));
    }
    // SAFETY: map values live while the program runs.
    let choice = key_choice::outbound(session.map(|session| unsafe { &*session }), flags, seq, ack);
    let is_syn_key = match choice {
        KeyChoice::Hold => {
            return hold(ctx, neighbor, &quartet, ifindex, Direction::Outbound).map_err(because);
        }
        KeyChoice::Refuse(reason) => return Err(because(reason)),
        KeyChoice::Syn => true,
        KeyChoice::Traffic => false,
    };
    let session = session.ok_or(because(DropReason::NoSession))?;
    // SAFETY: as above.
    let slot: &KeySlot = unsafe { if is_syn_key { &(*session).syn } else { &(*session).traffic } };
    let algorithm = Algorithm::from_number(slot.algorithm).ok_or(because(DropReason::NoSession))?;

    // The new header, first with a MAC of zeros.
    let room = algorithm.option_len() as u32;
    let is_syn = flags & flag::SYN != 0;
    let mut i = 0;
    while i < 15 {
        scratch.rewritten.words[i] = scratch.header.words[i];
        i += 1;
    }
    let must_rewrite = header_len + room > MAX_HEADER || (is_syn && scratch.walk.unwanted != 0);
    let kept_len =
        if must_rewrite { options::rewrite(room).ok_or(because(DropReason::Malformed))? } else { header_len };
    let kept_len = opaque(kept_len);
    if !(BASE_HEADER..=MAX_HEADER - room).contains(&kept_len) {
        return Err(because(DropReason::Malformed));
    }
    let new_len = kept_len + room;
    let new = &mut scratch.rewritten;
    if is_syn && scratch.walk.mss_at != 0 && !must_rewrite {
        // Larger segments than the peer's programs could verify are not asked for.
        let at = scratch.walk.mss_at + 2;
        if u32::from(new.number16(at)) > MAX_DATA {
            new.set_number16(at, MAX_DATA as u16);
        }
    }
    let option_word = (kept_len >> 2) as usize;
    let head = [kind::AO, room as u8, slot.send_id.0, slot.recv_id.0];
    new.words[option_word & 15] = u32::from_ne_bytes(head);
    let mut i = 1;
    while i < 5 {
        new.words[(option_word + i) & 15] = 0;
        i += 1;
    }
    new.set_octet(12, (((new_len >> 2) << 4) as u8) | (new.octet(12) & 0x0f));
    let checksum = new.words[4];
    new.words[4] &= 0xffff_0000u32.to_le();

    // SAFETY: as above.
    let sent = ExtendedSeq(unsafe { (*session).send_seq });
    let extended = sent.extend(seq);
    let data_len = scratch.segment.len() - header_len;
    let covered = Covered {
        header_len: new_len,
        option_at: kept_len,
        data_at: scratch.segment.l4 + header_len,
        data_len,
        sne: if is_syn_key { 0 } else { extended.sne() },
        algorithm: slot.algorithm,
        flags: slot.flags,
    };
    authenticate::compute(ctx, &covered, &raw const slot.send).map_err(because)?;

    let mac_words = (room >> 2) as usize - 1;
    let mut i = 0;
    while i < 4 {
        if i < mac_words {
            scratch.rewritten.words[(option_word + 1 + i) & 15] = scratch.workspace.mac[i];
        }
        i += 1;
    }
    scratch.rewritten.words[4] = checksum;
    let growth = new_len as i32 - header_len as i32;
    put_header(ctx, header_len, new_len, growth).ok_or(because(DropReason::Malformed))?;
    put_ip(ctx, growth, neighbor.policy.min_hop_limit != 0).ok_or(because(DropReason::Malformed))?;

    note_sent(session, &scratch.header, flags, extended, ack);
    account::count_signed(neighbor.number, session, new_len + data_len);
    // SAFETY: no pointers.
    Ok(unsafe { bpf_redirect(ifindex, 0) as i32 })
}

/// Puts the new TCP header in the place of the old one, and mends the checksum.
#[inline(always)]
fn put_header(ctx: &TcContext, old_len: u32, new_len: u32, growth: i32) -> Option<()> {
    let skb = ctx.skb.skb;
    let scratch = scratch()?;
    let segment = &scratch.segment;
    let base = segment.l3 + if segment.ethertype == ETHERTYPE_IPV4 { IPV4_HEADER } else { IPV6_HEADER };
    // Room is made behind the fixed IP header: IP options or extension headers have to move back over it.
    let between = opaque(segment.l4 - base);
    if between > 192 {
        return None;
    }
    if between > 0 && !load_raw(skb, base, scratch.moved.as_mut_ptr(), between) {
        return None;
    }
    let (l4, len) = (segment.l4, segment.len());
    let old_len = opaque(old_len);
    let new_len = opaque(new_len);
    if !(BASE_HEADER..=MAX_HEADER).contains(&old_len) || !(BASE_HEADER..=MAX_HEADER).contains(&new_len) {
        return None;
    }
    // SAFETY: lengths are bounded above; pointers are to the scratch value.
    unsafe {
        if growth != 0 && bpf_skb_adjust_room(skb, growth, BPF_ADJ_ROOM_NET, 0) != 0 {
            return None;
        }
        if between > 0 && bpf_skb_store_bytes(skb, base, scratch.moved.as_ptr().cast(), between, 0) != 0 {
            return None;
        }
        let (old, new) = (&raw mut scratch.header.words, &raw mut scratch.rewritten.words);
        if bpf_skb_store_bytes(skb, l4, new.cast(), new_len, 0) != 0 {
            return None;
        }
        let difference = bpf_csum_diff(old.cast(), old_len & !3, new.cast(), new_len & !3, 0);
        if difference < 0 || bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, 0, difference as u64, 0) != 0 {
            return None;
        }
        if growth != 0 {
            let old_field = u64::from((len as u16).to_be());
            let new_field = u64::from((len.wrapping_add_signed(growth) as u16).to_be());
            let flags = u64::from(BPF_F_PSEUDO_HDR) | 2;
            if bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, old_field, new_field, flags) != 0 {
                return None;
            }
        }
    }
    Some(())
}

/// Mends the length in the IP header and, if `gtsm`, sets the hop limit to 255 (RFC 5082).
#[inline(always)]
fn put_ip(ctx: &TcContext, growth: i32, gtsm: bool) -> Option<()> {
    let skb = ctx.skb.skb;
    let segment = &scratch()?.segment;
    let (l3, ip) = (segment.l3, &segment.ip);
    let is_ipv4 = segment.ethertype == ETHERTYPE_IPV4;
    let (length_at, hop_limit_at) = if is_ipv4 { (2usize, 8usize) } else { (4, 7) };
    let old = u16::from_be_bytes([ip[length_at], ip[length_at + 1]]);
    let new = old.wrapping_add_signed(growth as i16).to_be();
    // SAFETY: pointers are to local variables of the given sizes.
    unsafe {
        if bpf_skb_store_bytes(skb, l3 + length_at as u32, (&raw const new).cast(), 2, 0) != 0 {
            return None;
        }
        if is_ipv4
            && bpf_l3_csum_replace(skb, l3 + 10, u64::from(old.to_be()), u64::from(new), 2) != 0
        {
            return None;
        }
        if gtsm {
            let old = u16::from_ne_bytes([ip[hop_limit_at], ip[9]]);
            let new = u16::from_ne_bytes([255, ip[9]]);
            if bpf_skb_store_bytes(skb, l3 + hop_limit_at as u32, [255u8].as_ptr().cast(), 1, 0) != 0 {
                return None;
            }
            if is_ipv4 && bpf_l3_csum_replace(skb, l3 + 10, u64::from(old), u64::from(new), 2) != 0 {
                return None;
            }
        }
    }
    Some(())
}

/// Moves the session's state past a segment that was sealed.
#[inline(always)]
fn note_sent(
    session: *mut Session,
    header: &tcpauth_common::option::Header,
    flags: u8,
    extended: ExtendedSeq,
    ack: SeqNumber,
) {
    // SAFETY: the session lives while the program runs. Fields are single words; two CPUs may race, and the
    // later of two segments then counts a little later.
    unsafe {
        let session = &mut *session;
        session.last_segment = bpf_ktime_get_ns();
        let advanced = ExtendedSeq(session.send_seq).advanced_to(extended);
        session.send_seq = advanced.0;
        if flags & flag::ACK != 0 {
            if SeqNumber(session.local_ack).is_before(ack) {
                session.local_ack = ack.0;
            }
            let scale = if flags & flag::SYN != 0 { 0 } else { session.local_wscale & 15 };
            let window = u32::from(header.number16(14)) << scale;
            if window > session.local_window {
                session.local_window = window;
            }
        }
        if flags & flag::FIN != 0 {
            session.seen |= Session::FIN_SENT;
        }
        if flags & flag::RST != 0 {
            session.seen |= Session::RST_SENT;
        }
    }
}
