//! Captures of native Linux TCP-AO verify; altered ones do not.

use std::sync::Arc;

use proptest::prelude::*;
use tcpauth_common::KeyId;
use zeroize::Zeroizing;

use self::samples::{ONE_KEY, REKEYED, Router, config, examine, frames, summary, verdicts};
use super::{AgreedKeys, Failure, Frame, Frames, Link, Verdict, Verifier};
use crate::config::Peer;
use crate::keys::{KeyChain, MasterKey, Mkt};
use crate::sessions::testing::mirrored;

mod agreed;
mod chains;
mod formats;
mod independent;
mod md5;
mod order;
mod samples;
mod signed;

const ETHERNET: usize = 14;
const IPV4: usize = 20;

#[test]
fn native_linux_captures_verify_with_the_file_of_either_router() {
    for name in ONE_KEY {
        for router in [Router::Client, Router::Server] {
            let frames = frames(name);
            let summary = summary(&config(name, router, 0), &frames);
            assert!(summary.is_good(), "{name}, {router:?}: {summary}");
            assert_eq!(summary.segments, frames.len() as u64, "{name}");
        }
    }
}

#[test]
fn what_is_shown_of_a_segment() {
    let all = examine(&config("sha1-v4-ts1", Router::Client, 0), &frames("sha1-v4-ts1"));
    let data = &all[3];
    assert_eq!(data.source, "10.99.1.1:41041".parse().unwrap());
    assert_eq!(data.destination, "10.99.1.2:1790".parse().unwrap());
    let header = data.header.unwrap();
    assert_eq!((header.flags.to_string().as_str(), header.seq.0, header.len), (".", 1019043643, 1432));
    let option = data.option.as_ref().unwrap();
    assert_eq!((option.key_id, option.rnext_key_id), (KeyId(61), KeyId(84)));
    assert_eq!(hex::encode(&option.mac), "886de1ee762f0737df119b69");
    assert_eq!((data.frame, data.time.unwrap().0), (4, 1_795_220_617_854_553_000));
}

#[test]
fn segments_of_a_second_key_have_an_unknown_key_id() {
    let frames = frames(REKEYED);
    for router in [Router::Client, Router::Server] {
        for key in 0..2 {
            let ids = [[61, 84], [62, 85]][key].map(KeyId);
            let all = examine(&config(REKEYED, router, key), &frames);
            assert_eq!(all.len(), frames.len());
            let of_key = all.iter().filter(|one| ids.contains(&one.option.as_ref().unwrap().key_id)).count();
            assert!(of_key > 0 && of_key < all.len());
            for examined in all {
                let verdict = if ids.contains(&examined.option.unwrap().key_id) {
                    Verdict::Verified
                } else {
                    Verdict::Failed(Failure::UnknownKeyId)
                };
                assert_eq!(examined.verdict, verdict, "{router:?}, key {key}, frame {}", examined.frame);
            }
        }
    }
}

#[test]
fn key_ids_belong_to_directions() {
    let mut config = config("sha1-v4-ts1", Router::Client, 0);
    config.neighbors[0].keys = Arc::new(KeyChain::of(mirrored(config.neighbors[0].keys.first())));
    let summary = summary(&config, &frames("sha1-v4-ts1"));
    assert_eq!(summary.failed.get(&Failure::UnknownKeyId), Some(&summary.segments));
}

#[test]
fn the_neighbour_with_the_longest_prefix_counts() {
    let frames = frames("sha1-v4-ts1");
    let mut config = config("sha1-v4-ts1", Router::Client, 0);
    let mut wide = config.neighbors[0].clone();
    for (address, prefix_len) in [("10.99.1.0", 24), ("0.0.0.0", 0)] {
        wide.peer = Peer { address: address.parse().unwrap(), prefix_len, interface: None };
        config.neighbors = vec![wide.clone()];
        assert!(summary(&config, &frames).is_good(), "{prefix_len}");
    }
    // Another port is no session of the neighbour's, and neither is that of a wider prefix.
    let mut narrow = wide.clone();
    narrow.peer = Peer { address: "10.99.1.2".parse().unwrap(), prefix_len: 32, interface: None };
    narrow.port = 179;
    config.neighbors = vec![narrow.clone()];
    assert_eq!(summary(&config, &frames).segments, 0);
    wide.peer = Peer { address: "10.99.1.2".parse().unwrap(), prefix_len: 31, interface: None };
    config.neighbors = vec![wide.clone(), narrow];
    assert_eq!(summary(&config, &frames).segments, 0);
    wide.peer = Peer { address: "10.99.1.4".parse().unwrap(), prefix_len: 31, interface: None };
    config.neighbors = vec![wide];
    assert_eq!(summary(&config, &frames).segments, 0);
}

#[test]
fn neighbours_with_one_link_local_address_are_all_tried() {
    let frames = frames("cmac-v6-ts1");
    let mut config = config("cmac-v6-ts1", Router::Server, 0);
    let mut other = config.neighbors[0].clone();
    config.neighbors[0].peer.interface = Some("eth0".to_owned());
    other.peer.interface = Some("eth1".to_owned());
    let master_key = MasterKey::new(Zeroizing::new(b"another".to_vec())).unwrap();
    other.keys = Arc::new(KeyChain::of(Mkt { master_key, ..other.keys.first().clone() }));
    config.neighbors.push(other);
    assert!(summary(&config, &frames).is_good());
    config.neighbors.swap(0, 1);
    assert!(summary(&config, &frames).is_good());
}

