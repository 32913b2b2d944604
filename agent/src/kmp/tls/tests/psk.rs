use openssl::ssl::{SslOptions, SslVersion};

use super::{
    stranger::{Stranger, expect_secret, use_secret},
    *,
};

const IN_TLS13: &str = "TLS_AES_128_GCM_SHA256";
/// One of each key exchange of TLS 1.2 that needs no certificate.
const IN_TLS12: [&str; 3] = [
    "TLS_PSK_WITH_AES_128_CBC_SHA",
    "TLS_DHE_PSK_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
];

fn one_of_each() -> impl Iterator<Item = &'static str> {
    std::iter::once(IN_TLS13).chain(IN_TLS12)
}

fn client(tls: &Tls, psk: &Psk) -> Endpoint {
    Endpoint::new(Side::Client, tls, psk).expect("client")
}

fn server(tls: &Tls, psk: &Psk) -> Endpoint {
    Endpoint::new(Side::Server, tls, psk).expect("server")
}

/// Two ends with these suites, and the same secret.
fn with(at_client: &[&'static str], at_server: &[&'static str]) -> (Endpoint, Endpoint) {
    let client = client(&by_psk(at_client), &psk("a", "b", b"secret"));
    (client, server(&by_psk(at_server), &psk("b", "a", b"secret")))
}

#[test]
fn every_suite_without_certificate_agrees_on_keys() {
    for suite in suites::ALL.iter().filter(|suite| suite.openssl().is_some()) {
        if suite.exchange.has_certificate() {
            continue;
        }
        let (client, server) = established(&by_psk(&[suite.name]));
        let key = client.export("EXPORTER-test", b"context").expect(suite.name);
        assert_eq!(key, server.export("EXPORTER-test", b"context").expect(suite.name));
        let version = if suite.exchange.is_tls13() { "TLS 1.3" } else { "TLS 1.2" };
        for summary in [client.summary(), server.summary()] {
            let summary = summary.expect(suite.name);
            assert_eq!((summary.version.as_str(), summary.suite.as_str()), (version, suite.name));
        }
    }
}

/// RFC 4279 §5.4: up to 128 printable Unicode characters.
#[test]
fn identities_of_128_unicode_characters_are_carried_by_tls13() {
    for character in ["ル", "\u{1f980}"] {
        let (ours, theirs) = (character.repeat(128), format!("{}b", character.repeat(127)));
        let mut client = client(&by_psk(&[IN_TLS13]), &psk(&ours, &theirs, b"secret"));
        let mut server = server(&by_psk(&[IN_TLS13]), &psk(&theirs, &ours, b"secret"));
        assert_eq!(talk(&mut client, &mut server), (None, None), "{character}");
        assert!(client.is_established() && server.is_established(), "{character}");
    }
}

#[test]
fn a_wrong_secret_is_told_apart_from_an_unknown_identity_only_here() {
    for suite in one_of_each() {
        let tls = by_psk(&[suite]);
        let attempt = |identity: &str, secret: &[u8]| {
            let mut client = client(&tls, &psk(identity, "b", secret));
            let mut server = server(&tls, &psk("b", "a", b"secret"));
            let mut answers = Vec::new();
            let errors = loop {
                let (to_server, to_client) = (client.take_output(), server.take_output());
                if to_server.is_empty() && to_client.is_empty() {
                    break (client.receive(b"").err(), server.receive(b"").err());
                }
                answers.push((to_client.len(), to_client.last().copied()));
                let _ = (server.receive(&to_server), client.receive(&to_client));
            };
            assert!(!client.is_established() && !server.is_established(), "{suite}");
            assert!(client.export("EXPORTER-test", b"").is_err(), "{suite}");
            assert!(server.export("EXPORTER-test", b"").is_err(), "{suite}");
            assert!(client.send(b"x").is_err() && server.send(b"x").is_err(), "{suite}");
            assert!(client.summary().is_none() && server.summary().is_none(), "{suite}");
            (errors, answers)
        };
        let refused = |identity: &str| Some(TlsError::SecretRefused { identity: identity.to_owned() });
        let (errors, to_wrong) = attempt("a", b"terces");
        assert_eq!(errors, (refused("a"), Some(TlsError::WrongSecret)), "{suite}");
        for secret in [b"secret".as_slice(), b"terces"] {
            let (errors, to_unknown) = attempt("x", secret);
            let unknown = TlsError::UnknownIdentity { presented: "x".to_owned(), expected: "a".to_owned() };
            assert_eq!(errors, (refused("x"), Some(unknown)), "{suite}");
            assert_eq!(to_unknown, to_wrong, "{suite}: answers to strangers differ");
        }
    }
}

