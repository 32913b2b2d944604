use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::*;
use crate::kmp::tls::key_file::PrivateKey;

/// Two ends, whose private keys are in files of `folder`, and the fingerprints of these.
pub struct Ends {
    folder: tempfile::TempDir,
    pub fingerprints: [[u8; 32]; 2],
}

impl Ends {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let fingerprints = ["client", "server"].map(|name| {
            let key = PrivateKey::generate().expect("key");
            write(&folder.path().join(name), &key.pem().expect("pem"));
            key.fingerprint().expect("fingerprint")
        });
        Self { folder, fingerprints }
    }

    fn tls(&self, name: &str, peer_fingerprint: [u8; 32]) -> Tls {
        by_raw_key(self.folder.path().join(name), peer_fingerprint)
    }

    pub fn endpoints(&self, at_client: [u8; 32], at_server: [u8; 32]) -> (Endpoint, Endpoint) {
        let unused = psk("unused", "unused", b"unused");
        let client = Endpoint::new(Side::Client, &self.tls("client", at_client), &unused);
        let server = Endpoint::new(Side::Server, &self.tls("server", at_server), &unused);
        (client.expect("client"), server.expect("server"))
    }
}

fn by_raw_key(private_key_file: PathBuf, peer_fingerprint: [u8; 32]) -> Tls {
    Tls {
        authentication: Authentication::RawPublicKey { private_key_file, peer_fingerprint },
        suites: suites::DEFAULT.to_vec(),
    }
}

fn write(path: &Path, octets: &[u8]) {
    std::fs::write(path, octets).expect("written");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("mode");
}

#[test]
fn two_ends_that_know_each_others_keys_agree() {
    let ends = Ends::new();
    let [client_key, server_key] = ends.fingerprints;
    let (mut client, mut server) = ends.endpoints(server_key, client_key);
    assert_eq!(talk(&mut client, &mut server), (None, None));
    assert!(client.is_established() && server.is_established());

    let key = client.export("EXPORTER-test", b"context").expect("established");
    assert_eq!(key, server.export("EXPORTER-test", b"context").expect("established"));
    assert_ne!(key, server.export("EXPORTER-test", b"another").expect("established"));
    let expected = |peer| Summary {
        version: "TLS 1.3".to_owned(),
        suite: "TLS_AES_128_GCM_SHA256".to_owned(),
        peer: hex::encode(peer),
    };
    assert_eq!(client.summary(), Some(expected(server_key)));
    assert_eq!(server.summary(), Some(expected(client_key)));

    client.send(&[1; 100_000]).expect("established");
    server.send(b"short").expect("established");
    server.close();
    assert_eq!(talk(&mut client, &mut server), (None, None));
    assert_eq!(server.take_received().as_slice(), [1; 100_000]);
    assert_eq!(client.take_received().as_slice(), b"short");
    assert!(client.is_closed() && !server.is_closed());
}

#[test]
fn another_key_is_refused_on_either_side_and_both_say_which() {
    let ends = Ends::new();
    let [client_key, server_key] = ends.fingerprints;
    let wrong = |presented: [u8; 32]| {
        Some(TlsError::WrongPublicKey { presented: hex::encode(presented), expected: hex::encode([1; 32]) })
    };
    let refused = |own: [u8; 32]| Some(TlsError::PublicKeyRefused { fingerprint: hex::encode(own) });

    let (mut client, mut server) = ends.endpoints([1; 32], client_key);
    assert_eq!(talk(&mut client, &mut server), (wrong(server_key), refused(server_key)));
    assert!(!client.is_established() && !server.is_established());
    assert!(client.export("EXPORTER-test", b"").is_err() && server.export("EXPORTER-test", b"").is_err());

    let (mut client, mut server) = ends.endpoints(server_key, [1; 32]);
    assert_eq!(talk(&mut client, &mut server), (refused(client_key), wrong(client_key)));
    assert!(!client.is_established() && !server.is_established());
    assert!(server.export("EXPORTER-test", b"").is_err() && client.export("EXPORTER-test", b"").is_err());
}

#[test]
fn a_peer_by_secret_is_told_apart() {
    let ends = Ends::new();
    let by_key = ends.tls("client", ends.fingerprints[1]);
    let secret = psk("a", "a", b"secret");
    for (client, server) in [(&by_key, &by_psk(&suites::DEFAULT)), (&by_psk(&suites::DEFAULT), &by_key)] {
        let mut client = Endpoint::new(Side::Client, client, &secret).expect("client");
        let mut server = Endpoint::new(Side::Server, server, &secret).expect("server");
        let (at_client, at_server) = talk(&mut client, &mut server);
        for error in [at_client, at_server] {
            assert!(matches!(error, Some(TlsError::NoSecret | TlsError::NoCommonSuite)), "{error:?}");
        }
    }
}

#[test]
fn files_that_are_wrong_are_named() {
    let ends = Ends::new();
    let unused = psk("unused", "unused", b"unused");
    let refused = |tls: &Tls| match Endpoint::new(Side::Client, tls, &unused) {
        Err(TlsError::Settings(reason)) => reason,
        _ => panic!("not refused"),
    };
    let path = ends.folder.path().join("nothing");
    let reason = refused(&by_raw_key(path.clone(), [1; 32]));
    assert!(reason.starts_with(&format!("tls.private-key-file {}: it cannot be read", path.display())));
    write(&path, b"no key");
    assert!(refused(&by_raw_key(path, [1; 32])).contains("no private key"));

    let tls = Tls { suites: vec!["TLS_PSK_WITH_AES_128_CBC_SHA"], ..ends.tls("client", [1; 32]) };
    assert!(refused(&tls).contains("raw public keys need"));
}

#[test]
fn what_is_not_tls_is_refused_at_once() {
    let ends = Ends::new();
    let (mut client, mut server) = ends.endpoints([1; 32], [1; 32]);
    assert_eq!(client.receive(b"SSH-2.0-OpenSSH"), Err(TlsError::NotTls));
    assert_eq!(server.receive(b"GET / HTTP/1.1"), Err(TlsError::NotTls));
    assert_eq!(server.receive(b""), Err(TlsError::NotTls));
}
