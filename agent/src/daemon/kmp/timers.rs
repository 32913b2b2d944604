//! When something is due, for many things at once.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Instant,
};

/// One moment for each of many things. What has none costs nothing, and the next one is found at once.
pub struct Timers<K> {
    /// By moment and by the order in which they were set.
    queue: BTreeMap<(Instant, u64), K>,
    at: HashMap<K, (Instant, u64)>,
    next: u64,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { queue: BTreeMap::new(), at: HashMap::new(), next: 0 }
    }
}

impl<K: Copy + Eq + Hash> Timers<K> {
    /// `what` is due `at` this moment, and not when it was before.
    pub fn set(&mut self, what: K, at: Instant) {
        self.clear(what);
        let place = (at, self.next);
        self.next += 1;
        self.queue.insert(place, what);
        self.at.insert(what, place);
    }

    /// `what` is not due any more.
    pub fn clear(&mut self, what: K) {
        if let Some(place) = self.at.remove(&what) {
            self.queue.remove(&place);
        }
    }

    /// When `what` is due.
    pub fn at(&self, what: K) -> Option<Instant> {
        self.at.get(&what).map(|(at, _)| *at)
    }

    /// When the first thing is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out one thing that is due.
    pub fn take_due(&mut self, now: Instant) -> Option<K> {
        let due = self.queue.first_entry().filter(|first| first.key().0 <= now)?;
        let what = due.remove();
        self.at.remove(&what);
        Some(what)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_thing_is_due_once_and_at_its_latest_moment() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        for (what, seconds) in [('a', 5), ('b', 3), ('c', 4), ('a', 1), ('b', 9)] {
            timers.set(what, at(seconds));
        }
        timers.clear('c');
        assert_eq!((timers.at('b'), timers.at('c')), (Some(at(9)), None));
        assert_eq!(timers.next_due(), Some(at(1)));
        assert_eq!(timers.take_due(begin), None);
        assert_eq!(
            [timers.take_due(at(9)), timers.take_due(at(9)), timers.take_due(at(9))],
            [Some('a'), Some('b'), None]
        );
        assert_eq!(timers.next_due(), None);
    }
}
