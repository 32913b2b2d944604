use std::collections::BTreeMap;

use proptest::prelude::*;
use tcpauth_common::{
    Algorithm, Isn, SeqNumber,
    key_choice::flag::{ACK, FIN, RST},
    layout::Session,
    phase::{self, Arriving},
};
use zeroize::Zeroizing;

use super::*;
use crate::{
    config::{Authentication, Tls},
    keys::MasterKey,
    kmp::{ExchangeError, Psk, Refusal, Side, stream::Clock, tls::suites},
};

const CLIENT: usize = 0;
const SERVER: usize = 1;

fn connection() -> Connection {
    Connection {
        client: ([192, 0, 2, 1], 40000).into(),
        server: ([192, 0, 2, 2], 179).into(),
        client_isn: Isn(0xffff_ff80),
        server_isn: Some(Isn(77)),
    }
}

/// Our end of a session, as the data plane has it.
struct End {
    handshake: Handshake,
    session: Session,
    /// What was agreed, once it is in the session.
    agreed: Option<Box<Agreed>>,
    failure: Option<Failure>,
    /// What the data plane gave to our stack.
    to_stack: usize,
}

struct Setting {
    secrets: [&'static str; 2],
    algorithms: [&'static [Algorithm]; 2],
    /// As the server sees it.
    connection: Connection,
}

impl Default for Setting {
    fn default() -> Self {
        Self { secrets: ["secret"; 2], algorithms: [&Algorithm::TCP_AO; 2], connection: connection() }
    }
}

fn ends(setting: &Setting, now: Instant) -> [End; 2] {
    [(CLIENT, Role::Client, Side::Client), (SERVER, Role::Server, Side::Server)].map(|(index, role, side)| {
        let authentication = Authentication::Psk { identity: None, peer_identity: None, rsa: None };
        let tls = Tls { authentication, suites: suites::DEFAULT.to_vec() };
        let secret = MasterKey::new(Zeroizing::new(setting.secrets[index].as_bytes().to_vec())).unwrap();
        let names = ["192.0.2.1".to_owned(), "192.0.2.2".to_owned()];
        let psk = Psk { identity: names[index].clone(), peer_identity: names[1 - index].clone(), secret };
        let endpoint = Endpoint::new(side, &tls, &psk).unwrap();
        let capabilities = Capabilities::ours(setting.algorithms[index], Duration::from_secs(3600));
        let exchange = Exchange::new(endpoint, capabilities);
        let isns = [Isn(0xffff_ff80), Isn(77)];
        let (local_isn, peer_isn) = (isns[index], isns[1 - index]);
        let clock = Some(Clock { value: 1000, at: now, echo: 2000 });
        let origin = Origin { local_isn, peer_isn, window: 128, clock };
        let connection = if role == Role::Server { setting.connection } else { connection() };
        let flags = Session::LOCAL_ISN | Session::PEER_ISN;
        End {
            handshake: Handshake::new(connection, role, KeyId(130 + index as u8), origin, exchange, now),
            session: Session { flags, local_isn, peer_isn, phase: Session::HANDSHAKE, ..Session::default() },
            agreed: None,
            failure: None,
            to_stack: 0,
        }
    })
}

impl End {
    /// Does what the handshake asks for: what it sends, in order, each with the phase in which it was sent.
    fn act(&mut self) -> Vec<(Segment, u32)> {
        let mut sent = Vec::new();
        while let Some(action) = self.handshake.next_action() {
            match action {
                Action::Send(segment) => sent.push((segment, self.session.phase)),
                Action::Switch(agreed, offsets) => self.install(agreed, offsets, Session::SWITCHING),
                Action::Open(agreed, offsets) => self.install(agreed, offsets, Session::OPEN),
                Action::Fail(failure) => {
                    self.session.phase = Session::FAILED;
                    (self.session.sent_before, self.session.received_before) = (0, 0);
                    if failure != Failure::Stream(StreamError::Reset) {
                        sent.push((self.handshake.reset(), self.session.phase));
                    }
                    self.failure = Some(failure);
                }
            }
        }
        sent
    }

    fn install(&mut self, agreed: Box<Agreed>, offsets: Offsets, phase: u32) {
        assert!(self.agreed.is_none() && self.session.phase == Session::HANDSHAKE);
        self.agreed = Some(agreed);
        (self.session.sent_before, self.session.received_before) = (offsets.sent, offsets.received);
        self.session.phase = phase;
    }

    /// What the data plane does with a segment that verified: under the agreed key if it is of the peer's stack.
    fn arrive(&mut self, segment: &Segment, is_of_stack: bool, now: Instant) {
        let (seq, ack) = (SeqNumber(segment.seq), SeqNumber(segment.ack));
        let slot = if is_of_stack { self.session.rollover.newest(0) } else { 0 };
        match phase::arriving(&self.session, segment.flags, seq, ack, segment.data.len() as u32, slot) {
            Arriving::Passes(_) | Arriving::Opens(_) if segment.flags & RST != 0 => {
                self.session.phase = Session::FAILED;
                self.failure.get_or_insert(StreamError::Reset.into());
            }
            Arriving::Passes(_) => self.to_stack += 1,
            Arriving::Opens(_) => {
                self.to_stack += 1;
                self.session.phase = Session::OPEN;
            }
            Arriving::IsOfDaemon => self.handshake.on_segment(segment, now),
            Arriving::Refused => {}
        }
    }

    fn on_time(&mut self, now: Instant) {
        if self.handshake.is_switched() && self.session.phase == Session::OPEN {
            self.handshake.opened();
        } else if self.handshake.next_due().is_some_and(|due| due <= now) {
            self.handshake.on_time(now);
        }
    }

    /// The first octet of our stack, on the wire.
    fn of_stack(&self) -> Segment {
        Segment {
            seq: self.session.local_isn.0.wrapping_add(1).wrapping_add(self.session.sent_before),
            ack: self.session.peer_isn.0.wrapping_add(1).wrapping_add(self.session.received_before),
            flags: ACK,
            window: 500,
            timestamps: None,
            data: b"B".to_vec(),
        }
    }
}

/// What a network does to a segment.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Passed(u64),
    Twice(u64, u64),
    /// So many octets of its data are left.
    Truncated(usize),
    /// One octet of its data is another.
    Garbled(usize),
}

impl Fate {
    fn apply(self, segment: &Segment) -> Vec<(u64, Segment)> {
        let mut segment = segment.clone();
        match self {
            Self::Lost => vec![],
            Self::Passed(delay) => vec![(delay, segment)],
            Self::Twice(first, second) => vec![(first, segment.clone()), (second, segment)],
            Self::Truncated(len) => {
                segment.data.truncate(len);
                vec![(1, segment)]
            }
            Self::Garbled(at) => {
                let len = segment.data.len().max(1);
                if let Some(octet) = segment.data.get_mut(at % len) {
                    *octet ^= 0x10;
                }
                vec![(1, segment)]
            }
        }
    }
}

/// Runs to the end, over a network that treats segments by `fates`, and well when those are used up.
fn run(setting: &Setting, fates: &[Fate]) -> [End; 2] {
    let start = Instant::now();
    let mut now = start;
    let mut ends = ends(setting, now);
    let mut fates = fates.iter();
    let mut network: BTreeMap<(Instant, usize), (usize, Segment, bool)> = BTreeMap::new();
    let (mut count, mut speaks_at) = (0, None);
    loop {
        assert!(now - start < Duration::from_secs(60), "no end");
        for from in [CLIENT, SERVER] {
            let mut sent: Vec<(Segment, bool)> =
                ends[from].act().into_iter().map(|(segment, _)| (segment, false)).collect();
            let is_client_open = from == CLIENT && ends[CLIENT].session.phase == Session::OPEN;
            if is_client_open && speaks_at.is_none_or(|at| at <= now) {
                sent.push((ends[CLIENT].of_stack(), true));
                speaks_at = Some(now + Duration::from_millis(300));
            }
            for (segment, is_of_stack) in sent {
                for (delay, segment) in fates.next().unwrap_or(&Fate::Passed(1)).apply(&segment) {
                    count += 1;
                    let at = (now + Duration::from_millis(delay), count);
                    network.insert(at, (1 - from, segment, is_of_stack));
                }
            }
        }
        check_safety(&ends);
        let is_over = |end: &End| matches!(end.session.phase, Session::OPEN | Session::FAILED);
        if ends.iter().all(is_over) {
            return ends;
        }
        let due = ends.iter().filter_map(|end| end.handshake.next_due()).chain(speaks_at);
        let next = network.first_key_value().map(|(key, _)| key.0).into_iter().chain(due).min();
        now = next.expect("something is under way or due").max(now);
        for end in &mut ends {
            end.on_time(now);
        }
        while let Some(entry) = network.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to, segment, is_of_stack) = entry.remove();
            ends[to].arrive(&segment, is_of_stack, now);
        }
    }
}