#[test]
fn the_first_suite_of_the_server_that_both_have_is_used() {
    let agreed = |at_client: &[&'static str], at_server: &[&'static str]| {
        let (mut client, mut server) = with(at_client, at_server);
        assert_eq!(talk(&mut client, &mut server), (None, None));
        assert_eq!(
            client.export("EXPORTER-test", b"").unwrap(),
            server.export("EXPORTER-test", b"").unwrap()
        );
        client.summary().expect("established").suite
    };
    let chacha = "TLS_CHACHA20_POLY1305_SHA256";
    assert_eq!(agreed(&[IN_TLS13, chacha], &[chacha, IN_TLS13]), chacha);
    // TLS 1.3 goes before TLS 1.2, wherever it stands in the list.
    assert_eq!(agreed(&[IN_TLS12[0], IN_TLS13], &[IN_TLS12[0], IN_TLS13]), IN_TLS13);
    assert_eq!(agreed(&[IN_TLS13, IN_TLS12[1], IN_TLS12[0]], &[IN_TLS12[0], IN_TLS12[1]]), IN_TLS12[0]);
    assert_eq!(agreed(&[IN_TLS12[2]], &[IN_TLS13, IN_TLS12[0], IN_TLS12[2]]), IN_TLS12[2]);
    // The secret has one hash: that of the first suite of TLS 1.3.
    let sha384 = "TLS_AES_256_GCM_SHA384";
    assert_eq!(agreed(&[sha384, IN_TLS13], &[sha384, IN_TLS13]), sha384);
    assert_eq!(agreed(&[IN_TLS13, sha384], &[IN_TLS13, sha384]), IN_TLS13);
}

#[test]
fn nothing_in_common_is_told_at_both_ends() {
    let chacha = "TLS_CHACHA20_POLY1305_SHA256";
    for (at_client, at_server) in
        [(IN_TLS13, chacha), (IN_TLS12[0], IN_TLS12[1]), (IN_TLS13, "TLS_AES_256_GCM_SHA384")]
    {
        let (mut client, mut server) = with(&[at_client], &[at_server]);
        let error = Some(TlsError::NoCommonSuite);
        assert_eq!(talk(&mut client, &mut server), (error.clone(), error), "{at_client}, {at_server}");
    }
    for (at_client, at_server) in [(IN_TLS13, IN_TLS12[0]), (IN_TLS12[0], IN_TLS13)] {
        let (mut client, mut server) = with(&[at_client], &[at_server]);
        let error = Some(TlsError::Version);
        assert_eq!(talk(&mut client, &mut server), (error.clone(), error), "{at_client}, {at_server}");
    }
}

#[test]
fn long_identities_and_secrets_work_and_longer_ones_are_refused() {
    let (longest, other) = ("é".repeat(127) + "x", "y".repeat(255));
    for suite in one_of_each() {
        let tls = by_psk(&[suite]);
        let mut client = client(&tls, &psk(&longest, &other, &[7; 512]));
        let mut server = server(&tls, &psk(&other, &longest, &[7; 512]));
        assert_eq!(talk(&mut client, &mut server), (None, None), "{suite}");
        assert!(client.is_established() && server.is_established(), "{suite}");
    }

    let tls = by_psk(&suites::DEFAULT);
    let refused = |psk: &Psk| match Endpoint::new(Side::Client, &tls, psk) {
        Err(TlsError::Settings(reason)) => reason,
        _ => panic!("not refused"),
    };
    let too_long = "y".repeat(513);
    assert!(refused(&psk(&too_long, "b", b"secret")).starts_with("tls.identity is to be 1 to 512 octets"));
    for suite in IN_TLS12 {
        let tls = by_psk(&[IN_TLS13, suite]);
        let too_long = psk(&"y".repeat(256), "b", b"secret");
        match Endpoint::new(Side::Client, &tls, &too_long) {
            Err(TlsError::Settings(reason)) => {
                assert!(reason.contains("1 to 255 octets"), "{suite}: {reason}")
            }
            _ => panic!("not refused with {suite}"),
        }
    }
    assert!(refused(&psk("a", &too_long, b"secret")).starts_with("tls.peer-identity is to be"));
    assert!(refused(&psk("", "b", b"secret")).starts_with("tls.identity is to be"));
    assert!(refused(&psk("a", "", b"secret")).starts_with("tls.peer-identity is to be"));
    assert!(refused(&psk("a\0", "b", b"secret")).contains("without NUL"));
    assert!(refused(&psk("a", "b", &[7; 513])).contains("513 octets, and TLS takes 512 at most"));
}

