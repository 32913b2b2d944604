//! Whether our end of a connection is on this host, by the kernel's own tables: the list of addresses lacks those of
//! local routes (`ip route add local`), and those that are new.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_fib_lookup, bpf_sk_release, bpf_skc_lookup_tcp},
};
use tcpauth_common::layout::ETHERTYPE_IPV4;

use crate::{barrier::skb_field, scratch::Scratch};

/// TCP_LISTEN.
const LISTENS: u32 = 10;
/// BPF_F_CURRENT_NETNS.
const THIS_NAMESPACE: u64 = -1i64 as u64;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
/// BPF_FIB_LKUP_RET_NOT_FWDED: a local route, or none.
pub const NOT_FORWARDED: i64 = 4;
/// BPF_FIB_LKUP_RET_FWD_DISABLED.
pub const FORWARDS_NOTHING: i64 = 5;
/// BPF_FIB_LKUP_RET_UNSUPP_LWT: the route does more to a packet than to pass it on.
pub const HAS_ACTION: i64 = 6;
/// PACKET_OTHERHOST: the frame is for another MAC address, as those of a macvlan are.
const OTHER_HOST: u32 = 3;

/// Words of `struct bpf_fib_lookup`.
const FIB_WORDS: usize = 16;

/// Whether a socket of this host has the connection in `scratch.quartet`: one of exactly these ends (a request for a
/// connection and one in TIME-WAIT included), or one that listens, if our end's address is on this host: a socket that
/// listens on all addresses is found for those of other hosts too.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn has_socket(skb: *mut __sk_buff, scratch: *const Scratch) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_ref() }) else { return 1 };
    let quartet = &scratch.quartet;
    let (peer, local) = (words(&quartet.peer), words(&quartet.local));
    // Source first, as in what arrives.
    let ports = u32::from(quartet.peer_port.to_be()) | u32::from(quartet.local_port.to_be()) << 16;
    // SAFETY: the tuples are local variables of the lengths given; the socket is read before it is released.
    let state = unsafe {
        let socket = if scratch.segment.ethertype == ETHERTYPE_IPV4 {
            let mut tuple = [peer[3], local[3], ports];
            bpf_skc_lookup_tcp(skb.cast(), (&raw mut tuple).cast(), 12, THIS_NAMESPACE, 0)
        } else {
            let mut tuple = [0u32; 9];
            tuple[..4].copy_from_slice(&peer);
            tuple[4..8].copy_from_slice(&local);
            tuple[8] = ports;
            bpf_skc_lookup_tcp(skb.cast(), (&raw mut tuple).cast(), 36, THIS_NAMESPACE, 0)
        };
        if socket.is_null() {
            return 0;
        }
        let state = (&raw const (*socket).state).read_volatile();
        bpf_sk_release(socket.cast());
        state
    };
    if state == LISTENS { leads_here(skb, scratch) } else { 1 }
}

/// Whether what is sent to our end's address in `scratch.quartet` ends on this host, by its routes.
///
/// A global function of the object: the verifier follows it once, not once for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leads_here(skb: *mut __sk_buff, scratch: *const Scratch) -> u32 {
    // SAFETY: null or the run's memory.
    let Some(scratch) = (unsafe { scratch.as_ref() }) else { return 1 };
    let (peer, local) = (words(&scratch.quartet.peer), words(&scratch.quartet.local));
    match route(skb, scratch.segment.ethertype, IPPROTO_TCP, peer, local) {
        NOT_FORWARDED => 1,
        // A host that forwards nothing takes in what reaches it.
        FORWARDS_NOTHING => u32::from(skb_field!(skb, pkt_type) != OTHER_HOST),
        // An action may go on to the next destination in the packet, which is an address of this host if it is in a VRF.
        HAS_ACTION => scratch.segment.is_routed.into(),
        // Where the kernel cannot tell, the segment is taken for ours.
        other => u32::from(other < 0),
    }
}

/// What the routes say of a packet that arrives: a return code of `bpf_fib_lookup`.
#[inline(always)]
pub fn route(
    skb: *mut __sk_buff,
    ethertype: u16,
    protocol: u32,
    source: [u32; 4],
    destination: [u32; 4],
) -> i64 {
    let mut lookup = [0u32; FIB_WORDS];
    lookup[2] = skb_field!(skb, ifindex);
    if ethertype == ETHERTYPE_IPV4 {
        lookup[0] = (AF_INET | protocol << 8).to_le();
        lookup[4] = source[3];
        lookup[8] = destination[3];
    } else {
        lookup[0] = (AF_INET6 | protocol << 8).to_le();
        lookup[4..8].copy_from_slice(&source);
        lookup[8..12].copy_from_slice(&destination);
    }
    // SAFETY: the record is a local variable of this length.
    unsafe { bpf_fib_lookup(skb.cast(), (&raw mut lookup).cast(), size_of_val(&lookup) as i32, 0) }
}

/// An address whose octets lie as on the wire.
#[inline(always)]
pub fn words(address: &[u8; 16]) -> [u32; 4] {
    // SAFETY: both are 16 octets, of which any will do.
    unsafe { core::mem::transmute(*address) }
}
