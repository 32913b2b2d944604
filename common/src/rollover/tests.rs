//! Two ends change keys, each at its own pace, over a wire that reorders, duplicates and loses.

use proptest::prelude::*;

use super::*;
use crate::{
    Algorithm, DropReason, Isn, SeqNumber,
    key_choice::candidates,
    layout::{KeyChange, Quartet, Session, SynKey},
};

/// Keys come one after the other; the number is the secret too.
type Key = u32;

/// How the wire tells the keys apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    /// Each key has a KeyID of its own.
    Apart,
    /// Every two keys share one.
    Pairs,
    /// All share one.
    Shared,
    /// There is none (TCP-MD5).
    Md5,
}

impl Wire {
    const fn id(self, key: Key) -> KeyId {
        match self {
            Self::Apart => KeyId(key as u8),
            Self::Pairs => KeyId(key as u8 / 2),
            Self::Shared | Self::Md5 => KeyId(7),
        }
    }

    fn algorithm(self) -> Algorithm {
        if self == Self::Md5 { Algorithm::Md5 } else { Algorithm::HmacSha1_96 }
    }

    /// Whether the wire cannot say that `key` is wanted instead of the one before: somebody has to begin.
    fn needs_a_roll(self, key: Key) -> bool {
        key > 0 && self.id(key) == self.id(key - 1)
    }
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    begin: ExtendedSeq,
    key: Key,
    key_id: KeyId,
    rnext: KeyId,
}

/// How far management goes with a key that a newer one replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retire {
    /// It is removed.
    Yes,
    /// It stays, until there is no room: the ends have to find to the newer one by themselves.
    No,
}

/// One end: what management knows, what the programs know, and its stream.
struct End {
    wire: Wire,
    rolls: bool,
    retire: Retire,
    session: Session,
    /// The keys that it has, the oldest first.
    keys: Vec<Key>,
    preferred: Key,
    /// Management's next step: add, prefer, retire, for each key.
    next_step: u32,
    next: u64,
    /// What it sent and the other has not got.
    missing: Vec<(u64, u64)>,
    /// Where keys first verified new data, as an observer sees it.
    switched: Vec<(Key, u64)>,
}

const LAST: Key = 4;
const STEPS: u32 = LAST * 3;

impl End {
    fn new(wire: Wire, rolls: bool, retire: Retire, [isn, peer_isn]: [u32; 2]) -> Self {
        let mut session = Session {
            flags: Session::LOCAL_ISN | Session::PEER_ISN,
            local_isn: Isn(isn),
            peer_isn: Isn(peer_isn),
            recv_seq: peer_isn.into(),
            ..Session::default()
        };
        session.slots[0] = slot(wire, 0);
        session.slots[0].flags = KeySlot::SEND | KeySlot::ACCEPT;
        session.rollover = Rollover { order: NO_ORDER & !3, current: 0, rnext: 0, ..Rollover::default() };
        let next = u64::from(isn) + 1;
        Self {
            wire,
            rolls,
            retire,
            session,
            keys: vec![0],
            preferred: 0,
            next_step: 0,
            next,
            missing: vec![],
            switched: vec![],
        }
    }

    fn manage(&mut self) {
        if self.next_step == STEPS {
            return;
        }
        let key = self.next_step / 3 + 1;
        let mut flags = 0;
        match self.next_step % 3 {
            0 => {
                // No room: the oldest goes, whatever the other end still uses.
                if self.keys.len() == MAX_KEYS {
                    self.keys.remove(0);
                }
                self.keys.push(key);
            }
            1 => {
                self.preferred = key;
                if self.rolls && self.wire.needs_a_roll(key) {
                    flags = KeyChange::MOVE_CURRENT;
                }
            }
            _ if self.retire == Retire::Yes => self.keys.retain(|had| *had >= key),
            _ => {}
        }
        self.next_step += 1;
        self.rekey(flags);
    }

