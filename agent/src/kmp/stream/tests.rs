use proptest::prelude::*;

use super::*;

const CLIENT_ISN: Isn = Isn(0xffff_ff00);
const SERVER_ISN: Isn = Isn(0x7fff_fffe);

fn origin(local_isn: Isn, peer_isn: Isn, start: Instant, timestamps: bool) -> Origin {
    let clock = timestamps.then_some(Clock { value: 1000, at: start, echo: 77 });
    Origin { local_isn, peer_isn, window: 128, clock }
}

fn pair(start: Instant) -> [Stream; 2] {
    [
        Stream::new(origin(CLIENT_ISN, SERVER_ISN, start, true), true),
        Stream::new(origin(SERVER_ISN, CLIENT_ISN, start, true), false),
    ]
}

fn data(segments: &[Segment]) -> Vec<u8> {
    segments.iter().flat_map(|segment| segment.data.clone()).collect()
}

#[test]
fn the_client_acknowledges_first() {
    let start = Instant::now();
    let [mut client, mut server] = pair(start);
    let first = client.segments_to_send(start);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].flags, first[0].seq, first[0].ack), (ACK, 0xffff_ff01, 0x7fff_ffff));
    assert!(client.segments_to_send(start).is_empty() && server.segments_to_send(start).is_empty());
}

#[test]
fn data_carry_the_acknowledgment_and_go_in_pieces() {
    let start = Instant::now();
    let [mut client, mut server] = pair(start);
    client.write(&[7; 2000]);
    let flight = client.segments_to_send(start);
    assert_eq!(flight.iter().map(|segment| segment.data.len()).collect::<Vec<_>>(), [900, 900, 200]);
    for segment in &flight {
        server.on_segment(segment, start).unwrap();
    }
    assert_eq!(server.read(), [7; 2000]);
    server.write(b"answer");
    let answer = server.segments_to_send(start);
    assert_eq!((answer.len(), answer[0].ack), (1, 0xffff_ff01_u32.wrapping_add(2000)));
    client.on_segment(&answer[0], start).unwrap();
    assert_eq!((client.read(), client.next_due()), (b"answer".to_vec(), None));
    assert_eq!(
        (client.written(), client.received(), server.written(), server.received()),
        (2000, 6, 6, 2000)
    );
}

#[test]
fn what_is_lost_is_sent_again_ever_more_slowly() {
    let start = Instant::now();
    let [mut client, _] = pair(start);
    client.write(b"hello");
    let mut now = start;
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(data(&client.segments_to_send(now)), b"hello");
        assert!(client.segments_to_send(now).is_empty());
        let due = client.next_due().unwrap();
        waits.push((due - now).as_millis());
        now = due;
    }
    assert_eq!(waits, [200, 400, 800, 1000, 1000, 1000]);
}

#[test]
fn a_repeated_acknowledgment_brings_the_lost_segment_at_once() {
    let start = Instant::now();
    let [mut client, mut server] = pair(start);
    client.write(&[1; 1800]);
    let flight = client.segments_to_send(start);
    server.on_segment(&flight[1], start).unwrap();
    assert!(server.read().is_empty());
    for segment in server.segments_to_send(start) {
        client.on_segment(&segment, start).unwrap();
    }
    for segment in client.segments_to_send(start) {
        server.on_segment(&segment, start).unwrap();
    }
    assert_eq!(server.read(), [1; 1800]);
}

#[test]
fn timestamps_go_on_from_the_stacks_and_echo_the_peers() {
    let start = Instant::now();
    let [mut client, mut server] = pair(start);
    client.write(b"x");
    let segment = &client.segments_to_send(start + Duration::from_millis(30))[0];
    assert_eq!(segment.timestamps, Some(Timestamps { value: 1030, echo: 77 }));
    server.on_segment(segment, start).unwrap();
    let answer = &server.segments_to_send(start)[0];
    assert_eq!(answer.timestamps, Some(Timestamps { value: 1000, echo: 1030 }));
    let mut without = Stream::new(origin(CLIENT_ISN, SERVER_ISN, start, false), true);
    assert_eq!(without.segments_to_send(start)[0].timestamps, None);
}

