//! The same over TLS.

use super::*;
use crate::{
    config::{self, Authentication},
    keys::MasterKey,
    kmp::tls::{Psk, Side, suites},
};

fn endpoint(side: Side, secret: &[u8]) -> Endpoint {
    let authentication = Authentication::Psk { identity: None, peer_identity: None, rsa: None };
    let tls = config::Tls { authentication, suites: suites::DEFAULT.to_vec() };
    let (identity, peer_identity) = match side {
        Side::Client => ("192.0.2.1", "192.0.2.2"),
        Side::Server => ("192.0.2.2", "192.0.2.1"),
    };
    let secret = MasterKey::new(secret.to_vec().into()).unwrap();
    let psk = Psk { identity: identity.into(), peer_identity: peer_identity.into(), secret };
    Endpoint::new(side, &tls, &psk).unwrap()
}

fn channel(side: Side, secret: &[u8]) -> Exchange {
    Exchange::new(endpoint(side, secret), capabilities(&Algorithm::TCP_AO))
}

/// Carries all that both ends say, and gives their events and the first error of each.
fn talk(ends: &mut [Exchange; 2]) -> ([Vec<Event>; 2], [Option<ExchangeError>; 2]) {
    let (mut events, mut errors) = ([vec![], vec![]], [None, None]);
    loop {
        let said = [0, 1].map(|end| ends[end].take_output());
        for (end, said) in [(0, &said[1]), (1, &said[0])] {
            let error = ends[end].receive(said).err();
            errors[end] = errors[end].take().or(error);
            events[end].extend(std::iter::from_fn(|| ends[end].next_event()));
        }
        if said.iter().all(Vec::is_empty) {
            return (events, errors);
        }
    }
}

#[test]
fn two_daemons_agree_in_both_directions_at_once() {
    let mut ends = [channel(Side::Client, b"secret"), channel(Side::Server, b"secret")];
    let later = Connection { client_isn: Isn(7), server_isn: Some(Isn(8)), ..connection() };
    ends[0].offer(connection(), Role::Client, KeyId(130)).unwrap();
    ends[1].offer(later, Role::Server, KeyId(140)).unwrap();
    let (events, errors) = talk(&mut ends);
    assert_eq!(errors, [None, None]);
    let mut keys = [vec![], vec![]];
    for (us, events) in events.into_iter().enumerate() {
        let [Event::Ready { peer, tls }, Event::Offered { id, .. }] = &events[..] else { panic!("end {us}") };
        assert_eq!((peer.version, tls.version.as_str()), (1, "TLS 1.3"));
        keys[1 - us].push(ends[us].accept(*id, KeyId(150)).unwrap().unwrap());
    }
    let (events, errors) = talk(&mut ends);
    assert_eq!(errors, [None, None]);
    for (us, mut events) in events.into_iter().enumerate() {
        let Some(Event::Accepted { id, agreed }) = events.pop() else { panic!("end {us}") };
        ends[us].confirm(id).unwrap();
        assert!(go_together(&agreed, &keys[us][0]));
    }
    let (events, errors) = talk(&mut ends);
    assert_eq!(errors, [None, None]);
    assert!(events.iter().all(|events| matches!(events[..], [Event::Confirmed { id: 1 }])));
    ends[0].close();
    assert_eq!(talk(&mut ends).1, [None, Some(ExchangeError::Closed)]);
}

#[test]
fn ends_with_two_secrets_never_say_a_word() {
    let mut ends = [channel(Side::Client, b"secret"), channel(Side::Server, b"another")];
    ends[0].offer(connection(), Role::Client, KeyId(130)).unwrap();
    let (events, errors) = talk(&mut ends);
    assert!(events.iter().all(Vec::is_empty));
    assert!(errors.iter().any(|error| matches!(error, Some(ExchangeError::Tls(_)))), "{errors:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// One octet of one flight is another. Whatever TLS lets through, a wrong key is never taken for agreed.
    #[test]
    fn an_octet_that_was_changed_on_the_wire_comes_to_nothing(
        flight in 0usize..6,
        at: prop::sample::Index,
        bits in 1u8..,
    ) {
        let mut ends = [channel(Side::Client, b"secret"), channel(Side::Server, b"secret")];
        ends[0].offer(connection(), Role::Client, KeyId(130)).unwrap();
        let mut theirs = None;
        for number in 0..8 {
            let (from, to) = (number % 2, 1 - number % 2);
            let mut said = ends[from].take_output();
            if number == flight && !said.is_empty() {
                let at = at.index(said.len());
                said[at] ^= bits;
            }
            let _ = ends[to].receive(&said);
            while let Some(event) = ends[to].next_event() {
                match event {
                    Event::Offered { id, .. } => theirs = ends[to].accept(id, KeyId(140)).unwrap_or(None),
                    Event::Accepted { id, agreed } => {
                        prop_assert!(go_together(&agreed, theirs.as_ref().expect("it was accepted")));
                        let _ = ends[to].confirm(id);
                    }
                    Event::Confirmed { id } => drop(ends[to].done(id)),
                    Event::Ready { .. } | Event::Refused { .. } | Event::Done { .. } => {}
                }
            }
        }
    }
}
