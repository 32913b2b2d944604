//! TCP-AO (RFC 5925): the option and the octets under its MAC.

use std::{net::IpAddr, ops::Range};

use tcpauth_common::{
    Algorithm, KeyId,
    layout::KeyMaterial,
    mac::{self, Workspace},
    option::BASE_HEADER,
};
use zeroize::Zeroize;

use super::{CHECKSUM, SegmentError, push_pseudo_header, walk};

/// Length of a TCP-AO option without its MAC, octets: kind, length, KeyID, RNextKeyID.
const OPTION_HEAD: usize = 4;

/// The TCP-AO option of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthOption {
    /// KeyID: which key the sender signed with.
    pub key_id: KeyId,
    /// RNextKeyID: which key the sender wishes to be answered with.
    pub rnext_key_id: KeyId,
    /// Where the MAC lies in the segment.
    pub mac: Range<usize>,
    /// Where the TCP header ends and the data begin.
    data_at: usize,
}

impl AuthOption {
    /// Length of the whole option, octets.
    pub fn option_len(&self) -> usize {
        OPTION_HEAD + self.mac.len()
    }
}

/// Finds the one TCP-AO option of `segment` (TCP header and data).
///
/// # Errors
/// [`SegmentError::Malformed`], [`SegmentError::OptionTwice`] (which a TCP-MD5 option beside it is too), or
/// [`SegmentError::NoOption`], in this order where several hold.
pub fn parse_option(segment: &[u8]) -> Result<AuthOption, SegmentError> {
    let (header, walk) = walk(segment)?;
    if walk.ao_at == 0 {
        return Err(SegmentError::NoOption);
    }
    let (at, len) = (walk.ao_at as usize, walk.ao_len as usize);
    if len < OPTION_HEAD {
        return Err(SegmentError::Malformed);
    }
    Ok(AuthOption {
        key_id: KeyId(header.octet(walk.ao_at + 2)),
        rnext_key_id: KeyId(header.octet(walk.ao_at + 3)),
        mac: at + OPTION_HEAD..at + len,
        data_at: header.len_by_offset() as usize,
    })
}

/// The MAC of `segment` (TCP header with a TCP-AO option, and data): 16 octets, of which the algorithm's
/// [`Algorithm::mac_len`] go on the wire. What the checksum and MAC fields hold does not matter.
///
/// `sne` is the sequence number extension, 0 for a SYN.
///
/// # Errors
/// [`SegmentError`], in all its cases.
pub fn segment_mac(
    key: &KeyMaterial,
    algorithm: Algorithm,
    exclude_options: bool,
    sne: u32,
    source: IpAddr,
    destination: IpAddr,
    segment: &[u8],
) -> Result<[u8; 16], SegmentError> {
    let input = mac_input(exclude_options, sne, source, destination, segment)?;
    let mut workspace = Box::new(Workspace::default());
    let len = workspace.load(&[&input]).ok_or(SegmentError::TooLong)?;
    mac::mac(&mut workspace, key, algorithm, len);
    let octets = workspace.mac_octets();
    workspace.key.words.zeroize();
    workspace.schedule.zeroize();
    workspace.state.zeroize();
    Ok(octets)
}

