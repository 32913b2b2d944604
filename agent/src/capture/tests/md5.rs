//! Captures of native Linux TCP-MD5 verify; altered ones do not.

use std::path::PathBuf;

use tcpauth_common::{Algorithm, Kdf, KeyId};
use zeroize::Zeroizing;

use super::independent::independent;
use super::samples::{frames_of, summary, verdicts, with_keys};
use crate::capture::{Failure, Frame, Verdict};
use crate::config::Config;
use crate::keys::{MasterKey, Mkt, TcpOptions};

const PASSWORD: &str = "a password of TCP-MD5";
const NAMES: [&str; 2] = ["v4", "v6"];

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/vectors/linux-md5/{name}.pcap"))
}

fn frames(name: &str) -> Vec<Frame> {
    frames_of(&file(name))
}

fn mkt(algorithm: Algorithm, password: &str) -> Mkt {
    Mkt {
        send_id: KeyId(0),
        recv_id: KeyId(0),
        algorithm,
        kdf: Kdf::None,
        tcp_options: TcpOptions::Include,
        master_key: MasterKey::new(Zeroizing::new(password.into())).unwrap(),
    }
}

/// Of either router: the client's neighbour is the server, and the other way.
fn configs(name: &str, algorithm: Algorithm, passwords: &[&str]) -> [Config; 2] {
    let addresses = match name {
        "v4" => ["192.0.2.1", "192.0.2.2"],
        _ => ["2001:db8::1", "2001:db8::2"],
    };
    addresses.map(|address| {
        let mkts = passwords.iter().map(|password| mkt(algorithm, password)).collect();
        with_keys(address.parse().unwrap(), 179, mkts)
    })
}

#[test]
fn native_linux_captures_verify_by_both_programs() {
    for name in NAMES {
        let frames = frames(name);
        for config in configs(name, Algorithm::Md5, &[PASSWORD]) {
            let summary = summary(&config, &frames);
            assert!(summary.is_good() && summary.segments == 18, "{name}: {summary}");
        }
        let (good, line) = independent(&file(name), &["--algorithm", "md5", "--password", PASSWORD]);
        assert!(good, "{line}");
    }
}

#[test]
fn every_password_is_tried_and_another_verifies_nothing() {
    for name in NAMES {
        let frames = frames(name);
        for config in configs(name, Algorithm::Md5, &["older", PASSWORD, "newer"]) {
            assert!(summary(&config, &frames).is_good());
        }
        for config in configs(name, Algorithm::Md5, &["another"]) {
            let summary = summary(&config, &frames);
            assert_eq!(summary.failed.get(&Failure::WrongMac), Some(&summary.segments));
        }
        let (good, line) = independent(&file(name), &["--algorithm", "md5", "--password", "another"]);
        assert!(!good && line.contains("verified 0, failed 18"), "{line}");
    }
}

#[test]
fn no_syn_is_needed() {
    for name in NAMES {
        let [config, _] = configs(name, Algorithm::Md5, &[PASSWORD]);
        assert!(summary(&config, &frames(name)[5..]).is_good());
    }
}

#[test]
fn the_option_of_the_other_wire_is_none() {
    for name in NAMES {
        let [config, _] = configs(name, Algorithm::HmacSha1_96, &[PASSWORD]);
        let of_ao = summary(&config, &frames(name));
        assert_eq!(of_ao.without_option, of_ao.segments);
    }
    let frames = super::samples::frames("sha1-v4-ts1");
    let config = with_keys("10.99.1.2".parse().unwrap(), 1790, vec![mkt(Algorithm::Md5, PASSWORD)]);
    let of_md5 = summary(&config, &frames);
    assert_eq!((of_md5.without_option, of_md5.segments), (of_md5.segments, frames.len() as u64));
}

#[test]
fn every_altered_octet_is_found_but_those_of_the_options() {
    for (name, segment_at) in [("v4", 14 + 20), ("v6", 14 + 40)] {
        let [config, _] = configs(name, Algorithm::Md5, &[PASSWORD]);
        let frames = frames(name);
        let data = frames.iter().position(|frame| frame.octets.len() > 700).unwrap();
        let header_len = usize::from(frames[data].octets[segment_at + 12] >> 4) * 4;
        // Behind the ports, by which the neighbour is known, and before the options.
        for at in (4..20).chain(header_len..header_len + 40) {
            let mut altered = frames.clone();
            altered[data].octets[segment_at + at] ^= 1;
            assert_ne!(verdicts(&config, &altered)[data], Verdict::Verified, "{name}, octet {at}");
        }
    }
}
