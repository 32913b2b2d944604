//! Answers of a daemon, for tests.

use std::collections::BTreeMap;

use crate::control::protocol::{
    AgentStatus, AgreedKeys, ChannelStatus, Counts, Event, InterfaceStatus, KeyStatus, KmpStatus, LastDrop,
    NeighborKeys, NeighborStatus, PeerCapabilities, SessionStatus, Status, TlsStatus,
};

/// A router with one good, one failing and one idle neighbour.
pub fn status() -> Status {
    let interface = |name: &str, index, mtu, attached: &str| InterfaceStatus {
        name: name.to_owned(),
        index,
        mtu,
        attached: attached.to_owned(),
        failing: false,
    };
    Status {
        agent: AgentStatus {
            version: "0.1.0".to_owned(),
            instance: "default".to_owned(),
            pid: 812,
            uptime_seconds: 11_130,
            config_file: "/etc/tcpauth/tcpauth.toml".to_owned(),
            reload_error: None,
            keep_error: None,
            sessions: 2,
            sockets_error: None,
            held_segments: 4,
            overload: 0,
            no_memory: 0,
            lane_dropped: 0,
            key_log: None,
            unsaved: false,
            unconfigured: Vec::new(),
        },
        interfaces: vec![
            interface("eth0", 2, 1500, "tcx"),
            interface("wg0", 7, 1420, "not an Ethernet link"),
        ],
        neighbors: vec![
            NeighborStatus {
                sessions: 2,
                open_sessions: 1,
                counters: counters(),
                ..neighbor("192.0.2.1", "established")
            },
            failing_neighbor(),
            neighbor("2001:db8:1::/64", "idle"),
        ],
    }
}

/// A neighbour with another password.
pub fn failing_neighbor() -> NeighborStatus {
    let dropped = BTreeMap::from([("wrong-mac".to_owned(), 12), ("no-option".to_owned(), 3)]);
    NeighborStatus {
        reason: Some("wrong MAC: the password differs at the two ends".to_owned()),
        ttl_security: Some(1),
        forwarded: vec!["10.88.0.0/24%veth1".to_owned(), "192.0.2.5".to_owned()],
        counters: Counts { dropped, ..Counts::default() },
        last_drop: Some(LastDrop {
            reason: "wrong-mac".to_owned(),
            seconds_ago: 3,
            direction: "inbound".into(),
            segment: "192.0.2.9:40000 > 192.0.2.2:179".to_owned(),
        }),
        ..neighbor("192.0.2.9", "failing")
    }
}

/// A session that is up.
pub fn session() -> SessionStatus {
    SessionStatus {
        neighbor: "192.0.2.1".to_owned(),
        local: "192.0.2.2:40000".to_owned(),
        peer: "192.0.2.1:179".to_owned(),
        state: "established".into(),
        key_management: "implicit".to_owned(),
        keys: "chain".into(),
        keys_age_seconds: Some(192),
        phase: "open".into(),
        algorithm: "hmac-sha-1-96".to_owned(),
        send_id: 1,
        recv_id: 2,
        peer_algorithm: Some("hmac-sha-1-96".to_owned()),
        peer_key_id: Some(2),
        accepted_ids: vec![2, 1],
        local_isn: Some(3_735_928_559),
        peer_isn: None,
        send_sne: 0,
        recv_sne: 1,
        age_seconds: 192,
        idle_seconds: 4,
        counters: counters(),
    }
}

/// Three keys on their way from the first to the second.
pub fn keys() -> NeighborKeys {
    NeighborKeys {
        neighbor: "192.0.2.1".to_owned(),
        chain: Some("backbone".to_owned()),
        open_sessions: 500,
        rolled_sessions: 312,
        closes: Some("2027-03-01T00:00:00Z".to_owned()),
        keys: vec![
            KeyStatus { sending_sessions: 188, receiving_sessions: 100, ..key(1) },
            KeyStatus {
                recv_id: 12,
                algorithm: "aes-128-cmac-96".to_owned(),
                send_lifetime: "2026-11-20T00:00:00Z/2027-03-01T00:00:00Z".to_owned(),
                preferred: true,
                sending_sessions: 312,
                receiving_sessions: 400,
                switched_seconds_ago: Some(192),
                ..key(2)
            },
            KeyStatus {
                algorithm: "hmac-sha-256-128".to_owned(),
                send_lifetime: "never".to_owned(),
                state: "accept-only".into(),
                ..key(3)
            },
        ],
        agreed: None,
    }
}

/// Keys of sessions that were agreed, and the one under which handshakes run.
pub fn agreed_keys() -> NeighborKeys {
    NeighborKeys {
        neighbor: "192.0.2.3".to_owned(),
        chain: None,
        open_sessions: 3,
        rolled_sessions: 1,
        closes: None,
        keys: vec![KeyStatus { preferred: true, sending_sessions: 1, receiving_sessions: 1, ..key(1) }],
        agreed: Some(AgreedKeys {
            sessions: 2,
            due_sessions: 1,
            chain_sessions: 1,
            algorithms: BTreeMap::from([("hmac-sha-256-128".to_owned(), 2)]),
            oldest_seconds: Some(3600),
            newest_seconds: Some(12),
        }),
    }
}

