//! Keys that are agreed by a handshake: what the fields mean, what is inherited, what does not fit.

use super::errors::error;
use super::*;

const PASSWORD: &str = "password = \"v61ne0qkel33&\"";

/// How keys are agreed with the only neighbour, which has `fields` below `defaults`.
fn kmp(defaults: &str, fields: &str) -> Option<Kmp> {
    let config = good(&format!("[defaults]\n{defaults}\n[neighbor.\"192.0.2.1\"]\n{PASSWORD}\n{fields}"));
    let [neighbor] = &config.neighbors[..] else { panic!("not one neighbour") };
    assert_eq!(neighbor.kmp.is_some(), neighbor.key_management.is_agreed());
    neighbor.kmp.as_deref().cloned()
}

fn agreed(defaults: &str, fields: &str) -> Kmp {
    kmp(defaults, fields).expect("agreed keys")
}

/// A neighbour with `fields`, the first of which begins line 3, has this error.
#[track_caller]
fn wrong(fields: &str, expected: &str) {
    let (position, message) = expected.split_once(": ").unwrap();
    error(
        &format!("[neighbor.\"192.0.2.1\"]\n{PASSWORD}\n{fields}"),
        &format!("{position}: neighbor \"192.0.2.1\": {message}"),
    );
}

/// The defaults have this error.
#[track_caller]
fn wrong_defaults(defaults: &str, expected: &str) {
    let (position, message) = expected.split_once(": ").unwrap();
    let text = format!("[defaults]\n{defaults}\n[neighbor.\"192.0.2.1\"]\n{PASSWORD}\n");
    error(&text, &format!("{position}: defaults: {message}"));
}

#[test]
fn one_word_is_enough() {
    for mode in ["external", "layered"] {
        let expected = Kmp {
            port: 17179,
            local_address: None,
            fallback: Fallback::Never,
            rekey_interval: Duration::from_secs(3600),
            rekey_segments: None,
            algorithms: Algorithm::BY_PREFERENCE.to_vec(),
            tls: Tls {
                authentication: Authentication::Psk { identity: None, peer_identity: None, rsa: None },
                suites: vec!["TLS_AES_128_GCM_SHA256"],
            },
        };
        assert_eq!(agreed("", &format!("key-management = \"{mode}\"")), expected);
        assert_eq!(agreed(&format!("key-management = \"{mode}\""), ""), expected);
    }
    assert_eq!(kmp("", ""), None);
    assert_eq!(kmp("key-management = \"external\"", "key-management = \"implicit\""), None);
    assert_eq!(kmp("key-management = \"layered\"", "wire = \"md5\""), None);
}

#[test]
fn every_field_is_taken() {
    let expected = Kmp {
        port: 4000,
        local_address: Some("192.0.2.7".parse().unwrap()),
        fallback: Fallback::Implicit,
        rekey_interval: Duration::from_secs(10),
        rekey_segments: Some(100),
        algorithms: vec![Algorithm::SipHash2_4_96, Algorithm::HmacSha1_96],
        tls: Tls {
            authentication: Authentication::Psk {
                identity: Some("Zürich 1".to_owned()),
                peer_identity: Some("ルーター".to_owned()),
                rsa: None,
            },
            suites: vec!["TLS_CHACHA20_POLY1305_SHA256", "TLS_DHE_PSK_WITH_AES_256_GCM_SHA384"],
        },
    };
    let fields = "key-management = \"external\"\nkmp-port = 4000\nkmp-local-address = \"192.0.2.7\"\n\
                  fallback = \"implicit\"\nrekey-interval = 10\nrekey-segments = 100\n\
                  algorithms = [\"siphash-2-4-96\", \"hmac-sha-1-96\"]\n";
    let suites = "[\"TLS_CHACHA20_POLY1305_SHA256\", \"TLS_DHE_PSK_WITH_AES_256_GCM_SHA384\"]";
    let dotted = format!(
        "tls.identity = \"Zürich 1\"\ntls.peer-identity = \"ルーター\"\ntls.suites = {suites}\ntls.authentication = \"psk\""
    );
    let inline =
        format!("tls = {{ identity = \"Zürich 1\", peer-identity = \"ルーター\", suites = {suites} }}");
    let header = format!("[neighbor.\"192.0.2.1\".tls]\n{}", dotted.replace("tls.", ""));
    for tls in [&dotted, &inline, &header] {
        assert_eq!(agreed("", &format!("{fields}{tls}")), expected, "{tls}");
    }
    assert_eq!(agreed(&format!("{fields}{dotted}"), ""), expected);
    assert_eq!(agreed(&format!("{fields}[defaults.tls]\n{}", dotted.replace("tls.", "")), ""), expected);
}

