//! The Internet checksum (RFC 1071) of TCP segments (RFC 9293 §3.1).

/// IP protocol number of TCP.
const TCP: u8 = 6;
/// Offset of the checksum in a TCP header.
const CHECKSUM: std::ops::Range<usize> = 16..18;

/// Returns the Internet checksum of `parts`, of which all but the last have an even length.
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    (!sum(parts)).to_be_bytes()
}

/// Writes the checksum of `tcp`, a TCP header with its data, between `addresses` (source, then destination). The field
/// never becomes 0x0000, because Linux with TCP-AO refuses such a segment; 0xffff is the same in one's complement.
///
/// # Panics
/// If `tcp` is shorter than a TCP header.
pub fn fill_in(tcp: &mut [u8], addresses: &[u8]) {
    tcp[CHECKSUM].fill(0);
    let checksum = match checksum(&[addresses, &pseudo_header(tcp), tcp]) {
        [0, 0] => [0xff, 0xff],
        checksum => checksum,
    };
    tcp[CHECKSUM].copy_from_slice(&checksum);
}

/// Returns whether the checksum of `tcp` is only the pseudo-header's sum: the sender left the rest to its interface
/// (`CHECKSUM_PARTIAL`), and a frame that never was on a wire arrives like this.
pub fn is_partial(tcp: &[u8], addresses: &[u8]) -> bool {
    let Some(&[high, low]) = tcp.get(CHECKSUM) else { return false };
    u16::from_be_bytes([high, low]) == sum(&[addresses, &pseudo_header(tcp)])
}

fn pseudo_header(tcp: &[u8]) -> [u8; 6] {
    let [a, b, c, d] = (tcp.len() as u32).to_be_bytes();
    [0, TCP, a, b, c, d]
}

/// The one's complement sum, not inverted.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 = words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum();
    (0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [u8; 8] = [192, 0, 2, 1, 192, 0, 2, 2];

    fn segment(last: u16) -> Vec<u8> {
        let mut tcp = vec![0; 22];
        tcp[12] = 0x50;
        tcp[20..].copy_from_slice(&last.to_be_bytes());
        tcp
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_ffff() {
        let mut tcp = segment(0);
        fill_in(&mut tcp, &ADDRESSES);
        let missing = u16::from_be_bytes([tcp[16], tcp[17]]);
        let mut tcp = segment(missing);
        fill_in(&mut tcp, &ADDRESSES);
        assert_eq!(tcp[CHECKSUM], [0xff, 0xff]);
        assert_eq!(checksum(&[&ADDRESSES, &pseudo_header(&tcp), &tcp]), [0, 0], "sound");
    }

    #[test]
    fn only_the_sum_of_the_pseudo_header_is_partial() {
        let mut tcp = segment(7);
        let partial = sum(&[&ADDRESSES, &pseudo_header(&tcp)]);
        tcp[CHECKSUM].copy_from_slice(&partial.to_be_bytes());
        assert!(is_partial(&tcp, &ADDRESSES));
        tcp[17] ^= 1;
        assert!(!is_partial(&tcp, &ADDRESSES), "a damaged segment");
        fill_in(&mut tcp, &ADDRESSES);
        assert!(!is_partial(&tcp, &ADDRESSES), "a complete checksum");
        assert!(!is_partial(&[0; 17], &ADDRESSES), "no header");
    }
}