/// The octets under the MAC (RFC 5925 §5.1): SNE, IP pseudo-header, TCP header with checksum and MAC zeroed, data.
/// Options that are excluded are left out, and the pseudo-header counts them all the same.
///
/// # Errors
/// [`SegmentError`], in all its cases.
pub fn mac_input(
    exclude_options: bool,
    sne: u32,
    source: IpAddr,
    destination: IpAddr,
    segment: &[u8],
) -> Result<Vec<u8>, SegmentError> {
    let option = parse_option(segment)?;
    let mut input = sne.to_be_bytes().to_vec();
    push_pseudo_header(&mut input, source, destination, segment.len())?;
    let tcp_at = input.len();
    let (options_at, option_at) = (BASE_HEADER as usize, option.mac.start - OPTION_HEAD);
    let mac_at = if exclude_options {
        input.extend_from_slice(&segment[..options_at]);
        input.extend_from_slice(&segment[option_at..option.mac.end]);
        input.extend_from_slice(&segment[option.data_at..]);
        tcp_at + options_at + OPTION_HEAD
    } else {
        input.extend_from_slice(segment);
        tcp_at + option.mac.start
    };
    input[tcp_at + CHECKSUM.start..tcp_at + CHECKSUM.end].fill(0);
    input[mac_at..mac_at + option.mac.len()].fill(0);
    Ok(input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcpauth_common::mac::MAX_INPUT;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn segment(options: &[u8], data: &[u8]) -> Vec<u8> {
        assert_eq!(options.len() % 4, 0, "options fill whole words");
        let mut segment = vec![0xee; 20];
        segment[12] = ((20 + options.len()) as u8 / 4) << 4;
        segment.extend(options);
        segment.extend(data);
        segment
    }

    fn ao(mac_len: u8) -> Vec<u8> {
        let mut option = vec![29, 4 + mac_len, 61, 84];
        option.resize(4 + usize::from(mac_len), 0xaa);
        option
    }

    #[test]
    fn the_option_is_found_behind_others() {
        let options = [vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], ao(12)].concat();
        let option = parse_option(&segment(&options, b"data")).unwrap();
        assert_eq!((option.key_id, option.rnext_key_id), (KeyId(61), KeyId(84)));
        assert_eq!((option.mac.clone(), option.option_len()), (36..48, 16));
    }

    #[test]
    fn a_segment_without_the_option() {
        for options in [vec![], vec![1; 8], vec![2, 4, 5, 0xb4], [vec![0], ao(12), vec![0; 3]].concat()] {
            assert_eq!(parse_option(&segment(&options, b"")), Err(SegmentError::NoOption));
        }
        let md5 = [vec![19, 18], vec![0xaa; 16], vec![1, 1]].concat();
        assert_eq!(parse_option(&segment(&md5, b"")), Err(SegmentError::NoOption));
    }

    #[test]
    fn two_authentication_options() {
        let md5 = [vec![19, 18], vec![0xaa; 16], vec![1, 1]].concat();
        for options in
            [[ao(12), ao(12)].concat(), [ao(12), md5.clone()].concat(), [md5.clone(), ao(12)].concat()]
        {
            assert_eq!(parse_option(&segment(&options, b"")), Err(SegmentError::OptionTwice));
        }
    }

    #[test]
    fn headers_that_contradict_themselves() {
        let whole = segment(&ao(12), b"data");
        for len in 0..36 {
            assert_eq!(parse_option(&whole[..len]), Err(SegmentError::Malformed), "cut to {len} octets");
        }
        for words in 0..5 {
            let mut short = whole.clone();
            short[12] = words << 4;
            assert_eq!(parse_option(&short), Err(SegmentError::Malformed), "data offset {words}");
        }
        for options in [[29, 0, 1, 1], [29, 1, 1, 1], [29, 5, 1, 1], [1, 1, 1, 29], [29, 3, 61, 1]] {
            assert_eq!(parse_option(&segment(&options, b"")), Err(SegmentError::Malformed), "{options:?}");
        }
    }

    #[test]
    fn excluded_options_are_left_out_and_counted() {
        let options = [vec![2, 4, 5, 0xb4], ao(12), vec![4, 2, 1, 1]].concat();
        let segment = segment(&options, b"data");
        let all = mac_input(false, 7, ADDRESS, ADDRESS, &segment).unwrap();
        let some = mac_input(true, 7, ADDRESS, ADDRESS, &segment).unwrap();
        assert_eq!((all.len(), some.len()), (4 + 12 + 20 + 24 + 4, 4 + 12 + 20 + 16 + 4));
        assert_eq!(some[..16], all[..16], "SNE and pseudo-header");
        assert_eq!(some[14..16], [0, 48]);
        assert_eq!(some[36..40], [29, 16, 61, 84]);
        assert_eq!(some[40..52], [0; 12]);
        assert_eq!(some[52..], *b"data");
    }

    #[test]
    fn what_cannot_be_under_a_mac() {
        let v6 = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
        let short = segment(&ao(12), b"");
        let key = KeyMaterial::default();
        let mac = |source, segment: &[u8]| {
            segment_mac(&key, Algorithm::HmacSha1_96, false, 0, source, ADDRESS, segment)
        };
        assert_eq!(mac(v6, &short), Err(SegmentError::MixedFamilies));
        let longest = segment(&ao(12), &vec![0; MAX_INPUT as usize - 4 - 12 - 36]);
        assert!(mac(ADDRESS, &longest).is_ok());
        assert_eq!(mac(ADDRESS, &[longest, vec![0]].concat()), Err(SegmentError::TooLong));
        assert_eq!(mac(ADDRESS, &segment(&ao(12), &vec![0; 70_000])), Err(SegmentError::TooLong));
    }

    proptest! {
        #[test]
        fn any_octets_parse_without_panic(octets in prop::collection::vec(any::<u8>(), 0..100), words in 5u8..16) {
            let mut segment = octets;
            if segment.len() > 12 {
                segment[12] = words << 4;
            }
            if let Ok(option) = parse_option(&segment) {
                prop_assert!(option.mac.end <= option.data_at && option.data_at <= segment.len());
                for exclude_options in [false, true] {
                    prop_assert!(mac_input(exclude_options, 0, ADDRESS, ADDRESS, &segment).is_ok());
                }
            }
        }

        #[test]
        fn every_octet_but_checksum_and_mac_counts(
            data in prop::collection::vec(any::<u8>(), 0..200),
            exclude_options: bool,
        ) {
            let original = segment(&[vec![2, 4, 5, 0xb4], ao(12)].concat(), &data);
            let key = mac::prepare(Algorithm::HmacSha1_96, b"key");
            let mac = |segment: &[u8]| {
                segment_mac(&key, Algorithm::HmacSha1_96, exclude_options, 0, ADDRESS, ADDRESS, segment)
            };
            for at in 0..original.len() {
                // Option kinds, lengths and the data offset decide what is where.
                if [12, 20, 21, 24, 25].contains(&at) {
                    continue;
                }
                let mut changed = original.clone();
                changed[at] ^= 1;
                let is_free = CHECKSUM.contains(&at)
                    || (28..40).contains(&at)
                    || (exclude_options && (20..24).contains(&at));
                prop_assert_eq!(mac(&changed) == mac(&original), is_free, "octet {}", at);
            }
        }
    }
}
