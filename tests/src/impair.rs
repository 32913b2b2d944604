//! A path that loses, repeats and reorders frames, or keeps some back until told.
//!
//! A forwarder in user space between two interfaces, as netem is not in every kernel.

use std::{
    collections::VecDeque,
    io::Read,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;
use socket2::Socket;

use crate::{
    frame::Segment,
    namespace::Namespace,
    wire::{lock, packet_socket, set_option, would_block},
};

/// How TCP segments are treated, each chosen at random by `seed`: the same seed, the same choices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Impairment {
    /// Frames lost, of a thousand.
    pub loss: u32,
    /// Frames sent twice, of a thousand.
    pub duplication: u32,
    /// Frames that later ones overtake, of a thousand.
    pub reordering: u32,
    /// Of the random choices.
    pub seed: u64,
}

/// What has been done to TCP segments so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Treated {
    /// Lost.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Overtaken.
    pub reordered: u64,
}

/// Passes frames between two interfaces until it is dropped.
pub struct Forwarder {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

type Predicate = Box<dyn Fn(&Segment) -> bool + Send>;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    gate: Mutex<Option<Predicate>>,
    filter: Mutex<Option<Predicate>>,
    kept: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
}

/// One direction.
struct Lane {
    from: Socket,
    to: Socket,
    impairment: Impairment,
    random: Random,
    /// Frames that others may overtake, and until when at the latest.
    late: VecDeque<(Instant, Vec<u8>)>,
    /// Frames kept back by the gate.
    kept: Vec<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Forwarder {
    /// Starts between interfaces `a` and `b` of `namespace`.
    ///
    /// # Errors
    /// If a socket cannot be opened.
    pub fn start(namespace: &Namespace, a: &str, b: &str, impairment: Impairment) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for (number, (from, to)) in [(a, b), (b, a)].into_iter().enumerate() {
            let (from, to) = namespace.enter(|| Ok((packet_socket(from)?, packet_socket(to)?)))?;
            set_option(&from, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
            from.set_read_timeout(Some(Duration::from_millis(2)))?;
            let random = Random(impairment.seed.wrapping_mul(2).wrapping_add(number as u64 + 1));
            let shared = Arc::clone(&shared);
            let (late, kept) = Default::default();
            let lane = Lane { from, to, impairment, random, late, kept, shared };
            threads.push(std::thread::spawn(move || lane.run()));
        }
        Ok(Self { shared, threads })
    }

    /// Keeps back the segments that `predicate` accepts, until [`Forwarder::release`].
    pub fn keep_back(&self, predicate: impl Fn(&Segment) -> bool + Send + 'static) {
        self.shared.kept.store(0, Ordering::Relaxed);
        *lock(&self.shared.gate) = Some(Box::new(predicate));
    }

    /// How many segments are kept back.
    pub fn kept(&self) -> u64 {
        self.shared.kept.load(Ordering::Relaxed)
    }

    /// Sends on what was kept back, and keeps nothing back any more.
    pub fn release(&self) {
        *lock(&self.shared.gate) = None;
    }

    /// Drops the segments that `predicate` accepts, until another one is given.
    pub fn filter(&self, predicate: impl Fn(&Segment) -> bool + Send + 'static) {
        *lock(&self.shared.filter) = Some(Box::new(predicate));
    }

    /// What has been done so far.
    pub fn treated(&self) -> Treated {
        Treated {
            lost: self.shared.lost.load(Ordering::Relaxed),
            duplicated: self.shared.duplicated.load(Ordering::Relaxed),
            reordered: self.shared.reordered.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Lane {
    fn run(mut self) -> Result<()> {
        let mut buffer = vec![0; 66_000];
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.from.read(&mut buffer) {
                Ok(length) => self.treat(&buffer[..length]),
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            while self.late.front().is_some_and(|(until, _)| *until <= now) {
                if let Some((_, frame)) = self.late.pop_front() {
                    self.send(&frame);
                }
            }
            if !self.kept.is_empty() && lock(&self.shared.gate).is_none() {
                for frame in std::mem::take(&mut self.kept) {
                    self.send(&frame);
                }
            }
        }
        Ok(())
    }

    fn treat(&mut self, frame: &[u8]) {
        let Some(segment) = Segment::parse(frame) else { return self.send(frame) };
        if lock(&self.shared.filter).as_ref().is_some_and(|drops| drops(&segment)) {
            return;
        }
        if lock(&self.shared.gate).as_ref().is_some_and(|accepts| accepts(&segment)) {
            self.kept.push(frame.to_owned());
            self.shared.kept.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Impairment { loss, duplication, reordering, .. } = self.impairment;
        let draw = self.random.below(1000);
        if draw < loss {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        } else if draw < loss + duplication {
            self.shared.duplicated.fetch_add(1, Ordering::Relaxed);
            self.send(frame);
            self.send(frame);
        } else if draw < loss + duplication + reordering {
            self.shared.reordered.fetch_add(1, Ordering::Relaxed);
            self.late.push_back((Instant::now() + Duration::from_millis(3), frame.to_owned()));
        } else {
            self.send(frame);
        }
    }

    /// A frame that the interface refuses is lost, as on any path.
    fn send(&self, frame: &[u8]) {
        let _ = self.to.send(frame);
    }
}

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Any number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit)) as u32
    }
}
