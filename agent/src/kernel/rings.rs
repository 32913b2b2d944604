//! What the programs report: held segments and drops.

use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, RingBuf};
use tcpauth_common::layout::{Dropped, Held, maps};
use tokio::io::unix::AsyncFd;

use super::{KernelError, pod::split_head};

/// Segments held for keys. Those of our own end and the answers to them come first, whatever else is there:
/// the others are SYNs, which anybody can forge.
pub struct HeldRing {
    own: Ring,
    others: Ring,
}

/// Segments dropped; the programs limit their rate.
pub struct DroppedRing(Ring);

impl HeldRing {
    /// Must be called within a tokio runtime with I/O enabled.
    pub(super) fn new(own: RingBuf<MapData>, others: RingBuf<MapData>) -> Result<Self, KernelError> {
        Ok(Self { own: Ring::new(maps::HELD_OWN, own)?, others: Ring::new(maps::HELD, others)? })
    }

    /// The next held segment and its frame, link layer included. Cancel-safe.
    ///
    /// # Errors
    /// A record that is no [`Held`] (it is consumed), or a failing poll.
    pub async fn next_held(&mut self) -> Result<(Held, Vec<u8>), KernelError> {
        // Each call looks at our own first: at most one forged SYN is between two of them.
        tokio::select! {
            biased;
            held = self.own.next(parse_held) => held,
            held = self.others.next(parse_held) => held,
        }
    }
}

impl DroppedRing {
    /// Must be called within a tokio runtime with I/O enabled.
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, KernelError> {
        Ring::new(maps::DROPPED, ring).map(Self)
    }

    /// The next drop. Cancel-safe.
    ///
    /// # Errors
    /// A record that is no [`Dropped`] (it is consumed), or a failing poll.
    pub async fn next_dropped(&mut self) -> Result<Dropped, KernelError> {
        self.0.next(|record| split_head(record).map(|(head, _)| head)).await
    }
}

/// Throws away what the ring has: records meant for a daemon that is gone.
pub(super) fn drain(ring: &mut RingBuf<MapData>) {
    while ring.next().is_some() {}
}

/// `frame_len` octets follow the head; the record may be longer, as it is reserved in one size.
fn parse_held(record: &[u8]) -> Option<(Held, Vec<u8>)> {
    let (held, rest) = split_head::<Held>(record)?;
    let frame = rest.get(..usize::try_from(held.frame_len).ok()?)?;
    Some((held, frame.to_vec()))
}

struct Ring {
    name: &'static str,
    ring: AsyncFd<Source>,
}

/// Ring buffer as tokio polls it.
struct Source(RingBuf<MapData>);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Ring {
    fn new(name: &'static str, ring: RingBuf<MapData>) -> Result<Self, KernelError> {
        // SAFETY: the map owns its descriptor, which is neither closed nor replaced while registered.
        let ring = unsafe { AsyncFd::register_with_interest(Source(ring), tokio::io::Interest::READABLE) }
            .map_err(|error| KernelError::System { action: "poll a ring buffer", source: error.into() })?;
        Ok(Self { name, ring })
    }

    async fn next<T>(&mut self, parse: impl Fn(&[u8]) -> Option<T>) -> Result<T, KernelError> {
        loop {
            if let Some(record) = self.ring.get_mut().0.next() {
                return parse(&record).ok_or(KernelError::Record { ring: self.name, len: record.len() });
            }
            let mut guard = self
                .ring
                .readable()
                .await
                .map_err(|source| KernelError::System { action: "poll a ring buffer", source })?;
            // Cleared before the ring is looked at again: what comes in between is found there.
            guard.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_record_is_cut_to_its_frame() {
        let mut record = vec![0; size_of::<Held>() + 10];
        let at = std::mem::offset_of!(Held, frame_len);
        record[at..at + 4].copy_from_slice(&4_u32.to_ne_bytes());
        assert_eq!(parse_held(&record).unwrap().1.len(), 4);
        record[at..at + 4].copy_from_slice(&11_u32.to_ne_bytes());
        assert!(parse_held(&record).is_none());
        assert!(parse_held(&record[..20]).is_none());
    }
}
