//! When to dial a neighbour's daemon, and which of two channels stays. Time is told.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// Before the second attempt.
const SHORTEST: Duration = Duration::from_millis(500);
/// Between two attempts, however often they failed.
const LONGEST: Duration = Duration::from_secs(30);
/// A channel that was up for so long had no fault that the next one has to be late for.
const GOOD: Duration = Duration::from_secs(10);
/// Channels that began within this time of each other were dialled by both ends at once. Longer than that, and the
/// end that dialled knew of the other channel, or has lost it.
pub const AT_ONCE: Duration = Duration::from_secs(2);

/// The attempts to reach one neighbour's daemon.
#[derive(Debug, Default)]
pub struct Dialer {
    failures: u32,
    last: Option<Instant>,
}

impl Dialer {
    /// An attempt begins.
    pub fn begin(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// The channel is gone, or never came up; it was up for `up`. When to dial again.
    pub fn again(&mut self, now: Instant, up: Option<Duration>) -> Instant {
        self.again_with(now, up, jitter())
    }

    fn again_with(&mut self, now: Instant, up: Option<Duration>, jitter: u8) -> Instant {
        if up.is_some_and(|up| GOOD <= up) {
            self.failures = 0;
        }
        let delay = SHORTEST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // From three quarters to one and a quarter: many that lost their neighbour at once do not come back at once.
        now + delay.mul_f64(0.75 + f64::from(jitter) / 512.0)
    }

    /// When to dial if keys are needed now, whatever [`Self::again`] said.
    pub fn at_once(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| now.max(last + SHORTEST))
    }
}

/// By how much somebody waits longer than others, so that not all do the same at once.
pub fn jitter() -> u8 {
    let mut jitter = [128];
    // Without randomness all wait for as long.
    let _ = getrandom::fill(&mut jitter);
    jitter[0]
}

/// Whether it is for the end with this address to keep a channel up: the other one waits for it.
pub fn dials(local: IpAddr, peer: IpAddr) -> bool {
    local < peer
}

/// One of two channels between the same ends.
#[derive(Clone, Copy, Debug)]
pub struct Rival {
    /// When it began.
    pub began: Instant,
    /// Whether the end with the lower address dialled it.
    pub by_lower: bool,
}

/// Whether `new`, which is up now, takes the place of `old`, which was up before.
pub fn replaces(new: Rival, old: Rival) -> bool {
    let together = new.began.max(old.began) - new.began.min(old.began) < AT_ONCE;
    if together && new.by_lower != old.by_lower { new.by_lower } else { new.began >= old.began }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attempts_become_rare_and_never_cease() {
        let now = Instant::now();
        let mut dialer = Dialer::default();
        let delays: Vec<u128> =
            (0..9).map(|_| (dialer.again_with(now, None, 128) - now).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        let delay = |dialer: &mut Dialer, up| (dialer.again_with(now, Some(up), 128) - now).as_millis();
        assert_eq!(delay(&mut dialer, Duration::from_secs(9)), 30_000, "it was hardly up");
        assert_eq!(delay(&mut dialer, GOOD), 500);
    }

    #[test]
    fn who_needs_keys_does_not_wait_for_long() {
        let now = Instant::now();
        let mut dialer = Dialer::default();
        assert_eq!(dialer.at_once(now), now);
        (0..9).for_each(|_| {
            dialer.again_with(now, None, 0);
        });
        dialer.begin(now);
        assert_eq!(dialer.at_once(now), now + SHORTEST);
        assert_eq!(dialer.at_once(now + LONGEST), now + LONGEST);
    }

    proptest! {
        #[test]
        fn jitter_is_a_quarter_at_most(failures in 0u32..40, jitter: u8) {
            let now = Instant::now();
            let mut dialer = Dialer { failures, last: None };
            let delay = dialer.again_with(now, None, jitter) - now;
            let middle = SHORTEST.saturating_mul(1 << failures.min(16)).min(LONGEST);
            prop_assert!(middle.mul_f64(0.75) <= delay && delay <= middle.mul_f64(1.25));
        }

        #[test]
        fn both_ends_keep_the_same_channel(
            first in 0u64..10_000, second in 0u64..10_000, seen in prop::array::uniform4(0u64..200),
            by_lower: (bool, bool), order: (bool, bool),
        ) {
            let begin = Instant::now();
            // Near the edge the two ends may see it differently: then a channel is dialled again.
            prop_assume!(first.abs_diff(second).abs_diff(AT_ONCE.as_millis() as u64) > 200);
            prop_assume!(by_lower.0 != by_lower.1 || first.abs_diff(second) > 200);
            let rival = |began: u64, late: u64, by_lower| Rival { began: begin + Duration::from_millis(began + late), by_lower };
            let stays = |late: &[u64], first_is_new: bool| {
                let (a, b) = (rival(first, late[0], by_lower.0), rival(second, late[1], by_lower.1));
                // Whichever of them is up last at this end.
                if first_is_new { replaces(a, b) } else { !replaces(b, a) }
            };
            prop_assert_eq!(stays(&seen[..2], order.0), stays(&seen[2..], order.1));
        }
    }

    #[test]
    fn the_lower_end_dials() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(dials(address("192.0.2.1"), address("192.0.2.2")));
        assert!(!dials(address("2001:db8::2"), address("2001:db8::1")));
    }
}
