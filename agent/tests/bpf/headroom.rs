//! Room for the option in connections whose MSS takes no account of it: super-packets are cut smaller, and what is
//! too long by itself goes in pieces.

use std::os::fd::{AsRawFd, OwnedFd};

use aya::programs::TcAttachType;
use tcpauth::keys::TcpOptions;
use tcpauth_common::{
    Algorithm,
    layout::{Policy, Session},
};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PSH_ACK},
    lab::octets,
    segment::Segment,
    wire::{Wire, packet_socket, receive, send, set_option},
};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
/// TCP header and data in a frame of a 1500-octet MTU with IPv4.
const FULL: usize = 1480;
/// What is left of it beside the longest option.
const LARGEST: usize = FULL - 20;

/// A session that was taken over and signs.
fn adopted(connection: &Connection) -> Session {
    let session = connection.session();
    Session { flags: session.flags | Session::ADOPTED, largest_segment: LARGEST as u32, ..session }
}

/// A wire on which `egress` takes what leaves by `near` into the lane.
fn wire(connection: &Connection, session: &Session) -> Wire {
    let mut wire = Wire::new(connection);
    wire.lab.put(connection, session);
    wire.lab.use_lane("lane0", "lane1");
    wire.lab.attach("egress", "near", TcAttachType::Egress);
    wire
}

/// A segment of ours, `len` octets of TCP header and data.
fn ours(connection: &Connection, flags: u8, options: &[u8], len: usize) -> Segment {
    let data = (0..len - 20 - options.len()).map(|at| (at % 251) as u8).collect();
    Segment { options: options.to_vec(), data, ..connection.outbound(flags, LOCAL_ISN + 1) }
}

/// Sends a segment by `near`: what arrives at the neighbour, in its order.
fn arriving(wire: &Wire, segment: &Segment) -> Vec<Segment> {
    send(&packet_socket("near"), &segment.frame());
    let mut pieces = Vec::new();
    while pieces.iter().map(|piece: &Segment| piece.data.len()).sum::<usize>() < segment.data.len() {
        let Some((frame, _)) = receive(&wire.far) else { break };
        pieces.push(Segment::of_frame(&frame));
    }
    pieces
}

/// That the pieces are the segment's, each signed by itself; `pieces` in the order of their sequence numbers.
fn check_pieces(connection: &Connection, session: &Session, segment: &Segment, pieces: &[Segment]) {
    let mut seq = segment.seq;
    let (last, others) = pieces.split_last().expect("something arrives");
    for piece in pieces {
        assert_eq!(piece.seq, seq);
        assert!(connection.accepts(&session.slots[0].send, piece, 0), "of {} octets", piece.data.len());
        let plain = (piece.ack, piece.window, &piece.options[..segment.options.len()]);
        assert_eq!(plain, (segment.ack, segment.window, &segment.options[..]));
        assert_eq!(piece.hop_limit, segment.hop_limit);
        assert!(piece.tcp().len() <= FULL, "{} octets", piece.tcp().len());
        seq = seq.wrapping_add(piece.data.len() as u32);
    }
    let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.clone()).collect();
    assert!(data == segment.data, "the octets are others");
    assert_eq!(last.flags, segment.flags);
    assert!(others.iter().all(|piece| piece.flags == segment.flags & !(FIN | PSH)));
}

#[test]
fn a_segment_without_room_goes_in_two_pieces() {
    for family in [Family::V4, Family::V6] {
        for algorithm in [Algorithm::HmacSha1_96, Algorithm::HmacSha256_128] {
            let connection = Connection::new(family, algorithm, TcpOptions::Include);
            let session = adopted(&connection);
            let wire = wire(&connection, &session);
            let all = [ACK, PSH_ACK, FIN | PSH_ACK, FIN | ACK];
            let lens = [LARGEST + 1, LARGEST + 2, LARGEST + 3, FULL - 1, FULL];
            for (at, len) in lens.into_iter().enumerate() {
                for options in [&TIMESTAMPS[..], &[]] {
                    let segment = ours(&connection, all[at % all.len()], options, len);
                    let pieces = arriving(&wire, &segment);
                    assert_eq!(pieces.len(), 2, "{family:?} {algorithm:?} {len}");
                    check_pieces(&connection, &session, &segment, &pieces);
                }
            }
            let now = wire.lab.session(&connection).unwrap();
            assert_eq!(now.counters.passed.signed_segments, 2 * 2 * lens.len() as u64);
            assert_eq!(now.counters.dropped, session.counters.dropped);
            assert!(receive(&wire.far).is_none(), "nothing arrives twice");
        }
    }
}

