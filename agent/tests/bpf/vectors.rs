//! All packets of RFC 9235 through the programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;
use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, Isn, layout::Session};

use super::{
    connection::{Connection, mkt},
    context::{Context, Verdict},
    lab::Lab,
    segment::{Segment, number16, sum, tcp_sum},
};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/rfc9235.json");

/// Octets of the option in all vectors.
const OPTION: usize = 16;

#[derive(Deserialize)]
struct Vector {
    id: String,
    ipv: u8,
    alg: String,
    covers_options: bool,
    client_isn: u32,
    server_isn: u32,
    packet: String,
    mac: String,
    from_client: bool,
}

/// A vector's IP packet.
struct Packet {
    id: String,
    octets: Vec<u8>,
    /// Where TCP begins.
    l4: usize,
    source: SocketAddr,
    destination: SocketAddr,
    source_isn: u32,
    destination_isn: u32,
    mac: Vec<u8>,
    algorithm: Algorithm,
    tcp_options: TcpOptions,
    from_client: bool,
}

fn packets() -> Vec<Packet> {
    let vectors: Vec<Vector> = serde_json::from_str(&std::fs::read_to_string(VECTORS).unwrap()).unwrap();
    assert_eq!(vectors.len(), 32);
    vectors.into_iter().map(Packet::of).collect()
}

impl Packet {
    fn of(vector: Vector) -> Self {
        let mut octets = hex::decode(&vector.packet).unwrap();
        let (l4, source, destination): (_, IpAddr, IpAddr) = if vector.ipv == 4 {
            let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&octets[at..at + 4]).unwrap());
            (20, address(12).into(), address(16).into())
        } else {
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&octets[at..at + 16]).unwrap());
            (40, address(8).into(), address(24).into())
        };
        // Some vectors carry no valid checksums; no MAC covers them.
        mend_checksums(&mut octets, l4, source, destination);
        let (source_isn, destination_isn) = match vector.from_client {
            true => (vector.client_isn, vector.server_isn),
            false => (vector.server_isn, vector.client_isn),
        };
        Self {
            id: vector.id,
            l4,
            source: (source, number16(&octets, l4)).into(),
            destination: (destination, number16(&octets, l4 + 2)).into(),
            octets,
            source_isn,
            destination_isn,
            mac: hex::decode(&vector.mac).unwrap(),
            algorithm: match &*vector.alg {
                "sha1" => Algorithm::HmacSha1_96,
                "aes" => Algorithm::Aes128Cmac96,
                other => panic!("no algorithm {other}"),
            },
            tcp_options: if vector.covers_options { TcpOptions::Include } else { TcpOptions::Exclude },
            from_client: vector.from_client,
        }
    }

    fn frame(&self) -> Vec<u8> {
        frame_of(&self.octets, self.l4)
    }

    fn flags(&self) -> u8 {
        self.octets[self.l4 + 13]
    }

    fn is_first_syn(&self) -> bool {
        self.flags() & 0x12 == 2
    }

    fn header_len(&self) -> usize {
        usize::from(self.octets[self.l4 + 12] >> 4) * 4
    }

    /// Offset of the option in the IP packet.
    fn option_at(&self) -> usize {
        let header = &self.octets[self.l4..self.l4 + self.header_len()];
        let at = header.windows(2).position(|pair| pair == [29, OPTION as u8]).unwrap();
        assert_eq!(at + OPTION, header.len(), "{}: it is the last", self.id);
        self.l4 + at
    }

    /// Offset in the IP packet of timestamps that a SYN loses, because no MAC covers them.
    fn timestamps_at(&self) -> Option<usize> {
        let options = &self.octets[self.l4 + 20..self.option_at()];
        let is_outside = self.tcp_options == TcpOptions::Exclude && self.flags() & 2 != 0;
        let at = options.windows(2).position(|pair| pair == [8, 10]).filter(|_| is_outside)?;
        Some(self.l4 + 20 + at)
    }

    /// The packet as its sender's stack made it.
    fn without_option(&self) -> Vec<u8> {
        let mut octets = self.octets.clone();
        let at = self.option_at();
        octets.drain(at..at + OPTION);
        octets[self.l4 + 12] -= (OPTION as u8 / 4) << 4;
        let length_at = if self.l4 == 20 { 2 } else { 4 };
        let len = number16(&octets, length_at) - OPTION as u16;
        octets[length_at..length_at + 2].copy_from_slice(&len.to_be_bytes());
        mend_checksums(&mut octets, self.l4, self.source.ip(), self.destination.ip());
        octets
    }

    fn seq(&self) -> u32 {
        u32::from_be_bytes(self.octets[self.l4 + 4..self.l4 + 8].try_into().unwrap())
    }

    /// The connection and session of the sender, or the receiver.
    fn end(&self, is_sender: bool) -> (Connection, Session) {
        let ids = if self.from_client == is_sender { (61, 84) } else { (84, 61) };
        let (local, peer) = match is_sender {
            true => (self.source, self.destination),
            false => (self.destination, self.source),
        };
        let connection = Connection {
            local,
            peer,
            mkt: mkt(self.algorithm, self.tcp_options, b"testvector", ids.0, ids.1),
            ..Connection::plain()
        };
        let (local_isn, peer_isn) = match is_sender {
            true => (self.source_isn, self.destination_isn),
            false => (self.destination_isn, self.source_isn),
        };
        let mut session = connection.session_from(local_isn, peer_isn);
        session.flags |= Session::SYN_RECV;
        session.syn_recv_isn = Isn(peer_isn);
        session.syn_recv = connection.mkt.syn_recv(&connection.quartet(), Isn(peer_isn));
        session.local_ack = self.seq();
        (connection, session)
    }
}

