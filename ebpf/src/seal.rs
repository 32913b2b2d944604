//! Ingress of the lane's far end: plain segments of at most an MTU get their MAC and go to the wire.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_NET},
    helpers::{
        bpf_csum_diff, bpf_ktime_get_ns, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect,
        bpf_skb_adjust_room, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
};
use tcpauth_common::{
    Algorithm, DropReason, SeqNumber,
    key_choice::{self, KeyChoice, flag},
    layout::{Direction, ETHERTYPE_IPV4, KeySlot, Policy, Session},
    option::{BASE_HEADER, Header, MAX_HEADER, MD5_LEN, kind},
    phase::{self, Leaving},
    sequence::ExtendedSeq,
    unsigned,
};

use crate::{
    account::{self, refuse},
    authenticate::{Covered, Key, MAX_MSS, authenticate, authenticate_md5},
    barrier::{opaque, set_skb_field, skb_field, within},
    frame::load_some,
    headroom,
    hold::hold,
    maps::INTERFACES,
    neighbor::{self, PeerEnd},
    options, priority,
    scratch::{Memory, Scratch},
    segment::{self, Content, ETHERNET, IPV4_HEADER, IPV6_HEADER, NEVER_ZERO, TCP_CHECKSUM},
};

#[inline(always)]
pub fn run(skb: *mut __sk_buff) -> i32 {
    let (slot, priority) = priority::out_of_lane(skb);
    // Without a slot it was let go by the daemon, which marks it.
    let mut ifindex = skb_field!(skb, mark);
    if slot != 0 {
        match INTERFACES.get(slot) {
            Some(of_slot) => ifindex = *of_slot,
            None => return TC_ACT_SHOT,
        }
        priority::restore(skb, priority);
    }
    if ifindex == 0 {
        // Neither `egress` nor the daemon put it into the lane, but a process whose socket is bound to it.
        return TC_ACT_SHOT;
    }
    let Some(mut memory) = Memory::take() else { return account::refuse_without_memory() };
    let scratch = memory.scratch();
    let content = segment::locate(skb, scratch, ETHERNET);
    let session = match content {
        Content::Tcp => neighbor::of_tcp(skb, scratch, PeerEnd::Destination, ifindex),
        Content::TcpWithoutPorts => {
            neighbor::of_tcp_without_ports(skb, scratch, PeerEnd::Destination, ifindex)
        }
        Content::Tags | Content::Unreadable | Content::Icmp | Content::Encapsulated | Content::Other => None,
    };
    let Some(session) = session else { return TC_ACT_SHOT };
    if slot == 0 {
        priority::restore_of(skb, session);
    }
    match seal(skb, scratch, session, content, ifindex, slot == 0) {
        Ok(verdict) => verdict,
        Err(reason) => refuse(skb, scratch, session, reason, Direction::Outbound),
    }
}

