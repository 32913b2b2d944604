//! The session under attack: a stream of zeros, and beside it a connection on which octets go to and fro.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tcpauth_tests::transfer::{self, Options};

use crate::bench::subject::Subject;

/// Of the stream's client.
const ISN: u32 = 1 << 20;

const BLOCK: usize = 64 << 10;

/// Between two octets of the connection beside the stream.
const PAUSE: Duration = Duration::from_millis(1);

/// Two connections of a subject.
pub struct Stream {
    near: TcpStream,
    far: TcpStream,
    beside: (TcpStream, TcpStream),
    received: Arc<AtomicU64>,
    /// As a BGP daemon's: what comes to the port is judged with its keys.
    _listener: OwnedFd,
}

/// What a while of the stream gave.
pub struct While {
    pub gigabits_per_second: f64,
    /// Time of each octet to and fro.
    pub milliseconds: Vec<f64>,
}

impl Stream {
    /// Connects.
    ///
    /// # Errors
    /// If a connection does not come up.
    pub fn open(subject: &Subject) -> Result<Self> {
        let (client, server) = subject.ends();
        let known = Options { isn: Some(ISN), ..subject.options.clone() };
        let (near, far) = transfer::pair(&client, &server, &known)?;
        let listener = transfer::listen(&server, client.address.ip(), &subject.options)?;
        let beside_near = transfer::connect(&client, server.address, &subject.options)?;
        let beside = (beside_near, transfer::accept(&listener)?);
        Ok(Self { near, far, beside, received: Arc::default(), _listener: listener.into() })
    }

    /// From whom to whom the data go.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn ends(&self) -> Result<(SocketAddr, SocketAddr)> {
        Ok((self.near.local_addr()?, self.far.local_addr()?))
    }

    /// Tells the sequence number of the next octet, as exactly as the receiver has read.
    pub fn next_seq(&self) -> impl Fn() -> u32 + Send + 'static {
        let received = Arc::clone(&self.received);
        move || ISN.wrapping_add(1).wrapping_add(received.load(Ordering::Relaxed) as u32)
    }

    /// Sends as much as goes through for `settle` and then for `duration`, of which it tells.
    ///
    /// # Errors
    /// If a connection ends, or an octet arrives that was not sent.
    pub fn run(&self, settle: Duration, duration: Duration) -> Result<While> {
        let (stop, last) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
        thread::scope(|scope| {
            let sender = scope.spawn(|| self.send(&stop, &last));
            let receiver = scope.spawn(|| self.receive(&last));
            thread::sleep(settle);
            let pinger = scope.spawn(|| self.ping(&stop));
            let (start, before) = (Instant::now(), self.received.load(Ordering::Relaxed));
            thread::sleep(duration);
            let octets = self.received.load(Ordering::Relaxed) - before;
            let seconds = start.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            joined(sender)?;
            joined(receiver)?;
            Ok(While {
                gigabits_per_second: octets as f64 * 8.0 / 1e9 / seconds,
                milliseconds: joined(pinger)?,
            })
        })
    }

    /// Whether both connections still carry data.
    ///
    /// # Errors
    /// If one does not.
    pub fn check(&self) -> Result<()> {
        transfer::ping(&self.beside.0, &self.beside.1)
    }

    /// Says in `last` how many octets there are before it sends the last of them.
    fn send(&self, stop: &AtomicBool, last: &AtomicU64) -> Result<()> {
        let block = vec![0; BLOCK];
        let mut sent = self.received.load(Ordering::Relaxed);
        loop {
            sent += BLOCK as u64;
            let is_last = stop.load(Ordering::Relaxed);
            if is_last {
                last.store(sent, Ordering::Relaxed);
            }
            (&self.near).write_all(&block)?;
            if is_last {
                return Ok(());
            }
        }
    }

    fn receive(&self, last: &AtomicU64) -> Result<()> {
        let (mut buffer, zeros) = (vec![0; 4 * BLOCK], vec![0; 4 * BLOCK]);
        while self.received.load(Ordering::Relaxed) < last.load(Ordering::Relaxed) {
            let length = (&self.far).read(&mut buffer)?;
            ensure!(length > 0, "the stream has ended");
            ensure!(buffer[..length] == zeros[..length], "a forged octet is in the stream");
            self.received.fetch_add(length as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn ping(&self, stop: &AtomicBool) -> Result<Vec<f64>> {
        let mut milliseconds = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            transfer::ping(&self.beside.0, &self.beside.1)?;
            milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
            thread::sleep(PAUSE);
        }
        Ok(milliseconds)
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
