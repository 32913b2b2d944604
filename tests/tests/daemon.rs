//! The daemon comes and goes; sessions stay.

use std::{io::Read, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Speaker},
    network::{INTERFACE, Network},
    scenario::{PASSWORD, Protected, end_at, neighbor, wait_attached},
    transfer::{self, Options},
    wait::{eventually, slowness},
};

#[test]
fn a_session_outlives_its_daemons() -> Result<()> {
    let mut protected = Protected::switched()?;
    let (a, b) = bgp::birds(&protected.network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let incarnations = (a.incarnation()?, b.incarnation()?);
    let hold_time = bgp::hold_time();
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        protected.agent1.end(signal)?;
        protected.agent2.end(signal)?;
        std::thread::sleep(hold_time + Duration::from_secs(1));
        stays_up(&a, &b, &incarnations)?;
        protected.agent1.start_again()?;
        protected.agent2.start_again()?;
        stays_up(&a, &b, &incarnations)?;
        // BIRD may have connected from both ends at once: the connection that it closed is known for a while.
        let sessions = protected.agent1.sessions()?;
        let established = sessions.iter().filter(|session| session["state"] == "established").count();
        ensure!(established == 1, "the session is not known any more: {sessions:?}");
    }
    let before = protected.agent1.neighbor(&protected.peer2())?;
    std::thread::sleep(hold_time + Duration::from_secs(1));
    stays_up(&a, &b, &incarnations)?;
    let after = protected.agent1.neighbor(&protected.peer2())?;
    let verified = |neighbor: &serde_json::Value| neighbor["counters"]["verified_segments"].as_u64();
    ensure!(verified(&after) > verified(&before), "nothing is verified any more: {before} {after}");
    Ok(())
}

#[test]
fn no_session_comes_up_without_a_daemon_and_it_does_with_the_next() -> Result<()> {
    let mut protected = Protected::switched()?;
    protected.agent2.end(libc::SIGKILL)?;
    let (client, server) = protected.ends();
    let soon = Options { connect_limit: Some(Duration::from_secs(3)), ..Options::default() };
    let listener = transfer::listen(&server, client.address.ip(), &soon)?;
    ensure!(transfer::connect(&client, server.address, &soon).is_err(), "it connected without the daemon");
    protected.agent2.start_again()?;
    let near = transfer::connect(&client, server.address, &Options::default())?;
    transfer::ping(&near, &transfer::accept(&listener)?)
}

#[test]
fn a_reload_touches_only_what_changed() -> Result<()> {
    let network = Network::switched()?;
    network.add_link("eth1")?;
    let both = |peer: u8, first: &str, second: &str| {
        let eth0 = neighbor(&format!("192.0.2.{peer}"), first, "");
        eth0 + &neighbor(&format!("198.18.0.{peer}"), second, "")
    };
    let config = [both(2, PASSWORD, "second"), both(1, PASSWORD, "second")];
    let Protected { agent1, agent2, .. } = &Protected::with(network, &config[0], &config[1])?;
    wait_attached(agent1, "eth1")?;
    wait_attached(agent2, "eth1")?;
    let pair_of = |network: &str| -> Result<_> {
        let address =
            |host: u8, port| -> Result<SocketAddr> { Ok(format!("{network}.{host}:{port}").parse()?) };
        let client = end_at(agent1.namespace(), address(1, 0)?);
        let server = end_at(agent2.namespace(), address(2, 179)?);
        transfer::pair(&client, &server, &Options::default())
    };
    let (unchanged, changed) = (pair_of("192.0.2")?, pair_of("198.18.0")?);
    agent1.configure(&both(2, PASSWORD, "third"))?;
    agent1.tcpauth(&["reload"])?;
    transfer::ping(&unchanged.0, &unchanged.1)?;
    changed.0.set_read_timeout(Some(Duration::from_secs(2)))?;
    changed.1.set_read_timeout(Some(Duration::from_secs(2)))?;
    ensure!(transfer::ping(&changed.0, &changed.1).is_err(), "the old password still serves");
    changed.1.set_read_timeout(Some(Duration::from_secs(20)))?;

    // A file with an error changes nothing.
    agent1.configure("neighbor.\"192.0.2.2\".pasword = \"x\"\n")?;
    ensure!(agent1.tcpauth(&["reload"]).is_err(), "a file with an error was accepted");
    transfer::ping(&unchanged.0, &unchanged.1)?;
    ensure!(agent1.status()?["agent"]["reload_error"].is_string(), "status does not say that it was refused");

    // When the other end follows, the session goes on where it was.
    agent2.configure(&both(1, PASSWORD, "third"))?;
    agent2.tcpauth(&["reload"])?;
    let mut answer = [0];
    (&changed.1).read_exact(&mut answer).context("the octet sent between the two reloads")?;
    transfer::ping(&unchanged.0, &unchanged.1)
}