/// What holds at any moment.
fn check_safety([client, server]: &[End; 2]) {
    // The client may use the keys: the server has the same, and takes what is under them.
    if let Some(agreed) = &client.agreed {
        let theirs = server.agreed.as_ref().expect("the server has no keys yet");
        assert!(agreed.mkt.master_key == theirs.mkt.master_key && agreed.connection == theirs.connection);
        assert_eq!((agreed.mkt.send_id, agreed.mkt.recv_id), (theirs.mkt.recv_id, theirs.mkt.send_id));
        if server.failure.is_none() {
            assert_eq!(client.session.sent_before, server.session.received_before);
            assert_eq!(client.session.received_before, server.session.sent_before);
        }
    }
    // The server's stack has heard something: the client's stack said it.
    if server.to_stack > 0 && server.failure.is_none() {
        assert!(client.session.phase == Session::OPEN);
    }
}

#[test]
fn both_ends_come_to_the_same_keys() {
    let [client, server] = run(&Setting::default(), &[]);
    assert!(client.agreed.is_some() && server.agreed.is_some());
    assert_eq!((client.session.phase, server.session.phase), (Session::OPEN, Session::OPEN));
    let (peer, tls) = server.handshake.peer().unwrap();
    assert_eq!((tls.peer.as_str(), peer.algorithms.len()), ("192.0.2.1", Algorithm::TCP_AO.len()));
}

