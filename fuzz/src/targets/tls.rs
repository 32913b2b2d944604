//! What the ends of a TLS handshake hear.

use tcpauth::{
    config::{Authentication, Tls},
    keys::MasterKey,
    kmp::{Endpoint, Psk, Side},
};

/// Suites of the handshake, by bits 2 and 3 of an input's first octet: one for each way to a secret.
const SUITES: [&str; 4] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_PSK_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256",
    "TLS_DHE_PSK_WITH_AES_128_CBC_SHA",
];

/// Flights of the peer that come before what is not the peer's: bits 0 and 1 of an input's first octet.
const FLIGHTS: u8 = 3;

/// In an input's first octet: what follows comes in two pieces.
const IN_PIECES: u8 = 16;

/// A first octet, then what comes to a server in the place of its client's next flight.
pub fn tls_server(data: &[u8]) {
    attack(Side::Server, data);
}

/// A first octet, then what comes to a client in the place of its server's next flight.
pub fn tls_client(data: &[u8]) {
    attack(Side::Client, data);
}

fn attack(victim: Side, data: &[u8]) {
    let Some((first, forged)) = data.split_first() else { return };
    let (mut ours, mut peer) = ends(victim, *first);
    for _ in 0..first & FLIGHTS {
        let _ = peer.receive(&ours.take_output());
        let _ = ours.receive(&peer.take_output());
    }
    let was_established = ours.is_established();
    let middle = if first & IN_PIECES != 0 { forged.len() / 2 } else { 0 };
    let (head, tail) = forged.split_at(middle);
    let _ = ours.receive(head);
    let _ = ours.receive(tail);
    let _ = ours.take_output();
    assert!(was_established || !ours.is_established(), "nobody proves to have a secret that he has not");
    assert!(was_established || ours.summary().is_none());
    assert!(was_established || ours.export("EXPORTER-fuzz", &[]).is_err());
    assert!(ours.take_received().is_empty(), "nobody is heard who has not proved it");
}

/// An end of `victim`, and its peer.
fn ends(victim: Side, first: u8) -> (Endpoint, Endpoint) {
    let authentication = Authentication::Psk { identity: None, peer_identity: None, rsa: None };
    let tls = Tls { authentication, suites: vec![SUITES[usize::from(first >> 2 & 3)]] };
    let end = |side, identity: &str, peer_identity: &str| {
        let secret = MasterKey::new(b"v61ne0qkel33&".to_vec().into()).expect("not empty");
        let psk = Psk { identity: identity.into(), peer_identity: peer_identity.into(), secret };
        Endpoint::new(side, &tls, &psk).expect("it is valid")
    };
    let other = if victim == Side::Client { Side::Server } else { Side::Client };
    (end(victim, "192.0.2.1", "192.0.2.2"), end(other, "192.0.2.2", "192.0.2.1"))
}

/// What came to a server in other handshakes, in each place.
pub fn seeds_for_server() -> Vec<Vec<u8>> {
    seeds(Side::Server)
}

/// What came to a client in other handshakes, in each place.
pub fn seeds_for_client() -> Vec<Vec<u8>> {
    seeds(Side::Client)
}

fn seeds(victim: Side) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for suite in 0..SUITES.len() as u8 {
        let (mut ours, mut peer) = ends(victim, suite << 2);
        for flight in 0..=FLIGHTS {
            let _ = peer.receive(&ours.take_output());
            let octets = peer.take_output();
            let _ = ours.receive(&octets);
            // The first flight of a handshake opens one with anybody; later ones are of this one only.
            if !octets.is_empty() {
                seeds.push([&[suite << 2 | flight], &octets[..]].concat());
            }
        }
    }
    seeds
}
