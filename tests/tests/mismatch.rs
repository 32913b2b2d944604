//! Two ends that do not agree: no session, and the operator is told why.

use std::time::Duration;

use anyhow::{Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Speaker},
    network::Network,
    scenario::{PASSWORD, Protected, neighbor, wait_attached},
    wait::{eventually, steadily},
};

#[test]
fn another_password() -> Result<()> {
    fails_with(PASSWORD, "another", ["", ""], "wrong-mac")
}

#[test]
fn another_key_id() -> Result<()> {
    fails_with(PASSWORD, PASSWORD, ["", "key-id = 9"], "unknown-key-id")
}

#[test]
fn another_length_of_mac() -> Result<()> {
    fails_with(PASSWORD, PASSWORD, ["", "algorithm = \"hmac-sha-256-128\""], "wrong-length")
}

#[test]
fn a_peer_without_a_password() -> Result<()> {
    let network = Network::switched()?;
    let agent = Agent::start(&network.r1.namespace, &neighbor(&network.r2.v4.to_string(), PASSWORD, ""))?;
    wait_attached(&agent, "eth0")?;
    is_told_why(&network, &agent, "no-option")?;
    // r2's stack refuses nothing by itself, so only r1's agent keeps the session down.
    let (a, b) = bgp::birds(&network)?;
    steadily(Duration::from_secs(5), "the session stays down", || {
        Ok(!a.is_established()? && !b.is_established()?)
    })
}

#[test]
fn it_comes_up_when_the_password_is_put_right() -> Result<()> {
    let network = Network::switched()?;
    let (peer1, peer2) = (network.r1.v4.to_string(), network.r2.v4.to_string());
    let configs = [neighbor(&peer2, PASSWORD, ""), neighbor(&peer1, "another", "")];
    let Protected { agent1, agent2, network } = &Protected::with(network, &configs[0], &configs[1])?;
    let (a, b) = bgp::birds(network)?;
    eventually(Duration::from_secs(15), "a drop", || {
        Ok((agent1.dropped(&peer2, "wrong-mac")? > 0).then_some(()))
    })?;
    agent2.configure(&neighbor(&peer1, PASSWORD, ""))?;
    agent2.tcpauth(&["reload"])?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    eventually(Duration::from_secs(5), "the neighbor to be shown as established", || {
        let neighbor = agent1.neighbor(&peer2)?;
        ensure!(neighbor["state"] == "established", "{neighbor}");
        Ok(Some(()))
    })
}

fn fails_with(password1: &str, password2: &str, more: [&str; 2], reason: &str) -> Result<()> {
    let network = Network::switched()?;
    let config1 = neighbor(&network.r2.v4.to_string(), password1, more[0]);
    let config2 = neighbor(&network.r1.v4.to_string(), password2, more[1]);
    let Protected { agent1, network, .. } = &Protected::with(network, &config1, &config2)?;
    is_told_why(network, agent1, reason)
}

/// With BIRD at both ends no session comes up, and `status`, `events` and the log of `agent` on r1 say why.
fn is_told_why(network: &Network, agent: &Agent, reason: &str) -> Result<()> {
    let peer = network.r2.v4.to_string();
    let events = agent.events()?;
    let (a, b) = bgp::birds(network)?;
    let neighbor = eventually(Duration::from_secs(15), "status to say why", || {
        let neighbor = agent.neighbor(&peer)?;
        ensure!(neighbor["state"] == "failing" && neighbor["last_drop"]["reason"] == reason, "{neighbor}");
        Ok(Some(neighbor))
    })?;
    ensure!(neighbor["reason"].as_str().is_some_and(|text| !text.is_empty()), "no reason: {neighbor}");
    ensure!(agent.dropped(&peer, reason)? > 0, "not counted: {neighbor}");
    let word = format!("\"{reason}\"");
    eventually(Duration::from_secs(5), "events to say why", || {
        Ok(events.log().contains(&word).then_some(()))
    })?;
    ensure!(agent.log().contains(reason), "the log does not say why");
    ensure!(!agent.log().contains(PASSWORD), "the log has the password");
    steadily(Duration::from_secs(3), "the session stays down", || {
        Ok(!a.is_established()? && !b.is_established()?)
    })
}
