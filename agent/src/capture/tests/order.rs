//! Frames in another order than they were sent in.

use proptest::prelude::*;
use tcpauth_common::{Algorithm, Kdf};

use super::formats::pcap;
use super::samples::with_neighbor;
use super::signed::{self, Network};
use crate::capture::{AgreedKeys, Examination, Failure, Frames, Link, Rest, Summary, Verifier};
use crate::keys::TcpOptions;

/// Frames of connections that use the same ports, one after the other.
fn connections(kdf: Kdf, count: u32) -> Vec<Vec<u8>> {
    let mkt = signed::mkt(Algorithm::HmacSha1_96, kdf, TcpOptions::Include);
    let isns = (0..count).map(|nth| (0xffff_ff00 + nth * 7, 0x1234_5678 + nth * 0x0100_0000));
    let packets = isns.flat_map(|isns| signed::connection(&mkt, Network::V4, isns));
    packets.map(|packet| signed::frame(Link::Ethernet, &[], &packet)).collect()
}

/// What becomes of them.
fn examined(kdf: Kdf, frames: &[Vec<u8>]) -> (Summary, Vec<u64>, Rest) {
    let mkt = signed::mkt(Algorithm::HmacSha1_96, kdf, TcpOptions::Include);
    let (config, agreed) = (with_neighbor(signed::server(Network::V4), 179, mkt), AgreedKeys::default());
    let file = pcap(false, false, 1, frames);
    let mut examination = Examination::new(Frames::new(&file[..]).unwrap(), Verifier::new(&config, &agreed));
    let (mut summary, mut numbers) = (Summary::default(), Vec::new());
    for examined in examination.by_ref() {
        summary.count(examined.verdict);
        numbers.push(examined.frame);
    }
    (summary, numbers, examination.into_rest())
}

#[test]
fn a_frame_of_the_next_connection_before_its_syn_is_no_false_alarm() {
    let mut frames = connections(Kdf::Rfc5926, 2);
    // The handshake's last segment comes before its SYN and the end of the connection before.
    let ack = frames.remove(12);
    frames.insert(8, ack);
    let (summary, numbers, rest) = examined(Kdf::Rfc5926, &frames);
    assert!(summary.is_good(), "{summary}: {:?}", summary.failed);
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>(), "in the order of the file");
    assert!(rest.others.is_empty() && rest.unread.is_none());
}

#[test]
fn a_segment_of_no_known_connection_stays_one_when_another_begins() {
    let mut frames = connections(Kdf::Rfc5926, 2);
    frames.drain(..2);
    let (summary, ..) = examined(Kdf::Rfc5926, &frames);
    assert_eq!(summary.failed.into_iter().collect::<Vec<_>>(), [(Failure::SynMissing, 8)]);
    assert_eq!(summary.verified, 10);
}

#[test]
fn what_is_further_away_is_not_waited_for() {
    let frames = connections(Kdf::Rfc5926, 1);
    let many = std::iter::repeat_n(frames[3].clone(), 2000).chain(frames.iter().cloned()).collect::<Vec<_>>();
    let (summary, numbers, _) = examined(Kdf::Rfc5926, &many);
    assert_eq!(numbers.len(), 2010);
    let missing = summary.failed.get(&Failure::SynMissing).copied().unwrap_or_default();
    assert!((900..=1000).contains(&missing), "{missing} of the first 2000 are out of reach");
    assert_eq!(summary.verified + missing, 2010);
}

proptest! {
    #[test]
    fn frames_shuffled_within_a_window_verify(
        delays in prop::collection::vec(0..40usize, 40),
        kdf in prop::sample::select(vec![Kdf::Rfc5926, Kdf::Isn]),
        altered in prop::option::of(0..4usize),
    ) {
        let mut frames = connections(kdf, 4);
        if let Some(nth) = altered {
            // Of the server's data.
            *frames[nth * 10 + 7].last_mut().unwrap() ^= 1;
        }
        let mut order: Vec<_> = (0..40).collect();
        order.sort_by_key(|at| at + delays[*at]);
        let shuffled: Vec<_> = order.iter().map(|at| frames[*at].clone()).collect();
        let (summary, ..) = examined(kdf, &shuffled);
        prop_assert_eq!((summary.segments, summary.failed()), (40, altered.iter().count() as u64), "{:?}", summary.failed);
        prop_assert_eq!(summary.verified, 40 - summary.failed());
    }
}
