//! Octets in order over segments that may be lost, repeated or reordered: what a TCP without options, congestion control
//! and close would do for the few thousand octets of a handshake.
//!
//! It speaks for our end of a connection that the two stacks have not finished to set up: its first octet has the number
//! ISN + 1. Nothing but segments that verified must come in here.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use tcpauth_common::{
    Isn,
    key_choice::flag::{ACK, FIN, RST, SYN},
};

pub use segment::{Segment, Timestamps};

mod segment;
#[cfg(test)]
mod tests;

/// Octets behind the last one in order that are taken in, and told to the peer as our window.
pub const WINDOW: u32 = 16 << 10;
/// Octets that are under way at most. Every receiver has room for them: the peer's window is not looked at.
pub const MAX_IN_FLIGHT: usize = 8 << 10;
/// Octets of data of a segment at most: with all headers it fits into the smallest MTU of IPv6 and into a record of the
/// data plane's.
pub const MAX_DATA: usize = 900;
/// Pieces that wait for an earlier one.
const MAX_PIECES: usize = 64;
/// When what was not acknowledged is sent again for the first time; doubled each time.
const FIRST_TIMEOUT: Duration = Duration::from_millis(200);
/// And in the end.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(1);

const PSH: u8 = 0x08;

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Our end's ISN.
    pub local_isn: Isn,
    /// The peer's ISN.
    pub peer_isn: Isn,
    /// The window field of what we send.
    pub window: u16,
    /// `None`: one of the SYNs had no timestamps.
    pub clock: Option<Clock>,
}

/// The clock of timestamps, which goes on from what our stack has sent: one a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it was.
    pub value: u32,
    /// When.
    pub at: Instant,
    /// The peer's, as last heard.
    pub echo: u32,
}

impl Origin {
    /// What resets the connection at our own stack, as if from the peer: the stack is where the SYNs left it.
    pub fn reset_from_peer(&self) -> Segment {
        reset(self.peer_isn.0.wrapping_add(1), self.local_isn.0.wrapping_add(1))
    }

    /// What resets the connection at the peer, if there was no stream.
    pub fn reset(&self) -> Segment {
        reset(self.local_isn.0.wrapping_add(1), self.peer_isn.0.wrapping_add(1))
    }
}

/// Why there will be no more octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// RST.
    #[error("the peer reset the connection")]
    Reset,
    /// FIN.
    #[error("the peer closed the connection")]
    Closed,
    /// An acknowledgment of what was never sent.
    #[error("the peer is at another handshake of this connection: has a tcpauthd been restarted?")]
    OtherHandshake,
}

/// Our end of a stream.
pub struct Stream {
    origin: Origin,
    /// Written and not acknowledged; the first has the number `acknowledged`.
    queue: VecDeque<u8>,
    /// Octets that the peer has acknowledged.
    acknowledged: u32,
    /// Octets that were sent, counted from the first; less after a timeout.
    sent: u32,
    /// The most that `sent` ever was.
    highest_sent: u32,
    /// Octets that came, in order.
    received: u32,
    /// Of those, what was not read.
    unread: Vec<u8>,
    /// What came too early, by its number.
    early: BTreeMap<u32, Vec<u8>>,
    /// Whether there is something to tell by an acknowledgment.
    owes_ack: bool,
    /// Whether the first of what is under way was sent again because of a repeated acknowledgment.
    is_repeated: bool,
    timeout: Duration,
    due: Option<Instant>,
}

impl Stream {
    /// Begins; the end that opened the connection `owes_ack` to the peer's SYN-ACK.
    pub fn new(origin: Origin, owes_ack: bool) -> Self {
        Self {
            origin,
            queue: VecDeque::new(),
            acknowledged: 0,
            sent: 0,
            highest_sent: 0,
            received: 0,
            unread: Vec::new(),
            early: BTreeMap::new(),
            owes_ack,
            is_repeated: false,
            timeout: FIRST_TIMEOUT,
            due: None,
        }
    }

    /// Takes in a segment of the peer.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over.
    pub fn on_segment(&mut self, segment: &Segment, now: Instant) -> Result<(), StreamError> {
        // Relative to what is expected next.
        let at = segment.seq.wrapping_sub(self.next_received()).cast_signed();
        let is_near = at <= WINDOW.cast_signed() && at >= -(self.received.cast_signed()) - 1;
        if !is_near {
            return Ok(());
        }
        if segment.flags & RST != 0 {
            return Err(StreamError::Reset);
        }
        if segment.flags & ACK == 0 {
            return Ok(());
        }
        if segment.flags & SYN != 0 {
            // The SYN-ACK once more.
            self.owes_ack = true;
            return Ok(());
        }
        if let (Some(clock), Some(heard), true) = (&mut self.origin.clock, segment.timestamps, at <= 0) {
            clock.echo = heard.value;
        }
        self.take_ack(segment, now)?;
        if !segment.data.is_empty() {
            self.owes_ack = true;
            self.take_data(at, &segment.data);
        }
        // Behind all of its data: its own stack speaks, which knows of no handshake.
        if segment.flags & FIN != 0 { Err(StreamError::Closed) } else { Ok(()) }
    }

