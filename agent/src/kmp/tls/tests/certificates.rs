use std::path::PathBuf;

use openssl::{hash::MessageDigest, ssl::SslVersion, x509::X509};

use super::{
    stranger::{Stranger, certificate, expect_secret, rsa_key, use_secret},
    *,
};
use crate::config::{Rsa, Validation};

const RSA_PSK: &str = "TLS_RSA_PSK_WITH_AES_128_CBC_SHA";

/// A folder with an authority, a server's key, and certificates for it, valid and expired.
struct Files {
    folder: tempfile::TempDir,
    valid: X509,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let (authority_key, key) = (rsa_key(), rsa_key());
        let authority = certificate(&authority_key, 10, None);
        let valid = certificate(&key, 1, Some((&authority, &authority_key)));
        let expired = certificate(&key, -1, Some((&authority, &authority_key)));
        let write =
            |name: &str, octets: Vec<u8>| std::fs::write(folder.path().join(name), octets).expect("written");
        write("authority", authority.to_pem().expect("pem"));
        write("valid", valid.to_pem().expect("pem"));
        write("expired", expired.to_pem().expect("pem"));
        write("other", certificate(&key, 1, None).to_pem().expect("pem"));
        write("key", key.private_key_to_pem_pkcs8().expect("pem"));
        write("other-key", authority_key.private_key_to_pem_pkcs8().expect("pem"));
        Self { folder, valid }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A server's configuration, with this certificate.
    fn server(&self, suites: &[&'static str], certificate: &str) -> Tls {
        let certificate = Some((self.path(certificate), self.path("key")));
        by_rsa(suites, Rsa { certificate, validation: Validation::Unvalidated })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let digest = self.valid.digest(MessageDigest::sha256()).expect("digest");
        digest.as_ref().try_into().expect("32 octets")
    }
}

fn by_rsa(suites: &[&'static str], rsa: Rsa) -> Tls {
    Tls {
        authentication: Authentication::Psk { identity: None, peer_identity: None, rsa: Some(rsa) },
        suites: suites.to_vec(),
    }
}

fn client_that_asks(suites: &[&'static str], validation: Validation) -> Tls {
    by_rsa(suites, Rsa { certificate: None, validation })
}

fn meeting(client: &Tls, server: &Tls, secret: &[u8]) -> (Option<TlsError>, Option<TlsError>, bool) {
    let mut client = Endpoint::new(Side::Client, client, &psk("a", "b", secret)).expect("client");
    let mut server = Endpoint::new(Side::Server, server, &psk("b", "a", b"secret")).expect("server");
    let (at_client, at_server) = talk(&mut client, &mut server);
    let keys = [&client, &server].map(|end| end.export("EXPORTER-test", b"context").ok());
    assert_eq!(keys[0], keys[1]);
    assert_eq!(client.is_established(), server.is_established());
    (at_client, at_server, client.is_established())
}

#[test]
fn every_suite_with_certificate_agrees_on_keys() {
    let files = Files::new();
    for suite in suites::ALL.iter().filter(|suite| suite.exchange.has_certificate()) {
        if suite.refused().is_some() {
            continue;
        }
        let client = client_that_asks(&[suite.name], Validation::CaFile(files.path("authority")));
        let agreed = meeting(&client, &files.server(&[suite.name], "valid"), b"secret");
        assert_eq!(agreed, (None, None, true), "{}", suite.name);
    }
}

#[test]
fn certificates_are_checked_as_configured() {
    let files = Files::new();
    let by_authority = Validation::CaFile(files.path("authority"));
    let by_fingerprint = Validation::Fingerprint(files.fingerprint());
    let expired = (Some(TlsError::CertificateExpired), Some(TlsError::OurCertificateExpired), false);
    let good = (None, None, true);
    for (validation, shown, expected) in [
        (&by_authority, "valid", Some(&good)),
        (&by_fingerprint, "valid", Some(&good)),
        (&Validation::Unvalidated, "valid", Some(&good)),
        (&by_authority, "expired", Some(&expired)),
        (&Validation::Unvalidated, "expired", Some(&good)),
        (&by_authority, "other", None),
        (&by_fingerprint, "other", None),
        (&by_fingerprint, "expired", None),
        (&Validation::Unvalidated, "other", Some(&good)),
    ] {
        let client = client_that_asks(&[RSA_PSK], validation.clone());
        let found = meeting(&client, &files.server(&[RSA_PSK], shown), b"secret");
        match expected {
            Some(expected) => assert_eq!(&found, expected, "{validation:?}, {shown}"),
            None => assert!(
                matches!(found, (Some(TlsError::Certificate(_)), Some(TlsError::OurCertificate(_)), false)),
                "{validation:?}, {shown}: {found:?}"
            ),
        }
    }
}

#[test]
fn the_secret_is_asked_for_beside_the_certificate() {
    let files = Files::new();
    let client = client_that_asks(&[RSA_PSK], Validation::Unvalidated);
    let refused = Some(TlsError::SecretRefused { identity: "a".to_owned() });
    let found = meeting(&client, &files.server(&[RSA_PSK], "valid"), b"terces");
    assert_eq!(found, (refused, Some(TlsError::WrongSecret), false));
}

#[test]
fn a_certificate_is_never_enough_in_tls13() {
    let files = Files::new();
    let both = ["TLS_AES_128_GCM_SHA256", RSA_PSK];
    let tls = files.server(&both, "valid");

    // A client without secret, which takes any certificate.
    let mut ours = Endpoint::new(Side::Server, &tls, &psk("b", "a", b"secret")).expect("server");
    let mut stranger = Stranger::new(Side::Client, SslVersion::TLS1_3, |_| {});
    assert_eq!(stranger.meet(&mut ours), Some(TlsError::NoSecret));
    assert!(!stranger.established && !ours.is_established() && ours.export("EXPORTER-test", b"").is_err());

    // One whose identity is unknown gets no further than with a wrong secret.
    let mut ours = Endpoint::new(Side::Server, &tls, &psk("b", "a", b"secret")).expect("server");
    let mut stranger =
        Stranger::new(Side::Client, SslVersion::TLS1_3, |context| use_secret(context, b"x", b"secret"));
    assert!(matches!(stranger.meet(&mut ours), Some(TlsError::UnknownIdentity { .. })));
    assert!(!stranger.established && !ours.is_established());

    // A server without the secret, which has a certificate.
    for validation in [Validation::Unvalidated, Validation::CaFile(files.path("authority"))] {
        let tls = client_that_asks(&both, validation);
        let mut ours = Endpoint::new(Side::Client, &tls, &psk("a", "b", b"secret")).expect("client");
        let mut stranger = Stranger::new(Side::Server, SslVersion::TLS1_3, |context| {
            context
                .set_certificate_file(files.path("valid"), openssl::ssl::SslFiletype::PEM)
                .expect("certificate");
            context.set_private_key_file(files.path("key"), openssl::ssl::SslFiletype::PEM).expect("key");
        });
        assert!(matches!(stranger.meet(&mut ours), Some(TlsError::Certificate(_) | TlsError::NoSecret)));
        assert!(
            !stranger.established && !ours.is_established() && ours.export("EXPORTER-test", b"").is_err()
        );
    }

    // And both suites work with the secret.
    let client = client_that_asks(&both, Validation::CaFile(files.path("authority")));
    assert_eq!(meeting(&client, &tls, b"secret"), (None, None, true));
    let client = client_that_asks(&[RSA_PSK], Validation::CaFile(files.path("authority")));
    assert_eq!(meeting(&client, &tls, b"secret"), (None, None, true));
}

#[test]
fn a_certificate_where_none_is_asked_for_is_refused() {
    let files = Files::new();
    let mut ours =
        Endpoint::new(Side::Client, &by_psk(&suites::DEFAULT), &psk("a", "b", b"secret")).expect("client");
    let mut stranger = Stranger::new(Side::Server, SslVersion::TLS1_3, |context| {
        context
            .set_certificate_file(files.path("valid"), openssl::ssl::SslFiletype::PEM)
            .expect("certificate");
        context.set_private_key_file(files.path("key"), openssl::ssl::SslFiletype::PEM).expect("key");
    });
    assert_eq!(stranger.meet(&mut ours), Some(TlsError::NoSecret));
    assert!(!stranger.established && !ours.is_established());

    // The same server with the secret is right.
    let mut ours =
        Endpoint::new(Side::Client, &by_psk(&suites::DEFAULT), &psk("a", "b", b"secret")).expect("client");
    let mut stranger =
        Stranger::new(Side::Server, SslVersion::TLS1_3, |context| expect_secret(context, b"secret"));
    assert_eq!(stranger.meet(&mut ours), None);
    assert!(stranger.established && ours.is_established());
}

#[test]
fn an_end_without_certificate_is_no_server_of_these_suites() {
    let tls = client_that_asks(&[RSA_PSK], Validation::Unvalidated);
    let refused = Endpoint::new(Side::Server, &tls, &psk("b", "a", b"secret")).err();
    assert!(matches!(refused, Some(TlsError::Settings(reason)) if reason.contains("tls.certificate-file")));
    // With another suite it is a server of that one.
    let tls = client_that_asks(&[RSA_PSK, "TLS_PSK_WITH_AES_128_CBC_SHA"], Validation::Unvalidated);
    assert_eq!(meeting(&tls, &tls, b"secret"), (None, None, true));
}

#[test]
fn files_that_are_wrong_are_named() {
    let files = Files::new();
    let refused = |side: Side, tls: &Tls| match Endpoint::new(side, tls, &psk("a", "b", b"secret")) {
        Err(TlsError::Settings(reason)) => reason,
        _ => panic!("not refused"),
    };
    let server = |certificate: &str, key: &str| {
        let certificate = Some((files.path(certificate), files.path(key)));
        refused(Side::Server, &by_rsa(&[RSA_PSK], Rsa { certificate, validation: Validation::Unvalidated }))
    };
    assert!(
        server("nothing", "key")
            .starts_with(&format!("tls.certificate-file {}", files.path("nothing").display()))
    );
    assert!(server("key", "key").contains("there is no certificate in it"));
    assert!(server("valid", "valid").contains("there is no private key in it"));
    assert!(server("valid", "other-key").contains("the key is not that of tls.certificate-file"));
    let client = client_that_asks(&[RSA_PSK], Validation::CaFile(files.path("key")));
    assert!(refused(Side::Client, &client).starts_with("tls.ca-file"));
}
