//! The MAC of a segment (RFC 5925 §5.1; RFC 2385 §2).

use core::{ffi::c_void, ptr::null};

use aya_ebpf::bindings::__sk_buff;
use tcpauth_common::{
    Algorithm, DropReason, KeyId,
    layout::{ETHERTYPE_IPV6, KeyMaterial, KeySlot, Session, SynKey},
    mac::{self, MAX_PASSWORD},
    option::{BASE_HEADER, MAX_HEADER},
    rollover::slot_at,
};

#[cfg(target_arch = "bpf")]
use crate::{aes, sha1, sha256, siphash};
use crate::{barrier::opaque, frame::load_some, scratch::Scratch};

/// Octets of data that fit in the workspace beside the rest.
pub const MAX_DATA: u32 = 16_000;

/// Largest MSS that is let through. The kernel makes room for the option in frames of up to 16 KiB less what it
/// keeps for itself, 320 to 768 octets (`SKB_MAX_ALLOC`): headers and option have to fit beside the data.
pub const MAX_MSS: u32 = 15_360;

/// What the MAC is taken of. The TCP header, MAC and checksum zeroed, is in `scratch.rewritten`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Covered {
    /// Length of that header, octets.
    pub header_len: u32,
    /// Offset of the TCP-AO option in it.
    pub option_at: u32,
    /// Where the data is in the frame, octets.
    pub data_at: u32,
    /// Length of the data, octets.
    pub data_len: u32,
    /// Sequence number extension.
    pub sne: u32,
    /// Number of the algorithm.
    pub algorithm: u32,
    /// Flags of the key slot.
    pub flags: u32,
}

/// What one segment is sealed or verified with.
pub struct Key {
    pub algorithm: Algorithm,
    /// KeyID in the segment.
    pub key_id: KeyId,
    /// RNextKeyID in a segment of ours.
    pub rnext_id: KeyId,
    /// Of the key's slot.
    pub flags: u8,
    pub material: *const KeyMaterial,
    /// The key's slot; null for a SYN's key.
    pub slot: *const KeySlot,
}

impl Key {
    /// For the peer's or our SYN without ACK, of TCP-AO.
    #[inline(always)]
    pub fn of_syn(syn: &SynKey) -> Result<Self, DropReason> {
        let algorithm = Algorithm::from_number(syn.algorithm).ok_or(DropReason::NoSession)?;
        let SynKey { key_id, rnext_id, flags, .. } = *syn;
        Ok(Self { algorithm, key_id, rnext_id, flags, material: &raw const syn.material, slot: null() })
    }

    /// For any other segment of ours; of TCP-MD5, for any.
    #[inline(always)]
    pub fn sent(session: &Session) -> Result<Self, DropReason> {
        let number = session.rollover.sealing(&session.slots);
        let slot = slot_at(&session.slots, number).ok_or(DropReason::NoKey)?;
        let algorithm = Algorithm::from_number(slot.algorithm).ok_or(DropReason::NoKey)?;
        let rnext_id = session.rollover.rnext_id(&session.slots, number);
        let KeySlot { send_id, flags, .. } = *slot;
        Ok(Self { algorithm, key_id: send_id, rnext_id, flags, material: &raw const slot.send, slot })
    }
}

/// Octets of the header that the option of an algorithm takes, by its number; 0 if there is none.
#[inline(always)]
pub fn room_of(algorithm: u8) -> u32 {
    Algorithm::from_number(algorithm).map_or(0, |algorithm| algorithm.option_len() as u32)
}

/// Takes the MAC of what `scratch.covered` says, with `key`, into `scratch.workspace.mac`; false if it cannot.
#[inline(always)]
pub fn authenticate(skb: *mut __sk_buff, scratch: &mut Scratch, key: *const KeyMaterial) -> bool {
    let len = assemble(skb, scratch);
    take_mac(scratch, key, len) != 0
}

/// The same of TCP-MD5, with the password in `slot`.
#[inline(always)]
pub fn authenticate_md5(skb: *mut __sk_buff, scratch: &mut Scratch, slot: &KeySlot) -> bool {
    let len = assemble_md5(skb, scratch, slot);
    take_mac(scratch, &raw const slot.send, len) != 0
}

