//! Ingress of a protected interface: segments from a neighbour are verified, or held for keys, or dropped.

use core::hint::cold_path;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_ktime_get_ns,
};
use tcpauth_common::{
    Algorithm, DropReason, KeyId, SeqNumber,
    key_choice::{self, KeyChoice, flag},
    layout::{Direction, KeyMaterial, MAX_KEYS, Policy, Session},
    option::MD5_LEN,
    phase::{self, Arriving},
    rollover::{NO_ORDER, NO_SLOT, slot_at},
    sequence::{ExtendedSeq, within_window},
    unsigned,
};

use crate::{
    account::{self, refuse},
    authenticate::{self, Covered, MAX_DATA, authenticate, authenticate_md5, room_of},
    barrier::{opaque, skb_field},
    hold::{self, hold},
    icmp, inner,
    neighbor::{self, PeerEnd},
    scratch::{AuthOption, Memory, Scratch},
    segment::{self, BARE_IP, Content, UNFOLLOWED},
    strip::take_option_away,
    verified::{self, Arrival},
};

#[inline(always)]
pub fn run(skb: *mut __sk_buff, link_header: u32, arrival: Arrival) -> i32 {
    if verified::has_passed(skb, arrival) {
        return TC_ACT_UNSPEC;
    }
    let ifindex = skb_field!(skb, ifindex);
    let Some(mut memory) = Memory::take() else { return account::refuse_without_memory() };
    let scratch = memory.scratch();
    let link_header = match link_header {
        BARE_IP => match segment::link_header_of_arrived(skb) {
            Some(link_header) => link_header,
            None => return TC_ACT_SHOT,
        },
        other => other,
    };
    let content = match segment::locate(skb, scratch, link_header) {
        Content::Encapsulated => inner::content(skb, scratch),
        content => content,
    };
    if neighbor::is_for_vlan_interface(&scratch.segment, ifindex) {
        return TC_ACT_UNSPEC;
    }
    let session = match content {
        Content::Tcp => neighbor::of_tcp(skb, scratch, PeerEnd::Source(arrival), ifindex),
        Content::TcpWithoutPorts => {
            neighbor::of_tcp_without_ports(skb, scratch, PeerEnd::Source(arrival), ifindex)
        }
        Content::Icmp => {
            cold_path();
            return icmp::run(skb, scratch, ifindex);
        }
        Content::Tags | Content::Unreadable => return TC_ACT_SHOT,
        Content::Encapsulated | Content::Other => None,
    };
    let Some(session) = session else {
        // Nobody can tell what is behind so many extension headers: an ICMP error about a session, for instance.
        let is_hidden = scratch.segment.fragment == UNFOLLOWED
            && (neighbor::is_local(&scratch.segment.destination)
                || inner::is_unpacked_here(skb, scratch) != 0);
        return if is_hidden { TC_ACT_SHOT } else { TC_ACT_UNSPEC };
    };
    match verify(skb, scratch, session, content, ifindex) {
        Ok(verdict) => verdict,
        Err(reason) => refuse(skb, scratch, session, reason, Direction::Inbound),
    }
}