#[test]
fn what_ends_a_stream() {
    let start = Instant::now();
    let segment = |flags, seq: u32, ack: u32| Segment {
        seq,
        ack,
        flags,
        window: 0,
        timestamps: None,
        data: Vec::new(),
    };
    let heard = |segment: &Segment| {
        let [mut client, _] = pair(start);
        client.on_segment(segment, start)
    };
    let (seq, ack) = (SERVER_ISN.0 + 1, CLIENT_ISN.0 + 1);
    assert_eq!(heard(&segment(RST, seq, 0)), Err(StreamError::Reset));
    // The peer's stack may send one: it stands where the handshake began.
    assert_eq!(heard(&segment(RST | ACK, seq - 1, ack)), Err(StreamError::Reset));
    assert_eq!(heard(&segment(RST, seq + WINDOW + 1, 0)), Ok(()));
    assert_eq!(heard(&segment(RST, seq - 2, 0)), Ok(()));
    assert_eq!(heard(&segment(FIN | ACK, seq, ack)), Err(StreamError::Closed));
    assert_eq!(heard(&segment(ACK, seq, ack + 1)), Err(StreamError::OtherHandshake));
    assert_eq!(heard(&segment(ACK, seq, ack - 1)), Ok(()));
}

#[test]
fn a_syn_ack_that_comes_again_is_acknowledged_again() {
    let start = Instant::now();
    let [mut client, _] = pair(start);
    client.segments_to_send(start);
    let again = Segment {
        seq: SERVER_ISN.0,
        ack: CLIENT_ISN.0 + 1,
        flags: SYN | ACK,
        window: 1,
        timestamps: None,
        data: Vec::new(),
    };
    client.segments_to_send(start);
    client.on_segment(&again, start).unwrap();
    assert_eq!(client.segments_to_send(start)[0].flags, ACK);
    // The client's SYN once more: it does not know our ISN, and could not verify an acknowledgment.
    let [_, mut server] = pair(start);
    server.on_segment(&Segment { seq: CLIENT_ISN.0, ack: 0, flags: SYN, ..again }, start).unwrap();
    assert!(server.segments_to_send(start).is_empty());
}

#[test]
fn a_segment_is_the_same_after_it_was_written_and_parsed() {
    for timestamps in [None, Some(Timestamps { value: 0x0102_0304, echo: 0xa0b0_c0d0 })] {
        let segment =
            Segment { seq: 0xfedc_ba98, ack: 7, flags: ACK, window: 600, timestamps, data: b"x".to_vec() };
        assert_eq!(Segment::parse(&segment.octets(179, 40000)), Some(segment));
    }
    assert_eq!(Segment::parse(&[0; 19]), None);
}

/// What a network does to a segment.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Passed(u64),
    Twice(u64, u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Lost),
        6 => (0u64..20).prop_map(Fate::Passed),
        1 => (0u64..20, 0u64..400).prop_map(|(first, second)| Fate::Twice(first, second)),
    ]
}

