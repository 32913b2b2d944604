//! Several keys in a session: which one seals, which ones are tried, and what a verified segment moves.

use tcpauth::keys::{Mkt, TcpOptions};
use tcpauth_common::{
    Algorithm, DropReason, KeyId,
    key_choice::flag,
    layout::{Direction, KeySlot, MAX_KEYS, Session},
    rollover::{NO_CUTOFF, NO_SLOT, Rollover},
};

use super::{
    connection::{ACK, Connection, LOCAL_ISN, PEER_ISN, PSH_ACK, SYN, SYN_ACK, mkt, order},
    context::Context,
    lab::Lab,
    segment::Segment,
};

/// A session that is under `keys`, the newest first in slot 0; the oldest seals and is asked for.
struct Keyed {
    connection: Connection,
    keys: Vec<Mkt>,
    session: Session,
    lab: Lab,
}

impl Keyed {
    fn new(keys: Vec<Mkt>) -> Self {
        let connection = Connection::plain();
        let mut session = Session { local_window: 1 << 20, ..connection.session() };
        session.slots = Default::default();
        for (slot, key) in keys.iter().enumerate() {
            session.slots[slot] = connection.slot(key, LOCAL_ISN, PEER_ISN);
        }
        let slots: Vec<u32> = (0..keys.len() as u32).collect();
        let oldest = slots.last().copied().unwrap_or(NO_SLOT);
        session.rollover =
            Rollover { order: order(&slots), current: oldest, rnext: oldest, ..Rollover::default() };
        let lab = Lab::with(&connection, Some(&session));
        Self { connection, keys, session, lab }
    }

    /// Puts the session back as it was, changed.
    fn with(&mut self, change: impl FnOnce(&mut Session)) -> &mut Self {
        let mut session = self.session;
        change(&mut session);
        self.lab.put(&self.connection, &session);
        self
    }

    fn rollover(&self) -> Rollover {
        self.lab.session(&self.connection).unwrap().rollover
    }

    /// A segment of the neighbour under the key in `slot`, with this RNextKeyID.
    fn under(&self, slot: usize, rnext: u8, flags: u8, seq: u32) -> Segment {
        let mut key = self.keys[slot].clone();
        key.send_id = KeyId(rnext);
        let data = if flags == PSH_ACK { vec![3; 200] } else { vec![] };
        let segment = Segment { data, ..self.connection.inbound(flags, seq) };
        self.connection.under(&key).sign(&self.session.slots[slot].recv, segment, 0)
    }

    fn verified(&mut self, slot: usize, rnext: u8, seq: u32) {
        let segment = self.under(slot, rnext, PSH_ACK, seq);
        self.lab.verified(&segment);
    }

    fn refused(&mut self, segment: &Segment, reason: DropReason) {
        let frame = segment.frame();
        self.lab.expect_drop(&self.connection, Direction::Inbound, Context::default(), &frame, reason);
    }

    /// KeyID and RNextKeyID that a segment of ours leaves with; its MAC has to be that of the key in `slot`.
    fn sealed_under(&mut self, slot: usize) -> (u8, u8) {
        let sealed = self.lab.sealed(&self.connection.outbound(ACK, LOCAL_ISN + 1));
        let (key_id, rnext) = (sealed.options[2], sealed.options[3]);
        let mut key = self.keys[slot].clone();
        (key.send_id, key.recv_id) = (KeyId(key_id), KeyId(rnext));
        assert!(self.connection.under(&key).accepts(&self.session.slots[slot].send, &sealed, 0));
        (key_id, rnext)
    }

    fn not_sealed(&mut self, reason: DropReason) {
        let frame = self.connection.outbound(ACK, LOCAL_ISN + 1).frame();
        self.lab.expect_drop(&self.connection, Direction::Outbound, Context::default(), &frame, reason);
    }
}

/// Keys with KeyIDs of their own, the newest first: we send with 13, 12, 11 and accept 23, 22, 21.
fn apart(count: u8) -> Vec<Mkt> {
    (1..=count).rev().map(|number| of_ids(Algorithm::HmacSha1_96, number, 10 + number, 20 + number)).collect()
}

/// Keys that have the same KeyIDs.
fn alike(algorithms: &[Algorithm]) -> Vec<Mkt> {
    algorithms
        .iter()
        .enumerate()
        .map(|(number, algorithm)| of_ids(*algorithm, number as u8, 10, 20))
        .collect()
}

fn of_ids(algorithm: Algorithm, number: u8, send_id: u8, recv_id: u8) -> Mkt {
    mkt(algorithm, TcpOptions::Include, &[b's', number], send_id, recv_id)
}

