//! The messages' order, over a transport that neither encrypts nor authenticates: what TLS would have kept from the
//! messages comes to nothing here by itself.

use std::time::Duration;

use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};
use proptest::{prelude::*, sample::select};
use tcpauth_common::{Isn, Kdf};
use zeroize::Zeroizing;

use super::*;
use crate::{
    keys::Mkt,
    kmp::{message::MessageError, tls::TlsError},
};

mod faults;
mod over_tls;

/// A transport in clear, whose exporter is an HMAC.
pub struct Clear {
    secret: u8,
    sent: Vec<u8>,
    received: Vec<u8>,
    established: bool,
    closed: bool,
}

impl Clear {
    /// Ends with the same secret are of one connection.
    pub fn new(secret: u8) -> Self {
        Self { secret, sent: Vec::new(), received: Vec::new(), established: false, closed: false }
    }
}

impl Transport for Clear {
    fn receive(&mut self, octets: &[u8]) -> Result<(), TlsError> {
        self.established = true;
        self.received.extend(octets);
        Ok(())
    }

    fn take_output(&mut self) -> Vec<u8> {
        mem::take(&mut self.sent)
    }

    fn is_established(&self) -> bool {
        self.established
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        assert!(self.established, "nothing is sent before");
        self.sent.extend(plaintext);
        Ok(())
    }