#[test]
fn the_order_of_what_is_sent() {
    let now = Instant::now();
    let [mut client, mut server] = ends(&Setting::default(), now);
    let first: Vec<Segment> = client.act().into_iter().map(|(segment, _)| segment).collect();
    assert!(server.act().is_empty(), "the client speaks first");
    assert!(first[0].data.is_empty() && first[0].flags == ACK, "an acknowledgment by itself");
    assert_eq!(first[1].data[0], 22, "a handshake record");
    let mut flight = first;
    let (mut last_of_server, mut round_trips) = (None, 0);
    while client.session.phase == Session::HANDSHAKE {
        round_trips += 1;
        flight.iter().for_each(|segment| server.arrive(segment, false, now));
        let answers = server.act();
        for (segment, phase) in &answers {
            client.arrive(segment, false, now);
            last_of_server = Some((segment.clone(), *phase));
        }
        flight = client.act().into_iter().map(|(segment, _)| segment).collect();
    }
    assert_eq!(round_trips, 3, "hello, offer, confirmation");
    let (go, phase) = last_of_server.unwrap();
    assert_eq!(phase, Session::SWITCHING, "the server says GO when it has switched");
    assert!(!go.data.is_empty() && flight.is_empty(), "the client does not acknowledge GO");
    assert_eq!((server.session.phase, server.to_stack), (Session::SWITCHING, 0));
    // GO once more, lost or not: the server says it until the client's stack speaks.
    let later = server.handshake.next_due().unwrap();
    server.on_time(later);
    assert_eq!(server.act()[0].0.data, go.data);
    server.arrive(&client.of_stack(), true, later);
    assert_eq!((server.session.phase, server.to_stack), (Session::OPEN, 1));
    server.on_time(later);
    assert_eq!(server.handshake.next_due(), None);
}

#[test]
fn failures_say_who_is_at_fault() {
    let failed = |setting: Setting| {
        let ends = run(&setting, &[]);
        ends.map(|end| {
            assert!(end.agreed.is_none() && end.session.phase == Session::FAILED);
            end.failure.unwrap()
        })
    };
    let [client, server] = failed(Setting { secrets: ["one", "other"], ..Setting::default() });
    assert!(matches!(client, Failure::Exchange(ExchangeError::Tls(_))), "{client}");
    assert!(matches!(server, Failure::Exchange(ExchangeError::Tls(_))), "{server}");
    let algorithms: [&[Algorithm]; 2] = [&[Algorithm::HmacSha1_96], &[Algorithm::Aes128Cmac96]];
    let [client, server] = failed(Setting { algorithms, ..Setting::default() });
    assert_eq!(client, Failure::Refused(Refusal::NoCommonAlgorithm));
    assert_eq!(server, Failure::NoCommonAlgorithm);
    let elsewhere = Connection { client: ([198, 51, 100, 1], 40000).into(), ..connection() };
    let [client, server] = failed(Setting { connection: elsewhere, ..Setting::default() });
    assert_eq!(client, Failure::Refused(Refusal::UnknownConnection));
    assert_eq!(server, Failure::OtherConnection);
}

