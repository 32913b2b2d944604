//! TCP options: the walk that finds TCP-AO, and the rewriting that makes room for it.
//!
//! Both go octet by octet or option by option through `step`, so that an eBPF program can run them in
//! `bpf_loop`, where the verifier follows one step and not forty.

/// Longest TCP header, octets.
pub const MAX_HEADER: u32 = 60;
/// TCP header without options, octets.
pub const BASE_HEADER: u32 = 20;

/// Option kinds (IANA, TCP option kind numbers).
pub mod kind {
    /// End of option list.
    pub const END: u8 = 0;
    /// No operation.
    pub const NOP: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Window scale.
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgment.
    pub const SACK: u8 = 5;
    /// TCP-MD5 (RFC 2385).
    pub const MD5: u8 = 19;
    /// TCP-AO (RFC 5925).
    pub const AO: u8 = 29;
    /// Multipath TCP (RFC 8684).
    pub const MPTCP: u8 = 30;
    /// TCP Fast Open (RFC 7413).
    pub const FAST_OPEN: u8 = 34;
    /// Experimental; was used by Fast Open.
    pub const EXPERIMENTAL: u8 = 254;
}

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
    /// Octets of options that stay whatever happens: neither padding, nor SACK, nor unwanted.
    pub kept: u32,
    /// 1: an option that has to go from a SYN (Fast Open, Multipath TCP) was seen.
    pub unwanted: u32,
    /// 1: the list was ended before the header's end. What is put behind would not be seen.
    pub ended: u32,
    /// Zero.
    pub reserved: u32,
    /// 1: an option runs past the end, or is shorter than its own head.
    pub malformed: u32,
}

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
            unwanted: 0,
            ended: 0,
            reserved: 0,
            malformed: 0,
        }
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
        if kind != kind::SACK && !is_unwanted(kind) {
            self.kept += len;
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

/// Rewrites options that would not leave room for TCP-AO: padding goes, SACK blocks are trimmed to
/// what fits, and Fast Open and Multipath TCP go (both would put data where no key covers it).
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
}

impl OptionRewrite {
    /// Most steps: one an octet.
    pub const MAX_STEPS: u32 = MAX_HEADER - BASE_HEADER;

