//! What an independent program finds, tests/independent/verify_capture.py, is what we find.

use std::path::{Path, PathBuf};
use std::process::Command;

use tcpauth_common::{Algorithm, Kdf};

use super::formats::pcap;
use super::samples::{ONE_KEY, REKEYED, Router, config, frames, summary, vector, with_neighbor};
use super::signed::{self, NETWORKS};
use crate::capture::{Frames, Link};
use crate::keys::{Mkt, TcpOptions};

/// Runs the program: whether it succeeded, and what it printed.
pub fn independent(file: &Path, arguments: &[&str]) -> (bool, String) {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/independent/verify_capture.py");
    let output = Command::new("/usr/bin/python3").arg(program).arg(file).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.is_empty(), "python3-cryptography is needed: {complaint}");
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

fn arguments(mkt: &Mkt, port: &str) -> Vec<String> {
    let key = hex::encode(mkt.master_key.octets());
    let mut arguments =
        ["--key", &key, "--algorithm", mkt.algorithm.name(), "--port", port].map(str::to_owned).to_vec();
    arguments.extend(["--kdf", mkt.kdf.name()].map(str::to_owned));
    if mkt.excludes_options() {
        arguments.push("--exclude-options".to_owned());
    }
    arguments
}

fn assert_good(file: &Path, mkt: &Mkt, port: &str, segments: usize) {
    let arguments = arguments(mkt, port);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(["--mtu", "1500"]).collect();
    let line =
        format!("segments {segments}, verified {segments}, failed 0, without option 0, bad checksum 0\n");
    assert_eq!(independent(file, &arguments), (true, line), "{}", file.display());
}

#[test]
fn native_linux_captures_verify() {
    for name in ONE_KEY {
        let config = config(name, Router::Client, 0);
        let file = vector(&format!("{name}.pcap"));
        assert_good(&file, config.neighbors[0].keys.first(), "1790", frames(name).len());
    }
}

#[test]
fn keys_are_told_apart_by_their_ids() {
    let file = vector(&format!("{REKEYED}.pcap"));
    let [first, second] = [0, 1].map(|key| {
        let config = config(REKEYED, Router::Client, key);
        let secret = hex::encode(config.neighbors[0].keys.first().master_key.octets());
        [61, 84].map(|id| format!("{}:{secret}", id + key))
    });
    let with = |keys: &[&String]| {
        let mut arguments = vec!["--algorithm", "aes-128-cmac-96", "--port", "1790"];
        arguments.extend(keys.iter().flat_map(|key| ["--key", key]));
        independent(&file, &arguments)
    };
    let (good, all) = with(&[&first[0], &first[1], &second[0], &second[1]]);
    assert!(good, "{all}");
    let (good, some) = with(&[&first[0], &first[1]]);
    let ours = summary(&config(REKEYED, Router::Client, 0), &frames(REKEYED));
    assert_eq!((good, some), (false, format!("{ours}, bad checksum 0\n")));
}

#[test]
fn both_verify_every_algorithm_in_every_packet() {
    for algorithm in Algorithm::ALL {
        both_verify(algorithm, Kdf::Rfc5926);
    }
}

#[test]
fn both_verify_keys_of_both_isns_and_static_ones() {
    for algorithm in Algorithm::TCP_AO {
        both_verify(algorithm, Kdf::Isn);
        both_verify(algorithm, Kdf::None);
    }
}

fn both_verify(algorithm: Algorithm, kdf: Kdf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signed.pcap");
    for (network, tcp_options, tags) in NETWORKS.into_iter().flat_map(|network| {
        [(network, TcpOptions::Include, &[][..]), (network, TcpOptions::Exclude, &[(0x88a8, 3), (0x8100, 4)])]
    }) {
        let mkt = signed::mkt(algorithm, kdf, tcp_options);
        let packets = signed::packets(&mkt, network);
        let octets: Vec<_> =
            packets.iter().map(|packet| signed::frame(Link::Ethernet, tags, packet)).collect();
        let capture = pcap(false, false, 1, &octets);
        std::fs::write(&file, &capture).unwrap();
        assert_good(&file, &mkt, "179", packets.len());

        let read: Vec<_> = Frames::new(&capture[..]).unwrap().map(Result::unwrap).collect();
        let ours = summary(&with_neighbor(signed::server(network), 179, mkt), &read);
        assert!(ours.is_good(), "{algorithm:?}, {kdf:?}, {network:?}: {ours}");
    }
}

#[test]
fn it_finds_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.pcap");
    let mkt = config("sha1-v4-ts1", Router::Client, 0).neighbors[0].keys.first().clone();
    let original: Vec<_> = frames("sha1-v4-ts1").into_iter().map(|frame| frame.octets).collect();
    let count = original.len();
    let option = original[3].windows(2).position(|two| two == [29, 16]).unwrap();
    let found = |change: &dyn Fn(&mut Vec<u8>), more: &[&str]| {
        let mut octets = original.clone();
        change(&mut octets[3]);
        std::fs::write(&file, pcap(true, true, 1, &octets)).unwrap();
        let arguments = arguments(&mkt, "1790");
        let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let (good, line) = independent(&file, &arguments);
        assert!(!good);
        line
    };
    let line = |verified, failed, without, bad| {
        format!(
            "segments {count}, verified {verified}, failed {failed}, without option {without}, bad checksum {bad}\n"
        )
    };
    let less = count - 1;
    assert_eq!(found(&|octets| octets[option + 4] ^= 1, &[]), line(less, 1, 0, 1), "MAC");
    assert_eq!(found(&|octets| octets[500] ^= 1, &[]), line(less, 1, 0, 1), "data");
    assert_eq!(found(&|octets| octets[14 + 10] ^= 1, &[]), line(count, 0, 0, 1), "IP checksum");
    assert_eq!(found(&|octets| octets[14 + 36] ^= 1, &[]), line(count, 0, 0, 1), "TCP checksum");
    assert_eq!(found(&|octets| octets[option..option + 16].fill(1), &[]), line(less, 0, 1, 1), "no option");
    assert_eq!(found(&|octets| octets.truncate(600), &[]), line(less, 1, 0, 0), "cut short");
    assert_eq!(found(&|octets| octets[14 + 6] = 0x20, &[]), line(less, 1, 0, 0), "fragment");
    let full = original.iter().filter(|octets| octets.len() == 1514).count();
    assert!(full > 0);
    let too_long = found(&|_| {}, &["--mtu", "1499"]);
    assert_eq!(too_long, line(count - full, full, 0, 0));
}

#[test]
fn one_segment_can_be_shown() {
    let mkt = config("sha1-v4-ts1", Router::Client, 0).neighbors[0].keys.first().clone();
    let arguments = arguments(&mkt, "1790");
    let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(["--show", "4"]).collect();
    let (good, shown) = independent(&vector("sha1-v4-ts1.pcap"), &arguments);
    assert!(good);
    for row in [
        "from  10.99.1.1 port 41041\n",
        "seq  1019043643\n",
        "KeyID  61\n",
        "RNextKeyID  84\n",
        "MAC on the wire  886de1ee762f0737df119b69\n",
        "MAC recomputed  886de1ee762f0737df119b69\n",
        "verdict  verified\n",
    ] {
        assert!(shown.contains(row), "{row}{shown}");
    }
}
