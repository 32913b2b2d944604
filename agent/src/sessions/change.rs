//! A change of keys, applied to a session that no program is at work on: what the program `rekey` does to one in the map.

use tcpauth_common::{
    layout::{KeyChange, KeySlot, MAX_KEYS, Session},
    rollover::{NO_CUTOFF, NO_SLOT, may_send},
};

/// Applies `change` to its session; `now` in nanoseconds of CLOCK_MONOTONIC.
pub fn apply(session: &mut Session, change: &KeyChange, now: u64) {
    let Session { slots, rollover, .. } = session;
    rollover.order = change.order;
    rollover.rnext = change.rnext;
    for (slot, number) in (0..MAX_KEYS).zip(0u32..) {
        let is_written = change.written >> number & 1 != 0;
        let is_emptied = rollover.age(number) == MAX_KEYS as u32;
        if is_emptied {
            slots[slot] = KeySlot::default();
        } else if is_written {
            slots[slot] = change.slots[slot];
        }
        slots[slot].flags = slots[slot].flags & !(KeySlot::SEND | KeySlot::ACCEPT) | change.usable[slot];
        if is_written || is_emptied {
            rollover.cutoff[slot] = NO_CUTOFF;
            if rollover.received == number {
                rollover.received = NO_SLOT;
            }
        }
    }
    let must_move = change.flags & KeyChange::MOVE_CURRENT != 0 || !may_send(slots, rollover.current);
    if must_move && rollover.current != change.current {
        rollover.current = change.current;
        rollover.current_since = now;
    }
}