    fn take_received(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(mem::take(&mut self.received))
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError> {
        let key = PKey::hmac(&[self.secret; 32]).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        signer.update(&[label.as_bytes(), &[0], context].concat()).unwrap();
        let mut exported = Zeroizing::new([0; 32]);
        signer.sign(&mut exported[..]).unwrap();
        Ok(exported)
    }

    fn summary(&self) -> Option<Summary> {
        let text = |text: &str| text.to_owned();
        self.established.then(|| Summary { version: text("none"), suite: text("none"), peer: text("peer") })
    }
}

type End = Exchange<Clear>;

fn capabilities(algorithms: &[Algorithm]) -> Capabilities {
    Capabilities::ours(algorithms, Duration::from_secs(3600))
}

fn end(algorithms: &[Algorithm]) -> End {
    Exchange::new(Clear::new(1), capabilities(algorithms))
}

/// Two ends, on which all is ready.
fn ready(ours: &[Algorithm], theirs: &[Algorithm]) -> (End, End) {
    let (mut a, mut b) = (end(ours), end(theirs));
    a.receive(&[]).unwrap();
    settle(&mut a, &mut b).unwrap();
    for end in [&mut a, &mut b] {
        assert!(matches!(end.next_event(), Some(Event::Ready { .. })));
        assert!(end.next_event().is_none());
    }
    (a, b)
}

fn hand_over(from: &mut End, to: &mut End) -> Result<bool, ExchangeError> {
    let octets = from.take_output();
    to.receive(&octets).map(|()| !octets.is_empty())
}

fn settle(a: &mut End, b: &mut End) -> Result<(), ExchangeError> {
    while hand_over(a, b)? | hand_over(b, a)? {}
    Ok(())
}

fn connection() -> Connection {
    Connection {
        client: "192.0.2.1:40000".parse().unwrap(),
        server: "192.0.2.2:179".parse().unwrap(),
        client_isn: Isn(1),
        server_isn: None,
    }
}

fn refused(end: &mut End) -> Option<(u32, Refusal)> {
    match end.next_event()? {
        Event::Refused { id, reason } => Some((id, reason)),
        _ => None,
    }
}

fn offered(end: &mut End) -> Option<u32> {
    match end.next_event()? {
        Event::Offered { id, .. } => Some(id),
        _ => None,
    }
}

fn accepted(end: &mut End) -> Option<Agreed> {
    match end.next_event()? {
        Event::Accepted { agreed, .. } => Some(agreed),
        _ => None,
    }
}

/// Both ends' keys of an offer of `a`, all the way.
fn agree(a: &mut End, b: &mut End, role: Role) -> (Agreed, Agreed) {
    let id = a.offer(connection(), role, KeyId(130)).unwrap();
    hand_over(a, b).unwrap();
    assert!(matches!(
        b.next_event(),
        Some(Event::Offered { id: of, connection: of_what, role: ours })
            if (of, of_what, ours) == (id, connection(), role.other())
    ));
    let theirs = b.accept(id, KeyId(140)).unwrap().expect("there is an algorithm");
    hand_over(b, a).unwrap();
    let ours = accepted(a).expect("it was accepted");
    a.confirm(id).unwrap();
    hand_over(a, b).unwrap();
    assert!(matches!(b.next_event(), Some(Event::Confirmed { id: of }) if of == id));
    b.done(id).unwrap();
    hand_over(b, a).unwrap();
    assert!(matches!(a.next_event(), Some(Event::Done { id: of }) if of == id));
    assert!(a.offered.is_empty() && b.asked.is_empty(), "nothing is left of it");
    (ours, theirs)
}

/// Whether these are keys of one connection, seen from its two ends.
fn go_together(ours: &Agreed, theirs: &Agreed) -> bool {
    ours.connection == theirs.connection
        && ours.role == theirs.role.other()
        && ours.mkt == Mkt { send_id: theirs.mkt.recv_id, recv_id: theirs.mkt.send_id, ..theirs.mkt.clone() }
}

#[test]
fn both_ends_have_the_same_keys_and_each_offer_has_its_own() {
    let (mut a, mut b) = ready(&Algorithm::TCP_AO, &Algorithm::TCP_AO);
    let (ours, theirs) = agree(&mut a, &mut b, Role::Client);
    assert!(go_together(&ours, &theirs));
    assert_eq!((ours.mkt.recv_id, ours.mkt.send_id), (KeyId(130), KeyId(140)));
    assert!(ours.mkt.kdf == Kdf::Rfc5926 && ours.mkt.master_key.octets().len() == 32);
    let (again, _) = agree(&mut a, &mut b, Role::Server);
    let (back, _) = agree(&mut b, &mut a, Role::Client);
    for other in [&again, &back] {
        assert!(other.mkt.master_key != ours.mkt.master_key);
    }
}

/// What was said, word by word, gives the keys: agent/src/kmp/vectors.rs says which.
#[test]
fn the_keys_are_bound_to_all_that_was_said() {
    let (mut a, mut b) = (end(&Algorithm::TCP_AO), end(&[Algorithm::HmacSha256_96]));
    a.receive(&[]).unwrap();
    b.receive(&[]).unwrap();
    a.offer(connection(), Role::Server, KeyId(130)).unwrap();
    let to_b = a.take_output();
    b.receive(&to_b).unwrap();
    b.accept(1, KeyId(140)).unwrap();
    let to_a = b.take_output();
    a.receive(&to_a).unwrap();
    let messages = |octets: &[u8]| {
        let (first, rest) = Raw::split(octets).unwrap().unwrap();
        let (second, _) = Raw::split(rest).unwrap().unwrap();
        (first.octets.to_vec(), second.decode(1).unwrap().unwrap())
    };
    let ((offerers, Message::Offer(offer)), (accepters, Message::Accept(accept))) =
        (messages(&to_b), messages(&to_a))
    else {
        panic!("an offer and its answer")
    };
    let terms = Terms {
        version: 1,
        connection: connection(),
        offerer: Role::Server,
        client_recv_id: KeyId(140),
        server_recv_id: KeyId(130),
        tcp_options: TcpOptions::Include,
        offer_nonce: offer.nonce,
        accept_nonce: accept.nonce,
        algorithm: Algorithm::HmacSha256_96,
        capabilities: openssl::sha::sha256(&[offerers, accepters].concat()),
    };
    assert!(matches!(a.next_event(), Some(Event::Ready { .. })));
    let agreed = accepted(&mut a).unwrap();
    let exported = a.transport.export(MASTER_KEY_LABEL, &terms.context()).unwrap();
    assert_eq!(agreed.mkt.master_key.octets(), &exported[..]);
    let key = a.transport.export(CONFIRMATION_LABEL, &terms.context()).unwrap();
    assert_eq!(accept.confirmation, Confirmations::new(&key, &terms.context()).unwrap().accepter);
}

#[test]
fn an_offer_of_before_the_first_word_costs_no_round_trip() {
    let (mut a, mut b) = (end(&Algorithm::TCP_AO), end(&Algorithm::TCP_AO));
    let id = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
    a.receive(&[]).unwrap();
    hand_over(&mut a, &mut b).unwrap();
    assert!(matches!(b.next_event(), Some(Event::Ready { .. })));
    assert_eq!(offered(&mut b), Some(id));
    let theirs = b.accept(id, KeyId(140)).unwrap().unwrap();
    hand_over(&mut b, &mut a).unwrap();
    assert!(matches!(a.next_event(), Some(Event::Ready { .. })));
    assert!(go_together(&accepted(&mut a).unwrap(), &theirs));
}

#[test]
fn the_accepters_best_that_both_have_is_taken_and_none_is_refused() {
    use Algorithm::*;
    let (mut a, mut b) = ready(&[HmacSha1_96, HmacSha256_96], &[Aes128Cmac96, HmacSha256_96, HmacSha1_96]);
    let (ours, theirs) = agree(&mut a, &mut b, Role::Client);
    assert!(go_together(&ours, &theirs) && ours.mkt.algorithm == HmacSha256_96);
    let (ours, _) = agree(&mut b, &mut a, Role::Client);
    assert_eq!(ours.mkt.algorithm, HmacSha1_96);

    let (mut a, mut b) = ready(&[HmacSha1_96], &[Aes128Cmac96]);
    let id = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
    settle(&mut a, &mut b).unwrap();
    assert_eq!(offered(&mut b), Some(id));
    assert!(b.accept(id, KeyId(140)).unwrap().is_none());
    settle(&mut a, &mut b).unwrap();
    assert_eq!(refused(&mut a), Some((id, Refusal::NoCommonAlgorithm)));
}

/// MD5 is no algorithm of TCP-AO; of an algorithm of tomorrow both may have heard, but not be able to use it.
#[test]
fn a_name_without_an_algorithm_is_never_agreed_on() {
    for name in ["md5", "tomorrow's"] {
        let told = Capabilities { algorithms: vec![name.to_owned()], ..capabilities(&[]) };
        let [mut a, mut b] = [told.clone(), told].map(|told| Exchange::new(Clear::new(1), told));
        let id = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
        a.receive(&[]).unwrap();
        settle(&mut a, &mut b).unwrap();
        assert!(b.accept(id, KeyId(140)).unwrap().is_none());
        settle(&mut a, &mut b).unwrap();
    }
}

#[test]
fn the_coverage_of_options_is_the_offerers() {
    let (a, mut b) = (end(&Algorithm::TCP_AO), end(&Algorithm::TCP_AO));
    let mut a = a.with_tcp_options(TcpOptions::Exclude);
    a.receive(&[]).unwrap();
    settle(&mut a, &mut b).unwrap();
    a.events.clear();
    b.events.clear();
    let (ours, theirs) = agree(&mut a, &mut b, Role::Server);
    assert!(go_together(&ours, &theirs) && ours.mkt.excludes_options());
    let (ours, _) = agree(&mut b, &mut a, Role::Server);
    assert!(!ours.mkt.excludes_options());
}

#[test]
fn capabilities_that_were_changed_on_the_way_are_noticed() {
    use Algorithm::*;
    let both = [HmacSha256_128, HmacSha1_96];
    // Taken out of the offerer's list, the accepter's, or said in another order: whoever could do that inside TLS.
    for (to_accepter, to_offerer) in [
        (&[HmacSha1_96][..], &both[..]),
        (&both, &[HmacSha1_96]),
        (&both, &[HmacSha1_96, HmacSha256_128]),
        (&[HmacSha1_96], &[HmacSha1_96]),
        // What they agree on stays the same, but not what they said.
        (&[HmacSha1_96, HmacSha256_128], &both),
    ] {
        let (mut a, mut b) = (end(&both), end(&both));
        for (end, told) in [(&mut a, to_offerer), (&mut b, to_accepter)] {
            end.receive(&Message::Capabilities(capabilities(told)).encode().unwrap()).unwrap();
            end.take_output();
            end.events.clear();
        }
        let id = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
        hand_over(&mut a, &mut b).unwrap();
        assert!(b.accept(id, KeyId(140)).unwrap().is_some());
        let error = hand_over(&mut b, &mut a).unwrap_err();
        assert!(matches!(error, ExchangeError::Downgrade | ExchangeError::Mismatch), "{error}");
        assert!(a.next_event().is_none());
    }
}

#[test]
fn ends_of_two_tls_connections_agree_on_nothing() {
    let mut a = Exchange::new(Clear::new(1), capabilities(&Algorithm::TCP_AO));
    let mut b = Exchange::new(Clear::new(2), capabilities(&Algorithm::TCP_AO));
    let id = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
    a.receive(&[]).unwrap();
    settle(&mut a, &mut b).unwrap();
    b.accept(id, KeyId(140)).unwrap();
    assert_eq!(settle(&mut a, &mut b), Err(ExchangeError::Mismatch));
    assert!(matches!(a.next_event(), Some(Event::Ready { .. })) && a.next_event().is_none());
    assert_eq!(
        a.offer(connection(), Role::Client, KeyId(131)),
        Err(ExchangeError::Mismatch),
        "it stays ended"
    );
}

#[test]
fn a_wrong_confirmation_is_refused_and_ends_the_channel() {
    let (mut a, mut b) = ready(&Algorithm::TCP_AO, &Algorithm::TCP_AO);
    let id = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
    settle(&mut a, &mut b).unwrap();
    offered(&mut b).unwrap();
    b.accept(id, KeyId(140)).unwrap();
    settle(&mut a, &mut b).unwrap();
    let wrong = Message::Confirm { id, confirmation: [0; 32] }.encode().unwrap();
    assert_eq!(b.receive(&wrong), Err(ExchangeError::Mismatch));
    assert!(b.next_event().is_none());
    accepted(&mut a).unwrap();
    a.receive(&b.take_output()).unwrap();
    assert_eq!(refused(&mut a), Some((id, Refusal::Mismatch)));
}

#[test]
fn of_two_offers_for_one_connection_the_lower_ends_goes_on() {
    let crossed = Connection { client: connection().server, server: connection().client, ..connection() };
    // The same connection, that was up; and two SYNs that crossed, where each end is the client of its own.
    for (theirs, role) in
        [(connection(), Role::Server), (Connection { client_isn: Isn(9), ..crossed }, Role::Client)]
    {
        // Of `a` and `b`, `a` has the lower address. Whoever hears the other first.
        for a_first in [true, false] {
            let (mut a, mut b) = ready(&Algorithm::TCP_AO, &Algorithm::TCP_AO);
            let wins = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
            let loses = b.offer(theirs, role, KeyId(140)).unwrap();
            let (first, second) = if a_first { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let (to_second, to_first) = (first.take_output(), second.take_output());
            first.receive(&to_first).unwrap();
            second.receive(&to_second).unwrap();
            settle(&mut a, &mut b).unwrap();
            assert!(a.next_event().is_none(), "the higher end's is not even asked");
            assert_eq!(offered(&mut b), Some(wins));
            assert_eq!(refused(&mut b), Some((loses, Refusal::Collision)));
            assert!(b.accept(wins, KeyId(141)).unwrap().is_some());
            settle(&mut a, &mut b).unwrap();
            assert!(accepted(&mut a).is_some());
        }
    }
}

#[test]
fn an_offer_that_was_not_answered_yet_gives_way_to_a_lower_ends() {
    let (mut a, mut b) = ready(&Algorithm::TCP_AO, &Algorithm::TCP_AO);
    let loses = b.offer(connection(), Role::Server, KeyId(140)).unwrap();
    settle(&mut a, &mut b).unwrap();
    assert_eq!(offered(&mut a), Some(loses));
    let wins = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
    assert!(a.accept(loses, KeyId(131)).unwrap().is_none(), "it is over");
    settle(&mut a, &mut b).unwrap();
    assert_eq!(refused(&mut b), Some((loses, Refusal::Collision)));
    assert_eq!(offered(&mut b), Some(wins));
}

#[test]
fn offers_for_different_connections_are_no_collision() {
    let (mut a, mut b) = ready(&Algorithm::TCP_AO, &Algorithm::TCP_AO);
    let later = Connection { client_isn: Isn(2), ..connection() };
    a.offer(connection(), Role::Client, KeyId(130)).unwrap();
    b.offer(later, Role::Server, KeyId(140)).unwrap();
    settle(&mut a, &mut b).unwrap();
    assert!(offered(&mut a).is_some() && offered(&mut b).is_some());
}

#[test]
fn offers_that_nobody_answers_are_bounded() {
    let (mut a, mut b) = ready(&Algorithm::TCP_AO, &Algorithm::TCP_AO);
    let numbered = |number: u32| Connection { client_isn: Isn(number), ..connection() };
    for number in 0..MAX_OPEN as u32 + 10 {
        a.offer(numbered(number), Role::Client, KeyId(130)).unwrap();
    }
    assert_eq!(a.offered.len(), MAX_OPEN);
    settle(&mut a, &mut b).unwrap();
    assert_eq!(b.asked.len(), MAX_OPEN);
    let busy: Vec<_> = std::iter::from_fn(|| refused(&mut a)).collect();
    assert_eq!(
        busy,
        (MAX_OPEN as u32 + 1..=MAX_OPEN as u32 + 10).map(|id| (id, Refusal::Busy)).collect::<Vec<_>>()
    );
    // One that was answered, and does not go on, makes room.
    b.events.clear();
    b.accept(20, KeyId(140)).unwrap().unwrap();
    let last = a.offer(numbered(u32::MAX), Role::Client, KeyId(130)).unwrap();
    settle(&mut a, &mut b).unwrap();
    assert_eq!(offered(&mut b), Some(last));
    assert!(!b.asked.contains_key(&20) && b.asked.len() == MAX_OPEN);
    // Its end is no fault of the offerer.
    a.confirm(20).unwrap();
    settle(&mut a, &mut b).unwrap();
    assert!(b.next_event().is_none());
}

#[test]
fn what_is_out_of_order_ends_the_channel() {
    let told = || Message::Capabilities(capabilities(&Algorithm::TCP_AO));
    let confirmation = [0; 32];
    let accept = |id| {
        let (recv_id, nonce, algorithm) = (KeyId(128), [0; 16], "hmac-sha-1-96".to_owned());
        Message::Accept(Accept { id, recv_id, nonce, algorithm, confirmation })
    };
    let offer = |id| {
        let (role, recv_id, tcp_options) = (Role::Client, KeyId(128), TcpOptions::Include);
        Message::Offer(Offer { id, connection: connection(), role, recv_id, tcp_options, nonce: [0; 16] })
    };
    let order = ExchangeError::Order;
    for (messages, error) in [
        (vec![offer(1)], order.clone()),
        (vec![Message::Done { id: 1 }], order.clone()),
        (vec![told(), told()], order.clone()),
        (vec![told(), offer(0)], order.clone()),
        (vec![told(), offer(2), offer(2)], order.clone()),
        (vec![told(), offer(2), offer(1)], order.clone()),
        (vec![told(), offer(1), Message::Confirm { id: 1, confirmation }], order.clone()),
        (vec![told(), Message::Done { id: 1 }], order),
        (vec![told(), Message::Done { id: 0 }], ExchangeError::UnknownOffer(0)),
        (vec![told(), accept(2)], ExchangeError::UnknownOffer(2)),
        (vec![told(), Message::Done { id: 2 }], ExchangeError::UnknownOffer(2)),
        (vec![told(), Message::Refuse { id: 2, reason: Refusal::Busy }], ExchangeError::UnknownOffer(2)),
        (vec![told(), Message::Confirm { id: 1, confirmation }], ExchangeError::UnknownOffer(1)),
    ] {
        let mut end = end(&Algorithm::TCP_AO);
        assert_eq!(end.offer(connection(), Role::Server, KeyId(128)), Ok(1));
        let octets: Vec<_> = messages.iter().flat_map(|message| message.encode().unwrap()).collect();
        assert_eq!(end.receive(&octets), Err(error.clone()), "{messages:?}");
        assert_eq!(end.receive(&[]), Err(error));
    }
    let mut end = end(&Algorithm::TCP_AO);
    let garbage = [&told().encode().unwrap()[..], &[9, 0, 0]].concat();
    assert_eq!(end.receive(&garbage), Err(ExchangeError::Peers(MessageError::UnknownType(9))));
}

#[test]
fn a_peer_of_a_higher_version_may_say_more() {
    let told = Message::Capabilities(Capabilities { version: 2, ..capabilities(&Algorithm::TCP_AO) });
    let mut end = end(&Algorithm::TCP_AO);
    end.receive(&[&told.encode().unwrap()[..], &[9, 0, 2, 1, 1]].concat()).unwrap();
    assert!(matches!(end.next_event(), Some(Event::Ready { .. })) && end.next_event().is_none());
}

#[test]
fn what_came_before_the_peers_farewell_is_heard() {
    let mut end = end(&Algorithm::TCP_AO);
    end.transport.closed = true;
    let told = Message::Capabilities(capabilities(&Algorithm::TCP_AO)).encode().unwrap();
    assert_eq!(end.receive(&told), Err(ExchangeError::Closed));
    assert!(matches!(end.next_event(), Some(Event::Ready { .. })));
}

#[test]
fn no_answer_goes_out_of_turn() {
    let (mut a, mut b) = ready(&Algorithm::TCP_AO, &Algorithm::TCP_AO);
    let id = a.offer(connection(), Role::Client, KeyId(130)).unwrap();
    a.confirm(id).unwrap();
    settle(&mut a, &mut b).unwrap();
    offered(&mut b).unwrap();
    b.done(id).unwrap();
    b.accept(id, KeyId(140)).unwrap().unwrap();
    b.done(id).unwrap();
    assert!(b.accept(id, KeyId(141)).unwrap().is_none(), "only once");
    settle(&mut a, &mut b).unwrap();
    assert!(accepted(&mut a).is_some() && a.next_event().is_none());
    assert!(b.next_event().is_none());
    assert!(a.offer(connection(), Role::Client, KeyId(127)).is_err(), "such a KeyID is not for agreed keys");
}
