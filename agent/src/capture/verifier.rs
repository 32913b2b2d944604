//! From a packet to its verdict: whose it is, which keys, whether the MAC is right.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use tcpauth_common::layout::{Quartet, mapped};
use tcpauth_common::mac::MAX_INPUT;
use tcpauth_common::option::{Header, OptionWalk};
use tcpauth_common::{Algorithm, KeyId, SeqNumber};

use super::connection::{self, Connections, End, Sequence};
use super::file::Frame;
use super::key_log::{AgreedKey, AgreedKeys};
use super::other::Other;
use super::packet::{self, Body, Content, Packet};
use super::verdict::{AoOption, Examined, Failure, Flags, TcpHeader, Verdict};
use crate::config::{Config, Neighbor, Peer};
use crate::keys::segment::{AuthOption, SegmentError, is_same_mac, md5, parse_option, segment_mac};
use crate::keys::{Mkt, Role};

/// Verifies the segments of a capture one after the other, following their connections.
#[derive(Clone)]
pub struct Verifier<'c> {
    config: &'c Config,
    agreed: &'c AgreedKeys,
    connections: HashMap<[SocketAddr; 2], Connection>,
    /// First fragments that belong to no neighbour's port: the later ones do not show theirs.
    foreign: HashSet<(IpAddr, IpAddr, u32)>,
}

#[derive(Clone, Default)]
struct Connection {
    incarnations: Connections,
    /// MSS that each end announced.
    mss: [Option<u16>; 2],
}

/// A master key tuple that a segment may be signed with, and the KeyID it then carries.
struct Candidate<'c> {
    mkt: &'c Mkt,
    key_id: KeyId,
    /// Of which connection it is, if not of all of a neighbour.
    agreed: Option<&'c AgreedKey>,
}

impl<'c> Verifier<'c> {
    /// A verifier for segments to and from the neighbours of `config`, which may be the file of either end:
    /// a neighbour is looked for as the source and as the destination. `agreed` are keys of single connections of these
    /// neighbours.
    pub fn new(config: &'c Config, agreed: &'c AgreedKeys) -> Self {
        Self { config, agreed, connections: HashMap::new(), foreign: HashSet::new() }
    }

    /// Verifies the segment in `frame`.
    ///
    /// # Errors
    /// The kind of the frame, if it is not a neighbor's segment.
    pub fn examine(&mut self, frame: &Frame) -> Result<Examined, Other> {
        let packet = match packet::decode(frame.link, &frame.octets) {
            Content::Tcp(packet) => packet,
            Content::Other(other) => return Err(other),
        };
        let ports = packet.ports();
        let candidates = candidates(self.config, packet.source, packet.destination, ports);
        if let Body::Fragment { id, first } = packet.body {
            let packet_id = (packet.source, packet.destination, id);
            if first.is_some() && candidates.is_empty() {
                self.foreign.insert(packet_id);
            } else if first.is_some() {
                self.foreign.remove(&packet_id);
            } else if self.foreign.contains(&packet_id) {
                return Err(Other::Stranger);
            }
        }
        if candidates.is_empty() {
            return Err(Other::Stranger);
        }
        let (source_port, destination_port) = ports.unwrap_or_default();
        let ends = (
            SocketAddr::new(packet.source, source_port),
            SocketAddr::new(packet.destination, destination_port),
        );
        let candidates = with_agreed(candidates, self.agreed, ends);
        let mut examined = Examined {
            frame: frame.number,
            time: frame.time,
            source: ends.0,
            destination: ends.1,
            header: None,
            option: None,
            digest: None,
            verdict: Verdict::Verified,
        };
        if let Err(failure) = self.verify(&packet, &candidates, &mut examined) {
            examined.verdict = failure;
        }
        Ok(examined)
    }

