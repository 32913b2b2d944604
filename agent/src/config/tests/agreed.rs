//! Keys that are agreed by a handshake: what the fields mean, what is inherited, what does not fit.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa as Rsa2048;
use openssl::x509::{X509, X509Builder, X509NameBuilder};

use super::errors::error;
use super::*;
use crate::kmp::tls::key_file::PrivateKey;

const PASSWORD: &str = "password = \"v61ne0qkel33&\"";
const FINGERPRINT: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

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

/// A folder with an Ed25519 key `router.key`, an RSA key `rsa.key` and its certificate `ca.pem`; with `open.key`, which
/// everyone can read, and `loose.pem`, which everyone can write to; with `empty` and a folder `folder`.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let router = PrivateKey::generate().unwrap().pem().unwrap();
    let rsa = PKey::from_rsa(Rsa2048::generate(2048).unwrap()).unwrap();
    let rsa_pem = rsa.private_key_to_pem_pkcs8().unwrap();
    let certificate = certificate(&rsa).to_pem().unwrap();
    for (name, octets, mode) in [
        ("router.key", &router[..], 0o600),
        ("rsa.key", &rsa_pem, 0o640),
        ("ca.pem", &certificate, 0o644),
        ("open.key", &router, 0o644),
        ("loose.pem", &certificate, 0o666),
        ("empty", b"", 0o600),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, octets).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(folder.path().join("folder")).unwrap();
    folder
}

/// A certificate of `key`, signed with it.
fn certificate(key: &PKey<Private>) -> X509 {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "router 1").unwrap();
    let name = name.build();
    let mut certificate = X509Builder::new().unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate.set_pubkey(key).unwrap();
    certificate.sign(key, MessageDigest::sha256()).unwrap();
    certificate.build()
}

fn parse_in(folder: &Path, defaults: &str, fields: &str) -> Result<Tls, String> {
    let text = format!(
        "[defaults]\nkey-management = \"external\"\n{defaults}\n[neighbor.\"192.0.2.1\"]\n{PASSWORD}\n{fields}"
    );
    match Config::parse(&text, &folder.join("t.toml")) {
        Ok(config) => Ok(config.neighbors[0].kmp.as_ref().unwrap().tls.clone()),
        Err(errors) => Err(errors.to_string().replace(&format!("{}/", folder.display()), "")),
    }
}

#[test]
fn raw_public_keys_need_a_key_and_a_fingerprint() {
    let folder = files();
    let parse = |defaults: &str, fields: &str| parse_in(folder.path(), defaults, fields);
    let all = format!(
        "tls = {{ authentication = \"raw-public-key\", private-key-file = \"router.key\", peer-fingerprint = \
         \"{FINGERPRINT}\" }}"
    );
    let expected = |suites: &[&'static str]| {
        Ok(Tls {
            authentication: Authentication::RawPublicKey {
                private_key_file: folder.path().join("router.key"),
                peer_fingerprint: hex::decode(FINGERPRINT).unwrap().try_into().unwrap(),
            },
            suites: suites.to_vec(),
        })
    };
    assert_eq!(parse("", &all), expected(&["TLS_AES_128_GCM_SHA256"]));
    // What is inherited for the other way, and does not fit, is for others.
    let psk = "tls = { identity = \"a\", suites = [\"TLS_PSK_WITH_AES_128_CBC_SHA\"], server-certificate = \"unvalidated\" }";
    assert_eq!(parse(psk, &all), expected(&["TLS_AES_128_GCM_SHA256"]));
    assert_eq!(
        parse("tls.suites = [\"TLS_AES_256_GCM_SHA384\"]", &all),
        expected(&["TLS_AES_256_GCM_SHA384"])
    );
    assert_eq!(
        parse(
            "tls.authentication = \"raw-public-key\"\ntls.private-key-file = \"router.key\"",
            &format!("tls.peer-fingerprint = \"{FINGERPRINT}\"")
        ),
        expected(&["TLS_AES_128_GCM_SHA256"])
    );
    assert!(matches!(
        parse("tls.private-key-file = \"router.key\"", "").unwrap().authentication,
        Authentication::Psk { .. }
    ));

    let wrong = |fields: &str, expected: &[&str]| {
        let expected: Vec<String> =
            expected.iter().map(|error| error.replacen(": ", ": neighbor \"192.0.2.1\": ", 1)).collect();
        assert_eq!(parse("", fields), Err(expected.join("\n")), "{fields}");
    };
    wrong(
        "tls.authentication = \"raw-public-key\"",
        &[
            "t.toml:6:22: tls.authentication = \"raw-public-key\" needs tls.private-key-file; add the file that `tcpauth \
             genkey --raw-public-key` makes",
            "t.toml:6:22: tls.authentication = \"raw-public-key\" needs tls.peer-fingerprint; add what `tcpauth key \
             fingerprint` says there",
        ],
    );
    wrong(
        &format!("{all}\n[neighbor.\"192.0.2.1\".port]"),
        &["t.toml:7:1: port must be a number from 1 to 65535, not a table"],
    );
    wrong(
        &all.replace(" }", ", identity = \"a\" }"),
        &[
            "t.toml:6:175: tls.identity does not go with tls.authentication = \"raw-public-key\"; remove one of them",
        ],
    );
    wrong(
        &format!("tls.peer-fingerprint = \"{FINGERPRINT}\""),
        &[
            "t.toml:6:24: tls.peer-fingerprint does not go with tls.authentication = \"psk\"; remove one of them",
        ],
    );
    wrong(
        &all.replace(" }", ", suites = [\"TLS_PSK_WITH_AES_128_CBC_SHA\"] }"),
        &[
            "t.toml:6:173: tls.authentication = \"raw-public-key\" cannot use this suite; use \"TLS_AES_128_GCM_SHA256\" or \
             \"TLS_AES_256_GCM_SHA384\" or \"TLS_CHACHA20_POLY1305_SHA256\"",
        ],
    );
    wrong(
        &all.replace(FINGERPRINT, &FINGERPRINT[1..]),
        &[
            "t.toml:6:96: tls.peer-fingerprint is not a SHA-256 fingerprint; write its 32 octets in hexadecimal, as \
           `tcpauth key fingerprint` does",
        ],
    );
}

