//! Keys and MACs against RFC 9235's packets and against captures of native Linux TCP-AO.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;
use tcpauth_common::{
    Algorithm, Isn, Kdf, KeyId, kdf,
    kdf::Context,
    layout::{Quartet, mapped},
    mac,
};
use zeroize::Zeroizing;

use super::{
    MasterKey, Mkt, Role, TcpOptions,
    segment::{is_same_mac, mac_input, parse_option, segment_mac},
};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors");

#[derive(Deserialize)]
struct Vector {
    id: String,
    ipv: u8,
    alg: String,
    covers_options: bool,
    client_isn: u32,
    server_isn: u32,
    packet: String,
    context: String,
    traffic_key: String,
    mac: String,
    mac_input: String,
    from_client: bool,
}

#[test]
fn all_packets_of_rfc_9235() {
    let text = std::fs::read_to_string(format!("{VECTORS}/rfc9235.json")).unwrap();
    let vectors: Vec<Vector> = serde_json::from_str(&text).unwrap();
    assert_eq!(vectors.len(), 32);
    for vector in vectors {
        let id = &vector.id;
        let packet = IpPacket::parse(&hex::decode(&vector.packet).unwrap());
        assert_eq!(packet.source.is_ipv4(), vector.ipv == 4, "{id}");
        let algorithm = match &*vector.alg {
            "sha1" => Algorithm::HmacSha1_96,
            "aes" => Algorithm::Aes128Cmac96,
            other => panic!("{id}: no algorithm {other}"),
        };
        let (source_isn, destination_isn) = if vector.from_client {
            (Isn(vector.client_isn), Isn(vector.server_isn))
        } else {
            (Isn(vector.server_isn), Isn(vector.client_isn))
        };
        let destination_isn = if packet.is_first_syn() { Isn(0) } else { destination_isn };
        let quartet = packet.quartet_of_sender();
        let context = Context::new(
            (&quartet.local, quartet.local_port),
            (&quartet.peer, quartet.peer_port),
            source_isn,
            destination_isn,
        );
        assert_eq!(hex::encode(context.octets()), vector.context, "{id}: context");
        let key = kdf::traffic_key(Kdf::Rfc5926, algorithm, b"testvector", &context);
        assert_eq!(hex::encode(key.octets()), vector.traffic_key, "{id}: traffic key");

        let exclude_options = !vector.covers_options;
        let input =
            mac_input(exclude_options, 0, packet.source, packet.destination, &packet.segment).unwrap();
        assert_eq!(hex::encode(input), vector.mac_input, "{id}: MAC input");

        let mkt = mkt(algorithm, exclude_options, b"testvector", 61, 84);
        let material = if packet.is_first_syn() {
            mkt.syn_send(&quartet, source_isn).material
        } else {
            mkt.traffic_slot(&quartet, source_isn, destination_isn, Role::Client).send
        };
        assert!(material.words == mac::prepare(algorithm, key.octets()).words, "{id}: key material");
        let mac = segment_mac(
            &material,
            algorithm,
            exclude_options,
            0,
            packet.source,
            packet.destination,
            &packet.segment,
        )
        .unwrap();
        assert_eq!(hex::encode(&mac[..12]), vector.mac, "{id}: MAC");
        let option = parse_option(&packet.segment).unwrap();
        let ids = if vector.from_client { (61, 84) } else { (84, 61) };
        assert_eq!((option.key_id.0, option.rnext_key_id.0), ids, "{id}");
        assert!(is_same_mac(algorithm, &mac, &packet.segment[option.mac]), "{id}: MAC in the packet");
    }
}

#[derive(Deserialize)]
struct Capture {
    client: IpAddr,
    keys: Vec<CaptureKey>,
}

#[derive(Deserialize)]
struct CaptureKey {
    alg: String,
    client_sndid: u8,
    server_sndid: u8,
    secret_hex: String,
    exclude_opt: bool,
}