/// Speaks over a network that treats segments by `fates`, and well when those are used up. Gives what each end read.
fn speak(messages: [&[u8]; 2], fates: &[Fate]) -> [Vec<u8>; 2] {
    let start = Instant::now();
    let mut now = start;
    let mut ends = pair(start);
    let mut fates = fates.iter();
    // Arrival, tie-breaker, to whom.
    let mut network: BTreeMap<(Instant, usize), (usize, Segment)> = BTreeMap::new();
    let mut read = [Vec::new(), Vec::new()];
    let mut count = 0;
    for (end, message) in ends.iter_mut().zip(messages) {
        end.write(message);
    }
    let is_over = |ends: &[Stream; 2]| {
        ends[0].received() as usize == messages[1].len() && ends[1].received() as usize == messages[0].len()
    };
    while !is_over(&ends) {
        assert!(
            now - start < Duration::from_secs(120),
            "no progress: {} of {:?}",
            ends[1].received(),
            messages[0].len()
        );
        for (index, end) in ends.iter_mut().enumerate() {
            for segment in end.segments_to_send(now) {
                let delays = match fates.next().unwrap_or(&Fate::Passed(1)) {
                    Fate::Lost => vec![],
                    Fate::Passed(delay) => vec![*delay],
                    Fate::Twice(first, second) => vec![*first, *second],
                };
                for delay in delays {
                    count += 1;
                    let arrival = now + Duration::from_millis(delay);
                    network.insert((arrival, count), (1 - index, segment.clone()));
                }
            }
        }
        let next_arrival = network.first_key_value().map(|(key, _)| key.0);
        let next = next_arrival.into_iter().chain(ends.iter().filter_map(Stream::next_due)).min();
        now = next.expect("something is under way or due").max(now);
        while let Some(entry) = network.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to, segment) = entry.remove();
            ends[to].on_segment(&segment, now).unwrap();
            read[to].extend(ends[to].read());
        }
    }
    read
}

proptest! {
    #[test]
    fn both_ends_get_exactly_the_octets(
        sizes in (0usize..12_000, 0usize..12_000),
        fates in prop::collection::vec(fate(), 0..60),
    ) {
        let octets = |len: usize, step: usize| (0..len).map(|at| ((at * step) >> 3) as u8).collect::<Vec<u8>>();
        let (first, second) = (octets(sizes.0, 7), octets(sizes.1, 13));
        let read = speak([&first, &second], &fates);
        prop_assert!(read[1] == first && read[0] == second);
    }

    #[test]
    fn garbage_delivers_nothing_from_outside_the_window(
        segments in prop::collection::vec(
            (prop_oneof![any::<i32>(), -20_000i32..40_000], any::<u32>(), any::<u8>(), 0usize..2000, any::<bool>()),
            1..60,
        ),
    ) {
        let start = Instant::now();
        let [mut client, _] = pair(start);
        let mut expected = BTreeMap::new();
        for (at, ack, flags, len, is_ack_good) in segments {
            let edge = client.received();
            let seq = (SERVER_ISN.0 + 1).wrapping_add(edge).wrapping_add_signed(at);
            let ack = if is_ack_good { CLIENT_ISN.0 + 1 } else { ack };
            // Each octet tells its place.
            let place = |offset: usize| (i64::from(edge) + i64::from(at) + offset as i64) as u8;
            let data: Vec<u8> = (0..len).map(place).collect();
            for offset in 0..len {
                let number = i64::from(edge) + i64::from(at) + offset as i64;
                if number < i64::from(edge) + i64::from(WINDOW) {
                    expected.insert(number, ());
                }
            }
            let segment = Segment { seq, ack, flags, window: 0, timestamps: None, data };
            if client.on_segment(&segment, start).is_err() {
                break;
            }
            let before = edge;
            for (offset, octet) in client.read().into_iter().enumerate() {
                let number = i64::from(before) + offset as i64;
                prop_assert!(expected.contains_key(&number), "octet {number} was never within the window");
                prop_assert_eq!(octet, number as u8);
            }
            prop_assert!(client.received() - before <= WINDOW);
            prop_assert!(client.early.len() <= MAX_PIECES + 1);
            client.segments_to_send(start);
        }
    }

    #[test]
    fn any_octets_are_parsed_without_panic(octets in prop::collection::vec(any::<u8>(), 0..100), words in 5u8..16) {
        let mut octets = octets;
        if let Some(offset) = octets.get_mut(12) {
            *offset = words << 4;
        }
        if let Some(segment) = Segment::parse(&octets) {
            let again = Segment::parse(&segment.octets(1, 2));
            prop_assert_eq!(again, Some(segment));
        }
    }
}
