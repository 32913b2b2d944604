//! Capture files.

use tcpauth::capture::{AgreedKeys, Examination, Frames, Summary, Verifier};

use super::captured;

/// A capture file. Reading it comes to an end, and what is read is judged.
pub fn capture(data: &[u8]) {
    let Ok(frames) = Frames::new(data) else { return };
    let config = captured::config();
    let agreed = AgreedKeys::default();
    let mut examination = Examination::new(frames, Verifier::new(&config, &agreed));
    let mut summary = Summary::default();
    let mut last = 0;
    for examined in examination.by_ref() {
        assert!(examined.frame > last, "in the order of the file");
        last = examined.frame;
        summary.count(examined.verdict);
    }
    let rest = examination.into_rest();
    let _ = (summary.failed(), summary.is_good(), rest.others.explanation(summary.segments > 0));
}

/// The beginnings of captures: as pcap, in PPPoE, behind MPLS labels, with the last frames first; and as pcapng.
pub fn seeds() -> Vec<Vec<u8>> {
    let of_file = |file: &&[u8]| {
        let frames = captured::frames(file);
        let octets: Vec<_> = frames.into_iter().map(|frame| frame.octets).collect();
        let is_ipv4 = |octets: &[u8]| octets[12..14] == [0x08, 0x00];
        let behind = |ethertype: [u8; 2], shim: &[u8], octets: &Vec<u8>| {
            [&octets[..12], &ethertype, shim, &octets[ETHERNET..]].concat()
        };
        let in_pppoe = |octets: &Vec<u8>| {
            let protocol = if is_ipv4(octets) { 0x21 } else { 0x57 };
            behind([0x88, 0x64], &[0x11, 0, 0, 9, 0, 0, 0, protocol], octets)
        };
        let labelled = |octets: &Vec<u8>| behind([0x88, 0x47], &[0, 0x40, 0, 64, 0, 0x41, 1, 64], octets);
        let (head, reversed) = (&file[..24], octets.iter().rev().cloned().collect());
        [
            pcap(head, octets.iter().map(in_pppoe).collect()),
            pcap(head, octets.iter().map(labelled).collect()),
            pcap(head, reversed),
            pcapng(&octets),
            pcap(head, octets),
        ]
    };
    captured::FILES.iter().flat_map(of_file).collect()
}

/// A file with this head, and a record for each frame.
fn pcap(head: &[u8], frames: Vec<Vec<u8>>) -> Vec<u8> {
    let mut pcap = head.to_vec();
    for octets in frames {
        let length = (octets.len() as u32).to_le_bytes();
        pcap.extend([&[0; 8], &length[..], &length[..], &octets].concat());
    }
    pcap
}

/// The same in pcapng: a section, an interface of Ethernet and one that is not read, TLS secrets, packets.
fn pcapng(frames: &[Vec<u8>]) -> Vec<u8> {
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let interface = |link| vec![link, 0, 0, 0, 0, 0, 4, 0];
    let packets = frames.iter().map(|octets| {
        let length = (octets.len() as u32).to_le_bytes();
        (6, [&[0; 12], &length[..], &length[..], octets].concat())
    });
    let before = [(0x0a0d_0d0a, section), (1, interface(1)), (1, interface(189)), (10, vec![7; 40])];
    let blocks = before.into_iter().chain(packets);
    blocks.flat_map(|(kind, body)| block(kind, body)).collect()
}

/// Length of Ethernet's header.
const ETHERNET: usize = 14;

fn block(kind: u32, mut body: Vec<u8>) -> Vec<u8> {
    body.resize(body.len().next_multiple_of(4), 0);
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_verify() {
        let (config, agreed) = (captured::config(), AgreedKeys::default());
        for seed in seeds() {
            let frames = Frames::new(&seed[..]).unwrap();
            let mut examination = Examination::new(frames, Verifier::new(&config, &agreed));
            let mut summary = Summary::default();
            examination.by_ref().for_each(|examined| summary.count(examined.verdict));
            let rest = examination.into_rest();
            assert!(rest.others.is_empty() && rest.unread.is_none(), "{rest:?}");
            assert_eq!(summary.segments, 12);
            assert!(summary.is_good(), "{summary}");
        }
    }
}
