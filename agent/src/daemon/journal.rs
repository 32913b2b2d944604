//! The log of a daemon that systemd started: journald's native protocol, without ever waiting for journald.
//!
//! A stopped journald would otherwise stop the main loop, and with it new sessions and the watchdog.

use std::{
    fmt,
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest value of a field that is sent, bytes: a record has to fit into one datagram.
const MAX_VALUE: usize = 32 * 1024;

/// Sends records to journald. Records that journald does not take at once are lost and counted; the next record
/// that it takes comes after one that says how many.
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    lost: AtomicU64,
}

impl Journal {
    /// Returns a log to this host's journald.
    ///
    /// # Errors
    /// There is no journald.
    pub fn new() -> io::Result<Self> {
        let journal = Self::at(Path::new(SOCKET))?;
        match journal.socket.send_to(&[], &journal.path) {
            // A journald that stands still is there all the same.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(journal),
        }
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned(), lost: AtomicU64::new(0) })
    }

    fn send(&self, record: &[u8]) {
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 && self.socket.send_to(&loss(lost), &self.path).is_err() {
            self.lost.fetch_add(lost + 1, Relaxed);
        } else if self.socket.send_to(record, &self.path).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record::new(*metadata.level());
        record.put("TARGET", metadata.target());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            record.put("CODE_FILE", file);
            record.put("CODE_LINE", &line.to_string());
        }
        event.record(&mut record);
        self.send(&record.0);
    }
}

/// A record: each field as its name, its length and its value.
struct Record(Vec<u8>);

impl Record {
    fn new(level: Level) -> Self {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        let mut record = Self(Vec::with_capacity(512));
        record.put("PRIORITY", priority);
        record.put("SYSLOG_IDENTIFIER", "tcpauthd");
        record
    }

    fn put(&mut self, name: &str, value: &str) {
        let value = &value[..value.floor_char_boundary(MAX_VALUE)];
        let name = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        // Writing into a vector cannot fail.
        let _ = writeln!(self.0, "{}", name.collect::<String>());
        self.0.extend((value.len() as u64).to_le_bytes());
        self.0.extend(value.as_bytes());
        self.0.push(b'\n');
    }

    fn put_field(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("MESSAGE", value),
            name => self.put(&format!("F_{name}"), value),
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_field(field, &format!("{value:?}"));
    }
}

/// Returns the record that tells of `count` lost ones.
fn loss(count: u64) -> Vec<u8> {
    let mut record = Record::new(Level::WARN);
    record.put("MESSAGE", &format!("{count} messages are missing here: journald did not take them in time"));
    record.0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// A journald that reads nothing until it is asked to.
    fn journald() -> (tempfile::TempDir, UnixDatagram, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        journald.set_nonblocking(true).unwrap();
        (folder, journald, Journal::at(&path).unwrap())
    }

    fn records(journald: &UnixDatagram) -> Vec<String> {
        let mut buffer = vec![0; 64 * 1024];
        let mut records = Vec::new();
        while let Ok(len) = journald.recv(&mut buffer) {
            records.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
        records
    }

    #[test]
    fn a_record_has_level_message_and_fields() {
        let (_folder, journald, journal) = journald();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            tracing::warn!(neighbors = 3, name = "a\nb", "closed: {}", "why");
        });
        let records = records(&journald);
        assert_eq!(records.len(), 1);
        for field in [
            "PRIORITY\n\u{1}\0\0\0\0\0\0\x004\n",
            "MESSAGE\n\u{b}\0\0\0\0\0\0\0closed: why\n",
            "F_NEIGHBORS\n\u{1}\0\0\0\0\0\0\x003\n",
            "F_NAME\n\u{3}\0\0\0\0\0\0\0a\nb\n",
        ] {
            assert!(records[0].contains(field), "{:?} lacks {field:?}", records[0]);
        }
    }

    #[test]
    fn a_stopped_journald_blocks_nothing_and_what_is_lost_is_told() {
        let (_folder, journald, journal) = journald();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            let begun = Instant::now();
            for number in 0..5_000 {
                tracing::info!("message {number}");
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            let taken = records(&journald).len();
            assert!(taken < 5_000, "the queue of a socket has an end");
            tracing::info!("again");
            let then = records(&journald);
            assert_eq!(then.len(), 2);
            assert!(then[0].contains(&format!("{} messages are missing here", 5_000 - taken)), "{}", then[0]);
            assert!(then[1].contains("again"));
        });
    }
}
