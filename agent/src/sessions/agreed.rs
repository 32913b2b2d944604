//! Keys that two daemons agreed on: which segments they serve, and how a session comes to them.

use std::ops::RangeInclusive;

use tcpauth_common::{
    KeyId,
    layout::{KeyChange, KeySlot, MAX_KEYS, Quartet, Session},
    rollover::{NO_ORDER, NO_SLOT, Rollover},
};

use super::handshake::{our_syn_signer, syn_signer};
use crate::{
    config::Neighbor,
    keys::{ChainKey, KeyChain, Mkt},
};

/// KeyIDs of agreed keys.
pub const AGREED_IDS: RangeInclusive<u8> = 128..=255;

/// `neighbor` with no key but an agreed one.
pub fn with_agreed(neighbor: &Neighbor, mkt: &Mkt) -> Neighbor {
    Neighbor { keys: KeyChain::of(mkt.clone()).into(), ..neighbor.clone() }
}

/// The key of the chain under which a connection that is up began: that of its client's SYN.
pub fn begun_with<'a>(session: &Session, quartet: &Quartet, neighbor: &'a Neighbor) -> Option<&'a ChainKey> {
    if session.flags & Session::CLIENT != 0 {
        our_syn_signer(session, quartet, neighbor)
    } else {
        syn_signer(session, quartet, neighbor)
    }
}

/// A KeyID for segments to us under keys that are to be agreed: none that a key of the chain has, none that the
/// session uses in a slot that verifies, and the next after the newest one, so that an old one comes back late.
pub fn free_key_id(session: Option<&Session>, chain: &KeyChain) -> KeyId {
    let in_slots =
        || session.into_iter().flat_map(|session| &session.slots).filter(|slot| slot.algorithm != 0);
    let is_taken = |id: u8| {
        in_slots().any(|slot| slot.recv_id.0 == id || slot.send_id.0 == id)
            || chain.keys.iter().any(|key| key.mkt.recv_id.0 == id)
    };
    let newest = session.and_then(|session| session.slots.get(session.rollover.newest(0) as usize));
    let after = newest.map(|slot| slot.recv_id.0).filter(|id| AGREED_IDS.contains(id));
    let (first, last) = AGREED_IDS.into_inner();
    let begin = after.filter(|id| *id < last).map_or(first, |id| id + 1);
    let mut ids = (begin..=last).chain(first..begin);
    KeyId(ids.find(|id| !is_taken(*id)).unwrap_or(first))
}

/// Brings an agreed key into a session that is up, as its newest, and asks the peer to send with it. `slot` is
/// [`Mkt::traffic_slot`] of it. We send with it when the peer asks for it, or at once if `move_now`.
///
/// Of the keys that are there, those that either direction uses now stay: two at most.
pub fn roll_in(session: &Session, quartet: &Quartet, slot: KeySlot, move_now: bool) -> KeyChange {
    let Rollover { current, received, .. } = session.rollover;
    let in_use = |other: u32| other == current || other == received;
    let mut free: Vec<u32> = (0..MAX_KEYS as u32).collect();
    // Empty ones, then the oldest of those that nobody uses.
    free.sort_by_key(|other| {
        let is_filled = session.rollover.age(*other) < MAX_KEYS as u32;
        (is_filled, in_use(*other), std::cmp::Reverse(session.rollover.age(*other)))
    });
    let into = free[0];
    let mut change = KeyChange::nothing(quartet, session);
    let mut slots = vec![into];
    slots.extend(ages(session).filter(|other| *other != into));
    change.order = order(&slots);
    change.written = 1 << into;
    change.usable[into as usize] = KeySlot::SEND | KeySlot::ACCEPT;
    change.slots[into as usize] = slot;
    change.rnext = into;
    change.flags |= KeyChange::SET_AGREED;
    if move_now {
        change.current = into;
        change.flags |= KeyChange::MOVE_CURRENT;
    }
    change
}

/// Removes the keys of a session that are older than the one which both directions use now; `None` if there are none,
/// or the directions have not come together.
pub fn settle(session: &Session, quartet: &Quartet) -> Option<KeyChange> {
    let Rollover { current, received, rnext, .. } = session.rollover;
    let age = session.rollover.age(current);
    if current != received || current == NO_SLOT || age >= MAX_KEYS as u32 {
        return None;
    }
    let stay: Vec<u32> = ages(session).take(age as usize + 1).collect();
    if stay.len() == ages(session).count() {
        return None;
    }
    let mut change = KeyChange::nothing(quartet, session);
    change.order = order(&stay);
    if !stay.contains(&rnext) {
        change.rnext = current;
    }
    Some(change)
}

/// The filled slots, the newest first.
fn ages(session: &Session) -> impl Iterator<Item = u32> {
    let rollover = session.rollover;
    (0..MAX_KEYS as u32).map(move |age| rollover.newest(age)).filter(|slot| *slot != NO_SLOT)
}

/// As in [`Rollover::order`].
fn order(newest_first: &[u32]) -> u32 {
    let placed = newest_first.iter().zip(0..);
    placed.fold(NO_ORDER, |order, (slot, age)| order & !(3 << (2 * age)) | slot << (2 * age))
}
