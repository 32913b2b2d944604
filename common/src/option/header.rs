//! A TCP header, octet by octet.

use super::BASE_HEADER;

/// A TCP header of up to 60 octets, as words whose octets lie as on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The octets in memory order.
    pub words: [u32; 16],
}

impl Header {
    /// The octet at `at`, taken modulo 64.
    #[inline(always)]
    pub const fn octet(&self, at: u32) -> u8 {
        (u32::from_le(self.words[((at >> 2) & 15) as usize]) >> ((at & 3) * 8)) as u8
    }

    /// The four octets from `at`, taken modulo 64, as they lie in memory.
    #[inline(always)]
    pub const fn word(&self, at: u32) -> u32 {
        let index = at >> 2;
        let low = u32::from_le(self.words[(index & 15) as usize]) as u64;
        let high = u32::from_le(self.words[((index + 1) & 15) as usize]) as u64;
        (((low | high << 32) >> ((at & 3) * 8)) as u32).to_le()
    }

    /// Sets the octet at `at`, taken modulo 64.
    #[inline(always)]
    pub const fn set_octet(&mut self, at: u32, octet: u8) {
        let index = ((at >> 2) & 15) as usize;
        let shift = (at & 3) * 8;
        let word = u32::from_le(self.words[index]);
        self.words[index] = ((word & !(0xff << shift)) | ((octet as u32) << shift)).to_le();
    }

    /// The 16-bit number, network byte order, at `at`.
    #[inline(always)]
    pub const fn number16(&self, at: u32) -> u16 {
        ((self.octet(at) as u16) << 8) | self.octet(at + 1) as u16
    }

    /// Sets the 16-bit number, network byte order, at `at`.
    #[inline(always)]
    pub const fn set_number16(&mut self, at: u32, number: u16) {
        self.set_octet(at, (number >> 8) as u8);
        self.set_octet(at + 1, number as u8);
    }

    /// Length by the data offset field, octets: 0 to 60.
    #[inline(always)]
    pub const fn len_by_offset(&self) -> u32 {
        ((self.octet(12) >> 4) as u32) * 4
    }

    /// The header of `segment` (TCP header and data), if it is whole.
    pub fn of_segment(segment: &[u8]) -> Option<Self> {
        let len = usize::from(*segment.get(12)? >> 4) * 4;
        let octets = segment.get(..len)?;
        if len < BASE_HEADER as usize {
            return None;
        }
        let mut header = Self::default();
        for (at, octet) in octets.iter().enumerate() {
            header.set_octet(at as u32, *octet);
        }
        Some(header)
    }
}
