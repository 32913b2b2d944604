//! Which of a session's keys seals, which is asked for, and until where an older one still verifies.
//!
//! Two rules move a connection from one key to the next without losing a segment:
//!
//! - Keys with KeyIDs of their own (RFC 5925 §7.5.2.e): a verified segment whose RNextKeyID is the SendID of one of
//!   our keys makes that key [`Rollover::current`]. What we ask the peer for, [`Rollover::rnext`], is management's.
//! - Keys that the wire does not tell apart (TCP-MD5, or a KeyID that is shared; RFC 4808): they are tried, newest
//!   first. Where the newer one first verified is the latest point at which the peer can have switched, so the older
//!   one verifies only what begins before it, and what we send follows the peer.
//!
//! Agreed keys are of the first kind, and there is no way back to an older one.

use core::hint::black_box;

use crate::{
    KeyId,
    layout::{KeySlot, MAX_KEYS},
    sequence::ExtendedSeq,
};

/// A session's keys in use: current_key and rnext_key among them (RFC 5925 §4). Slots are numbers below [`MAX_KEYS`], or
/// [`NO_SLOT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollover {
    /// The filled slots, newest first, two bits each from the lowest; [`NO_SLOT`] behind the last.
    pub order: u32,
    /// Seals what we send (current_key). Moved by segments that verify; by management only when its key may not
    /// be sent with any more.
    pub current: u32,
    /// Its RecvID is our RNextKeyID (rnext_key). Moved by management only.
    pub rnext: u32,
    /// What the peer sends with now: it verified the latest new data.
    pub received: u32,
    /// For each slot, the extended sequence number from which on it verifies nothing; [`NO_CUTOFF`].
    pub cutoff: [u64; MAX_KEYS],
    /// When `current` was last moved, nanoseconds of CLOCK_MONOTONIC.
    pub current_since: u64,
    /// When `received` was last moved, nanoseconds of CLOCK_MONOTONIC.
    pub received_since: u64,
}

/// No slot, in [`Rollover`].
pub const NO_SLOT: u32 = 3;
/// A slot that verifies everything its key signs.
pub const NO_CUTOFF: u64 = u64::MAX;
/// [`Rollover::order`] of no slots.
pub const NO_ORDER: u32 = 0b11_11_11;

impl Default for Rollover {
    fn default() -> Self {
        Self {
            order: NO_ORDER,
            current: NO_SLOT,
            rnext: NO_SLOT,
            received: NO_SLOT,
            cutoff: [NO_CUTOFF; MAX_KEYS],
            current_since: 0,
            received_since: 0,
        }
    }
}

impl Rollover {
    /// The slot that is the `age`th newest (0 is the newest), or [`NO_SLOT`].
    #[inline(always)]
    pub const fn newest(&self, age: u32) -> u32 {
        if age >= MAX_KEYS as u32 { NO_SLOT } else { (self.order >> (2 * age)) & 3 }
    }

    /// How many filled slots are newer than `slot`; [`MAX_KEYS`] if it is not filled.
    #[inline(always)]
    pub const fn age(&self, slot: u32) -> u32 {
        age_in(self.order, slot)
    }

    /// Sets until where the key in `slot`, if it is one, verifies.
    #[inline(always)]
    pub(crate) const fn set_cutoff(&mut self, slot: u32, cutoff: u64) {
        match slot {
            0 => self.cutoff[0] = cutoff,
            1 => self.cutoff[1] = cutoff,
            2 => self.cutoff[2] = cutoff,
            _ => {}
        }
    }

    /// Whether the key in `slot` may still verify a segment that begins at `extended`. The newest one always may.
    #[inline(always)]
    pub const fn covers(&self, slot: u32, extended: ExtendedSeq) -> bool {
        let cutoff = match slot {
            0 => self.cutoff[0],
            1 => self.cutoff[1],
            2 => self.cutoff[2],
            _ => return false,
        };
        cutoff == NO_CUTOFF || slot == self.newest(0) || (extended.0.wrapping_sub(cutoff) as i64) < 0
    }

    /// The slot that seals, or [`NO_SLOT`]. While management empties a slot, a segment that verifies may still set
    /// `current` to it: then the preferred key, which is what management would set.
    #[inline(always)]
    pub fn sealing(&self, slots: &[KeySlot; MAX_KEYS]) -> u32 {
        if may_send(slots, self.current) {
            self.current
        } else if may_send(slots, self.rnext) {
            self.rnext
        } else {
            NO_SLOT
        }
    }

    /// The RNextKeyID of a segment that `slot` seals.
    #[inline(always)]
    pub fn rnext_id(&self, slots: &[KeySlot; MAX_KEYS], slot: u32) -> KeyId {
        match (slot_at(slots, self.rnext), slot_at(slots, slot)) {
            (Some(slot), _) | (None, Some(slot)) => slot.recv_id,
            (None, None) => KeyId(0),
        }
    }

    /// Takes in that a segment which begins at `extended` verified with the key in `slot`. `rnext` is its RNextKeyID,
    /// `None` on a wire without KeyIDs; `front` the latest beginning of a segment verified before; `now` nanoseconds
    /// of CLOCK_MONOTONIC.
    ///
    /// A segment from before the front tells nothing of what the peer does now: it was reordered, or sent again.
    /// RFC 5925 §6.1.
    #[inline(always)]
    pub fn on_verified(
        &mut self,
        slots: &[KeySlot; MAX_KEYS],
        slot: u32,
        rnext: Option<KeyId>,
        extended: ExtendedSeq,
        front: ExtendedSeq,
        now: u64,
    ) {
        if (extended.0.wrapping_sub(front.0) as i64) < 0 {
            return;
        }
        if self.received != slot {
            self.received = slot;
            self.received_since = now;
        }
        self.cut_off_older(slots, slot, rnext.is_some(), extended);
        let current = self.following(slots, slot, rnext);
        if self.current != current {
            self.current = current;
            self.current_since = now;
        }
    }

