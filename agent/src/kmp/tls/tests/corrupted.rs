//! What anybody on the way can do to a handshake.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

/// What becomes of the octets that one end sends at once.
#[derive(Clone, Debug)]
enum Damage {
    /// These bits of an octet change.
    Change { at: prop::sample::Index, bits: u8 },
    /// The rest is missing.
    Truncate { at: prop::sample::Index },
    /// An octet is missing.
    Remove { at: prop::sample::Index },
    /// An octet is there too many.
    Insert { at: prop::sample::Index, octet: u8 },
    /// Everything comes twice.
    Repeat,
    /// Something else comes.
    Replace { octets: Vec<u8> },
}

impl Damage {
    fn apply(&self, flight: &mut Vec<u8>) {
        match self {
            Self::Change { at, bits } => {
                let at = at.index(flight.len());
                flight[at] ^= bits;
            }
            Self::Truncate { at } => flight.truncate(at.index(flight.len())),
            Self::Remove { at } => {
                flight.remove(at.index(flight.len()));
            }
            Self::Insert { at, octet } => flight.insert(at.index(flight.len()), *octet),
            Self::Repeat => flight.extend_from_within(..),
            Self::Replace { octets } => flight.clone_from(octets),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Change { at, bits }),
        2 => at().prop_map(|at| Damage::Truncate { at }),
        1 => at().prop_map(|at| Damage::Remove { at }),
        1 => (at(), any::<u8>()).prop_map(|(at, octet)| Damage::Insert { at, octet }),
        1 => Just(Damage::Repeat),
        1 => prop::collection::vec(any::<u8>(), 1..200).prop_map(|octets| Damage::Replace { octets }),
    ]
}

/// Carries flights, of which the one numbered `number` is damaged.
fn talk_over_damage(
    client: &mut Endpoint,
    server: &mut Endpoint,
    number: usize,
    damage: impl Fn(&mut Vec<u8>),
) {
    let mut flights = 0;
    loop {
        let (mut to_server, mut to_client) = (client.take_output(), server.take_output());
        if to_server.is_empty() && to_client.is_empty() {
            return;
        }
        for flight in [&mut to_server, &mut to_client].into_iter().filter(|flight| !flight.is_empty()) {
            if flights == number {
                damage(flight);
            }
            flights += 1;
        }
        let _ = (server.receive(&to_server), client.receive(&to_client));
    }
}

fn suites() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "TLS_AES_128_GCM_SHA256",
        "TLS_PSK_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Two ends that are both established have the same keys, and damage is noticed before the handshake is over.
    #[test]
    fn a_damaged_flight_never_ends_in_different_keys(suite in suites(), number in 0_usize..4, damage in damage()) {
        let tls = by_psk(&[suite]);
        let mut client = Endpoint::new(Side::Client, &tls, &psk("a", "b", b"secret")).expect("client");
        let mut server = Endpoint::new(Side::Server, &tls, &psk("b", "a", b"secret")).expect("server");
        let harmful = Cell::new(false);
        talk_over_damage(&mut client, &mut server, number, |flight| {
            let before = flight.clone();
            damage.apply(flight);
            // The minor version in the header of the first record says nothing, and a repeated flight is complete.
            let except = |octets: &[u8]| octets.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, octet)| *octet).collect::<Vec<_>>();
            harmful.set(except(&before) != except(flight) && !matches!(damage, Damage::Repeat));
        });
        let keys = [&client, &server].map(|end| end.export("EXPORTER-test", b"context").ok());
        for (end, key) in [&client, &server].into_iter().zip(&keys) {
            prop_assert_eq!(end.is_established(), key.is_some());
        }
        if let [Some(at_client), Some(at_server)] = &keys {
            prop_assert_eq!(at_client, at_server);
        }
        // In the flights before the last one, which the other end does not wait for.
        let last = if suite.starts_with("TLS_AES") { 2 } else { 3 };
        if number < last && harmful.get() {
            prop_assert!(keys.iter().any(Option::is_none));
        }
    }

    /// Octets from anybody.
    #[test]
    fn garbage_never_panics_and_never_establishes(
        suite in suites(),
        server in any::<bool>(),
        mut octets in prop::collection::vec(any::<u8>(), 0..600),
        like_tls in any::<bool>(),
    ) {
        if like_tls && octets.len() >= 5 {
            let len = u16::try_from(octets.len() - 5).expect("short");
            octets[..3].copy_from_slice(&[22, 3, 3]);
            octets[3..5].copy_from_slice(&len.to_be_bytes());
        }
        let side = if server { Side::Server } else { Side::Client };
        let mut end = Endpoint::new(side, &by_psk(&[suite]), &psk("a", "b", b"secret")).expect("end");
        for piece in octets.chunks(97) {
            let _ = end.receive(piece);
        }
        prop_assert!(!end.is_established());
        prop_assert!(end.export("EXPORTER-test", b"").is_err());
    }

    /// It does not matter how the stream is cut.
    #[test]
    fn octets_may_come_in_any_pieces(suite in suites(), size in 1_usize..50) {
        let tls = by_psk(&[suite]);
        let mut client = Endpoint::new(Side::Client, &tls, &psk("a", "b", b"secret")).expect("client");
        let mut server = Endpoint::new(Side::Server, &tls, &psk("b", "a", b"secret")).expect("server");
        loop {
            let (to_server, to_client) = (client.take_output(), server.take_output());
            if to_server.is_empty() && to_client.is_empty() {
                break;
            }
            for piece in to_server.chunks(size) {
                prop_assert_eq!(server.receive(piece), Ok(()));
            }
            for piece in to_client.chunks(size) {
                prop_assert_eq!(client.receive(piece), Ok(()));
            }
        }
        prop_assert!(client.is_established() && server.is_established());
    }
}
