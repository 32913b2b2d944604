//! A connection of a neighbour: its keys, its session as the daemon would write it, its segments; and the
//! neighbour's side of it, by host code.

use std::net::{IpAddr, SocketAddr};

use tcpauth::{
    kernel::mapped,
    keys::{
        MasterKey, Mkt, Role, TcpOptions,
        segment::{is_same_mac, parse_option, segment_mac},
    },
};
use tcpauth_common::{
    Algorithm, Isn, Kdf, KeyId,
    key_choice::flag,
    layout::{KeyMaterial, KeySlot, Policy, Quartet, Session},
    rollover::{NO_ORDER, Rollover},
};
use zeroize::Zeroizing;

use super::segment::Segment;

pub const ACK: u8 = flag::ACK;
pub const PSH_ACK: u8 = 0x18;
pub const SYN: u8 = flag::SYN;
pub const SYN_ACK: u8 = flag::SYN | flag::ACK;
pub const RST: u8 = flag::RST;

pub const LOCAL_ISN: u32 = 0x1111_0000;
pub const PEER_ISN: u32 = 0x2222_0000;

/// Flags of a slot whose key may be sent with and accepted.
pub const USABLE: u8 = KeySlot::SEND | KeySlot::ACCEPT;

/// [`Rollover::order`] of slots, newest first.
pub fn order(newest_first: &[u32]) -> u32 {
    newest_first
        .iter()
        .enumerate()
        .fold(NO_ORDER, |order, (age, slot)| order & !(3 << (2 * age)) | slot << (2 * age))
}

