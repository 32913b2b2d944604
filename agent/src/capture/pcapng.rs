//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng).

use std::io::Read;

use super::file::{CaptureError, Found, Link, NANOSECONDS, Timestamp};
use super::source::{ByteOrder, Source};

/// Type of the section header block: reads the same in both byte orders.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// The section that is being read.
pub(super) struct Sections {
    order: ByteOrder,
    interfaces: Vec<Interface>,
}

/// An interface of the section.
struct Interface {
    link: u16,
    /// Octets captured of a frame at most; 0 for all.
    snapshot_len: u32,
    /// Units of a timestamp in a second.
    resolution: i128,
    /// Seconds to add to timestamps.
    offset: i64,
}

impl Sections {
    /// Reads the section header that the file begins with, whose block type was just read.
    pub(super) fn first<R: Read>(source: &mut Source<R>) -> Result<Self, CaptureError> {
        source.begin_record_before(SECTION_HEADER.len() as u64);
        Self::begin(source)
    }

    /// The next packet, whatever sort of block it is in; `None` at the end of the file.
    pub(super) fn next_packet<R: Read>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<Option<Found>, CaptureError> {
        loop {
            source.begin_record();
            let Some(block) = source.array_or_end()? else { return Ok(None) };
            if block == SECTION_HEADER {
                *self = Self::begin(source)?;
                continue;
            }
            let len = self.order.u32(source.array()?);
            if len < 12 || !len.is_multiple_of(4) {
                return Err(source.damaged("its length is impossible"));
            }
            let block = self.order.u32(block);
            let body = match block {
                INTERFACE | PACKET | ENHANCED_PACKET | SIMPLE_PACKET => source.octets(len - 12)?,
                // TLS secrets, names, statistics: of any length, as nothing of them is kept.
                _ => source.skip(len - 12).map(|()| Vec::new())?,
            };
            if self.order.u32(source.array()?) != len {
                return Err(source.damaged("its two lengths differ"));
            }
            let found = match block {
                INTERFACE => {
                    let interface = interface(self.order, &body).ok_or_else(|| source.damaged(SHORT))?;
                    self.interfaces.push(interface);
                    continue;
                }
                PACKET | ENHANCED_PACKET => self.packet(block, &body),
                SIMPLE_PACKET => self.simple_packet(&body),
                _ => continue,
            };
            let (time, link, octets) = found.ok_or_else(|| source.damaged(SHORT))?;
            return Ok(Some((time, Link::from_number(link.into()), octets)));
        }
    }

    /// Reads the section header whose block type was just read.
    fn begin<R: Read>(source: &mut Source<R>) -> Result<Self, CaptureError> {
        let len = source.array()?;
        let order = match source.array()? {
            [0x1a, 0x2b, 0x3c, 0x4d] => ByteOrder::Big,
            [0x4d, 0x3c, 0x2b, 0x1a] => ByteOrder::Little,
            _ => return Err(source.damaged("the section's byte-order magic is wrong")),
        };
        // Version, section length, options and the trailing length.
        let rest = order.u32(len).checked_sub(12).ok_or_else(|| source.damaged("it is too short"))?;
        source.skip(rest)?;
        Ok(Self { order, interfaces: Vec::new() })
    }

    /// Interface, time (high, low), captured length, original length, octets.
    fn packet(&self, block: u32, body: &[u8]) -> Option<(Option<Timestamp>, u16, Vec<u8>)> {
        let number = match block {
            PACKET => self.order.u16(array(body, 0)?).into(),
            _ => self.order.u32(array(body, 0)?),
        };
        let interface = self.interfaces.get(number as usize)?;
        let [high, low] = [4, 8].map(|at| array(body, at).map(|octets| self.order.u32(octets)));
        let units = i128::from(high?) << 32 | i128::from(low?);
        let captured = self.order.u32(array(body, 12)?) as usize;
        let nanoseconds = units.checked_mul(NANOSECONDS)? / interface.resolution;
        let time = Timestamp(nanoseconds + i128::from(interface.offset) * NANOSECONDS);
        Some((Some(time), interface.link, body.get(20..)?.get(..captured)?.to_vec()))
    }

    /// Original length, octets; of the first interface, without a time.
    fn simple_packet(&self, body: &[u8]) -> Option<(Option<Timestamp>, u16, Vec<u8>)> {
        let interface = self.interfaces.first()?;
        let original = self.order.u32(array(body, 0)?);
        let captured = match interface.snapshot_len {
            0 => original,
            limit => original.min(limit),
        };
        Some((None, interface.link, body.get(4..)?.get(..captured as usize)?.to_vec()))
    }
}

/// Link type, two reserved octets, snapshot length, options.
fn interface(order: ByteOrder, body: &[u8]) -> Option<Interface> {
    let mut interface = Interface {
        link: order.u16(array(body, 0)?),
        snapshot_len: order.u32(array(body, 4)?),
        resolution: 1_000_000,
        offset: 0,
    };
    let mut options = body.get(8..)?;
    while let (Some(code), Some(len)) = (array(options, 0), array(options, 2)) {
        let len = usize::from(order.u16(len));
        let value = options.get(4..)?.get(..len)?;
        match (order.u16(code), value) {
            (0, _) => break,
            (IF_TSRESOL, [exponent]) => {
                let base: i128 = if exponent & 0x80 != 0 { 2 } else { 10 };
                interface.resolution = base.checked_pow(u32::from(exponent & 0x7f))?;
            }
            (IF_TSOFFSET, value) => interface.offset = order.i64(array(value, 0)?),
            _ => {}
        }
        options = options.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(interface)
}

/// The `N` octets at `at`, if there are so many.
fn array<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..)?.first_chunk().copied()
}

const INTERFACE: u32 = 1;
/// The obsolete packet block.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

const SHORT: &str = "it is shorter than its fields, or of an interface that was not described";
