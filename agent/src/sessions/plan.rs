//! Which keys of its neighbour's chain a session has to have, and how it comes from those it has to them.

use jiff::Timestamp;
use tcpauth_common::{
    KeyId,
    layout::{KeyChange, KeySlot, MAX_KEYS, Quartet, Session},
    rollover::{NO_ORDER, NO_SLOT},
};

use super::handshake::syn_signer;
use crate::{
    config::{KeyManagement, Neighbor, Wire},
    keys::{ChainKey, KeyChain, Role},
};

/// Which key of a chain is in which slot of a session, by number. `None`: the slot is empty, or its key is not of
/// the chain (any more).
pub fn identify(session: &Session, quartet: &Quartet, chain: &KeyChain) -> [Option<u32>; MAX_KEYS] {
    matched(session, quartet, &chain.newest_first()).map(|key| key.map(|key| key.number))
}

/// Whether the session's keys were agreed with the peer's daemon, and are nothing of the chain of `neighbor`, which is
/// still of a mode in which they are.
pub fn is_agreed(session: &Session, neighbor: &Neighbor) -> bool {
    let agrees = matches!(neighbor.key_management, KeyManagement::External | KeyManagement::Layered);
    session.flags & Session::AGREED != 0 && agrees
}

/// Which key of a chain is in one of a session's slots, by number: as [`identify`] tells of a session whose keys
/// follow the chain, at the cost of a derivation only where ids and algorithm do not tell.
pub fn key_in_slot(session: &Session, quartet: &Quartet, slot: u32, chain: &KeyChain) -> Option<u32> {
    let slot = session.slots.get(slot as usize).filter(|slot| slot.algorithm != 0)?;
    let mut alike = chain.keys.iter().filter(|key| outward(slot) == outward(&key.mkt.empty_slot()));
    let (first, second) = (alike.next()?, alike.next());
    let found = match second {
        // An agreed key may look like one of the chain.
        None if session.flags & Session::AGREED == 0 => Some(first),
        _ => {
            let alike = [first].into_iter().chain(second).chain(alike);
            alike.into_iter().find(|key| is_key_of(slot, session, quartet, key))
        }
    };
    found.map(|key| key.number)
}

/// What has to change for the session to have the keys that `neighbor` has `now`; `None` if it has them, or has no
/// traffic keys yet, or its keys are agreed ([`is_agreed`]). A key that is in a slot stays in it, and so does what is
/// known of it. RFC 5925 §6.1.
///
/// `forced` is the number of a key to send with at once. It is heeded only where there is no RNextKeyID to ask the
/// peer with: with TCP-MD5, or if the key has the SendID of the one that is sent with now.
pub fn plan(
    session: &Session,
    quartet: &Quartet,
    neighbor: &Neighbor,
    now: Timestamp,
    forced: Option<u32>,
) -> Option<KeyChange> {
    if is_agreed(session, neighbor) {
        return None;
    }
    let chain = &neighbor.keys;
    let mut usable = chain.newest_first();
    usable.retain(|key| key.is_usable(now));
    let held = matched(session, quartet, &usable);
    let in_slot = |slot: u32| held.get(slot as usize).copied().flatten();
    let current = in_slot(session.rollover.current).filter(|key| key.may_be_sent(now));
    let cannot_be_asked_for = |key: &ChainKey| {
        neighbor.wire == Wire::TcpMd5 || current.is_none_or(|current| current.mkt.send_id == key.mkt.send_id)
    };
    let forced = forced.and_then(|number| chain.key(number));
    let forced = forced.filter(|key| key.may_be_sent(now) && cannot_be_asked_for(key));
    let in_use = [forced.or(current), in_slot(session.rollover.received)];
    let in_use: Vec<u32> = in_use.into_iter().flatten().map(|key| key.number).collect();
    let mut change = keeping(session, quartet, neighbor, now, &in_use, forced)?;
    let accepts_syn = || syn_signer(session, quartet, neighbor).is_some_and(|key| key.is_accepted(now));
    if session.flags & Session::SYN_RECV != 0 && !accepts_syn() {
        change.flags |= KeyChange::FORGET_SYN;
    }
    if session.flags & Session::AGREED != 0 {
        change.flags |= KeyChange::FOLLOW_CHAIN;
    }
    is_needed(session, &change).then_some(change)
}

/// As [`plan`], with room for the keys whose numbers are `in_use`, and without regard to the SYN that was heard.
pub(super) fn plan_keeping(
    session: &Session,
    quartet: &Quartet,
    neighbor: &Neighbor,
    now: Timestamp,
    in_use: &[u32],
) -> Option<KeyChange> {
    let change = keeping(session, quartet, neighbor, now, in_use, None)?;
    is_needed(session, &change).then_some(change)
}