/// Key number `number` of a neighbour, with KeyIDs of its own.
pub fn key(number: u8) -> Mkt {
    mkt(
        Algorithm::HmacSha1_96,
        TcpOptions::Include,
        &[b'k', number],
        100 + (number & 63),
        200 + (number & 31),
    )
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A connection from our end, port 40000, to the neighbour's port 179.
#[derive(Clone)]
pub struct Connection {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub mkt: Mkt,
    pub neighbor: u32,
    /// Interface index that the neighbour is bound to, else 0.
    pub scope: u32,
    pub min_hop_limit: u8,
}

impl Connection {
    pub fn new(family: Family, algorithm: Algorithm, tcp_options: TcpOptions) -> Self {
        let (local, peer) = match family {
            Family::V4 => ("192.0.2.1:40000", "192.0.2.2:179"),
            Family::V6 => ("[2001:db8::1]:40000", "[2001:db8::2]:179"),
        };
        Self {
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            mkt: mkt(algorithm, tcp_options, b"testvector", 61, 84),
            neighbor: 7,
            scope: 0,
            min_hop_limit: 0,
        }
    }

    /// IPv4 and HMAC-SHA-1, options covered.
    pub fn plain() -> Self {
        Self::new(Family::V4, Algorithm::HmacSha1_96, TcpOptions::Include)
    }

    pub fn quartet(&self) -> Quartet {
        Quartet {
            local: mapped(self.local.ip()),
            peer: mapped(self.peer.ip()),
            local_port: self.local.port(),
            peer_port: self.peer.port(),
            scope: self.scope,
        }
    }

    pub fn policy(&self) -> Policy {
        let mut policy = Policy { port: 179, min_hop_limit: self.min_hop_limit, ..Policy::default() };
        if self.mkt.algorithm == Algorithm::Md5 {
            policy.flags = Policy::TCP_MD5;
        } else {
            policy.accept(self.mkt.recv_id);
        }
        policy
    }

    /// An established session in which nothing was sent but the SYNs.
    pub fn session(&self) -> Session {
        self.session_from(LOCAL_ISN, PEER_ISN)
    }

    pub fn session_from(&self, local_isn: u32, peer_isn: u32) -> Session {
        let quartet = self.quartet();
        let mut session = Session {
            neighbor: self.neighbor,
            flags: Session::LOCAL_ISN | Session::PEER_ISN,
            local_isn: Isn(local_isn),
            peer_isn: Isn(peer_isn),
            send_seq: local_isn.into(),
            recv_seq: peer_isn.into(),
            local_ack: peer_isn.wrapping_add(1),
            local_window: 0xffff,
            syn_send: self.mkt.syn_send(&quartet, Isn(local_isn)),
            rollover: Rollover { order: NO_ORDER & !3, current: 0, rnext: 0, ..Rollover::default() },
            ..Session::default()
        };
        session.slots[0] = self.slot(&self.mkt, local_isn, peer_isn);
        session
    }

    /// The slot of a key that may be used.
    pub fn slot(&self, mkt: &Mkt, local_isn: u32, peer_isn: u32) -> KeySlot {
        let mut slot = mkt.traffic_slot(&self.quartet(), Isn(local_isn), Isn(peer_isn), Role::Client);
        slot.flags |= USABLE;
        slot
    }

    /// The same connection where the neighbour signs with another key.
    pub fn under(&self, mkt: &Mkt) -> Self {
        Self { mkt: mkt.clone(), ..self.clone() }
    }

    /// A session that knows our SYN only.
    pub fn half_open(&self) -> Session {
        let mut session = self.session();
        session.flags = Session::LOCAL_ISN;
        session.slots = Session::default().slots;
        session.rollover = Rollover::default();
        session
    }

    /// A session that knows the peer's SYN only.
    pub fn half_accepted(&self) -> Session {
        let mut session = self.session();
        session.flags = Session::PEER_ISN | Session::SYN_RECV;
        session.syn_recv_isn = Isn(PEER_ISN);
        session.syn_recv = self.mkt.syn_recv(&self.quartet(), Isn(PEER_ISN));
        session.slots = Session::default().slots;
        session.rollover = Rollover::default();
        session
    }

    pub fn outbound(&self, flags: u8, seq: u32) -> Segment {
        segment(self.local, self.peer, flags, seq)
    }

    /// A segment of the neighbour, not yet signed.
    pub fn inbound(&self, flags: u8, seq: u32) -> Segment {
        segment(self.peer, self.local, flags, seq)
    }

    /// A segment of the neighbour with the option and a right MAC.
    pub fn signed(&self, session: &Session, flags: u8, seq: u32) -> Segment {
        self.sign(&session.slots[0].recv, self.inbound(flags, seq), 0)
    }

    /// `segment` with the option as the neighbour puts it and the MAC of host code.
    pub fn sign(&self, key: &KeyMaterial, mut segment: Segment, sne: u32) -> Segment {
        let at = segment.options.len();
        let len = self.mkt.algorithm.option_len();
        segment.options.extend([29, len as u8, self.mkt.recv_id.0, self.mkt.send_id.0]);
        segment.options.resize(at + len, 0);
        let mac = self.mac(key, &segment, sne);
        segment.options[at + 4..].copy_from_slice(&mac[..len - 4]);
        segment
    }

    /// Whether the neighbour would accept `segment`, which we sealed.
    pub fn accepts(&self, key: &KeyMaterial, segment: &Segment, sne: u32) -> bool {
        let tcp = segment.tcp();
        let option = parse_option(&tcp).unwrap();
        assert_eq!((option.key_id, option.rnext_key_id), (self.mkt.send_id, self.mkt.recv_id));
        is_same_mac(self.mkt.algorithm, &self.mac(key, segment, sne), &tcp[option.mac])
    }

    fn mac(&self, key: &KeyMaterial, segment: &Segment, sne: u32) -> [u8; 16] {
        let (source, destination) = (segment.source.ip(), segment.destination.ip());
        let exclude = self.mkt.excludes_options();
        segment_mac(key, self.mkt.algorithm, exclude, sne, source, destination, &segment.tcp()).unwrap()
    }
}

pub fn mkt(algorithm: Algorithm, tcp_options: TcpOptions, secret: &[u8], send_id: u8, recv_id: u8) -> Mkt {
    Mkt {
        send_id: KeyId(send_id),
        recv_id: KeyId(recv_id),
        algorithm,
        kdf: Kdf::Rfc5926,
        tcp_options,
        master_key: MasterKey::new(Zeroizing::new(secret.to_vec())).unwrap(),
    }
}

/// `address` with another last octet.
pub fn sibling(address: IpAddr, last: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, last].into()
        }
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[15] = last;
            octets.into()
        }
    }
}

fn segment(source: SocketAddr, destination: SocketAddr, flags: u8, seq: u32) -> Segment {
    Segment {
        source,
        destination,
        seq,
        ack: 0,
        flags,
        window: 500,
        urgent: 0,
        options: Vec::new(),
        data: Vec::new(),
        hop_limit: 64,
        ip_options: Vec::new(),
        extensions: Vec::new(),
        vlan: None,
    }
}