const SHA1: Algorithm = Algorithm::HmacSha1_96;
const FIRST: u32 = PEER_ISN + 1;

#[test]
fn the_current_key_seals_and_the_preferred_one_is_asked_for() {
    let mut keyed = Keyed::new(apart(3));
    for current in 0..3 {
        for rnext in 0..3 {
            keyed.with(|session| (session.rollover.current, session.rollover.rnext) = (current, rnext));
            let ids = keyed.sealed_under(current as usize);
            assert_eq!(ids, (13 - current as u8, 23 - rnext as u8));
        }
        keyed.with(|session| (session.rollover.current, session.rollover.rnext) = (current, NO_SLOT));
        assert_eq!(keyed.sealed_under(current as usize), (13 - current as u8, 23 - current as u8));
    }
}

#[test]
fn options_and_room_are_those_of_the_key_that_seals() {
    let mut keyed = Keyed::new(alike(&[Algorithm::HmacSha256_128, SHA1, Algorithm::Aes128Cmac96]));
    keyed.session.slots[2] = keyed.connection.slot(
        &mkt(Algorithm::Aes128Cmac96, TcpOptions::Exclude, b"other", 10, 20),
        LOCAL_ISN,
        PEER_ISN,
    );
    keyed.keys[2] = mkt(Algorithm::Aes128Cmac96, TcpOptions::Exclude, b"other", 10, 20);
    for slot in 0..3 {
        keyed.with(|session| session.rollover.current = slot);
        assert_eq!(keyed.sealed_under(slot as usize), (10, 20));
        let segment = keyed.under(slot as usize, 10, PSH_ACK, FIRST);
        let options = [&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8][..], &segment.options].concat();
        let key = &keyed.keys[slot as usize];
        let bare = Segment { options: options[..12].to_vec(), ..segment };
        let segment = keyed.connection.under(key).sign(&keyed.session.slots[slot as usize].recv, bare, 0);
        keyed.with(|_| ());
        keyed.lab.verified(&segment);
    }
}

#[test]
fn nothing_is_sealed_with_a_key_that_may_not_be_sent_with() {
    let mut keyed = Keyed::new(apart(2));
    keyed.with(|session| session.slots[1].flags = KeySlot::ACCEPT).not_sealed(DropReason::NoKey);
    keyed.with(|session| session.rollover = Rollover::default()).not_sealed(DropReason::NoKey);
    keyed.with(|session| session.slots = Default::default()).not_sealed(DropReason::NoKey);
    // The preferred key takes the place of one that went while a segment under it was being verified.
    keyed.with(|session| {
        session.slots[1] = KeySlot::default();
        session.rollover.rnext = 0;
    });
    assert_eq!(keyed.sealed_under(0), (12, 22));
}

#[test]
fn a_key_is_found_by_its_key_id() {
    let mut keyed = Keyed::new(apart(3));
    for slot in 0..3 {
        keyed.with(|_| ()).verified(slot, 11, FIRST);
        assert_eq!(keyed.rollover().received, slot as u32);
        let mut segment = keyed.under(slot, 11, PSH_ACK, FIRST);
        segment.options[2] = 24;
        keyed.with(|_| ()).refused(&segment, DropReason::UnknownKeyId);
        segment.options[2] = 20 + (3 - slot as u8) % 3 + 1;
        keyed.with(|_| ()).refused(&segment, DropReason::WrongMac);
    }
}

#[test]
fn keys_that_are_not_accepted_are_not_there() {
    let mut keyed = Keyed::new(apart(2));
    let segment = keyed.under(0, 11, ACK, FIRST);
    keyed.with(|session| session.slots[0].flags = KeySlot::SEND).refused(&segment, DropReason::UnknownKeyId);
    // Filled, but in no order: management is at work on it.
    keyed.with(|session| session.rollover.order = order(&[1])).refused(&segment, DropReason::UnknownKeyId);
    keyed
        .with(|session| session.slots.iter_mut().for_each(|slot| slot.flags = KeySlot::SEND))
        .refused(&segment, DropReason::NoKey);
    keyed.with(|session| session.rollover.order = order(&[])).refused(&segment, DropReason::NoKey);
    keyed.with(|session| session.slots = Default::default()).refused(&segment, DropReason::NoKey);
    keyed.with(|_| ()).lab.verified(&segment);
}

#[test]
fn keys_that_share_an_id_are_tried_the_newest_first() {
    for algorithm in [SHA1, Algorithm::Aes128Cmac96, Algorithm::HmacSha256_96, Algorithm::HmacSha256_128] {
        let mut keyed = Keyed::new(alike(&[algorithm; MAX_KEYS]));
        for slot in 0..MAX_KEYS {
            keyed.with(|_| ()).verified(slot, 10, FIRST);
            assert_eq!(keyed.rollover().received, slot as u32);
            let mut forged = keyed.under(slot, 10, PSH_ACK, FIRST);
            *forged.options.last_mut().unwrap() ^= 1;
            keyed.with(|_| ()).refused(&forged, DropReason::WrongMac);
        }
    }
}