    /// As [`Self::on_verified`], in a session with agreed keys. There both ends only ever go on to newer ones, so that a
    /// key which the peer has gone on from serves nobody but who has learnt it: it verifies nothing new after the first
    /// segment of a newer one, and no segment has us send with an older one again.
    #[inline(always)]
    pub fn on_verified_onward(
        &mut self,
        slots: &[KeySlot; MAX_KEYS],
        slot: u32,
        rnext: KeyId,
        extended: ExtendedSeq,
        front: ExtendedSeq,
        now: u64,
    ) {
        let age = self.age(slot);
        // Whatever was verified before: who has learnt an older key may have been ahead of the peer.
        let is_newer = age < self.age(self.received);
        if !is_newer && (extended.0.wrapping_sub(front.0) as i64) < 0 {
            return;
        }
        if is_newer {
            self.received = slot;
            self.received_since = now;
            // What is sent again overtakes what was under way.
            let cutoff = front.advanced_to(extended).0;
            let mut other = 0;
            while other < MAX_KEYS {
                if self.age(other as u32) > age && self.cutoff[other] == NO_CUTOFF {
                    self.cutoff[other] = cutoff;
                }
                other += 1;
            }
        }
        let current = self.following(slots, slot, Some(rnext));
        if self.age(current) < self.age(self.current) {
            self.current = current;
            self.current_since = now;
        }
    }

    /// Ends the use of keys older than the one in `slot` that only trial tells from it, unless that was done before.
    #[inline(always)]
    fn cut_off_older(
        &mut self,
        slots: &[KeySlot; MAX_KEYS],
        slot: u32,
        has_key_ids: bool,
        extended: ExtendedSeq,
    ) {
        let age = self.age(slot);
        let mut other = 0;
        while other < MAX_KEYS {
            let is_older = self.age(other as u32) > age && self.age(other as u32) < MAX_KEYS as u32;
            let is_alike = !has_key_ids || share_recv_id(slots, slot, other as u32);
            if is_older && is_alike && self.cutoff[other] == NO_CUTOFF {
                self.cutoff[other] = extended.0;
            }
            other += 1;
        }
    }

    /// The slot to send with after `slot` verified a segment with this RNextKeyID (RFC 5925 §7.5.2.e, RFC 4808 §2.2).
    #[inline(always)]
    fn following(&self, slots: &[KeySlot; MAX_KEYS], slot: u32, rnext: Option<KeyId>) -> u32 {
        let is_newer = self.age(slot) < self.age(self.current);
        let Some(wanted) = rnext else {
            return if is_newer && may_send(slots, slot) { slot } else { self.current };
        };
        let current_is_wanted = has_send_id(slots, self.current, wanted);
        if has_send_id(slots, slot, wanted) && (is_newer || !current_is_wanted) {
            return slot;
        }
        if current_is_wanted {
            return self.current;
        }
        // Of several with this KeyID, the peer is surest to have the oldest.
        let (first, second, third) = (self.newest(2), self.newest(1), self.newest(0));
        if has_send_id(slots, first, wanted) {
            first
        } else if has_send_id(slots, second, wanted) {
            second
        } else if has_send_id(slots, third, wanted) {
            third
        } else {
            // The peer asks for what we have not: no action (RFC 5925 §7.5.2.e).
            self.current
        }
    }
}

/// How many slots stand before `slot` in `order`; [`MAX_KEYS`] if it is not in it.
#[inline(always)]
pub(crate) const fn age_in(order: u32, slot: u32) -> u32 {
    if slot == NO_SLOT {
        MAX_KEYS as u32
    } else if order & 3 == slot {
        0
    } else if order >> 2 & 3 == slot {
        1
    } else if order >> 4 & 3 == slot {
        2
    } else {
        MAX_KEYS as u32
    }
}

/// The slot of this number, if it is one.
#[inline(always)]
pub fn slot_at(slots: &[KeySlot; MAX_KEYS], number: u32) -> Option<&KeySlot> {
    // The compiler knows of most numbers that they are no more than 3, and would check for that one; the verifier
    // needs to see all of the bound.
    slots.get(black_box(number) as usize)
}

/// Whether segments may be sealed with the key in `slot`.
#[inline(always)]
pub fn may_send(slots: &[KeySlot; MAX_KEYS], slot: u32) -> bool {
    match slot_at(slots, slot) {
        Some(slot) => slot.flags & KeySlot::SEND != 0,
        None => false,
    }
}

#[inline(always)]
fn has_send_id(slots: &[KeySlot; MAX_KEYS], slot: u32, id: KeyId) -> bool {
    match slot_at(slots, slot) {
        Some(slot) => slot.flags & KeySlot::SEND != 0 && slot.send_id.0 == id.0,
        None => false,
    }
}

/// Whether a segment's KeyID does not tell which of the two keys it is under.
#[inline(always)]
fn share_recv_id(slots: &[KeySlot; MAX_KEYS], one: u32, other: u32) -> bool {
    match (slot_at(slots, one), slot_at(slots, other)) {
        (Some(one), Some(other)) => one.recv_id.0 == other.recv_id.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