    /// Sends `octets`, as soon as it can be.
    pub fn write(&mut self, octets: &[u8]) {
        self.queue.extend(octets);
    }

    /// What came since the last time.
    pub fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// Octets that were written.
    pub fn written(&self) -> u32 {
        self.acknowledged + self.queue.len() as u32
    }

    /// Octets that came, in order.
    pub fn received(&self) -> u32 {
        self.received
    }

    /// What is to be sent now.
    pub fn segments_to_send(&mut self, now: Instant) -> Vec<Segment> {
        if self.due.is_some_and(|due| due <= now) {
            self.sent = self.acknowledged;
            self.timeout = (self.timeout * 2).min(LONGEST_TIMEOUT);
            self.due = None;
        }
        let mut segments = Vec::new();
        let end = self.queue.len().min(MAX_IN_FLIGHT);
        loop {
            let from = (self.sent - self.acknowledged) as usize;
            if from >= end {
                break;
            }
            let len = (end - from).min(MAX_DATA);
            segments.push(self.data_segment(from, len, now));
            self.sent += len as u32;
            self.highest_sent = self.highest_sent.max(self.sent);
            self.due.get_or_insert(now + self.timeout);
        }
        if segments.is_empty() && self.owes_ack {
            segments.push(self.segment(ACK, self.highest_sent, Vec::new(), now));
        }
        self.owes_ack = false;
        segments
    }

    /// When [`Stream::segments_to_send`] has something again, if nothing comes in.
    pub fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// The segment that resets the connection.
    pub fn reset(&self) -> Segment {
        reset(self.number(self.highest_sent), self.next_received())
    }

    fn take_ack(&mut self, segment: &Segment, now: Instant) -> Result<(), StreamError> {
        let forward = segment.ack.wrapping_sub(self.number(self.acknowledged)).cast_signed();
        if forward > (self.highest_sent - self.acknowledged).cast_signed() {
            return Err(StreamError::OtherHandshake);
        }
        if forward > 0 {
            let forward = forward.unsigned_abs();
            self.queue.drain(..forward as usize);
            self.acknowledged += forward;
            self.sent = self.sent.max(self.acknowledged);
            self.is_repeated = false;
            self.timeout = FIRST_TIMEOUT;
            self.due = (self.highest_sent > self.acknowledged).then(|| now + self.timeout);
        } else if forward == 0
            && segment.data.is_empty()
            && self.sent > self.acknowledged
            && !self.is_repeated
        {
            // Something came out of order: the first may be lost. Once, as it may also have been overtaken.
            self.is_repeated = true;
            self.due = Some(now);
        }
        Ok(())
    }

    /// Takes in data that begin `at` octets behind what is expected next.
    fn take_data(&mut self, at: i32, data: &[u8]) {
        let skipped = at.min(0).unsigned_abs() as usize;
        let Some(data) = data.get(skipped..) else { return };
        let from = at.max(0).unsigned_abs();
        let room = (WINDOW - from) as usize;
        let data = &data[..data.len().min(room)];
        if data.is_empty() {
            return;
        }
        let number = self.received + from;
        let is_longer = self.early.get(&number).is_none_or(|piece| piece.len() < data.len());
        if is_longer && (from == 0 || self.early.len() < MAX_PIECES) {
            self.early.insert(number, data.to_vec());
        }
        while let Some(piece) = self.early.first_entry().filter(|piece| *piece.key() <= self.received) {
            let (number, octets) = piece.remove_entry();
            let known = (self.received - number) as usize;
            if let Some(new) = octets.get(known..) {
                self.unread.extend(new);
                self.received += new.len() as u32;
            }
        }
    }

    fn data_segment(&self, from: usize, len: usize, now: Instant) -> Segment {
        let data = self.queue.range(from..from + len).copied().collect();
        self.segment(ACK | PSH, self.acknowledged + from as u32, data, now)
    }

    fn segment(&self, flags: u8, at: u32, data: Vec<u8>, now: Instant) -> Segment {
        let timestamps = self.origin.clock.map(|Clock { value, at, echo }| {
            let gone_by = now.saturating_duration_since(at).as_millis() as u32;
            Timestamps { value: value.wrapping_add(gone_by), echo }
        });
        let (seq, ack, window) = (self.number(at), self.next_received(), self.origin.window);
        Segment { seq, ack, flags, window, timestamps, data }
    }

    /// The sequence number of our octet `at`.
    fn number(&self, at: u32) -> u32 {
        self.origin.local_isn.0.wrapping_add(1).wrapping_add(at)
    }

    fn next_received(&self) -> u32 {
        self.origin.peer_isn.0.wrapping_add(1).wrapping_add(self.received)
    }
}

fn reset(seq: u32, ack: u32) -> Segment {
    Segment { seq, ack, flags: RST | ACK, window: 0, timestamps: None, data: Vec::new() }
}
