//! Captures of neighbors whose daemons agree on keys.

use std::fs;

use tcpauth_common::{Algorithm, Kdf, KeyId};
use zeroize::Zeroizing;

use super::formats::pcap;
use super::independent::independent;
use super::samples::{examine_with, with_keys};
use super::signed::{self, Network};
use crate::capture::{AgreedKeys, Frames, Link, Summary};
use crate::keys::{MasterKey, Mkt, TcpOptions};

/// The keys of the neighbor's chain, of which the first need not be the one that the handshake was under, say nothing of
/// whether an agreed key covers TCP options; its log does, unless it is an old one.
#[test]
fn agreed_keys_cover_tcp_options_as_their_log_says() {
    let folder = tempfile::tempdir().unwrap();
    let (log, file) = (folder.path().join("keys.log"), folder.path().join("signed.pcap"));
    for (tcp_options, other) in
        [(TcpOptions::Include, TcpOptions::Exclude), (TcpOptions::Exclude, TcpOptions::Include)]
    {
        let agreed = signed::mkt(Algorithm::HmacSha1_96, Kdf::Rfc5926, tcp_options);
        let packets = signed::packets(&agreed, Network::V4);
        let octets: Vec<_> =
            packets.iter().map(|packet| signed::frame(Link::Ethernet, &[], packet)).collect();
        let capture = pcap(false, false, 1, &octets);
        fs::write(&file, &capture).unwrap();
        let frames: Vec<_> = Frames::new(&capture[..]).unwrap().map(Result::unwrap).collect();
        let configured = |id, tcp_options| Mkt {
            send_id: KeyId(id),
            recv_id: KeyId(id),
            master_key: MasterKey::new(Zeroizing::new(b"another".to_vec())).unwrap(),
            tcp_options,
            ..agreed.clone()
        };
        let chain = vec![configured(7, other), configured(8, tcp_options)];
        let config = with_keys(signed::server(Network::V4), 179, chain);
        let line = format!(
            "192.0.2.1:40000 192.0.2.2:179 {} - hmac-sha-1-96 1 1 {}",
            signed::CLIENT_ISN,
            hex::encode(signed::SECRET)
        );
        let (name, wrong) = (tcp_options.name(), other.name());
        for (line, verified) in
            [(format!("{line} {name}\n"), 10), (format!("{line}\n"), 10), (format!("{line} {wrong}\n"), 0)]
        {
            fs::write(&log, &line).unwrap();
            let mut keys = AgreedKeys::default();
            keys.read(&log).unwrap();
            let mut summary = Summary::default();
            examine_with(&config, &keys, &frames).iter().for_each(|one| summary.count(one.verdict));
            assert_eq!((summary.segments, summary.verified), (10, verified), "{line}");
        }
        // An old log leaves it to an argument there.
        fs::write(&log, format!("{line} {name}\n")).unwrap();
        let log = log.to_str().unwrap();
        for more in [&[][..], &["--exclude-options"]] {
            let (good, said) = independent(&file, &[&["--key-log", log], more].concat());
            assert!(good && said.contains("under agreed keys 10\n"), "{said}");
        }
        fs::write(log, format!("{line}\n")).unwrap();
        let (good, said) = independent(&file, &["--key-log", log]);
        assert_eq!(good, tcp_options == TcpOptions::Include, "{said}");
    }
}
