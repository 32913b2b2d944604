//! A neighbour's keys over time: each may be sent with and accepted in a lifetime of its own, by the wall clock.

use jiff::Timestamp;

use super::Mkt;

/// The keys of a neighbour, in the order of their numbers; at least one. Holds secrets: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyChain {
    /// Its name in the configuration; `None` if the keys are the neighbour's own.
    pub name: Option<String>,
    /// The keys, by ascending number, no number twice.
    pub keys: Vec<ChainKey>,
}

/// A key of a chain. Holds a secret: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ChainKey {
    /// N of `key.N`; 0 for the secret that a neighbour's table has itself.
    pub number: u32,
    /// How segments are signed with it.
    pub mkt: Mkt,
    /// When segments may be sealed with it.
    pub send: Lifetime,
    /// When segments are accepted with it.
    pub accept: Lifetime,
}

/// A span of the wall clock: from `start` on and before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment after it; not before `start`.
    pub end: Timestamp,
}

impl Lifetime {
    /// Without a beginning or an end.
    pub const ALWAYS: Self = Self { start: Timestamp::MIN, end: Timestamp::MAX };
    /// No moment: of a key that is there to be accepted, or to be used later.
    pub const NEVER: Self = Self { start: Timestamp::MAX, end: Timestamp::MAX };

    /// Whether `now` is in it.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.start <= now && now < self.end
    }
}

impl KeyChain {
    /// The chain of a neighbour with one key that is valid always.
    pub fn of(mkt: Mkt) -> Self {
        let key = ChainKey { number: 0, mkt, send: Lifetime::ALWAYS, accept: Lifetime::ALWAYS };
        Self { name: None, keys: vec![key] }
    }

    /// The tuple of the first key.
    pub fn first(&self) -> &Mkt {
        &self.keys[0].mkt
    }
}
