//! How the keys of a session at work change: in its place in the map, while programs on other CPUs seal and verify
//! with the keys that stay.

use core::sync::atomic::{Ordering, compiler_fence};

use crate::{
    Isn, KeyId, SeqNumber,
    layout::{KeyChange, KeyMaterial, KeySlot, MAX_KEYS, Quartet, Session, SynKey},
    rollover::{NO_CUTOFF, NO_ORDER, NO_SLOT, Rollover, age_in},
    sequence::ExtendedSeq,
};

/// Flags of a slot that the lifetimes of its key decide.
const USABLE: u8 = KeySlot::SEND | KeySlot::ACCEPT;

impl KeyChange {
    /// Of `session`, what changes nothing: to begin with.
    pub fn nothing(quartet: &Quartet, session: &Session) -> Self {
        let Rollover { order, rnext, current, .. } = session.rollover;
        Self {
            quartet: *quartet,
            local_isn: session.local_isn,
            peer_isn: session.peer_isn,
            written: 0,
            order,
            rnext,
            current,
            flags: 0,
            neighbor: session.neighbor,
            usable: session.slots.map(|slot| slot.flags & USABLE),
            reserved: 0,
            phase: session.phase,
            sent_before: session.sent_before,
            received_before: session.received_before,
            largest_segment: session.largest_segment,
            syn_recv_isn: Isn(0),
            syn_recv: NO_SYN_KEY,
            slots: [EMPTY; MAX_KEYS],
        }
    }

    /// Whether it is for this connection.
    #[inline(always)]
    pub const fn is_of(&self, session: &Session) -> bool {
        session.flags & Session::BOTH_ISNS == Session::BOTH_ISNS
            && session.local_isn.0 == self.local_isn.0
            && session.peer_isn.0 == self.peer_isn.0
    }

    /// Changes the keys of `session`; `now` is CLOCK_MONOTONIC, nanoseconds. What it does not name stays.
    ///
    /// In an order in which what a program on another CPU sees at any moment is a session with usable keys: no slot
    /// is written while segments are verified with it, and what seals may seal. The steps are apart so that the
    /// verifier can follow each by itself.
    pub fn apply(&self, session: &mut Session, now: u64) {
        self.withdraw(session, now);
        self.hear_syn(session);
        for slot in 0..MAX_KEYS as u32 {
            self.write(session, slot);
        }
        self.switch(session, now);
        self.enter(session);
        for slot in 0..MAX_KEYS as u32 {
            self.clear(session, slot);
        }
    }

    /// First step: slots that are written or emptied verify nothing any more, and seal nothing if that can be.
    #[inline(always)]
    pub fn withdraw(&self, session: &mut Session, now: u64) {
        let rollover = &mut session.rollover;
        let stay = self.staying();
        // What cut a key off may be one that goes now; if it stays, the next segment that it verifies does so again.
        // Nothing cuts the newest off: what stands there was meant for the key in that slot before.
        let (mut order, mut at, mut age, mut lost) = (NO_ORDER, 0, 0, false);
        while age < MAX_KEYS as u32 {
            let slot = rollover.newest(age);
            if age == 0 || lost {
                rollover.set_cutoff(slot, NO_CUTOFF);
            }
            if has(stay, slot) {
                order = (order & !(3 << at)) | (slot << at);
                at += 2;
            } else {
                lost = true;
            }
            age += 1;
        }
        rollover.order = order;
        compiler_fence(Ordering::SeqCst);
        if self.flags & Self::FORGET_SYN != 0 {
            session.flags &= !Session::SYN_RECV;
            session.syn_recv = NO_SYN_KEY;
        }
        if !has(stay, rollover.current) && has(stay, self.current) {
            self.move_current(rollover, now);
        }
        compiler_fence(Ordering::SeqCst);
    }

    /// Second step: the peer's SYN that verifies is another. One that is verified meanwhile does not pass: its key is
    /// not the one that is there afterwards.
    #[inline(always)]
    pub fn hear_syn(&self, session: &mut Session) {
        if self.flags & Self::SET_SYN == 0 {
            return;
        }
        session.flags &= !Session::SYN_RECV;
        compiler_fence(Ordering::SeqCst);
        session.syn_recv_isn = self.syn_recv_isn;
        session.syn_recv = self.syn_recv;
        compiler_fence(Ordering::SeqCst);
        session.flags |= Session::SYN_RECV;
    }

    /// Third step, for each slot: what is written is, and what may be used from now on may.
    #[inline(always)]
    pub fn write(&self, session: &mut Session, slot: u32) {
        let index = slot as usize;
        if index >= MAX_KEYS || !has(self.filled(), slot) {
            return;
        }
        if has(self.written, slot) {
            session.slots[index] = self.slots[index];
            session.rollover.cutoff[index] = NO_CUTOFF;
        }
        session.slots[index].flags |= self.usable[index] & USABLE;
    }