#[test]
fn sighup_reloads() -> Result<()> {
    let mut protected = Protected::switched()?;
    let peer2 = protected.peer2();
    let more = neighbor(&peer2, PASSWORD, "") + &neighbor("203.0.113.9", "another", "");
    protected.agent1.configure(&more)?;
    protected.agent1.signal(libc::SIGHUP)?;
    eventually(Duration::from_secs(5), "the new neighbor", || {
        protected.agent1.neighbor("203.0.113.9").map(Some)
    })?;
    Ok(())
}

#[test]
fn neighbors_come_and_go_by_command() -> Result<()> {
    let network = Network::switched()?;
    let agent1 = Agent::start(&network.r1.namespace, "")?;
    let agent2 = Agent::start(&network.r2.namespace, &neighbor("192.0.2.1", PASSWORD, ""))?;
    wait_attached(&agent1, INTERFACE)?;
    wait_attached(&agent2, INTERFACE)?;
    let folder = tempfile::tempdir()?;
    let secret = folder.path().join("secret");
    std::fs::write(&secret, PASSWORD)?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let secret = secret.display().to_string();
    agent1.tcpauth(&["neighbor", "add", "192.0.2.2", "--password-file", &secret])?;
    let (a, b) = bgp::birds(&network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    agent1.tcpauth(&["neighbor", "remove", "192.0.2.2"])?;
    ensure!(agent1.neighbor("192.0.2.2").is_err(), "the neighbor is still there");
    // r2 still asks for the option, which r1 does not send any more.
    eventually(Duration::from_secs(15), "the session to end", || Ok((!a.is_established()?).then_some(())))
}

#[test]
fn a_session_goes_on_while_its_key_is_added_rolled_and_retired() -> Result<()> {
    let protected = Protected::switched()?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let agents = [(&protected.agent1, protected.peer2()), (&protected.agent2, protected.peer1())];
    let folder = tempfile::tempdir()?;
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "another secret")?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let secret = secret.display().to_string();
    for (agent, peer) in &agents {
        agent.tcpauth(&["key", "add", peer, "--password-file", &secret])?;
        let again =
            agent.tcpauth(&["key", "add", peer, "--number=9", "--key-id=2", "--password-file", &secret]);
        let refusal = again.err().context("the same key was added twice")?.to_string();
        ensure!(refusal.contains("is key 2 once more"), "{refusal}");
        transfer::ping(&near, &far)?;
    }
    let retire = |agent: &Agent, peer: &str| agent.tcpauth(&["key", "retire", peer, "0"]);
    for (agent, peer) in &agents {
        let refusal = retire(agent, peer).err().context("a key in use was retired")?.to_string();
        ensure!(refusal.contains("in use by 1 open session:"), "{refusal}");
        agent.tcpauth(&["key", "roll", peer, "--wait=0"])?;
        transfer::ping(&near, &far)?;
    }
    let done = agents[0].0.tcpauth(&["key", "roll", &agents[0].1])?;
    ensure!(done.contains("is preferred already") && done.contains("rolled 1 of 1 session"), "{done}");
    for (agent, peer) in &agents {
        retire(agent, peer)?;
        transfer::ping(&near, &far)?;
        let refusal = agent.tcpauth(&["key", "retire", peer, "2"]).err().context("the last key went")?;
        ensure!(refusal.to_string().contains("is the only one"), "{refusal}");
        let session = &agent.sessions()?[0];
        ensure!((&session["send_id"], &session["recv_id"]) == (&2.into(), &2.into()), "{session}");
        ensure!(agent.dropped_in_all(peer)? == 0, "segments were dropped: {}", agent.neighbor(peer)?);
        let differences =
            agent.tcpauth(&["config", "write"]).and_then(|_| agent.tcpauth(&["config", "diff"]))?;
        ensure!(differences == "no differences\n", "{differences}");
        agent.tcpauth(&["reload"])?;
    }
    transfer::exchange(near, far, 1 << 20).map(|_| ())
}

