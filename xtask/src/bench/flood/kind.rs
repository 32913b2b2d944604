//! What is forged.

use std::net::SocketAddr;

use tcpauth_tests::{
    blaster::BATCH,
    frame::{Segment, flags, tcp_ao_option},
};

/// A KeyID that no key has.
const UNKNOWN_KEY_ID: u8 = 201;

/// From which port on SYNs come.
const SYN_PORTS: u16 = 2000;

/// Octets in a forged segment; the stream itself consists of zeros.
const FORGED_DATA: [u8; 64] = [0xa5; 64];

/// A kind of forged segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None are sent.
    Quiet,
    /// Of a protocol that nobody speaks, to the victim: what the sender and the switch take by themselves.
    NoProtocol,
    /// In the window, no option for authentication.
    NoOption,
    /// In the window, with TCP-AO and a KeyID that no key has.
    UnknownKeyId,
    /// The right option and KeyID, a wrong MAC, outside the window.
    OutsideWindow,
    /// The same inside the window.
    InsideWindow,
    /// SYNs from other ports with the right option and KeyID, and a wrong MAC.
    Syn,
}

/// Which option a session's segments carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// TCP-AO with this KeyID.
    TcpAo(u8),
    /// That of RFC 2385.
    TcpMd5,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Quiet,
        Self::NoProtocol,
        Self::NoOption,
        Self::UnknownKeyId,
        Self::OutsideWindow,
        Self::InsideWindow,
        Self::Syn,
    ];

    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quiet => "no flood",
            Self::NoProtocol => "no protocol",
            Self::NoOption => "(a) no option",
            Self::UnknownKeyId => "(b) unknown KeyID",
            Self::OutsideWindow => "(c) wrong MAC outside the window",
            Self::InsideWindow => "(d) wrong MAC inside the window",
            Self::Syn => "(e) SYNs",
        }
    }

    /// Whether the session's end has to refuse the segments.
    pub fn is_attack(self) -> bool {
        !matches!(self, Self::Quiet | Self::NoProtocol)
    }

    /// The segments of a batch. `next` is the sequence number that the victim expects. Those of
    /// [`Kind::NoProtocol`] need another EtherType yet.
    pub fn segments(self, wire: Wire, from: SocketAddr, to: SocketAddr, next: u32) -> Vec<Segment> {
        let forged = Segment {
            source: from,
            destination: to,
            seq: next.wrapping_add(1000),
            ack: 1,
            flags: flags::ACK,
            window: 500,
            options: wire.option(),
            data: FORGED_DATA.to_vec(),
            hop_limit: 64,
        };
        match self {
            Self::Quiet => Vec::new(),
            Self::NoOption => vec![Segment { options: Vec::new(), ..forged }],
            Self::UnknownKeyId => vec![Segment { options: tcp_ao_option(UNKNOWN_KEY_ID, 0xee), ..forged }],
            Self::OutsideWindow => vec![Segment { seq: next.wrapping_add(1 << 31), ..forged }],
            Self::InsideWindow | Self::NoProtocol => vec![forged],
            Self::Syn => (0..BATCH as u16)
                .map(|index| {
                    let source = SocketAddr::new(from.ip(), SYN_PORTS + 331 * index);
                    Segment { source, ack: 0, flags: flags::SYN, data: Vec::new(), ..forged.clone() }
                })
                .collect(),
        }
    }
}

impl Wire {
    fn option(self) -> Vec<u8> {
        match self {
            Self::TcpAo(key_id) => tcp_ao_option(key_id, 0xee),
            Self::TcpMd5 => [&[1, 1, 19, 18][..], &[0xee; 16]].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(kind: Kind, wire: Wire) -> Vec<Segment> {
        let (from, to) = ("192.0.2.1:40000".parse().unwrap(), "192.0.2.2:179".parse().unwrap());
        kind.segments(wire, from, to, 5000)
    }

    #[test]
    fn each_kind_differs_in_what_it_is_named_for() {
        let wire = Wire::TcpAo(7);
        let inside = &segments(Kind::InsideWindow, wire)[0];
        assert_eq!((inside.seq, inside.tcp_ao()), (6000, Some((7, &[0xee; 12][..]))));
        assert!(segments(Kind::NoOption, wire)[0].options.is_empty());
        assert_ne!(segments(Kind::UnknownKeyId, wire)[0].tcp_ao().unwrap().0, 7);
        assert_eq!(segments(Kind::OutsideWindow, wire)[0].seq, 5000 + (1 << 31));
        assert!(segments(Kind::Quiet, wire).is_empty());
        assert_eq!(segments(Kind::InsideWindow, Wire::TcpMd5)[0].options.len(), 20);
    }

    #[test]
    fn syns_come_from_many_ports() {
        let syns = segments(Kind::Syn, Wire::TcpAo(7));
        let mut ports: Vec<u16> = syns.iter().map(|syn| syn.source.port()).collect();
        ports.dedup();
        assert_eq!(ports.len(), BATCH);
        assert!(syns.iter().all(|syn| syn.flags == flags::SYN && syn.data.is_empty()));
    }
}
