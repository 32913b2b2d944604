//! What `tcpauth check` says of keys that two daemons agree on. Nothing in it is secret.

use std::collections::HashMap;

use serde::Serialize;

use super::human;
use crate::config::{Authentication, Config, KeyManagement, Kmp, Neighbor, Validation};

/// How keys are agreed with a neighbour, for `check --json`.
#[derive(Debug, Serialize)]
pub struct Agreement {
    /// The neighbour.
    neighbor: String,
    /// `external` or `layered`.
    key_management: &'static str,
    /// TCP port of the channel.
    kmp_port: u16,
    /// Our address of it, if it is given.
    kmp_local_address: Option<std::net::IpAddr>,
    /// `never` or `implicit`.
    fallback: &'static str,
    /// Seconds between two handshakes of a session.
    rekey_interval_seconds: u64,
    /// Segments between them, if it is given.
    rekey_segments: Option<u64>,
    /// Algorithms by name, the best first.
    algorithms: Vec<&'static str>,
    /// The handshake.
    tls: Handshake,
}

/// A handshake.
#[derive(Debug, Serialize)]
struct Handshake {
    /// `psk` or `raw-public-key`.
    authentication: &'static str,
    /// What we call ourselves, if it is given.
    identity: Option<String>,
    /// What the neighbour calls itself, if it is given.
    peer_identity: Option<String>,
    /// Suites by their IANA names, the best first.
    suites: Vec<&'static str>,
    /// SHA-256 of the neighbour's raw public key, in hex.
    peer_fingerprint: Option<String>,
    /// What is asked of a server's certificate: `ca-file`, `fingerprint` or `unvalidated`.
    server_certificate: Option<&'static str>,
}

/// How keys are agreed with the neighbours of `config`, in their order.
pub fn agreements(config: &Config) -> Vec<Agreement> {
    let of = |neighbor: &Neighbor| neighbor.kmp.as_deref().map(|kmp| Agreement::of(neighbor, kmp));
    config.neighbors.iter().filter_map(of).collect()
}

/// The same for people, neighbours with the same settings together: a heading and the settings below it.
pub fn text(config: &Config) -> String {
    let mut groups: Vec<(&Neighbor, usize, String)> = Vec::new();
    let mut places: HashMap<(KeyManagement, String), usize> = HashMap::new();
    for neighbor in &config.neighbors {
        let Some(kmp) = neighbor.kmp.as_deref() else { continue };
        let settings = settings(kmp);
        let place = *places.entry((neighbor.key_management, settings.clone())).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, count, _)) => *count += 1,
            None => groups.push((neighbor, 1, settings)),
        }
    }
    let block = |(first, count, settings): (&Neighbor, usize, String)| {
        let whose =
            if count == 1 { format!("neighbor {}", first.peer) } else { format!("{count} neighbours") };
        format!("key-management {}: {whose}\n{settings}", first.key_management.name())
    };
    groups.into_iter().map(block).collect()
}

/// A line for each setting.
fn settings(kmp: &Kmp) -> String {
    let from = kmp.local_address.map(|ours| format!(" from {ours}")).unwrap_or_default();
    let segments = kmp.rekey_segments.map(|count| format!(" or {count} segments")).unwrap_or_default();
    let algorithms: Vec<&str> = kmp.algorithms.iter().map(|algorithm| algorithm.name()).collect();
    let tls = Handshake::of(kmp);
    let mut text = format!("  channel: port {}{from}, fallback {}\n", kmp.port, kmp.fallback.name());
    text += &format!("  new keys: after {}{segments}\n", human::duration(kmp.rekey_interval.as_secs()));
    text += &format!("  algorithms: {}\n", algorithms.join(", "));
    text += &format!("  tls: {}, {}\n", tls.authentication, tls.suites.join(", "));
    for (what, value) in [
        ("identity", &tls.identity),
        ("peer-identity", &tls.peer_identity),
        ("peer-fingerprint", &tls.peer_fingerprint),
    ] {
        text += &value.as_ref().map(|value| format!("  tls {what}: {value}\n")).unwrap_or_default();
    }
    text + &tls
        .server_certificate
        .map(|what| format!("  tls server-certificate: {what}\n"))
        .unwrap_or_default()
}

