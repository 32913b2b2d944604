//! Changes the keys of a session at work. Attached nowhere: the daemon runs it (BPF_PROG_TEST_RUN) with a
//! [`KeyChange`] for a packet, because an element of the map that is replaced is used again at once, while programs
//! on other CPUs still work on it.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_ns, macros::map, maps::PerCpuArray};
use tcpauth_common::layout::{KeyChange, MAX_KEYS, Session};

use crate::{frame::load_raw, maps::SESSIONS};

/// Not in the scratch memory: older kernels run the daemon's programs with bottom halves on.
#[map]
static CHANGE: PerCpuArray<KeyChange> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn run(skb: *mut __sk_buff) -> i32 {
    let Some(change) = CHANGE.get_ptr_mut(0) else { return KeyChange::MALFORMED as i32 };
    if !load_raw(skb, 0, change.cast(), size_of::<KeyChange>() as u32) {
        return KeyChange::MALFORMED as i32;
    }
    // SAFETY: this CPU's alone; the daemon runs one at a time.
    let change = unsafe { &mut *change };
    let answer = apply(change);
    for slot in &mut change.slots {
        for words in [&mut slot.send.words, &mut slot.recv.words] {
            words.fill(0);
        }
    }
    change.syn_recv.material.words.fill(0);
    answer as i32
}

#[inline(always)]
fn apply(change: &KeyChange) -> u32 {
    let Some(session) = SESSIONS.get_ptr_mut(change.quartet) else { return KeyChange::NO_SESSION };
    // SAFETY: map values live while the program runs.
    if !change.is_of(unsafe { &*session }) {
        return KeyChange::OTHER_CONNECTION;
    }
    withdraw(change, session);
    hear_syn(change, session);
    let mut slot = 0;
    while slot < MAX_KEYS as u32 {
        write_slot(change, session, slot);
        slot += 1;
    }
    switch(change, session);
    enter(change, session);
    let mut slot = 0;
    while slot < MAX_KEYS as u32 {
        clear_slot(change, session, slot);
        slot += 1;
    }
    KeyChange::DONE
}

/// The steps of [`KeyChange::apply`], global functions of the object: the verifier follows each by itself.
macro_rules! step {
    ($name:ident, $step:ident $(, $slot:ident)?; $($now:expr)?) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(change: *const KeyChange, session: *mut Session $(, $slot: u32)?) -> u32 {
            // SAFETY: null or map values, which live while the program runs. Programs on other CPUs read and write
            // single words of the session meanwhile, for which the steps are made.
            if let (Some(change), Some(session)) = unsafe { (change.as_ref(), session.as_mut()) } {
                change.$step(session $(, $slot)? $(, $now)?);
            }
            0
        }
    };
}
step!(withdraw, withdraw; now());
step!(hear_syn, hear_syn;);
step!(write_slot, write, slot;);
step!(switch, switch; now());
step!(enter, enter;);
step!(clear_slot, clear, slot;);

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}