#[test]
fn a_neighbour_inherits_field_by_field() {
    let defaults = "key-management = \"external\"\nkmp-port = 4000\nfallback = \"implicit\"\nrekey-segments = 100\n\
                    kmp-local-address = \"2001:db8::1\"\n\
                    tls = { identity = \"here\", peer-identity = \"there\", suites = [\"TLS_AES_256_GCM_SHA384\"] }";
    let kmp = agreed(defaults, "fallback = \"never\"\ntls.peer-identity = \"elsewhere\"");
    assert_eq!((kmp.port, kmp.fallback, kmp.rekey_segments), (4000, Fallback::Never, Some(100)));
    // Of the other family: for others.
    assert_eq!(kmp.local_address, None);
    assert_eq!(kmp.tls.suites, ["TLS_AES_256_GCM_SHA384"]);
    let Authentication::Psk { identity, peer_identity, .. } = kmp.tls.authentication else { panic!() };
    assert_eq!((identity.as_deref(), peer_identity.as_deref()), (Some("here"), Some("elsewhere")));
    // What is inherited and does not fit is for others.
    assert_eq!(agreed(defaults, "key-management = \"layered\"").fallback, Fallback::Never);
    assert_eq!(self::kmp(defaults, "key-management = \"static\""), None);
}

#[test]
fn dynamic_neighbours_may_agree_on_keys() {
    let config =
        good(&format!("neighbor.\"192.0.2.0/24\" = {{ {PASSWORD}, key-management = \"external\" }}"));
    assert!(config.neighbors[0].kmp.is_some());
}

#[test]
fn the_fields_need_keys_that_are_agreed() {
    for (field, value) in [
        ("kmp-port", "4000"),
        ("kmp-local-address", "\"192.0.2.7\""),
        ("fallback", "\"never\""),
        ("rekey-interval", "60"),
        ("rekey-segments", "1000"),
        ("algorithms", "[\"hmac-sha-1-96\"]"),
        ("tls", "{ identity = \"router 1\" }"),
    ] {
        for mode in ["key-management = \"implicit\"", "key-management = \"static\"", "wire = \"md5\"", ""] {
            wrong(
                &format!("{field} = {value}\n{mode}"),
                &format!(
                    "3:{}: {field} is about keys that two daemons agree on; remove it, or write key-management = \
                     \"external\" or \"layered\"",
                    field.len() + 4
                ),
            );
        }
        // In the defaults it is for those that have them.
        assert_eq!(kmp(&format!("{field} = {value}"), ""), None);
    }
    for mode in ["external", "layered"] {
        wrong(
            &format!("wire = \"md5\"\nkey-management = \"{mode}\""),
            "4:18: wire = \"md5\" knows one key-management, \"static\"; remove key-management, or write wire = \"tcp-ao\"",
        );
    }
}

