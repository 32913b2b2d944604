//! Links that carry less than the interface by which the handshake arrived.

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    namespace::Namespace,
    network::{INTERFACE, Network, Router, veth},
    scenario::{PASSWORD, Protected, end_at, neighbor, wait_attached},
    transfer::{self, Options},
};

const ETHERNET: usize = 14;
const OCTETS: u64 = 1 << 20;

/// The stack makes no packets smaller than 1280 bytes, whatever a router says (RFC 8200 §5).
#[test]
fn ipv6_path_of_1280_bytes_carries_bulk_data() -> Result<()> {
    let [r1, router, r2] = ["r1", "router", "r2"].map(Namespace::create);
    let (r1, router, r2) = (r1?, router?, r2?);
    for (host, number) in [(&r1, 1), (&r2, 2)] {
        let far = format!("to-r{number}");
        host.ip(&veth(INTERFACE, &router, &far))?;
        host.ip(&["address", "add", &format!("2001:db8:{number}::2/64"), "dev", INTERFACE])?;
        router.ip(&["address", "add", &format!("2001:db8:{number}::1/64"), "dev", &far])?;
        host.ip(&["link", "set", INTERFACE, "up"])?;
        router.ip(&["link", "set", &far, "up"])?;
        host.ip(&["route", "add", "default", "via", &format!("2001:db8:{number}::1")])?;
    }
    router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    router.ip(&["link", "set", "to-r2", "mtu", "1280"])?;
    for algorithm in ["hmac-sha-1-96", "hmac-sha-256-128"] {
        let more = format!("algorithm = \"{algorithm}\"");
        let agents = [
            Agent::start(&r1, &neighbor("2001:db8:2::2", PASSWORD, &more))?,
            Agent::start(&r2, &neighbor("2001:db8:1::2", PASSWORD, &more))?,
        ];
        for agent in &agents {
            wait_attached(agent, INTERFACE)?;
        }
        let client = end_at(&r1, "[2001:db8:1::2]:0".parse()?);
        let server = end_at(&r2, "[2001:db8:2::2]:179".parse()?);
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        transfer::send_one_way(&near, &far, OCTETS)?;
    }
    Ok(())
}

#[test]
fn session_follows_a_lowered_mtu_of_its_interface() -> Result<()> {
    for v6 in [false, true] {
        let protected = &protected(v6)?;
        let network = &protected.network;
        let (client, server) = if v6 { protected.ends_v6() } else { protected.ends() };
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        transfer::ping(&near, &far)?;
        network.r1.namespace.ip(&["link", "set", INTERFACE, "mtu", "1400"])?;
        let sniffer = network.sniff()?;
        transfer::send_one_way(&near, &far, OCTETS)?;
        let largest = sniffer.largest_frame();
        ensure!(largest > 1300 && largest <= 1400 + ETHERNET, "IPv6: {v6}: a frame of {largest} bytes");
    }
    Ok(())
}

/// The route of one end carries less than its interface, and the link behind the interface no more than the route. The other
/// end knows nothing of it, so its MSS leaves no room.
#[test]
fn session_over_a_route_that_carries_less_than_its_interface() -> Result<()> {
    for (v6, mtu) in [(false, 1400), (true, 1400), (true, 1280)] {
        let protected = &protected(v6)?;
        narrow(protected, &protected.network.r1, "to-r1", v6, mtu)?;
        let (client, server) = if v6 { protected.ends_v6() } else { protected.ends() };
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        let sniffer = protected.network.sniff()?;
        transfer::send_one_way(&near, &far, OCTETS)?;
        transfer::send_one_way(&far, &near, OCTETS)?;
        let largest = sniffer.largest_frame();
        ensure!(largest > mtu - 100 && largest <= mtu + ETHERNET, "IPv6: {v6}: a frame of {largest} bytes");
    }
    Ok(())
}

#[test]
fn session_whose_route_comes_to_carry_less() -> Result<()> {
    for v6 in [false, true] {
        let protected = &protected(v6)?;
        let (client, server) = if v6 { protected.ends_v6() } else { protected.ends() };
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        transfer::ping(&near, &far)?;
        narrow(protected, &protected.network.r1, "to-r1", v6, 1300)?;
        narrow(protected, &protected.network.r2, "to-r2", v6, 1300)?;
        transfer::send_one_way(&near, &far, OCTETS)?;
        transfer::send_one_way(&far, &near, OCTETS)?;
    }
    Ok(())
}

/// Gives a router a route to the other that carries packets of `mtu` bytes, and lets its port of the switch carry no larger
/// ones.
fn narrow(protected: &Protected, router: &Router, port: &str, v6: bool, mtu: usize) -> Result<()> {
    let mtu = mtu.to_string();
    let switch = &protected.network.middle.as_ref().context("a switch")?.namespace;
    // That of the kernel itself, which has this metric.
    let (prefix, metric) = if v6 { ("2001:db8::/64", "256") } else { ("192.0.2.0/24", "0") };
    let route =
        ["route", "replace", prefix, "dev", INTERFACE, "proto", "kernel", "metric", metric, "mtu", &mtu];
    router.namespace.ip(&route)?;
    switch.ip(&["link", "set", port, "mtu", &mtu])?;
    Ok(())
}

fn protected(v6: bool) -> Result<Protected> {
    let network = Network::switched()?;
    if !v6 {
        return Protected::over_v4(network, "");
    }
    let configs = [network.r2.v6, network.r1.v6].map(|peer| neighbor(&peer.to_string(), PASSWORD, ""));
    Protected::with(network, &configs[0], &configs[1])
}
