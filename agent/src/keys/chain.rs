//! A neighbour's keys over time: each may be sent with and accepted in a lifetime of its own, by the wall clock.

use std::{cmp::Reverse, collections::BTreeSet};

use jiff::{SignedDuration, Timestamp};
use tcpauth_common::layout::MAX_KEYS;

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

    /// Always, and newer than keys that may be sent always: an order without a time, which no clock undoes.
    pub const PREFERRED: Self = Self {
        // The second moment there is: `Timestamp::MIN` is a nanosecond before it.
        start: Timestamp::constant(-377_705_023_200, -999_999_999),
        end: Timestamp::MAX,
    };

    /// Whether `now` is in it.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.start <= now && now < self.end
    }
}

impl ChainKey {
    /// Whether segments may be sealed with it now.
    pub fn may_be_sent(&self, now: Timestamp) -> bool {
        self.send.contains(now)
    }

    /// Whether segments are accepted with it now.
    pub fn is_accepted(&self, now: Timestamp) -> bool {
        self.accept.contains(now)
    }

    /// Whether it may be sent or accepted now.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.may_be_sent(now) || self.is_accepted(now)
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

    /// The key with this number.
    pub fn key(&self, number: u32) -> Option<&ChainKey> {
        self.keys.iter().find(|key| key.number == number)
    }

    /// The keys, the newest first: the one whose send-lifetime begins last; of two that begin at once, the one with
    /// the higher number. One that is never sent is newer than all.
    pub fn newest_first(&self) -> Vec<&ChainKey> {
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_unstable_by_key(|key| Reverse((key.send.start, key.number)));
        keys
    }

    /// The newest key that may be sent now: the one that the peer is asked to use.
    pub fn preferred(&self, now: Timestamp) -> Option<&ChainKey> {
        self.newest_first().into_iter().find(|key| key.may_be_sent(now))
    }

    /// The key that stands for the chain where one is shown: the preferred one, or else the newest.
    pub fn foremost(&self, now: Timestamp) -> &ChainKey {
        let newest = || self.newest_first().first().copied();
        self.preferred(now).or_else(newest).unwrap_or(&self.keys[0])
    }

    /// The keys that a session has now, the newest first and [`MAX_KEYS`] at most: of those that may be sent or accepted,
    /// the preferred one, those whose number is `in_use` by the session, and then the newest.
    pub fn usable(&self, now: Timestamp, in_use: &[u32]) -> Vec<&ChainKey> {
        let preferred = self.preferred(now).map(|key| key.number);
        let mut keys = self.newest_first();
        keys.retain(|key| key.is_usable(now));
        let mut chosen: Vec<u32> = keys.iter().map(|key| key.number).collect();
        // Stable: among equals the newest stays first.
        chosen.sort_by_key(|number| (Some(*number) != preferred, !in_use.contains(number)));
        chosen.truncate(MAX_KEYS);
        keys.retain(|key| chosen.contains(&key.number));
        keys
    }

    /// Whether more keys may be sent or accepted now than a session has room for.
    pub fn more_than_fit(&self, now: Timestamp) -> bool {
        self.keys.iter().filter(|key| key.is_usable(now)).count() > MAX_KEYS
    }

    /// Whether no key may be sent now, or none is accepted: the neighbour is closed.
    pub fn is_closed(&self, now: Timestamp) -> bool {
        !self.keys.iter().any(|key| key.may_be_sent(now)) || !self.keys.iter().any(|key| key.is_accepted(now))
    }

