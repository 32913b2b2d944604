//! Interfaces of IPsec. Needs a kernel that has them, and says that it was not run where it does not: `cargo xtask test
//! --kernel 7.x ipsec_interface` runs it in a virtual machine.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    bgp::{self, Bird, Peering, Speaker},
    frame::flags,
    ipsec::{self, Kind, TUNNEL},
    network::Network,
    scenario::{PASSWORD, Protected, neighbor, wait_attached},
    wait::eventually,
    wire,
};

#[test]
fn a_session_over_an_ipsec_interface_is_protected() -> Result<()> {
    for kind in Kind::ALL {
        let network = Network::switched()?;
        let ends = [(&network.r1, Some("203.0.113.1/30")), (&network.r2, Some("203.0.113.2/30"))];
        if !ipsec::connect(kind, ends)? {
            continue;
        }
        let configs = ["203.0.113.2", "203.0.113.1"].map(|peer| neighbor(peer, PASSWORD, ""));
        let protected = Protected::with(network, &configs[0], &configs[1])?;
        let Protected { agent1, agent2, network } = &protected;
        for agent in [agent1, agent2] {
            wait_attached(agent, TUNNEL)?;
        }
        let (first, second) = Peering::between("203.0.113.1".parse()?, "203.0.113.2".parse()?);
        let a = Bird::start(&network.r1.namespace, &first)?;
        let b = Bird::start(&network.r2.namespace, &second)?;
        bgp::wait_for_routes(&a, &b, 10, 10).with_context(|| format!("{kind:?}"))?;
        for (agent, peer) in [(agent1, "203.0.113.2"), (agent2, "203.0.113.1")] {
            let shown = agent.neighbor(peer)?;
            ensure!(shown["state"] == "established", "{kind:?}: {shown}");
        }
    }
    Ok(())
}

/// Whoever is at the other end of a tunnel is not thereby the neighbor, whose session goes another way.
#[test]
fn forged_segments_out_of_an_ipsec_interface_are_dropped() -> Result<()> {
    for kind in Kind::ALL {
        let protected = Protected::switched()?;
        let Protected { agent2, network, .. } = &protected;
        let attacker = network.attacker();
        if !ipsec::connect(kind, [(attacker, None), (&network.r2, None)])? {
            continue;
        }
        wait_attached(agent2, TUNNEL)?;
        let (a, b) = bgp::birds(network)?;
        bgp::wait_for_routes(&a, &b, 10, 10)?;
        let incarnations = (a.incarnation()?, b.incarnation()?);
        let sniffer = network.sniff()?;
        let last = sniffer.next_from(&network.r1, &network.r2)?;
        let forged = [(flags::RST | flags::ACK, &b""[..]), (flags::ACK, b"forged")].map(|(flags, data)| {
            wire::forge(&last, flags, data).frame(attacker.mac, network.r2.mac)[14..].to_vec()
        });
        let peer = protected.peer1();
        let before = agent2.dropped(&peer, "no-option")?;
        wire::inject_packets(&attacker.namespace, TUNNEL, &forged)?;
        eventually(Duration::from_secs(10), &format!("both to be dropped, {kind:?}"), || {
            let counted = agent2.dropped(&peer, "no-option")? - before;
            ensure!(counted == 2, "{counted} of 2 are");
            Ok(Some(()))
        })?;
        ensure!(a.is_established()? && b.is_established()?, "the session is down");
        let now = (a.incarnation()?, b.incarnation()?);
        ensure!(now == incarnations, "the session was down meanwhile");
    }
    Ok(())
}
