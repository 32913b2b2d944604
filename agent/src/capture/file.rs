//! Capture files: pcap (either byte order, microseconds or nanoseconds) and pcapng.

use std::io::{self, Read};

use super::pcapng;

/// A frame of a capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number in the file, from 1, as other programs count.
    pub number: u64,
    /// When it was captured; `None` if the file does not say.
    pub time: Option<Timestamp>,
    /// What the octets begin with.
    pub link: Link,
    /// The octets, as many as were captured.
    pub octets: Vec<u8>,
}

/// Nanoseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i128);

/// Link-layer header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet.
    Ethernet,
    /// Linux "cooked" v1: what a capture on the interface `any` has.
    CookedV1,
    /// Linux "cooked" v2.
    CookedV2,
    /// None: the IP header comes first.
    RawIp,
}

impl Link {
    /// The link type with this LINKTYPE number (or the DLT number some systems write for raw IP).
    pub fn from_number(number: u32) -> Result<Self, CaptureError> {
        match number {
            1 => Ok(Self::Ethernet),
            113 => Ok(Self::CookedV1),
            276 => Ok(Self::CookedV2),
            12 | 14 | 101 | 228 | 229 => Ok(Self::RawIp),
            other => Err(CaptureError::Link(other)),
        }
    }
}

/// Why a capture file cannot be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// Neither pcap nor pcapng.
    #[error(
        "not a capture file: it begins as neither pcap nor pcapng does (unpack it first if it is compressed)"
    )]
    Format,
    /// The file ends within a record.
    #[error("the capture file ends in the middle of record {0}: was the capture still being written?")]
    Incomplete(u64),
    /// A record contradicts itself.
    #[error("record {record} of the capture file is damaged: {what}")]
    Damaged {
        /// Number of the record (pcap) or block (pcapng), from 1.
        record: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A link type that is not supported.
    #[error(
        "link type {0} of the capture is not supported: capture on an Ethernet interface, on `any`, or raw IP"
    )]
    Link(u32),
    /// The system could not read the file.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the frames of a capture file, one after the other.
pub struct Frames<R> {
    source: Source<R>,
    format: Format,
    number: u64,
    failed: bool,
}

enum Format {
    Pcap { order: ByteOrder, nanoseconds: bool, link: Link },
    Pcapng(pcapng::Sections),
}

impl<R: Read> Frames<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// [`CaptureError`] if this is no capture file, or one of an unsupported link type.
    pub fn new(input: R) -> Result<Self, CaptureError> {
        let mut source = Source { input, record: 0 };
        let magic: [u8; 4] = match source.array() {
            Err(CaptureError::Incomplete(_)) => return Err(CaptureError::Format),
            other => other?,
        };
        let format = match magic {
            pcapng::SECTION_HEADER => Format::Pcapng(pcapng::Sections::begin(&mut source)?),
            [0xd4, 0xc3, 0xb2, 0xa1] => pcap_header(&mut source, ByteOrder::Little, false)?,
            [0x4d, 0x3c, 0xb2, 0xa1] => pcap_header(&mut source, ByteOrder::Little, true)?,
            [0xa1, 0xb2, 0xc3, 0xd4] => pcap_header(&mut source, ByteOrder::Big, false)?,
            [0xa1, 0xb2, 0x3c, 0x4d] => pcap_header(&mut source, ByteOrder::Big, true)?,
            _ => return Err(CaptureError::Format),
        };
        Ok(Self { source, format, number: 0, failed: false })
    }

    fn read(&mut self) -> Result<Option<Frame>, CaptureError> {
        let found = match &mut self.format {
            Format::Pcap { order, nanoseconds, link } => {
                pcap_record(&mut self.source, *order, *nanoseconds, *link)?
            }
            Format::Pcapng(sections) => sections.next_packet(&mut self.source)?,
        };
        self.number += 1;
        Ok(found.map(|(time, link, octets)| Frame { number: self.number, time, link, octets }))
    }
}

/// Ends after the first error.
impl<R: Read> Iterator for Frames<R> {
    type Item = Result<Frame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = self.read();
        self.failed = result.is_err();
        result.transpose()
    }
}

/// What is found of a frame in the file.
pub(super) type Found = (Option<Timestamp>, Link, Vec<u8>);

/// The input and how many records of it were begun.
pub(super) struct Source<R> {
    input: R,
    pub(super) record: u64,
}

impl<R: Read> Source<R> {
    /// The next `N` octets.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CaptureError> {
        let mut octets = [0; N];
        self.input.read_exact(&mut octets).map_err(|error| self.incomplete(error))?;
        Ok(octets)
    }

    /// The next `N` octets, or `None` if the file ends before the first.
    pub(super) fn array_or_end<const N: usize>(&mut self) -> Result<Option<[u8; N]>, CaptureError> {
        let mut octets = Vec::with_capacity(N);
        self.input.by_ref().take(N as u64).read_to_end(&mut octets)?;
        match octets.try_into() {
            Ok(octets) => Ok(Some(octets)),
            Err(octets) if octets.is_empty() => Ok(None),
            Err(_) => Err(CaptureError::Incomplete(self.record)),
        }
    }

    /// The next `len` octets.
    pub(super) fn octets(&mut self, len: u32) -> Result<Vec<u8>, CaptureError> {
        if len > MAX_RECORD {
            return Err(self.damaged("it is too long"));
        }
        let mut octets = Vec::new();
        self.input.by_ref().take(len.into()).read_to_end(&mut octets)?;
        if octets.len() < len as usize {
            return Err(CaptureError::Incomplete(self.record));
        }
        Ok(octets)
    }

    /// The current record is wrong.
    pub(super) fn damaged(&self, what: &'static str) -> CaptureError {
        CaptureError::Damaged { record: self.record, what }
    }

    fn incomplete(&self, error: io::Error) -> CaptureError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => CaptureError::Incomplete(self.record),
            _ => error.into(),
        }
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

/// What follows the magic number: version, zone, accuracy, snapshot length, link type.
fn pcap_header<R: Read>(
    source: &mut Source<R>,
    order: ByteOrder,
    nanoseconds: bool,
) -> Result<Format, CaptureError> {
    let _: [u8; 16] = source.array()?;
    // The upper bits say how long the frame check sequence is, and are not part of the number.
    let link = Link::from_number(order.u32(source.array()?) & 0xffff)?;
    Ok(Format::Pcap { order, nanoseconds, link })
}

fn pcap_record<R: Read>(
    source: &mut Source<R>,
    order: ByteOrder,
    nanoseconds: bool,
    link: Link,
) -> Result<Option<Found>, CaptureError> {
    source.record += 1;
    let Some(seconds) = source.array_or_end()? else { return Ok(None) };
    let fraction = i128::from(order.u32(source.array()?)) * if nanoseconds { 1 } else { 1_000 };
    let captured = order.u32(source.array()?);
    let _original_len: [u8; 4] = source.array()?;
    let time = Timestamp(i128::from(order.u32(seconds)) * NANOSECONDS + fraction);
    Ok(Some((Some(time), link, source.octets(captured)?)))
}

pub(super) const NANOSECONDS: i128 = 1_000_000_000;

/// Longest record that is believed: four times what libpcap takes for a frame.
const MAX_RECORD: u32 = 1 << 20;
