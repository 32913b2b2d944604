//! Sequence numbers of a connection on which keys were agreed: both ends' stacks know nothing of the octets that the
//! daemons sent before, so their numbers are behind those on the wire, by a constant each way.
//!
//! The MAC, its sequence number extension and every check are of the numbers on the wire: what leaves is translated and
//! then signed, what arrives is verified and then translated.

use crate::{
    key_choice::flag,
    layout::Session,
    option::{BASE_HEADER, Header, MAX_HEADER, kind},
};

/// What is added to the numbers of a segment, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// To the sequence number.
    pub seq: u32,
    /// To the acknowledgment number, if it counts, and to both edges of each block of selective acknowledgments.
    pub ack: u32,
}

impl Translation {
    /// Numbers stay: of a SYN, which is from before the handshake, and of what the daemon sends.
    pub const NONE: Self = Self { seq: 0, ack: 0 };

    /// From our stack's numbers to the wire's.
    #[inline(always)]
    pub const fn outbound(session: &Session) -> Self {
        Self { seq: session.sent_before, ack: session.received_before }
    }

    /// From the wire's numbers to our stack's.
    #[inline(always)]
    pub const fn inbound(session: &Session) -> Self {
        Self { seq: session.received_before.wrapping_neg(), ack: session.sent_before.wrapping_neg() }
    }

    /// Whether numbers stay.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.seq | self.ack == 0
    }

    /// Translates sequence and acknowledgment number of a header. Selective acknowledgments: [`SackTranslation`].
    #[inline(always)]
    pub const fn apply(self, header: &mut Header) {
        add(header, 4, self.seq);
        if header.octet(13) & flag::ACK != 0 {
            add(header, 8, self.ack);
        }
    }
}

/// The walk over a header's options that translates selective acknowledgments: an option or the edge of a block a step.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackTranslation {
    /// Where the walk stands, octets from the start of the header.
    pub at: u32,
    /// Where the header ends.
    pub end: u32,
    /// Edges left of the option that it stands in.
    pub edges: u32,
    /// What is added to each.
    pub by: u32,
}

impl SackTranslation {
    /// Most steps a walk can take: each option has at least one octet.
    pub const MAX_STEPS: u32 = MAX_HEADER - BASE_HEADER;

    /// Stands at the first option of `header`.
    #[inline(always)]
    pub const fn over(header: &Header, translation: Translation) -> Self {
        Self { at: BASE_HEADER, end: header.len_by_offset(), edges: 0, by: translation.ack }
    }

    /// Takes in one option or edge; false when the walk is over. Of an option that no stack would read, because its
    /// length is no number of blocks, nothing changes.
    #[inline(always)]
    pub const fn step(&mut self, header: &mut Header) -> bool {
        if self.at >= self.end {
            return false;
        }
        if self.edges > 0 {
            add(header, self.at, self.by);
            self.at += 4;
            self.edges -= 1;
            return true;
        }
        let kind = header.octet(self.at);
        if kind == kind::END {
            return false;
        }
        if kind == kind::NOP {
            self.at += 1;
            return true;
        }
        let len = header.octet(self.at + 1) as u32;
        if len < 2 || len > self.end - self.at {
            return false;
        }
        if kind == kind::SACK && len % 8 == 2 {
            self.edges = (len - 2) / 4;
            self.at += 2;
        } else {
            self.at += len;
        }
        true
    }
}