    fn verify(
        &mut self,
        packet: &Packet<'_>,
        candidates: &[Candidate<'_>],
        examined: &mut Examined,
    ) -> Result<(), Verdict> {
        let (octets, is_whole) = match packet.body {
            Body::Segment(octets) | Body::Merged(octets) => (octets, true),
            Body::CutShort(octets) => (octets, false),
            Body::Fragment { .. } => return Err(Failure::Fragment.into()),
        };
        let Some(header) = Header::of_segment(octets) else {
            return Err(if is_whole { Failure::Malformed } else { Failure::CutShort }.into());
        };
        let option = parse_option(octets);
        let digest = md5::parse_option(octets);
        let tcp = tcp_header(octets, &header);
        examined.header = Some(tcp);
        examined.option = option.as_ref().ok().map(|option| ao_option(octets, option));
        examined.digest =
            digest.as_ref().ok().and_then(|digest| octets.get(digest.clone())).map(<[u8]>::to_vec);
        if !is_whole {
            return Err(Failure::CutShort.into());
        }
        if matches!(packet.body, Body::Merged(_)) {
            return Err(Failure::Merged.into());
        }

        let (sender, ends) = ends(examined.source, examined.destination);
        let connection = self.connections.entry(ends).or_default();
        connection.note_mss(sender, tcp, &header);
        let (of_md5, of_ao): (Vec<_>, Vec<_>) =
            candidates.iter().partition(|candidate| candidate.mkt.algorithm == Algorithm::Md5);
        let verified = match digest {
            Ok(digest) if !of_md5.is_empty() => verify_digest(&of_md5, examined, octets, digest),
            Err(error) if of_ao.is_empty() => return Err(error.into()),
            _ => connection.verify_mac(&of_ao, sender, tcp, examined, octets, &option?),
        };
        match verified {
            Err(Failure::WrongMac) if connection.is_merged(sender, tcp.len) => Err(Failure::Merged.into()),
            Err(failure) => Err(failure.into()),
            Ok(()) if !checksum_is_right(packet, octets) => Err(Failure::WrongChecksum.into()),
            Ok(()) => Ok(()),
        }
    }
}

impl Connection {
    /// Remembers the MSS that a SYN announces.
    fn note_mss(&mut self, sender: End, tcp: TcpHeader, header: &Header) {
        let walk = OptionWalk::run(header);
        if tcp.flags.has(Flags::SYN) && walk.mss_at != 0 {
            self.mss[sender as usize] = Some(header.number16(walk.mss_at + 2));
        }
    }

    /// Whether one of the keys makes the MAC in `option` right.
    fn verify_mac(
        &mut self,
        keys: &[&Candidate<'_>],
        sender: End,
        tcp: TcpHeader,
        examined: &Examined,
        octets: &[u8],
        option: &AuthOption,
    ) -> Result<(), Failure> {
        let with_id: Vec<_> = keys.iter().filter(|key| key.key_id == option.key_id).collect();
        let fitting: Vec<_> =
            with_id.iter().filter(|key| key.mkt.algorithm.option_len() == option.option_len()).collect();
        let header = connection::Header {
            sender,
            seq: tcp.seq,
            ack: SeqNumber(u32_at(octets, 8)),
            syn: tcp.flags.has(Flags::SYN),
            is_ack: tcp.flags.has(Flags::ACK),
            rst: tcp.flags.has(Flags::RST),
        };
        // The ISNs are remembered even of a segment whose key is not known.
        let followed = self.incarnations.verify(header, |sequence| {
            let role = if sequence.client == sender { Role::Client } else { Role::Server };
            fitting
                .iter()
                .filter(|key| key.agreed.is_none_or(|agreed| agreed.is_of(sequence, sender)))
                .any(|key| mac_is_right(key, sequence, role, examined, octets, option))
        });
        if with_id.is_empty() {
            return Err(Failure::UnknownKeyId);
        }
        if fitting.is_empty() {
            return Err(Failure::WrongLength);
        }
        followed
    }

    /// Whether `len` octets of data are more than the receiver said it takes in one segment, or
    /// than anyone signs.
    fn is_merged(&self, sender: End, len: usize) -> bool {
        len > MAX_INPUT as usize || self.mss[sender.other() as usize].is_some_and(|mss| len > mss.into())
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<SegmentError> for Verdict {
    fn from(error: SegmentError) -> Self {
        Self::Failed(match error {
            SegmentError::NoOption => return Self::WithoutOption,
            SegmentError::OptionTwice => Failure::OptionTwice,
            SegmentError::Malformed | SegmentError::MixedFamilies => Failure::Malformed,
            SegmentError::TooLong => Failure::Merged,
        })
    }
}

/// The keys of a packet's neighbours: a segment from a neighbour carries our RecvID, one to it our SendID.
fn candidates<'c>(
    config: &'c Config,
    source: IpAddr,
    destination: IpAddr,
    ports: Option<(u16, u16)>,
) -> Vec<Candidate<'c>> {
    let candidate = |mkt: &'c Mkt, key_id| Candidate { mkt, key_id, agreed: None };
    let from = neighbors(config, source, ports).map(|mkt| candidate(mkt, mkt.recv_id));
    let to = neighbors(config, destination, ports).map(|mkt| candidate(mkt, mkt.send_id));
    from.chain(to).collect()
}

/// The keys of a packet's neighbors, and those agreed for connections between its ends.
fn with_agreed<'c>(
    mut candidates: Vec<Candidate<'c>>,
    agreed: &'c AgreedKeys,
    (source, destination): (SocketAddr, SocketAddr),
) -> Vec<Candidate<'c>> {
    candidates.extend(agreed.between(&ends(source, destination).1).iter().map(|key| Candidate {
        mkt: &key.mkt,
        key_id: if key.local == source { key.mkt.send_id } else { key.mkt.recv_id },
        agreed: Some(key),
    }));
    candidates
}

