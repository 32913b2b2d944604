//! Sequence number extension (RFC 5925 §6.2) and the window check that comes before any MAC.

use crate::{Isn, SeqNumber};

/// A sequence number with its extension: SNE in the upper 32 bits. The basis from which the SNE of
/// other segments is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtendedSeq(pub u64);

impl ExtendedSeq {
    /// Where a direction begins: SNE 0 at its ISN.
    pub const fn starting_at(isn: Isn) -> Self {
        Self(isn.0 as u64)
    }

    /// The sequence number on the wire.
    #[inline(always)]
    pub const fn seq(self) -> SeqNumber {
        SeqNumber(self.0 as u32)
    }

    /// The extension.
    #[inline(always)]
    pub const fn sne(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The extended number of a segment whose sequence number is `seq`, at most 2 GiB away.
    ///
    /// The rule of RFC 9187 §4: a segment from before the last wrap has the SNE before. (The sample code
    /// in RFC 5925 gets that wrong.)
    #[inline(always)]
    pub const fn extend(self, seq: SeqNumber) -> Self {
        Self(self.0.wrapping_add(seq.distance_from(self.seq()) as i64 as u64))
    }

    /// The later of the two: a basis moves forward only.
    #[inline(always)]
    pub const fn advanced_to(self, other: Self) -> Self {
        if (other.0.wrapping_sub(self.0) as i64) > 0 { other } else { self }
    }
}

/// Whether a receiver that expects `expected` next and never offered more than `window` octets could
/// have use for a segment that begins at `seq`: new data, or a retransmission it has to acknowledge again.
#[inline(always)]
pub const fn within_window(seq: SeqNumber, expected: SeqNumber, window: u32) -> bool {
    /// Windows without scaling reach this far; also covers what grew while segments were under way.
    const LEAST: u32 = 65_535;
    let reach = if window > LEAST { window } else { LEAST };
    // One more octet before: the keepalive probe.
    seq.0.wrapping_sub(expected.0.wrapping_sub(reach).wrapping_sub(1))
        <= reach.wrapping_mul(2).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Data sets of draft-touch-sne: sequence number, expected SNE.
    const FIRST: [(u32, u32); 29] = [
        (0x00000000, 0),
        (0x30000000, 0),
        (0x90000000, 0),
        (0x70000000, 0),
        (0xa0000000, 0),
        (0x00000001, 1),
        (0xe0000000, 0),
        (0x00000000, 1),
        (0x7fffffff, 1),
        (0x00000000, 1),
        (0x50000000, 1),
        (0x80000000, 1),
        (0x00000001, 1),
        (0x40000000, 1),
        (0x90000000, 1),
        (0xb0000000, 1),
        (0x0fffffff, 2),
        (0x20000000, 2),
        (0x90000000, 2),
        (0x70000000, 2),
        (0xa0000000, 2),
        (0x00004000, 3),
        (0xd0000000, 2),
        (0x20000000, 3),
        (0x90000000, 3),
        (0x70000000, 3),
        (0xa0000000, 3),
        (0x00004000, 4),
        (0xd0000000, 3),
    ];
    const SECOND: [(u32, u32); 11] = [
        (0x00000000, 0),
        (0x30000000, 0),
        (0x60000000, 0),
        (0x80000000, 0),
        (0x90000000, 0),
        (0xc0000000, 0),
        (0xf0000000, 0),
        (0x10000000, 1),
        (0xf0030000, 0),
        (0x00030000, 1),
        (0x10030000, 1),
    ];

    fn check(data: &[(u32, u32)]) {
        let mut basis = ExtendedSeq(0);
        for (seq, sne) in data {
            let extended = basis.extend(SeqNumber(*seq));
            assert_eq!((extended.seq().0, extended.sne()), (*seq, *sne), "{seq:#010x}");
            basis = basis.advanced_to(extended);
        }
    }

    #[test]
    fn sne_of_the_published_data_sets() {
        check(&FIRST);
        check(&SECOND);
    }

    #[test]
    fn isn_near_the_wrap_gives_the_first_data_sne_1() {
        let basis = ExtendedSeq::starting_at(Isn(0xffff_ffff));
        assert_eq!(basis.extend(SeqNumber(0)).sne(), 1);
    }

    proptest! {
        #[test]
        fn sne_follows_a_stream_through_reordering(
            isn: u32,
            steps in proptest::collection::vec((1u64..0x3000_0000, 0u64..0x3000_0000), 1..200),
        ) {
            let mut front = u64::from(isn);
            let mut basis = ExtendedSeq::starting_at(Isn(isn));
            for (forward, back) in steps {
                front += forward;
                let seen = front.saturating_sub(back).max(u64::from(isn));
                let extended = basis.extend(SeqNumber(seen as u32));
                prop_assert_eq!(extended.0, seen);
                basis = basis.advanced_to(extended);
            }
        }

        #[test]
        fn window_is_symmetric_about_what_is_expected(expected: u32, window in 0u32..0x4000_0000, distance in -0x4100_0000i32..0x4100_0000) {
            let reach = i64::from(window.max(65_535));
            let seq = expected.wrapping_add(distance as u32);
            let wanted = i64::from(distance) >= -reach - 1 && i64::from(distance) <= reach;
            prop_assert_eq!(within_window(SeqNumber(seq), SeqNumber(expected), window), wanted);
        }
    }
}