#[test]
fn a_segment_much_too_long_goes_in_more_pieces() {
    let connection = Connection::plain();
    let session = Session { largest_segment: 1000, ..adopted(&connection) };
    let wire = wire(&connection, &session);
    for len in [1256, 1257, 1258, FULL - 1, FULL] {
        let segment = ours(&connection, FIN | PSH_ACK, &TIMESTAMPS, len);
        let mut pieces = arriving(&wire, &segment);
        pieces.sort_by_key(|piece| piece.seq);
        assert!(pieces.iter().all(|piece| piece.tcp().len() <= 1000 + 16), "{len}");
        check_pieces(&connection, &session, &segment, &pieces);
    }
}

#[test]
fn a_segment_with_room_and_one_of_a_session_without_a_limit_stay_whole() {
    let connection = Connection::plain();
    let mut wire = wire(&connection, &adopted(&connection));
    let segment = ours(&connection, PSH_ACK, &TIMESTAMPS, LARGEST);
    let pieces = arriving(&wire, &segment);
    assert_eq!(pieces.len(), 1);
    check_pieces(&connection, &connection.session(), &segment, &pieces);
    wire.lab.put(&connection, &connection.session());
    let segment = ours(&connection, PSH_ACK, &TIMESTAMPS, FULL);
    assert_eq!(arriving(&wire, &segment).len(), 1);
}

#[test]
fn what_goes_unsigned_needs_no_room() {
    let connection = Connection::plain();
    let mut wire = wire(&connection, &adopted(&connection));
    let flags = Policy::ACCEPT_UNSIGNED;
    wire.lab.set_policy(connection.neighbor, Policy { flags, ..connection.policy() });
    let segment = ours(&connection, PSH_ACK, &TIMESTAMPS, FULL);
    send(&packet_socket("near"), &segment.frame());
    assert_eq!(receive(&wire.far).unwrap().0, segment.frame());
}

#[test]
fn a_super_packet_is_cut_into_segments_with_room() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let mut wire = Wire::without_seal(&connection);
        wire.lab.use_lane("lane0", "lane1");
        wire.lab.attach("egress", "near", TcAttachType::Egress);
        let [near, lane1] = ["near", "lane1"].map(offloading_socket);
        let header_len = 20 + TIMESTAMPS.len();
        for (session, size, wanted) in [
            (adopted(&connection), FULL - header_len, LARGEST - header_len),
            (adopted(&connection), LARGEST - header_len, LARGEST - header_len),
            (adopted(&connection), 500, 500),
            (connection.session(), FULL - header_len, FULL - header_len),
        ] {
            wire.lab.put(&connection, &session);
            let segment = ours(&connection, PSH_ACK, &TIMESTAMPS, 20_000);
            send_super_packet(&near, &segment, size as u16);
            let (frame, now) = receive_super_packet(&lane1);
            assert_eq!(usize::from(now), wanted, "{family:?} {size}");
            assert_eq!(frame.len(), segment.frame().len());
            assert!(frame.ends_with(&segment.data), "its octets stay");
        }
    }
}

/// `struct virtio_net_hdr` of linux/virtio_net.h.
#[repr(C)]
struct Offload {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// A packet socket that says of each frame what is left to be done to it.
fn offloading_socket(interface: &str) -> OwnedFd {
    let socket = packet_socket(interface);
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32);
    socket
}

/// Sends a segment that is yet to be cut into some with `size` octets of data.
fn send_super_packet(socket: &OwnedFd, segment: &Segment, size: u16) {
    let header = Offload {
        flags: NEEDS_CSUM,
        gso_type: if segment.source.is_ipv4() { GSO_TCPV4 } else { GSO_TCPV6 },
        header_len: (segment.l4() + 20 + segment.options.len()) as u16,
        gso_size: size,
        csum_start: segment.l4() as u16,
        csum_offset: 16,
    };
    send(socket, &[octets(&header), &segment.frame()].concat());
}

/// The next long frame, and the size of the segments that it is to be cut into.
fn receive_super_packet(socket: &OwnedFd) -> (Vec<u8>, u16) {
    loop {
        let mut frame = vec![0u8; 70_000];
        // SAFETY: the buffer outlives the call and has the length given.
        let len = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        assert!(len > 0, "it is not in the lane: {}", std::io::Error::last_os_error());
        let (header, frame) = frame[..len as usize].split_at(size_of::<Offload>());
        if frame.len() > 10_000 {
            return (frame.to_vec(), u16::from_ne_bytes([header[4], header[5]]));
        }
    }
}
