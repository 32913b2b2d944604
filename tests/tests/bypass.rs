//! The net under everything: a connection that gets past the programs is found, reported and, if asked for, ended.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Speaker},
    network::{INTERFACE, Network},
    process::run,
    scenario::{PASSWORD, Protected, end, neighbor, wait_attached},
    tcx::Intruder,
    transfer::{self, Options},
    wait::eventually,
};

/// Two rounds of the daemon's upkeep, and what a keepalive takes.
const FOUND: Duration = Duration::from_secs(30);

#[test]
fn session_beside_a_program_in_front_is_reported() -> Result<()> {
    let network = Network::switched()?;
    let agent = Agent::start(&network.r1.namespace, &neighbor("192.0.2.2", PASSWORD, ""))?;
    wait_attached(&agent, INTERFACE)?;
    let events = agent.events()?;
    let intruder = Intruder::before_others(&network.r1.namespace, INTERFACE)?;
    let (a, b) = bgp::birds(&network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    wait_unprotected(&agent, "192.0.2.2", "without a session")?;
    ensure!(agent.status_code()? == 4, "the exit code of status does not tell");
    let shown = agent.tcpauth(&["status"])?;
    ensure!(shown.contains("unprotected") && shown.contains("NOT PROTECTED"), "{shown}");
    ensure!(agent.log().contains("NOT PROTECTED"), "the log does not tell");
    ensure!(events.log().contains(r#""state":"unprotected""#), "no event: {}", events.log());
    // The intruder goes: segments of the peer, which runs no tcpauth, are refused from now on.
    drop(intruder);
    eventually(
        Duration::from_secs(30),
        "BIRD's session to end",
        || Ok((!a.is_established()?).then_some(())),
    )?;
    eventually(FOUND, "the neighbor not to be unprotected", || {
        Ok((agent.neighbor("192.0.2.2")?["state"] != "unprotected").then_some(()))
    })?;
    ensure!(events.log().contains(r#""state":"protected""#), "no event of its end: {}", events.log());
    Ok(())
}

#[test]
fn session_beside_a_program_in_front_is_ended_if_asked_for() -> Result<()> {
    let network = Network::switched()?;
    let config = neighbor("192.0.2.2", PASSWORD, "on-unprotected = \"reset\"");
    let agent = Agent::start(&network.r1.namespace, &config)?;
    wait_attached(&agent, INTERFACE)?;
    let _intruder = Intruder::before_others(&network.r1.namespace, INTERFACE)?;
    let (a, b) = bgp::birds(&network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let before = a.incarnation()?;
    eventually(FOUND, "the session to be ended", || {
        Ok((!a.is_established()? || a.incarnation()? != before).then_some(()))
    })?;
    let reason = wait_unprotected(&agent, "192.0.2.2", "; ended")?;
    ensure!(!reason.contains("not ended"), "{reason}");
    ensure!(agent.status_code()? == 4, "the exit code of status does not tell");
    Ok(())
}

#[test]
fn protected_session_that_is_led_past_the_programs_is_reported() -> Result<()> {
    let protected = Protected::switched()?;
    let (a, b) = bgp::birds(&protected.network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    ensure!(protected.agent1.status_code()? == 0, "it is failing from the beginning");
    let incarnation = a.incarnation()?;
    // All at once: with some of them nothing gets through, and the session would end.
    let agents = [&protected.agent1, &protected.agent2];
    let [first, second] = agents.map(|agent| Intruder::start(agent.namespace(), INTERFACE));
    let mut intruders = [first?, second?];
    for intruder in &mut intruders {
        intruder.wait_until_attached()?;
    }
    for (agent, peer) in [(&protected.agent1, protected.peer2()), (&protected.agent2, protected.peer1())] {
        wait_unprotected(agent, &peer, "did not verify")?;
        ensure!(agent.status_code()? == 4, "the exit code of status does not tell");
    }
    ensure!(a.incarnation()? == incarnation, "the session did not go on: this shows nothing");
    Ok(())
}

/// The programs see the port on the wire. Where NAT of this host turns it into the one that the BGP daemon listens on,
/// the connection is nobody's for them.
#[test]
fn connection_that_nat_turns_to_the_port_is_reported() -> Result<()> {
    let network = Network::switched()?;
    let r1 = &network.r1.namespace;
    let agent = Agent::start(r1, &neighbor("192.0.2.2", PASSWORD, ""))?;
    wait_attached(&agent, INTERFACE)?;
    let rules = "add table ip nat; \
                 add chain ip nat prerouting { type nat hook prerouting priority -100; }; \
                 add rule ip nat prerouting tcp dport 1790 redirect to :179";
    let mut nft = r1.command("nft");
    nft.arg(rules);
    run(nft).context("nftables")?;
    let listener = transfer::listen(&end(&network.r1, 179), network.r2.v4.into(), &Options::default())?;
    let near = transfer::connect(&end(&network.r2, 0), "192.0.2.1:1790".parse()?, &Options::default())?;
    let (far, _) = listener.accept()?;
    let far = far.into();
    transfer::ping(&near, &far)?;
    wait_unprotected(&agent, "192.0.2.2", "without a session")?;
    ensure!(agent.status_code()? == 4, "the exit code of status does not tell");
    Ok(())
}

#[test]
fn protected_sessions_are_never_reported() -> Result<()> {
    let protected = Protected::switched()?;
    let events = protected.agent1.events()?;
    let (client, server) = protected.ends();
    let pair = || transfer::pair(&client, &server, &Options::default());
    let (long, other_end) = pair()?;
    // Sessions a moment old, one of long standing, and rounds at any time between two segments.
    for _ in 0..80 {
        let (near, far) = pair()?;
        transfer::ping(&near, &far)?;
        transfer::ping(&long, &other_end)?;
        thread::sleep(Duration::from_millis(300));
    }
    let neighbor = protected.agent1.neighbor(&protected.peer2())?;
    ensure!(neighbor["state"] == "established", "{neighbor}");
    ensure!(!events.log().contains("unprotected"), "{}", events.log());
    ensure!(protected.agent1.status_code()? == 0, "status fails");
    Ok(())
}

/// Waits until `agent` says that `peer` is not protected, with `what` in the reason, which is returned.
fn wait_unprotected(agent: &Agent, peer: &str, what: &str) -> Result<String> {
    eventually(FOUND, "the neighbor to be unprotected", || {
        let neighbor = agent.neighbor(peer)?;
        ensure!(neighbor["state"] == "unprotected", "{neighbor}");
        let reason = neighbor["reason"].as_str().context("no reason")?;
        ensure!(reason.starts_with("NOT PROTECTED: ") && reason.contains(what), "{reason}");
        Ok(Some(reason.to_owned()))
    })
}