#[test]
fn every_segment_of_native_linux_connections() {
    let text = std::fs::read_to_string(format!("{VECTORS}/linux-ao/keys.json")).unwrap();
    let captures: BTreeMap<String, Capture> = serde_json::from_str(&text).unwrap();
    assert_eq!(captures.len(), 5);
    for (name, capture) in captures {
        let file = std::fs::read(format!("{VECTORS}/linux-ao/{name}.pcap")).unwrap();
        let packets: Vec<_> = frames(&file).map(|frame| IpPacket::parse(&frame[14..])).collect();
        assert!(packets.len() > 10, "{name}: {} frames", packets.len());
        let isn = |from_client: bool| {
            let is_syn = |packet: &&IpPacket| {
                packet.segment[13] & 2 != 0 && (packet.source == capture.client) == from_client
            };
            Isn(packets.iter().find(is_syn).expect("the handshake was captured").number(4))
        };
        let (client_isn, server_isn) = (isn(true), isn(false));
        let (mut used_keys, mut largest_sne) = (Vec::new(), 0);
        for (number, packet) in packets.iter().enumerate() {
            let from_client = packet.source == capture.client;
            let option = parse_option(&packet.segment).unwrap();
            let id = option.key_id.0;
            let index = capture
                .keys
                .iter()
                .position(|key| id == if from_client { key.client_sndid } else { key.server_sndid })
                .expect("the KeyID is configured");
            used_keys.push(index);
            let key = &capture.keys[index];
            let algorithm = match &*key.alg {
                "hmac(sha1)" => Algorithm::HmacSha1_96,
                "cmac(aes128)" => Algorithm::Aes128Cmac96,
                other => panic!("{name}: no algorithm {other}"),
            };
            let secret = hex::decode(&key.secret_hex).unwrap();
            let receiver = mkt(algorithm, key.exclude_opt, &secret, 0, id);
            let quartet = packet.quartet_of_receiver();
            let (peer_isn, local_isn) =
                if from_client { (client_isn, server_isn) } else { (server_isn, client_isn) };
            let material = if packet.is_first_syn() {
                receiver.syn_recv(&quartet, peer_isn).material
            } else {
                receiver.traffic_slot(&quartet, local_isn, peer_isn, Role::Server).recv
            };
            // Few octets are sent: counting from the ISN tells the extension.
            let since_isn = packet.number(4).wrapping_sub(peer_isn.0);
            let sne = ((u64::from(peer_isn.0) + u64::from(since_isn)) >> 32) as u32;
            largest_sne = largest_sne.max(sne);
            let mac = segment_mac(
                &material,
                algorithm,
                receiver.excludes_options(),
                sne,
                packet.source,
                packet.destination,
                &packet.segment,
            )
            .unwrap();
            assert!(is_same_mac(algorithm, &mac, &packet.segment[option.mac]), "{name}: frame {number}");
        }
        used_keys.sort_unstable();
        used_keys.dedup();
        assert_eq!(used_keys.len(), capture.keys.len(), "{name}: every key is used");
        assert_eq!(largest_sne, u32::from(name.contains("sne")), "{name}: SNE");
    }
}

fn mkt(algorithm: Algorithm, exclude_options: bool, secret: &[u8], send_id: u8, recv_id: u8) -> Mkt {
    Mkt {
        send_id: KeyId(send_id),
        recv_id: KeyId(recv_id),
        algorithm,
        kdf: Kdf::Rfc5926,
        tcp_options: if exclude_options { TcpOptions::Exclude } else { TcpOptions::Include },
        master_key: MasterKey::new(Zeroizing::new(secret.to_vec())).unwrap(),
    }
}

/// An IP packet without extension headers.
struct IpPacket {
    source: IpAddr,
    destination: IpAddr,
    segment: Vec<u8>,
}

impl IpPacket {
    fn parse(packet: &[u8]) -> Self {
        if packet[0] >> 4 == 4 {
            let header_len = usize::from(packet[0] & 15) * 4;
            let total_len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            Self {
                source: <[u8; 4]>::try_from(&packet[12..16]).unwrap().into(),
                destination: <[u8; 4]>::try_from(&packet[16..20]).unwrap().into(),
                segment: packet[header_len..total_len].to_vec(),
            }
        } else {
            let payload_len = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            Self {
                source: <[u8; 16]>::try_from(&packet[8..24]).unwrap().into(),
                destination: <[u8; 16]>::try_from(&packet[24..40]).unwrap().into(),
                segment: packet[40..40 + payload_len].to_vec(),
            }
        }
    }

    fn is_first_syn(&self) -> bool {
        self.segment[13] & 0x12 == 0x02
    }

    /// The 32-bit number at `at` of the TCP header.
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.segment[at..at + 4].try_into().unwrap())
    }

    fn quartet_of_sender(&self) -> Quartet {
        Quartet {
            local: mapped(self.source),
            peer: mapped(self.destination),
            local_port: (self.number(0) >> 16) as u16,
            peer_port: self.number(0) as u16,
            scope: 0,
        }
    }

    fn quartet_of_receiver(&self) -> Quartet {
        let Quartet { local, peer, local_port, peer_port, scope } = self.quartet_of_sender();
        Quartet { local: peer, peer: local, local_port: peer_port, peer_port: local_port, scope }
    }
}

/// The frames of a little-endian pcap file.
fn frames(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = &file[24..];
    std::iter::from_fn(move || {
        let head = rest.get(..16)?;
        let len = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
        let frame = &rest[16..16 + len];
        rest = &rest[16 + len..];
        Some(frame)
    })
}