/// Verifies a segment (RFC 5925 §7.5). Cheap checks first, the MAC last: a flood that guesses none of them costs no
/// hashing.
#[inline(always)]
fn verify(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    session: *mut Session,
    content: Content,
    ifindex: u32,
) -> Result<i32, DropReason> {
    let header_len = segment::admit(skb, scratch, content)?;
    let (seq, ack) = (segment::seq(&scratch.header), segment::ack(&scratch.header));
    let flags = segment::flags(&scratch.header);
    if neighbor::may_be_unsigned(scratch, session, unsigned::arrives) {
        return let_in(scratch, session, seq);
    }
    segment::refuse_merged(skb)?;
    check_option(scratch, header_len)?;
    // SAFETY: null or a map value, which lives while the program runs.
    let of_session = unsafe { session.as_ref() };
    let choice = key_choice::inbound(of_session, flags, seq, ack);
    let candidates = candidates(scratch, of_session, choice)?;
    if scratch.segment.hop_limit < scratch.neighbor.policy.min_hop_limit {
        return Err(DropReason::WrongHopLimit);
    }
    let is_syn_key = match choice {
        KeyChoice::Hold => {
            cold_path();
            return hold(skb, scratch, ifindex, Direction::Inbound);
        }
        KeyChoice::Refuse(reason) => return Err(reason),
        KeyChoice::Syn => true,
        KeyChoice::Traffic => false,
    };
    let of_session = of_session.ok_or(DropReason::NoSession)?;
    let (received, expected, window) = (of_session.recv_seq, of_session.local_ack, of_session.local_window);
    // The SYN may be of another connection than the session's. The peer's SYN-ACK is within the window as long as it
    // means anything; afterwards it would be as if from later, once 2 GiB have passed.
    if !is_syn_key && !within_window(seq, SeqNumber(expected), window) {
        return Err(DropReason::OutsideWindow);
    }

    let extended = ExtendedSeq(received).extend(seq);
    if scratch.segment.len() - header_len > MAX_DATA {
        return Err(DropReason::Malformed);
    }
    blank_mac(scratch);
    scratch.covered = Covered {
        header_len,
        option_at: scratch.option.at,
        data_at: scratch.segment.l4 + header_len,
        data_len: scratch.segment.len() - header_len,
        sne: if is_syn_key { 0 } else { extended.sne() },
        algorithm: 0,
        flags: 0,
    };
    let slot = try_keys(skb, scratch, session, candidates, extended.0);
    if !neighbor::has_stayed(scratch, session) {
        return Ok(TC_ACT_SHOT);
    }
    let slot = answer(slot)?;
    // Read anew: the stack has no room to keep them beside what `try_keys` needs.
    let (seq, ack) = (segment::seq(&scratch.header), segment::ack(&scratch.header));
    let flags = segment::flags(&scratch.header);
    let arriving = phase::arriving(of_session, flags, seq, ack, scratch.covered.data_len, slot);
    match arriving {
        Arriving::Refused => return Err(DropReason::Handshake),
        // What the daemon does not get was not received.
        Arriving::IsOfDaemon => hold::divert(skb, scratch).map(|_| ())?,
        Arriving::Passes(_) | Arriving::Opens(_) => {}
    }
    // The passwords of TCP-MD5 are under a SYN too, which tells nothing of a switch.
    note_received(scratch, session, if is_syn_key { NO_SLOT } else { slot }, extended.0);
    account::count_verified(scratch.neighbor.number, session, scratch.segment.len());
    let translation = match arriving {
        Arriving::Passes(translation) => translation,
        Arriving::Opens(translation) => {
            // SAFETY: a map value, which lives while the program runs. What our stack answers has to see it.
            unsafe { (&raw mut (*session).phase).write_volatile(Session::OPEN) };
            translation
        }
        Arriving::IsOfDaemon | Arriving::Refused => return Ok(TC_ACT_SHOT),
    };
    if take_option_away(skb, scratch, header_len, translation.seq, translation.ack) == 0 {
        return Err(DropReason::Malformed);
    }
    verified::mark(skb);
    Ok(TC_ACT_UNSPEC)
}

/// Takes note of a segment that is accepted without the option. Anybody can forge it: of the session it moves nothing
/// but when it was last heard of.
#[inline(always)]
fn let_in(scratch: &mut Scratch, session: *mut Session, seq: SeqNumber) -> Result<i32, DropReason> {
    if scratch.segment.hop_limit < scratch.neighbor.policy.min_hop_limit {
        return Err(DropReason::WrongHopLimit);
    }
    account::count_unsigned(scratch.neighbor.number, session, Direction::Inbound);
    // SAFETY: null or a map value, which lives while the program runs.
    if let Some(session) = unsafe { session.as_mut() }
        && within_window(seq, SeqNumber(session.local_ack), session.local_window)
    {
        note_received(scratch, session, NO_SLOT, 0);
    }
    Ok(TC_ACT_UNSPEC)
}

/// Checks that there is one option (RFC 5925 §2.2, RFC 2385 §3.0), of the neighbor's wire, and leaves in the scratch
/// memory where it is.
#[inline(always)]
fn check_option(scratch: &mut Scratch, header_len: u32) -> Result<(), DropReason> {
    let walk = &scratch.walk;
    if walk.authentications > 1 {
        return Err(DropReason::OptionTwice);
    }
    let (at, len, head) = match is_md5(scratch) {
        true => (walk.md5_at, MD5_LEN, 2),
        false => (walk.ao_at, walk.ao_len, 4),
    };
    if at == 0 {
        // The walk finds a TCP-MD5 option of the right length only.
        let is_misshapen = is_md5(scratch) && walk.authentications == 1 && walk.ao_at == 0;
        return Err(if is_misshapen { DropReason::WrongLength } else { DropReason::NoOption });
    }
    if len < head || at + len > header_len {
        return Err(DropReason::Malformed);
    }
    let (mac_at, mac_len) = (at + head, len - head);
    scratch.option = AuthOption { at, len, mac_at, mac_len, room: mac_len + 4 };
    Ok(())
}

