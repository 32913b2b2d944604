//! The MAC of a segment, and the option that carries it: TCP-AO (RFC 5925 §5.1), or TCP-MD5 (RFC 2385).

use std::{net::IpAddr, ops::Range};

pub use ao::{AuthOption, mac_input, parse_option, segment_mac};
use tcpauth_common::{
    Algorithm, DropReason,
    option::{Header, OptionWalk},
};

mod ao;
pub mod md5;

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// Where the checksum lies in a TCP header.
const CHECKSUM: Range<usize> = 16..18;

/// Why a segment has no MAC that could be computed or verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Not the option that was asked for, nor anything malformed.
    #[error(
        "the segment carries no TCP-AO option, or no TCP-MD5 option if that is the neighbour's wire; its sender \
         does not sign this connection, or signs it in the other way"
    )]
    NoOption,
    /// TCP-AO or TCP-MD5 twice, or both.
    #[error("the segment carries more than one authentication option; its sender is at fault")]
    OptionTwice,
    /// The header contradicts itself.
    #[error("the TCP header contradicts itself: an offset or an option length points past its end")]
    Malformed,
    /// One address is of IPv4 and the other of IPv6.
    #[error("the segment's addresses are of two families; the caller is at fault")]
    MixedFamilies,
    /// More than [`tcpauth_common::mac::MAX_INPUT`] octets are under the MAC.
    #[error(
        "the segment is longer than any that tcpauth signs (16 KiB); was it captured before segmentation?"
    )]
    TooLong,
}

impl SegmentError {
    /// The reason under which such a segment is dropped and counted.
    pub fn drop_reason(self) -> DropReason {
        match self {
            Self::NoOption => DropReason::NoOption,
            Self::OptionTwice => DropReason::OptionTwice,
            Self::Malformed | Self::MixedFamilies => DropReason::Malformed,
            Self::TooLong => DropReason::Merged,
        }
    }
}

/// Whether `received`, the MAC field of a segment, is `computed` cut to the algorithm's length. Takes the same
/// time whichever octets differ.
pub fn is_same_mac(algorithm: Algorithm, computed: &[u8; 16], received: &[u8]) -> bool {
    let computed = &computed[..algorithm.mac_len()];
    let difference = computed.iter().zip(received).fold(0, |all, (a, b)| all | (a ^ b));
    computed.len() == received.len() && std::hint::black_box(difference) == 0
}

/// The header of `segment` and what its options are.
///
/// # Errors
/// [`SegmentError::Malformed`] or [`SegmentError::OptionTwice`], in this order if both hold.
fn walk(segment: &[u8]) -> Result<(Header, OptionWalk), SegmentError> {
    let header = Header::of_segment(segment).ok_or(SegmentError::Malformed)?;
    let walk = OptionWalk::run(&header);
    if walk.malformed != 0 {
        return Err(SegmentError::Malformed);
    }
    if walk.authentications > 1 {
        return Err(SegmentError::OptionTwice);
    }
    Ok((header, walk))
}

fn push_pseudo_header(
    input: &mut Vec<u8>,
    source: IpAddr,
    destination: IpAddr,
    segment_len: usize,
) -> Result<(), SegmentError> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = u16::try_from(segment_len).map_err(|_| SegmentError::TooLong)?;
            input.extend(source.octets());
            input.extend(destination.octets());
            input.extend([0, TCP]);
            input.extend(len.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = u32::try_from(segment_len).map_err(|_| SegmentError::TooLong)?;
            input.extend(source.octets());
            input.extend(destination.octets());
            input.extend(len.to_be_bytes());
            input.extend([0, 0, 0, TCP]);
        }
        _ => return Err(SegmentError::MixedFamilies),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_compared_at_the_algorithms_length() {
        let mac: [u8; 16] = std::array::from_fn(|i| i as u8);
        assert!(is_same_mac(Algorithm::HmacSha1_96, &mac, &mac[..12]));
        assert!(is_same_mac(Algorithm::HmacSha256_128, &mac, &mac));
        for len in (0..12).chain(13..=16) {
            assert!(!is_same_mac(Algorithm::HmacSha1_96, &mac, &mac[..len]));
        }
        for at in 0..16 {
            let mut other = mac;
            other[at] ^= 0x10;
            assert!(!is_same_mac(Algorithm::HmacSha256_128, &mac, &other));
        }
    }
}
