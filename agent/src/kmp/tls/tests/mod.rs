mod certificates;
mod corrupted;
mod psk;
mod raw_key;
mod stranger;

use super::*;
use crate::config::{Authentication, Tls};

/// A configuration by PSK with these suites.
fn by_psk(suites: &[&'static str]) -> Tls {
    Tls {
        authentication: Authentication::Psk { identity: None, peer_identity: None, rsa: None },
        suites: suites.to_vec(),
    }
}

/// What one of two ends that know each other has.
fn psk(identity: &str, peer_identity: &str, secret: &[u8]) -> Psk {
    Psk {
        identity: identity.to_owned(),
        peer_identity: peer_identity.to_owned(),
        secret: MasterKey::new(secret.to_vec().into()).expect("not empty"),
    }
}

/// Carries octets between two ends until neither has any, and gives the first error of each.
fn talk(client: &mut Endpoint, server: &mut Endpoint) -> (Option<TlsError>, Option<TlsError>) {
    let (mut at_client, mut at_server) = (None, None);
    loop {
        let (to_server, to_client) = (client.take_output(), server.take_output());
        if to_server.is_empty() && to_client.is_empty() {
            return (at_client, at_server);
        }
        at_server = at_server.or(server.receive(&to_server).err());
        at_client = at_client.or(client.receive(&to_client).err());
    }
}

/// Two ends of the same configuration and secret that have talked.
fn established(tls: &Tls) -> (Endpoint, Endpoint) {
    let mut client =
        Endpoint::new(Side::Client, tls, &psk("10.0.0.1", "10.0.0.2", b"secret")).expect("client");
    let mut server =
        Endpoint::new(Side::Server, tls, &psk("10.0.0.2", "10.0.0.1", b"secret")).expect("server");
    assert_eq!(talk(&mut client, &mut server), (None, None));
    assert!(client.is_established() && server.is_established());
    (client, server)
}

#[test]
fn two_ends_agree_on_keys_and_talk() {
    let (mut client, mut server) = established(&by_psk(&suites::DEFAULT));

    let key = client.export("EXPORTER-test", b"context").expect("established");
    assert_eq!(key, server.export("EXPORTER-test", b"context").expect("established"));
    assert_ne!(key, client.export("EXPORTER-test", b"other context").expect("established"));
    assert_ne!(key, client.export("EXPORTER-other", b"context").expect("established"));

    let summary = client.summary().expect("established");
    assert_eq!((summary.version.as_str(), summary.suite.as_str()), ("TLS 1.3", "TLS_AES_128_GCM_SHA256"));
    assert_eq!(summary.peer, "10.0.0.2");
    assert_eq!(server.summary().expect("established").peer, "10.0.0.1");

    client.send(b"from the client").expect("established");
    server.send(&[7; 40_000]).expect("established");
    assert_eq!(talk(&mut client, &mut server), (None, None));
    assert_eq!(server.take_received().as_slice(), b"from the client");
    assert_eq!(client.take_received().as_slice(), [7; 40_000]);
    assert!(server.take_received().is_empty());

    client.close();
    assert_eq!(talk(&mut client, &mut server), (None, None));
    assert!(server.is_closed() && !client.is_closed());
}
