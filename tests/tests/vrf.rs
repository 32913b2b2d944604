//! Routers whose links are in a VRF. Needs a kernel that has VRFs, and says that it was not run where it does not:
//! `cargo xtask test --kernel 7.x vrf` runs it in a virtual machine.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Peering, Speaker},
    frame::{self, Segment, flags},
    kmp::{self, Mode, REKEYING},
    network::{INTERFACE, Network, Router},
    process::run,
    scenario::{PASSWORD, Protected, end, end_at, neighbor, wait_attached},
    transfer::{self, Options},
    vrf::{self, TABLE, VRF},
    wait::eventually,
    wire,
};

const SOON: Duration = Duration::from_secs(10);
/// An MPLS label of r2 that leads into its VRF.
const LABEL: u32 = 100;

/// Without the program of the VRF these reach TCP: the link's sees a label, and nothing else sees the packet.
#[test]
fn a_session_in_a_vrf_comes_up_and_forged_segments_behind_a_label_are_dropped() -> Result<()> {
    for (bound, reason) in [("", "no-option"), ("%eth0", "wrong-interface")] {
        let Some(network) = with_vrf(|network| vec![&network.r2])? else { return Ok(()) };
        if !vrf::take_label(&network.r2.namespace, INTERFACE, LABEL)? {
            return Ok(());
        }
        let peer = format!("{}{bound}", network.r1.v4);
        let configs = [network.r2.v4.to_string(), peer.clone()].map(|peer| neighbor(&peer, PASSWORD, ""));
        let protected = Protected::with(network, &configs[0], &configs[1])?;
        let Protected { agent2, network, .. } = &protected;
        let (a, b) = birds(network, &[&network.r2])?;
        let incarnations = (a.incarnation()?, b.incarnation()?);
        let sniffer = network.sniff()?;
        let attacker = network.attacker();
        for is_marked in [false, true] {
            if is_marked {
                mark_all_that_leaves(attacker)?;
            }
            let last = sniffer.next_from(&network.r1, &network.r2)?;
            let reset = wire::forge(&last, flags::RST | flags::ACK, b"");
            let data = wire::forge(&last, flags::ACK | flags::PSH, b"forged");
            let syn = Segment { flags: flags::SYN, ack: 0, source: at_port(&last, 50_000), ..reset.clone() };
            let syn = Segment { destination: SocketAddr::new(last.destination.ip(), 179), ..syn };
            let forged = [reset, data, syn]
                .map(|segment| frame::behind_label(&segment.frame(attacker.mac, network.r2.mac), LABEL));
            let before = agent2.dropped(&peer, reason)?;
            wire::inject_frames(attacker, &forged)?;
            eventually(SOON, &format!("all to be dropped, {reason}, marked: {is_marked}"), || {
                let counted = agent2.dropped(&peer, reason)? - before;
                ensure!(counted == 3, "{counted} of 3 are");
                Ok(Some(()))
            })?;
        }
        let now = (a.incarnation()?, b.incarnation()?);
        ensure!(now == incarnations, "the session was down meanwhile");
        ensure!(a.is_established()? && b.is_established()?, "the session is down");
    }
    Ok(())
}