/// A key that is valid always and that no session uses.
pub fn key(number: u8) -> KeyStatus {
    KeyStatus {
        number: number.into(),
        send_id: number,
        recv_id: number,
        algorithm: "hmac-sha-1-96".to_owned(),
        send_lifetime: "always".to_owned(),
        accept_lifetime: "always".to_owned(),
        state: "valid".into(),
        preferred: false,
        sending_sessions: 0,
        receiving_sessions: 0,
        switched_seconds_ago: None,
    }
}

/// One event of each kind.
pub fn events() -> Vec<Event> {
    vec![
        Event::Drop {
            time: 1_709_251_199.25,
            neighbor: "192.0.2.9".to_owned(),
            reason: "wrong-mac".to_owned(),
            direction: "inbound".into(),
            segment: "192.0.2.9:40000 > 192.0.2.2:179".to_owned(),
            flags: "S".to_owned(),
            seq: 4_294_967_295,
            key_id: Some(7),
            interface: "eth0".to_owned(),
        },
        Event::Session {
            time: 1_709_251_200.0,
            neighbor: "192.0.2.1".to_owned(),
            session: "192.0.2.2:40000 > 192.0.2.1:179".to_owned(),
            state: "established".into(),
        },
        Event::Key {
            time: 1_709_251_201.0,
            neighbor: "192.0.2.1".to_owned(),
            key: Some(2),
            state: "preferred".into(),
            text: "key 2 is preferred".to_owned(),
        },
        Event::Kmp {
            time: 1_709_251_202.0,
            neighbor: "192.0.2.3".to_owned(),
            state: "refreshed".into(),
            text: "192.0.2.2:40000 > 192.0.2.3:179 has new keys, hmac-sha-256-128".to_owned(),
        },
        Event::Protection {
            time: 1_709_251_203.0,
            neighbor: "192.0.2.1".to_owned(),
            state: "unprotected".into(),
            text: "NOT PROTECTED: segments arrive that tcpauth's programs did not verify".to_owned(),
        },
        Event::Interface {
            time: 1_709_251_204.0,
            interface: "eth0".to_owned(),
            state: "failing".into(),
            text: "the program on ingress is missing".to_owned(),
        },
        Event::Missed { count: 3 },
    ]
}

/// One whose keys are agreed on a channel that is up.
pub fn kmp_neighbor() -> NeighborStatus {
    NeighborStatus {
        key_management: "external".to_owned(),
        sessions: 1,
        open_sessions: 1,
        counters: counters(),
        kmp: Some(KmpStatus {
            mode: "external".to_owned(),
            channel: ChannelStatus {
                state: "up".into(),
                text: "up for 5m0s, 192.0.2.2:41234 > 192.0.2.3:17179".to_owned(),
                key: Some(1),
            },
            tls: Some(TlsStatus {
                version: "TLS 1.3".to_owned(),
                suite: "TLS_AES_128_GCM_SHA256".to_owned(),
                peer: "192.0.2.3".to_owned(),
            }),
            algorithm: Some("hmac-sha-256-128".to_owned()),
            peer: Some(PeerCapabilities {
                software: "tcpauth 0.3.0".to_owned(),
                version: 2,
                algorithms: ["hmac-sha-512-256", "hmac-sha-256-128", "hmac-sha-1-96"]
                    .map(str::to_owned)
                    .into(),
                unknown_algorithms: vec!["hmac-sha-512-256".to_owned()],
                option_kinds: vec![29],
                rekey_interval_seconds: 1800,
            }),
            fallback: "never".to_owned(),
            fallback_sessions: 0,
            crowded_out_handshakes: 0,
            rekey_interval_seconds: 3600,
            rekey_segments: Some(1_000_000),
            last_refresh_seconds_ago: Some(192),
            next_refresh_seconds: Some(3408),
            due_sessions: 0,
            last_failure: None,
        }),
        ..neighbor("192.0.2.3", "established")
    }
}

fn counters() -> Counts {
    Counts {
        signed_segments: 1204,
        signed_octets: 98_304,
        verified_segments: 1199,
        verified_octets: 1000,
        unsigned_sent: 0,
        unsigned_received: 0,
        dropped: BTreeMap::new(),
    }
}

fn neighbor(peer: &str, state: &str) -> NeighborStatus {
    NeighborStatus {
        peer: peer.to_owned(),
        state: state.into(),
        reason: None,
        key_management: "implicit".to_owned(),
        algorithm: "hmac-sha-1-96".to_owned(),
        send_id: 1,
        recv_id: 1,
        tcp_options: "include".to_owned(),
        port: 179,
        ttl_security: None,
        forwarded: Vec::new(),
        unauthenticated: "drop".to_owned(),
        on_unprotected: "report".to_owned(),
        sessions: 0,
        open_sessions: 0,
        displaced_sessions: 0,
        counters: Counts::default(),
        last_drop: None,
        kmp: None,
    }
}