#[test]
fn an_empty_identity_is_like_an_unknown_one() {
    let tls = by_psk(&[IN_TLS12[0]]);
    let mut ours = server(&tls, &psk("b", "a", b"secret"));
    let mut stranger = Stranger::new(Side::Client, SslVersion::TLS1_2, |context| {
        context.set_cipher_list("PSK-AES128-CBC-SHA").expect("suite");
        use_secret(context, b"", b"secret");
    });
    let unknown = TlsError::UnknownIdentity { presented: String::new(), expected: "a".to_owned() };
    assert_eq!(stranger.meet(&mut ours), Some(unknown));
    assert!(!ours.is_established() && !stranger.established);
}

#[test]
fn tls12_without_extended_master_secret_is_refused_on_either_side() {
    /// `SSL_OP_NO_EXTENDED_MASTER_SECRET`
    const NO_EMS: SslOptions = SslOptions::from_bits_retain(1);
    let tls = by_psk(&[IN_TLS12[0]]);
    for (options, expected) in [(NO_EMS, Some(TlsError::NoExtendedMasterSecret)), (SslOptions::empty(), None)]
    {
        let mut ours = server(&tls, &psk("b", "a", b"secret"));
        let mut stranger = Stranger::new(Side::Client, SslVersion::TLS1_2, |context| {
            context.set_options(options);
            context.set_cipher_list("PSK-AES128-CBC-SHA").expect("suite");
            use_secret(context, b"a", b"secret");
        });
        assert_eq!(stranger.meet(&mut ours), expected);
        assert_eq!(ours.is_established(), expected.is_none());
        assert_eq!(
            ours.export("EXPORTER-test", b"context").ok().map(|key| *key),
            expected.is_none().then(|| stranger.export())
        );

        let mut ours = client(&tls, &psk("a", "b", b"secret"));
        let mut stranger = Stranger::new(Side::Server, SslVersion::TLS1_2, |context| {
            context.set_options(options);
            context.set_cipher_list("PSK-AES128-CBC-SHA").expect("suite");
            expect_secret(context, b"secret");
        });
        assert_eq!(stranger.meet(&mut ours), expected);
        assert_eq!(ours.is_established(), expected.is_none());
        assert_eq!(ours.export("EXPORTER-test", b"context").is_err(), expected.is_some());
    }
}

#[test]
fn no_ticket_no_session_and_no_hint_come_from_our_server() {
    use openssl::ssl::SslSessionCacheMode;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    for (version, suite) in [(SslVersion::TLS1_3, IN_TLS13), (SslVersion::TLS1_2, IN_TLS12[1])] {
        let (sessions, hints) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut ours = server(&by_psk(&[suite]), &psk("b", "a", b"secret"));
        let mut stranger = Stranger::new(Side::Client, version, |context| {
            context.set_cipher_list("DHE-PSK-AES128-GCM-SHA256").expect("suite");
            context.set_session_cache_mode(SslSessionCacheMode::CLIENT);
            let sessions = sessions.clone();
            context.set_new_session_callback(move |_, _| {
                sessions.fetch_add(1, Ordering::Relaxed);
            });
            let hints = hints.clone();
            context.set_psk_client_callback(move |_, hint, identity, key| {
                hints.fetch_add(usize::from(hint.is_some_and(|hint| !hint.is_empty())), Ordering::Relaxed);
                identity[..2].copy_from_slice(b"a\0");
                key[..6].copy_from_slice(b"secret");
                Ok(6)
            });
        });
        assert_eq!(stranger.meet(&mut ours), None);
        assert!(ours.is_established() && stranger.established);
        assert_eq!(hints.load(Ordering::Relaxed), 0, "{suite}");
        let session = stranger.stream.ssl().session().expect("established");
        assert!(version == SslVersion::TLS1_3 || session.id().is_empty(), "{suite}");
        // In TLS 1.3 a session comes with a ticket; in TLS 1.2 OpenSSL tells of one that cannot be resumed, too.
        assert!(version == SslVersion::TLS1_2 || sessions.load(Ordering::Relaxed) == 0, "{suite}");
        assert_eq!(ours.export("EXPORTER-test", b"context").expect(suite).as_slice(), stranger.export());
    }
}

