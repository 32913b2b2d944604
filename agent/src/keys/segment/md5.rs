//! TCP-MD5 (RFC 2385): the option and the octets under its digest.

use std::{net::IpAddr, ops::Range};

use tcpauth_common::{
    Algorithm,
    layout::KeyMaterial,
    mac::{self, MAX_PASSWORD, Workspace},
    option::{BASE_HEADER, MD5_LEN},
};
use zeroize::Zeroize;

use super::{CHECKSUM, SegmentError, push_pseudo_header, walk};

/// Length of the option without its digest, octets: kind, length.
const OPTION_HEAD: usize = 2;

/// Where the digest of `segment` (TCP header and data) lies in it.
///
/// # Errors
/// [`SegmentError::Malformed`] (which an option of another length than 18 octets is too),
/// [`SegmentError::OptionTwice`] (which a TCP-AO option beside it is too), or [`SegmentError::NoOption`], in this
/// order where several hold.
pub fn parse_option(segment: &[u8]) -> Result<Range<usize>, SegmentError> {
    let (_, walk) = walk(segment)?;
    let at = walk.md5_at as usize;
    match (at, walk.ao_at, walk.authentications) {
        (0, 0, 1) => Err(SegmentError::Malformed),
        (0, ..) => Err(SegmentError::NoOption),
        _ => Ok(at + OPTION_HEAD..at + MD5_LEN as usize),
    }
}

/// The digest of `segment` (TCP header with a TCP-MD5 option, and data). What the checksum and the options hold does
/// not matter. Of a password longer than [`MAX_PASSWORD`] octets only these count.
///
/// # Errors
/// [`SegmentError`], in all its cases.
pub fn digest(
    password: &[u8],
    source: IpAddr,
    destination: IpAddr,
    segment: &[u8],
) -> Result<[u8; 16], SegmentError> {
    let input = mac_input(source, destination, segment)?;
    let password = &password[..password.len().min(MAX_PASSWORD)];
    let mut workspace = Box::new(Workspace::default());
    let len = workspace.load(&[&input, password]).ok_or(SegmentError::TooLong)?;
    mac::mac(&mut workspace, &KeyMaterial::default(), Algorithm::Md5, len);
    workspace.input.zeroize();
    workspace.state.zeroize();
    Ok(workspace.mac_octets())
}

/// The octets under the digest, without the password: IP pseudo-header, TCP header without options and with its
/// checksum zeroed, data. The pseudo-header counts the options.
///
/// # Errors
/// [`SegmentError`], in all its cases.
pub fn mac_input(source: IpAddr, destination: IpAddr, segment: &[u8]) -> Result<Vec<u8>, SegmentError> {
    let (header, _) = walk(segment)?;
    parse_option(segment)?;
    let mut input = Vec::with_capacity(40 + segment.len());
    push_pseudo_header(&mut input, source, destination, segment.len())?;
    let tcp_at = input.len();
    input.extend_from_slice(&segment[..BASE_HEADER as usize]);
    input.extend_from_slice(&segment[header.len_by_offset() as usize..]);
    input[tcp_at + CHECKSUM.start..tcp_at + CHECKSUM.end].fill(0);
    Ok(input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcpauth_common::mac::MAX_INPUT;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn segment(options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut segment = vec![0xee; 20];
        segment[12] = ((20 + options.len()) as u8 / 4) << 4;
        [&segment, options, data].concat()
    }

    fn md5() -> Vec<u8> {
        [vec![1, 1, 19, 18], vec![0xaa; 16]].concat()
    }

    #[test]
    fn the_digest_is_found_wherever_the_option_stands() {
        assert_eq!(parse_option(&segment(&md5(), b"data")), Ok(24..40));
        let behind = [vec![2, 4, 5, 0xb4], md5()].concat();
        assert_eq!(parse_option(&segment(&behind, b"")), Ok(28..44));
        let before = [vec![19, 18], vec![0xaa; 16], vec![1, 1, 2, 4, 5, 0xb4]].concat();
        assert_eq!(parse_option(&segment(&before, b"")), Ok(22..38));
    }

    #[test]
    fn segments_without_one_such_option() {
        let ao = [vec![29, 16, 1, 1], vec![0; 12]].concat();
        for (options, error) in [
            (vec![], SegmentError::NoOption),
            (vec![0; 4], SegmentError::NoOption),
            (ao.clone(), SegmentError::NoOption),
            ([md5(), ao].concat(), SegmentError::OptionTwice),
            ([md5(), md5()].concat(), SegmentError::OptionTwice),
            ([vec![19, 16], vec![0; 14]].concat(), SegmentError::Malformed),
            ([vec![19, 20], vec![0; 18]].concat(), SegmentError::Malformed),
            ([vec![19, 18], vec![0; 14]].concat(), SegmentError::Malformed),
        ] {
            assert_eq!(parse_option(&segment(&options, b"")), Err(error), "{options:?}");
        }
    }

    #[test]
    fn what_cannot_be_under_a_digest() {
        let v6 = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
        let short = segment(&md5(), b"");
        assert_eq!(digest(b"key", v6, ADDRESS, &short), Err(SegmentError::MixedFamilies));
        let longest = segment(&md5(), &vec![0; MAX_INPUT as usize - 12 - 20 - 3]);
        assert!(digest(b"key", ADDRESS, ADDRESS, &longest).is_ok());
        assert_eq!(digest(b"keys", ADDRESS, ADDRESS, &longest), Err(SegmentError::TooLong));
    }

    #[test]
    fn a_password_counts_up_to_its_eightieth_octet() {
        let segment = segment(&md5(), b"data");
        let of = |password: &[u8]| digest(password, ADDRESS, ADDRESS, &segment).unwrap();
        assert_ne!(of(&[7; 79]), of(&[7; 80]));
        assert_eq!(of(&[7; 80]), of(&[7; 81]));
    }

    proptest! {
        #[test]
        fn any_octets_parse_without_panic(octets in prop::collection::vec(any::<u8>(), 0..100), words in 5u8..16) {
            let mut segment = octets;
            if segment.len() > 12 {
                segment[12] = words << 4;
            }
            let is_parsed = parse_option(&segment).is_ok();
            prop_assert_eq!(digest(b"key", ADDRESS, ADDRESS, &segment).is_ok(), is_parsed);
        }

        #[test]
        fn every_octet_but_checksum_and_options_counts(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let original = segment(&[vec![2, 4, 5, 0xb4], md5()].concat(), &data);
            let of = |segment: &[u8]| digest(b"key", ADDRESS, ADDRESS, segment);
            for at in 0..original.len() {
                // Option kinds, lengths and the data offset decide what is where.
                if [12, 20, 21, 24, 25, 26, 27].contains(&at) {
                    continue;
                }
                let mut changed = original.clone();
                changed[at] ^= 1;
                let is_free = CHECKSUM.contains(&at) || (20..44).contains(&at);
                prop_assert_eq!(of(&changed) == of(&original), is_free, "octet {}", at);
            }
        }
    }
}
