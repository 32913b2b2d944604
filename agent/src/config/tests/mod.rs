//! What a configuration means; what is wrong with one is in `errors` and `files`.

use std::path::Path;

use tcpauth_common::{Algorithm, Kdf, KeyId};

use super::*;
use crate::keys::TcpOptions;

mod agreed;
mod chains;
mod credentials;
mod differences;
mod edits;
mod errors;
mod files;
mod modes;
mod properties;
mod warnings;
mod written;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("t.toml"))
}

/// The errors of `text`, one a line.
fn errors(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("no error in {text}"),
        Err(errors) => errors.to_string(),
    }
}

/// The configuration `text`, which has no errors.
fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn peers(config: &Config) -> Vec<String> {
    config.neighbors.iter().map(|neighbor| neighbor.peer.to_string()).collect()
}

#[test]
fn one_line_is_a_complete_file() {
    let config = good("neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"");
    let [neighbor] = &config.neighbors[..] else { panic!("not one neighbour") };
    assert_eq!(neighbor.peer.to_string(), "192.0.2.1");
    assert_eq!(neighbor.keys.first().master_key.octets(), b"v61ne0qkel33&");
    assert_eq!((neighbor.keys.first().send_id, neighbor.keys.first().recv_id), (KeyId(1), KeyId(1)));
    assert_eq!(neighbor.keys.first().algorithm, Algorithm::HmacSha1_96);
    assert_eq!(neighbor.keys.first().kdf, Kdf::Rfc5926);
    assert_eq!(neighbor.keys.first().tcp_options, TcpOptions::Include);
    assert_eq!(neighbor.port, 179);
    assert_eq!(neighbor.ttl_security, None);
    assert_eq!(neighbor.key_management, KeyManagement::Implicit);
    assert_eq!(neighbor.wire, Wire::TcpAo);
    assert_eq!(neighbor.key_warning, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(neighbor.unauthenticated, Unauthenticated::Drop);
    assert!(config.warnings().is_empty());
}

#[test]
fn every_field_is_taken_from_the_neighbour() {
    let config = good(
        r#"
        [neighbor."2001:DB8:0::1"]
        key-hex = "00ff10"
        send-id = 0
        recv-id = 0xff
        algorithm = "hmac-sha-256-128"
        kdf = "rfc5926"
        tcp-options = "exclude"
        port = 1_790
        interface = "eth0"
        ttl-security = 254
        key-management = "implicit"
        unauthenticated = "drop"
        "#,
    );
    let neighbor = &config.neighbors[0];
    assert_eq!(neighbor.peer.to_string(), "2001:db8::1%eth0");
    assert_eq!(neighbor.keys.first().master_key.octets(), [0, 0xff, 0x10]);
    assert_eq!((neighbor.keys.first().send_id, neighbor.keys.first().recv_id), (KeyId(0), KeyId(255)));
    assert_eq!(neighbor.keys.first().algorithm, Algorithm::HmacSha256_128);
    assert_eq!(neighbor.keys.first().tcp_options, TcpOptions::Exclude);
    assert_eq!((neighbor.port, neighbor.ttl_security), (1790, Some(254)));
}

#[test]
fn defaults_are_inherited_field_by_field() {
    let config = good(
        r#"
        [defaults]
        key-base64 = "c2VjcmV0LW9mLWFsbA=="
        key-id = 7
        algorithm = "aes-128-cmac-96"
        tcp-options = "exclude"
        port = 1179
        interface = "eth0"
        ttl-security = 1
        [neighbor]
        "fe80::1" = {}
        "fe80::2%eth1" = { send-id = 9 }
        "fe80::3" = { password = "of its own", port = 179, key-id = 2, tcp-options = "include" }
        "#,
    );
    assert_eq!(peers(&config), ["fe80::1%eth0", "fe80::2%eth1", "fe80::3%eth0"]);
    let [first, second, third] = &config.neighbors[..] else { panic!("not three") };
    assert_eq!(first.keys.first().master_key.octets(), b"secret-of-all");
    assert_eq!((first.keys.first().send_id, first.keys.first().recv_id), (KeyId(7), KeyId(7)));
    assert_eq!(first.keys.first().algorithm, Algorithm::Aes128Cmac96);
    assert_eq!((first.port, first.ttl_security), (1179, Some(1)));
    assert_eq!((second.keys.first().send_id, second.keys.first().recv_id), (KeyId(9), KeyId(7)));
    assert_eq!(third.keys.first().master_key.octets(), b"of its own");
    assert_eq!((third.keys.first().send_id, third.keys.first().recv_id), (KeyId(2), KeyId(2)));
    assert_eq!((third.port, third.keys.first().tcp_options), (179, TcpOptions::Include));
}

#[test]
fn ends_behind_this_host_are_those_of_the_neighbours_family() {
    let config = good(
        r#"
        defaults.password = "secret of all"
        defaults.forwarded = ["172.17.0.0/16%docker0", "2001:db8:1::9%docker0"]
        [neighbor]
        "192.0.2.1" = {}
        "192.0.2.2" = { forwarded = ["10.88.0.0/24%veth1", "192.0.2.9/32", "192.0.2.3%veth1"] }
        "192.0.2.3" = { forwarded = [] }
        "2001:db8::1" = {}
        "fe80::1%eth0" = { forwarded = ["fe80::2", "fe80::3%veth1"] }
        "#,
    );
    let ends: Vec<String> = (config.neighbors.iter())
        .map(|neighbor| neighbor.forwarded.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        ends,
        [
            "172.17.0.0/16%docker0",
            "10.88.0.0/24%veth1 192.0.2.9 192.0.2.3%veth1",
            "",
            "2001:db8:1::9%docker0",
            "fe80::2 fe80::3%veth1"
        ]
    );
}

#[test]
fn a_password_is_the_octets_of_its_text() {
    for (toml, octets) in [
        (r#""pässwörd""#, "pässwörd"),
        (r#""a\"b\\c\u00e9\n""#, "a\"b\\cé\n"),
        (r#"'a\"b'"#, "a\\\"b"),
        ("\"\"\"\ntwo\nlines\"\"\"", "two\nlines"),
        (r#"" ""#, " "),
    ] {
        let config = good(&format!("neighbor.\"192.0.2.1\".password = {toml}"));
        assert_eq!(config.neighbors[0].keys.first().master_key.octets(), octets.as_bytes());
    }
}

#[test]
fn base64_may_lack_its_padding_and_hex_be_in_capitals() {
    for field in ["key-base64 = \"AP8Q\"", "key-hex = \"00FF10\""] {
        let config = good(&format!("neighbor.\"192.0.2.1\".{field}"));
        assert_eq!(config.neighbors[0].keys.first().master_key.octets(), [0, 0xff, 0x10]);
    }
    let config = good("neighbor.\"192.0.2.1\".key-base64 = \"AP8\"");
    assert_eq!(config.neighbors[0].keys.first().master_key.octets(), [0, 0xff]);
}

#[test]
fn neighbours_are_in_the_order_of_their_peers() {
    let config = good(
        "defaults.password = \"secret of all\"\n\
         neighbor.\"2001:db8::/32\" = {}\nneighbor.\"192.0.2.9\" = {}\nneighbor.\"192.0.2.0/24\" = {}\n\
         neighbor.\"0.0.0.0/0\" = {}\nneighbor.\"::/0\" = {}",
    );
    assert_eq!(peers(&config), ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.9", "::/0", "2001:db8::/32"]);
}

#[test]
fn overlaps_that_the_longest_match_decides_are_legal() {
    let config = good(
        "defaults.password = \"secret of all\"\n\
         neighbor.\"192.0.2.0/24\" = {}\nneighbor.\"192.0.2.1%eth0\" = {}\n\
         neighbor.\"10.0.0.0/8%eth0\" = {}\nneighbor.\"10.1.0.0/16%eth1\" = {}\n\
         neighbor.\"fe80::1%eth0\" = {}\nneighbor.\"fe80::1%eth1\" = {}\nneighbor.\"::/0\" = {}\n\
         neighbor.\"172.16.0.1%eth0\" = {}\nneighbor.\"172.16.0.1%eth1\" = {}",
    );
    assert_eq!(config.neighbors.len(), 9);
}

#[test]
fn short_long_and_padded_secrets_are_warned_about_without_showing_them() {
    let long = "l".repeat(81);
    let config = good(&format!(
        "neighbor.\"192.0.2.1\".password = \"7octets\"\nneighbor.\"192.0.2.2\".password = \"{long}\"\n\
         neighbor.\"192.0.2.3\".password = \"from windows\\r\"\nneighbor.\"192.0.2.4\".password = \"8 octets\""
    ));
    let warnings: Vec<String> = config.warnings().iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        [
            "neighbor \"192.0.2.1\": the secret is shorter than 8 octets and can be guessed; make one with `tcpauth genkey`",
            "neighbor \"192.0.2.2\": the secret is longer than 80 octets, which routers with TCP-AO of their own may refuse",
            "neighbor \"192.0.2.3\": the secret begins or ends with white space; if that is not meant, remove it \
             (a file saved with CR LF line ends has it)",
        ]
    );
    assert_eq!(
        good("").warnings().iter().map(Warning::to_string).collect::<Vec<_>>(),
        ["no neighbour: nothing is protected; add neighbor.\"ADDRESS\""]
    );
}

#[test]
fn the_example_file_is_good_and_shows_every_field() {
    let text = include_str!("../../../../config/tcpauth.toml");
    let config = good(text);
    assert_eq!(
        peers(&config),
        [
            "192.0.2.1",
            "198.51.100.0/24",
            "203.0.113.1",
            "203.0.113.2",
            "203.0.113.3",
            "203.0.113.4",
            "203.0.113.5",
            "203.0.113.7%eth1",
            "2001:db8::1",
            "fe80::1%eth0"
        ]
    );
    // The same for ever: no lifetime in it leaves a gap.
    assert_eq!(config.warnings(), []);
    let fields = fields::FIELDS.into_iter().filter(|field| !["key", "tls"].contains(field));
    for field in fields.chain(kmp::fields::TLS_FIELDS) {
        assert!(text.contains(&format!("{field} = ")), "{field} is not explained");
    }
    assert!(text.contains("key.1 = "), "keys are not explained");
}
