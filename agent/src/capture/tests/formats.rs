//! The same segments verify whatever file, link layer and network layer they come in.

use tcpauth_common::{Algorithm, Kdf};

use super::samples::{Router, config, frames, others, summary, vector, with_neighbor};
use super::signed::{self, NETWORKS, Network};
use crate::capture::{CaptureError, Frame, Frames, Link, Other, Timestamp};
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
    assert!(matches!(new(b""), Some(CaptureError::Empty)));
    assert!(matches!(new(b"{}"), Some(CaptureError::Format)));
    assert!(matches!(new(b"{}  "), Some(CaptureError::Format)));
    for (magic, name) in [
        (&[0x1f, 0x8b, 8, 0, 0, 0][..], "gzip"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
        (&[0x28, 0xb5, 0x2f, 0xfd, 0], "zstd"),
        (b"BZh91AY", "bzip2"),
        (b"snoop\0\0\0\0\0\0\x02\0\0\0\x04", "snoop"),
        (&[0x34, 0xcd, 0xb2, 0xa1, 2, 0, 4, 0], "modified"),
        (&[0xa1, 0xb2, 0xcd, 0x34, 2, 0, 4, 0], "modified"),
    ] {
        let said = new(magic).unwrap().to_string();
        assert!(said.contains(name) && said.contains(": "), "{name}: {said}");
    }
    for cut in [4, 5, 23] {
        assert!(matches!(new(&pcap(true, false, 1, &[])[..cut]), Some(CaptureError::Headless)), "{cut}");
    }
    assert!(matches!(new(&section(true, &[])[..9]), Some(CaptureError::Headless)));
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
fn blocks_that_are_not_needed_may_have_any_length() {
    let frames =
        packets(Network::V4).into_iter().map(|packet| (0, signed::frame(Link::Ethernet, &[], &packet)));
    let mut frames: Vec<_> = frames.collect();
    let last = frames.split_off(5);
    for kind in [10, 4, 5, 0x8000_0001] {
        // TLS secrets, names, statistics, and what is not known.
        let large = block(false, kind, &vec![7; 2 << 20]);
        let rest = section(false, &last);
        let file = [section(false, &frames), large.clone(), rest].concat();
        assert_good(Network::V4, &read(&file));
        let cut = [section(false, &frames), large[..large.len() - 5].to_vec()].concat();
        let place = Frames::new(&cut[..]).unwrap().last().unwrap().unwrap_err().place().unwrap();
        assert_eq!(place.offset as usize, section(false, &frames).len(), "block {kind}");
    }
    // What would be kept in memory may not.
    for kind in [1, 2, 3, 6] {
        let file = [section(false, &[]), block(false, kind, &vec![0; 2 << 20])].concat();
        let error = Frames::new(&file[..]).unwrap().next().unwrap().unwrap_err();
        assert!(
            matches!(error, CaptureError::Damaged { what: "it is too long", .. }),
            "block {kind}: {error}"
        );
    }
}

#[test]
fn an_interface_of_another_link_type_hides_no_other() {
    let frames: Vec<_> = packets(Network::V4).into_iter().map(|packet| (3, packet)).collect();
    let mut file = section(false, &frames[..5]);
    // USB, as the interface number 4.
    file.extend(block(false, 1, &[189, 0, 0, 0, 0, 0, 0, 0]));
    let number = |value: u32| value.to_le_bytes();
    let usb = [[4, 0, 0, 64, 64].map(number).concat(), vec![0x45; 64]].concat();
    file.extend(block(false, 6, &usb));
    file.extend(block(false, 6, &usb));
    file.extend(section(false, &frames[5..]));
    let read = read(&file);
    assert_good(Network::V4, &read);
    let mkt = signed::mkt(Algorithm::HmacSha1_96, Kdf::Rfc5926, TcpOptions::Include);
    let config = with_neighbor(signed::server(Network::V4), 179, mkt);
    let others = others(&config, &read);
    assert_eq!(others.iter().collect::<Vec<_>>(), [(Other::Link(189), 2)]);
}

#[test]
fn packets_in_pppoe_and_behind_labels_are_read() {
    let head = |ethertype: u16, more: &[u8]| [&[2; 12], &ethertype.to_be_bytes()[..], more].concat();
    // Version and type, code, session, length; then the protocol of PPP, in one octet if compressed.
    let session = [0x11, 0, 0, 9, 0, 0];
    let (label, last) = ([0, 0x40, 0, 64], [0, 0x41, 1, 64]);
    for (network, ppp) in [(Network::V4, 0x21u8), (Network::V6, 0x57)] {
        for before in [
            head(0x8864, &[&session[..], &[0, ppp]].concat()),
            head(0x8864, &[&session[..], &[ppp]].concat()),
            head(0x8100, &[&[0, 7, 0x88, 0x64][..], &session, &[0, ppp]].concat()),
            head(0x8864, &[&session[..], &[0x02, 0x81], &label, &last].concat()),
            head(0x8847, &last),
            head(0x8847, &[label, label, last].concat()),
            head(0x8848, &[label, last].concat()),
        ] {
            let octets: Vec<_> =
                packets(network).iter().map(|packet| [&before[..], packet, &[0xee; 3]].concat()).collect();
            assert_good(network, &read(&pcap(false, false, 1, &octets)));
        }
    }
}

#[test]
fn other_frames_are_told_apart() {
    let ip = |protocol: u8, payload: &[u8]| {
        let mut packet = packets(Network::V4)[0][..20].to_vec();
        packet[9] = protocol;
        signed::frame(Link::Ethernet, &[], &[&packet, payload].concat())
    };
    let ethernet = |ethertype: u16, more: &[u8]| [&[2; 12], &ethertype.to_be_bytes()[..], more].concat();
    let mut stranger = signed::frame(Link::Ethernet, &[], &packets(Network::V4)[0]);
    stranger[14 + 19] ^= 1;
    stranger[14 + 15] ^= 1;
    let config = with_neighbor(
        signed::server(Network::V4),
        179,
        signed::mkt(Algorithm::HmacSha1_96, Kdf::Rfc5926, TcpOptions::Include),
    );
    for (frame, expected) in [
        (stranger, Other::Stranger),
        (ip(17, &[0x80, 0, 0x12, 0xb5, 0, 50, 0, 0]), Other::Vxlan),
        (ip(17, &[0x80, 0, 0x21, 0x18, 0, 50, 0, 0]), Other::Vxlan),
        (ip(17, &[0x80, 0, 0, 53, 0, 50, 0, 0]), Other::Ip(17)),
        (ip(47, &[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1]), Other::Erspan),
        (ip(47, &[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1]), Other::Erspan),
        (ip(47, &[0, 0, 8, 0]), Other::Ip(47)),
        (ip(50, &[]), Other::Ip(50)),
        (ethernet(0x0806, &[0; 28]), Other::EtherType(0x0806)),
        (ethernet(38, &[0x42, 0x42, 3]), Other::Llc),
        (ethernet(0x8863, &[0x11, 9, 0, 0, 0, 0]), Other::EtherType(0x8863)),
        // A control message of PPP; a pseudowire, which has a control word before its frame.
        (ethernet(0x8864, &[0x11, 0, 0, 9, 0, 4, 0xc0, 0x21, 9, 1]), Other::EtherType(0x8864)),
        (ethernet(0x8847, &[0, 0x41, 1, 64, 0, 0, 0, 0, 2, 2]), Other::EtherType(0x8847)),
        (ethernet(0x8847, &[0, 0x41, 0, 64]), Other::Unreadable),
        (ethernet(0x8864, &[0x11, 0]), Other::Unreadable),
        (ethernet(0x0800, &[0x65; 40]), Other::Unreadable),
        (ethernet(0x0800, &[0x45; 8]), Other::Unreadable),
        (vec![0; 13], Other::Unreadable),
    ] {
        let found = others(&config, &read(&pcap(false, false, 1, std::slice::from_ref(&frame))));
        assert_eq!(found.iter().collect::<Vec<_>>(), [(expected, 1)], "{frame:02x?}");
    }
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