/// Adds to the 32-bit number, network byte order, at `at`.
#[inline(always)]
const fn add(header: &mut Header, at: u32, by: u32) {
    let number = (header.number16(at) as u32) << 16 | header.number16(at + 2) as u32;
    let sum = number.wrapping_add(by);
    header.set_number16(at, (sum >> 16) as u16);
    header.set_number16(at + 2, sum as u16);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with these options, padded.
    fn header(numbers: (u32, u32), tcp_flags: u8, options: &[u8]) -> Header {
        let mut segment = vec![0xee; 20];
        segment[4..8].copy_from_slice(&numbers.0.to_be_bytes());
        segment[8..12].copy_from_slice(&numbers.1.to_be_bytes());
        segment.extend(options);
        segment.resize(segment.len().next_multiple_of(4), kind::NOP);
        segment[12] = (segment.len() as u8 / 4) << 4;
        segment[13] = tcp_flags;
        Header::of_segment(&segment).unwrap()
    }

    fn translated(mut header: Header, translation: Translation) -> Header {
        translation.apply(&mut header);
        let mut sacks = SackTranslation::over(&header, translation);
        let mut steps = 0;
        while sacks.step(&mut header) {
            steps += 1;
        }
        assert!(steps <= SackTranslation::MAX_STEPS);
        header
    }

    fn sack(edges: &[u32]) -> Vec<u8> {
        let mut option = vec![kind::SACK, 2 + 4 * edges.len() as u8];
        option.extend(edges.iter().flat_map(|edge| edge.to_be_bytes()));
        option
    }

    #[test]
    fn the_two_ends_translate_into_each_other() {
        let client = Session { sent_before: 700, received_before: 1900, ..Session::default() };
        let server = Session { sent_before: 1900, received_before: 700, ..Session::default() };
        let there = Translation::outbound(&client);
        let back = Translation::inbound(&server);
        assert_eq!((there.seq.wrapping_add(back.seq), there.ack.wrapping_add(back.ack)), (0, 0));
        assert!(Translation::outbound(&Session::default()).is_none());
        assert!(Translation::inbound(&Session::default()).is_none());
        let one_way = Session { sent_before: 1, ..Session::default() };
        assert!(!Translation::outbound(&one_way).is_none() && !Translation::inbound(&one_way).is_none());
    }

    #[test]
    fn an_acknowledgment_that_does_not_count_stays() {
        let translation = Translation { seq: 10, ack: 20 };
        let of = |tcp_flags| translated(header((u32::MAX, u32::MAX), tcp_flags, &[]), translation);
        assert_eq!(of(flag::ACK), header((9, 19), flag::ACK, &[]));
        assert_eq!(of(flag::RST), header((9, u32::MAX), flag::RST, &[]));
    }

    #[test]
    fn what_is_no_number_of_blocks_or_behind_the_end_stays() {
        let translation = Translation { seq: 0, ack: 1 };
        for options in [
            vec![5, 6, 0, 0, 0, 1],
            vec![5, 2],
            vec![5, 1, 0, 0],
            vec![5, 18, 0, 0, 0, 1, 0, 0, 0, 2],
            [&[0, 1][..], &sack(&[1, 2])].concat(),
        ] {
            let before = header((1, 0), flag::RST, &options);
            assert_eq!(translated(before, translation), before, "{options:?}");
        }
    }

    proptest! {
        /// Against a header that is made with the sums.
        #[test]
        fn every_number_of_a_segment_is_translated(
            seq: u32,
            ack: u32,
            translation in (any::<u32>(), any::<u32>()).prop_map(|(seq, ack)| Translation { seq, ack }),
            padding in 0usize..4,
            timestamps: bool,
            edges in proptest::collection::vec(any::<u32>(), 0..=4)
                .prop_map(|edges| edges.iter().flat_map(|edge| [*edge, edge ^ 77]).collect::<Vec<u32>>()),
            split: bool,
        ) {
            let options = |by: u32| {
                let edges: Vec<u32> = edges.iter().map(|edge| edge.wrapping_add(by)).collect();
                let mut options = vec![kind::NOP; padding];
                if timestamps && edges.len() <= 6 {
                    options.extend([8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
                }
                // As one option, or as two.
                if split && (4..8).contains(&edges.len()) {
                    let (first, second) = edges.split_at(2);
                    options.extend([sack(first), sack(second)].concat());
                } else {
                    options.extend(sack(&edges));
                }
                options
            };
            prop_assume!(options(0).len() <= 40);
            let before = header((seq, ack), flag::ACK, &options(0));
            let wanted = (seq.wrapping_add(translation.seq), ack.wrapping_add(translation.ack));
            let wanted = header(wanted, flag::ACK, &options(translation.ack));
            prop_assert_eq!(translated(before, translation), wanted);
        }

        #[test]
        fn any_octets_are_walked_within_bounds(octets in proptest::collection::vec(any::<u8>(), 20..=60), by: u32) {
            let mut header = Header::default();
            for (at, octet) in octets.iter().enumerate() {
                header.set_octet(at as u32, *octet);
            }
            let before = header;
            let after = translated(header, Translation { seq: 0, ack: by });
            for at in 0..64 {
                let is_outside = !(8..12).contains(&at) && (at < 20 || at >= header.len_by_offset());
                prop_assert!(!is_outside || after.octet(at) == before.octet(at));
            }
        }
    }
}