impl Agreement {
    fn of(neighbor: &Neighbor, kmp: &Kmp) -> Self {
        Self {
            neighbor: neighbor.peer.to_string(),
            key_management: neighbor.key_management.name(),
            kmp_port: kmp.port,
            kmp_local_address: kmp.local_address,
            fallback: kmp.fallback.name(),
            rekey_interval_seconds: kmp.rekey_interval.as_secs(),
            rekey_segments: kmp.rekey_segments,
            algorithms: kmp.algorithms.iter().map(|algorithm| algorithm.name()).collect(),
            tls: Handshake::of(kmp),
        }
    }
}

impl Handshake {
    fn of(kmp: &Kmp) -> Self {
        let suites = kmp.tls.suites.clone();
        match &kmp.tls.authentication {
            Authentication::Psk { identity, peer_identity, rsa } => Self {
                authentication: "psk",
                identity: identity.clone(),
                peer_identity: peer_identity.clone(),
                suites,
                peer_fingerprint: None,
                server_certificate: rsa.as_ref().map(|rsa| match rsa.validation {
                    Validation::CaFile(_) => "ca-file",
                    Validation::Fingerprint(_) => "fingerprint",
                    Validation::Unvalidated => "unvalidated",
                }),
            },
            Authentication::RawPublicKey { peer_fingerprint, .. } => Self {
                authentication: "raw-public-key",
                identity: None,
                peer_identity: None,
                suites,
                peer_fingerprint: Some(hex::encode(peer_fingerprint)),
                server_certificate: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("t.toml")).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn neighbours_of_the_same_settings_are_shown_together() {
        let config = config(
            "defaults = { password = \"v61ne0qkel33&\", key-management = \"external\" }\n[neighbor]\n\
             \"192.0.2.1\" = {}\n\"192.0.2.2\" = {}\n\"192.0.2.3\" = { key-management = \"implicit\" }\n\
             \"192.0.2.4\" = { key-management = \"layered\", rekey-segments = 5000, kmp-local-address = \"192.0.2.9\", \
             rekey-interval = 90, algorithms = [\"siphash-2-4-96\"], tls = { identity = \"a\", peer-identity = \"b\", \
             suites = [\"TLS_RSA_PSK_WITH_AES_128_GCM_SHA256\"], server-certificate = \"unvalidated\" } }",
        );
        assert_eq!(
            text(&config),
            "key-management external: 2 neighbours\n\
             \x20 channel: port 17179, fallback never\n\
             \x20 new keys: after 1h0m\n\
             \x20 algorithms: hmac-sha-256-128, hmac-sha-256-96, aes-128-cmac-96, hmac-sha-1-96, siphash-2-4-96\n\
             \x20 tls: psk, TLS_AES_128_GCM_SHA256\n\
             key-management layered: neighbor 192.0.2.4\n\
             \x20 channel: port 17179 from 192.0.2.9, fallback never\n\
             \x20 new keys: after 1m30s or 5000 segments\n\
             \x20 algorithms: siphash-2-4-96\n\
             \x20 tls: psk, TLS_RSA_PSK_WITH_AES_128_GCM_SHA256\n\
             \x20 tls identity: a\n\
             \x20 tls peer-identity: b\n\
             \x20 tls server-certificate: unvalidated\n"
        );
    }

    #[test]
    fn programs_get_every_setting_and_no_secret() {
        let config = config(
            "neighbor.\"192.0.2.1\" = { password = \"v61ne0qkel33&\", key-management = \"external\", fallback = \"implicit\" }",
        );
        let json = serde_json::to_value(agreements(&config)).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "neighbor": "192.0.2.1", "key_management": "external", "kmp_port": 17179, "kmp_local_address": null,
                "fallback": "implicit", "rekey_interval_seconds": 3600, "rekey_segments": null,
                "algorithms": [
                    "hmac-sha-256-128", "hmac-sha-256-96", "aes-128-cmac-96", "hmac-sha-1-96", "siphash-2-4-96",
                ],
                "tls": {
                    "authentication": "psk", "identity": null, "peer_identity": null,
                    "suites": ["TLS_AES_128_GCM_SHA256"], "peer_fingerprint": null, "server_certificate": null,
                },
            }])
        );
        assert!(!json.to_string().contains("v61ne0qkel33&"));
    }
}
