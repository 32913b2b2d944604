//! When the keys of neighbours have to be looked at again.
//!
//! The wall clock can jump, and no timer is armed for a moment of it. Of each chain it is known from when to when
//! nothing about it changes; a clock outside that span, on either side, is reason to look again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use crate::{config::Neighbor, keys::KeyChain};

use super::super::neighbors::Neighbors;

/// The chains of all neighbours. Holds secrets: no `Debug`.
#[derive(Default)]
pub struct Schedule {
    groups: Vec<Group>,
    /// What was last told of each neighbour, by number.
    told: HashMap<u32, Told>,
    /// When it was last logged that keys could not be brought to a moment.
    complained: Option<Instant>,
}

/// Neighbours with the same chain.
struct Group {
    keys: Arc<KeyChain>,
    /// How long before its end it is warned.
    warning: Option<Duration>,
    neighbors: Vec<u32>,
    /// The span in which all is as it was when last looked at.
    holds: Option<Span>,
}

#[derive(Clone, Copy)]
struct Span {
    from: Timestamp,
    /// `None`: for ever.
    until: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    preferred: Option<u32>,
    is_closed: bool,
    /// When the chain ends, if that is near enough to be warned of.
    ending: Option<Timestamp>,
}

/// What is new about the keys of some neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Neighbours by number; they have the same chain.
    pub neighbors: Vec<u32>,
    /// What it is.
    pub what: What,
}

/// What can be new about a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// This key is preferred from now on.
    Preferred(u32),
    /// No key may be sent with, or none is accepted.
    Closed,
    /// It is no longer closed.
    Open,
    /// It closes at this moment.
    Ending(Timestamp),
}

/// Time between two lines of the log about one lasting failure.
const COMPLAINT: Duration = Duration::from_secs(60);

impl Schedule {
    /// Returns whether a failure at `now` is to be logged: the first one, and then one a minute.
    pub fn complains(&mut self, now: Instant) -> bool {
        let is_due = self.complained.is_none_or(|last| now.duration_since(last) >= COMPLAINT);
        if is_due {
            self.complained = Some(now);
        }
        is_due
    }

    /// Takes in the neighbours of a new configuration; all are to be looked at.
    pub fn follow(&mut self, neighbors: &Neighbors) {
        let mut groups: HashMap<(*const KeyChain, Option<Duration>), Group> = HashMap::new();
        for (number, neighbor) in neighbors.iter() {
            let Neighbor { keys, key_warning: warning, .. } = neighbor;
            let group = groups.entry((Arc::as_ptr(keys), *warning)).or_insert_with(|| Group {
                keys: Arc::clone(keys),
                warning: *warning,
                neighbors: Vec::new(),
                holds: None,
            });
            group.neighbors.push(number);
        }
        self.groups = groups.into_values().collect();
        self.groups.sort_by_key(|group| group.neighbors[0]);
        self.told.retain(|number, _| neighbors.numbered(*number).is_some());
    }

    /// The neighbours whose keys may be others at `now` than when they were last looked at.
    pub fn due(&self, now: Timestamp) -> HashSet<u32> {
        let due = self.groups.iter().filter(|group| !group.holds_at(now));
        due.flat_map(|group| group.neighbors.iter().copied()).collect()
    }

    /// The neighbours with more keys than a session has room for: which of them it needs is up to the peer.
    pub fn crowded(&self, now: Timestamp) -> HashSet<u32> {
        let crowded = self.groups.iter().filter(|group| group.keys.more_than_fit(now));
        crowded.flat_map(|group| group.neighbors.iter().copied()).collect()
    }

    /// Takes in that those which were due have been brought to `now`, and tells what is new about them.
    pub fn settle(&mut self, now: Timestamp) -> Vec<News> {
        let mut news = Vec::new();
        for group in self.groups.iter_mut().filter(|group| !group.holds_at(now)) {
            let (told, until) = group.look(now);
            group.holds = Some(Span { from: now, until });
            let mut by_what: Vec<News> = Vec::new();
            for number in &group.neighbors {
                for what in told.since(self.told.insert(*number, told)) {
                    match by_what.iter_mut().find(|news| news.what == what) {
                        Some(news) => news.neighbors.push(*number),
                        None => by_what.push(News { neighbors: vec![*number], what }),
                    }
                }
            }
            news.extend(by_what);
        }
        news
    }
}

impl Group {
    fn holds_at(&self, now: Timestamp) -> bool {
        self.holds.is_some_and(|span| span.from <= now && span.until.is_none_or(|until| now < until))
    }

    /// What there is to tell at `now`, and until when that stays so.
    fn look(&self, now: Timestamp) -> (Told, Option<Timestamp>) {
        let closes = self.keys.closes_at(now);
        let warned_from = closes.and_then(|closes| warned_from(closes, self.warning?));
        let told = Told {
            preferred: self.keys.preferred(now).map(|key| key.number),
            is_closed: self.keys.is_closed(now),
            ending: closes.filter(|_| warned_from.is_some_and(|from| from <= now)),
        };
        let next = [self.keys.next_change(now), warned_from.filter(|from| now < *from)];
        (told, next.into_iter().flatten().min())
    }
}