#[test]
fn renegotiation_is_refused() {
    unsafe extern "C" {
        fn SSL_renegotiate(ssl: *mut openssl_sys::SSL) -> std::ffi::c_int;
    }
    use foreign_types::ForeignTypeRef;
    let mut ours = server(&by_psk(&[IN_TLS12[0]]), &psk("b", "a", b"secret"));
    let mut stranger = Stranger::new(Side::Client, SslVersion::TLS1_2, |context| {
        context.set_cipher_list("PSK-AES128-CBC-SHA").expect("suite");
        use_secret(context, b"a", b"secret");
    });
    assert_eq!(stranger.meet(&mut ours), None);
    assert!(ours.is_established());
    // SAFETY: the connection is valid.
    assert_eq!(unsafe { SSL_renegotiate(stranger.stream.ssl().as_ptr()) }, 1);
    // A client that insists gives up then.
    assert_eq!(stranger.meet(&mut ours), Some(TlsError::Alert("handshake_failure".to_owned())));
    assert!(stranger.error.expect("refused").contains("no renegotiation"));
    assert!(!ours.is_established());
}

#[test]
fn what_comes_after_the_end_is_left_alone() {
    for suite in one_of_each() {
        let (mut client, mut server) = established(&by_psk(&[suite]));
        server.send(b"last").expect("established");
        server.close();
        let mut octets = server.take_output();
        octets.extend_from_slice(b"something in clear");
        assert_eq!(client.receive(&octets), Ok(()), "{suite}");
        assert_eq!(client.take_received().as_slice(), b"last");
        assert!(client.is_closed());
    }
}

#[test]
fn a_peer_that_is_not_tls_or_goes_is_told_in_words() {
    for (octets, expected) in [
        (b"HTTP/1.1 400 Bad Request".as_slice(), TlsError::NotTls),
        (b"SSH-2.0-OpenSSH_9.2\r\n", TlsError::NotTls),
        (&[0xff; 19], TlsError::NotTls),
        (&[21, 3, 3, 0, 2, 1, 0], TlsError::Closed),
        (&[21, 3, 3, 0, 2, 2, 80], TlsError::Alert("internal_error".to_owned())),
        (&[21, 3, 3, 0, 2, 2, 70], TlsError::Version),
        (&[21, 3, 3, 0, 2, 2, 115], TlsError::SecretRefused { identity: "a".to_owned() }),
    ] {
        let mut client = client(&by_psk(&suites::DEFAULT), &psk("a", "b", b"secret"));
        assert_eq!(client.receive(octets), Err(expected.clone()));
        // And it stays so.
        assert_eq!(client.receive(&[22, 3, 3, 0, 0]), Err(expected));
        assert!(!client.is_established());
    }
    let mut server = server(&by_psk(&suites::DEFAULT), &psk("b", "a", b"secret"));
    assert_eq!(server.receive(b"GET / HTTP/1.1\r\n\r\n"), Err(TlsError::NotTls));
}

#[test]
fn suites_that_are_unknown_or_refused_are_not_used() {
    let refused =
        |suite: &'static str| match Endpoint::new(Side::Client, &by_psk(&[suite]), &psk("a", "b", b"secret"))
        {
            Err(TlsError::Settings(reason)) => reason,
            _ => panic!("not refused"),
        };
    assert!(refused("TLS_PSK_WITH_RC4_128_SHA").contains("RC4 is broken"));
    assert!(refused("TLS_DHE_PSK_WITH_3DES_EDE_CBC_SHA").contains("3DES is broken"));
    assert!(refused("TLS_NONE").contains("there is no suite TLS_NONE"));
    assert!(refused("TLS_RSA_PSK_WITH_AES_128_CBC_SHA").contains("needs a certificate"));
}

#[test]
fn nothing_is_sent_or_exported_before_the_handshake_is_over() {
    let mut client = client(&by_psk(&suites::DEFAULT), &psk("a", "b", b"secret"));
    assert_eq!(client.send(b"early"), Err(TlsError::NotEstablished));
    assert_eq!(client.export("EXPORTER-test", b""), Err(TlsError::NotEstablished));
    assert!(client.summary().is_none() && !client.is_established() && !client.is_closed());
}
