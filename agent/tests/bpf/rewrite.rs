//! How `seal` makes room for the option, and what it leaves as it is.

use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, Isn, layout::Session};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK, SYN, SYN_ACK},
    context::Verdict,
    lab::Lab,
    segment::Segment,
};

const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

/// A SACK option of so many blocks.
fn sack(blocks: u8) -> Vec<u8> {
    let mut option = vec![5, 2 + 8 * blocks];
    option.extend((0..8 * blocks).map(|octet| octet + 100));
    option
}

/// What the options become beside TCP-AO, which is the last.
fn rewritten(algorithm: Algorithm, flags: u8, options: &[u8]) -> Vec<u8> {
    let connection = Connection::new(Family::V4, algorithm, TcpOptions::Include);
    let session = connection.session();
    let mut lab = Lab::with(&connection, Some(&session));
    let seq = if flags & SYN != 0 { LOCAL_ISN } else { LOCAL_ISN + 1 };
    let ours = Segment { options: options.to_vec(), data: vec![5; 33], ..connection.outbound(flags, seq) };
    let sealed = lab.sealed(&ours);
    let key = if flags == SYN { &session.syn_send.material } else { &session.slots[0].send };
    assert!(connection.accepts(key, &sealed, 0));
    assert_eq!(sealed.data, ours.data);
    let (others, ours) = sealed.options.split_at(sealed.options.len() - algorithm.option_len());
    assert_eq!(ours[..4], [29, algorithm.option_len() as u8, 61, 84]);
    others.to_vec()
}

/// `options` padded to whole words.
fn padded(mut options: Vec<u8>) -> Vec<u8> {
    options.resize(options.len().next_multiple_of(4), 1);
    options
}

#[test]
fn sack_blocks_are_trimmed_to_what_fits() {
    use Algorithm::{HmacSha1_96, HmacSha256_128};
    // Timestamps take 10, TCP-AO 16 or 20: one block, of 10, is left room for.
    for blocks in 1..=3 {
        for algorithm in [HmacSha1_96, HmacSha256_128] {
            let options = [&TIMESTAMPS[..], &[1, 1], &sack(blocks)].concat();
            let left = rewritten(algorithm, ACK, &options);
            let trimmed = [5, 10, 100, 101, 102, 103, 104, 105, 106, 107];
            if blocks == 1 && algorithm == HmacSha1_96 {
                assert_eq!(left, options, "there is room as it is");
            } else {
                assert_eq!(left, padded([&TIMESTAMPS[2..], &trimmed].concat()), "{algorithm:?} {blocks}");
            }
        }
    }
    // Without timestamps: 24 and 20 octets are left, for two blocks.
    for algorithm in [HmacSha1_96, HmacSha256_128] {
        for blocks in 3..=4 {
            let left = rewritten(algorithm, ACK, &[&[1, 1], &sack(blocks)[..]].concat());
            let mut trimmed = sack(2);
            trimmed[1] = 18;
            assert_eq!(left, padded(trimmed), "{algorithm:?} {blocks}");
        }
    }
}

#[test]
fn of_several_sack_options_one_is_left() {
    let options = [&[1, 1], &sack(1)[..], &[1, 1], &sack(1), &[1, 1], &sack(1)].concat();
    assert_eq!(rewritten(Algorithm::HmacSha1_96, ACK, &options), padded(sack(1)));
}

#[test]
fn fast_open_and_mptcp_leave_a_syn() {
    let usual = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let kept = padded(vec![2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 3, 3, 7]);
    let fast_open = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    let asks_for_cookie = [34, 2, 1, 1];
    let mptcp = [30, 12, 0, 0x81, 1, 2, 3, 4, 5, 6, 7, 8];
    let experimental = [254, 4, 0xf9, 0x89];
    for unwanted in [&fast_open[..], &asks_for_cookie, &mptcp, &experimental] {
        for algorithm in [Algorithm::HmacSha1_96, Algorithm::HmacSha256_128] {
            for options in [[&usual[..], unwanted].concat(), [unwanted, &usual].concat()] {
                assert_eq!(rewritten(algorithm, SYN, &options), kept);
            }
        }
    }
    assert_eq!(rewritten(Algorithm::HmacSha256_128, SYN, &usual), usual);
    // In a segment without SYN nobody would heed them.
    assert_eq!(rewritten(Algorithm::HmacSha1_96, ACK, &mptcp), mptcp);
}

#[test]
fn options_that_leave_no_room_are_malformed() {
    let connection = Connection::plain();
    let mut lab = Lab::with(&connection, Some(&connection.session()));
    // Timestamps, which stay, of a length that they do not have.
    let options = [&[8, 28][..], &[0; 26]].concat();
    let ours = Segment { options, ..connection.outbound(ACK, LOCAL_ISN + 1) };
    assert_eq!(lab.seal(&ours.frame()).0, Verdict::Drop);
    assert_eq!(lab.take_dropped().unwrap().reason, tcpauth_common::DropReason::Malformed as u8);
}