/// What [`plan_keeping`] finds, needed or not. That `forced` may be sent was looked at.
fn keeping(
    session: &Session,
    quartet: &Quartet,
    neighbor: &Neighbor,
    now: Timestamp,
    in_use: &[u32],
    forced: Option<&ChainKey>,
) -> Option<KeyChange> {
    if !has_traffic_keys(session, neighbor.wire) {
        return None;
    }
    let keys = neighbor.keys.usable(now, in_use);
    let mut change = KeyChange {
        order: NO_ORDER,
        rnext: NO_SLOT,
        current: NO_SLOT,
        usable: [0; MAX_KEYS],
        ..KeyChange::nothing(quartet, session)
    };
    let slots = place(session, quartet, &keys, &mut change);
    let slot_of = |key: &ChainKey| {
        let slot = slots.iter().position(|placed| placed.is_some_and(|placed| placed.number == key.number));
        slot.map_or(NO_SLOT, |slot| slot as u32)
    };
    for (age, key) in keys.iter().enumerate() {
        let slot = slot_of(key);
        change.order = change.order & !(3 << (2 * age)) | slot << (2 * age);
        change.usable[slot as usize] = usable_flags(key, now);
    }
    let preferred = neighbor.keys.preferred(now);
    change.rnext = asked_for(&keys, preferred, now).map_or(NO_SLOT, slot_of);
    change.current = preferred.map_or(NO_SLOT, slot_of);
    if let Some(forced) = forced {
        change.current = slot_of(forced);
        change.flags |= KeyChange::MOVE_CURRENT;
    }
    Some(change)
}

/// Whether all that the traffic keys depend on is known: with TCP-MD5 they do not depend on ISNs.
pub fn has_traffic_keys(session: &Session, wire: Wire) -> bool {
    match wire {
        Wire::TcpAo => session.flags & Session::BOTH_ISNS == Session::BOTH_ISNS,
        Wire::TcpMd5 => session.flags & Session::BOTH_ISNS != 0,
    }
}

/// Of `keys`, the newest first, the one that the peer is asked to send with: the preferred one if it is accepted.
pub(super) fn asked_for<'a>(
    keys: &[&'a ChainKey],
    preferred: Option<&'a ChainKey>,
    now: Timestamp,
) -> Option<&'a ChainKey> {
    let preferred_at =
        keys.iter().position(|key| preferred.is_some_and(|preferred| preferred.number == key.number));
    // The peer may not have what is newer than the preferred key.
    let (newer, older) = keys.split_at(preferred_at.unwrap_or(0));
    older.iter().chain(newer).copied().find(|key| key.is_accepted(now)).or(preferred)
}

/// The slot of `key` in the connection that `session` is; it may not be used yet.
pub(super) fn derived_slot(session: &Session, quartet: &Quartet, key: &ChainKey) -> KeySlot {
    key.mkt.traffic_slot(quartet, session.local_isn, session.peer_isn, Role::of(session))
}

/// Which of `keys` is in which slot. Of keys that are alike in ids, algorithm and secret, each is in one.
fn matched<'a>(
    session: &Session,
    quartet: &Quartet,
    keys: &[&'a ChainKey],
) -> [Option<&'a ChainKey>; MAX_KEYS] {
    let mut left = keys.to_vec();
    session.slots.map(|slot| {
        let found = left.iter().position(|key| is_key_of(&slot, session, quartet, key));
        found.map(|position| left.remove(position))
    })
}

fn is_key_of(slot: &KeySlot, session: &Session, quartet: &Quartet, key: &ChainKey) -> bool {
    // First what costs no derivation.
    if outward(slot) != outward(&key.mkt.empty_slot()) {
        return false;
    }
    let derived = derived_slot(session, quartet, key);
    slot.send.words == derived.send.words && slot.recv.words == derived.recv.words
}

/// What is seen of a slot's key from outside.
fn outward(slot: &KeySlot) -> (u8, KeyId, KeyId, u8) {
    (slot.algorithm, slot.send_id, slot.recv_id, slot.flags & KeySlot::EXCLUDE_OPTIONS)
}

/// Which of `keys` is in which slot afterwards: those that are there stay, the others are written where it disturbs
/// least.
fn place<'a>(
    session: &Session,
    quartet: &Quartet,
    keys: &[&'a ChainKey],
    change: &mut KeyChange,
) -> [Option<&'a ChainKey>; MAX_KEYS] {
    let mut slots = matched(session, quartet, keys);
    let mut free: Vec<usize> = (0..MAX_KEYS).filter(|slot| slots[*slot].is_none()).collect();
    // Segments that are under way now may have been sealed with what is still in a slot.
    free.sort_by_key(|slot| {
        (session.slots[*slot].algorithm != 0, session.rollover.current == *slot as u32, *slot)
    });
    let is_placed = |key: &&&ChainKey| slots.iter().flatten().any(|placed| placed.number == key.number);
    let missing: Vec<&ChainKey> = keys.iter().filter(|key| !is_placed(key)).copied().collect();
    for (slot, key) in free.into_iter().zip(missing) {
        slots[slot] = Some(key);
        change.slots[slot] = derived_slot(session, quartet, key);
        change.written |= 1 << slot;
    }
    slots
}

fn usable_flags(key: &ChainKey, now: Timestamp) -> u8 {
    let send = if key.may_be_sent(now) { KeySlot::SEND } else { 0 };
    let accept = if key.is_accepted(now) { KeySlot::ACCEPT } else { 0 };
    send | accept
}

fn is_needed(session: &Session, change: &KeyChange) -> bool {
    let mut changed = *session;
    change.apply(&mut changed, session.rollover.current_since);
    let flags = |session: &Session| session.slots.map(|slot| (slot.algorithm, slot.flags));
    let rollover = |session: &Session| {
        let rollover = session.rollover;
        (rollover.order, rollover.rnext, rollover.current)
    };
    change.written != 0
        || changed.flags != session.flags
        || flags(&changed) != flags(session)
        || rollover(&changed) != rollover(session)
}