#[test]
fn what_does_not_fit_the_mode_is_refused_where_it_stands() {
    let forwarded = "the daemons agree on keys for sockets of this host, and sessions of forwarded have none here; write \
                     key-management = \"implicit\", or remove forwarded";
    let take_over = "layered keys are agreed when a connection begins, and \"accept-until-authenticated\" is for one that \
                     is up; write \"drop\", or key-management = \"external\"";
    let port = "port and kmp-port are the same, and the daemons' channel needs one of its own; give kmp-port another \
                number, the same at both ends";
    let none = "without a kdf every connection has the same key; write key-management = \"static\" if that is meant, \
                else kdf = \"rfc5926\" or \"isn\"";
    let end = "forwarded = [\"172.17.0.2%docker0\"]";
    let accept = "unauthenticated = \"accept-until-authenticated\"";
    for mode in ["external", "layered"] {
        let mode = format!("key-management = \"{mode}\"");
        wrong(&format!("{mode}\n{end}"), &format!("4:13: {forwarded}"));
        wrong(&format!("{mode}\nport = 4000\nkmp-port = 4000"), &format!("5:12: {port}"));
        wrong(&format!("{mode}\nport = 17179"), &format!("4:8: {port}"));
        wrong(&format!("{mode}\nkmp-port = 179"), &format!("4:12: {port}"));
        wrong(&format!("{mode}\nkdf = \"none\""), &format!("4:7: {none}"));
        // Once where it stands, not for each neighbour.
        wrong_defaults(&format!("{mode}\n{end}"), &format!("3:13: {forwarded}"));
        wrong_defaults(&format!("{mode}\nport = 17179"), &format!("3:8: {port}"));
        // Half of it is inherited.
        let half = |defaults: &str, own: &str| {
            format!("[defaults]\n{defaults}\n[neighbor.\"192.0.2.1\"]\n{PASSWORD}\n{own}")
        };
        error(&half(&mode, end), &format!("5:13: neighbor \"192.0.2.1\": {forwarded}"));
        error(&half(end, &mode), &format!("5:18: neighbor \"192.0.2.1\": {forwarded}"));
        error(&half("port = 17179", &mode), &format!("5:18: neighbor \"192.0.2.1\": {port}"));
    }
    assert_eq!(agreed(end, "key-management = \"external\"\nforwarded = []").port, 17179);
    wrong(&format!("key-management = \"layered\"\n{accept}"), &format!("4:19: {take_over}"));
    wrong_defaults(&format!("key-management = \"layered\"\n{accept}"), &format!("3:19: {take_over}"));
    assert!(kmp("", &format!("key-management = \"external\"\n{accept}")).is_some());
    wrong(
        "key-management = \"layered\"\nfallback = \"implicit\"",
        "4:12: a layered connection without its handshake is refused, and has nothing to fall back on; write fallback = \
         \"never\", or key-management = \"external\"",
    );
}

#[test]
fn addresses_numbers_and_lists_are_checked() {
    let external = |field: &str| format!("key-management = \"external\"\n{field}");
    let host =
        "kmp-local-address is not an address of a host; write one of this host's own, as \"192.0.2.2\"";
    for address in [
        "router1",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::ffff:192.0.2.1",
        "192.0.2.0/24",
        "::",
    ] {
        wrong(&external(&format!("kmp-local-address = \"{address}\"")), &format!("4:21: {host}"));
    }
    wrong(
        &external("kmp-local-address = \"2001:db8::1\""),
        "4:21: kmp-local-address is of the other IP family; write one of the neighbour's family, or remove it",
    );
    for (field, range) in [
        ("kmp-port = 0", "1 to 65535"),
        ("rekey-interval = 9", "10 to 2592000"),
        ("rekey-interval = 2592001", "10 to 2592000"),
        ("rekey-segments = 99", "100 to 1000000000000"),
    ] {
        let (name, _) = field.split_once(' ').unwrap();
        wrong(
            &external(field),
            &format!("4:{}: {name} is out of range; use a number from {range}", name.len() + 4),
        );
    }
    wrong(
        &external("fallback = \"none\""),
        "4:12: fallback has an unknown value; use \"never\" or \"implicit\"",
    );
    let algorithms = "use \"hmac-sha-1-96\" or \"aes-128-cmac-96\" or \"hmac-sha-256-96\" or \"hmac-sha-256-128\" or \
                      \"siphash-2-4-96\"";
    wrong(
        &external("algorithms = [\"hmac-sha-1-96\", \"md5\"]"),
        &format!("4:32: algorithms has an unknown value; {algorithms}"),
    );
    wrong(&external("algorithms = []"), "4:14: algorithms is empty; name one at least, or remove algorithms");
    wrong(
        &external("algorithms = \"hmac-sha-1-96\""),
        "4:14: algorithms must be a list of names in quotes, not text",
    );
    wrong(&external("algorithms = [5]"), "4:15: a name in the list must be text in quotes, not a number");
    wrong(
        &external("algorithms = [\"hmac-sha-1-96\", \"hmac-sha-1-96\"]"),
        "4:32: the same name is in algorithms already; keep one of the two",
    );
    wrong(&external("tls = \"psk\""), "4:7: tls must be a table, not text");
    wrong(&external("tls.suite = []"), "4:5: unknown field; did you mean \"tls.suites\"?");
    wrong(
        &external("tls.v61ne0qkel33 = 1"),
        "4:5: unknown field; the fields are tls.authentication, tls.identity, tls.peer-identity, tls.suites, \
         tls.private-key-file, tls.peer-fingerprint, tls.certificate-file, tls.certificate-key-file, tls.ca-file, \
         tls.server-fingerprint, tls.server-certificate",
    );
}