/// Whether the neighbour's segments carry TCP-MD5.
#[inline(always)]
pub fn is_md5(scratch: &Scratch) -> bool {
    scratch.neighbor.policy.flags & Policy::TCP_MD5 != 0
}

/// KeyID and RNextKeyID of the option of a segment; TCP-MD5 has none.
#[inline(always)]
fn key_ids(scratch: &Scratch) -> Option<(KeyId, KeyId)> {
    let at = scratch.walk.ao_at;
    // Read in any case: else LLVM has a value that was never set spilled, which Linux before 6.3 refuses to read.
    let ids = opaque(u32::from(scratch.header.octet(at + 2)) | u32::from(scratch.header.octet(at + 3)) << 8);
    (!is_md5(scratch)).then_some((KeyId(ids as u8), KeyId((ids >> 8) as u8)))
}

/// The key of the peer's SYN, among the candidates.
const SYN_KEY: u32 = 1 << 8;

/// The keys that the segment may be under: slots in the form of [`Rollover::order`], or [`SYN_KEY`], or none
/// where only the daemon can tell; by the KeyID and the length of the option.
#[inline(always)]
fn candidates(scratch: &Scratch, session: Option<&Session>, choice: KeyChoice) -> Result<u32, DropReason> {
    match (choice, session, key_ids(scratch)) {
        (KeyChoice::Traffic, Some(session), _) | (KeyChoice::Syn, Some(session), None) => {
            answer(slots_for(scratch, session))
        }
        (KeyChoice::Syn, Some(session), Some((key_id, _))) => {
            if session.syn_recv.key_id != key_id {
                Err(DropReason::UnknownKeyId)
            } else if scratch.option.room != room_of(session.syn_recv.algorithm) {
                Err(DropReason::WrongLength)
            } else {
                Ok(SYN_KEY)
            }
        }
        (_, _, Some((key_id, _))) if !scratch.neighbor.policy.accepts(key_id) => {
            Err(DropReason::UnknownKeyId)
        }
        _ => Ok(NO_ORDER),
    }
}

/// In an answer of a global function: the rest is the number of a [`DropReason`].
const REFUSED: u32 = 1 << 16;

/// [`key_choice::candidates`] for the option in the scratch memory.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn slots_for(scratch: *const Scratch, session: *const Session) -> u32 {
    // SAFETY: null or map values, which live while the program runs.
    let (Some(scratch), Some(session)) = (unsafe { (scratch.as_ref(), session.as_ref()) }) else {
        return refused(DropReason::NoKey);
    };
    let key_id = key_ids(scratch).map(|(key_id, _)| key_id);
    match key_choice::candidates(&session.rollover, &session.slots, key_id, scratch.option.room) {
        Ok(candidates) => candidates,
        Err(reason) => refused(reason),
    }
}

/// What a global function answers to refuse a segment.
#[inline(always)]
fn refused(reason: DropReason) -> u32 {
    REFUSED | reason as u32
}

/// The answer of a global function, or the reason of its refusal.
#[inline(always)]
fn answer(answered: u32) -> Result<u32, DropReason> {
    if answered & REFUSED == 0 {
        return Ok(answered);
    }
    match answered & !REFUSED {
        number if number == DropReason::NoKey as u32 => Err(DropReason::NoKey),
        number if number == DropReason::UnknownKeyId as u32 => Err(DropReason::UnknownKeyId),
        number if number == DropReason::WrongLength as u32 => Err(DropReason::WrongLength),
        number if number == DropReason::OldKey as u32 => Err(DropReason::OldKey),
        _ => Err(DropReason::WrongMac),
    }
}

