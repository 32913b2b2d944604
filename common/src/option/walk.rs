//! The walk over a header's options, one option a step.

use super::{BASE_HEADER, Header, MAX_HEADER, MD5_LEN, TIMESTAMPS_LEN, is_dispensable, is_unwanted, kind};

/// What the options of a segment were found to be. Offsets are from the start of the TCP header; 0: absent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionWalk {
    /// Where the walk stands.
    pub at: u32,
    /// Where the header ends.
    pub end: u32,
    /// Offset of the first TCP-AO option.
    pub ao_at: u32,
    /// Its length, octets.
    pub ao_len: u32,
    /// TCP-AO and TCP-MD5 options seen.
    pub authentications: u32,
    /// Offset of the MSS option.
    pub mss_at: u32,
    /// Window scale shift plus one; 0 if the option is absent.
    pub wscale_plus_1: u32,
    /// Octets of options that stay where there is room: neither padding, nor SACK, nor unwanted.
    pub kept: u32,
    /// Of `kept`, octets of options that go where there is no room, because a connection works without them.
    pub dispensable: u32,
    /// 1: an option that has to go from a SYN (Fast Open, Multipath TCP) was seen.
    pub unwanted: u32,
    /// 1: the list was ended before the header's end. What is put behind would not be seen.
    pub ended: u32,
    /// Offset of the first TCP-MD5 option of the right length.
    pub md5_at: u32,
    /// Offset of the timestamps option.
    pub timestamps_at: u32,
    /// 1: selective acknowledgments were seen.
    pub has_sack: u32,
    /// 1: an option runs past the end, or is shorter than its own head.
    pub malformed: u32,
}

/// Two NOPs and the head of a timestamps option, as Linux writes them, in a word of memory.
const PADDED_TIMESTAMPS: u32 =
    u32::from_ne_bytes([kind::NOP, kind::NOP, kind::TIMESTAMPS, TIMESTAMPS_LEN as u8]);

impl OptionWalk {
    /// Most steps a walk can take: each option has at least one octet.
    pub const MAX_STEPS: u32 = MAX_HEADER - BASE_HEADER;

    /// Stands at the first option of a header of `header_len` octets (20 to 60).
    #[inline(always)]
    pub const fn over(header_len: u32) -> Self {
        Self {
            at: BASE_HEADER,
            end: header_len,
            ao_at: 0,
            ao_len: 0,
            authentications: 0,
            mss_at: 0,
            wscale_plus_1: 0,
            kept: 0,
            dispensable: 0,
            unwanted: 0,
            ended: 0,
            md5_at: 0,
            timestamps_at: 0,
            has_sack: 0,
            malformed: 0,
        }
    }

    /// The whole walk over a header of `header_len` octets (20 to 60) as nearly all are: no options, or timestamps,
    /// or TCP-AO, or both in this order, and nothing but the padding of Linux. `None` for any other.
    #[inline(always)]
    pub const fn at_a_glance(header: &Header, header_len: u32) -> Option<Self> {
        let mut walk = Self::over(header_len);
        if header_len > walk.at && header.words[5] == PADDED_TIMESTAMPS {
            walk.timestamps_at = walk.at + 2;
            walk.kept = TIMESTAMPS_LEN;
            walk.at += 2 + TIMESTAMPS_LEN;
        }
        if walk.at < header_len {
            let len = header_len - walk.at;
            if header.octet(walk.at) != kind::AO || header.octet(walk.at + 1) as u32 != len {
                return None;
            }
            walk.ao_at = walk.at;
            walk.ao_len = len;
            walk.authentications = 1;
            walk.kept += len;
            walk.at = header_len;
        }
        if walk.at == header_len { Some(walk) } else { None }
    }

    /// Takes in one option; false when the walk is over.
    #[inline(always)]
    pub const fn step(&mut self, header: &Header) -> bool {
        let at = self.at;
        if at >= self.end {
            return false;
        }
        let kind = header.octet(at);
        if kind == kind::END {
            self.at = self.end;
            self.ended = 1;
            return false;
        }
        if kind == kind::NOP {
            self.at = at + 1;
            return true;
        }
        let len = if at + 1 < self.end { header.octet(at + 1) as u32 } else { 0 };
        if len < 2 || len > self.end - at {
            self.malformed = 1;
            return false;
        }
        if kind == kind::AO || kind == kind::MD5 {
            self.authentications += 1;
            if kind == kind::AO && self.ao_at == 0 {
                self.ao_at = at;
                self.ao_len = len;
            }
            if kind == kind::MD5 && len == MD5_LEN && self.md5_at == 0 {
                self.md5_at = at;
            }
        }
        if kind == kind::TIMESTAMPS && len == TIMESTAMPS_LEN {
            self.timestamps_at = at;
        }
        if kind == kind::MSS && len == 4 {
            self.mss_at = at;
        }
        if kind == kind::WINDOW_SCALE && len == 3 {
            let shift = header.octet(at + 2) as u32;
            self.wscale_plus_1 = if shift > 14 { 15 } else { shift + 1 };
        }
        if is_unwanted(kind) {
            self.unwanted = 1;
        }
        if kind == kind::SACK {
            self.has_sack = 1;
        }
        if kind != kind::SACK && !is_unwanted(kind) {
            self.kept += len;
            if is_dispensable(kind) {
                self.dispensable += len;
            }
        }
        self.at = at + len;
        true
    }

    /// Walks to the end, on the host.
    pub fn run(header: &Header) -> Self {
        let mut walk = Self::over(header.len_by_offset());
        while walk.step(header) {}
        walk
    }
}
