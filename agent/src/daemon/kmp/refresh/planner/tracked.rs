//! A session, and when its keys have served.

use std::time::Duration;

use tcpauth_common::Isn;

use crate::{daemon::kmp::KmpPeer, sessions::Monotonic};

/// When a session's keys have served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Their age.
    pub interval: Duration,
    /// Segments that were sealed with them, or verified, whichever are more.
    pub segments: Option<u64>,
    /// Whether it is for our end to begin: the one with the lower address. The other end begins a tenth later, should
    /// this one fail to.
    pub is_first: bool,
}

/// A session as it is in the map.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Who its keys are agreed with.
    pub peer: KmpPeer,
    /// Our ISN and the peer's: another connection with the same quartet has others.
    pub isns: (Isn, Isn),
    /// Since when it sends with its keys; `None` if they were not agreed.
    pub agreed_since: Option<Monotonic>,
    /// Segments sealed, and verified, since it began.
    pub segments: [u64; 2],
    /// Whether an end does not send with the newest keys yet: those of before, which it uses, need their place.
    pub is_moving: bool,
    /// When its keys have served.
    pub limits: Limits,
}

/// A session whose keys are agreed.
pub(super) struct Tracked {
    pub(super) seen: Seen,
    /// When its keys were agreed.
    pub(super) since: Option<Monotonic>,
    /// [`Seen::segments`] at that time.
    pub(super) before: [u64; 2],
    /// New keys now, whatever their age.
    pub(super) asked: bool,
    /// By how much it is early, in 256ths of a tenth of the interval: sessions that began together do not stay so.
    pub(super) jitter: u8,
    /// No attempt before.
    pub(super) not_before: Monotonic,
    /// In which round it was seen last.
    pub(super) round: u64,
}

impl Tracked {
    pub(super) fn new(seen: Seen, jitter: u8) -> Self {
        Self {
            seen,
            since: seen.agreed_since,
            before: [0; 2],
            asked: false,
            jitter,
            not_before: Monotonic(0),
            round: 0,
        }
    }

    /// When the keys are old; `None` if they were not agreed.
    pub(super) fn old_at(&self) -> Option<Monotonic> {
        let Limits { interval, is_first, .. } = self.seen.limits;
        let tenth = interval / 10;
        let early = tenth.mul_f64(f64::from(self.jitter) / 256.0);
        let age = if is_first { interval.saturating_sub(early) } else { interval.saturating_add(tenth) };
        // Who says little moves late: not before, unless it never does.
        let wait = if self.seen.is_moving { interval } else { Duration::ZERO };
        Some(self.since?.after(age.saturating_add(wait)))
    }

    /// Whether another connection has the quartet, or another neighbour the connection.
    pub(super) fn is_other(&self, seen: &Seen) -> bool {
        (self.seen.isns, self.seen.peer) != (seen.isns, seen.peer)
    }

    pub(super) fn is_due(&self, now: Monotonic) -> bool {
        let Limits { segments, is_first, .. } = self.seen.limits;
        let keyed = (self.seen.segments.iter().zip(self.before))
            .map(|(count, before)| count.saturating_sub(before))
            .max()
            .unwrap_or_default();
        let too_many =
            segments.map(|limit| if is_first { limit } else { limit.saturating_add(limit.div_ceil(10)) });
        self.asked || self.old_at().is_none_or(|at| at <= now) || too_many.is_some_and(|limit| limit <= keyed)
    }
}