    /// Begins, knowing what a walk found, to make room for an option of `room` octets.
    #[inline(always)]
    pub const fn after(walk: &OptionWalk, room: u32) -> Self {
        let budget = MAX_HEADER - BASE_HEADER;
        let taken = walk.kept + room + 2;
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
            if is_unwanted(octet) {
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

#[inline(always)]
const fn is_unwanted(kind: u8) -> bool {
    kind == kind::MPTCP || kind == kind::FAST_OPEN || kind == kind::EXPERIMENTAL
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(options: &[u8]) -> Header {
        assert_eq!(options.len() % 4, 0);
        let mut segment = vec![0; 20 + options.len()];
        segment[12] = (segment.len() as u8 / 4) << 4;
        segment[20..].copy_from_slice(options);
        Header::of_segment(&segment).unwrap()
    }

    fn rewrite(options: &[u8], room: u32) -> Vec<u8> {
        let old = header(options);
        let walk = OptionWalk::run(&old);
        assert_eq!(walk.malformed, 0);
        let mut new = old;
        let mut rewrite = OptionRewrite::after(&walk, room);
        while rewrite.step(&old, &mut new) {}
        let len = rewrite.pad(&mut new);
        assert!(len + room <= MAX_HEADER);
        (BASE_HEADER..len).map(|at| new.octet(at)).collect()
    }

    const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn finds_ao_behind_timestamps() {
        let mut options = TIMESTAMPS.to_vec();
        options.extend([29, 16, 61, 84, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let walk = OptionWalk::run(&header(&options));
        assert_eq!((walk.ao_at, walk.ao_len, walk.authentications, walk.malformed), (32, 16, 1, 0));
    }

    #[test]
    fn counts_both_authentication_options() {
        let mut options = vec![19, 18];
        options.extend([0; 16]);
        options.extend([29, 4, 1, 1, 1, 1]);
        assert_eq!(OptionWalk::run(&header(&options)).authentications, 2);
    }

    #[test]
    fn what_follows_the_end_is_not_seen() {
        assert_eq!(OptionWalk::run(&header(&[0, 29, 4, 1])).authentications, 0);
    }

    #[test]
    fn an_end_before_the_end_is_noted_and_rewritten_away() {
        let options = [2, 4, 5, 180, 0, 0, 0, 0];
        assert_eq!(OptionWalk::run(&header(&options)).ended, 1);
        assert_eq!(OptionWalk::run(&header(&options[..4])).ended, 0);
        assert_eq!(rewrite(&options, 16), [2, 4, 5, 180]);
    }

    #[test]
    fn lengths_that_lie_are_malformed() {
        for options in [[29, 1, 1, 1], [29, 0, 1, 1], [29, 5, 1, 1], [1, 1, 1, 29]] {
            assert_eq!(OptionWalk::run(&header(&options)).malformed, 1, "{options:?}");
        }
    }

    #[test]
    fn one_sack_block_of_three_fits_beside_timestamps() {
        let mut options = TIMESTAMPS.to_vec();
        options.extend([1, 1, 5, 26]);
        options.extend(1..=24);
        let mut wanted = TIMESTAMPS[2..].to_vec();
        wanted.extend([5, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(rewrite(&options, 16), wanted);
        // Without the padding there is room even beside an option of 20.
        assert_eq!(rewrite(&options, 20), wanted);
    }

    #[test]
    fn a_sack_option_without_room_goes_whole() {
        let mut options = TIMESTAMPS.to_vec();
        options.extend([2, 4, 5, 180, 3, 3, 7, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]);
        let mut wanted = TIMESTAMPS[2..].to_vec();
        wanted.extend([2, 4, 5, 180, 3, 3, 7, 1, 1, 1]);
        assert_eq!(rewrite(&options, 20), wanted);
    }

    #[test]
    fn fast_open_and_mptcp_go() {
        let options = [2, 4, 5, 180, 34, 6, 1, 2, 3, 4, 30, 4, 0, 1, 3, 3, 7, 0, 0, 0];
        assert_eq!(rewrite(&options, 16), [2, 4, 5, 180, 3, 3, 7, 1]);
    }

    proptest! {
        #[test]
        fn any_octets_are_walked_and_rewritten_within_bounds(
            options in proptest::collection::vec(any::<u8>(), 0..10usize).prop_map(|v| v.repeat(4)),
            room in prop_oneof![Just(16u32), Just(20)],
        ) {
            let old = header(&options);
            let walk = OptionWalk::run(&old);
            prop_assert!(walk.at <= walk.end);
            if walk.ao_at != 0 {
                prop_assert!(walk.ao_at + walk.ao_len <= walk.end);
            }
            if walk.malformed == 0 && walk.kept + room <= 40 {
                let mut new = old;
                let mut rewrite = OptionRewrite::after(&walk, room);
                let mut steps = 0;
                while rewrite.step(&old, &mut new) {
                    steps += 1;
                }
                prop_assert!(steps <= OptionRewrite::MAX_STEPS);
                prop_assert!(rewrite.pad(&mut new) + room <= MAX_HEADER);
                new.set_octet(12, ((rewrite.out / 4) << 4) as u8);
                prop_assert_eq!(OptionWalk::run(&new).malformed, 0);
            }
        }

        #[test]
        fn octets_keep_their_places(octets in proptest::collection::vec(any::<u8>(), 20..=60)) {
            let mut header = Header::default();
            for (at, octet) in octets.iter().enumerate() {
                header.set_octet(at as u32, *octet);
            }
            for (at, octet) in octets.iter().enumerate() {
                prop_assert_eq!(header.octet(at as u32), *octet);
            }
            let memory: Vec<u8> = header.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            prop_assert_eq!(&memory[..octets.len()], &octets[..]);
        }
    }
}