/// Puts option and MAC into a segment that leaves (RFC 5925 §7.4).
#[inline(always)]
fn seal(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    session: *mut Session,
    content: Content,
    ifindex: u32,
    is_of_daemon: bool,
) -> Result<i32, DropReason> {
    let header_len = segment::admit(skb, scratch, content)?;
    let (seq, ack) = (segment::seq(&scratch.header), segment::ack(&scratch.header));
    let flags = segment::flags(&scratch.header);
    if scratch.walk.authentications != 0 {
        // The application asked the kernel to sign as well: the peer could only drop it.
        return Err(DropReason::OptionTwice);
    }
    if neighbor::may_be_unsigned(scratch, session, unsigned::leaves) {
        let_go(scratch, session, seq, ack);
        // SAFETY: no pointers.
        return Ok(unsafe { bpf_redirect(ifindex, 0) as i32 });
    }
    segment::refuse_merged(skb)?;
    // SAFETY: null or a map value, which lives while the program runs.
    let is_syn_key = match key_choice::outbound(unsafe { session.as_ref() }, flags, seq, ack) {
        KeyChoice::Hold => return hold(skb, scratch, ifindex, Direction::Outbound),
        KeyChoice::Refuse(reason) => return Err(reason),
        KeyChoice::Syn => true,
        KeyChoice::Traffic => false,
    };
    // SAFETY: as above.
    let of_session = unsafe { session.as_ref() }.ok_or(DropReason::NoSession)?;
    let translation = match phase::leaving(of_session, flags, is_of_daemon) {
        Leaving::Passes(translation) => translation,
        // Not an error to TCP, nor a sign of anything wrong: as if it were lost on its way.
        Leaving::Taken => return Ok(TC_ACT_SHOT),
    };
    if let Some(largest) = headroom::exceeded_limit(skb, session, &scratch.segment, header_len, ifindex) {
        if is_of_daemon {
            // The pieces of the daemon's frame come here again, and are known by its mark.
            set_skb_field!(skb, mark, ifindex);
        }
        return match headroom::split(skb, scratch, header_len, largest) {
            TC_ACT_SHOT => Err(DropReason::Malformed),
            verdict => Ok(verdict),
        };
    }
    let is_md5 = scratch.neighbor.policy.flags & Policy::TCP_MD5 != 0;
    let key = if is_syn_key && !is_md5 { Key::of_syn(&of_session.syn_send)? } else { Key::sent(of_session)? };
    if (key.algorithm == Algorithm::Md5) != is_md5 {
        return Err(DropReason::NoKey);
    }
    let room = key.algorithm.option_len() as u32;
    let head = match is_md5 {
        true => [kind::NOP, kind::NOP, kind::MD5, MD5_LEN as u8],
        false => [kind::AO, room as u8, key.key_id.0, key.rnext_id.0],
    };
    // Outside of the MAC, anyone could change the timestamps of a recorded segment, after which the genuine ones look old
    // (PAWS). Beside the option of TCP-MD5 there would be no room for the others either, when it comes to SACK.
    let without_timestamps = is_md5 || key.flags & KeySlot::EXCLUDE_OPTIONS != 0;
    let head = u32::from_ne_bytes(head);
    let new_len = write_header(scratch, header_len, room, head, u32::from(without_timestamps));
    if new_len == 0 {
        return Err(DropReason::Malformed);
    }
    if !translation.is_none() {
        options::translate(scratch, translation.seq, translation.ack);
    }
    let seq = SeqNumber(seq.0.wrapping_add(translation.seq));
    let ack = SeqNumber(ack.0.wrapping_add(translation.ack));

    // SAFETY: as above.
    let extended = ExtendedSeq(unsafe { (*session).send_seq }).extend(seq);
    let data_len = scratch.segment.len() - header_len;
    scratch.covered = Covered {
        header_len: new_len,
        option_at: new_len - room,
        data_at: scratch.segment.l4 + header_len,
        data_len,
        sne: if is_syn_key { 0 } else { extended.sne() },
        algorithm: key.algorithm as u32,
        flags: u32::from(key.flags),
    };
    // SAFETY: null or in the session, which lives while the program runs.
    let is_authentic = match unsafe { key.slot.as_ref() } {
        Some(slot) if is_md5 => authenticate_md5(skb, scratch, slot),
        _ => authenticate(skb, scratch, key.material),
    };
    if !is_authentic || put_header(skb, scratch, header_len) == 0 {
        return Err(DropReason::Malformed);
    }
    // Last, because writing the header takes its time, too.
    if !neighbor::has_stayed(scratch, session) {
        return Ok(TC_ACT_SHOT);
    }
    note_sent(session, &scratch.header, extended, ack);
    account::count_signed(scratch.neighbor.number, session, new_len + data_len);
    // SAFETY: no pointers.
    Ok(unsafe { bpf_redirect(ifindex, 0) as i32 })
}

/// Takes note of a segment that goes as it is.
#[inline(always)]
fn let_go(scratch: &Scratch, session: *mut Session, seq: SeqNumber, ack: SeqNumber) {
    account::count_unsigned(scratch.neighbor.number, session, Direction::Outbound);
    if !session.is_null() {
        // SAFETY: a map value, which lives while the program runs.
        let extended = ExtendedSeq(unsafe { (*session).send_seq }).extend(seq);
        note_sent(session, &scratch.header, extended, ack);
    }
}