#[test]
fn a_neighbour_whose_keys_end_is_closed_and_opens_again() -> Result<()> {
    let protected = Protected::switched()?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let (agent, peer) = (&protected.agent1, protected.peer2());
    let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2 * i64::from(slowness()));
    agent.configure(&neighbor(
        &peer,
        PASSWORD,
        &format!("send-lifetime = \"/{ends}\", accept-lifetime = \"/{ends}\""),
    ))?;
    agent.tcpauth(&["reload"])?;
    transfer::ping(&near, &far)?;
    let found = agent.neighbor(&peer)?;
    ensure!(found["reason"].as_str().is_some_and(|reason| reason.contains("its keys end in")), "{found}");
    eventually(Duration::from_secs(8), "the neighbor to be closed", || {
        Ok(agent.log().contains("closed: no key may be sent with since").then_some(()))
    })?;
    let found = agent.neighbor(&peer)?;
    ensure!(found["state"] == "closed", "{found}");
    near.set_read_timeout(Some(Duration::from_secs(1)))?;
    far.set_read_timeout(Some(Duration::from_secs(1)))?;
    ensure!(transfer::ping(&near, &far).is_err(), "segments pass without a key");
    ensure!(agent.dropped(&peer, "no-key")? > 0, "{}", agent.neighbor(&peer)?);
    agent.configure(&neighbor(&peer, PASSWORD, ""))?;
    agent.tcpauth(&["reload"])?;
    ensure!(agent.neighbor(&peer)?["state"] != "closed", "it is still closed");
    near.set_read_timeout(Some(Duration::from_secs(20)))?;
    far.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut answer = [0];
    (&far).read_exact(&mut answer).context("the octet sent while it was closed")?;
    transfer::ping(&near, &far)
}

#[test]
fn purge_leaves_nothing() -> Result<()> {
    let mut protected = Protected::switched()?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    for agent in [&mut protected.agent1, &mut protected.agent2] {
        agent.end(libc::SIGTERM)?;
        ensure!(agent.pin_dir().is_dir(), "stopping removed the pins");
        agent.tcpauth(&["purge", "--yes"])?;
        ensure!(!agent.pin_dir().exists(), "pins are left");
    }
    let links = protected.network.r1.namespace.ip(&["link", "show"])?;
    ensure!(!links.contains("tcpauth-lane"), "the lane is left: {links}");
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    let sniffer = protected.network.sniff()?;
    transfer::exchange(near, far, 1 << 20)?;
    let sealed = sniffer.segments().iter().filter(|segment| segment.tcp_ao().is_some()).count();
    ensure!(sealed == 0, "{sealed} segments are still sealed");
    Ok(())
}

#[test]
fn an_agent_at_one_end_only_lets_nothing_pass() -> Result<()> {
    let network = Network::switched()?;
    let agent = Agent::start(&network.r1.namespace, &neighbor("192.0.2.2", PASSWORD, ""))?;
    wait_attached(&agent, INTERFACE)?;
    let sniffer = network.sniff()?;
    let (a, b) = bgp::birds(&network)?;
    std::thread::sleep(Duration::from_secs(6));
    ensure!(!a.is_established()? && !b.is_established()?, "the session is up");
    let naked = sniffer.segments().into_iter().filter(|segment| segment.source.ip() == network.r1.v4);
    let naked: Vec<_> = naked.filter(|segment| segment.tcp_ao().is_none()).collect();
    ensure!(naked.is_empty(), "r1 sent segments without the option: {naked:?}");
    Ok(())
}

fn stays_up(a: &Bird, b: &Bird, incarnations: &(String, String)) -> Result<()> {
    ensure!(a.is_established()? && b.is_established()?, "the session is down");
    ensure!((a.incarnation()?, b.incarnation()?) == *incarnations, "the session was down meanwhile");
    Ok(())
}
