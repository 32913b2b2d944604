//! Segments that the data plane holds for the daemon.

use jiff::Timestamp;
use tcpauth::{
    config::Config,
    sessions::{Monotonic, Now, Outcome, address, on_held},
};
use tcpauth_common::layout::{Direction, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Held, Quartet, Session};

use super::captured;

/// In the octet before a frame: it was leaving.
const OUTBOUND: u8 = 1;
/// Offsets are what the frame's octets say, not where the headers are.
const WRONG_OFFSETS: u8 = 2;

/// Frames, each after an octet of flags and its length (u8): what the daemon decides of them one after the other, with the
/// session that it has by then.
pub fn held(data: &[u8]) {
    let config = captured::config();
    let (mut session, mut rest): (Option<Session>, _) = (None, data);
    while let [flags, length, after @ ..] = rest {
        let (frame, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        match decide(&config, *flags, frame, session.as_ref()) {
            Some(Outcome::Install(installed)) => session = Some(*installed),
            Some(Outcome::Change(_) | Outcome::Release | Outcome::Refuse(_)) | None => {}
        }
    }
}

fn decide(config: &Config, flags: u8, frame: &[u8], session: Option<&Session>) -> Option<Outcome> {
    let held = held_frame(flags, frame)?;
    let peer = address(held.quartet.peer);
    // A frame of nobody is held for one who is somebody.
    let neighbor = config
        .neighbors
        .iter()
        .find(|neighbor| neighbor.peer.address == peer)
        .or(config.neighbors.first())?;
    let now = Now { monotonic: Monotonic(held.time), wall: Timestamp::UNIX_EPOCH };
    Some(on_held(&held, frame, neighbor, session, None, now))
}

/// What the program would say of a frame; `None` if it would not hold it.
fn held_frame(flags: u8, frame: &[u8]) -> Option<Held> {
    let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let mapped = |octets: &[u8]| [&[0; 10][..], &[0xff; 2], octets].concat();
    let (source, destination, l4_offset) = match ethertype {
        ETHERTYPE_IPV4 => {
            let header_len = u16::from(frame.get(14)? & 15) * 4;
            (mapped(frame.get(26..30)?), mapped(frame.get(30..34)?), 14 + header_len)
        }
        ETHERTYPE_IPV6 => (frame.get(22..38)?.to_vec(), frame.get(38..54)?.to_vec(), 54),
        _ => return None,
    };
    let at = usize::from(l4_offset);
    let port = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (source, destination) = ((source, port(at)?), (destination, port(at + 2)?));
    let is_outbound = flags & OUTBOUND != 0;
    let (local, peer) = if is_outbound { (source, destination) } else { (destination, source) };
    let quartet = Quartet {
        local: local.0.try_into().ok()?,
        peer: peer.0.try_into().ok()?,
        local_port: local.1,
        peer_port: peer.1,
        scope: 0,
    };
    let offsets = match flags & WRONG_OFFSETS {
        0 => (14, l4_offset),
        _ => (frame[0].into(), frame[1].into()),
    };
    Some(Held {
        time: 1,
        quartet,
        neighbor: 1,
        frame_len: frame.len() as u32,
        direction: if is_outbound { Direction::Outbound } else { Direction::Inbound } as u8,
        l3_offset: offsets.0,
        l4_offset: offsets.1,
        ethertype,
        ..Held::default()
    })
}

/// SYN and SYN-ACK of captured connections, seen from either end.
pub fn seeds() -> Vec<Vec<u8>> {
    let seen = |file: &[u8], from_client: bool| {
        let handshake = captured::frames(file).into_iter().take(2).enumerate();
        handshake
            .flat_map(|(number, frame)| {
                let flags = if (number == 0) == from_client { OUTBOUND } else { 0 };
                [&[flags, frame.octets.len() as u8], &frame.octets[..]].concat()
            })
            .collect()
    };
    captured::FILES.iter().flat_map(|file| [seen(file, true), seen(file, false)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_make_sessions() {
        let config = captured::config();
        // The last one is of a neighbour by TCP-MD5 that nobody has.
        for seed in &seeds()[..5] {
            let (mut session, mut rest, mut installed) = (None, &seed[..], 0);
            while let [flags, length, after @ ..] = rest {
                let (frame, after) = after.split_at(usize::from(*length));
                rest = after;
                if let Some(Outcome::Install(new)) = decide(&config, *flags, frame, session.as_ref()) {
                    (session, installed) = (Some(*new), installed + 1);
                }
            }
            assert_eq!(installed, 2, "one for the SYN, one for the SYN-ACK");
        }
    }
}