impl Told {
    fn since(self, before: Option<Self>) -> Vec<What> {
        // What is as it is when the daemon starts is no news, unless it is bad.
        let before = before.unwrap_or(Self { preferred: self.preferred, is_closed: false, ending: None });
        let preferred = self.preferred.filter(|_| self.preferred != before.preferred);
        let closed = match (before.is_closed, self.is_closed) {
            (false, true) => Some(What::Closed),
            (true, false) => Some(What::Open),
            _ => None,
        };
        let ending = self.ending.filter(|_| self.ending != before.ending);
        (closed.into_iter()).chain(preferred.map(What::Preferred)).chain(ending.map(What::Ending)).collect()
    }
}

/// From when on the end of a chain at `closes` is warned of.
pub fn warned_from(closes: Timestamp, warning: Duration) -> Option<Timestamp> {
    let warning = SignedDuration::try_from(warning).ok()?;
    Some(closes.checked_sub(warning).unwrap_or(Timestamp::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keys::{ChainKey, Lifetime},
        sessions::testing::neighbor,
    };

    const DAY: i64 = 86_400;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Neighbours from 1 on, with chains of keys from 1 on, valid from and until a day.
    fn schedule(chains: &[&[(i64, i64)]]) -> Schedule {
        let chain = |lifetimes: &[(i64, i64)]| {
            let mkt = neighbor("192.0.2.1").keys.first().clone();
            let keys = (1..).zip(lifetimes).map(|(number, (start, end))| {
                let lifetime = Lifetime { start: at(start * DAY), end: at(end * DAY) };
                ChainKey { number, mkt: mkt.clone(), send: lifetime, accept: lifetime }
            });
            Arc::new(KeyChain { name: None, keys: keys.collect() })
        };
        let configured = (1..).zip(chains).map(|(last, lifetimes)| Neighbor {
            keys: chain(lifetimes),
            key_warning: Some(Duration::from_secs(7 * DAY as u64)),
            ..neighbor(&format!("192.0.2.{last}"))
        });
        let mut schedule = Schedule::default();
        let nobody = (Neighbors::default(), HashMap::new());
        schedule.follow(&Neighbors::number(configured, &nobody.0, &nobody.1, &|_| None));
        schedule
    }

    /// What is new on a day.
    fn told(schedule: &mut Schedule, day: i64) -> Vec<What> {
        schedule.settle(at(day * DAY)).into_iter().map(|news| news.what).collect()
    }

    #[test]
    fn a_lasting_failure_is_logged_once_a_minute() {
        let mut schedule = Schedule::default();
        let begun = Instant::now();
        let rounds = (0..240u32).map(|round| begun + round * super::super::INTERVAL);
        assert_eq!(rounds.filter(|now| schedule.complains(*now)).count(), 2);
    }

    #[test]
    fn a_chain_is_looked_at_when_something_about_it_changes_and_not_before() {
        let mut schedule = schedule(&[&[(0, 20), (10, 40)]]);
        let is_due = |schedule: &Schedule, day| !schedule.due(at(day * DAY)).is_empty();
        assert!(is_due(&schedule, 1), "it never was");
        assert_eq!(told(&mut schedule, 1), []);
        for (day, expected) in [
            (10, vec![What::Preferred(2)]),
            (20, vec![]),
            (33, vec![What::Ending(at(40 * DAY))]),
            (40, vec![What::Closed]),
        ] {
            assert!(!is_due(&schedule, day - 1), "on day {day} and not before");
            assert!(is_due(&schedule, day));
            assert_eq!(told(&mut schedule, day), expected, "on day {day}");
            assert_eq!(told(&mut schedule, day), [], "once");
        }
        assert!(!is_due(&schedule, 1000));
    }

    #[test]
    fn a_clock_that_goes_back_is_followed() {
        let mut schedule = schedule(&[&[(0, 20), (10, 40)]]);
        told(&mut schedule, 15);
        assert!(schedule.due(at(15 * DAY - 1)).contains(&1));
        assert_eq!(told(&mut schedule, 5), [What::Preferred(1)]);
        told(&mut schedule, 50);
        assert_eq!(told(&mut schedule, 15), [What::Open, What::Preferred(2)]);
    }

    #[test]
    fn what_is_bad_from_the_start_is_told() {
        assert_eq!(told(&mut schedule(&[&[(0, 20)]]), 30), [What::Closed]);
        assert_eq!(told(&mut schedule(&[&[(0, 20)]]), 19), [What::Ending(at(20 * DAY))]);
    }

    #[test]
    fn neighbours_of_one_chain_are_told_of_together() {
        let mut both = schedule(&[&[(0, 20)], &[(0, 20)]]);
        assert_eq!(both.settle(at(30 * DAY)).len(), 2, "each has a chain of its own");
        let chain = Arc::clone(&both.groups[0].keys);
        let configured =
            ["192.0.2.1", "192.0.2.2"].map(|peer| Neighbor { keys: Arc::clone(&chain), ..neighbor(peer) });
        let neighbors = Neighbors::number(configured, &Neighbors::default(), &HashMap::new(), &|_| None);
        both.follow(&neighbors);
        assert_eq!(both.settle(at(30 * DAY)), [], "they were told before");
        let news = both.settle(at(5 * DAY));
        assert_eq!(news[0], News { neighbors: vec![1, 2], what: What::Open });
        // One that comes back is as one that was never there.
        both.follow(&Neighbors::default());
        both.follow(&neighbors);
        assert_eq!(both.settle(at(30 * DAY)), [News { neighbors: vec![1, 2], what: What::Closed }]);
    }
}
