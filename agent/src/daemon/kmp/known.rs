//! What handshakes with neighbours told: what was agreed, what the peer could do, and what failed.

use std::{collections::HashMap, sync::Arc};

use crate::{
    kmp::{Capabilities, tls::Summary},
    sessions::Monotonic,
};

/// What is known of each neighbour, by number.
#[derive(Default)]
pub(in super::super) struct Known(HashMap<u32, Handshakes>);

/// The handshakes with a neighbour.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes {
    /// What the last one agreed on, and what the peer said in it that it can do.
    pub last: Option<(Summary, Arc<Capabilities>)>,
    /// The last one that failed, unless a later one did not.
    pub failure: Option<Failure>,
}

/// A handshake that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Failure {
    /// For an operator, in one line.
    pub text: String,
    /// When.
    pub at: Monotonic,
    /// How many failed, one after the other.
    pub attempts: u32,
    /// When the next attempt begins, if it does by itself.
    pub next: Option<Monotonic>,
}

impl Known {
    /// A handshake with a neighbour is over.
    pub fn succeeded(&mut self, neighbor: u32, tls: Summary, peer: Arc<Capabilities>) {
        self.0.insert(neighbor, Handshakes { last: Some((tls, peer)), failure: None });
    }

    /// A handshake with a neighbour failed; the next one begins at `next`, if it does by itself. How many have failed
    /// for this reason since one did not.
    pub fn failed(&mut self, neighbor: u32, text: &str, now: Monotonic, next: Option<Monotonic>) -> u32 {
        let known = self.0.entry(neighbor).or_default();
        let before = known.failure.take();
        let is_same = before.as_ref().is_some_and(|before| before.text == text);
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        known.failure = Some(Failure { text: text.to_owned(), at: now, attempts, next });
        if is_same { attempts } else { 1 }
    }

    /// What is known of a neighbour.
    pub(super) fn of(&self, neighbor: u32) -> Option<&Handshakes> {
        self.0.get(&neighbor)
    }

    /// Forgets neighbours that are no more, or whose configuration is another.
    pub fn retain(&mut self, stays: impl Fn(u32) -> bool) {
        self.0.retain(|number, _| stays(*number));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn failures_are_counted_until_a_handshake_is_over() {
        let mut known = Known::default();
        let fail = |known: &mut Known, text, at| known.failed(7, text, Monotonic(at), None);
        assert_eq!([1, 2].map(|at| fail(&mut known, "closed", at)), [1, 2]);
        assert_eq!(fail(&mut known, "filtered", 3), 1, "another reason is news");
        let failure = known.of(7).and_then(|known| known.failure.clone()).unwrap();
        assert_eq!((failure.text.as_str(), failure.at, failure.attempts), ("filtered", Monotonic(3), 3));
        let summary = Summary {
            version: "TLS 1.3".to_owned(),
            suite: "TLS_AES_128_GCM_SHA256".to_owned(),
            peer: "192.0.2.1".to_owned(),
        };
        let capabilities = Arc::new(Capabilities::ours(&[], Duration::from_secs(1)));
        known.succeeded(7, summary, capabilities);
        assert!(known.of(7).is_some_and(|known| known.failure.is_none()));
        fail(&mut known, "closed", 4);
        let after = known.of(7).unwrap();
        assert!(after.last.is_some() && after.failure.is_some(), "what was agreed stays known");
        known.retain(|number| number != 7);
        assert!(known.of(7).is_none());
    }
}