/// The program of the link sees the address of the first segment, which is no connection's; the kernel's action `End` goes
/// on to the next one. Outside of a VRF it delivers nothing to the host itself.
#[test]
fn forged_segments_that_srv6_leads_to_an_address_in_a_vrf_are_dropped() -> Result<()> {
    let Some(network) = with_vrf(|network| vec![&network.r2])? else { return Ok(()) };
    let (r1, r2) = (&network.r1, &network.r2);
    let segment_id: Ipv6Addr = "fc00:2::e".parse()?;
    for (name, value) in [
        ("net.ipv4.tcp_l3mdev_accept", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv6.conf.all.seg6_enabled", "1"),
        (&format!("net.ipv6.conf.{INTERFACE}.seg6_enabled"), "1"),
        (&format!("net.ipv6.conf.{VRF}.seg6_enabled"), "1"),
    ] {
        r2.namespace.sysctl(name, value)?;
    }
    // What is put into a VRF loses its addresses of IPv6.
    r2.namespace.ip(&["address", "replace", &format!("{}/64", r2.v6), "dev", INTERFACE, "nodad"])?;
    let action = ["encap", "seg6local", "action", "End", "dev", INTERFACE, "table", TABLE];
    r2.namespace.ip(&[&["-6", "route", "add", &format!("{segment_id}/128")], &action[..]].concat())?;
    let configs = [r2.v6, r1.v6].map(|peer| neighbor(&peer.to_string(), PASSWORD, ""));
    let protected = Protected::with(network, &configs[0], &configs[1])?;
    let Protected { agent2, network, .. } = &protected;
    let (r1, r2, attacker) = (&network.r1, &network.r2, network.attacker());
    let at = |router: &Router, port| end_at(&router.namespace, SocketAddr::new(router.v6.into(), port));
    let server = end_at(&r2.namespace, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 179));
    let listener = transfer::listen(&server, r1.v6.into(), &Options::default())?;
    let sniffer = network.sniff()?;
    let near = transfer::connect(&at(r1, 0), SocketAddr::new(r2.v6.into(), 179), &Options::default())?;
    let far = transfer::accept(&listener)?;
    transfer::ping(&near, &far)?;
    let peer = r1.v6.to_string();
    let last = sniffer
        .segments()
        .into_iter()
        .rfind(|segment| segment.source.ip() == r1.v6)
        .context("nothing of r1 was on the wire")?;
    let reset = wire::forge(&last, flags::RST | flags::ACK, b"").frame(attacker.mac, r2.mac);
    let before = agent2.dropped(&peer, "no-option")?;
    wire::inject_frames(attacker, &[by_way_of(&reset, segment_id)])?;
    eventually(SOON, "it to be dropped", || {
        Ok((agent2.dropped(&peer, "no-option")? == before + 1).then_some(()))
    })?;
    transfer::ping(&near, &far)
}

/// They pass two programs, the link's and that of the VRF, and have the option at the first only.
#[test]
fn segments_of_a_route_into_a_vrf_are_checked_once() -> Result<()> {
    let network = Network::switched()?;
    let (r1, r2) = (&network.r1, &network.r2);
    if !vrf::add(&r2.namespace)? {
        return Ok(());
    }
    r2.namespace.sysctl("net.ipv4.ip_forward", "1")?;
    r2.namespace.sysctl("net.ipv4.tcp_l3mdev_accept", "1")?;
    for interface in ["all", INTERFACE, VRF] {
        r2.namespace.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
    }
    r2.namespace.ip(&["address", "add", "203.0.113.2/32", "dev", VRF])?;
    r2.namespace.ip(&["route", "add", "203.0.113.2/32", "dev", VRF])?;
    let back = format!("{}/32", r1.v4);
    r2.namespace.ip(&["route", "add", &back, "dev", INTERFACE, "table", TABLE])?;
    r1.namespace.ip(&["route", "add", "203.0.113.2/32", "via", &r2.v4.to_string()])?;
    let agent1 = Agent::start(&r1.namespace, &neighbor("203.0.113.2", PASSWORD, ""))?;
    let agent2 = Agent::start(&r2.namespace, &neighbor(&r1.v4.to_string(), PASSWORD, ""))?;
    wait_attached(&agent1, INTERFACE)?;
    wait_attached(&agent2, INTERFACE)?;
    let listener =
        transfer::listen(&end_at(&r2.namespace, "0.0.0.0:179".parse()?), r1.v4.into(), &Options::default())?;
    let near = transfer::connect(&end(r1, 0), "203.0.113.2:179".parse()?, &Options::default())?;
    let far = transfer::accept(&listener)?;
    transfer::exchange(near, far, 1 << 20)?;
    for (agent, peer) in [(&agent1, "203.0.113.2".to_owned()), (&agent2, r1.v4.to_string())] {
        ensure!(agent.dropped_in_all(&peer)? == 0, "{}", agent.neighbor(&peer)?);
    }
    Ok(())
}

/// Of the two, r1 dials.
#[test]
fn channels_come_up_in_a_vrf_whichever_end_dials() -> Result<()> {
    let choices: [Choice; 3] =
        [|network| vec![&network.r1], |network| vec![&network.r2], |network| vec![&network.r1, &network.r2]];
    for choice in choices {
        let Some(network) = with_vrf(choice)? else { return Ok(()) };
        let protected = agreeing(network, choice, Mode::External, "")?;
        let network = &protected.network;
        for (agent, peer) in [(&protected.agent1, &network.r2), (&protected.agent2, &network.r1)] {
            kmp::wait_for_channel(agent, &named(agent, peer)?)?;
        }
        let (_a, _b) = birds(network, &choice(network))?;
        for agent in [&protected.agent1, &protected.agent2] {
            let sessions = agent.sessions()?;
            let is_agreed = |session: &serde_json::Value| session["keys"] == "agreed";
            ensure!(sessions.iter().any(is_agreed), "{sessions:?}");
        }
    }
    Ok(())
}