    /// As the daemon does: keys that are there stay in their slots, a new one takes a free slot.
    fn rekey(&mut self, flags: u32) {
        let before = self.session.slots;
        let has =
            |key: &Key| before.iter().position(|slot| slot.algorithm != 0 && slot.send.words[0] == *key);
        let mut free: Vec<usize> = (0..MAX_KEYS)
            .filter(|at| before[*at].algorithm == 0 || !self.keys.contains(&before[*at].send.words[0]))
            .collect();
        let mut change = KeyChange {
            quartet: Quartet::default(),
            local_isn: self.session.local_isn,
            peer_isn: self.session.peer_isn,
            written: 0,
            order: 0,
            rnext: NO_SLOT,
            current: NO_SLOT,
            flags,
            neighbor: self.session.neighbor,
            usable: [0; MAX_KEYS],
            reserved: 0,
            phase: 0,
            sent_before: 0,
            received_before: 0,
            largest_segment: 0,
            syn_recv_isn: Isn(0),
            syn_recv: SynKey::default(),
            slots: [KeySlot::default(); MAX_KEYS],
        };
        change.order = NO_ORDER;
        for key in &self.keys {
            let at = has(key).unwrap_or_else(|| {
                let at = free.remove(0);
                change.written |= 1 << at;
                change.slots[at] = slot(self.wire, *key);
                at
            });
            change.order = (change.order << 2 | at as u32) & NO_ORDER;
            change.usable[at] = KeySlot::SEND | KeySlot::ACCEPT;
            if *key == self.preferred || change.current == NO_SLOT {
                (change.rnext, change.current) = (at as u32, at as u32);
            }
        }
        assert!(change.is_of(&self.session));
        change.apply(&mut self.session, 1);
    }

    fn key_at(&self, slot: u32) -> Key {
        slot_at(&self.session.slots, slot).expect("a slot").send.words[0]
    }

    fn sign(&self, begin: u64) -> Packet {
        let Session { rollover, slots, .. } = &self.session;
        let sealing = rollover.sealing(slots);
        assert_eq!(sealing, rollover.current, "the current key may be sent with");
        let slot = slot_at(slots, sealing).expect("there is always a key to send with");
        let (key, key_id, rnext) = (slot.send.words[0], slot.send_id, rollover.rnext_id(slots, sealing));
        Packet { begin: ExtendedSeq(begin), key, key_id, rnext }
    }

    fn send(&mut self, len: u64) -> Packet {
        let packet = self.sign(self.next);
        if len > 0 {
            self.missing.push((self.next, len));
        }
        self.next += len;
        packet
    }

    /// As `ingress` does.
    fn receive(&mut self, packet: &Packet) -> Result<(), DropReason> {
        let front = ExtendedSeq(self.session.recv_seq);
        let extended = front.extend(SeqNumber(packet.begin.0 as u32));
        assert_eq!(extended, packet.begin, "the SNE");
        let with_ids = self.wire != Wire::Md5;
        let key_id = with_ids.then_some(packet.key_id);
        let Session { rollover, slots, .. } = &mut self.session;
        let order = candidates(rollover, slots, key_id, self.wire.algorithm().option_len() as u32)?;
        let tried = Rollover { order, ..*rollover };
        let is_under =
            |slot: &u32| slot_at(slots, *slot).is_some_and(|slot| slot.recv.words[0] == packet.key);
        let slot =
            (0..MAX_KEYS as u32).map(|age| tried.newest(age)).find(is_under).ok_or(DropReason::WrongMac)?;
        if !rollover.covers(slot, extended) {
            let is_cut_off = self.switched.iter().any(|(newer, from)| {
                let is_alike = !with_ids || self.wire.id(*newer) == packet.key_id;
                *newer > packet.key && is_alike && *from <= packet.begin.0
            });
            assert!(is_cut_off, "{packet:?} is refused, and nothing newer has verified before it");
            return Err(DropReason::OldKey);
        }
        rollover.on_verified(slots, slot, with_ids.then_some(packet.rnext), extended, front, 2);
        self.session.recv_seq = front.advanced_to(extended).0;
        for (newer, from) in &self.switched {
            let is_alike = self.wire == Wire::Md5 || self.wire.id(*newer) == packet.key_id;
            let is_cut_off = *newer > packet.key && is_alike && *from <= packet.begin.0;
            assert!(!is_cut_off, "key {} verified at {from}, {packet:?} after it", newer);
        }
        if packet.begin.0 >= front.0 && self.switched.iter().all(|(key, _)| *key != packet.key) {
            self.switched.push((packet.key, packet.begin.0));
        }
        Ok(())
    }
}

