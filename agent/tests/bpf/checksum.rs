//! The TCP checksum of what is sealed: zero in one's complement has two forms, and only 0xffff is sent.

use tcpauth::keys::TcpOptions;
use tcpauth_common::Algorithm;

use super::{
    connection::{Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK},
    context::Verdict,
    lab::Lab,
    segment::{Segment, number16},
};

/// An option of an experimental kind, with a value of two octets.
fn experimental(value: u16) -> Vec<u8> {
    let [high, low] = value.to_be_bytes();
    vec![253, 4, high, low]
}

/// Returns the checksum field of the frame that `seal` makes of `segment`.
fn checksum_of_sealed(lab: &mut Lab, segment: &Segment) -> u16 {
    let (verdict, frame) = lab.seal(&segment.frame());
    assert_eq!(verdict, Verdict::Redirect, "{:?}", lab.take_dropped());
    Segment::of_frame(&frame);
    number16(&frame, segment.l4() + 16)
}

/// Linux 7.3 with TCP-AO takes a segment with the checksum 0x0000 for one that it sends itself, and refuses it.
#[test]
fn a_sealed_segment_never_has_checksum_zero() {
    let options_outside_the_mac =
        [(Algorithm::HmacSha1_96, TcpOptions::Exclude), (Algorithm::Md5, TcpOptions::Include)];
    for family in [Family::V4, Family::V6] {
        for (algorithm, tcp_options) in options_outside_the_mac {
            let connection = Connection::new(family, algorithm, tcp_options);
            let mut lab = Lab::with(&connection, Some(&connection.session()));
            let plain = Segment {
                ack: PEER_ISN + 1,
                data: vec![7; 51],
                ..connection.outbound(PSH_ACK, LOCAL_ISN + 1)
            };
            // The MAC stays the same, so adding the checksum to the sum makes the new checksum zero.
            let before = Segment { options: experimental(0), ..plain.clone() };
            let checksum = checksum_of_sealed(&mut lab, &before);
            let crafted = Segment { options: experimental(checksum), ..plain };
            assert_eq!(checksum_of_sealed(&mut lab, &crafted), 0xffff, "{family:?} {algorithm:?}");
        }
    }
}

#[test]
fn a_verified_segment_never_goes_on_with_checksum_zero() {
    let connection = Connection::new(Family::V4, Algorithm::HmacSha1_96, TcpOptions::Exclude);
    let session = connection.session();
    let mut lab = Lab::with(&connection, Some(&session));
    let arrive = |lab: &mut Lab, value: u16| {
        let plain = Segment { options: experimental(value), ..connection.inbound(PSH_ACK, PEER_ISN + 1) };
        let signed = connection.sign(&session.slots[0].recv, plain, 0);
        let (verdict, frame) = lab.ingress(&signed.frame());
        assert_eq!(verdict, Verdict::Pass, "{:?}", lab.take_dropped());
        number16(&frame, signed.l4() + 16)
    };
    let checksum = arrive(&mut lab, 0);
    assert_eq!(arrive(&mut lab, checksum), 0xffff);
}