#[test]
fn layered_connections_in_a_vrf_come_up_and_get_new_keys() -> Result<()> {
    let both: Choice = |network| vec![&network.r1, &network.r2];
    let Some(network) = with_vrf(both)? else { return Ok(()) };
    let protected = agreeing(network, both, Mode::Layered, REKEYING)?;
    let (a, b) = birds(&protected.network, &both(&protected.network))?;
    let incarnations = (a.incarnation()?, b.incarnation()?);
    for agent in [&protected.agent1, &protected.agent2] {
        kmp::wait_for_new_keys(agent)?;
    }
    let now = (a.incarnation()?, b.incarnation()?);
    ensure!(now == incarnations, "the session was down meanwhile");
    Ok(())
}

/// Those of a network's routers whose links are in a VRF.
type Choice = fn(&Network) -> Vec<&Router>;

/// A network in which the links of some routers are in a VRF; `None` if this kernel has none.
fn with_vrf(choice: Choice) -> Result<Option<Network>> {
    let network = Network::switched()?;
    for router in choice(&network) {
        if !vrf::add(&router.namespace)? {
            return Ok(None);
        }
        vrf::enslave(&router.namespace, INTERFACE)?;
    }
    Ok(Some(network))
}

/// Both routers agree on keys for IPv4; those in a VRF name the interface, as the guide has it.
fn agreeing(network: Network, choice: Choice, mode: Mode, more: &str) -> Result<Protected> {
    let config = |own: &Router, other: &Router| {
        let is_in_vrf = choice(&network).iter().any(|router| router.v4 == own.v4);
        let scope = if is_in_vrf { format!("%{INTERFACE}") } else { String::new() };
        neighbor(&format!("{}{scope}", other.v4), PASSWORD, &mode.fields(more))
    };
    let configs = [config(&network.r1, &network.r2), config(&network.r2, &network.r1)];
    Protected::with(network, &configs[0], &configs[1])
}

/// The neighbor as the agent's status names it.
fn named(agent: &Agent, router: &Router) -> Result<String> {
    let status = agent.status()?;
    let neighbors = status["neighbors"].as_array().context("no neighbors")?;
    let name = neighbors.iter().find_map(|neighbor| neighbor["peer"].as_str());
    let name = name.filter(|name| name.starts_with(&router.v4.to_string()));
    Ok(name.with_context(|| status.to_string())?.to_owned())
}

/// BIRD on both routers, with a session that is up; on some of them in the VRF.
fn birds(network: &Network, in_vrf: &[&Router]) -> Result<(Bird, Bird)> {
    let (first, second) = Peering::pair(&network.r1, &network.r2);
    let bird = |router: &Router, peering: Peering| {
        let is_in_vrf = in_vrf.iter().any(|one| one.v4 == router.v4);
        let vrf = is_in_vrf.then(|| VRF.to_owned());
        Bird::start(&router.namespace, &Peering { vrf, ..peering })
    };
    let (a, b) = (bird(&network.r1, first)?, bird(&network.r2, second)?);
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    Ok((a, b))
}

/// The IPv6 packet of a frame, sent to `first`, and on from there to where it was to go (RFC 8754).
fn by_way_of(frame: &[u8], first: Ipv6Addr) -> Vec<u8> {
    const ROUTING: u8 = 43;
    const SEGMENT_ROUTING: u8 = 4;
    let (ethernet, packet) = frame.split_at(14);
    let (header, content) = packet.split_at(40);
    // Its length beyond 8 octets in units of 8, and one segment left, which is its first.
    let routing = [header[6], 2, SEGMENT_ROUTING, 1, 0, 0, 0, 0];
    let len = (routing.len() + 16 + content.len()) as u16;
    let head = [&header[..4], &len.to_be_bytes(), &[ROUTING], &header[7..24], &first.octets()].concat();
    [ethernet, &head, &routing, &header[24..], content].concat()
}

fn at_port(segment: &Segment, port: u16) -> SocketAddr {
    SocketAddr::new(segment.source.ip(), port)
}

/// Has all that leaves a host carry the mark by which tcpauth's programs know what they have checked: a container can do
/// that, as the mark stays with a frame on a veth.
fn mark_all_that_leaves(host: &Router) -> Result<()> {
    for arguments in
        ["qdisc add dev eth0 clsact", "filter add dev eth0 egress matchall classid 0:7463 action ok"]
    {
        let mut command = host.namespace.command("tc");
        command.args(arguments.split(' '));
        run(command)?;
    }
    Ok(())
}