#[test]
fn files_are_there_and_not_for_everyone() {
    let folder = files();
    let wrong = |fields: &str, expected: &str| {
        assert_eq!(
            parse_in(folder.path(), "", fields),
            Err(expected.replacen(": ", ": neighbor \"192.0.2.1\": ", 1)),
            "{fields}"
        );
    };
    let key = |name: &str| {
        format!(
            "tls = {{ authentication = \"raw-public-key\", peer-fingerprint = \"{FINGERPRINT}\", private-key-file = \
             \"{name}\" }}"
        )
    };
    let at = "t.toml:6:150: tls.private-key-file";
    wrong(
        &key("absent.key"),
        &format!(
            "{at} cannot be read: no such file; name a file that tcpauthd's user may read (a relative path starts at the \
             configuration's folder)"
        ),
    );
    wrong(&key("folder"), &format!("{at} is not a regular file; give the path of a file in PEM"));
    wrong(&key("open.key"), &format!("{at} can be read or written by others; chmod 600 open.key"));
    let rsa = "tls.suites = [\"TLS_RSA_PSK_WITH_AES_128_GCM_SHA256\"]\n";
    wrong(
        &format!("{rsa}tls.ca-file = \"loose.pem\""),
        "t.toml:7:15: tls.ca-file can be written by others; chmod 644 loose.pem",
    );
    wrong(
        &format!(
            "{rsa}tls.ca-file = \"ca.pem\"\ntls.certificate-file = \"ca.pem\"\ntls.certificate-key-file = \"open.key\""
        ),
        "t.toml:9:28: tls.certificate-key-file can be read or written by others; chmod 600 open.key",
    );
}