    /// From when on no key may be sent, or none is accepted. `None` if that is so already or will never be.
    pub fn closes_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_closed(now) {
            return None;
        }
        self.changes(now).into_iter().find(|moment| self.is_closed(*moment))
    }

    /// Since when the chain is closed. `None` if it is not, or was never open.
    pub fn closed_at(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.is_closed(now) {
            return None;
        }
        let ends = self.keys.iter().flat_map(|key| [key.send.end, key.accept.end]);
        let was_open = |end: &Timestamp| {
            let before = end.checked_sub(SignedDuration::from_nanos(1));
            before.is_ok_and(|before| !self.is_closed(before))
        };
        ends.filter(|end| *end <= now).filter(was_open).max()
    }

    /// When a closed chain has keys again that may be sent and accepted. `None` if it has them or never will.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.is_closed(now) {
            return None;
        }
        self.changes(now).into_iter().find(|moment| !self.is_closed(*moment))
    }

    /// When the next lifetime begins or ends.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.changes(now).into_iter().next()
    }

    /// All moments after `now` at which a lifetime begins or ends: between two of them nothing changes.
    fn changes(&self, now: Timestamp) -> BTreeSet<Timestamp> {
        (self.keys.iter())
            .flat_map(|key| [key.send, key.accept])
            .filter(|lifetime| lifetime.start < lifetime.end)
            .flat_map(|lifetime| [lifetime.start, lifetime.end])
            .filter(|moment| now < *moment && *moment != Timestamp::MAX)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcpauth_common::Algorithm;

    use super::*;
    use crate::sessions::testing::mkt;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lifetime(start: i64, end: i64) -> Lifetime {
        Lifetime { start: at(start), end: at(end) }
    }

    /// Keys with numbers from 1 on, with these send- and accept-lifetimes.
    fn chain(lifetimes: &[(Lifetime, Lifetime)]) -> KeyChain {
        let keys = (1..).zip(lifetimes).map(|(number, (send, accept))| ChainKey {
            number,
            mkt: mkt("secret", Algorithm::HmacSha1_96),
            send: *send,
            accept: *accept,
        });
        KeyChain { name: None, keys: keys.collect() }
    }

    /// Send- and accept-lifetimes are the same.
    fn alike(lifetimes: &[(i64, i64)]) -> KeyChain {
        chain(
            &lifetimes
                .iter()
                .map(|(start, end)| (lifetime(*start, *end), lifetime(*start, *end)))
                .collect::<Vec<_>>(),
        )
    }

    fn numbers(keys: &[&ChainKey]) -> Vec<u32> {
        keys.iter().map(|key| key.number).collect()
    }

    fn preferred(chain: &KeyChain, second: i64) -> Option<u32> {
        chain.preferred(at(second)).map(|key| key.number)
    }

    #[test]
    fn the_newest_key_is_the_one_whose_send_lifetime_begins_last() {
        let chain = alike(&[(5, 100), (20, 100), (5, 100), (1, 100)]);
        assert_eq!(numbers(&chain.newest_first()), [2, 3, 1, 4]);
        assert_eq!(
            preferred(&chain, 10),
            Some(3),
            "the second has not begun, and of equals the number decides"
        );
        assert_eq!(preferred(&chain, 20), Some(2));
        assert_eq!(preferred(&chain, 100), None);
        assert_eq!([10, 20, 100].map(|second| chain.foremost(at(second)).number), [3, 2, 2]);
    }

    #[test]
    fn preferred_key_is_newer_than_those_that_are_always_valid_and_older_than_any_with_a_time() {
        let keys = [Lifetime::ALWAYS, Lifetime::PREFERRED, Lifetime::ALWAYS, lifetime(20, 30)];
        let chain = chain(&keys.map(|send| (send, Lifetime::ALWAYS)));
        assert_eq!(numbers(&chain.newest_first()), [4, 2, 3, 1]);
        let clocks = [i64::from(i32::MIN), 0, 19, 20, 30];
        assert_eq!(clocks.map(|second| preferred(&chain, second)), [2, 2, 2, 4, 2].map(Some));
        assert!(Timestamp::MIN < Lifetime::PREFERRED.start);
    }

    #[test]
    fn one_key_that_is_always_valid_never_changes() {
        let chain = KeyChain::of(mkt("secret", Algorithm::HmacSha1_96));
        for now in [Timestamp::MIN, at(0), at(1 << 36)] {
            assert_eq!(chain.preferred(now).map(|key| key.number), Some(0));
            assert_eq!(
                (chain.closes_at(now), chain.opens_at(now), chain.next_change(now)),
                (None, None, None)
            );
            assert!(!chain.is_closed(now) && !chain.more_than_fit(now));
        }
    }

    #[test]
    fn lifetimes_that_touch_or_overlap_close_at_the_end_of_the_last() {
        for second in [10, 7] {
            let chain = alike(&[(0, 10), (second, 20)]);
            assert_eq!(chain.closes_at(at(3)), Some(at(20)));
            assert_eq!(preferred(&chain, 10), Some(2));
            assert!(!chain.is_closed(at(19)) && chain.is_closed(at(20)));
            assert_eq!(chain.closes_at(at(20)), None, "it is closed already");
        }
    }

    #[test]
    fn a_gap_closes_until_the_next_key_begins() {
        let chain = alike(&[(0, 10), (11, 20)]);
        assert_eq!((chain.closes_at(at(0)), chain.opens_at(at(0))), (Some(at(10)), None));
        assert_eq!((chain.closes_at(at(10)), chain.opens_at(at(10))), (None, Some(at(11))));
        assert_eq!(chain.next_change(at(10)), Some(at(11)));
        assert_eq!((chain.opens_at(at(20)), chain.next_change(at(20))), (None, None), "never again");
        let closed = [-1, 0, 10, 11, 20, 99].map(|second| chain.closed_at(at(second)));
        assert_eq!(closed, [None, None, Some(at(10)), None, Some(at(20)), Some(at(20))]);
        // Back again, everything is as it was then.
        assert_eq!(chain.closes_at(at(0)), Some(at(10)));
    }

    #[test]
    fn a_chain_is_closed_when_either_direction_is() {
        let send_only = chain(&[(Lifetime::ALWAYS, lifetime(0, 10))]);
        let accept_only = chain(&[(lifetime(0, 10), Lifetime::ALWAYS)]);
        for chain in [send_only, accept_only] {
            assert_eq!(chain.closes_at(at(5)), Some(at(10)));
            assert!(chain.is_closed(at(10)) && chain.is_closed(at(-1)));
            assert_eq!(chain.opens_at(at(-1)), Some(at(0)));
        }
    }

    #[test]
    fn a_key_that_is_only_accepted_is_newer_than_all_and_not_preferred() {
        let chain = chain(&[(Lifetime::ALWAYS, Lifetime::ALWAYS), (Lifetime::NEVER, Lifetime::ALWAYS)]);
        assert_eq!(numbers(&chain.usable(at(0), &[])), [2, 1]);
        assert_eq!(preferred(&chain, 0), Some(1));
        assert_eq!(chain.next_change(at(0)), None, "what is never has no moment");
    }

    #[test]
    fn the_three_newest_keys_are_usable() {
        let chain = alike(&[(0, 100), (1, 100), (2, 100), (3, 100)]);
        assert_eq!(numbers(&chain.usable(at(50), &[])), [4, 3, 2]);
        assert!(chain.more_than_fit(at(50)) && !chain.more_than_fit(at(2)));
        assert_eq!(numbers(&chain.usable(at(50), &[1])), [4, 3, 1], "a session uses the oldest");
        assert_eq!(numbers(&chain.usable(at(50), &[1, 2])), [4, 2, 1]);
        assert_eq!(
            numbers(&chain.usable(at(50), &[1, 2, 3])),
            [4, 3, 2],
            "the preferred key has room always"
        );
        assert_eq!(numbers(&chain.usable(at(1), &[4])), [2, 1], "its lifetime has not begun");
    }

    #[test]
    fn the_preferred_key_is_usable_beside_three_newer_ones() {
        let later = (Lifetime::NEVER, Lifetime::ALWAYS);
        let chain = chain(&[(Lifetime::ALWAYS, Lifetime::ALWAYS), later, later, later]);
        assert_eq!(numbers(&chain.usable(at(0), &[])), [4, 3, 1]);
    }

    fn any_lifetime() -> impl Strategy<Value = Lifetime> {
        let moment = || prop_oneof![8 => (0i64..12).prop_map(at), 1 => Just(Timestamp::MIN), 1 => Just(Timestamp::MAX)];
        (moment(), moment()).prop_map(|(a, b)| Lifetime { start: a.min(b), end: a.max(b) })
    }

    /// Short spans of few seconds: they overlap, touch and leave gaps.
    fn any_lifetimes() -> impl Strategy<Value = Vec<(Lifetime, Lifetime)>> {
        prop::collection::vec((any_lifetime(), any_lifetime()), 1..6)
    }

    proptest! {
        #[test]
        fn what_is_said_of_the_future_comes_true(lifetimes in any_lifetimes(), now in -1i64..13) {
            let chain = chain(&lifetimes);
            let until = |end: Option<Timestamp>| (now..14).take_while(move |second| end.is_none_or(|end| at(*second) < end));
            for second in until(chain.next_change(at(now))) {
                prop_assert_eq!(preferred(&chain, second), preferred(&chain, now));
                prop_assert_eq!(numbers(&chain.usable(at(second), &[])), numbers(&chain.usable(at(now), &[])));
                prop_assert_eq!(chain.is_closed(at(second)), chain.is_closed(at(now)));
            }
            let (closes, opens) = (chain.closes_at(at(now)), chain.opens_at(at(now)));
            let next = if chain.is_closed(at(now)) { opens } else { closes };
            prop_assert!(closes.is_none() || opens.is_none());
            for second in until(next) {
                prop_assert_eq!(chain.is_closed(at(second)), chain.is_closed(at(now)));
            }
            for moment in [chain.next_change(at(now)), next].into_iter().flatten() {
                prop_assert!(moment > at(now));
            }
            if let Some(moment) = next {
                prop_assert_ne!(chain.is_closed(moment), chain.is_closed(at(now)));
            }
        }

        #[test]
        fn usable_keys_are_in_their_lifetimes_and_newest_first(
            lifetimes in any_lifetimes(),
            now in -1i64..13,
            in_use in prop::collection::vec(1u32..6, 0..3),
        ) {
            let chain = chain(&lifetimes);
            let now = at(now);
            let usable = chain.usable(now, &in_use);
            let newest_first = numbers(&chain.newest_first());
            let places: Vec<_> = usable.iter().map(|key| newest_first.iter().position(|n| *n == key.number)).collect();
            prop_assert!(places.is_sorted());
            prop_assert!(usable.iter().all(|key| key.is_usable(now)));
            let all = chain.keys.iter().filter(|key| key.is_usable(now)).count();
            prop_assert_eq!(usable.len(), all.min(MAX_KEYS));
            prop_assert_eq!(chain.more_than_fit(now), all > MAX_KEYS);
            let has = |number: u32| usable.iter().any(|key| key.number == number);
            prop_assert!(chain.preferred(now).is_none_or(|key| has(key.number)));
            for number in in_use {
                let may = chain.key(number).is_some_and(|key| key.is_usable(now));
                prop_assert!(!may || has(number) , "key {} is in use", number);
            }
        }
    }
}