#[test]
fn any_altered_octet_of_any_segment_is_found() {
    for name in ONE_KEY {
        let config = config(name, Router::Client, 0);
        let segment_at = ETHERNET + if name.contains("v6") { 40 } else { IPV4 };
        let agreed = AgreedKeys::default();
        let mut verifier = Verifier::new(&config, &agreed);
        for frame in frames(name) {
            // Headers octet by octet, data here and there.
            let octets = segment_at..frame.octets.len();
            for at in octets.filter(|at| *at < segment_at + 60 || at % 211 == 0) {
                let mut altered = frame.clone();
                altered.octets[at] ^= 1 << (at % 8);
                let place = format!("{name}, frame {}, octet {at}", frame.number);
                match verifier.clone().examine(&altered) {
                    Ok(examined) => assert_ne!(examined.verdict, Verdict::Verified, "{place}"),
                    // Only the neighbour's port takes a segment away from those that are looked at.
                    Err(_) => {
                        let port = &frame.octets[segment_at + (at - segment_at) / 2 * 2..][..2];
                        assert_eq!(port, 1790u16.to_be_bytes(), "{place}");
                        assert!(at < segment_at + 4, "{place}");
                    }
                }
            }
            assert_eq!(verifier.examine(&frame).unwrap().verdict, Verdict::Verified);
        }
    }
}

#[test]
fn altered_addresses_are_found() {
    let config = config("sha1-v4-ts1", Router::Server, 0);
    let mut frames = frames("sha1-v4-ts1");
    // The neighbour is the client, which sent this one; the server's address is nobody's.
    frames[3].octets[ETHERNET + 16] ^= 1;
    assert_eq!(verdicts(&config, &frames)[3], Verdict::Failed(Failure::SynMissing));
}

#[test]
fn another_password_verifies_nothing() {
    let mut other = config("sha1-v4-ts1", Router::Client, 0);
    let master_key = config(REKEYED, Router::Client, 1).neighbors[0].keys.first().master_key.clone();
    let mkt = Mkt { master_key, ..other.neighbors[0].keys.first().clone() };
    other.neighbors[0].keys = Arc::new(KeyChain::of(mkt));
    let summary = summary(&other, &frames("sha1-v4-ts1"));
    assert_eq!(summary.failed.get(&Failure::WrongMac), Some(&summary.segments));
}

#[test]
fn isns_are_unknown_without_the_syn_and_its_answer() {
    let (frames, config) = (frames("sha1-v4-ts1"), config("sha1-v4-ts1", Router::Client, 0));
    let late = summary(&config, &frames[2..]);
    assert_eq!(late.failed.get(&Failure::SynMissing), Some(&late.segments));
    // The SYN, and segments of which none acknowledges only the SYN-ACK.
    let without = [&frames[..1], &frames[20..]].concat();
    let summary = summary(&config, &without);
    assert_eq!(summary.failed.get(&Failure::SynAckMissing), Some(&(summary.segments - 1)));
}

#[test]
fn one_direction_or_one_of_the_handshake_tells_both_isns() {
    for name in ONE_KEY {
        let (frames, config) = (frames(name), config(name, Router::Client, 0));
        let from_client = examine(&config, &frames)[0].source;
        let (to_server, to_client): (Vec<_>, Vec<_>) =
            frames.iter().partition(|frame| examine(&config, [*frame])[0].source == from_client);
        for some in [
            to_server,
            to_client,
            frames[1..].iter().collect(),
            [&frames[..1], &frames[2..]].concat().iter().collect(),
        ] {
            let summary = summary(&config, some);
            assert!(summary.is_good(), "{name}: {summary}");
        }
    }
}

#[test]
fn segments_without_the_option_are_counted_apart() {
    let mut frames = frames("sha1-v4-ts1");
    let octets = &mut frames[4].octets;
    let option = octets.windows(2).position(|two| two == [29, 16]).unwrap();
    octets[option..option + 16].fill(1);
    let summary = summary(&config("sha1-v4-ts1", Router::Client, 0), &frames);
    assert_eq!((summary.without_option, summary.failed()), (1, 0));
    assert_eq!(summary.verified, summary.segments - 1);
}

#[test]
fn the_option_twice_or_of_another_length_fails() {
    let config = config("sha1-v4-ts1", Router::Client, 0);
    let original = frames("sha1-v4-ts1");
    let option = original[4].octets.windows(2).position(|two| two == [29, 16]).unwrap();
    let with = |at: usize, octets: &[u8]| {
        let mut frames = original.clone();
        frames[4].octets[at..at + octets.len()].copy_from_slice(octets);
        verdicts(&config, &frames)[4]
    };
    assert_eq!(with(option, &[29, 4, 61, 84, 29, 12]), Verdict::Failed(Failure::OptionTwice));
    assert_eq!(
        with(option, &[29, 12, original[4].octets[option + 2], 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]),
        Verdict::Failed(Failure::WrongLength)
    );
    assert_eq!(with(option, &[29, 40]), Verdict::Failed(Failure::Malformed));
}

