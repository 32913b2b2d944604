//! Resets that a connection outlives: an RST that verified may be answered by a challenge ACK (RFC 5961).

use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, layout::Session};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK, RST},
    lab::Lab,
};

#[test]
fn reset_is_forgotten_when_our_end_goes_on() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let session = connection.session();
        let mut lab = Lab::with(&connection, Some(&session));
        let seen = |lab: &Lab| lab.session(&connection).unwrap().seen;
        for (resets, flag) in [(true, Session::RST_RECEIVED), (false, Session::RST_SENT)] {
            for flags in [ACK, PSH_ACK] {
                if resets {
                    lab.verified(&connection.signed(&session, RST, PEER_ISN + 1));
                } else {
                    lab.sealed(&connection.outbound(RST, LOCAL_ISN + 1));
                }
                assert_eq!(seen(&lab), flag);
                // What the peer sends, and another reset, tell nothing of our end.
                lab.verified(&connection.signed(&session, ACK, PEER_ISN + 1));
                assert_eq!(seen(&lab), flag);
                lab.sealed(&connection.outbound(flags, LOCAL_ISN + 1));
                assert_eq!(seen(&lab), 0, "{flags:#x}");
            }
        }
        lab.sealed(&connection.outbound(RST | ACK, LOCAL_ISN + 1));
        assert_eq!(seen(&lab), Session::RST_SENT);
    }
}
