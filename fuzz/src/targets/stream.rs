//! Segments of a handshake on the connection itself.

use std::time::{Duration, Instant};

use tcpauth::kmp::stream::{Clock, Origin, Segment, Stream};
use tcpauth_common::Isn;

const CLIENT_ISN: Isn = Isn(0xffff_fe00);
const SERVER_ISN: Isn = Isn(7);

/// Octets that the stream has to send, so that there is something to acknowledge.
const SAID: usize = 2000;

/// Segments to the client, each after its length (u16). What is taken in is bounded, and what goes out is well-formed.
pub fn stream(data: &[u8]) {
    let start = Instant::now();
    let mut stream = client(start);
    stream.write(&[0x16; SAID]);
    let (mut now, mut rest) = (start, data);
    let mut read = 0;
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (octets, after) = after.split_at(length);
        rest = after;
        if let Some(segment) = Segment::parse(octets)
            && stream.on_segment(&segment, now).is_err()
        {
            return;
        }
        read += stream.read().len();
        assert_eq!(stream.received() as usize, read, "what came in order is read");
        now += Duration::from_millis(150);
        for segment in stream.segments_to_send(now) {
            let octets = segment.octets(40000, 179);
            assert_eq!(Segment::parse(&octets).as_ref(), Some(&segment));
        }
        assert!(stream.next_due().is_none_or(|due| due > now), "or it would spin");
    }
}

fn client(start: Instant) -> Stream {
    Stream::new(origin(CLIENT_ISN, SERVER_ISN, start), true)
}

fn origin(local_isn: Isn, peer_isn: Isn, start: Instant) -> Origin {
    Origin { local_isn, peer_isn, window: 512, clock: Some(Clock { value: 1000, at: start, echo: 77 }) }
}

/// What a server sends, in order, backwards and repeated.
pub fn seeds() -> Vec<Vec<u8>> {
    let start = Instant::now();
    let (mut client, mut server) = (client(start), Stream::new(origin(SERVER_ISN, CLIENT_ISN, start), false));
    client.write(&[0x16; SAID]);
    server.write(&[0x17; SAID]);
    let mut sent: Vec<Vec<u8>> = Vec::new();
    for _ in 0..6 {
        for segment in client.segments_to_send(start) {
            let _ = server.on_segment(&segment, start);
        }
        for segment in server.segments_to_send(start) {
            let octets = segment.octets(179, 40000);
            sent.push([&(octets.len() as u16).to_be_bytes()[..], &octets].concat());
            let _ = client.on_segment(&segment, start);
        }
    }
    let backwards: Vec<_> = sent.iter().rev().cloned().collect();
    vec![sent.concat(), backwards.concat(), [sent.concat(), sent.concat()].concat()]
}
