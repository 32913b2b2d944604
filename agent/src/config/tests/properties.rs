//! What holds for any text, any configuration and any secret.

use proptest::prelude::*;
use unicode_normalization::UnicodeNormalization;

use super::*;
use crate::keys::{MasterKey, Mkt};
use crate::kmp::tls::suites;

/// A configuration as TOML, secrets in it as hex.
fn print(config: &Config) -> String {
    let mut text = String::new();
    for neighbor in &config.neighbors {
        let Neighbor { peer, keys, port, ttl_security, forwarded, .. } = neighbor;
        text += &format!("[neighbor.\"{peer}\"]\nkey-management = \"{}\"\n", neighbor.key_management.name());
        text += &format!("unauthenticated = \"{}\"\n", neighbor.unauthenticated.name());
        text += &format!("on-unprotected = \"{}\"\n", neighbor.on_unprotected.name());
        text += &format!("wire = \"{}\"\n", neighbor.wire.name());
        text += &format!("key-warning = {}\n", neighbor.key_warning.unwrap_or_default().as_secs() / 86_400);
        let mkt = keys.first();
        text += &format!("key-hex = \"{}\"\n", hex::encode(mkt.master_key.octets()));
        text += &format!("send-id = {}\nrecv-id = {}\nport = {port}\n", mkt.send_id, mkt.recv_id);
        text += &format!("algorithm = \"{}\"\nkdf = \"{}\"\n", mkt.algorithm.name(), mkt.kdf.name());
        let options = if mkt.tcp_options == TcpOptions::Include { "include" } else { "exclude" };
        text += &format!("tcp-options = \"{options}\"\n");
        text += &ttl_security.map(|hops| format!("ttl-security = {hops}\n")).unwrap_or_default();
        let ends: Vec<String> = forwarded.iter().map(|end| format!("\"{end}\"")).collect();
        text += &format!("forwarded = [{}]\n", ends.join(", "));
        text += &neighbor.kmp.as_deref().map(print_kmp).unwrap_or_default();
    }
    text
}

fn print_kmp(kmp: &Kmp) -> String {
    let mut text = format!("kmp-port = {}\nfallback = \"{}\"\n", kmp.port, kmp.fallback.name());
    text += &format!("rekey-interval = {}\n", kmp.rekey_interval.as_secs());
    text += &kmp.rekey_segments.map(|count| format!("rekey-segments = {count}\n")).unwrap_or_default();
    text += &kmp.local_address.map(|ours| format!("kmp-local-address = \"{ours}\"\n")).unwrap_or_default();
    text += &format!("algorithms = {:?}\n", kmp.algorithms.iter().map(|a| a.name()).collect::<Vec<_>>());
    text += &format!("tls.suites = {:?}\n", kmp.tls.suites);
    let Authentication::Psk { identity, peer_identity, rsa } = &kmp.tls.authentication else {
        panic!("needs a file")
    };
    for (field, identity) in [("identity", identity), ("peer-identity", peer_identity)] {
        text +=
            &identity.as_ref().map(|text| format!("tls.{field} = {}\n", quoted(text))).unwrap_or_default();
    }
    text + match rsa.as_ref().map(|rsa| &rsa.validation) {
        None => "",
        Some(Validation::Unvalidated) => "tls.server-certificate = \"unvalidated\"\n",
        Some(_) => panic!("not made here"),
    }
}

/// How keys are agreed with a neighbour of either family, by no file.
fn kmp() -> impl Strategy<Value = Kmp> {
    let names: Vec<&'static str> =
        suites::ALL.iter().filter(|suite| suite.refused().is_none()).map(|suite| suite.name).collect();
    let count = names.len();
    let identity = || {
        prop::option::of(
            "[^\\p{C}\\p{Z}\\p{M}]{1,60}"
                .prop_map(|text| text.nfc().collect::<String>())
                .prop_filter("characters that are not seen", |text| {
                    !text.contains(['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'])
                }),
        )
    };
    (
        1..=u16::MAX,
        prop::sample::select(&Fallback::ALL[..]),
        10..=2_592_000u64,
        prop::option::of(100..=1_000_000_000_000u64),
        prop::sample::subsequence(&Algorithm::BY_PREFERENCE[..], 1..=5),
        prop::sample::subsequence(names, 1..=count),
        (identity(), identity()),
    )
        .prop_map(
            |(port, fallback, seconds, rekey_segments, algorithms, suites, (identity, peer_identity))| {
                let rsa = suites.iter().any(|suite| suite.contains("RSA_PSK"));
                let rsa = rsa.then_some(Rsa { certificate: None, validation: Validation::Unvalidated });
                Kmp {
                    port,
                    local_address: None,
                    fallback,
                    rekey_interval: Duration::from_secs(seconds),
                    rekey_segments,
                    algorithms,
                    tls: Tls { authentication: Authentication::Psk { identity, peer_identity, rsa }, suites },
                }
            },
        )
}