#[test]
fn suites_of_broken_ciphers_are_refused_with_the_reason() {
    let suites = |name: &str| format!("key-management = \"external\"\ntls.suites = [\"{name}\"]");
    let instead = "use another one, or remove tls.suites for TLS 1.3";
    wrong(
        &suites("TLS_DHE_PSK_WITH_RC4_128_SHA"),
        &format!("4:15: this suite is refused: RC4 is broken (RFC 7465); {instead}"),
    );
    wrong(
        &suites("TLS_PSK_WITH_3DES_EDE_CBC_SHA"),
        &format!(
            "4:15: this suite is refused: 3DES is broken: its blocks of 64 bits repeat too soon (Sweet32, RFC 8429); \
             {instead}"
        ),
    );
    for (written, meant) in [
        ("PSK-AES128-CBC-SHA", "TLS_PSK_WITH_AES_128_CBC_SHA"),
        ("TLS_AES_128_GCM_SHA265", "TLS_AES_128_GCM_SHA256"),
        ("tls-dhe-psk-with-aes-256-gcm-sha384", "TLS_DHE_PSK_WITH_AES_256_GCM_SHA384"),
    ] {
        wrong(&suites(written), &format!("4:15: unknown suite; did you mean \"{meant}\"?"));
    }
    wrong(
        &suites("v61ne0qkel33&"),
        "4:15: unknown suite; write its name in the IANA registry, as \"TLS_AES_128_GCM_SHA256\"",
    );
}

#[test]
fn a_secret_for_a_handshake_has_512_octets_at_most() {
    let text = |length: usize, fields: &str| {
        format!(
            "neighbor.\"192.0.2.1\" = {{ key-hex = \"{}\", key-management = \"layered\"{fields} }}",
            "ab".repeat(length)
        )
    };
    assert_eq!(good(&text(512, "")).neighbors[0].keys.first().master_key.octets().len(), 512);
    let long = "a TLS handshake takes a secret of 512 octets at most; use a shorter one on both sides, or \
                tls.authentication = \"raw-public-key\"";
    error(&text(513, ""), &format!("1:10: neighbor \"192.0.2.1\": {long}"));
    let chain = |mode: &str| {
        format!(
            "[key-chain.c]\nkey.1 = {{ password = \"{}\" }}\n[neighbor.\"192.0.2.1\"]\nkey-chain = \"c\"\n\
             key-management = \"{mode}\"",
            "s".repeat(513)
        )
    };
    error(&chain("external"), &format!("2:5: key-chain \"c\" key.1: {long}"));
    good(&chain("implicit"));
}

/// The same name, typed as single characters and as letters with marks.
#[test]
fn an_identity_is_normalized() {
    let identity = |text: &str| {
        let config = good(&format!(
            "[neighbor.\"192.0.2.1\"]\npassword = \"v61ne0qkel33&\"\nkey-management = \"external\"\ntls.identity = \"{text}\""
        ));
        match &config.neighbors[0].kmp.as_ref().unwrap().tls.authentication {
            Authentication::Psk { identity, .. } => identity.clone().unwrap(),
            Authentication::RawPublicKey { .. } => unreachable!(),
        }
    };
    assert_eq!(identity("Zu\u{308}rich"), identity("Z\u{fc}rich"));
    assert_eq!(identity(&"ル".repeat(128)).chars().count(), 128);
}
