//! What `tcpauth verify` prints, as text and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::verify::Outcome;
use crate::capture::{CaptureError, Examined, Timestamp, Verdict};

/// Lines of output. When nobody reads them any more (`| head`), verifying goes on, for the exit code.
pub(super) struct Lines<W: Write> {
    out: W,
    is_open: bool,
    json: bool,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W, json: bool) -> Self {
        Self { out, is_open: true, json }
    }

    pub(super) fn segment(&mut self, examined: &Examined) {
        let line = if self.json { json(&SegmentLine::from(examined)) } else { text(examined) };
        self.line(&line);
    }

    pub(super) fn summary(&mut self, outcome: &Outcome) {
        let line = if self.json { json(&SummaryLine::from(outcome)) } else { outcome.summary.to_string() };
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.is_open = self.is_open && writeln!(self.out, "{line}").is_ok();
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        match self.out.flush() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

fn text(examined: &Examined) -> String {
    let mut line = match examined.time {
        Some(Timestamp(time)) => {
            format!("{}.{:06}", time.div_euclid(SECOND), time.rem_euclid(SECOND) / 1_000)
        }
        None => "-".to_owned(),
    };
    line += &format!(" {} > {}", examined.source, examined.destination);
    if let Some(header) = examined.header {
        line += &format!(" [{}] seq {} len {}", header.flags, header.seq.0, header.len);
    }
    if let Some(option) = &examined.option {
        let mac = hex::encode(&option.mac);
        line += &format!(" KeyID {} RNextKeyID {} MAC {mac}", option.key_id, option.rnext_key_id);
    }
    if let Some(digest) = &examined.digest {
        line += &format!(" MD5 {}", hex::encode(digest));
    }
    line + &format!(" {}", examined.verdict)
}

/// A segment as JSON. Fields are absent if the capture does not have them.
#[derive(Serialize)]
struct SegmentLine {
    frame: u64,
    /// Seconds since 1970-01-01 00:00 UTC, with nine digits behind the point.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    len: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rnext_key_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// `verified`, `failed` or `without-option`.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&Examined> for SegmentLine {
    fn from(examined: &Examined) -> Self {
        let option = examined.option.as_ref();
        let (verdict, reason) = match examined.verdict {
            Verdict::Verified => ("verified", None),
            Verdict::Failed(failure) => ("failed", Some(failure.to_string())),
            Verdict::WithoutOption => ("without-option", None),
        };
        Self {
            frame: examined.frame,
            time: examined
                .time
                .map(|Timestamp(time)| format!("{}.{:09}", time.div_euclid(SECOND), time.rem_euclid(SECOND))),
            source: examined.source.to_string(),
            destination: examined.destination.to_string(),
            flags: examined.header.map(|header| header.flags.to_string()),
            seq: examined.header.map(|header| header.seq.0),
            len: examined.header.map(|header| header.len),
            key_id: option.map(|option| option.key_id.0),
            rnext_key_id: option.map(|option| option.rnext_key_id.0),
            mac: option.map(|option| hex::encode(&option.mac)),
            digest: examined.digest.as_ref().map(hex::encode),
            verdict,
            reason,
        }
    }
}

/// The summary as JSON.
#[derive(Serialize)]
struct SummaryLine {
    segments: u64,
    verified: u64,
    failed: u64,
    without_option: u64,
    /// How many failed, by reason.
    reasons: BTreeMap<String, u64>,
    /// Frames that are not a neighbor's segments, by kind.
    other_frames: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<Unread>,
}

/// What of the file was not read.
#[derive(Serialize)]
struct Unread {
    /// Number of the record that could not be read, and where it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    reason: String,
}

impl From<&Outcome> for SummaryLine {
    fn from(Outcome { summary, rest, .. }: &Outcome) -> Self {
        Self {
            segments: summary.segments,
            verified: summary.verified,
            failed: summary.failed(),
            without_option: summary.without_option,
            reasons: summary.failed.iter().map(|(failure, count)| (failure.to_string(), *count)).collect(),
            other_frames: rest.others.iter().map(|(other, count)| (other.to_string(), count)).collect(),
            unread: rest.unread.as_ref().map(Unread::from),
        }
    }
}

impl From<&CaptureError> for Unread {
    fn from(error: &CaptureError) -> Self {
        let place = error.place();
        Self {
            record: place.map(|place| place.record),
            offset: place.map(|place| place.offset),
            reason: error.to_string(),
        }
    }
}

/// These structs of strings and numbers always have a JSON form.
fn json(line: &impl Serialize) -> String {
    serde_json::to_string(line).unwrap_or_default()
}

/// In nanoseconds.
const SECOND: i128 = 1_000_000_000;
