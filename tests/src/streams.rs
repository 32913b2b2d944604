//! Data both ways over many connections, until told to stop.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    impair::Random,
    wait::{eventually, slowness},
};

/// Octets written at a time: a few segments.
const BLOCK: usize = 6000;

/// Time between two blocks of a direction, so that many connections leave the machine some rest; longer on slow ones.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections that carry data both ways.
pub struct Streams {
    stop: Arc<AtomicBool>,
    directions: Vec<Direction>,
}

/// One direction of a connection.
struct Direction {
    /// Gives how many octets it sent.
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<()>>,
    /// Octets that have arrived and were right.
    checked: Arc<AtomicU64>,
}

impl Streams {
    /// Starts on connections of which both ends are given.
    ///
    /// # Errors
    /// If a socket has no second handle.
    pub fn start(connections: Vec<(TcpStream, TcpStream)>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut directions = Vec::new();
        for (number, (near, far)) in (0..).zip(connections) {
            for (from, to, seed) in
                [(near.try_clone()?, far.try_clone()?, 2 * number), (far, near, 2 * number + 1)]
            {
                let checked = Arc::new(AtomicU64::new(0));
                let (stop, count) = (Arc::clone(&stop), Arc::clone(&checked));
                let sender = thread::spawn(move || send(from, seed, &stop));
                let receiver = thread::spawn(move || receive(to, seed, &count));
                directions.push(Direction { sender, receiver, checked });
            }
        }
        Ok(Self { stop, directions })
    }

    /// Waits until something new has arrived in every direction.
    ///
    /// # Errors
    /// If one stands still for `limit`.
    pub fn wait_until_all_move(&self, limit: Duration) -> Result<()> {
        let before = self.checked();
        eventually(limit, "data to go on", || {
            let now = self.checked();
            let still: Vec<_> = (0..now.len()).filter(|number| now[*number] == before[*number]).collect();
            ensure!(still.is_empty(), "directions {still:?} stand still");
            Ok(Some(()))
        })
    }

    /// How many directions have ended, which none does before [`Streams::finish`] unless something is wrong.
    pub fn ended(&self) -> usize {
        let ended =
            |direction: &&Direction| direction.sender.is_finished() || direction.receiver.is_finished();
        self.directions.iter().filter(ended).count()
    }

    /// Sends no more, waits until all has arrived and every connection is closed, and gives the octets.
    ///
    /// # Errors
    /// If one octet differed, was missing or too many, or a connection ended before or stood still for a minute.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        for (number, Direction { sender, receiver, checked }) in self.directions.into_iter().enumerate() {
            let context = || format!("direction {number}");
            let sent = join(sender).with_context(context)?;
            join(receiver).with_context(context)?;
            let received = checked.load(Ordering::Relaxed);
            ensure!(sent == received, "direction {number}: {sent} octets were sent, {received} arrived");
            total += received;
        }
        Ok(total)
    }

    /// Octets that have arrived and were right, by direction.
    fn checked(&self) -> Vec<u64> {
        self.directions.iter().map(|direction| direction.checked.load(Ordering::Relaxed)).collect()
    }
}

fn send(mut stream: TcpStream, seed: u64, stop: &AtomicBool) -> Result<u64> {
    let mut random = Random(seed);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&block(&mut random)).with_context(|| format!("write, after {sent} octets"))?;
        sent += BLOCK as u64;
        thread::sleep(PAUSE * slowness());
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

fn receive(mut stream: TcpStream, seed: u64, checked: &AtomicU64) -> Result<()> {
    let mut random = Random(seed);
    let mut buffer = vec![0; BLOCK];
    // Whole blocks are sent, so the end is between two of them.
    let so_far = || format!("read, after {} octets", checked.load(Ordering::Relaxed));
    while stream.peek(&mut [0]).with_context(so_far)? > 0 {
        stream.read_exact(&mut buffer).with_context(so_far)?;
        ensure!(buffer == block(&mut random), "data differ: {}", so_far());
        checked.fetch_add(BLOCK as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn block(random: &mut Random) -> Vec<u8> {
    (0..BLOCK / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