/// Writes the header with the option, MAC and checksum zero, into `scratch.rewritten`: its length, octets, or 0
/// if there is no room. `head` is the option's first word, as it lies in memory. Timestamps leave a SYN if
/// `without_timestamps` is 1 (RFC 5925 §2.2, RFC 5925 §7.6).
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn write_header(
    scratch: *mut Scratch,
    header_len: u32,
    room: u32,
    head: u32,
    without_timestamps: u32,
) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    if room > 20 {
        return 0;
    }
    let mut i = 0;
    while i < 15 {
        scratch.rewritten.words[i] = scratch.header.words[i];
        i += 1;
    }
    let is_syn = segment::flags(&scratch.header) & flag::SYN != 0;
    let (mut kept_len, mut mss_at) = (header_len, scratch.walk.mss_at);
    let without_timestamps = is_syn && without_timestamps != 0 && scratch.walk.timestamps_at != 0;
    if header_len + room > MAX_HEADER
        || scratch.walk.ended != 0
        || (is_syn && scratch.walk.unwanted != 0)
        || without_timestamps
    {
        kept_len = options::rewrite(scratch, room, without_timestamps);
        mss_at = scratch.rewrite.mss_at;
    }
    if is_syn && mss_at != 0 && u32::from(scratch.rewritten.number16(mss_at + 2)) > MAX_MSS {
        // Larger segments than the programs could seal are not asked for.
        scratch.rewritten.set_number16(mss_at + 2, MAX_MSS as u16);
    }
    let Some(kept_len) = within::<{ BASE_HEADER as i32 }, { MAX_HEADER as i32 }>(kept_len) else { return 0 };
    if kept_len + room > MAX_HEADER {
        return 0;
    }
    let new = &mut scratch.rewritten;
    let at = kept_len >> 2;
    new.words[at as usize & 15] = head;
    let mut i = 1;
    while i < 5 {
        new.words[(at + i) as usize & 15] = 0;
        i += 1;
    }
    let new_len = kept_len + room;
    new.set_octet(12, (((new_len >> 2) << 4) as u8) | (new.octet(12) & 0x0f));
    new.words[4] &= 0xffff_0000u32.to_le();
    new_len
}

/// Puts the new TCP header, with the MAC, in the place of the old one of `old_len` octets, and mends lengths,
/// checksums and, for GTSM, the hop limit. 0 if it cannot.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn put_header(skb: *mut __sk_buff, scratch: *mut Scratch, old_len: u32) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let Some(new_len) = within::<{ BASE_HEADER as i32 }, { MAX_HEADER as i32 }>(scratch.covered.header_len)
    else {
        return 0;
    };
    let option_at = scratch.covered.option_at;
    let mut i = 0;
    while i < 4 {
        // Behind a MAC of 12 octets, the last word is not part of the header.
        let word = (option_at >> 2) + 1 + i;
        scratch.rewritten.words[word as usize & 15] = scratch.workspace.mac[i as usize];
        i += 1;
    }
    scratch.rewritten.words[4] = scratch.header.words[4];
    let segment = &scratch.segment;
    let base = segment.l3 + if segment.ethertype == ETHERTYPE_IPV4 { IPV4_HEADER } else { IPV6_HEADER };
    // Room is made behind the fixed IP header: IP options or extension headers have to move back over it.
    let between = opaque(segment.l4 - base);
    let Some(old_len) = within::<{ BASE_HEADER as i32 }, { MAX_HEADER as i32 }>(old_len) else { return 0 };
    if between > 192 {
        return 0;
    }
    if !load_some::<192>(skb, base, scratch.moved.as_mut_ptr(), between) {
        return 0;
    }
    let growth = new_len as i32 - old_len as i32;
    let (l4, len) = (segment.l4, segment.len());
    // SAFETY: lengths are bounded above; pointers are to the scratch value.
    unsafe {
        // The kernel moves the headers before the room as if they lay in the linear part, which those of a frame
        // from a packet socket need not.
        if growth != 0
            && (bpf_skb_pull_data(skb, base) != 0
                || bpf_skb_adjust_room(skb, growth, BPF_ADJ_ROOM_NET, 0) != 0)
        {
            return 0;
        }
        if let Some(between) = within::<1, 192>(between)
            && bpf_skb_store_bytes(skb, base, scratch.moved.as_ptr().cast(), between, 0) != 0
        {
            return 0;
        }
        let (old, new) = (&raw mut scratch.header.words, &raw mut scratch.rewritten.words);
        if bpf_skb_store_bytes(skb, l4, new.cast(), new_len, 0) != 0 {
            return 0;
        }
        let difference = bpf_csum_diff(old.cast(), old_len & !3, new.cast(), new_len & !3, 0);
        if difference < 0
            || bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, 0, difference as u64, NEVER_ZERO) != 0
        {
            return 0;
        }
        if growth != 0 {
            let old_field = u64::from((len as u16).to_be());
            let new_field = u64::from((len.wrapping_add_signed(growth) as u16).to_be());
            let flags = NEVER_ZERO | u64::from(BPF_F_PSEUDO_HDR) | 2;
            if bpf_l4_csum_replace(skb, l4 + TCP_CHECKSUM, old_field, new_field, flags) != 0 {
                return 0;
            }
        }
    }
    put_ip(skb, scratch, growth) as u32
}

