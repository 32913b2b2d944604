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
