//! The clock that the data plane stamps its records with, beside the one that lifetimes of keys follow.

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// A time of CLOCK_MONOTONIC, in nanoseconds: what `bpf_ktime_get_ns` gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// This moment.
    pub fn now() -> Self {
        // CLOCK_MONOTONIC cannot fail on Linux; 0 would make everything look new, never old.
        Self(clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_nanos() as u64))
    }

    /// The moment that is `span` later.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time gone by since `earlier`; zero if that is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For spans.
    pub monotonic: Monotonic,
    /// For lifetimes of keys: it may jump either way.
    pub wall: Timestamp,
}

impl Now {
    /// This moment.
    pub fn read() -> Self {
        Self { monotonic: Monotonic::now(), wall: Timestamp::now() }
    }
}
