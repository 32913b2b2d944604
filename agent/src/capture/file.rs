//! Capture files: pcap (either byte order, microseconds or nanoseconds) and pcapng.

use std::io::{self, Read};

use super::pcapng;
use super::source::{ByteOrder, Place, Source};

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
    /// The link type with this LINKTYPE number, which is not read.
    Other(u32),
}

impl Link {
    /// The link type with this LINKTYPE number (or the DLT number some systems write for raw IP).
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Ethernet,
            113 => Self::CookedV1,
            276 => Self::CookedV2,
            12 | 14 | 101 | 228 | 229 => Self::RawIp,
            other => Self::Other(other),
        }
    }
}

/// Why a capture file cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// No octet at all.
    #[error(
        "the capture file is empty: is the capture still being written (`tcpdump -U` writes each packet at once), or the \
         disk full?"
    )]
    Empty,
    /// Neither pcap nor pcapng.
    #[error("not a capture file: it begins as neither pcap nor pcapng does")]
    Format,
    /// A file in another format, or a compressed one: the text names it and says how to convert it.
    #[error("{0}")]
    Foreign(&'static str),
    /// The file ends within its head.
    #[error("the capture file ends within its head: is the capture still being written, or the disk full?")]
    Headless,
    /// The file ends within a record.
    #[error("the capture file ends in the middle of {0}: it is still being written, or the disk was full")]
    Incomplete(Place),
    /// A record contradicts itself.
    #[error("{place} is damaged: {what}")]
    Damaged {
        /// Which record.
        place: Place,
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

impl CaptureError {
    /// The record that could not be read, if it is one's fault.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Incomplete(place) | Self::Damaged { place, .. } => Some(*place),
            _ => None,
        }
    }
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
    /// [`CaptureError`] if this is no capture file, or one of an unsupported link type only.
    pub fn new(input: R) -> Result<Self, CaptureError> {
        let mut source = Source::new(input);
        let magic = match source.array_or_end() {
            Err(CaptureError::Incomplete(_)) => return Err(CaptureError::Format),
            other => other?.ok_or(CaptureError::Empty)?,
        };
        let format = match magic {
            pcapng::SECTION_HEADER => pcapng::Sections::first(&mut source).map(Format::Pcapng),
            [0xd4, 0xc3, 0xb2, 0xa1] => pcap_header(&mut source, ByteOrder::Little, false),
            [0x4d, 0x3c, 0xb2, 0xa1] => pcap_header(&mut source, ByteOrder::Little, true),
            [0xa1, 0xb2, 0xc3, 0xd4] => pcap_header(&mut source, ByteOrder::Big, false),
            [0xa1, 0xb2, 0x3c, 0x4d] => pcap_header(&mut source, ByteOrder::Big, true),
            other => Err(foreign(other).map_or(CaptureError::Format, CaptureError::Foreign)),
        };
        let format = format.map_err(|error| match error {
            CaptureError::Incomplete(_) => CaptureError::Headless,
            other => other,
        })?;
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

/// What a file is that begins with these octets.
fn foreign(magic: [u8; 4]) -> Option<&'static str> {
    Some(match magic {
        [0x1f, 0x8b, ..] => "the file is packed by gzip: unpack it first, with gunzip",
        [0xfd, b'7', b'z', b'X'] => "the file is packed by xz: unpack it first, with unxz",
        [0x28, 0xb5, 0x2f, 0xfd] => "the file is packed by zstd: unpack it first, with unzstd",
        [b'B', b'Z', b'h', _] => "the file is packed by bzip2: unpack it first, with bunzip2",
        [b's', b'n', b'o', b'o'] => {
            "the file is a snoop capture, which tcpauth does not read: convert it with `editcap -F pcap`"
        }
        [0x34, 0xcd, 0xb2, 0xa1] | [0xa1, 0xb2, 0xcd, 0x34] => {
            "the file is a \"modified\" pcap, which tcpauth does not read: convert it with `editcap -F pcap`"
        }
        _ => return None,
    })
}

/// What follows the magic number: version, zone, accuracy, snapshot length, link type.
fn pcap_header<R: Read>(
    source: &mut Source<R>,
    order: ByteOrder,
    nanoseconds: bool,
) -> Result<Format, CaptureError> {
    let _: [u8; 16] = source.array()?;
    // The upper bits say how long the frame check sequence is, and are not part of the number.
    match Link::from_number(order.u32(source.array()?) & 0xffff) {
        Link::Other(number) => Err(CaptureError::Link(number)),
        link => Ok(Format::Pcap { order, nanoseconds, link }),
    }
}

fn pcap_record<R: Read>(
    source: &mut Source<R>,
    order: ByteOrder,
    nanoseconds: bool,
    link: Link,
) -> Result<Option<Found>, CaptureError> {
    source.begin_record();
    let Some(seconds) = source.array_or_end()? else { return Ok(None) };
    let fraction = i128::from(order.u32(source.array()?)) * if nanoseconds { 1 } else { 1_000 };
    let captured = order.u32(source.array()?);
    let _original_len: [u8; 4] = source.array()?;
    let time = Timestamp(i128::from(order.u32(seconds)) * NANOSECONDS + fraction);
    Ok(Some((Some(time), link, source.octets(captured)?)))
}

pub(super) const NANOSECONDS: i128 = 1_000_000_000;
