//! Mark and priority of a socket reach the queueing discipline of the interface, as without tcpauth.

use anyhow::{Result, ensure};
use tcpauth_tests::{
    kmp::{self, Mode},
    marks::Marks,
    network::{INTERFACE, Network},
    scenario::Protected,
    transfer::{self, Options},
};

const MARK: u32 = 0x2a;
/// TC_PRIO_INTERACTIVE, and TC_PRIO_CONTROL, which BIRD gives its sockets.
const PRIORITIES: [u32; 2] = [6, 7];
const OCTETS: u64 = 1 << 20;

#[test]
fn segments_keep_mark_and_priority() -> Result<()> {
    let protected = Protected::switched()?;
    every_segment_keeps_them(&protected)
}

/// The daemon speaks on the connection first, for both ends' sockets.
#[test]
fn segments_of_a_handshake_on_the_connection_keep_mark_and_priority() -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, Mode::Layered, "")?;
    every_segment_keeps_them(&protected)
}

fn every_segment_keeps_them(protected: &Protected) -> Result<()> {
    let (client, server) = protected.ends();
    let Network { r1, r2, .. } = &protected.network;
    for priority in PRIORITIES {
        let watch = |namespace| Marks::watch(namespace, INTERFACE, MARK, priority);
        let watched = [watch(&r1.namespace)?, watch(&r2.namespace)?];
        let options = Options { mark: MARK, priority, ..Options::default() };
        let (near, far) = transfer::pair(&client, &server, &options)?;
        transfer::ping(&near, &far)?;
        // Super-packets, which the lane cuts.
        transfer::send_one_way(&near, &far, OCTETS)?;
        for (marks, end) in watched.iter().zip(["client", "server"]) {
            let (with, without) = marks.counts()?;
            let sent = with + without;
            ensure!(
                with > 5 && without == 0,
                "{end}, priority {priority}: {without} of {sent} packets lack it or the mark"
            );
        }
    }
    Ok(())
}
