//! What a router forwards is not its own: it signs none of it, and leaves other people's sessions alone.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use tcpauth_tests::{
    frame::{Segment, flags},
    network::Network,
    scenario::{PASSWORD, Protected, end_at, neighbor},
    transfer::{self, Options},
    wait::eventually,
    wire,
};

/// IPv6 forwarding does not look at the source: a forged segment would leave with a true MAC.
#[test]
fn a_segment_that_claims_to_be_ours_is_not_signed() -> Result<()> {
    let network = Network::switched()?;
    network.r1.namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let (r1, r2) = (network.r1.v6, network.r2.v6);
    let configs = [r2, r1].map(|peer| neighbor(&peer.to_string(), PASSWORD, ""));
    let Protected { agent1, agent2, network } = &Protected::with(network, &configs[0], &configs[1])?;
    let sniffer = network.sniff()?;
    let client = end_at(&network.r1.namespace, SocketAddr::new(r1.into(), 0));
    let server = end_at(&network.r2.namespace, SocketAddr::new(r2.into(), 179));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let from_r1 = |segment: &Segment| segment.source.ip() == r1 && segment.flags & flags::SYN == 0;
    let last = eventually(Duration::from_secs(3), "a segment from r1 to be seen", || {
        Ok(sniffer.segments().into_iter().rfind(from_r1))
    })?;
    let (before, signed) = (agent2.dropped_in_all(&r1.to_string())?, agent1.dropped_in_all(&r2.to_string())?);
    let next = Segment { options: Vec::new(), ..wire::forge(&last, flags::ACK, b"forged") };
    let reset = Segment { flags: flags::RST, data: Vec::new(), ..next.clone() };
    let syn = Segment { flags: flags::SYN, seq: 1, ack: 0, data: Vec::new(), ..next.clone() };
    for forged in [next, reset, syn] {
        // To r1's MAC address, to be forwarded.
        wire::inject(network.attacker(), &network.r1, &forged)?;
    }
    eventually(Duration::from_secs(3), "the forged segments to be counted", || {
        let spoofed = agent1.dropped(&r2.to_string(), "spoofed")?;
        ensure!(spoofed == 3, "{spoofed} of 3 are");
        Ok(Some(()))
    })?;
    ensure!(agent1.dropped_in_all(&r2.to_string())? == signed + 3, "r1 dropped others too");
    ensure!(agent2.dropped_in_all(&r1.to_string())? == before, "something came as far as r2");
    transfer::ping(&near, &far)?;
    transfer::exchange(near, far, 1 << 20)?;
    Ok(())
}

/// A route reflector is our neighbour; a stranger's own session with it passes through us.
#[test]
fn a_strangers_session_with_our_neighbor_is_left_alone() -> Result<()> {
    let protected = Protected::switched()?;
    let network = &protected.network;
    let stranger = network.attacker();
    network.r1.namespace.sysctl("net.ipv4.ip_forward", "1")?;
    for (router, other) in [(stranger, network.r2.v4), (&network.r2, stranger.v4)] {
        router.namespace.ip(&["route", "add", &format!("{other}/32"), "via", &network.r1.v4.to_string()])?;
        router.namespace.sysctl("net.ipv4.conf.all.accept_redirects", "0")?;
    }
    network.r1.namespace.sysctl("net.ipv4.conf.all.send_redirects", "0")?;
    network.r1.namespace.sysctl("net.ipv4.conf.eth0.send_redirects", "0")?;
    let client = end_at(&stranger.namespace, SocketAddr::new(stranger.v4.into(), 0));
    let server = end_at(&network.r2.namespace, SocketAddr::new(network.r2.v4.into(), 179));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 1 << 20)?;
    let dropped = protected.agent1.dropped_in_all(&protected.peer2())?;
    ensure!(dropped == 0, "r1 dropped {dropped} of the stranger's segments");
    Ok(())
}
