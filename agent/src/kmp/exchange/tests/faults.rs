//! Messages that are lost, repeated, reordered, cut or changed between the two ends. (What goes back to its sender is
//! TLS's affair: its two directions have keys of their own.)

use super::*;

/// What becomes of a message.
#[derive(Clone, Debug)]
enum Fault {
    None,
    Dropped,
    Repeated,
    /// Behind the next.
    Late,
    Cut(prop::sample::Index),
    Changed(prop::sample::Index, u8),
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        12 => Just(Fault::None),
        1 => Just(Fault::Dropped),
        1 => Just(Fault::Repeated),
        1 => Just(Fault::Late),
        1 => at().prop_map(Fault::Cut),
        2 => (at(), 1u8..).prop_map(|(at, bits)| Fault::Changed(at, bits)),
    ]
}

/// What an end begins by itself.
#[derive(Clone, Debug)]
enum Act {
    Offer { from: usize, of: u32, role: Role },
    Refuse { from: usize, reason: Refusal },
    Deliver,
}

fn any_act() -> impl Strategy<Value = Act> {
    let role = || select(vec![Role::Client, Role::Server]);
    prop_oneof![
        4 => (0usize..2, 0u32..3, role()).prop_map(|(from, of, role)| Act::Offer { from, of, role }),
        1 => (0usize..2, select(&Refusal::ALL[..])).prop_map(|(from, reason)| Act::Refuse { from, reason }),
        5 => Just(Act::Deliver),
    ]
}

/// Two ends and the way between them.
struct Pair {
    ends: [End; 2],
    /// What is on the way to each end, a message each.
    to: [VecDeque<Vec<u8>>; 2],
    faults: VecDeque<Fault>,
    /// Keys of the offers of each end, at the offerer and at the accepter.
    keys: [BTreeMap<u32, [Option<Agreed>; 2]>; 2],
    failed: [bool; 2],
    done: usize,
}

impl Pair {
    fn new(faults: Vec<Fault>) -> Self {
        let mut ends = [(); 2].map(|()| end(&Algorithm::TCP_AO));
        ends.iter_mut().for_each(|end| end.receive(&[]).unwrap());
        Self {
            ends,
            to: Default::default(),
            faults: faults.into(),
            keys: Default::default(),
            failed: [false; 2],
            done: 0,
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Offer { from, of, role } => {
                let (client, server) = match (from, role) {
                    (0, Role::Client) | (1, Role::Server) => (connection().client, connection().server),
                    _ => (connection().server, connection().client),
                };
                let connection = Connection { client, server, client_isn: Isn(of), server_isn: None };
                let _ = self.ends[from].offer(connection, role, KeyId(130));
            }
            Act::Refuse { from, reason } => {
                let oldest = self.ends[from].asked.keys().next().copied();
                let _ = self.ends[from].refuse(oldest.unwrap_or(1), reason);
            }
            Act::Deliver => self.deliver(),
        }
        self.collect();
    }

    /// A message each way.
    fn deliver(&mut self) {
        self.collect();
        for to in 0..2 {
            let Some(mut octets) = self.to[to].pop_front() else { continue };
            match self.faults.pop_front().unwrap_or(Fault::None) {
                Fault::None => {}
                Fault::Dropped => continue,
                Fault::Repeated => self.to[to].push_front(octets.clone()),
                Fault::Late => {
                    let at = self.to[to].len().min(1);
                    self.to[to].insert(at, octets);
                    continue;
                }
                Fault::Cut(at) => octets.truncate(at.index(octets.len())),
                Fault::Changed(at, bits) => {
                    let at = at.index(octets.len());
                    octets[at] ^= bits;
                }
            }
            self.failed[to] |= self.ends[to].receive(&octets).is_err();
            self.answer(to);
        }
    }

    /// Goes along with everything that the peer wishes.
    fn answer(&mut self, us: usize) {
        while let Some(event) = self.ends[us].next_event() {
            match event {
                Event::Ready { .. } => {}
                Event::Offered { id, .. } => {
                    if let Ok(Some(agreed)) = self.ends[us].accept(id, KeyId(140)) {
                        self.keys[1 - us].entry(id).or_default()[1] = Some(agreed);
                    }
                }
                Event::Accepted { id, agreed } => {
                    let [ours, theirs] = self.keys[us].entry(id).or_default();
                    assert!(
                        theirs.as_ref().is_some_and(|theirs| go_together(&agreed, theirs)),
                        "who accepted it?"
                    );
                    assert!(ours.replace(agreed).is_none(), "it was accepted before");
                    let _ = self.ends[us].confirm(id);
                }
                Event::Confirmed { id } => {
                    let [theirs, ours] = &self.keys[1 - us][&id];
                    let (ours, theirs) =
                        (ours.as_ref().unwrap(), theirs.as_ref().expect("the offerer has them"));
                    assert!(go_together(ours, theirs));
                    let _ = self.ends[us].done(id);
                }
                Event::Done { id } => {
                    assert!(self.keys[us][&id].iter().all(Option::is_some));
                    self.done += 1;
                }
                Event::Refused { .. } => {}
            }
        }
    }

    /// Puts what the ends say on its way, message by message.
    fn collect(&mut self) {
        for (end, to) in self.ends.iter_mut().zip([1, 0]) {
            let said = end.take_output();
            let mut rest = &said[..];
            while let Some((raw, after)) = Raw::split(rest).unwrap() {
                self.to[to].push_back(raw.octets.to_vec());
                rest = after;
            }
            assert!(rest.is_empty(), "what an end says is messages");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn whatever_befalls_messages_keys_that_both_take_for_agreed_are_the_same(
        faults in prop::collection::vec(any_fault(), 0..40),
        acts in prop::collection::vec(any_act(), 1..40),
    ) {
        let mut pair = Pair::new(faults);
        acts.iter().for_each(|act| pair.act(act));
        for _ in 0..200 {
            pair.deliver();
        }
    }

    #[test]
    fn without_faults_every_offer_comes_to_its_end(acts in prop::collection::vec(any_act(), 1..40)) {
        let mut pair = Pair::new(Vec::new());
        acts.iter().for_each(|act| pair.act(act));
        for _ in 0..400 {
            pair.deliver();
        }
        prop_assert_eq!(pair.failed, [false; 2]);
        prop_assert!(pair.to.iter().all(VecDeque::is_empty), "it goes quiet");
        for end in &pair.ends {
            prop_assert!(end.offered.is_empty() && end.asked.is_empty(), "nothing is left open");
        }
        let is_refused = acts.iter().any(|act| matches!(act, Act::Refuse { .. }));
        let is_offered = acts.iter().any(|act| matches!(act, Act::Offer { .. }));
        prop_assert!(is_refused || !is_offered || pair.done > 0, "of rivals one wins");
    }
}
