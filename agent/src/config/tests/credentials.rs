//! Keys, certificates and fingerprints of the table `tls`, and the files that they are in.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa as Rsa2048;
use openssl::x509::{X509, X509Builder, X509NameBuilder};

use super::*;
use crate::kmp::tls::key_file::PrivateKey;

const PASSWORD: &str = "password = \"v61ne0qkel33&\"";
const FINGERPRINT: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

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
