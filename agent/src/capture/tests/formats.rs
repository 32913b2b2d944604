//! The same segments verify whatever file, link layer and network layer they come in.

use tcpauth_common::{Algorithm, Kdf};

use super::samples::{Router, config, frames, summary, vector, with_neighbor};
use super::signed::{self, NETWORKS, Network};
use crate::capture::{CaptureError, Frame, Frames, Link, Timestamp};
use crate::keys::TcpOptions;

const LINKS: [(Link, u32); 4] =
    [(Link::Ethernet, 1), (Link::CookedV1, 113), (Link::CookedV2, 276), (Link::RawIp, 101)];

/// A pcap file of these frames, the first captured at second 1 and nanosecond 2,000 and the others with it.
pub fn pcap(big_endian: bool, nanoseconds: bool, link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let number = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file = number(if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }).to_vec();
    file.extend([0; 16]);
    file.extend(number(link));
    for frame in frames {
        file.extend([1, if nanoseconds { 2000 } else { 2 }].map(number).concat());
        file.extend([frame.len() as u32; 2].map(number).concat());
        file.extend(frame);
    }
    file
}

fn block(big_endian: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let number = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
    let len = (12 + body.len() + padding.len()) as u32;
    [&number(kind)[..], &number(len), body, &padding, &number(len)].concat()
}

/// A section of a pcapng file: an interface of each link type (the second in nanoseconds), a block of a sort
/// that is to be skipped, and each frame on the interface it was given.
fn section(big_endian: bool, frames: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let number = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let short = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let version = [short(1), short(0)].concat();
    let header = [&number(0x1a2b_3c4d)[..], &version, &[0xff; 8]].concat();
    let mut section = block(big_endian, 0x0a0d_0d0a, &header);
    for (index, (_, link)) in LINKS.iter().enumerate() {
        let mut interface = [&short(*link as u16)[..], &[0; 2], &number(0)].concat();
        if index == 1 {
            // if_name, if_tsresol, end of options.
            interface.extend([short(2), short(3)].concat());
            interface.extend(b"any\0");
            interface.extend([short(9), short(1)].concat());
            interface.extend([9, 0, 0, 0, 0, 0, 0, 0]);
        }
        section.extend(block(big_endian, 1, &interface));
    }
    section.extend(block(big_endian, 5, &[0; 12]));
    for (interface, frame) in frames {
        let units = if *interface == 1 { 1_000_002_000u64 } else { 1_000_002 };
        let mut body = [*interface, (units >> 32) as u32, units as u32].map(number).concat();
        body.extend([frame.len() as u32; 2].map(number).concat());
        body.extend(frame);
        section.extend(block(big_endian, 6, &body));
    }
    section
}

fn read(file: &[u8]) -> Vec<Frame> {
    Frames::new(file).unwrap().collect::<Result<_, _>>().unwrap()
}

fn packets(network: Network) -> Vec<Vec<u8>> {
    signed::packets(&signed::mkt(Algorithm::HmacSha1_96, Kdf::Rfc5926, TcpOptions::Include), network)
}

/// Asserts that a capture of [`packets`] verifies completely.
fn assert_good(network: Network, frames: &[Frame]) {
    let mkt = signed::mkt(Algorithm::HmacSha1_96, Kdf::Rfc5926, TcpOptions::Include);
    let summary = summary(&with_neighbor(signed::server(network), 179, mkt), frames);
    assert!(summary.is_good(), "{network:?}: {summary}");
    assert_eq!(summary.segments, 10);
}

#[test]
fn pcap_of_either_byte_order_and_resolution() {
    for (big_endian, nanoseconds) in [(false, false), (false, true), (true, false), (true, true)] {
        for (link, number) in LINKS {
            let packets = packets(Network::V4).into_iter();
            let octets: Vec<_> = packets.map(|packet| signed::frame(link, &[], &packet)).collect();
            let frames = read(&pcap(big_endian, nanoseconds, number, &octets));
            assert!(frames.iter().all(|frame| frame.time == Some(Timestamp(1_000_002_000))));
            assert_eq!(
                frames.iter().map(|frame| frame.number).collect::<Vec<_>>(),
                (1..=10).collect::<Vec<_>>()
            );
            assert_good(Network::V4, &frames);
        }
    }
}