#[test]
fn the_length_of_the_option_tells_keys_apart() {
    let mut keyed = Keyed::new(alike(&[Algorithm::HmacSha256_128, SHA1, Algorithm::HmacSha256_128]));
    for slot in 0..3 {
        keyed.with(|_| ()).verified(slot, 10, FIRST);
        assert_eq!(keyed.rollover().received, slot as u32);
    }
    let mut segment = keyed.under(1, 10, ACK, FIRST);
    let sha1_only = |session: &mut Session| session.rollover.order = order(&[1]);
    let long = keyed.under(0, 10, ACK, FIRST);
    keyed.with(sha1_only).refused(&long, DropReason::WrongLength);
    segment.options = vec![29, 12, 20, 10, 0, 0, 0, 0, 0, 0, 0, 0];
    keyed.with(|_| ()).refused(&segment, DropReason::WrongLength);
    segment.options[2] = 21;
    keyed.with(|_| ()).refused(&segment, DropReason::UnknownKeyId);
}

#[test]
fn agreed_keys_go_on_and_never_back() {
    let mut keyed = Keyed::new(apart(3));
    keyed.with(|session| session.flags |= Session::AGREED);
    let moved = |keyed: &Keyed| (keyed.rollover().received, keyed.rollover().current);
    keyed.verified(1, 12, FIRST + 1000);
    assert_eq!(moved(&keyed), (1, 1));
    let late = keyed.under(2, 11, PSH_ACK, FIRST + 1000);
    keyed.refused(&late, DropReason::OldKey);
    // Sent before, arrived after.
    keyed.verified(2, 11, FIRST + 999);
    keyed.verified(1, 11, FIRST + 1200);
    assert_eq!(moved(&keyed), (1, 1));
    // Who has an older key may be ahead of the peer.
    keyed.verified(0, 13, FIRST + 500);
    assert_eq!(moved(&keyed), (0, 0));
    let late = keyed.under(1, 12, PSH_ACK, FIRST + 1200);
    keyed.refused(&late, DropReason::OldKey);
}

#[test]
fn an_older_key_verifies_what_begins_before_the_switch_only() {
    let mut keyed = Keyed::new(alike(&[SHA1, SHA1]));
    keyed.verified(1, 10, FIRST);
    assert_eq!(keyed.rollover().cutoff, [NO_CUTOFF; 3]);
    keyed.verified(0, 10, FIRST + 1000);
    let rollover = keyed.rollover();
    assert_eq!(rollover.cutoff, [NO_CUTOFF, u64::from(FIRST + 1000), NO_CUTOFF]);
    assert_eq!((rollover.received, rollover.current), (0, 0), "what we send follows");
    assert!(rollover.current_since > 0 && rollover.received_since > 0);
    // Sent before, arrived after.
    keyed.verified(1, 10, FIRST + 999);
    keyed.verified(1, 10, FIRST);
    assert_eq!(keyed.rollover(), rollover);
    for seq in [FIRST + 1000, FIRST + 5000] {
        let late = keyed.under(1, 10, PSH_ACK, seq);
        keyed.refused(&late, DropReason::OldKey);
        let mut forged = late;
        forged.options[4] ^= 1;
        keyed.refused(&forged, DropReason::WrongMac);
    }
    assert_eq!(keyed.rollover(), rollover);
    keyed.verified(0, 10, FIRST + 999);
}

#[test]
fn the_rnext_key_id_moves_the_current_key() {
    let mut keyed = Keyed::new(apart(3));
    let mut seq = FIRST;
    let mut current_after = |slot, rnext| {
        seq += 10;
        keyed.verified(slot, rnext, seq);
        keyed.rollover().current
    };
    assert_eq!(current_after(2, 11), 2);
    assert_eq!(current_after(2, 13), 0, "asked for before it is sent with");
    assert_eq!(current_after(0, 12), 1);
    assert_eq!(current_after(0, 99), 1, "unknown: no action");
    assert_eq!(current_after(0, 11), 2, "it may go back");
    assert_eq!(current_after(1, 13), 0);
    // Only what verifies, and is not from before, moves it.
    let rollover = keyed.rollover();
    assert_eq!((rollover.rnext, rollover.received), (2, 1));
    let mut forged = keyed.under(2, 11, PSH_ACK, seq + 10);
    forged.options[5] ^= 1;
    keyed.refused(&forged, DropReason::WrongMac);
    keyed.verified(2, 11, seq - 5);
    assert_eq!(keyed.rollover(), rollover);
    assert_eq!(keyed.rollover().cutoff, [NO_CUTOFF; 3], "KeyIDs tell them apart");
}

