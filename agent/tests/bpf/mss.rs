//! The MSS of SYNs, both ways.

use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, Isn, layout::Session};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, SYN, SYN_ACK},
    lab::Lab,
    segment::{Segment, number16},
};

/// Above this there may be no room for the option.
const MOST: u16 = 15_360;

#[test]
fn our_syn_never_asks_for_more_than_can_be_sealed() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let session = connection.session();
        let mut lab = Lab::with(&connection, Some(&session));
        let fast_open = [34, 4, 0, 0];
        for mss in [536, 1460, 8960, MOST, MOST + 1, 65_495, 65_535] {
            for more in [&[][..], &fast_open] {
                let [high, low] = mss.to_be_bytes();
                let options = [&[1, 2, 4, high, low, 1, 1, 1], more].concat();
                for flags in [SYN, SYN_ACK] {
                    let ours = connection.outbound(flags, LOCAL_ISN);
                    let sealed = lab.sealed(&Segment { options: options.clone(), ack: PEER_ISN + 1, ..ours });
                    let key = if flags == SYN { &session.syn_send.material } else { &session.slots[0].send };
                    assert!(connection.accepts(key, &sealed, 0), "{family:?} {mss}");
                    let at = sealed.options.windows(2).position(|pair| pair == [2, 4]).unwrap();
                    assert_eq!(number16(&sealed.options, at + 2), mss.min(MOST), "{family:?}");
                }
            }
        }
    }
}

#[test]
fn what_peers_ask_for_leaves_room_for_the_option() {
    for (family, headers) in [(Family::V4, 40), (Family::V6, 60)] {
        for algorithm in [Algorithm::HmacSha1_96, Algorithm::HmacSha256_128] {
            let connection = Connection::new(family, algorithm, TcpOptions::Include);
            let mut session = Session {
                flags: Session::LOCAL_ISN | Session::PEER_ISN | Session::SYN_RECV,
                syn_recv_isn: Isn(PEER_ISN),
                ..connection.session()
            };
            session.syn_recv = connection.mkt.syn_recv(&connection.quartet(), Isn(PEER_ISN));
            let mut lab = Lab::with(&connection, Some(&session));
            for mss in [0, 10, 536, 1220, 1440, 1460, 8960, 65_535] {
                let [high, low] = u16::to_be_bytes(mss);
                let options = vec![1, 2, 4, high, low, 1, 1, 1];
                for (flags, key) in [(SYN, &session.syn_recv.material), (SYN_ACK, &session.slots[0].recv)] {
                    let syn = Segment { options: options.clone(), ..connection.inbound(flags, PEER_ISN) };
                    let out = lab.verified(&connection.sign(key, syn, 0));
                    // The interface's MTU is 1500. The key may change to one with the longest option.
                    let wanted = mss.min(1500 - headers).saturating_sub(20);
                    assert_eq!(number16(&out.options, 3), wanted, "{family:?} {mss}");
                    assert!(out.options[8..].iter().all(|octet| *octet == 1), "NOPs");
                }
                let ack = Segment { options, ..connection.inbound(ACK, PEER_ISN + 1) };
                let out = lab.verified(&connection.sign(&session.slots[0].recv, ack, 0));
                assert_eq!(number16(&out.options, 3), mss, "no SYN: left alone");
            }
        }
    }
}
