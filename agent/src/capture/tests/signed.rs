//! Connections signed here, in whatever packets and frames a test wants.

use std::net::IpAddr;

use tcpauth_common::layout::{Quartet, mapped};
use tcpauth_common::{Algorithm, Isn, Kdf, KeyId};
use zeroize::Zeroizing;

use crate::capture::Link;
use crate::keys::segment::{md5, segment_mac};
use crate::keys::{MasterKey, Mkt, Role, TcpOptions};

pub const SECRET: &[u8] = b"a secret of the tests";
const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 1], 40_000);
const SERVER: ([u8; 4], u16) = ([192, 0, 2, 2], 179);
const CLIENT_V6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const SERVER_V6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// So that the sequence number wraps within the connection.
pub const CLIENT_ISN: u32 = 0xffff_ff00;
const SERVER_ISN: u32 = 0x1234_5678;

/// What IP packets look like.
#[derive(Clone, Copy, Debug)]
pub enum Network {
    V4,
    /// With IP options.
    V4Options,
    V6,
    /// Hop-by-hop and destination options, and a routing header that has one stop left.
    V6Extended,
}

pub const NETWORKS: [Network; 4] = [Network::V4, Network::V4Options, Network::V6, Network::V6Extended];

pub fn mkt(algorithm: Algorithm, kdf: Kdf, tcp_options: TcpOptions) -> Mkt {
    Mkt {
        send_id: KeyId(1),
        recv_id: KeyId(1),
        algorithm,
        kdf,
        tcp_options,
        master_key: MasterKey::new(Zeroizing::new(SECRET.to_vec())).unwrap(),
    }
}

/// The server's address.
pub fn server(network: Network) -> IpAddr {
    match network {
        Network::V4 | Network::V4Options => SERVER.0.into(),
        Network::V6 | Network::V6Extended => SERVER_V6.into(),
    }
}

/// The IP packets of a connection: handshake, data over the wrap and again, an end and a reset.
pub fn packets(mkt: &Mkt, network: Network) -> Vec<Vec<u8>> {
    connection(mkt, network, (CLIENT_ISN, SERVER_ISN))
}

/// The same with other ISNs, of which the client's is 203 to 402 before the wrap.
pub fn connection(mkt: &Mkt, network: Network, isns: (u32, u32)) -> Vec<Vec<u8>> {
    let (client, server) = isns;
    let plan = [
        (true, 0x02, client, 0, 0, 0),
        (false, 0x12, server, client.wrapping_add(1), 0, 0),
        (true, 0x10, client.wrapping_add(1), server + 1, 0, 0),
        (true, 0x18, client.wrapping_add(1), server + 1, 201, 0),
        (true, 0x18, client.wrapping_add(202), server + 1, 201, 0),
        (true, 0x18, client.wrapping_add(403), server + 1, 200, 1),
        // A retransmission from before the wrap.
        (true, 0x18, client.wrapping_add(1), server + 1, 201, 0),
        (false, 0x18, server + 1, client.wrapping_add(603), 1001, 0),
        (true, 0x11, client.wrapping_add(603), server + 1002, 0, 1),
        (false, 0x14, server + 1002, client.wrapping_add(604), 0, 0),
    ];
    plan.map(|(from_client, flags, seq, ack, len, sne)| {
        let segment = signed(mkt, network, isns, from_client, (flags, seq, ack), len, sne);
        packet(network, from_client, &segment)
    })
    .to_vec()
}

/// `packet` behind a link-layer header and these VLAN tags (EtherType, tag).
pub fn frame(link: Link, tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let protocol: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let mut types: Vec<u8> = Vec::new();
    for (ethertype, tag) in tags {
        types.extend(ethertype.to_be_bytes());
        types.extend(tag.to_be_bytes());
    }
    types.extend(protocol.to_be_bytes());
    let head = match link {
        Link::Ethernet => [vec![2; 12], types].concat(),
        Link::CookedV1 => [vec![0; 14], types].concat(),
        // The protocol stands first here, and its header ends with the sender's address.
        Link::CookedV2 => [types[..2].to_vec(), vec![0; 18], types[2..].to_vec()].concat(),
        Link::RawIp | Link::Other(_) => Vec::new(),
    };
    [&head, packet].concat()
}

