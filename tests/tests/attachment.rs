//! The status tells of programs as they are in the kernel, and of what takes segments past them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp,
    network::{INTERFACE, Network},
    scenario::{PASSWORD, Protected, neighbor, wait_attached},
    tcx::{self, Intruder},
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn lane_without_its_program_fails_and_gets_it_back() -> Result<()> {
    let protected = Protected::switched()?;
    let agent = &protected.agent1;
    let events = agent.events()?;
    ensure!(agent.status_code()? == 0, "it is failing from the beginning");
    tcx::take_off(agent, "tcpauth-lane1", "ingress", "lane1")?;
    let status = agent.status()?;
    let lane = interface(&status, "lane").context("the status has no line about the lane")?;
    ensure!(
        lane["failing"] == true
            && lane["attached"].as_str() == Some("the program on tcpauth-lane1 is missing"),
        "{lane}"
    );
    let neighbor = &status["neighbors"][0];
    ensure!(neighbor["state"] == "failing", "{neighbor}");
    eventually(SOON, "the program to be attached again", || Ok((agent.status_code()? == 0).then_some(())))?;
    ensure!(interface(&agent.status()?, "lane").is_none(), "the lane is still failing");
    ensure!(agent.log().contains("interface lane is not protected"), "the log does not tell");
    ensure!(events.log().contains(r#""interface":"lane","state":"failing""#), "no event: {}", events.log());
    ensure!(events.log().contains(r#""interface":"lane","state":"protected""#), "no event: {}", events.log());
    let (a, b) = bgp::birds(&protected.network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)
}

#[test]
fn interface_without_its_program_fails_and_gets_it_back() -> Result<()> {
    let protected = Protected::switched()?;
    let agent = &protected.agent1;
    let status = agent.status()?;
    let index = interface(&status, INTERFACE).context("no eth0")?["index"].clone();
    tcx::take_off(agent, INTERFACE, "egress", &format!("{index}-egress"))?;
    ensure!(agent.status_code()? == 4, "status does not tell");
    let neighbor = agent.neighbor(&protected.peer2())?;
    // In the meantime it may have been attached again.
    let told = neighbor["reason"].as_str().is_some_and(|reason| reason.contains("egress is missing"));
    ensure!(told || agent.log().contains("the program on egress is missing"), "{neighbor}");
    eventually(SOON, "the program to be attached again", || Ok((agent.status_code()? == 0).then_some(())))
}

#[test]
fn program_in_front_of_ours_makes_the_status_fail() -> Result<()> {
    let protected = Protected::switched()?;
    let agent = &protected.agent1;
    let intruder = Intruder::before_others(agent.namespace(), INTERFACE)?;
    let status = agent.status()?;
    let eth0 = interface(&status, INTERFACE).context("no eth0")?;
    let attached = eth0["attached"].as_str().unwrap_or_default();
    let told = attached.contains(&format!("behind {}", intruder.name()));
    ensure!(told && eth0["failing"] == true, "{eth0}");
    ensure!(status["neighbors"][0]["state"] == "failing", "{status}");
    ensure!(agent.status_code()? == 4, "the exit code does not tell");
    drop(intruder);
    eventually(SOON, "the status not to fail", || Ok((agent.status_code()? == 0).then_some(())))
}

#[test]
fn ipsec_policy_that_takes_segments_is_told_of() -> Result<()> {
    let network = Network::switched()?;
    let agent = Agent::start(&network.r1.namespace, &neighbor("192.0.2.2", PASSWORD, ""))?;
    wait_attached(&agent, INTERFACE)?;
    for (way, source, destination) in [("out", "192.0.2.1", "192.0.2.2"), ("in", "192.0.2.2", "192.0.2.1")] {
        network.r1.namespace.ip(&[
            "xfrm",
            "policy",
            "add",
            "dir",
            way,
            "src",
            source,
            "dst",
            destination,
            "tmpl",
            "proto",
            "esp",
            "mode",
            "transport",
        ])?;
    }
    let reason = eventually(Duration::from_secs(30), "the neighbor to be unprotected", || {
        let neighbor = agent.neighbor("192.0.2.2")?;
        ensure!(neighbor["state"] == "unprotected", "{neighbor}");
        Ok(neighbor["reason"].as_str().map(str::to_owned))
    })?;
    ensure!(reason.starts_with("NOT PROTECTED: an IPsec policy takes its segments"), "{reason}");
    ensure!(agent.status_code()? == 4, "the exit code does not tell");
    network.r1.namespace.ip(&["xfrm", "policy", "flush"])?;
    eventually(Duration::from_secs(30), "the status not to fail", || {
        Ok((agent.status_code()? == 0).then_some(()))
    })
}

#[test]
fn route_that_puts_a_header_in_front_is_told_of() -> Result<()> {
    let network = Network::switched()?;
    let agent = Agent::start(&network.r1.namespace, &neighbor("2001:db8::2", PASSWORD, ""))?;
    wait_attached(&agent, INTERFACE)?;
    network.r1.namespace.ip(&[
        "-6",
        "route",
        "add",
        "2001:db8::2/128",
        "encap",
        "seg6",
        "mode",
        "encap",
        "segs",
        "2001:db8::9",
        "dev",
        INTERFACE,
    ])?;
    let reason = eventually(SOON, "the neighbor to be failing", || {
        let neighbor = agent.neighbor("2001:db8::2")?;
        ensure!(neighbor["state"] == "failing", "{neighbor}");
        Ok(neighbor["reason"].as_str().map(str::to_owned))
    })?;
    ensure!(reason.contains("puts an SRv6 header in front"), "{reason}");
    Ok(())
}

#[test]
fn route_out_of_a_port_of_a_bridge_is_told_of() -> Result<()> {
    let network = Network::switched()?;
    let r1 = &network.r1.namespace;
    let agent = Agent::start(r1, &neighbor("192.0.2.2", PASSWORD, ""))?;
    wait_attached(&agent, INTERFACE)?;
    // The address stays on the port.
    r1.ip(&["link", "add", "br0", "type", "bridge"])?;
    r1.ip(&["link", "set", "br0", "up"])?;
    r1.ip(&["link", "set", INTERFACE, "master", "br0"])?;
    let reason = eventually(SOON, "the neighbor to be failing", || {
        let neighbor = agent.neighbor("192.0.2.2")?;
        ensure!(neighbor["state"] == "failing", "{neighbor}");
        Ok(neighbor["reason"].as_str().map(str::to_owned))
    })?;
    ensure!(reason.contains("leads out of eth0, a port of br0"), "{reason}");
    ensure!(agent.status_code()? == 4, "the exit code does not tell");
    r1.ip(&["address", "del", "192.0.2.1/24", "dev", INTERFACE])?;
    r1.ip(&["address", "add", "192.0.2.1/24", "dev", "br0"])?;
    eventually(SOON, "the status not to fail", || Ok((agent.status_code()? == 0).then_some(())))
}

fn interface<'a>(status: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    status["interfaces"].as_array()?.iter().find(|interface| interface["name"] == name)
}
