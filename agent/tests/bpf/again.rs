//! What has verified at one interface may pass another one on its way through this host.

use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, DropReason};

use super::{
    connection::{ACK, Connection, Family, PEER_ISN, RST},
    context::Verdict,
    lab::Lab,
};

/// Of `ebpf/src/verified.rs`.
const MARK: u32 = 0x7463;

#[test]
fn what_has_verified_passes_once_inside_this_host_and_nowhere_else() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let mut lab = Lab::with(&connection, Some(&connection.session()));
        // As it is when the option is gone, or as somebody else sends it.
        let bare = connection.inbound(RST | ACK, PEER_ISN + 1).frame();
        let no_option = DropReason::NoOption as usize;
        for (program, mark, verdict) in [
            ("ingress", 0, Verdict::Drop),
            ("ingress", MARK, Verdict::Drop),
            ("ingress_l3", MARK, Verdict::Drop),
            ("ingress_again", 0, Verdict::Drop),
            ("ingress_again", MARK ^ 1, Verdict::Drop),
            ("ingress_again", MARK, Verdict::Pass),
        ] {
            let before = lab.counters(connection.neighbor).dropped[no_option];
            assert_eq!(lab.run_with_index(program, mark, &bare).0, verdict, "{program}, {mark:x}");
            let counted = lab.counters(connection.neighbor).dropped[no_option] - before;
            assert_eq!(counted, u64::from(verdict == Verdict::Drop), "{program}, {mark:x}");
        }
    }
}