fn signed(
    mkt: &Mkt,
    network: Network,
    (client_isn, server_isn): (u32, u32),
    from_client: bool,
    (flags, seq, ack): (u8, u32, u32),
    len: usize,
    sne: u32,
) -> Vec<u8> {
    let ((source, sport), (destination, dport)) = ends(network, from_client);
    let option_len = mkt.algorithm.option_len();
    let other: &[u8] = if flags & 2 != 0 { &[2, 4, 5, 0xb4] } else { &[1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 2, 0] };
    let is_md5 = mkt.algorithm == Algorithm::Md5;
    let header_len = 20 + other.len() + option_len;
    let mut segment = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([(header_len as u8 / 4) << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(other);
    segment.extend(if is_md5 { [1, 1, 19, 18] } else { [29, option_len as u8, 1, 1] });
    segment.resize(header_len, 0);
    segment.extend((0..len).map(|at| at as u8));

    let quartet = Quartet {
        local: mapped(source),
        peer: mapped(destination),
        local_port: sport,
        peer_port: dport,
        scope: 0,
    };
    let role = if from_client { Role::Client } else { Role::Server };
    let (own, other_end) = if from_client { (client_isn, server_isn) } else { (server_isn, client_isn) };
    let key = if flags & 0x12 == 2 {
        mkt.syn_send(&quartet, Isn(own)).material
    } else {
        mkt.traffic_slot(&quartet, Isn(own), Isn(other_end), role).send
    };
    let exclude = mkt.excludes_options();
    let mac = if is_md5 {
        md5::digest(SECRET, source, destination, &segment)
    } else {
        segment_mac(&key, mkt.algorithm, exclude, sne, source, destination, &segment)
    };
    let mac = mac.unwrap();
    let mac_len = mkt.algorithm.mac_len();
    segment[header_len - mac_len..header_len].copy_from_slice(&mac[..mac_len]);

    let mut pseudo_header = [octets(source), octets(destination)].concat();
    pseudo_header.extend([0, 6]);
    pseudo_header.extend((segment.len() as u16).to_be_bytes());
    let checksum = checksum(&[&pseudo_header[..], &segment].concat());
    segment[16..18].copy_from_slice(&checksum);
    segment
}

fn packet(network: Network, from_client: bool, segment: &[u8]) -> Vec<u8> {
    let ((source, _), (destination, _)) = ends(network, from_client);
    let (source, destination) = (octets(source), octets(destination));
    match network {
        Network::V4 | Network::V4Options => {
            let options: &[u8] = if matches!(network, Network::V4) { &[] } else { &[0x94, 4, 0, 0] };
            let header_len = 20 + options.len();
            let mut header = vec![0x40 | (header_len as u8 / 4), 0xc0];
            header.extend(((header_len + segment.len()) as u16).to_be_bytes());
            header.extend([0, 7, 0x40, 0, 255, 6, 0, 0]);
            header.extend([source, destination].concat());
            header.extend(options);
            let checksum = checksum(&header);
            header[10..12].copy_from_slice(&checksum);
            [&header, segment].concat()
        }
        Network::V6 => v6(6, &source, &destination, segment),
        Network::V6Extended => {
            let stop = [0xfd; 16];
            let mut headers = vec![60, 0, 5, 2, 0, 0, 1, 0];
            headers.extend([43, 0, 1, 4, 0, 0, 0, 0]);
            headers.extend([6, 2, 0, 1, 0, 0, 0, 0]);
            headers.extend(destination);
            v6(0, &source, &stop, &[&headers, segment].concat())
        }
    }
}

fn v6(next: u8, source: &[u8], destination: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend([source, destination, payload].concat());
    packet
}

fn ends(network: Network, from_client: bool) -> ((IpAddr, u16), (IpAddr, u16)) {
    let client = match network {
        Network::V4 | Network::V4Options => CLIENT.0.into(),
        Network::V6 | Network::V6Extended => CLIENT_V6.into(),
    };
    let (client, server) = ((client, CLIENT.1), (server(network), SERVER.1));
    if from_client { (client, server) } else { (server, client) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn checksum(octets: &[u8]) -> [u8; 2] {
    let words = octets.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