#[test]
fn a_key_that_may_not_be_sent_with_is_not_moved_to() {
    let mut keyed = Keyed::new(apart(2));
    keyed.with(|session| session.slots[0].flags = KeySlot::ACCEPT).verified(1, 12, FIRST);
    assert_eq!(keyed.rollover().current, 1);
    let mut keyed = Keyed::new(alike(&[SHA1, SHA1]));
    keyed.with(|session| session.slots[0].flags = KeySlot::ACCEPT).verified(0, 10, FIRST);
    assert_eq!((keyed.rollover().current, keyed.rollover().received), (1, 0));
}

#[test]
fn the_peers_syn_is_under_its_own_key_and_moves_none() {
    let mut keyed = Keyed::new(apart(2));
    let syn_key = of_ids(Algorithm::HmacSha256_128, 9, 30, 40);
    let connection = keyed.connection.under(&syn_key);
    let quartet = connection.quartet();
    keyed.with(|session| {
        session.flags |= Session::SYN_RECV;
        session.syn_recv_isn = session.peer_isn;
        session.syn_recv = syn_key.syn_recv(&quartet, session.peer_isn);
    });
    let before = keyed.rollover();
    let syn = connection.sign(
        &syn_key.syn_recv(&quartet, keyed.session.peer_isn).material,
        connection.inbound(SYN, PEER_ISN),
        0,
    );
    keyed.lab.verified(&syn);
    assert_eq!(keyed.rollover(), before);
    let mut other = syn.clone();
    other.options[2] = 22;
    keyed.refused(&other, DropReason::UnknownKeyId);
    let mut short = syn;
    short.options = keyed.under(0, 11, ACK, FIRST).options;
    short.options[2] = 40;
    keyed.refused(&short, DropReason::WrongLength);
    // Its SYN-ACK is under one of the session.
    let answer = keyed.under(0, 12, SYN_ACK, PEER_ISN);
    keyed.lab.verified(&answer);
    assert_eq!((keyed.rollover().received, keyed.rollover().current), (0, 0));
}

#[test]
fn retransmissions_from_before_a_wrap_verify_under_the_older_key_after_it() {
    let isn = 0xffff_f000_u32;
    let mut keyed = Keyed::new(alike(&[SHA1, SHA1]));
    let (connection, keys) = (keyed.connection.clone(), keyed.keys.clone());
    let mut session = connection.session_from(LOCAL_ISN, isn);
    session.local_window = 1 << 20;
    session.rollover = keyed.session.rollover;
    for (slot, key) in session.slots.iter_mut().zip(&keys) {
        *slot = connection.slot(key, LOCAL_ISN, isn);
    }
    keyed.lab.put(&connection, &session);
    let segment = |slot: usize, extended: u64| {
        let segment = Segment { data: vec![1; 10], ..connection.inbound(PSH_ACK, extended as u32) };
        connection.under(&keys[slot]).sign(&session.slots[slot].recv, segment, (extended >> 32) as u32)
    };
    keyed.lab.verified(&segment(1, 0xffff_fff0));
    keyed.lab.verified(&segment(0, 0x1_0000_0010));
    keyed.lab.verified(&segment(1, 0xffff_f800));
    keyed.lab.verified(&segment(1, 0x1_0000_0004));
    keyed.refused(&segment(1, 0x1_0000_0010), DropReason::OldKey);
    assert_eq!(keyed.rollover().cutoff[1], 0x1_0000_0010);
}

#[test]
fn the_key_of_a_syn_ends_no_connection() {
    let connection = Connection::plain();
    let mut session = connection.session();
    session.flags |= Session::SYN_RECV;
    session.syn_recv_isn = session.peer_isn;
    session.syn_recv = connection.mkt.syn_recv(&connection.quartet(), session.peer_isn);
    let mut lab = Lab::with(&connection, Some(&session));
    for more in [flag::RST, flag::FIN, flag::RST | flag::FIN] {
        let syn = connection.sign(&session.syn_recv.material, connection.inbound(SYN | more, PEER_ISN), 0);
        let frame = syn.frame();
        lab.expect_drop(&connection, Direction::Inbound, Context::default(), &frame, DropReason::Malformed);
        assert_eq!(lab.session(&connection).unwrap().seen, 0);
    }
    lab.verified(&connection.sign(&session.syn_recv.material, connection.inbound(SYN, PEER_ISN), 0));
}