#[test]
fn seal_makes_every_packet_of_rfc_9235() {
    let mut lab = Lab::new();
    for packet in packets() {
        let id = &packet.id;
        let (connection, session) = packet.end(true);
        lab.add_neighbor(&connection);
        lab.put(&connection, &session);
        let (verdict, out) = lab.seal(&frame_of(&packet.without_option(), packet.l4));
        assert_eq!(verdict, Verdict::Redirect, "{id}: {:?}", lab.take_dropped());
        let sealed = Segment::of_frame(&out);
        if packet.timestamps_at().is_some() {
            let key = if packet.is_first_syn() { &session.syn_send.material } else { &session.slots[0].send };
            assert!(connection.accepts(key, &sealed, 0), "{id}: without timestamps");
            continue;
        }
        assert_eq!(hex::encode(&out), hex::encode(packet.frame()), "{id}");
        let mac_at = 14 + packet.option_at() + 4;
        assert_eq!(out[mac_at..mac_at + 12], packet.mac, "{id}");
        let counters = lab.counters(connection.neighbor);
        let octets = (packet.octets.len() - packet.l4) as u64;
        assert_eq!((counters.passed.signed_segments, counters.passed.signed_octets), (1, octets), "{id}");
        assert_eq!(counters, lab.session(&connection).unwrap().counters.into(), "{id}");
    }
}

#[test]
fn ingress_verifies_every_packet_of_rfc_9235() {
    let mut lab = Lab::new();
    for packet in packets() {
        let id = &packet.id;
        let (connection, session) = packet.end(false);
        lab.add_neighbor(&connection);
        lab.put(&connection, &session);
        let summed = Context { ifindex: lab.ifindex, summed: true, ..Context::default() };
        let (verdict, out) = lab.run("ingress", summed, &packet.frame());
        assert_eq!(verdict, Verdict::Pass, "{id}: {:?}", lab.take_dropped());
        Segment::of_frame(&out);

        let mut wanted = packet.octets.clone();
        let at = packet.option_at();
        wanted[at..at + OPTION].fill(1);
        let options = packet.l4 + 20;
        if packet.flags() & 2 != 0 {
            assert_eq!(wanted[options..options + 2], [2, 4], "{id}: MSS");
            let most = 1500 - packet.l4 as u16 - 20;
            let mss = number16(&wanted, options + 2).min(most) - Algorithm::MOST_OPTION_LEN as u16;
            wanted[options + 2..options + 4].copy_from_slice(&mss.to_be_bytes());
        }
        if let Some(at) = packet.timestamps_at() {
            wanted[at..at + 10].fill(1);
        }
        mend_checksums(&mut wanted, packet.l4, packet.source.ip(), packet.destination.ip());
        assert_eq!(hex::encode(&out), hex::encode(frame_of(&wanted, packet.l4)), "{id}");
        let counters = lab.counters(connection.neighbor);
        let octets = (packet.octets.len() - packet.l4) as u64;
        assert_eq!((counters.passed.verified_segments, counters.passed.verified_octets), (1, octets), "{id}");
        assert_eq!(counters, lab.session(&connection).unwrap().counters.into(), "{id}");
    }
}

#[test]
fn no_packet_of_rfc_9235_verifies_with_any_one_bit_changed() {
    let mut lab = Lab::new();
    for packet in packets() {
        let (connection, session) = packet.end(false);
        lab.add_neighbor(&connection);
        let frame = packet.frame();
        let protected_port = if packet.source.port() == 179 { 0..2 } else { 2..4 };
        for octet in 0..packet.octets.len() - packet.l4 {
            let is_excluded_option = packet.tcp_options == TcpOptions::Exclude
                && (20..packet.option_at() - packet.l4).contains(&octet);
            if (16..18).contains(&octet) || is_excluded_option {
                continue; // Under no MAC: the checksum, and excluded options.
            }
            for bit in 0..8 {
                let mut changed = frame.clone();
                changed[14 + packet.l4 + octet] ^= 1 << bit;
                lab.put(&connection, &session);
                lab.refill(connection.neighbor);
                let before: u64 = lab.counters(connection.neighbor).dropped.iter().sum();
                let (verdict, out) = lab.ingress(&changed);
                let place = format!("{}: octet {octet}, bit {bit}", packet.id);
                let after = lab.counters(connection.neighbor);
                assert_eq!(after.passed.verified_segments, 0, "{place}");
                let dropped = after.dropped.iter().sum::<u64>() - before;
                let held = u64::from(lab.take_held().is_some());
                lab.take_dropped();
                if protected_port.contains(&octet) {
                    // Not a BGP session any more.
                    assert_eq!((verdict, dropped + held), (Verdict::Pass, 0), "{place}");
                    assert_eq!(out, changed, "{place}");
                } else {
                    assert_eq!((verdict, dropped + held), (Verdict::Drop, 1), "{place}");
                    assert!(held == 0 || packet.is_first_syn() || octet == 13, "{place}: held");
                }
            }
        }
    }
}

fn mend_checksums(packet: &mut [u8], l4: usize, source: IpAddr, destination: IpAddr) {
    if source.is_ipv4() {
        packet[10..12].fill(0);
        let checksum = !sum(&packet[..l4]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet[l4 + 16..l4 + 18].fill(0);
    let checksum = !tcp_sum(source, destination, &packet[l4..]);
    packet[l4 + 16..l4 + 18].copy_from_slice(&checksum.to_be_bytes());
}

fn frame_of(packet: &[u8], l4: usize) -> Vec<u8> {
    let ethertype: [u8; 2] = if l4 == 20 { [0x08, 0] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], &ethertype[..], packet].concat()
}