    /// Fourth step: the session has its new owner and its new order, and seals with what it may.
    #[inline(always)]
    pub fn switch(&self, session: &mut Session, now: u64) {
        session.neighbor = self.neighbor;
        let rollover = &mut session.rollover;
        let stay = self.staying();
        compiler_fence(Ordering::SeqCst);
        let may_stay = has(stay, rollover.current) && self.may_send(rollover.current);
        if self.flags & Self::MOVE_CURRENT != 0 || !may_stay {
            self.move_current(rollover, now);
        }
        rollover.rnext = if has(self.filled(), self.rnext) { self.rnext } else { NO_SLOT };
        let before = rollover.order;
        rollover.order = self.order;
        compiler_fence(Ordering::SeqCst);
        // What cut a key off stands behind it now, and says nothing of it any more.
        let mut slot = 0;
        while slot < MAX_KEYS as u32 {
            if has(stay, slot) && overtakes(slot, before, self.order) {
                rollover.set_cutoff(slot, NO_CUTOFF);
            }
            slot += 1;
        }
        if !has(stay, rollover.received) {
            rollover.received = NO_SLOT;
        }
        compiler_fence(Ordering::SeqCst);
    }

    /// Fifth step: whose the keys are, what passes under them, and how long it may be.
    #[inline(always)]
    pub fn enter(&self, session: &mut Session) {
        let is_longer = session.largest_segment == 0 || session.largest_segment > self.largest_segment;
        if self.flags & Self::LIMIT_SEGMENTS != 0 && is_longer {
            session.largest_segment = self.largest_segment;
        }
        if self.flags & Self::FOLLOW_CHAIN != 0 {
            session.flags &= !Session::AGREED;
        }
        if self.flags & Self::SET_AGREED != 0 {
            session.flags |= Session::AGREED;
        }
        if self.flags & Self::SET_PHASE != 0 {
            if self.phase == Session::OPEN && self.flags & Self::SET_AGREED != 0 {
                self.end_handshake(session);
            }
            // Whoever sees the phase has to see the offsets.
            session.sent_before = self.sent_before;
            session.received_before = self.received_before;
            compiler_fence(Ordering::SeqCst);
            session.phase = self.phase;
        }
    }

    /// The keys of before verify nothing behind the peer's handshake: they are more people's than the agreed one.
    #[inline(always)]
    const fn end_handshake(&self, session: &mut Session) {
        let behind = SeqNumber(session.peer_isn.0.wrapping_add(1).wrapping_add(self.received_before));
        let cutoff = ExtendedSeq(session.recv_seq).extend(behind).0;
        let rollover = &mut session.rollover;
        let mut age = 1;
        while age < MAX_KEYS as u32 {
            rollover.set_cutoff(rollover.newest(age), cutoff);
            age += 1;
        }
    }

    /// Last step, for each slot: what may not be used any more may not, and no key stays behind.
    #[inline(always)]
    pub fn clear(&self, session: &mut Session, slot: u32) {
        let index = slot as usize;
        if index >= MAX_KEYS {
            return;
        }
        if has(self.filled(), slot) {
            let others = session.slots[index].flags & !USABLE;
            session.slots[index].flags = others | (self.usable[index] & USABLE);
        } else {
            session.slots[index] = EMPTY;
            session.rollover.cutoff[index] = NO_CUTOFF;
        }
    }

    /// Slots that are filled afterwards, a bit each.
    #[inline(always)]
    const fn filled(&self) -> u32 {
        let order = self.order;
        (1 << (order & 3) | 1 << (order >> 2 & 3) | 1 << (order >> 4 & 3)) & ALL
    }

    /// Slots that have the same key afterwards, a bit each.
    #[inline(always)]
    const fn staying(&self) -> u32 {
        self.filled() & !self.written
    }

    #[inline(always)]
    const fn move_current(&self, rollover: &mut Rollover, now: u64) {
        let current = if has(self.filled(), self.current) { self.current } else { NO_SLOT };
        if rollover.current != current || has(self.written, current) {
            rollover.current = current;
            rollover.current_since = now;
        }
    }

    #[inline(always)]
    const fn may_send(&self, slot: u32) -> bool {
        let usable = match slot {
            0 => self.usable[0],
            1 => self.usable[1],
            2 => self.usable[2],
            _ => 0,
        };
        usable & KeySlot::SEND != 0
    }
}

/// Every slot, a bit each.
const ALL: u32 = 0b111;

const EMPTY: KeySlot = KeySlot {
    algorithm: 0,
    send_id: KeyId(0),
    recv_id: KeyId(0),
    flags: 0,
    send: KeyMaterial { words: [0; 16] },
    recv: KeyMaterial { words: [0; 16] },
};

const NO_SYN_KEY: SynKey = SynKey {
    algorithm: 0,
    key_id: KeyId(0),
    rnext_id: KeyId(0),
    flags: 0,
    material: KeyMaterial { words: [0; 16] },
};

/// Whether `slot` stands before one in `after` that it stood behind in `before`, both of them orders.
#[inline(always)]
const fn overtakes(slot: u32, before: u32, after: u32) -> bool {
    let (old, new) = (age_in(before, slot), age_in(after, slot));
    let mut other = 0;
    while other < MAX_KEYS as u32 {
        if age_in(before, other) < old && new < age_in(after, other) && age_in(after, other) < MAX_KEYS as u32
        {
            return true;
        }
        other += 1;
    }
    false
}

/// Whether `slots`, a bit each, has `slot`, which is one or [`NO_SLOT`].
#[inline(always)]
const fn has(slots: u32, slot: u32) -> bool {
    (slots & ALL) >> (slot & 3) & 1 != 0
}
