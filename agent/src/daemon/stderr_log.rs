//! The log on standard error, without ever waiting for whoever reads it.
//!
//! A full pipe, or a terminal that is stopped, would otherwise stop the main loop, and with it new sessions and the
//! watchdog.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Messages that may wait.
const BACKLOG: usize = 4096;
/// Between two attempts to mark the end of the log.
const PAUSE: Duration = Duration::from_millis(5);

/// A log that a thread of its own writes. Messages for which there is no room are lost and counted; the next message
/// for which there is room comes after one that says how many.
#[derive(Clone)]
pub struct StderrLog {
    queue: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

/// What the thread gets.
enum Entry {
    /// A message, to be written.
    Message(Vec<u8>),
    /// To be answered once all before it is written.
    Mark(SyncSender<()>),
}

impl StderrLog {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start() -> io::Result<Self> {
        Self::over(io::stderr(), BACKLOG)
    }

    fn over(sink: impl Write + Send + 'static, backlog: usize) -> io::Result<Self> {
        let (queue, entries) = sync_channel(backlog);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(sink, &entries))?;
        Ok(Self { queue, lost: Arc::default() })
    }

    /// Waits until all messages are written, for `limit` at most.
    pub fn finish(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let (answer, written) = sync_channel(1);
        let mut mark = Entry::Mark(answer);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(mark) {
            if end <= Instant::now() {
                return;
            }
            mark = back;
            thread::sleep(PAUSE);
        }
        // Whether in time or not, there is nothing more to wait for.
        let _ = written.recv_timeout(end.saturating_duration_since(Instant::now()));
    }

    fn put(&self, message: &[u8]) {
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 && self.queue.try_send(Entry::Message(loss(lost))).is_err() {
            self.lost.fetch_add(lost + 1, Relaxed);
        } else if self.queue.try_send(Entry::Message(message.to_vec())).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for StderrLog {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Takes a whole message at a time, as `tracing_subscriber` writes it.
impl Write for &StderrLog {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        self.put(message);
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(mut sink: impl Write, entries: &Receiver<Entry>) {
    while let Ok(entry) = entries.recv() {
        // Nobody may be reading any more, and there is no other place to say so.
        match entry {
            Entry::Message(message) => _ = sink.write_all(&message),
            Entry::Mark(answer) => _ = answer.send(()),
        }
    }
}

fn loss(count: u64) -> Vec<u8> {
    format!("{count} messages are missing here: standard error did not take them in time\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::OwnedFd};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A log over a pipe, and the pipe's other end.
    fn piped(backlog: usize) -> (StderrLog, File) {
        let (reader, writer) = io::pipe().unwrap();
        (StderrLog::over(writer, backlog).unwrap(), File::from(OwnedFd::from(reader)))
    }

    fn logging(log: &StderrLog, what: impl FnOnce()) {
        let layer = tracing_subscriber::fmt::layer().with_writer(log.clone()).with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), what);
    }

    #[test]
    fn messages_are_written_in_their_order_before_the_end() {
        let (log, mut reader) = piped(1000);
        logging(&log, || (0..100).for_each(|number| tracing::info!("message {number};")));
        log.finish(LIMIT);
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let found: Vec<usize> =
            (0..100).map(|number| text.find(&format!("message {number};")).unwrap()).collect();
        assert!(found.is_sorted(), "{text}");
    }

    /// The pipe takes 64 KiB and the queue ten messages: without a thread the second half of this would never come.
    #[test]
    fn a_pipe_that_nobody_reads_stops_nothing_and_what_is_lost_is_told() {
        let (log, mut reader) = piped(10);
        let long = "x".repeat(1000);
        logging(&log, || (0..500).for_each(|number| tracing::info!("message {number}; {long}")));
        log.finish(Duration::from_millis(20));
        assert!(log.lost.load(Relaxed) > 0, "a pipe has an end");
        let read = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        log.finish(LIMIT);
        logging(&log, || tracing::info!("again"));
        log.finish(LIMIT);
        drop(log);
        let text = read.join().unwrap().unwrap();
        let told = text.lines().filter_map(|line| {
            line.strip_suffix(" messages are missing here: standard error did not take them in time")
        });
        let lost: usize = told.map(|count| count.parse::<usize>().unwrap()).sum();
        assert_eq!(text.matches("message ").count() + lost, 500, "{lost}");
        assert!(text.rfind("missing here").unwrap() < text.find("again").unwrap());
    }

    #[test]
    fn a_reader_that_has_gone_stops_nothing() {
        let (log, reader) = piped(10);
        drop(reader);
        logging(&log, || (0..500).for_each(|number| tracing::info!("message {number}")));
        log.finish(LIMIT);
    }
}