/// Tries the candidates' keys, the newest first: the slot whose key the segment, which begins at `extended`, is under,
/// or [`NO_SLOT`] if that is the key of the SYN; or a refusal (RFC 5925 §7.5, RFC 4808 §2).
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn try_keys(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    session: *const Session,
    candidates: u32,
    extended: u64,
) -> u32 {
    // SAFETY: null or map values, which live while the program runs.
    let (Some(scratch), Some(session)) = (unsafe { (scratch.as_mut(), session.as_ref()) }) else {
        return refused(DropReason::NoKey);
    };
    if candidates == SYN_KEY {
        let syn = &session.syn_recv;
        note_key(scratch, syn.algorithm, syn.flags);
        let is_taken = authenticate(skb, scratch, &raw const syn.material);
        return match is_taken && is_right(scratch, &raw const syn.material) != 0 {
            true => NO_SLOT,
            false => refused(DropReason::WrongMac),
        };
    }
    let mut age = 0;
    while age < MAX_KEYS as u32 {
        let number = (candidates >> (2 * age)) & 3;
        let Some(slot) = slot_at(&session.slots, number) else { break };
        note_key(scratch, slot.algorithm, slot.flags);
        let (is_taken, material) = match slot.algorithm == Algorithm::Md5 as u8 {
            true => (authenticate_md5(skb, scratch, slot), &raw const slot.send),
            false => (authenticate(skb, scratch, &raw const slot.recv), &raw const slot.recv),
        };
        if is_taken && is_right(scratch, material) != 0 {
            let covers = session.rollover.covers(number, ExtendedSeq(extended));
            return if covers { number } else { refused(DropReason::OldKey) };
        }
        age += 1;
    }
    refused(DropReason::WrongMac)
}

#[inline(always)]
fn note_key(scratch: &mut Scratch, algorithm: u8, flags: u8) {
    scratch.covered.algorithm = u32::from(algorithm);
    scratch.covered.flags = u32::from(flags);
}

/// Whether the segment's MAC is the one that was taken, with `key`, and the key is there still. Another CPU may have
/// put one in its place meanwhile, or taken it away: then the MAC was of a mixture, or of zeros, which anybody knows
/// and no key is.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_right(scratch: *const Scratch, key: *const KeyMaterial) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_ref() }) else { return 0 };
    if key.is_null() || !authenticate::matches(scratch, scratch.option.mac_at, scratch.option.mac_len) {
        return 0;
    }
    let (mut difference, mut any) = (0, 0);
    let mut i = 0;
    while i < 16 {
        let used = scratch.workspace.key.words[i];
        // SAFETY: not null, and in a session, which lives while the program runs.
        difference |= used ^ unsafe { (*key).words[i] };
        any |= used;
        i += 1;
    }
    u32::from(difference == 0 && any != 0)
}

/// Copies the header to `scratch.rewritten`, MAC and checksum zero.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn blank_mac(scratch: *mut Scratch) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let AuthOption { mac_at, mac_len, .. } = scratch.option;
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

/// Moves the session's state past a segment that verified, and only then. It begins at `extended`, and verified
/// under the key in `slot`; [`NO_SLOT`]: that of a SYN (RFC 5925 §6.2, RFC 5925 §7.5).
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn note_received(
    scratch: *const Scratch,
    session: *mut Session,
    slot: u32,
    extended: u64,
) -> u32 {
    // SAFETY: null or map values, which live while the program runs. Fields are single words; two CPUs may race, and the
    // later of two segments then counts a little later.
    let (Some(scratch), Some(session)) = (unsafe { (scratch.as_ref(), session.as_mut()) }) else { return 0 };
    let flags = segment::flags(&scratch.header);
    // SAFETY: no arguments.
    session.last_segment = unsafe { bpf_ktime_get_ns() };
    if slot != NO_SLOT {
        let (extended, front) = (ExtendedSeq(extended), ExtendedSeq(session.recv_seq));
        let rnext = key_ids(scratch).map(|(_, rnext)| rnext);
        let now = session.last_segment;
        match rnext {
            Some(rnext) if session.flags & Session::AGREED != 0 => {
                session.rollover.on_verified_onward(&session.slots, slot, rnext, extended, front, now);
            }
            rnext => session.rollover.on_verified(&session.slots, slot, rnext, extended, front, now),
        }
        session.recv_seq = front.advanced_to(extended).0;
        session.authenticated = 1;
    }
    if flags & flag::FIN != 0 {
        session.seen |= Session::FIN_RECEIVED;
    }
    if flags & flag::RST != 0 {
        session.seen |= Session::RST_RECEIVED;
    }
    1
}
