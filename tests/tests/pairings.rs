//! BGP daemons that know nothing of tcpauth, and sessions in which every segment verifies.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use tcpauth_tests::{
    bgp::{self, Bird, Frr, GoBgp, Peering, Speaker},
    independent,
    network::{INTERFACE, Network},
    scenario::{PASSWORD, Protected, neighbor},
    wire::Capture,
};

#[test]
fn bird_and_bird() -> Result<()> {
    every_segment_verifies("", &[], |network| {
        let (a, b) = bgp::birds(network)?;
        bgp::wait_for_routes(&a, &b, 10, 10)
    })
}

#[test]
fn frr_and_bird() -> Result<()> {
    every_segment_verifies("", &[], |network| {
        let (first, second) = Peering::pair(&network.r1, &network.r2);
        let a = Frr::start(&network.r1.namespace, &first.with_routes(1000))?;
        let b = Bird::start(&network.r2.namespace, &second)?;
        bgp::wait_for_routes(&a, &b, 10, 1000)
    })
}

#[test]
fn gobgp_and_bird() -> Result<()> {
    every_segment_verifies("", &[], |network| {
        let (first, second) = Peering::pair(&network.r1, &network.r2);
        let a = GoBgp::start(&network.r1.namespace, &first)?;
        let b = Bird::start(&network.r2.namespace, &second.with_routes(1000))?;
        bgp::wait_for_routes(&a, &b, 1000, 10)
    })
}

#[test]
fn every_algorithm() -> Result<()> {
    for algorithm in ["hmac-sha-1-96", "aes-128-cmac-96", "hmac-sha-256-128", "hmac-sha-256-96"] {
        let options = format!("algorithm = \"{algorithm}\"");
        every_segment_verifies(&options, &["--algorithm", algorithm], |network| {
            let (a, b) = bgp::birds(network)?;
            bgp::wait_for_routes(&a, &b, 10, 10)
        })
        .map_err(|error| error.context(algorithm))?;
    }
    Ok(())
}

#[test]
fn without_the_other_options_under_the_mac() -> Result<()> {
    every_segment_verifies("tcp-options = \"exclude\"", &["--exclude-options"], |network| {
        let (a, b) = bgp::birds(network)?;
        bgp::wait_for_routes(&a, &b, 10, 10)
    })
}

#[test]
fn a_large_table_over_ipv6() -> Result<()> {
    let network = Network::switched()?;
    let (v6_1, v6_2) = (network.r1.v6.into(), network.r2.v6.into());
    between(network, v6_1, v6_2, ["", ""])
}

#[test]
fn link_local_addresses() -> Result<()> {
    let network = Network::switched()?;
    let (local1, local2) = (network.r1.link_local.into(), network.r2.link_local.into());
    let scope = format!("%{INTERFACE}");
    between(network, local1, local2, [&scope, &scope])
}

#[test]
fn a_session_ends_and_comes_again() -> Result<()> {
    let Protected { agent1, agent2, network } = &Protected::switched()?;
    let (first, second) = Peering::pair(&network.r1, &network.r2);
    let a = Bird::start(&network.r1.namespace, &first)?;
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let b = Bird::start(&network.r2.namespace, &second)?;
        bgp::wait_for_routes(&a, &b, 10, 10)?;
        b.end(signal)?;
    }
    let b = Bird::start(&network.r2.namespace, &second)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    for (agent, peer) in [(agent1, network.r2.v4), (agent2, network.r1.v4)] {
        let neighbor = agent.neighbor(&peer.to_string())?;
        let dropped = &neighbor["counters"]["dropped"];
        for reason in ["no-option", "unknown-key-id", "wrong-mac", "wrong-length"] {
            ensure!(dropped.get(reason).is_none(), "segments of a good peer dropped: {dropped}");
        }
    }
    Ok(())
}

/// Runs a session, captured on the wire and verified by code that shares nothing with the project's.
fn every_segment_verifies(
    more: &str,
    verifier_options: &[&str],
    session: impl FnOnce(&Network) -> Result<()>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Protected { agent1, agent2, network } = &Protected::over_v4(Network::switched()?, more)?;
    let (namespace, interface) = network.tap();
    let capture = Capture::start(namespace, interface, 179, &folder.path().join("wire.pcap"))?;
    session(network)?;
    // A few keepalives, and whatever else ends the handshake.
    std::thread::sleep(bgp::hold_time());
    let sessions = (agent1.sessions()?, agent2.sessions()?);
    ensure!(!sessions.0.is_empty() && !sessions.1.is_empty(), "no session is shown: {sessions:?}");
    let said =
        independent::verify(&capture.finish()?, PASSWORD, &[verifier_options, &["--mtu", "1500"]].concat())?;
    ensure!(said.contains(", failed 0, without option 0, bad checksum 0"), "{said}");
    println!("{said}");
    Ok(())
}

fn between(network: Network, address1: IpAddr, address2: IpAddr, scopes: [&str; 2]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = |peer: IpAddr, scope: &str| neighbor(&format!("{peer}{scope}"), PASSWORD, "");
    let (config1, config2) = (config(address2, scopes[0]), config(address1, scopes[1]));
    let Protected { network, .. } = &Protected::with(network, &config1, &config2)?;
    let (namespace, interface) = network.tap();
    let capture = Capture::start(namespace, interface, 179, &folder.path().join("wire.pcap"))?;
    let (first, second) = Peering::between(address1, address2);
    let a = Bird::start(&network.r1.namespace, &first.with_routes(3000))?;
    let b = Bird::start(&network.r2.namespace, &second)?;
    bgp::wait_for_routes(&a, &b, 10, 3000)?;
    ensure!(a.is_established()? && b.is_established()?, "the session did not stay up");
    independent::verify(&capture.finish()?, PASSWORD, &["--mtu", "1500"])?;
    Ok(())
}
