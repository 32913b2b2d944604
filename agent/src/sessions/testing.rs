//! Neighbours and held segments for tests.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tcpauth_common::{
    Algorithm, Kdf, KeyId,
    layout::{Direction, Held, KeyMaterial, Quartet},
};
use zeroize::Zeroizing;

use super::{Monotonic, Now, address};
use crate::{
    config::{
        Authentication, Fallback, KeyManagement, Kmp, Neighbor, OnUnprotected, Peer, Tls, Unauthenticated,
        Wire,
    },
    keys::{
        KeyChain, MasterKey, Mkt, TcpOptions,
        segment::{md5, segment_mac},
    },
};

/// When all the held segments here were held.
pub const HELD_AT: Monotonic = Monotonic(50_000_000_000);

/// [`HELD_AT`], at a time of the wall clock in which lifetimes of tests can begin and end.
pub fn now() -> Now {
    Now { monotonic: HELD_AT, wall: Timestamp::UNIX_EPOCH }
}

pub fn mkt(password: &str, algorithm: Algorithm) -> Mkt {
    Mkt {
        send_id: KeyId(3),
        recv_id: KeyId(5),
        algorithm,
        kdf: Kdf::Rfc5926,
        tcp_options: TcpOptions::Include,
        master_key: MasterKey::new(Zeroizing::new(password.as_bytes().to_vec())).unwrap(),
    }
}

/// The tuple of the other side.
pub fn mirrored(mkt: &Mkt) -> Mkt {
    Mkt { send_id: mkt.recv_id, recv_id: mkt.send_id, ..mkt.clone() }
}

pub fn neighbor(peer: &str) -> Neighbor {
    let (peer, interface) = match peer.split_once('%') {
        Some((peer, interface)) => (peer, Some(interface.to_owned())),
        None => (peer, None),
    };
    let (address, prefix_len) = match peer.split_once('/') {
        Some((address, len)) => (address, Some(len.parse().unwrap())),
        None => (peer, None),
    };
    let address: IpAddr = address.parse().unwrap();
    let prefix_len = prefix_len.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
    Neighbor {
        peer: Peer { address, prefix_len, interface },
        keys: Arc::new(KeyChain::of(mkt("v61ne0qkel33&", Algorithm::HmacSha1_96))),
        port: 179,
        ttl_security: None,
        forwarded: Vec::new(),
        key_warning: None,
        key_management: KeyManagement::Implicit,
        kmp: None,
        wire: Wire::TcpAo,
        unauthenticated: Unauthenticated::Drop,
        on_unprotected: OnUnprotected::Report,
    }
}

/// How keys are agreed, as with the defaults of the configuration.
pub fn kmp() -> Kmp {
    Kmp {
        port: 17179,
        local_address: None,
        fallback: Fallback::Never,
        rekey_interval: Duration::from_secs(3600),
        rekey_segments: None,
        algorithms: vec![Algorithm::HmacSha1_96],
        tls: Tls {
            authentication: Authentication::Psk { identity: None, peer_identity: None, rsa: None },
            suites: Vec::new(),
        },
    }
}

/// Our end has port 40000, the peer 179.
pub fn quartet(ipv6: bool) -> Quartet {
    let octets = |last: u16| match ipv6 {
        false => Ipv4Addr::new(192, 0, 2, last as u8).to_ipv6_mapped().octets(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets(),
    };
    Quartet { local: octets(2), peer: octets(1), local_port: 40000, peer_port: 179, scope: 0 }
}

/// A segment to be held: what it says, and how it is signed.
#[derive(Clone)]
pub struct Draft {
    pub quartet: Quartet,
    pub direction: Direction,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// Options before TCP-AO: whole words.
    pub options: Vec<u8>,
    pub hop_limit: u8,
    /// KeyID and MAC length of the option, and the key; `None`: no option.
    pub signature: Option<(Mkt, KeyMaterial)>,
}

impl Draft {
    pub fn new(direction: Direction, flags: u8, seq: u32, ack: u32) -> Self {
        Self {
            quartet: quartet(false),
            direction,
            flags,
            seq,
            ack,
            window: 64_240,
            options: vec![2, 4, 5, 180, 1, 3, 3, 7],
            hop_limit: 64,
            signature: None,
        }
    }

    /// Signed as its sender, which has `mkt`, signs it with `key`.
    pub fn signed(mut self, mkt: &Mkt, key: KeyMaterial) -> Self {
        self.signature = Some((mkt.clone(), key));
        self
    }

    pub fn hold(&self) -> (Held, Vec<u8>) {
        let outbound = self.direction == Direction::Outbound;
        let (local, peer) = (address(self.quartet.local), address(self.quartet.peer));
        let (source, destination) = if outbound { (local, peer) } else { (peer, local) };
        let segment = self.segment(outbound, source, destination);
        let mut frame = vec![0xee; 12];
        let (ethertype, l4_offset): (u16, u16) = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([8, 0, 0x45, 0]);
                frame.extend((20 + segment.len() as u16).to_be_bytes());
                frame.extend([0, 0, 0x40, 0, self.hop_limit, 6, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                (0x0800, 34)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((segment.len() as u16).to_be_bytes());
                frame.extend([6, self.hop_limit]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                (0x86dd, 54)
            }
            _ => unreachable!("both are of one family"),
        };
        frame.extend(segment);
        // What Ethernet pads is not the segment's.
        frame.extend([0x55; 6]);
        let held = Held {
            time: HELD_AT.0,
            quartet: self.quartet,
            neighbor: 1,
            ifindex: 4,
            frame_len: frame.len() as u32,
            direction: self.direction as u8,
            l3_offset: 14,
            l4_offset,
            ethertype,
            ..Held::default()
        };
        (held, frame)
    }

    fn segment(&self, outbound: bool, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let (local, peer) = (self.quartet.local_port, self.quartet.peer_port);
        let (source_port, destination_port) = if outbound { (local, peer) } else { (peer, local) };
        let mut segment = Vec::new();
        segment.extend(source_port.to_be_bytes());
        segment.extend(destination_port.to_be_bytes());
        segment.extend(self.seq.to_be_bytes());
        segment.extend(self.ack.to_be_bytes());
        segment.extend([0, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.options);
        let Some((mkt, key)) = &self.signature else {
            segment[12] = (segment.len() as u8 / 4) << 4;
            return segment;
        };
        if mkt.algorithm == Algorithm::Md5 {
            let at = segment.len() + 4;
            segment.extend([1, 1, 19, 18]);
            segment.resize(at + 16, 0);
            segment[12] = (segment.len() as u8 / 4) << 4;
            let digest =
                md5::digest(mkt.master_key.octets(), source, destination, &segment).unwrap_or_default();
            segment[at..].copy_from_slice(&digest);
            return segment;
        }
        let at = segment.len() + 4;
        segment.extend([29, mkt.algorithm.option_len() as u8, mkt.send_id.0, mkt.recv_id.0]);
        segment.resize(at + mkt.algorithm.mac_len(), 0);
        segment[12] = (segment.len() as u8 / 4) << 4;
        let exclude = mkt.excludes_options();
        // One that cannot be signed has a MAC of zeros.
        let mac =
            segment_mac(key, mkt.algorithm, exclude, 0, source, destination, &segment).unwrap_or_default();
        segment[at..].copy_from_slice(&mac[..mkt.algorithm.mac_len()]);
        segment
    }
}
