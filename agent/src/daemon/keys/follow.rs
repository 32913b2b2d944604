//! Policies and sessions follow the lifetimes of keys.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    super::{Daemon, drops::wall_clock, rules::Replan},
    notices::{closed_reason, ending},
    schedule::{News, What},
};
use crate::{
    control::{protocol::Event, words::KeyChange},
    kernel::KernelError,
};

/// Time between two looks at the wall clock.
pub(in super::super) const INTERVAL: Duration = Duration::from_millis(500);

impl Daemon {
    /// Brings to this moment what time has changed. A failure is logged, and the next round tries again.
    pub(in super::super) fn follow_keys(&mut self) {
        let now = Timestamp::now();
        let due = self.schedule.due(now);
        if due.is_empty() {
            return;
        }
        match self.write_rules(self.current_rules(), &Replan::of(due)) {
            Ok(_) => {
                self.tell_keys(now);
                self.end_expired_channels(now);
            }
            Err(error) if self.schedule.complains(Instant::now()) => {
                tracing::error!("keys could not be brought to this moment: {error}");
            }
            Err(_) => {}
        }
    }

    /// Gives room in sessions to the keys that they use now, where there are more than fit.
    pub(in super::super) fn follow_peers(&mut self) -> Result<(), KernelError> {
        let crowded = self.schedule.crowded(Timestamp::now());
        if !crowded.is_empty() {
            self.write_rules(self.current_rules(), &Replan::of(crowded))?;
        }
        Ok(())
    }

    /// Tells log and followers what is new, once the maps are at `now`.
    pub(in super::super) fn tell_keys(&mut self, now: Timestamp) {
        let news = self.schedule.settle(now);
        // Who learns a secret that is given up is not to have what was agreed under it.
        let rolled = news.iter().filter(|news| matches!(news.what, What::Preferred(_)));
        let agreed = |number: &u32| self.neighbors.numbered(*number).is_some_and(|one| one.kmp.is_some());
        let rolled: BTreeSet<u32> =
            rolled.flat_map(|news| news.neighbors.iter().copied()).filter(agreed).collect();
        if !rolled.is_empty() {
            // First: what was being opened for new keys began under the old one, and is opened anew.
            self.renew_channels(&rolled, now);
            self.refresh_neighbors(&rolled);
        }
        for News { neighbors, what } in news {
            let named = || neighbors.iter().filter_map(|number| self.neighbors.numbered(*number));
            let Some(first) = named().next() else { continue };
            let (key, state, text) = match what {
                What::Preferred(key) => (
                    Some(key),
                    KeyChange::Preferred,
                    format!("key {key} is sent with and asked for from now on"),
                ),
                What::Closed => (None, KeyChange::Closed, closed_reason(&first.keys, now)),
                What::Open => (None, KeyChange::Open, "keys are valid again".to_owned()),
                What::Ending(closes) => (None, KeyChange::Ending, ending(closes, now)),
            };
            let owner = first.key_owner().to_string();
            match what {
                What::Closed => tracing::error!(neighbors = neighbors.len(), "{owner}: closed: {text}"),
                What::Ending(_) => tracing::warn!(neighbors = neighbors.len(), "{owner}: {text}"),
                _ => tracing::info!(neighbors = neighbors.len(), "{owner}: {text}"),
            }
            for neighbor in named() {
                // Nobody may be following.
                let _ = self.events.send(Event::Key {
                    time: wall_clock(),
                    neighbor: neighbor.peer.to_string(),
                    key,
                    state: state.clone(),
                    text: text.clone(),
                });
            }
        }
    }
}
