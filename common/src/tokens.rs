//! Token buckets: guards against floods, filled with time.

use crate::layout::Tokens;

const SECOND: u64 = 1_000_000_000;

impl Tokens {
    /// Takes a token from a bucket that gains `rate` a second up to `rate`; false if it is empty. `now`: nanoseconds, of
    /// one clock for each bucket.
    ///
    /// Two CPUs may take the same token, and one may read the clock before another that has filled the bucket since:
    /// then no time has passed.
    #[inline(always)]
    pub fn take(&mut self, rate: u64, now: u64) -> bool {
        let elapsed = now.saturating_sub(self.filled);
        if self.left == 0 && elapsed < SECOND / rate {
            return false;
        }
        if elapsed >= SECOND {
            self.left = rate;
            self.filled = now;
        } else {
            let gained = elapsed * rate / SECOND;
            if gained > 0 {
                let left = self.left + gained;
                self.left = if left > rate { rate } else { left };
                self.filled = now;
            }
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_fills_nothing_and_is_not_set_back() {
        let mut tokens = Tokens { filled: 100, left: 0 };
        assert!(!tokens.take(1000, 99));
        assert_eq!(tokens, Tokens { filled: 100, left: 0 });
        let mut tokens = Tokens { filled: SECOND, left: 2 };
        assert!(tokens.take(1000, 1));
        assert_eq!(tokens, Tokens { filled: SECOND, left: 1 });
    }

    #[test]
    fn a_bucket_gains_its_rate_and_holds_no_more() {
        let mut tokens = Tokens::default();
        let begin = 5 * SECOND;
        assert_eq!((0..100).filter(|_| tokens.take(20, begin)).count(), 20);
        assert!(!tokens.take(20, begin + SECOND / 20 - 1));
        assert!(tokens.take(20, begin + SECOND / 20));
        assert!(!tokens.take(20, begin + SECOND / 20));
        assert_eq!((0..100).filter(|_| tokens.take(20, begin + 60 * SECOND)).count(), 20);
    }

    #[test]
    fn segments_at_any_pace_get_no_more_than_the_rate() {
        for pace in [1, 999, 333_333, 1_000_001, 7_000_000] {
            let mut tokens = Tokens::default();
            let begin = 1 << 40;
            let times = (0..3 * SECOND / pace.max(100_000)).map(|i| begin + i * pace.max(100_000));
            let taken = times.filter(|now| tokens.take(1000, *now)).count();
            assert!(taken <= 4000, "{taken} at {pace}");
        }
    }
}