/// Mends the length in the IP header and, where GTSM is asked for, sets the hop limit to 255 (RFC 5082).
#[inline(always)]
fn put_ip(skb: *mut __sk_buff, scratch: &Scratch, growth: i32) -> bool {
    let (l3, ip) = (scratch.segment.l3, &scratch.segment.ip);
    let is_ipv4 = scratch.segment.ethertype == ETHERTYPE_IPV4;
    let (length_at, hop_limit_at) = if is_ipv4 { (2, 8) } else { (4, 7) };
    let old = if is_ipv4 { [ip[2], ip[3]] } else { [ip[4], ip[5]] };
    let new = u16::from_be_bytes(old).wrapping_add_signed(growth as i16).to_be();
    let old = u16::from_ne_bytes(old);
    // SAFETY: pointers are to local variables of the given sizes.
    unsafe {
        if bpf_skb_store_bytes(skb, l3 + length_at, (&raw const new).cast(), 2, 0) != 0 {
            return false;
        }
        if is_ipv4 && bpf_l3_csum_replace(skb, l3 + 10, u64::from(old), u64::from(new), 2) != 0 {
            return false;
        }
        if scratch.neighbor.policy.min_hop_limit != 0 {
            let (old, new) = (u16::from_ne_bytes([ip[8], ip[9]]), u16::from_ne_bytes([255, ip[9]]));
            let hop_limit = 255u8;
            if bpf_skb_store_bytes(skb, l3 + hop_limit_at, (&raw const hop_limit).cast(), 1, 0) != 0 {
                return false;
            }
            if is_ipv4 && bpf_l3_csum_replace(skb, l3 + 10, u64::from(old), u64::from(new), 2) != 0 {
                return false;
            }
        }
    }
    true
}

/// In [`Session::seen`]: an RST, of either end.
const ANY_RST: u32 = Session::RST_SENT | Session::RST_RECEIVED;

/// Moves the session's state past a segment that was sealed, and has `extended` and `ack` for its numbers on the wire
/// (RFC 5925 §6.2).
#[inline(always)]
fn note_sent(session: *mut Session, header: &Header, extended: ExtendedSeq, ack: SeqNumber) {
    let flags = segment::flags(header);
    // SAFETY: the session lives while the program runs. Fields are single words; two CPUs may race, and the
    // later of two segments then counts a little later.
    unsafe {
        let session = &mut *session;
        session.last_segment = bpf_ktime_get_ns();
        session.send_seq = ExtendedSeq(session.send_seq).advanced_to(extended).0;
        if flags & flag::ACK != 0 {
            if SeqNumber(session.local_ack).is_before(ack) {
                session.local_ack = ack.0;
            }
            if session.flags & Session::ADOPTED != 0 && session.authenticated == 0 {
                // What arrived unsigned is believed as far as our own stack takes it.
                let received = ExtendedSeq(session.recv_seq);
                session.recv_seq = received.advanced_to(received.extend(ack)).0;
            }
            let scale = if flags & flag::SYN != 0 { 0 } else { session.local_wscale & 15 };
            let window = u32::from(header.number16(14)) << scale;
            if window > session.local_window {
                session.local_window = window;
            }
        }
        if session.seen & ANY_RST != 0 && flags & (flag::SYN | flag::RST | flag::ACK) == flag::ACK {
            // Our end goes on: it did not believe the reset (RFC 5961), or did not send it.
            session.seen &= !ANY_RST;
        }
        if flags & flag::FIN != 0 {
            session.seen |= Session::FIN_SENT;
        }
        if flags & flag::RST != 0 {
            session.seen |= Session::RST_SENT;
        }
    }
}