/// What a neighbour is made of: peer, key, KeyIDs, algorithm, options under the MAC, port, hops, and
/// how many ends there are behind us. (A
/// [`Neighbor`] has no `Debug`, which proptest wants.)
type Parts = (String, Vec<u8>, (u8, u8), Algorithm, bool, u16, (Option<u8>, u8));

fn parts() -> impl Strategy<Value = Parts> {
    let peer = prop_oneof![
        any::<u16>().prop_map(|n| format!("192.0.{}.{}", n >> 8, n & 255)),
        any::<u8>().prop_map(|n| format!("10.{n}.0.0/16")),
        any::<u32>().prop_map(|n| format!("2001:db8::{:x}:{:x}", n >> 16, n & 0xffff)),
        any::<u16>().prop_map(|n| format!("2001:db8:{n:x}::/48")),
        (any::<u16>(), "[a-z][a-z0-9.-]{0,14}").prop_map(|(n, name)| format!("fe80::{n:x}%{name}")),
    ];
    let key = prop::collection::vec(any::<u8>(), 1..100);
    let algorithm = prop::sample::select(&Algorithm::TCP_AO[..]);
    (
        peer,
        key,
        any::<(u8, u8)>(),
        algorithm,
        any::<bool>(),
        1..=u16::MAX,
        (prop::option::of(1..=254u8), 0..4u8),
    )
}

fn neighbor(
    (peer, key, (send_id, recv_id), algorithm, include, port, (ttl_security, ends)): Parts,
) -> Neighbor {
    let peer: Peer = peer.parse().unwrap();
    let end = |n| match (peer.address.is_ipv4(), n % 2) {
        (true, 0) => format!("10.{n}.0.0/16%br{n}").parse().unwrap(),
        (true, _) => format!("192.0.2.{n}").parse().unwrap(),
        (false, _) => format!("2001:db8:{n}::%veth{n}").parse().unwrap(),
    };
    let kdf = Kdf::ALL[usize::from(recv_id) % 3];
    let mkt = Mkt {
        send_id: KeyId(send_id),
        recv_id: KeyId(recv_id),
        algorithm,
        kdf,
        tcp_options: if include { TcpOptions::Include } else { TcpOptions::Exclude },
        master_key: MasterKey::new(key.into()).unwrap(),
    };
    Neighbor {
        forwarded: (0..ends).map(end).collect(),
        peer,
        keys: Arc::new(KeyChain::of(mkt)),
        port,
        ttl_security,
        key_warning: ttl_security.map(|hops| Duration::from_secs(86_400 * u64::from(hops))),
        key_management: if kdf == Kdf::None { KeyManagement::Static } else { KeyManagement::Implicit },
        kmp: None,
        wire: Wire::TcpAo,
        unauthenticated: if ends == 0 {
            Unauthenticated::AcceptUntilAuthenticated
        } else {
            Unauthenticated::Drop
        },
        on_unprotected: if ends == 1 { OnUnprotected::Reset } else { OnUnprotected::Report },
    }
}

/// Everything that is printed about `text`: its errors or its warnings, and both forms of the errors.
fn output(text: &str) -> String {
    match parse(text) {
        Ok(config) => config.warnings().iter().map(|w| format!("{w}\n{w:?}\n")).collect(),
        Err(errors) => format!("{errors}\n{errors:?}"),
    }
}

/// `text` as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Secrets that cannot come about in a message by chance: 8 characters and more, most of them rare.
fn secret() -> impl Strategy<Value = String> {
    prop_oneof!["[A-Z0-9&!$ä✓'\"\\\\{}=#;]{8,40}", "[A-Z]{3}[0-9]{5,20}", "[!-~]{12,60}", "#[^\\x00]{9,20}"]
}

