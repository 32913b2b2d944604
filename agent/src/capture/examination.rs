//! The segments of a capture in their order, each judged with those in view that follow it.
//!
//! Several receive queues of an interface, and captures that were merged, put frames in another order than they were sent
//! in: data before the SYN of its connection then has a wrong MAC, as far as is known. So a segment that did not
//! verify waits, and is tried again when more of the capture is known.

use std::collections::VecDeque;
use std::io::Read;

use super::file::{CaptureError, Frame, Frames};
use super::other::Others;
use super::verdict::{Examined, Failure, Verdict};
use super::verifier::Verifier;

/// Iterates over the neighbors' segments in a capture, in the capture's order.
pub struct Examination<'c, R> {
    frames: Frames<R>,
    verifier: Verifier<'c>,
    waiting: VecDeque<Waiting>,
    /// Octets of the frames that wait.
    held: usize,
    rest: Rest,
}

/// What a capture holds besides the neighbors' segments.
#[derive(Debug, Default)]
pub struct Rest {
    /// Other frames.
    pub others: Others,
    /// Why the file was not read to its end, if it was not.
    pub unread: Option<CaptureError>,
}

/// A segment, and the frame if it is tried again.
struct Waiting {
    examined: Examined,
    again: Option<Frame>,
}

impl<'c, R: Read> Examination<'c, R> {
    /// Examines `frames` by `verifier`.
    pub fn new(frames: Frames<R>, verifier: Verifier<'c>) -> Self {
        Self { frames, verifier, waiting: VecDeque::new(), held: 0, rest: Rest::default() }
    }

    /// What was found beside the segments, once there are no more.
    pub fn into_rest(self) -> Rest {
        self.rest
    }

    fn take(&mut self, frame: Frame) {
        match self.verifier.examine(&frame) {
            Ok(examined) => {
                let again = may_follow_its_isns(examined.verdict).then_some(frame);
                self.held += again.as_ref().map_or(0, |frame| frame.octets.len());
                self.waiting.push_back(Waiting { examined, again });
            }
            Err(other) => self.rest.others.count(other),
        }
    }

    /// Whether the first that waits need not wait any more.
    fn is_first_due(&self) -> bool {
        let is_final = self.waiting.front().is_some_and(|first| first.again.is_none());
        is_final || self.waiting.len() > LOOK_AHEAD || self.held > MAX_HELD
    }

    fn first(&mut self) -> Option<Examined> {
        let Waiting { examined, again } = self.waiting.pop_front()?;
        let Some(frame) = again else { return Some(examined) };
        self.held -= frame.octets.len();
        match self.verifier.examine(&frame) {
            Ok(second) if second.verdict == Verdict::Verified => Some(second),
            // Connections that began later say nothing against one of which no SYN was known.
            Ok(second) if examined.verdict != Verdict::Failed(Failure::SynMissing) => Some(second),
            _ => Some(examined),
        }
    }
}

impl<R: Read> Iterator for Examination<'_, R> {
    type Item = Examined;

    fn next(&mut self) -> Option<Examined> {
        while !self.is_first_due() {
            match self.frames.next() {
                Some(Ok(frame)) => self.take(frame),
                Some(Err(error)) => self.rest.unread = Some(error),
                None => break,
            }
        }
        self.first()
    }
}

/// Whether ISNs that come later in the capture can change it.
fn may_follow_its_isns(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Failed(Failure::SynMissing | Failure::SynAckMissing | Failure::WrongMac))
}

/// Segments that one waits for, at most. Queues of an interface differ by tens, merged captures by what arrives in the
/// difference of their clocks.
const LOOK_AHEAD: usize = 1024;

/// Octets that wait, at most, whatever a file has.
const MAX_HELD: usize = 16 << 20;