/// The keys of the neighbours with the longest prefix that `address` is in, if it or its peer uses
/// their port, or that of the channel between the daemons. Several may have one link-local address, each on an interface of its own.
fn neighbors(config: &Config, address: IpAddr, ports: Option<(u16, u16)>) -> impl Iterator<Item = &Mkt> {
    let covering = move |neighbor: &&Neighbor| covers(&neighbor.peer, address);
    let longest = config.neighbors.iter().filter(covering).map(|neighbor| neighbor.peer.prefix_len).max();
    config
        .neighbors
        .iter()
        .filter(covering)
        .filter(move |neighbor| Some(neighbor.peer.prefix_len) == longest)
        .filter(move |neighbor| {
            let channel = neighbor.kmp.as_ref().map(|kmp| kmp.port);
            ports.is_none_or(|(source, destination)| {
                [source, destination].iter().any(|port| *port == neighbor.port || Some(*port) == channel)
            })
        })
        .flat_map(|neighbor| neighbor.keys.keys.iter().map(|key| &key.mkt))
}

fn covers(peer: &Peer, address: IpAddr) -> bool {
    let (differing, len) = match (peer.address, address) {
        (IpAddr::V4(peer), IpAddr::V4(address)) => (u128::from(peer.to_bits() ^ address.to_bits()) << 96, 32),
        (IpAddr::V6(peer), IpAddr::V6(address)) => (peer.to_bits() ^ address.to_bits(), 128),
        _ => return false,
    };
    differing.leading_zeros() >= u32::from(peer.prefix_len.min(len))
}

fn ends(source: SocketAddr, destination: SocketAddr) -> (End, [SocketAddr; 2]) {
    if source <= destination {
        (End::Lower, [source, destination])
    } else {
        (End::Higher, [destination, source])
    }
}

fn tcp_header(octets: &[u8], header: &Header) -> TcpHeader {
    TcpHeader {
        flags: Flags(header.octet(13)),
        seq: SeqNumber(u32_at(octets, 4)),
        len: octets.len().saturating_sub(header.len_by_offset() as usize),
    }
}

fn ao_option(octets: &[u8], option: &AuthOption) -> AoOption {
    AoOption {
        key_id: option.key_id,
        rnext_key_id: option.rnext_key_id,
        mac: octets.get(option.mac.clone()).unwrap_or_default().to_vec(),
    }
}

/// Whether one of the passwords makes the digest of TCP-MD5 right, which knows neither connections nor KeyIDs.
fn verify_digest(
    keys: &[&Candidate<'_>],
    examined: &Examined,
    octets: &[u8],
    digest: Range<usize>,
) -> Result<(), Failure> {
    let (source, destination) = (examined.source.ip(), examined.destination.ip());
    let is_right = keys.iter().any(|key| {
        md5::digest(key.mkt.master_key.octets(), source, destination, octets)
            .is_ok_and(|computed| is_same_mac(Algorithm::Md5, &computed, &octets[digest.clone()]))
    });
    if is_right { Ok(()) } else { Err(Failure::WrongMac) }
}

/// Whether the MAC is that of `key`, where the sender has this role.
fn mac_is_right(
    key: &Candidate<'_>,
    sequence: Sequence,
    role: Role,
    examined: &Examined,
    octets: &[u8],
    option: &AuthOption,
) -> bool {
    let (source, destination) = (examined.source, examined.destination);
    // Seen from the sender; a SYN's key is the one for a destination ISN of 0.
    let quartet = Quartet {
        local: mapped(source.ip()),
        peer: mapped(destination.ip()),
        local_port: source.port(),
        peer_port: destination.port(),
        scope: 0,
    };
    let (mkt, exclude) = (key.mkt, key.mkt.excludes_options());
    let key = mkt.traffic_slot(&quartet, sequence.source_isn, sequence.destination_isn, role).send;
    let computed =
        segment_mac(&key, mkt.algorithm, exclude, sequence.sne, source.ip(), destination.ip(), octets);
    computed.is_ok_and(|computed| is_same_mac(mkt.algorithm, &computed, &octets[option.mac.clone()]))
}

/// Whether the checksum is right, or still the sum over the pseudo-header that a host with checksum
/// offload leaves for the hardware to complete.
fn checksum_is_right(packet: &Packet<'_>, segment: &[u8]) -> bool {
    let pseudo_header = pseudo_header_sum(packet, segment.len());
    let whole = fold(pseudo_header + sum(segment)) == 0xffff;
    whole || u64::from(u16::from_be_bytes([segment[16], segment[17]])) == fold(pseudo_header)
}

fn pseudo_header_sum(packet: &Packet<'_>, len: usize) -> u64 {
    let addresses = [packet.source, packet.destination].map(|address| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    });
    addresses[0] + addresses[1] + u64::from(packet::TCP) + len as u64
}

/// The sum of 16-bit words.
fn sum(octets: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    octets.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// The number at `at` of a segment with a whole header.
fn u32_at(octets: &[u8], at: usize) -> u32 {
    octets.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_be_bytes(*chunk))
}