#[test]
fn rsa_psk_suites_have_a_certificate_that_something_is_asked_of() {
    let folder = files();
    let parse = |defaults: &str, fields: &str| parse_in(folder.path(), defaults, fields);
    let rsa = "tls.suites = [\"TLS_RSA_PSK_WITH_AES_128_GCM_SHA256\"]";
    let of = |tls: Result<Tls, String>| match tls.unwrap_or_else(|errors| panic!("{errors}")).authentication {
        Authentication::Psk { rsa: Some(rsa), .. } => rsa,
        _ => panic!("without certificates"),
    };
    let ca = folder.path().join("ca.pem");
    let pair = "tls.certificate-file = \"ca.pem\"\ntls.certificate-key-file = \"rsa.key\"";
    assert_eq!(
        of(parse("", &format!("{rsa}\n{pair}\ntls.ca-file = \"ca.pem\""))),
        Rsa {
            certificate: Some((ca.clone(), folder.path().join("rsa.key"))),
            validation: Validation::CaFile(ca)
        }
    );
    let unvalidated = "tls.server-certificate = \"unvalidated\"";
    assert_eq!(
        of(parse(&format!("{rsa}\n{unvalidated}"), "")),
        Rsa { certificate: None, validation: Validation::Unvalidated }
    );
    // Its own is in place of what it inherits, whichever it is.
    let fingerprint = format!("tls.server-fingerprint = \"{FINGERPRINT}\"");
    let own = of(parse(&format!("{rsa}\n{unvalidated}"), &fingerprint));
    assert!(matches!(own.validation, Validation::Fingerprint(_)));
    // Inherited without such a suite it is for others.
    let others = parse(&format!("{unvalidated}\n{pair}"), "").unwrap().authentication;
    assert!(matches!(others, Authentication::Psk { rsa: None, .. }));

    let wrong = |fields: &str, expected: &str| {
        let expected = expected.replacen(": ", ": neighbor \"192.0.2.1\": ", 1);
        assert_eq!(parse("", fields), Err(expected), "{fields}");
    };
    wrong(
        rsa,
        "t.toml:6:14: an RSA_PSK suite has a certificate, and nothing says what to ask of it; add tls.ca-file or \
         tls.server-fingerprint, or tls.server-certificate = \"unvalidated\" to trust the secret alone",
    );
    wrong(
        unvalidated,
        "t.toml:6:26: tls.server-certificate is about the certificate of RSA_PSK suites, and tls.suites has none; remove \
         it, or add one of them",
    );
    wrong(
        &format!("{rsa}\n{unvalidated}\ntls.ca-file = \"ca.pem\""),
        "t.toml:8:5: tls.server-certificate and tls.ca-file are both given; keep one",
    );
    wrong(
        &format!("{rsa}\n{unvalidated}\ntls.certificate-file = \"ca.pem\""),
        "t.toml:8:24: tls.certificate-file goes with tls.certificate-key-file, which is not given; add it, or remove \
         tls.certificate-file",
    );
    wrong(
        &format!("{rsa}\ntls.server-certificate = \"any\""),
        "t.toml:7:26: tls.server-certificate has an unknown value; use \"unvalidated\"",
    );
}

#[test]
fn what_is_in_files_is_checked() {
    let folder = files();
    let wrong = |defaults: &str, fields: &str, expected: &str| {
        assert_eq!(parse_in(folder.path(), defaults, fields), Err(expected.to_owned()), "{fields}");
    };
    let raw = |name: &str| {
        format!(
            "tls.authentication = \"raw-public-key\"\ntls.peer-fingerprint = \"{FINGERPRINT}\"\n\
             tls.private-key-file = \"{name}\""
        )
    };
    let neighbor = "neighbor \"192.0.2.1\"";
    let instead = "name another file, or correct it";
    wrong(
        "",
        &raw("empty"),
        &format!(
            "t.toml:8:24: {neighbor}: tls.private-key-file empty: there is no private key in it, as PEM and without a \
             password; {instead}"
        ),
    );
    let not_ed25519 = "tls.private-key-file rsa.key: the key in it is none of Ed25519: tcpauth genkey --raw-public-key \
                       makes one";
    wrong("", &raw("rsa.key"), &format!("t.toml:8:24: {neighbor}: {not_ed25519}; {instead}"));
    // Once where it stands, not for each neighbour that inherits it.
    let two = format!("[neighbor.\"192.0.2.2\"]\n{PASSWORD}");
    wrong(&raw("rsa.key"), &two, &format!("t.toml:5:24: defaults: {not_ed25519}; {instead}"));

    let rsa = "tls.suites = [\"TLS_RSA_PSK_WITH_AES_128_GCM_SHA256\"]\ntls.ca-file = ";
    let pair = |certificate: &str, key: &str| {
        format!(
            "{rsa}\"ca.pem\"\ntls.certificate-file = \"{certificate}\"\ntls.certificate-key-file = \"{key}\""
        )
    };
    wrong(
        "",
        &format!("{rsa}\"empty\""),
        &format!(
            "t.toml:7:15: {neighbor}: tls.ca-file empty: there is no certificate in it, as PEM; {instead}"
        ),
    );
    wrong(
        "",
        &pair("empty", "rsa.key"),
        &format!(
            "t.toml:8:24: {neighbor}: tls.certificate-file empty: there is no certificate in it, as PEM; {instead}"
        ),
    );
    wrong(
        "",
        &pair("ca.pem", "router.key"),
        &format!(
            "t.toml:9:28: {neighbor}: tls.certificate-key-file router.key: the key is none of RSA, which the RSA_PSK \
             suites need; {instead}"
        ),
    );
}
