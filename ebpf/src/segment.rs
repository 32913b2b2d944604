//! Where the TCP segment lies in a frame.

use core::hint::cold_path;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_ENFORCE, BPF_F_MARK_MANGLED_0, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::bpf_skb_load_bytes_relative,
};
use tcpauth_common::{
    DropReason, SeqNumber,
    layout::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Policy},
    option::{BASE_HEADER, Header, MAX_HEADER},
};

use crate::{
    barrier::{skb_field, within},
    frame::{load, load_start, load_words},
    options,
    scratch::Scratch,
};

pub const IPV4_HEADER: u32 = 20;
pub const IPV6_HEADER: u32 = 40;
pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_ICMPV6: u8 = 58;
pub const PROTOCOL_IPV4: u8 = 4;
pub const PROTOCOL_IPV6: u8 = 41;
/// The authentication header of IPsec, which is not followed.
pub const PROTOCOL_AH: u8 = 51;

/// Offset of the checksum in a TCP header.
pub const TCP_CHECKSUM: u32 = 16;
/// Flags of `bpf_l4_csum_replace` that store 0xffff where the checksum would become 0x0000, because Linux with TCP-AO
/// refuses a segment with 0x0000: it takes it for one of its own (`tcp_ao_hash_pseudoheader`). Both are zero in one's
/// complement, and every receiver accepts either. The second flag makes the helper mend a field that is 0x0000 before.
pub const NEVER_ZERO: u64 = (BPF_F_MARK_MANGLED_0 | BPF_F_MARK_ENFORCE) as u64;

/// Length of the link's header on an Ethernet interface, octets.
pub const ETHERNET: u32 = 14;
/// Length of the link's header on an interface that carries bare IP packets (a tunnel), octets.
pub const BARE_IP: u32 = 0;
/// Offset of the EtherType in an Ethernet header.
pub const ETHERTYPE: u32 = 12;

const VLAN_TAG: u32 = 4;
/// VLAN tags followed in a frame. The kernel removes any number of tags with identifier 0.
const MAX_TAGS: u32 = 8;
const IPV6_HOP_BY_HOP: u8 = 0;
const IPV6_ROUTING: u8 = 43;
pub const IPV6_FRAGMENT: u8 = 44;
const IPV6_DESTINATION: u8 = 60;
/// Extension headers followed before TCP. More is nothing that a BGP speaker sends.
pub const MAX_EXTENSIONS: u32 = 6;

/// A TCP segment, or the head of another IP packet. Offsets in octets from the start of the frame.
#[repr(C)]
pub struct Segment {
    /// Source and destination, IPv4-mapped for IPv4.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// The IP header, at an offset of whole words.
    pub ip: [u8; 40],
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of what follows the IP header and its extensions.
    pub l4: u32,
    /// Offset of the first octet behind the IP packet.
    pub end: u32,
    pub source_port: u16,
    pub destination_port: u16,
    /// Of the network layer, without VLAN tags.
    pub ethertype: u16,
    /// Identifier of the outermost VLAN tag, 0 if there is none.
    pub vlan: u16,
    /// Protocol of the outermost VLAN tag, 0 if there is none.
    pub vlan_protocol: u16,
    pub protocol: u8,
    pub hop_limit: u8,
    /// [`FIRST_FRAGMENT`], [`LATER_FRAGMENT`], [`UNFOLLOWED`], or 0 for a whole packet.
    pub fragment: u8,
    /// The head of an extension header, read while they are followed.
    pub extension: [u8; 8],
    /// 1 if the IPv6 header is followed by a routing header.
    pub is_routed: u8,
    /// 1 if the frame begins with an IP header.
    pub is_bare: u8,
    pub reserved: [u8; 5],
}

/// A fragment with an offset of 0.
pub const FIRST_FRAGMENT: u8 = 1;
/// A fragment with another offset: it has no ports, and is nothing without the first.
pub const LATER_FRAGMENT: u8 = 2;
/// More extension headers than are followed: what comes after them may be TCP.
pub const UNFOLLOWED: u8 = 3;

