//! The MAC of any segment: what `seal` makes, host code verifies, and the other way.

use std::cell::RefCell;

use proptest::{prelude::*, test_runner::TestRunner};
use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, layout::Session};

use super::{
    connection::{Connection, Family, mkt},
    lab::Lab,
    segment::Segment,
};

/// Most data of a frame that a test-run takes: a page, less what the kernel keeps for itself. For more see
/// [`mod@super::wire`].
const MOST: usize = 3500;

fn every_kind() -> Vec<Connection> {
    let mut connections = Vec::new();
    for family in [Family::V4, Family::V6] {
        for algorithm in Algorithm::TCP_AO {
            for tcp_options in [TcpOptions::Include, TcpOptions::Exclude] {
                connections.push(Connection::new(family, algorithm, tcp_options));
            }
        }
    }
    connections
}

/// Both directions of a segment with these options and data, at the extended sequence numbers.
fn check(lab: &mut Lab, connection: &Connection, segment: &Segment, sent: u64, received: u64) {
    let session = Session {
        send_seq: sent.wrapping_sub(1000),
        recv_seq: received.wrapping_sub(1000),
        local_ack: received as u32,
        ..connection.session()
    };
    lab.put(connection, &session);
    let place =
        format!("{:?} {:?}, {} octets", connection.mkt.algorithm, connection.peer, segment.data.len());

    let ours = Segment {
        source: connection.local,
        destination: connection.peer,
        seq: sent as u32,
        ack: received as u32,
        ..segment.clone()
    };
    let sealed = lab.sealed(&ours);
    assert!(connection.accepts(&session.slots[0].send, &sealed, (sent >> 32) as u32), "{place}");
    let others = sealed.options.len() - connection.mkt.algorithm.option_len();
    let back = Segment { options: sealed.options[..others].to_vec(), ..sealed };
    assert_eq!(back, ours, "{place}: nothing else changed");

    let theirs = Segment {
        source: connection.peer,
        destination: connection.local,
        seq: received as u32,
        ..segment.clone()
    };
    let signed = connection.sign(&session.slots[0].recv, theirs, (received >> 32) as u32);
    let verified = lab.verified(&signed);
    let mut wanted = signed;
    let others = segment.options.len();
    wanted.options[others..].fill(1);
    assert_eq!(verified, wanted, "{place}: the option is NOPs");
    let now = lab.session(connection).unwrap();
    assert_eq!((now.send_seq, now.recv_seq), (sent, received), "{place}");
}

#[test]
fn every_length_around_the_blocks() {
    let mut lab = Lab::new();
    lab.widen();
    for connection in every_kind() {
        lab.add_neighbor(&connection);
        let lengths = (0..140).chain([1000, 1399, 1400, 1440, 1460, 2047, 2048, 2049, MOST]);
        for len in lengths {
            let data = (0..len).map(|at| (at * 7) as u8).collect();
            let segment = Segment { data, ..connection.outbound(0x18, 0) };
            check(&mut lab, &connection, &segment, (5 << 32) + 77, (6 << 32) + 88);
        }
    }
}

#[test]
fn any_segment() {
    let kinds = every_kind();
    let lab = RefCell::new(Lab::new());
    lab.borrow().widen();
    let strategy = (
        (0..kinds.len(), prop::collection::vec(any::<u8>(), 1..80), any::<(u8, u8)>()),
        prop::collection::vec(any::<u8>(), 0..MOST),
        // Of a kind that nobody knows, so that nothing rewrites it.
        prop::collection::vec(any::<u8>(), 0..=4).prop_map(|octets| {
            let mut options = vec![253, 2 + 4 * octets.len() as u8];
            options.extend(octets.iter().flat_map(|octet| [*octet; 4]));
            options.extend([1, 1]);
            options
        }),
        (any::<u64>(), any::<u64>(), any::<(u16, u16, u8)>()),
    );
    let config = ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&strategy, |((kind, secret, ids), data, options, rest)| {
        let (sent, received, (window, urgent, more_flags)) = rest;
        let mut connection = kinds[kind].clone();
        let (algorithm, tcp_options) = (connection.mkt.algorithm, connection.mkt.tcp_options);
        connection.mkt = mkt(algorithm, tcp_options, &secret, ids.0, ids.1);
        let mut lab = lab.borrow_mut();
        lab.add_neighbor(&connection);
        // FIN, PSH, ACK, URG, ECE and CWR in any combination; SYN and RST have tests of their own.
        let flags = more_flags & 0xf9 | 0x10;
        let segment = Segment { data, options, window, urgent, ..connection.outbound(flags, 0) };
        check(&mut lab, &connection, &segment, sent, received);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn one_key_never_verifies_for_another() {
    let mut lab = Lab::new();
    for connection in every_kind() {
        lab.add_neighbor(&connection);
        let session = connection.session();
        lab.put(&connection, &session);
        let algorithm = connection.mkt.algorithm;
        let other = Connection {
            mkt: mkt(algorithm, connection.mkt.tcp_options, b"testvectos", 61, 84),
            ..connection.clone()
        };
        let sealed = lab.sealed(&connection.outbound(0x10, session.local_isn.0 + 1));
        assert!(!other.accepts(&other.session().slots[0].send, &sealed, 0));
        assert!(!connection.accepts(&session.slots[0].recv, &sealed, 0), "of the other direction");
        assert!(!connection.accepts(&session.syn_send.material, &sealed, 0), "of the SYN");
        assert!(!connection.accepts(&session.slots[0].send, &sealed, 1), "of another SNE");
    }
}