/// Takes the MAC of the first `len` octets of the workspace; 0 if it cannot.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_mac(scratch: *mut Scratch, key: *const KeyMaterial, len: u32) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    if len == 0 || key.is_null() {
        return 0;
    }
    let mut i = 0;
    while i < 16 {
        // SAFETY: not null; the slot is in a session, which lives while the program runs.
        scratch.workspace.key.words[i] = unsafe { (*key).words[i] };
        i += 1;
    }
    scratch.mac_len = len;
    let Some(algorithm) = Algorithm::from_number(scratch.covered.algorithm as u8) else { return 0 };
    // A call for each algorithm: the verifier wants to know whom it calls.
    match algorithm {
        Algorithm::HmacSha1_96 => scratch.repeat(MAX_STAGES, hmac_sha1),
        Algorithm::Aes128Cmac96 => scratch.repeat(MAX_STAGES, aes_cmac),
        Algorithm::HmacSha256_96 | Algorithm::HmacSha256_128 => scratch.repeat(MAX_STAGES, hmac_sha256),
        Algorithm::SipHash2_4_96 => scratch.repeat(MAX_STAGES, siphash),
        Algorithm::Md5 => scratch.repeat(MAX_STAGES, md5),
    }
    1
}

/// Whether the MAC in the workspace is the one at `at` in `scratch.header`, `len` octets (at most 16), told in
/// constant time.
#[inline(always)]
pub fn matches(scratch: &Scratch, at: u32, len: u32) -> bool {
    let mut difference = 0u32;
    let mut i = 0u32;
    while i < 16 {
        let computed = u32::from_le(scratch.workspace.mac[(i >> 2) as usize & 3]) >> ((i & 3) * 8);
        // All ones where i < len: no branch, so that the verifier has one way to follow.
        let counts = ((i.wrapping_sub(len) as i32) >> 31) as u32;
        difference |= u32::from(scratch.header.octet(at + i) ^ computed as u8) & counts;
        i += 1;
    }
    opaque(difference) == 0
}

/// Puts SNE, pseudo-header, TCP header and data into the workspace (RFC 5925 §5.1); their length, octets, or 0 if it
/// cannot.
///
/// A function of its own, so that its stack is free again when the hashing needs some.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn assemble(skb: *mut __sk_buff, scratch: *mut Scratch) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let covered = &scratch.covered;
    let segment = &scratch.segment;
    let input = &mut scratch.workspace.input;
    // The pseudo-header counts what is on the wire, excluded options too.
    let wire_len = covered.header_len + covered.data_len;
    input[0] = covered.sne.to_be();
    let at = if segment.ethertype == ETHERTYPE_IPV6 {
        let mut i = 0;
        while i < 4 {
            input[1 + i] = word_of(&segment.source, i);
            input[5 + i] = word_of(&segment.destination, i);
            i += 1;
        }
        input[9] = wire_len.to_be();
        input[10] = 6u32.to_be();
        11
    } else {
        input[1] = word_of(&segment.source, 3);
        input[2] = word_of(&segment.destination, 3);
        input[3] = (6 << 16 | wire_len).to_be();
        4
    };
    let header = &scratch.rewritten;
    // Told apart, the two places would be two copies of what follows, and a stack too deep for kernels that round each
    // function's up to 32 octets.
    let at = opaque(at as u32) as usize;
    if at > 11 {
        return 0;
    }
    let mut i = 0;
    while i < 15 {
        input[at + i] = header.words[i];
        i += 1;
    }
    let mut header_len = covered.header_len;
    if covered.flags & u32::from(KeySlot::EXCLUDE_OPTIONS) != 0 {
        // The other options are left out; TCP-AO follows the fixed header at once.
        let mut i = 0;
        while i < 5 {
            input[at + 5 + i as usize] = header.word(covered.option_at + 4 * i);
            i += 1;
        }
        header_len = BASE_HEADER + u32::from(header.octet(covered.option_at + 1));
    }
    let header_len = opaque(header_len);
    if header_len > MAX_HEADER {
        return 0;
    }
    let data_len = opaque(covered.data_len);
    if data_len > MAX_DATA {
        return 0;
    }
    let before = at as u32 * 4 + header_len;
    if data_len > 0 {
        // SAFETY: `before` and `data_len` are bounded above so that their sum stays within the input.
        let to = unsafe { input.as_mut_ptr().cast::<u8>().add(before as usize) };
        if !load_some::<{ MAX_DATA as i32 }>(skb, covered.data_at, to, data_len) {
            return 0;
        }
    }
    before + data_len
}

