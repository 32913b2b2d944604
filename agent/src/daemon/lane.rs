//! The lane: what others change about it is put right, and what is lost in it is told.

use std::time::Duration;

use super::Daemon;
use crate::{kernel::LaneState, sessions::Monotonic};

/// At changes that follow one another faster, the next round of upkeep is waited for: whoever makes them may undo what is
/// put right.
const PATIENCE: Duration = Duration::from_secs(1);
/// The log tells of lost frames once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What is known of the lane.
#[derive(Default)]
pub(super) struct LaneWatch {
    mended: Option<Monotonic>,
    /// Frames lost in lanes that are gone, and in the one of now.
    lost_before: u64,
    lost: u64,
    /// Frames that the log has told of, and when.
    told: u64,
    told_at: Option<Monotonic>,
}

impl LaneWatch {
    /// Frames lost in the lane since the daemon's start, or before it in the same lane.
    pub(super) fn lost(&self) -> u64 {
        self.lost_before.saturating_add(self.lost)
    }

    /// Takes in how many frames the lane of now has lost. Returns how many of all the log has to tell of.
    fn note(&mut self, lost: u64, now: Monotonic) -> Option<u64> {
        if lost < self.lost {
            self.lost_before = self.lost();
        }
        self.lost = lost;
        let untold = self.lost().saturating_sub(self.told);
        let is_due = self.told_at.is_none_or(|told| now.since(told) >= LOG_INTERVAL);
        (untold > 0 && is_due).then(|| {
            (self.told, self.told_at) = (self.lost(), Some(now));
            untold
        })
    }
}

impl Daemon {
    /// As [`Self::keep_lane`], when the kernel tells that something may have changed.
    pub(super) fn on_lane_event(&mut self) {
        if self.lane.mended.is_none_or(|mended| Monotonic::now().since(mended) >= PATIENCE) {
            self.keep_lane();
        }
    }

    /// Puts right what others have changed about the lane, and takes in what was lost there.
    pub(super) fn keep_lane(&mut self) {
        let LaneState { changes, dropped } = match self.dataplane.keep_lane() {
            Ok(state) => state,
            Err(error) => {
                // Trying may itself be told of as a change.
                self.lane.mended = Some(Monotonic::now());
                tracing::error!(
                    "the lane, in which segments are signed, cannot be put right, trying again: {error}"
                );
                return;
            }
        };
        let now = Monotonic::now();
        if !changes.is_empty() {
            self.lane.mended = Some(now);
            self.interfaces.learn_lane();
            tracing::warn!(
                "somebody changed the lane, in which segments are signed; put back: {}",
                changes.join(", ")
            );
        }
        if let Some(lost) = self.lane.note(dropped, now) {
            tracing::warn!(
                lost,
                "frames were lost on the way to be signed, because the kernel's queue was full; TCP sends them again. If it \
                 happens often, raise net.core.netdev_max_backlog"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_add_up_over_lanes_and_are_told_once_a_minute() {
        let at = |second: u64| Monotonic(second * 1_000_000_000);
        let mut watch = LaneWatch::default();
        assert_eq!(watch.note(0, at(1)), None);
        assert_eq!(watch.note(7, at(6)), Some(7));
        assert_eq!(watch.note(9, at(11)), None);
        assert_eq!(watch.note(9, at(66)), Some(2));
        // A new lane begins with zero.
        assert_eq!(watch.note(3, at(127)), Some(3));
        assert_eq!(watch.lost(), 12);
    }
}