#[test]
fn ip_options_and_extension_headers_stay() {
    let connection = Connection::plain();
    let session = connection.session();
    let mut lab = Lab::with(&connection, Some(&session));
    for words in 1..=10 {
        let ip_options = (0..words * 4).map(|octet| if octet == 0 { 0x94 } else { octet as u8 }).collect();
        let ours = Segment { ip_options, data: vec![9; 70], ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
        check_carrier(&mut lab, &connection, &ours);
    }
    let connection = Connection::new(Family::V6, Algorithm::Aes128Cmac96, TcpOptions::Include);
    lab.add_neighbor(&connection);
    lab.put(&connection, &connection.session());
    let extension = |number, len: u8| {
        let pad = len * 8 + 4;
        (number, [&[0, len, 1, pad][..], &vec![0; pad.into()]].concat())
    };
    for extensions in [
        vec![extension(0, 0)],
        vec![extension(60, 3)],
        vec![extension(0, 0), extension(60, 1)],
        vec![extension(0, 1), extension(43, 4), extension(60, 0)],
        vec![extension(60, 23)],
        vec![extension(0, 3); 6],
    ] {
        let ours = Segment { extensions, data: vec![9; 70], ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
        check_carrier(&mut lab, &connection, &ours);
    }
}

/// Seals `ours`, and lets the same arrive: only TCP changes, and the lengths and checksums around it.
fn check_carrier(lab: &mut Lab, connection: &Connection, ours: &Segment) {
    let session = connection.session();
    let sealed = lab.sealed(ours);
    assert!(connection.accepts(&session.slots[0].send, &sealed, 0));
    assert_eq!(Segment { options: vec![], ..sealed.clone() }, Segment { options: vec![], ..ours.clone() });

    let arriving = Segment { source: ours.destination, destination: ours.source, ..ours.clone() };
    let arriving = connection.sign(&session.slots[0].recv, Segment { seq: PEER_ISN + 1, ..arriving }, 0);
    let verified = lab.verified(&arriving);
    assert_eq!(verified, Segment { options: vec![1; 16], ..arriving });
}

#[test]
fn octets_around_tcp_stay() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let mut lab = Lab::with(&connection, Some(&connection.session()));
        let ours = Segment { data: b"data".to_vec(), ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
        let frame = ours.frame();
        let (_, out) = lab.seal(&frame);
        let mut back = out;
        // Undo what sealing may change: lengths, checksums, data offset, option.
        back.drain(ours.l4() + 20..ours.l4() + 36);
        let mut may_change = vec![ours.l4() + 12, ours.l4() + 16, ours.l4() + 17];
        may_change.extend(if family == Family::V4 { vec![16, 17, 24, 25] } else { vec![18, 19] });
        for at in may_change {
            back[at] = frame[at];
        }
        assert_eq!(back, frame);
    }
}

#[test]
fn hop_limit_under_ttl_security() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let secured = Connection { min_hop_limit: 255, ..connection.clone() };
        for (connection, wanted) in [(connection, 64), (secured, 255)] {
            let mut lab = Lab::with(&connection, Some(&connection.session()));
            let sealed = lab.sealed(&connection.outbound(ACK, LOCAL_ISN + 1));
            assert_eq!(sealed.hop_limit, wanted);
        }
    }
}

/// A stranger could change timestamps that no MAC covers, and make every later segment look old (PAWS).
#[test]
fn timestamps_outside_the_mac_leave_syns_both_ways() {
    let usual = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    for family in [Family::V4, Family::V6] {
        for tcp_options in [TcpOptions::Exclude, TcpOptions::Include] {
            let connection = Connection::new(family, Algorithm::HmacSha1_96, tcp_options);
            let mut session = connection.session();
            session.flags |= Session::SYN_RECV;
            session.syn_recv_isn = Isn(PEER_ISN);
            session.syn_recv = connection.mkt.syn_recv(&connection.quartet(), Isn(PEER_ISN));
            let mut lab = Lab::with(&connection, Some(&session));
            for flags in [SYN, SYN_ACK] {
                let ours = connection.outbound(flags, LOCAL_ISN);
                let ours = Segment { options: usual.to_vec(), ack: PEER_ISN + 1, ..ours };
                let sealed = lab.sealed(&ours);
                let key = if flags == SYN { &session.syn_send.material } else { &session.slots[0].send };
                assert!(connection.accepts(key, &sealed, 0));
                let key = if flags == SYN { &session.syn_recv.material } else { &session.slots[0].recv };
                let theirs = Segment { options: usual.to_vec(), ..connection.inbound(flags, PEER_ISN) };
                let verified = lab.verified(&connection.sign(key, theirs, 0));
                if tcp_options == TcpOptions::Exclude {
                    assert_eq!(sealed.options[..12], [2, 4, 5, 180, 4, 2, 3, 3, 7, 1, 1, 1]);
                    assert_eq!(verified.options[4..20], [&[4, 2][..], &[1; 11], &[3, 3, 7]].concat());
                } else {
                    assert_eq!(sealed.options[..20], usual);
                    assert_eq!(verified.options[4..20], usual[4..]);
                }
            }
        }
    }
}

#[test]
fn a_syn_ack_with_accurate_ecn_is_sealed_without_it() {
    let usual = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let accurate_ecn = [172, 11, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1];
    for algorithm in [Algorithm::HmacSha1_96, Algorithm::HmacSha256_128] {
        let options = [&usual[..], &accurate_ecn].concat();
        let kept = padded([&usual[..16], &usual[17..]].concat());
        assert_eq!(rewritten(algorithm, SYN, &options), kept);
        let options = [&TIMESTAMPS[..], &accurate_ecn].concat();
        let left = rewritten(algorithm, ACK, &options);
        let wanted = match algorithm {
            Algorithm::HmacSha1_96 => options,
            _ => padded(TIMESTAMPS[2..].to_vec()),
        };
        assert_eq!(left, wanted, "{algorithm:?}");
    }
}