/// The same of TCP-MD5 (RFC 2385 §2.0): pseudo-header, TCP header without options, data, and the password in `slot`.
///
/// A function of its own as [`assemble`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn assemble_md5(skb: *mut __sk_buff, scratch: *mut Scratch, slot: *const KeySlot) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    // SAFETY: null or in a session, which lives while the program runs.
    let Some(slot) = (unsafe { slot.as_ref() }) else { return 0 };
    let covered = &scratch.covered;
    let segment = &scratch.segment;
    let input = &mut scratch.workspace.input;
    let wire_len = covered.header_len + covered.data_len;
    let at = if segment.ethertype == ETHERTYPE_IPV6 {
        let mut i = 0;
        while i < 4 {
            input[i] = word_of(&segment.source, i);
            input[4 + i] = word_of(&segment.destination, i);
            i += 1;
        }
        input[8] = wire_len.to_be();
        input[9] = 6u32.to_be();
        10
    } else {
        input[0] = word_of(&segment.source, 3);
        input[1] = word_of(&segment.destination, 3);
        input[2] = (6 << 16 | wire_len).to_be();
        3
    };
    let header = &scratch.rewritten;
    let mut i = 0;
    while i < BASE_HEADER as usize / 4 {
        input[at + i] = header.words[i];
        i += 1;
    }
    let before = at as u32 * 4 + BASE_HEADER;
    let data_len = opaque(covered.data_len);
    if data_len > MAX_DATA {
        return 0;
    }
    let input = input.as_mut_ptr().cast::<u8>();
    // SAFETY: `before` and `data_len` are bounded above so that their sum stays within the input.
    let to = unsafe { input.add(before as usize) };
    if !load_some::<{ MAX_DATA as i32 }>(skb, covered.data_at, to, data_len) {
        return 0;
    }
    // SAFETY: as above, and a password fits behind them.
    let to = unsafe { input.add((before + data_len) as usize) };
    let mut i = 0;
    while i < MAX_PASSWORD / 4 {
        let word = if i < 15 { slot.send.words[1 + i] } else { slot.recv.words[i - 15] };
        // SAFETY: as above. Behind the password are zeros, which the padding writes over.
        unsafe { to.add(4 * i).cast::<[u8; 4]>().write(word.to_ne_bytes()) };
        i += 1;
    }
    let password_len = slot.send.words[0];
    if password_len > MAX_PASSWORD as u32 { 0 } else { before + data_len + password_len }
}

#[inline(always)]
fn word_of(address: &[u8; 16], index: usize) -> u32 {
    let at = index * 4;
    u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]])
}

/// Most calls of a stage function: a step for each 64 octets, and the outer hash of an HMAC.
const MAX_STAGES: u32 = mac::INPUT_WORDS as u32 / 16 + 1;

extern "C" fn hmac_sha1(index: u64, context: *mut c_void) -> i64 {
    stage(Algorithm::HmacSha1_96, index, context)
}

extern "C" fn hmac_sha256(index: u64, context: *mut c_void) -> i64 {
    stage(Algorithm::HmacSha256_128, index, context)
}

extern "C" fn aes_cmac(index: u64, context: *mut c_void) -> i64 {
    stage(Algorithm::Aes128Cmac96, index, context)
}

extern "C" fn siphash(index: u64, context: *mut c_void) -> i64 {
    stage(Algorithm::SipHash2_4_96, index, context)
}

extern "C" fn md5(index: u64, context: *mut c_void) -> i64 {
    stage(Algorithm::Md5, index, context)
}

/// A step of a MAC over `scratch.mac_len` octets, the first with the start, the last with the end; 1 when it is
/// done.
#[inline(always)]
fn stage(algorithm: Algorithm, index: u64, context: *mut c_void) -> i64 {
    let index = index as u32;
    // SAFETY: given by `repeat`.
    let Some(scratch) = (unsafe { Scratch::of_loop(context) }) else { return 1 };
    let ws = &mut scratch.workspace;
    if index == 0 {
        scratch.mac_steps = mac::start(ws, algorithm, scratch.mac_len);
    }
    // Known before the step, because the mixing of a step takes nearly all registers.
    let (is_step, is_last) = (index < scratch.mac_steps, index + 1 >= scratch.mac_steps);
    if is_step {
        match algorithm {
            #[cfg(target_arch = "bpf")]
            Algorithm::HmacSha1_96 => mac::step_hmac_sha1(ws, index, sha1::compress),
            #[cfg(target_arch = "bpf")]
            Algorithm::Aes128Cmac96 => mac::step_aes_cmac(ws, index, aes::encrypt),
            #[cfg(target_arch = "bpf")]
            Algorithm::HmacSha256_96 | Algorithm::HmacSha256_128 => {
                mac::step_hmac_sha256(ws, index, sha256::compress)
            }
            #[cfg(target_arch = "bpf")]
            Algorithm::SipHash2_4_96 => mac::step_siphash(ws, index, siphash::absorb),
            _ => mac::step(ws, algorithm, index),
        }
    }
    if is_last {
        mac::finish(ws, algorithm);
    }
    is_last.into()
}