#[test]
fn a_peer_that_takes_no_part() {
    let start = Instant::now();
    for (index, silence, bgp) in
        [(CLIENT, Failure::NoAnswer, Failure::Bgp), (SERVER, Failure::NoClientHello, Failure::Bgp)]
    {
        let [client, server] = ends(&Setting::default(), start);
        let mut end = if index == CLIENT { client } else { server };
        end.act();
        let mut now = start;
        while let Some(due) = end.handshake.next_due() {
            now = due;
            end.handshake.on_time(now);
            end.act();
        }
        assert_eq!((end.failure, now - start), (Some(silence), DEADLINE));

        let [client, server] = ends(&Setting::default(), start);
        let (mut end, other) = if index == CLIENT { (client, server) } else { (server, client) };
        end.act();
        let open = Segment { data: [0xff; 29].to_vec(), ..other.of_stack() };
        end.arrive(&open, false, start);
        let sent = end.act();
        assert_eq!(end.failure, Some(bgp));
        assert_eq!(sent.last().unwrap().0.flags & RST, RST);

        for (flags, error) in [(RST, StreamError::Reset), (FIN | ACK, StreamError::Closed)] {
            let [client, server] = ends(&Setting::default(), start);
            let (mut end, other) = if index == CLIENT { (client, server) } else { (server, client) };
            end.act();
            end.arrive(&Segment { flags, data: Vec::new(), ..other.of_stack() }, false, start);
            let sent = end.act();
            assert_eq!(end.failure, Some(Failure::Stream(error)));
            assert_eq!(sent.iter().any(|(segment, _)| segment.flags & RST != 0), flags & RST == 0);
        }
    }
}

#[test]
fn a_client_that_never_uses_the_keys() {
    let start = Instant::now();
    let [mut client, mut server] = ends(&Setting::default(), start);
    let mut now = start;
    while server.handshake.next_due().is_some() {
        for (segment, _) in client.act() {
            server.arrive(&segment, false, now);
        }
        for (segment, _) in server.act() {
            client.arrive(&segment, false, now);
        }
        if let Some(due) = server.handshake.next_due().filter(|_| client.session.phase == Session::OPEN) {
            now = due;
            server.on_time(now);
            server.act();
        }
    }
    assert_eq!((server.failure, now - start), (Some(Failure::NotUsed), 2 * DEADLINE));
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Lost),
        10 => (0u64..30).prop_map(Fate::Passed),
        3 => (0u64..30, 0u64..500).prop_map(|(first, second)| Fate::Twice(first, second)),
        2 => (0usize..400).prop_map(Fate::Truncated),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_messages_both_ends_have_the_same_keys(
        fates in prop::collection::vec(fate(), 0..40),
    ) {
        let [client, server] = run(&Setting::default(), &fates);
        let phases = (client.session.phase, server.session.phase);
        // Loss alone fails nothing but what it keeps back for ten seconds.
        let late = [&client, &server].map(|end| end.failure.clone());
        let is_in_time = late.iter().all(Option::is_none);
        prop_assert_eq!(phases == (Session::OPEN, Session::OPEN), is_in_time, "{:?} {:?}", phases, late);
        if fates.len() < 20 {
            prop_assert!(is_in_time, "{:?}", late);
        }
    }

    #[test]
    fn garbled_messages_come_to_nothing(
        fates in prop::collection::vec(fate(), 0..12), at in 0usize..900, more in prop::collection::vec(fate(), 0..12),
    ) {
        let fates: Vec<Fate> = [&fates[..], &[Fate::Garbled(at)], &more[..]].concat();
        let [client, server] = run(&Setting::default(), &fates);
        // An acknowledgment has nothing that could be garbled, and what is sent again may come first.
        let is_open = |end: &End| end.session.phase == Session::OPEN && end.agreed.is_some();
        let failures = [&client, &server].map(|end| end.failure.as_ref());
        prop_assert_eq!(is_open(&client), is_open(&server), "{:?}", failures);
    }
}
