//! Interfaces of other kinds, that come later, or that lead to somebody else.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Peering},
    frame::{Segment, flags},
    namespace::Namespace,
    network::{INTERFACE, Network, veth},
    scenario::{PASSWORD, Protected, end_at, neighbor, wait_attached},
    transfer::{self, Options},
    tunnel::{self, Tunnel},
    wait::eventually,
    wire,
};

#[test]
fn an_interface_that_comes_later_and_goes() -> Result<()> {
    let network = Network::switched()?;
    let configs = ["198.18.0.2", "198.18.0.1"].map(|peer| neighbor(peer, PASSWORD, ""));
    let Protected { agent1, agent2, network } = &Protected::with(network, &configs[0], &configs[1])?;
    for _ in 0..2 {
        network.add_link("eth1")?;
        wait_attached(agent1, "eth1")?;
        wait_attached(agent2, "eth1")?;
        let client = end_at(&network.r1.namespace, "198.18.0.1:0".parse()?);
        let server = end_at(&network.r2.namespace, "198.18.0.2:179".parse()?);
        let sniffer = wire::Sniffer::start(&network.r2.namespace, "eth1")?;
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        transfer::exchange(near, far, 1 << 20)?;
        let naked = sniffer.segments().into_iter().filter(|segment| segment.tcp_ao().is_none()).count();
        ensure!(naked == 0, "{naked} segments without the option");
        drop(sniffer);
        network.r1.namespace.ip(&["link", "del", "eth1"])?;
        eventually(std::time::Duration::from_secs(10), "the interface to be forgotten", || {
            let status = agent1.status()?;
            let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
            Ok(interfaces.iter().all(|interface| interface["name"] != "eth1").then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn interface_that_cannot_be_forgotten_at_once_is_forgotten_later() -> Result<()> {
    let protected = Protected::switched()?;
    let agent = &protected.agent1;
    protected.network.add_link("eth1")?;
    wait_attached(agent, "eth1")?;
    let status = agent.status()?;
    let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
    let index = interfaces.iter().find(|interface| interface["name"] == "eth1").map(|it| it["index"].clone());
    // A folder where the pin of the link was: the kernel opens no link of it.
    let pin = agent.pin_dir().join("links").join(format!("{}-ingress", index.context("eth1 has no index")?));
    if pin.exists() {
        std::fs::remove_file(&pin)?;
    }
    std::fs::create_dir(&pin)?;
    protected.network.r1.namespace.ip(&["link", "del", "eth1"])?;
    eventually(Duration::from_secs(10), "the error", || {
        Ok(agent.log().contains("not up to date, trying again").then_some(()))
    })?;
    std::fs::remove_dir(&pin)?;
    eventually(Duration::from_secs(20), "the interface to be forgotten", || {
        Ok(agent.log().contains("forgotten at last").then_some(()))
    })
}

/// The BGP daemon is in a container whose segments r1 forwards; its neighbour is r2.
#[test]
fn a_container_behind_the_router() -> Result<()> {
    let network = Network::switched()?;
    let (inside, outside): (IpAddr, IpAddr) = ("198.51.100.2".parse()?, network.r2.v4.into());
    let container = Namespace::create("container")?;
    let r1 = &network.r1.namespace;
    r1.ip(&veth("veth0", &container, INTERFACE))?;
    r1.ip(&["address", "add", "198.51.100.1/24", "dev", "veth0"])?;
    r1.ip(&["link", "set", "veth0", "up"])?;
    r1.sysctl("net.ipv4.ip_forward", "1")?;
    container.ip(&["address", "add", "198.51.100.2/24", "dev", INTERFACE])?;
    container.ip(&["link", "set", INTERFACE, "up"])?;
    container.ip(&["route", "add", "default", "via", "198.51.100.1"])?;
    network.r2.namespace.ip(&["route", "add", "198.51.100.0/24", "via", "192.0.2.1"])?;

    let configs = [
        neighbor(&outside.to_string(), PASSWORD, "forwarded = [\"198.51.100.2%veth0\"]"),
        neighbor(&inside.to_string(), PASSWORD, ""),
    ];
    let Protected { network, .. } = &Protected::with(network, &configs[0], &configs[1])?;
    let sniffer = network.sniff()?;
    let (mut first, mut second) = Peering::between(inside, outside);
    (first.hops, second.hops) = (2, 2);
    let a = Bird::start(&container, &first.with_routes(1000))?;
    let b = Bird::start(&network.r2.namespace, &second)?;
    bgp::wait_for_routes(&a, &b, 10, 1000)?;
    let client = end_at(&container, SocketAddr::new(inside, 0));
    let server = end_at(&network.r2.namespace, SocketAddr::new(outside, 179));
    drop((a, b));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 5 << 20)?;
    let naked = sniffer.segments().into_iter().filter(|segment| segment.tcp_ao().is_none()).count();
    ensure!(naked == 0, "{naked} segments without the option on the wire");
    ensure!(sniffer.largest_frame() <= 1514, "a frame of {} octets", sniffer.largest_frame());
    Ok(())
}

/// What a container on a macvlan sends is its own, with an address of its own. With ours it is taken for ours and
/// signed, because the kernel does not tell them apart: docs/security.md says so.
#[test]
fn a_container_on_a_macvlan_has_sessions_of_its_own_and_can_claim_ours() -> Result<()> {
    let protected = Protected::switched()?;
    let Protected { agent1, network, .. } = &protected;
    let container = network.r1.container_on_macvlan("192.0.2.3/24")?;
    let sniffer = network.sniff()?;
    let (client, server) = protected.ends();
    let (near, far) =
        transfer::pair(&end_at(&container, "192.0.2.3:0".parse()?), &server, &Options::default())?;
    transfer::exchange(near, far, 1 << 20)?;
    let of_container = |segment: &Segment| segment.source.ip() == "192.0.2.3".parse::<IpAddr>().unwrap();
    let signed = |segment: &Segment| segment.tcp_ao().is_some();
    let segments = sniffer.segments();
    ensure!(segments.iter().any(of_container), "none of {} segments is the container's", segments.len());
    ensure!(!segments.iter().any(|segment| of_container(segment) && signed(segment)), "they are signed");

    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let from_r1 =
        |segment: &Segment| segment.source == near.local_addr().unwrap() && segment.flags == flags::ACK;
    let last = eventually(std::time::Duration::from_secs(3), "a segment from r1 to be seen", || {
        Ok(sniffer.segments().into_iter().rfind(from_r1))
    })?;
    let claim = wire::forge(&last, flags::ACK | flags::PSH, b"claimed");
    wire::inject_by(&container, INTERFACE, &[claim.frame(network.r1.mac, network.r2.mac)])?;
    eventually(std::time::Duration::from_secs(3), "the claim to be on the wire", || {
        let seen = sniffer.segments().into_iter().find(|segment| segment.data == b"claimed");
        ensure!(seen.as_ref().is_none_or(signed), "it went by without the option");
        Ok(seen)
    })?;
    ensure!(agent1.dropped_in_all(&protected.peer2())? == 0, "r1 dropped something");
    Ok(())
}

/// The daemon runs on the switch, and has one of its hosts for a neighbor.
#[test]
fn frames_bridged_from_port_to_port_are_left_alone() -> Result<()> {
    let network = Network::switched()?;
    let (switch, interface) = network.tap();
    let agent = Agent::start(switch, &neighbor("192.0.2.2", PASSWORD, ""))?;
    wait_attached(&agent, "bridge")?;
    let client = end_at(&network.r1.namespace, SocketAddr::new(network.r1.v4.into(), 0));
    let server = end_at(&network.r2.namespace, SocketAddr::new(network.r2.v4.into(), 179));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 5 << 20)?;
    ensure!(agent.dropped_in_all("192.0.2.2")? == 0, "something was dropped by the switch, {interface}");
    Ok(())
}

#[test]
fn a_neighbor_on_another_interface_than_its_own() -> Result<()> {
    let network = Network::switched()?;
    network.add_link("eth1")?;
    let configs = ["192.0.2.2", "192.0.2.1"].map(|peer| neighbor(peer, PASSWORD, "interface = \"eth1\""));
    let Protected { agent1, network, .. } = &Protected::with(network, &configs[0], &configs[1])?;
    let syn = Segment {
        source: SocketAddr::new(network.r2.v4.into(), 50_000),
        destination: SocketAddr::new(network.r1.v4.into(), 179),
        seq: 1,
        ack: 0,
        flags: flags::SYN,
        window: 502,
        options: Vec::new(),
        data: Vec::new(),
        hop_limit: 64,
    };
    wire::inject(network.attacker(), &network.r1, &syn)?;
    eventually(std::time::Duration::from_secs(3), "the segment to be counted", || {
        Ok((agent1.dropped("192.0.2.2%eth1", "wrong-interface")? == 1).then_some(()))
    })
}

/// WireGuard, GRE and the like: no Ethernet header before the packets.
#[test]
fn a_tunnel() -> Result<()> {
    let network = Network::switched()?;
    let [v6_1, v6_2] = ["2001:db8:99::1", "2001:db8:99::2"];
    let (first, second) = (&network.r1.namespace, &network.r2.namespace);
    let _tunnel = Tunnel::between([(first, "203.0.113.1/30"), (second, "203.0.113.2/30")])?;
    for (namespace, v6) in [(first, v6_1), (second, v6_2)] {
        namespace.ip(&["address", "add", &format!("{v6}/64"), "dev", tunnel::INTERFACE, "nodad"])?;
    }
    let configs = [["203.0.113.2", v6_2], ["203.0.113.1", v6_1]]
        .map(|peers| peers.map(|peer| neighbor(peer, PASSWORD, "")).concat());
    let Protected { agent1, agent2, network } = &Protected::with(network, &configs[0], &configs[1])?;
    wait_attached(agent1, tunnel::INTERFACE)?;
    wait_attached(agent2, tunnel::INTERFACE)?;
    for (near, far) in [("203.0.113.1:0", "203.0.113.2:179"), ("[2001:db8:99::1]:0", "[2001:db8:99::2]:179")]
    {
        let client = end_at(&network.r1.namespace, near.parse()?);
        let server = end_at(&network.r2.namespace, far.parse()?);
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        transfer::exchange(near, far, 1 << 20)?;
    }
    for (agent, peers) in [(agent1, ["203.0.113.2", v6_2]), (agent2, ["203.0.113.1", v6_1])] {
        for peer in peers {
            let counters = &agent.neighbor(peer)?["counters"];
            ensure!(counters["verified_segments"].as_u64() > Some(100), "{peer}: {counters}");
            ensure!(agent.dropped_in_all(peer)? == 0, "{peer}: {counters}");
        }
    }
    Ok(())
}

#[test]
fn dynamic_neighbors() -> Result<()> {
    let network = Network::switched()?;
    let configs = [neighbor("192.0.2.0/24", PASSWORD, ""), neighbor("192.0.2.1", PASSWORD, "")];
    let Protected { network, .. } = &Protected::with(network, &configs[0], &configs[1])?;
    let (a, b) = bgp::birds(network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)
}

/// A prefix of neighbours contains our own address; a connection from it to itself has no neighbour.
#[test]
fn a_connection_within_the_host() -> Result<()> {
    let network = Network::switched()?;
    let configs = [neighbor("192.0.2.0/24", PASSWORD, ""), neighbor("192.0.2.1", PASSWORD, "")];
    let Protected { network, .. } = &Protected::with(network, &configs[0], &configs[1])?;
    let client = end_at(&network.r1.namespace, SocketAddr::new(network.r1.v4.into(), 0));
    let server = end_at(&network.r1.namespace, SocketAddr::new(network.r1.v4.into(), 179));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 1 << 20)?;
    Ok(())
}

/// Needs a kernel with VLAN interfaces.
#[test]
fn a_vlan() -> Result<()> {
    let network = Network::switched()?;
    let add = ["link", "add", "link", INTERFACE, "name", "vlan10", "type", "vlan", "id", "10"];
    if let Err(error) = network.r1.namespace.ip(&add) {
        println!("skipped: this kernel has no VLAN interfaces: {error:#}");
        return Ok(());
    }
    network.r2.namespace.ip(&add)?;
    for (router, address) in [(&network.r1, "203.0.113.1/24"), (&network.r2, "203.0.113.2/24")] {
        router.namespace.ip(&["address", "add", address, "dev", "vlan10"])?;
        router.namespace.ip(&["link", "set", "vlan10", "up"])?;
    }
    let configs = ["203.0.113.2", "203.0.113.1"].map(|peer| neighbor(peer, PASSWORD, ""));
    let Protected { agent1, agent2, network } = &Protected::with(network, &configs[0], &configs[1])?;
    wait_attached(agent1, "vlan10")?;
    wait_attached(agent2, "vlan10")?;
    let client = end_at(&network.r1.namespace, "203.0.113.1:0".parse()?);
    let server = end_at(&network.r2.namespace, "203.0.113.2:179".parse()?);
    let sniffer = wire::Sniffer::start(&network.r2.namespace, "vlan10")?;
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 5 << 20)?;
    let naked = sniffer.segments().into_iter().filter(|segment| segment.tcp_ao().is_none()).count();
    ensure!(naked == 0, "{naked} segments without the option");
    Ok(())
}
