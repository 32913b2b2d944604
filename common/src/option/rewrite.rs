//! The rewriting of a header's options, one octet a step.

use super::{BASE_HEADER, Header, MAX_HEADER, OptionWalk, is_dispensable, is_unwanted, kind};

/// Rewrites options that would not leave room for the option. Fast Open and Multipath TCP go (both would put data
/// where no key covers it), and padding goes. Then options go by rank: those that a connection works without, if one
/// SACK block would not fit beside them, and then SACK blocks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionRewrite {
    /// The octet of the old header that comes next.
    pub at: u32,
    /// Where the old header ends.
    pub end: u32,
    /// Where the new header's next octet goes; its length when the rewriting is over.
    pub out: u32,
    /// Octets read of the option that is being read.
    pub position: u32,
    /// Its length, octets; 0: the next octet begins an option.
    pub len: u32,
    /// Octets of it that are copied.
    pub copy: u32,
    /// Length of a SACK option that fits, octets; 0: none.
    pub sack_len: u32,
    /// Offset of the MSS option in the new header; 0: absent.
    pub mss_at: u32,
    /// 1: timestamps go.
    pub without_timestamps: u32,
    /// 1: options go that a connection works without.
    pub without_dispensable: u32,
}

impl OptionRewrite {
    /// Most steps: one an octet.
    pub const MAX_STEPS: u32 = MAX_HEADER - BASE_HEADER;

    /// Begins, knowing what a walk found, to make room for an option of `room` octets; without timestamps or with
    /// them.
    #[inline(always)]
    pub const fn after(walk: &OptionWalk, room: u32, without_timestamps: bool) -> Self {
        let budget = MAX_HEADER - BASE_HEADER;
        let one_block = if walk.has_sack != 0 { 2 + 8 } else { 0 };
        let without_dispensable = walk.dispensable != 0 && walk.kept + room + one_block > budget;
        let kept = if without_dispensable { walk.kept - walk.dispensable } else { walk.kept };
        let taken = kept + room + 2;
        let blocks = if taken > budget { 0 } else { (budget - taken) / 8 };
        let sack_len = if blocks == 0 { 0 } else { 2 + 8 * blocks };
        Self {
            at: BASE_HEADER,
            end: walk.end,
            out: BASE_HEADER,
            position: 0,
            len: 0,
            copy: 0,
            sack_len,
            mss_at: 0,
            without_timestamps: without_timestamps as u32,
            without_dispensable: without_dispensable as u32,
        }
    }

    /// Takes in one octet of `old`; false when all are done.
    #[inline(always)]
    pub const fn step(&mut self, old: &Header, new: &mut Header) -> bool {
        if self.at >= self.end || self.out >= MAX_HEADER {
            return false;
        }
        let octet = old.octet(self.at);
        if self.len == 0 {
            if octet == kind::END {
                self.at = self.end;
                return false;
            }
            if octet == kind::NOP {
                self.at += 1;
                return true;
            }
            self.position = 0;
            self.len = old.octet(self.at + 1) as u32;
            self.copy = self.len;
            if octet == kind::SACK {
                if self.len > self.sack_len {
                    self.copy = self.sack_len;
                }
                // There is room for one.
                self.sack_len = 0;
            }
            if is_unwanted(octet)
                || (octet == kind::TIMESTAMPS && self.without_timestamps != 0)
                || (self.without_dispensable != 0 && is_dispensable(octet))
            {
                self.copy = 0;
            }
            if octet == kind::MSS && self.len == 4 {
                self.mss_at = self.out;
            }
        }
        if self.position < self.copy {
            // An option's second octet is its length, which trimming has changed.
            new.set_octet(self.out, if self.position == 1 { self.copy as u8 } else { octet });
            self.out += 1;
        }
        self.position += 1;
        if self.position >= self.len {
            self.len = 0;
        }
        self.at += 1;
        true
    }

    /// Pads the new header to whole words; its length, octets.
    #[inline(always)]
    pub const fn pad(&mut self, new: &mut Header) -> u32 {
        let mut padding = 0;
        while padding < 3 {
            if self.out & 3 != 0 {
                new.set_octet(self.out, kind::NOP);
                self.out += 1;
            }
            padding += 1;
        }
        self.out
    }
}