#[test]
fn pcapng_with_several_interfaces_and_sections() {
    for network in NETWORKS {
        let on_interfaces = packets(network)
            .into_iter()
            .enumerate()
            .map(|(index, packet)| (index as u32 % 4, signed::frame(LINKS[index % 4].0, &[], &packet)));
        let all: Vec<_> = on_interfaces.collect();
        let (begin, end) = all.split_at(5);
        let frames = read(&[section(false, begin), section(true, end)].concat());
        assert!(frames.iter().all(|frame| frame.time == Some(Timestamp(1_000_002_000))), "{frames:?}");
        assert_good(network, &frames);
    }
}

#[test]
fn pcapng_with_simple_packets() {
    let mut file = section(false, &[]);
    for packet in packets(Network::V6) {
        let frame = signed::frame(Link::Ethernet, &[], &packet);
        file.extend(block(false, 3, &[&(frame.len() as u32).to_le_bytes()[..], &frame].concat()));
    }
    let frames = read(&file);
    assert!(frames.iter().all(|frame| frame.time.is_none()));
    assert_good(Network::V6, &frames);
}

#[test]
fn vlan_tags_and_padding_stand_in_no_ones_way() {
    for network in NETWORKS {
        for tags in [&[(0x8100, 5)][..], &[(0x88a8, 5), (0x8100, 6)], &[(0x9100, 5), (0x8100, 6)]] {
            for (link, number) in &LINKS[..3] {
                let octets: Vec<_> = packets(network)
                    .iter()
                    .map(|packet| [signed::frame(*link, tags, packet), vec![0xee; 9]].concat())
                    .collect();
                assert_good(network, &read(&pcap(false, false, *number, &octets)));
            }
        }
    }
}

#[test]
fn what_is_no_capture_or_not_a_whole_one() {
    let new = |octets: &[u8]| Frames::new(octets).err();
    assert!(matches!(new(b""), Some(CaptureError::Format)));
    assert!(matches!(new(b"{}"), Some(CaptureError::Format)));
    assert!(matches!(new(&[0x1f, 0x8b, 8, 0, 0, 0]), Some(CaptureError::Format)));
    assert!(matches!(new(&pcap(false, false, 189, &[])), Some(CaptureError::Link(189))));

    let whole = std::fs::read(vector("sha1-v4-ts1.pcap")).unwrap();
    for cut in [1, 15, 100] {
        let mut frames = Frames::new(&whole[..whole.len() - cut]).unwrap();
        assert!(matches!(frames.by_ref().last(), Some(Err(CaptureError::Incomplete(_)))), "{cut} less");
        assert!(frames.next().is_none(), "ends after the first error");
    }
    let mut file = section(false, &[(0, vec![0; 60])]);
    let last = file.len() - 1;
    file[last] ^= 1;
    assert!(matches!(Frames::new(&file[..]).unwrap().next(), Some(Err(CaptureError::Damaged { .. }))));
    let absent = section(false, &[(9, vec![0; 60])]);
    assert!(matches!(Frames::new(&absent[..]).unwrap().next(), Some(Err(CaptureError::Damaged { .. }))));
}

#[test]
fn other_traffic_is_nobodys_segment() {
    let mut all = frames("sha1-v4-ts1");
    let number = all.len();
    for (at, octet) in [(12, 0x81), (14 + 9, 17), (14 + 19, 99)] {
        let mut other = all[3].clone();
        other.octets[at] = octet;
        if at == 14 + 19 {
            // Neither from nor to the server.
            other.octets[14 + 15] = 98;
        }
        all.push(other);
    }
    let summary = summary(&config("sha1-v4-ts1", Router::Client, 0), &all);
    assert_eq!((summary.segments, summary.is_good()), (number as u64, true));
}