fn slot(wire: Wire, key: Key) -> KeySlot {
    let mut slot = KeySlot {
        algorithm: wire.algorithm() as u8,
        send_id: wire.id(key),
        recv_id: wire.id(key),
        ..KeySlot::default()
    };
    (slot.send.words[0], slot.recv.words[0]) = (key, key);
    slot
}

/// What happens next, at the first end or the other, or on the way from it.
#[derive(Clone, Copy, Debug)]
enum Event {
    Manage,
    Send(u64),
    Retransmit(prop::sample::Index),
    Arrive(prop::sample::Index),
    ArriveAndStay(prop::sample::Index),
    Lose(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Manage),
        4 => prop_oneof![Just(0u64), 1u64..1500].prop_map(Event::Send),
        2 => any::<prop::sample::Index>().prop_map(Event::Retransmit),
        6 => any::<prop::sample::Index>().prop_map(Event::Arrive),
        1 => any::<prop::sample::Index>().prop_map(Event::ArriveAndStay),
        1 => any::<prop::sample::Index>().prop_map(Event::Lose),
    ]
}

/// Both ends, and what is under way from each.
struct World {
    ends: [End; 2],
    way: [Vec<Packet>; 2],
}

impl World {
    fn happen(&mut self, from: usize, event: Event) {
        let way = &mut self.way[from];
        match event {
            Event::Manage => self.ends[from].manage(),
            Event::Send(len) => way.push(self.ends[from].send(len)),
            Event::Retransmit(which) => {
                if !self.ends[from].missing.is_empty() {
                    let (begin, _) = *which.get(&self.ends[from].missing);
                    way.push(self.ends[from].sign(begin));
                }
            }
            Event::Lose(which) if !way.is_empty() => {
                way.remove(which.index(way.len()));
            }
            Event::Arrive(which) if !way.is_empty() => {
                let packet = way.remove(which.index(way.len()));
                let _ = self.arrive(from, &packet);
            }
            Event::ArriveAndStay(which) if !way.is_empty() => {
                let packet = *which.get(way);
                let _ = self.arrive(from, &packet);
            }
            Event::Lose(_) | Event::Arrive(_) | Event::ArriveAndStay(_) => {}
        }
    }

    fn arrive(&mut self, from: usize, packet: &Packet) -> Result<(), DropReason> {
        self.ends[1 - from].receive(packet)?;
        self.ends[from].missing.retain(|(begin, _)| *begin != packet.begin.0);
        Ok(())
    }

    /// Both ends come to the last key, and what is missing is sent again, as TCP does; nothing is lost any more.
    fn settle(&mut self) {
        for from in [0, 1] {
            for _ in 0..STEPS {
                self.ends[from].manage();
            }
        }
        for _ in 0..4 {
            for from in [0, 1] {
                // What was under way comes late.
                for packet in std::mem::take(&mut self.way[from]) {
                    let _ = self.arrive(from, &packet);
                }
                for (begin, _) in self.ends[from].missing.clone() {
                    let packet = self.ends[from].sign(begin);
                    let _ = self.arrive(from, &packet);
                }
                let news = self.ends[from].send(100);
                let _ = self.arrive(from, &news);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_of_two_ends_loses_a_segment_or_accepts_one_too_late(
        wire in prop_oneof![Just(Wire::Apart), Just(Wire::Pairs), Just(Wire::Shared), Just(Wire::Md5)],
        who_rolls in 1usize..4,
        retire in prop_oneof![Just(Retire::Yes), Just(Retire::No)],
        // Far from a wrap, or so near that it comes while keys change.
        isns in prop_oneof![Just([1000u32, 2000]), any::<u16>().prop_map(|near| [u32::MAX - u32::from(near), u32::MAX - 10])],
        events in proptest::collection::vec((0usize..2, event()), 0..300),
    ) {
        let [a, b] = isns;
        let ends = [End::new(wire, who_rolls & 1 != 0, retire, [a, b]), End::new(wire, who_rolls & 2 != 0, retire, [b, a])];
        let mut world = World { ends, way: [vec![], vec![]] };
        for (from, event) in events {
            world.happen(from, event);
        }
        world.settle();
        for end in &world.ends {
            prop_assert_eq!(&end.missing, &vec![], "lost for good");
            let rollover = &end.session.rollover;
            prop_assert_eq!((end.key_at(rollover.current), end.key_at(rollover.received)), (LAST, LAST));
        }
    }
}
