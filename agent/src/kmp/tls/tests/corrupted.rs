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

/// All but the versions in the headers of records, which say nothing and may be ignored (RFC 8446 §5.1).
fn essence(flight: &[u8]) -> Vec<u8> {
    let (mut essence, mut left) = (Vec::new(), flight);
    while let [kind, _, _, high, low, rest @ ..] = left {
        let body = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        essence.extend([*kind, *high, *low]);
        essence.extend(&rest[..body]);
        left = &rest[body..];
    }
    essence.extend(left);
    essence
}

/// Two ends that are both established have the same keys, and damage in one of the first flights, of which an end needs as
/// many as `needed`, is noticed.
fn assert_noticed(
    (mut client, mut server): (Endpoint, Endpoint),
    number: usize,
    damage: &Damage,
    needed: usize,
) -> Result<(), TestCaseError> {
    let (changed, harmful) = (Cell::new(false), Cell::new(false));
    talk_over_damage(&mut client, &mut server, number, |flight| {
        let before = flight.clone();
        damage.apply(flight);
        changed.set(*flight != before);
        harmful.set(essence(flight) != essence(&before) && !matches!(damage, Damage::Repeat));
    });
    let keys = [&client, &server].map(|end| end.export("EXPORTER-test", b"context").ok());
    for (end, key) in [&client, &server].into_iter().zip(&keys) {
        prop_assert_eq!(end.is_established(), key.is_some());
    }
    match keys {
        [Some(at_client), Some(at_server)] => {
            prop_assert_eq!(at_client, at_server);
            prop_assert!(number >= needed || !harmful.get());
        }
        _ => prop_assert!(changed.get()),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damage_to_a_handshake_by_secret_is_noticed(suite in suites(), number in 0_usize..4, damage in damage()) {
        let tls = by_psk(&[suite]);
        let client = Endpoint::new(Side::Client, &tls, &psk("a", "b", b"secret")).expect("client");
        let server = Endpoint::new(Side::Server, &tls, &psk("b", "a", b"secret")).expect("server");
        let needed = if suite.starts_with("TLS_AES") { 3 } else { 4 };
        assert_noticed((client, server), number, &damage, needed)?;
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damage_to_a_handshake_by_public_key_is_noticed(number in 0_usize..3, damage in damage()) {
        let ends = raw_key::Ends::new();
        let [client, server] = ends.fingerprints;
        assert_noticed(ends.endpoints(server, client), number, &damage, 3)?;
    }
}
