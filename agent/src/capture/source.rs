//! The octets of a capture file, in order.

use std::fmt;
use std::io::{self, Read};

use super::file::CaptureError;

/// The input, and how far it was read.
pub(super) struct Source<R> {
    input: R,
    /// Octets read.
    read: u64,
    /// The record that was begun last.
    record: Place,
}

/// A record (pcap) or block (pcapng) of a capture file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 1; 0 for the head of a pcap file.
    pub record: u64,
    /// How many octets of the file come before it.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} (at byte {})", self.record, self.offset)
    }
}

impl<R: Read> Source<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, read: 0, record: Place::default() }
    }

    /// Counts the record that begins here.
    pub(super) fn begin_record(&mut self) {
        self.record = Place { record: self.record.record + 1, offset: self.read };
    }

    /// Counts the record of which `len` octets were read before it was known for one.
    pub(super) fn begin_record_before(&mut self, len: u64) {
        self.begin_record();
        self.record.offset -= len;
    }

    /// The next `N` octets.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CaptureError> {
        self.array_or_end()?.ok_or(CaptureError::Incomplete(self.record))
    }

    /// The next `N` octets, or `None` if the file ends before the first.
    pub(super) fn array_or_end<const N: usize>(&mut self) -> Result<Option<[u8; N]>, CaptureError> {
        match self.up_to(N as u64)?.try_into() {
            Ok(octets) => Ok(Some(octets)),
            Err(octets) if octets.is_empty() => Ok(None),
            Err(_) => Err(CaptureError::Incomplete(self.record)),
        }
    }

    /// The next `len` octets, which are kept in memory: not more than a hostile file may have us take.
    pub(super) fn octets(&mut self, len: u32) -> Result<Vec<u8>, CaptureError> {
        if len > MAX_RECORD {
            return Err(self.damaged("it is too long"));
        }
        let octets = self.up_to(len.into())?;
        if octets.len() < len as usize {
            return Err(CaptureError::Incomplete(self.record));
        }
        Ok(octets)
    }

    /// Passes over the next `len` octets, however many.
    pub(super) fn skip(&mut self, len: u32) -> Result<(), CaptureError> {
        let skipped = io::copy(&mut self.input.by_ref().take(len.into()), &mut io::sink())?;
        self.read += skipped;
        if skipped < len.into() {
            return Err(CaptureError::Incomplete(self.record));
        }
        Ok(())
    }

    /// The current record is wrong.
    pub(super) fn damaged(&self, what: &'static str) -> CaptureError {
        CaptureError::Damaged { place: self.record, what }
    }

    /// As many octets as there are, up to `len`.
    fn up_to(&mut self, len: u64) -> Result<Vec<u8>, CaptureError> {
        let mut octets = Vec::new();
        self.input.by_ref().take(len).read_to_end(&mut octets)?;
        self.read += octets.len() as u64;
        Ok(octets)
    }
}

/// Byte order of a file's integers.
#[derive(Clone, Copy)]
pub(super) enum ByteOrder {
    Big,
    Little,
}

impl ByteOrder {
    pub(super) fn u16(self, octets: [u8; 2]) -> u16 {
        match self {
            Self::Big => u16::from_be_bytes(octets),
            Self::Little => u16::from_le_bytes(octets),
        }
    }

    pub(super) fn u32(self, octets: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(octets),
            Self::Little => u32::from_le_bytes(octets),
        }
    }

    pub(super) fn i64(self, octets: [u8; 8]) -> i64 {
        match self {
            Self::Big => i64::from_be_bytes(octets),
            Self::Little => i64::from_le_bytes(octets),
        }
    }
}

/// Longest record that is believed: four times what libpcap takes for a frame.
const MAX_RECORD: u32 = 1 << 20;