/// Texts with a place for a secret (`@`: as it is; `$`: as a TOML string), most of them broken there or nearby.
/// Not among them: the interface in a neighbour's key, `fe80::1%eth0`, which is part of its name and is shown.
const PLACES: [&str; 36] = [
    "neighbor.\"192.0.2.1\".password = $",
    "neighbor.\"192.0.2.1\".password = @",
    "neighbor.\"192.0.2.1\".password = \"@",
    "neighbor.\"192.0.2.1\".password = \"@\"\"",
    "neighbor.\"192.0.2.1\".password = '@'",
    "neighbor.\"192.0.2.1\".password @",
    "neighbor.\"192.0.2.1\".pasword = $",
    "neighbor.\"192.0.2.1\".password = [$]",
    "neighbor.\"192.0.2.1\".password = {$ = 1}",
    "neighbor.\"192.0.2.1\" = $",
    "neighbor = $",
    "neighbor.$.password = \"x\"",
    "neighbor.\"192.0.2.1\".$ = \"password\"",
    "$ = \"x\"",
    "defaults = $",
    "neighbor.\"192.0.2.1\" = { password = $ key-id = 1 }",
    "neighbor.\"192.0.2.1\" = { password = $, key-hex = $ }",
    "neighbor.\"192.0.2.1\" = { key-hex = $ }",
    "neighbor.\"192.0.2.1\" = { key-base64 = $ }",
    "neighbor.\"192.0.2.1\" = { password-file = $ }",
    "neighbor.\"192.0.2.1\" = { algorithm = $, kdf = $, tcp-options = $, port = $, key-id = $, interface = $, unauthenticated = $ }",
    "[neighbor.\"192.0.2.1\"]\npassword = $\npassword = $\nport = 0",
    "[neighbor.\"192.0.2.1\"]\npassword = $\n[neighbor.\"192.0.2.1/32\"]\npassword = $\n[neighbor.\"192.0.2.1%e\"]\ninterface = $\n",
    "neighbor.\"192.0.2.1\".key.1.pasword = $",
    "neighbor.\"192.0.2.1\".key.$ = {}",
    "neighbor.\"192.0.2.1\".key = $",
    "neighbor.\"192.0.2.1\".key-chain = $\n[key-chain.b]\nkey.1 = { password = $, send-lifetime = $ }\nkey.1.password = $",
    "key-chain.b.key.1 = { password = $, password-file = $, send-id = $, accept-lifetime = $ }\nkey-chain.b.$ = 1",
    "key-chain = $",
    "[@]\n[[$]]\n@ = 1\n",
    "neighbor.\"192.0.2.1\" = { key-management = $, kmp-port = $, kmp-local-address = $, fallback = $, rekey-interval = $, rekey-segments = $, algorithms = [$], tls = $ }",
    "neighbor.\"192.0.2.1\" = { key-management = \"external\", password = $, tls.suites = [$], tls.identity = $, tls.$ = 1, tls.authentication = $ }",
    "neighbor.\"192.0.2.1\" = { password = $, key-management = \"external\", tls = { authentication = \"raw-public-key\", private-key-file = $, peer-fingerprint = $, suites = $ } }",
    "neighbor.\"192.0.2.1\" = { password = $, key-management = \"layered\", tls = { ca-file = $, server-fingerprint = $, server-certificate = $ } }",
    "[defaults.tls]\ncertificate-file = $\ncertificate-key-file = $\nserver-certificate = $\npeer-identity = [$]\n",
    "neighbor.\"192.0.2.1\" = { key-hex = $, key-management = \"layered\", tls.identity = $, tls.peer-identity = $ }",
];

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        let _ = parse(&text);
        let _ = text.parse::<Peer>();
        let toml = Zeroizing::new(text.clone());
        let _ = Config::default().apply(&[Edit::AddNeighbor { peer: text, toml }], Path::new("/"));
    }

    #[test]
    fn text_made_of_the_language_never_panics(
        words in prop::collection::vec(prop::sample::select(&[
            "neighbor", "defaults", "\"192.0.2.1\"", "\"fe80::1%e\"", "password", "key-hex", "port", "interface",
            ".", "=", "[", "]", "[[", "{", "}", ",", "\n", "\r\n", "\"", "'", "\"\"\"", "1", "-1", "0x", "\"00\"",
            "\u{feff}", "é", "#", "true", "1e9", "2026-01-01", "\\u00e9", "\\",
        ][..]), 0..40),
    ) {
        let text = words.concat();
        let _ = output(&text);
    }

    #[test]
    fn any_text_of_address_characters_is_a_peer_with_a_canonical_form_or_an_error(
        text in "(([0-9]{1,3}\\.){3}[0-9]{1,3}|[0-9a-f:]{2,12})(/[0-9]{1,3})?(%e[0-9])?(/[0-9]{1,3})?",
    ) {
        if let Ok(peer) = text.parse::<Peer>() {
            prop_assert_eq!(peer.to_string().parse::<Peer>(), Ok(peer));
        }
    }

    #[test]
    fn a_configuration_printed_and_parsed_is_the_same(all in prop::collection::vec(parts(), 0..12)) {
        let mut config = Config { neighbors: all.into_iter().map(neighbor).collect(), ..Config::default() };
        config.neighbors.sort_by(|a, b| a.peer.cmp(&b.peer));
        config.neighbors.dedup_by(|a, b| a.peer == b.peer);
        match parse(&print(&config)) {
            Ok(parsed) => prop_assert!(parsed.neighbors == config.neighbors, "another configuration"),
            Err(errors) => prop_assert!(false, "{}", errors),
        }
    }

    #[test]
    fn keys_to_be_agreed_on_printed_and_parsed_are_the_same(
        parts in parts(),
        kmp in kmp(),
        is_layered in any::<bool>(),
        has_address in any::<bool>(),
    ) {
        let mut neighbor = neighbor((parts.0, parts.1, parts.2, parts.3, parts.4, parts.5, (parts.6.0, 1)));
        neighbor.forwarded = Vec::new();
        neighbor.keys = Arc::new(KeyChain::of(Mkt { kdf: Kdf::Rfc5926, ..neighbor.keys.first().clone() }));
        neighbor.key_management = if is_layered { KeyManagement::Layered } else { KeyManagement::External };
        neighbor.kmp = Some(Arc::new(Kmp {
            port: if kmp.port == neighbor.port { kmp.port.checked_sub(1).filter(|port| *port > 0).unwrap_or(2) } else { kmp.port },
            local_address: has_address.then_some(neighbor.peer.address).filter(|ours| !ours.is_unspecified()),
            fallback: if is_layered { Fallback::Never } else { kmp.fallback },
            ..kmp
        }));
        let config = Config { neighbors: vec![neighbor], ..Config::default() };
        match parse(&print(&config)) {
            Ok(parsed) => prop_assert!(parsed.neighbors == config.neighbors, "another configuration"),
            Err(errors) => prop_assert!(false, "{}", errors),
        }
    }

    #[test]
    fn a_quoted_password_is_taken_octet_for_octet(password in "\\PC{1,40}") {
        let config = good(&format!("neighbor.\"192.0.2.1\".password = {}", quoted(&password)));
        prop_assert_eq!(config.neighbors[0].keys.first().master_key.octets(), password.as_bytes());
    }

    #[test]
    fn no_output_holds_a_secret(secret in secret(), place in prop::sample::select(&PLACES[..])) {
        let text = place.replace('$', &quoted(&secret)).replace('@', &secret);
        for text in [format!("{text}\n"), format!("defaults.key-id = 900\n{text}")] {
            let output = output(&text);
            prop_assert!(!output.contains(&secret), "{}", output);
            // Nor as Rust or TOML would escape it.
            prop_assert!(!output.contains(&format!("{secret:?}")), "{}", output);
        }
    }

    #[test]
    fn positions_are_those_of_the_characters(before in "[a-zé✓ \t]{0,10}", lines in 0..5usize, password in "[a-zé✓]{8,12}") {
        let comments = format!("# {before}\n").repeat(lines);
        let text = format!("{comments}neighbor.\"192.0.2.1\" = {{ password = \"{password}\", port = 0 }}");
        let column = text.lines().last().unwrap().chars().count() - 2;
        let expected = format!("t.toml:{}:{column}: neighbor \"192.0.2.1\": port is out of range", lines + 1);
        prop_assert!(errors(&text).starts_with(&expected), "{}", errors(&text));
    }
}