const _: () = assert!(core::mem::offset_of!(Segment, ip) % 4 == 0);

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A TCP segment: ports are read.
    Tcp,
    /// A fragment of a TCP segment too short for the ports, or one that is not the first, or extension headers
    /// that nobody follows.
    TcpWithoutPorts,
    /// More VLAN tags than are followed: nobody can tell what is behind them.
    Tags,
    /// An ICMP or ICMPv6 message.
    Icmp,
    /// IPv6 with another IP packet inside, or with a header in front of one that is not followed: see [`crate::inner`].
    Encapsulated,
    /// IPv4 or IPv6 by the EtherType, without a header of that version that can be read: the kernel drops such a
    /// packet, unless it finds the header elsewhere.
    Unreadable,
    /// Anything else.
    Other,
}

impl Segment {
    /// Octets of TCP header and data.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.end.wrapping_sub(self.l4)
    }
}

/// The link's header in front of a packet that arrived on an interface for bare IP packets: [`BARE_IP`], or [`ETHERNET`]
/// on one that leaves the header of the interface below in the frame (xfrm, vti). `None` if it is neither.
#[inline(always)]
pub fn link_header_of_arrived(skb: *mut __sk_buff) -> Option<u32> {
    // The linear part of the frame ends as many octets behind the network header as it is long, less what is in front.
    let linear = skb_field!(skb, data_end).wrapping_sub(skb_field!(skb, data));
    if is_in_packet(skb, linear.wrapping_sub(1)) {
        return Some(BARE_IP);
    }
    cold_path();
    let of_packet = linear.wrapping_sub(ETHERNET);
    let is_ethernet = is_in_packet(skb, of_packet.wrapping_sub(1)) && !is_in_packet(skb, of_packet);
    is_ethernet.then_some(ETHERNET)
}

/// Whether the octet at `offset` from the network header is in the linear part of the frame.
#[inline(always)]
fn is_in_packet(skb: *mut __sk_buff, offset: u32) -> bool {
    let mut octet = 0u8;
    // SAFETY: the pointer is to a local variable of 1 octet.
    unsafe {
        bpf_skb_load_bytes_relative(skb.cast(), offset, (&raw mut octet).cast(), 1, BPF_HDR_START_NET) == 0
    }
}

/// Reads the frame's headers up to the ports into `scratch.segment`, and the fixed part of a TCP header into
/// `scratch.header`. `link_header` is [`ETHERNET`] or [`BARE_IP`].
#[inline(always)]
pub fn locate(skb: *mut __sk_buff, scratch: &mut Scratch, link_header: u32) -> Content {
    let segment = &mut scratch.segment;
    segment.vlan = 0;
    segment.vlan_protocol = 0;
    segment.source_port = 0;
    segment.destination_port = 0;
    if skb_field!(skb, vlan_present) != 0 {
        segment.vlan = (skb_field!(skb, vlan_tci) & 0xfff) as u16;
        segment.vlan_protocol = u16::from_be(skb_field!(skb, vlan_proto) as u16);
    }
    segment.l3 = link_header;
    segment.is_bare = u8::from(link_header == BARE_IP);
    let mut ethertype = u16::from_be(skb_field!(skb, protocol) as u16);
    if link_header == ETHERNET {
        // Not the kernel's word for it: a VLAN interface that leaves the tag in the frame has told it the type inside.
        let mut inside = [0; 1];
        if !load_words(skb, ETHERTYPE, &mut inside) {
            return Content::Other;
        }
        ethertype = (u32::from_be(inside[0]) >> 16) as u16;
        let mut i = 0;
        while i < MAX_TAGS && is_tag(ethertype) {
            cold_path();
            let mut tag = [0u8; VLAN_TAG as usize];
            if !load(skb, segment.l3, &mut tag) {
                return Content::Other;
            }
            if segment.vlan_protocol == 0 {
                segment.vlan = u16::from_be_bytes([tag[0], tag[1]]) & 0xfff;
                segment.vlan_protocol = ethertype;
            }
            ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            segment.l3 += VLAN_TAG;
            i += 1;
        }
        if is_tag(ethertype) {
            return Content::Tags;
        }
    }
    locate_packet(skb, scratch, ethertype)
}