#[test]
fn checksums_are_right_or_left_to_the_hardware() {
    let config = config("sha1-v4-ts1", Router::Client, 0);
    let original = frames("sha1-v4-ts1");
    let with_checksum = |change: fn(&[u8], u16) -> u16| {
        let mut frames = original.clone();
        let octets = &mut frames[3].octets;
        let at = ETHERNET + IPV4 + 16;
        let checksum = u16::from_be_bytes([octets[at], octets[at + 1]]);
        let changed = change(octets, checksum).to_be_bytes();
        octets[at..at + 2].copy_from_slice(&changed);
        verdicts(&config, &frames)[3]
    };
    assert_eq!(with_checksum(|_, right| right), Verdict::Verified);
    assert_eq!(with_checksum(|_, right| right ^ 0x0100), Verdict::Failed(Failure::WrongChecksum));
    let pseudo_header_only = |octets: &[u8], _| {
        let len = octets.len() - ETHERNET - IPV4;
        let words = octets[ETHERNET + 12..ETHERNET + 20].chunks(2);
        let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let sum = sum + 6 + len as u32;
        (sum & 0xffff) as u16 + (sum >> 16) as u16
    };
    assert_eq!(with_checksum(pseudo_header_only), Verdict::Verified);
}

#[test]
fn segments_cut_short_or_merged_say_so() {
    let config = config("sha1-v4-ts1", Router::Client, 0);
    let original = frames("sha1-v4-ts1");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frames = original.clone();
        change(&mut frames[3].octets);
        verdicts(&config, &frames)[3]
    };
    for len in [ETHERNET + IPV4 + 4, ETHERNET + IPV4 + 19, ETHERNET + IPV4 + 60, 1000] {
        let cut = changed(&|octets| octets.truncate(len));
        assert_eq!(cut, Verdict::Failed(Failure::CutShort), "{len} octets");
    }
    // As a host has it: longer than the MSS of the SYN, and, when IP's length field cannot say how long, 0 in it.
    let merged = changed(&|octets| {
        octets.resize(9000, 0);
        let len = (octets.len() - ETHERNET) as u16;
        octets[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&len.to_be_bytes());
    });
    assert_eq!(merged, Verdict::Failed(Failure::Merged));
    let merged = changed(&|octets| octets[ETHERNET + 2..ETHERNET + 4].fill(0));
    assert_eq!(merged, Verdict::Failed(Failure::Merged));
}

#[test]
fn fragments_say_so() {
    let config = config("sha1-v4-ts1", Router::Client, 0);
    let mut frames = frames("sha1-v4-ts1");
    let flags_at = ETHERNET + 6;
    frames[3].octets[flags_at] = 0x20;
    let mut later = frames[3].clone();
    later.octets[flags_at..flags_at + 2].copy_from_slice(&[0x00, 0xb9]);
    frames.insert(4, later);
    let verdicts = verdicts(&config, &frames);
    assert_eq!(verdicts[3..5], [Verdict::Failed(Failure::Fragment); 2]);

    // Of a connection that is not the neighbour's: neither the first nor what follows it.
    frames[3].octets[ETHERNET + IPV4 + 2..ETHERNET + IPV4 + 4].copy_from_slice(&[0, 80]);
    assert_eq!(summary(&config, &frames).segments, frames.len() as u64 - 2);
}

proptest! {
    #[test]
    fn any_octets_are_read_without_panic(
        magic in 0..5usize,
        link in prop::sample::select(vec![1u8, 101, 113]),
        octets in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let whole = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, link, 0, 0, 0];
        let magic = [
            &[0xd4, 0xc3, 0xb2, 0xa1][..],
            &[0xa1, 0xb2, 0x3c, 0x4d],
            &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a],
            &whole,
            &[],
        ][magic];
        let config = config("sha1-v4-ts1", Router::Client, 0);
        if let Ok(found) = Frames::new(&[magic, &octets].concat()[..]) {
            let found: Vec<_> = found.map_while(Result::ok).collect();
            summary(&config, &found);
        }
    }

    #[test]
    fn any_frame_is_examined_without_panic(
        link in prop::sample::select(vec![Link::Ethernet, Link::CookedV1, Link::CookedV2, Link::RawIp]),
        at in 0..40usize,
        changes in prop::collection::vec((0..120usize, any::<u8>()), 1..12),
        len in 0..120usize,
        name in prop::sample::select(ONE_KEY.to_vec()),
    ) {
        let mut frames = frames(name);
        let Frame { octets, link: of_frame, .. } = &mut frames[at];
        *of_frame = link;
        if link == Link::RawIp {
            octets.drain(..ETHERNET);
        }
        for (octet, value) in changes {
            if let Some(octet) = octets.get_mut(octet) {
                *octet = value;
            }
        }
        octets.truncate(octets.len().max(len) - len);
        summary(&config(name, Router::Client, 0), &frames);
    }
}
