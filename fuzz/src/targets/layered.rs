//! Segments of a handshake on the connection itself, and the messages in them.

use std::time::{Duration, Instant};

use tcpauth::{
    keys::Role,
    kmp::{
        Capabilities, Connection, Exchange,
        layered::{Action, Handshake},
        stream::{Origin, Segment},
    },
};
use tcpauth_common::{Algorithm, Isn, KeyId};

use super::clear::Clear;

const CLIENT_ISN: Isn = Isn(0xffff_fff0);
const SERVER_ISN: Isn = Isn(99);
const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// The role of the end that hears (u8), then segments to it, each after its length (u16); there is no TLS below the
/// messages. It ends, and not with keys: what the peer said belongs to another handshake's random numbers.
pub fn layered(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let mut now = Instant::now();
    let mut end = begin(ROLES[usize::from(first & 1)], now);
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (octets, after) = after.split_at(length);
        rest = after;
        if let Some(segment) = Segment::parse(octets) {
            end.on_segment(&segment, now);
        }
        now += Duration::from_millis(100);
        end.on_time(now);
        look(&mut end);
    }
    end.on_time(now + Duration::from_secs(60));
    look(&mut end);
    assert!(end.next_due().is_none(), "every handshake ends");
}

fn look(end: &mut Handshake<Clear>) {
    while let Some(action) = end.next_action() {
        match action {
            Action::Send(segment) => {
                let octets = segment.octets(40000, 179);
                assert_eq!(Segment::parse(&octets), Some(segment));
            }
            Action::Fail(failure) => assert!(!failure.to_string().is_empty()),
            Action::Switch(..) | Action::Open(..) => panic!("nobody can have proved that he has these keys"),
        }
    }
}

fn begin(role: Role, now: Instant) -> Handshake<Clear> {
    let connection = Connection {
        client: ([192, 0, 2, 1], 40000).into(),
        server: ([192, 0, 2, 2], 179).into(),
        client_isn: CLIENT_ISN,
        server_isn: Some(SERVER_ISN),
    };
    let (local_isn, peer_isn) = match role {
        Role::Client => (CLIENT_ISN, SERVER_ISN),
        Role::Server => (SERVER_ISN, CLIENT_ISN),
    };
    let capabilities = Capabilities::ours(&Algorithm::TCP_AO, Duration::from_secs(3600));
    let mut exchange = Exchange::new(Clear::default(), capabilities);
    exchange.receive(&[]).expect("nothing is no fault");
    let origin = Origin { local_isn, peer_isn, window: 512, clock: None };
    Handshake::new(connection, role, KeyId(130), origin, exchange, now)
}

/// What came to each end of a handshake that succeeded.
pub fn seeds() -> Vec<Vec<u8>> {
    let (seeds, _) = succeed();
    seeds.to_vec()
}

/// What came to each end, and whether both had keys.
fn succeed() -> ([Vec<u8>; 2], [bool; 2]) {
    let now = Instant::now();
    let mut ends = ROLES.map(|role| begin(role, now));
    let (mut heard, mut agreed) = ([vec![0], vec![1]], [false; 2]);
    for _ in 0..8 {
        for (us, them) in [(0, 1), (1, 0)] {
            while let Some(action) = ends[us].next_action() {
                match action {
                    Action::Send(segment) => {
                        let octets = segment.octets(40000, 179);
                        heard[them].extend((octets.len() as u16).to_be_bytes());
                        heard[them].extend(octets);
                        ends[them].on_segment(&segment, now);
                    }
                    Action::Switch(..) | Action::Open(..) => agreed[us] = true,
                    Action::Fail(_) => {}
                }
            }
            ends[us].on_time(now);
        }
    }
    (heard, agreed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_of_a_handshake_that_succeeded() {
        assert_eq!(succeed().1, [true; 2]);
    }
}
