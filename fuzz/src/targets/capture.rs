//! Capture files.

use tcpauth::capture::{AgreedKeys, Frames, Summary, Verifier};

use super::captured;

/// A capture file. Reading it comes to an end, and what is read is judged.
pub fn capture(data: &[u8]) {
    let Ok(frames) = Frames::new(data) else { return };
    let config = captured::config();
    let agreed = AgreedKeys::default();
    let mut verifier = Verifier::new(&config, &agreed);
    let mut summary = Summary::default();
    for frame in frames.map_while(Result::ok) {
        if let Some(examined) = verifier.examine(&frame) {
            summary.count(examined.verdict);
        }
    }
    let _ = (summary.failed(), summary.is_good());
}

/// The beginnings of captures, as pcap and as pcapng.
pub fn seeds() -> Vec<Vec<u8>> {
    captured::FILES.iter().flat_map(|file| [pcap(file), pcapng(file)]).collect()
}

/// The head of `file`, and its first records.
fn pcap(file: &[u8]) -> Vec<u8> {
    let mut pcap = file[..24].to_vec();
    for frame in captured::frames(file) {
        let length = (frame.octets.len() as u32).to_le_bytes();
        pcap.extend([&[0; 8], &length[..], &length[..], &frame.octets].concat());
    }
    pcap
}

/// The same in pcapng: a section, an interface of Ethernet, packets.
fn pcapng(file: &[u8]) -> Vec<u8> {
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let interface = vec![1, 0, 0, 0, 0, 0, 4, 0];
    let packets = captured::frames(file).into_iter().map(|frame| {
        let length = (frame.octets.len() as u32).to_le_bytes();
        (6, [&[0; 12], &length[..], &length[..], &frame.octets].concat())
    });
    let blocks = [(0x0a0d_0d0a, section), (1, interface)].into_iter().chain(packets);
    blocks.flat_map(|(kind, body)| block(kind, body)).collect()
}

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
            let frames: Vec<_> = Frames::new(&seed[..]).unwrap().collect::<Result<_, _>>().unwrap();
            let mut verifier = Verifier::new(&config, &agreed);
            let mut summary = Summary::default();
            for frame in &frames {
                summary.count(verifier.examine(frame).expect("a neighbour's").verdict);
            }
            assert_eq!(frames.len(), 12);
            assert!(summary.is_good(), "{summary}");
        }
    }
}