/// The rest of [`locate`]: the IP header of this EtherType is at `scratch.segment.l3`.
#[inline(always)]
pub fn locate_packet(skb: *mut __sk_buff, scratch: &mut Scratch, ethertype: u16) -> Content {
    let segment = &mut scratch.segment;
    segment.fragment = 0;
    segment.ethertype = ethertype;
    let is_readable = match ethertype {
        ETHERTYPE_IPV4 => locate_ipv4(skb, segment),
        ETHERTYPE_IPV6 => locate_ipv6(skb, segment),
        _ => return Content::Other,
    };
    if !is_readable {
        cold_path();
        return Content::Unreadable;
    }
    match segment.protocol {
        PROTOCOL_TCP => {
            let is_later = segment.fragment >= LATER_FRAGMENT;
            forget_header(scratch);
            if is_later || !load_base(skb, scratch) {
                cold_path();
                return Content::TcpWithoutPorts;
            }
            let ports = u32::from_be(scratch.header.words[0]);
            scratch.segment.source_port = (ports >> 16) as u16;
            scratch.segment.destination_port = ports as u16;
            Content::Tcp
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => Content::Icmp,
        PROTOCOL_IPV4 | PROTOCOL_IPV6 | PROTOCOL_AH if ethertype == ETHERTYPE_IPV6 => Content::Encapsulated,
        _ => Content::Other,
    }
}

/// Reads the fixed part of the TCP header into `scratch.header`, or what is needed of it to see whose a segment is
/// that is too short: false if there is not even that.
#[inline(always)]
fn load_base(skb: *mut __sk_buff, scratch: &mut Scratch) -> bool {
    let l4 = scratch.segment.l4;
    let Some(base) = scratch.header.words.first_chunk_mut::<{ BASE_HEADER as usize / 4 }>() else {
        return false;
    };
    if load_words(skb, l4, base) {
        return true;
    }
    cold_path();
    scratch.header.words.first_chunk_mut::<1>().is_some_and(|ports| load_words(skb, l4, ports))
}

/// Reads the rest of the TCP header into `scratch.header`; its length, octets.
#[inline(always)]
fn read_header(skb: *mut __sk_buff, scratch: &mut Scratch) -> Result<u32, DropReason> {
    let available = skb_field!(skb, len);
    let len = scratch.segment.len();
    if scratch.segment.end > available || !(BASE_HEADER..=0xffff).contains(&len) {
        return Err(DropReason::Malformed);
    }
    let header_len = within::<{ BASE_HEADER as i32 }, { MAX_HEADER as i32 }>(scratch.header.len_by_offset())
        .ok_or(DropReason::Malformed)?;
    if header_len > len {
        return Err(DropReason::Malformed);
    }
    let [_, _, _, _, _, usual @ .., _, _, _, _] = &mut scratch.header.words;
    let (at, options_len) = (scratch.segment.l4 + BASE_HEADER, header_len - BASE_HEADER);
    // As many as timestamps and an option of 16 take, which is all that an acknowledgment has.
    let is_read = if options_len <= size_of_val(usual) as u32 {
        load_start::<7, 28>(skb, at, usual, options_len)
    } else {
        let [_, _, _, _, _, all @ .., _] = &mut scratch.header.words;
        load_start::<10, 40>(skb, at, all, options_len)
    };
    if is_read { Ok(header_len) } else { Err(DropReason::Malformed) }
}

/// Reads the TCP header of a neighbour's segment and walks over its options, after all that rules it out without
/// a look at it. The header's length, octets.
#[inline(always)]
pub fn admit(skb: *mut __sk_buff, scratch: &mut Scratch, content: Content) -> Result<u32, DropReason> {
    if scratch.neighbor.wrong_interface != 0 {
        return Err(DropReason::WrongInterface);
    }
    if content == Content::TcpWithoutPorts || scratch.segment.fragment != 0 {
        cold_path();
        return Err(DropReason::Fragment);
    }
    // Segments that carry MACs are not merged by the kernel: each has its own. Others are.
    if scratch.neighbor.policy.flags & Policy::ACCEPT_UNSIGNED == 0 {
        refuse_merged(skb)?;
    }
    let header_len = read_header(skb, scratch)?;
    options::walk(scratch, header_len);
    if scratch.walk.malformed != 0 {
        return Err(DropReason::Malformed);
    }
    Ok(header_len)
}

/// Only the kernel merges segments, and only such that have the same options: at most one of them is genuine.
#[inline(always)]
pub fn refuse_merged(skb: *mut __sk_buff) -> Result<(), DropReason> {
    if skb_field!(skb, gso_size) != 0 { Err(DropReason::Merged) } else { Ok(()) }
}

/// Makes sure that the record of a drop has no sequence number, flags and KeyID of an earlier segment, if no header can
/// be read.
#[inline(always)]
pub fn forget_header(scratch: &mut Scratch) {
    scratch.header.words[1] = 0;
    scratch.header.words[3] = 0;
    scratch.walk.ao_at = 0;
}

/// Sequence number in a TCP header.
#[inline(always)]
pub fn seq(header: &Header) -> SeqNumber {
    SeqNumber(u32::from_be(header.words[1]))
}

/// Acknowledgment number in a TCP header.
#[inline(always)]
pub fn ack(header: &Header) -> SeqNumber {
    SeqNumber(u32::from_be(header.words[2]))
}

/// The flags octet of a TCP header.
#[inline(always)]
pub fn flags(header: &Header) -> u8 {
    header.octet(13)
}

#[inline(always)]
fn locate_ipv4(skb: *mut __sk_buff, segment: &mut Segment) -> bool {
    // SAFETY: the field has room, and lies at whole words.
    let words = unsafe { &mut *segment.ip.as_mut_ptr().cast::<[u32; IPV4_HEADER as usize / 4]>() };
    if !load_words(skb, segment.l3, words) {
        return false;
    }
    let [first, second, third, source, destination] = *words;
    let (first, second, third) = (u32::from_be(first), u32::from_be(second), u32::from_be(third));
    let header_len = (first >> 24 & 0x0f) * 4;
    if first >> 28 != 4 || header_len < IPV4_HEADER {
        return false;
    }
    segment.protocol = (third >> 16) as u8;
    segment.hop_limit = (third >> 24) as u8;
    if second & 0x1fff != 0 {
        segment.fragment = LATER_FRAGMENT;
    } else if second & 0x2000 != 0 {
        segment.fragment = FIRST_FRAGMENT;
    }
    segment.l4 = segment.l3 + header_len;
    segment.end = segment.l3 + (first & 0xffff);
    segment.source = mapped(source.to_ne_bytes());
    segment.destination = mapped(destination.to_ne_bytes());
    true
}

#[inline(always)]
fn locate_ipv6(skb: *mut __sk_buff, segment: &mut Segment) -> bool {
    // SAFETY: the field has room, and lies at whole words.
    let words = unsafe { &mut *segment.ip.as_mut_ptr().cast::<[u32; IPV6_HEADER as usize / 4]>() };
    if !load_words(skb, segment.l3, words) {
        return false;
    }
    let words = *words;
    let second = u32::from_be(words[1]);
    if u32::from_be(words[0]) >> 28 != 6 {
        return false;
    }
    segment.hop_limit = second as u8;
    segment.is_routed = 0;
    segment.end = segment.l3 + IPV6_HEADER + (second >> 16);
    segment.source = address([words[2], words[3], words[4], words[5]]);
    segment.destination = address([words[6], words[7], words[8], words[9]]);
    let mut next = (second >> 8) as u8;
    let mut at = segment.l3 + IPV6_HEADER;
    let mut i = 0;
    while i < MAX_EXTENSIONS && is_extension(next) {
        cold_path();
        if next == IPV6_FRAGMENT {
            if !load(skb, at, &mut segment.extension) {
                return false;
            }
            next = segment.extension[0];
            at += 8;
            let fragment = u16::from_be_bytes([segment.extension[2], segment.extension[3]]);
            if fragment & 0xfff8 != 0 {
                segment.fragment = LATER_FRAGMENT;
                break;
            } else if fragment & 1 != 0 {
                segment.fragment = FIRST_FRAGMENT;
            }
        } else {
            if !load(skb, at, &mut segment.extension) {
                break;
            }
            segment.is_routed |= u8::from(next == IPV6_ROUTING);
            next = segment.extension[0];
            at += (u32::from(segment.extension[1]) + 1) * 8;
        }
        i += 1;
    }
    if is_extension(next) {
        if segment.fragment != LATER_FRAGMENT {
            segment.fragment = UNFOLLOWED;
        }
        next = PROTOCOL_TCP;
    }
    segment.protocol = next;
    segment.l4 = at;
    true
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == 0x8100 || ethertype == 0x88a8
}

/// Whether an IPv6 header of this number is followed by another header.
#[inline(always)]
pub fn is_extension(number: u8) -> bool {
    number == IPV6_HOP_BY_HOP
        || number == IPV6_DESTINATION
        || number == IPV6_ROUTING
        || number == IPV6_FRAGMENT
}

/// ::ffff:a.b.c.d
#[inline(always)]
pub fn mapped(v4: [u8; 4]) -> [u8; 16] {
    address([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(v4)])
}

/// An address whose octets lie as on the wire.
#[inline(always)]
fn address(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are 16 octets, of which any will do.
    unsafe { core::mem::transmute(words) }
}
