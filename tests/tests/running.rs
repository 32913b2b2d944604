//! The running configuration: what was changed by command, and neighbors that the file loses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    clock::Clock,
    keys::Ends,
    network::{INTERFACE, Network},
    scenario::{PASSWORD, Protected, neighbor, wait_attached},
    transfer::{self, Options},
};

const REFUSED: Duration = Duration::from_secs(2);

/// Kills both daemons between any two steps of a rollover by command.
#[test]
fn keys_changed_by_command_outlive_a_killed_daemon() -> Result<()> {
    let mut protected = Protected::switched()?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    let kill_both = |protected: &mut Protected| -> Result<()> {
        for agent in [&mut protected.agent1, &mut protected.agent2] {
            agent.end(libc::SIGKILL)?;
            agent.start_again()?;
        }
        transfer::ping(&near, &far)
    };
    for end in &Ends::of(&protected).0 {
        end.agent.add_key(&end.peer, "another password", &["--number=1", "--key-id=2"])?;
    }
    kill_both(&mut protected)?;
    for end in &Ends::of(&protected).0 {
        end.agent.roll_key(&end.peer)?;
    }
    kill_both(&mut protected)?;
    for end in &Ends::of(&protected).0 {
        end.agent.wait_until_rolled(&end.peer, 1, Duration::from_secs(10))?;
        end.agent.retire_key(&end.peer, 0)?;
    }
    kill_both(&mut protected)?;
    for end in &Ends::of(&protected).0 {
        ensure!(end.agent.key(&end.peer, 0).is_err(), "the retired key is back");
        ensure!(
            end.agent.status()?["agent"]["unsaved"] == true,
            "the status does not say that changes are unsaved"
        );
        end.agent.tcpauth(&["config", "write"])?;
        ensure!(
            end.agent.status()?["agent"]["unsaved"] == false,
            "the status still says that changes are unsaved"
        );
    }
    transfer::exchange(near, far, 1 << 20).map(|_| ())
}

/// The router that rolled boots again with its clock a year behind, as without a battery and before NTP.
#[test]
fn rolled_key_stays_preferred_under_a_clock_that_is_behind() -> Result<()> {
    const YEAR: i64 = 365 * 24 * 3600;
    let clock = Clock::new()?;
    let network = Network::switched()?;
    let config = neighbor("192.0.2.2", PASSWORD, "");
    let mut agent = Agent::start_in(&network.r1.namespace, &config, clock.environment()?)?;
    agent.add_key("192.0.2.2", "another password", &["--number=1", "--key-id=2"])?;
    agent.roll_key("192.0.2.2")?;
    agent.tcpauth(&["config", "write"])?;
    agent.retire_key("192.0.2.2", 0)?;
    agent.tcpauth(&["config", "write"])?;
    let text = std::fs::read_to_string(agent.config_file())?;
    ensure!(!text.contains("20"), "a time was written: {}", text.replace(PASSWORD, "…"));
    agent.end(libc::SIGTERM)?;
    clock.set(-YEAR)?;
    agent.start_again()?;
    ensure!(agent.neighbor("192.0.2.2")?["state"] != "closed", "{}", agent.neighbor("192.0.2.2")?);
    ensure!(agent.key("192.0.2.2", 1)?["preferred"] == true, "{}", agent.keys("192.0.2.2")?);
    Ok(())
}

#[test]
fn neighbor_added_by_command_stays_protected_when_the_daemon_is_killed() -> Result<()> {
    let network = Network::switched()?;
    let other = neighbor("203.0.113.9", PASSWORD, "");
    let mut agent = Agent::start(&network.r1.namespace, &other)?;
    wait_attached(&agent, INTERFACE)?;
    agent.tcpauth_with(&["neighbor", "add", "192.0.2.2", "--password-file=-"], PASSWORD)?;
    refuses_unsigned(&network)?;
    agent.end(libc::SIGKILL)?;
    agent.start_again()?;
    ensure!(agent.neighbor("192.0.2.2").is_ok(), "the neighbor is forgotten");
    refuses_unsigned(&network)?;
    let refusal = agent.tcpauth(&["reload"]).err().context("reload threw the neighbor away")?;
    ensure!(format!("{refusal:#}").contains("--discard"), "{refusal:#}");
    agent.tcpauth(&["config", "discard"])?;
    ensure!(agent.neighbor("192.0.2.2").is_err(), "discard did not go back to the file");
    Ok(())
}

/// As on a full or read-only /run.
#[test]
fn change_that_cannot_be_kept_is_told_with_the_answer() -> Result<()> {
    let network = Network::switched()?;
    let agent = Agent::start(&network.r1.namespace, &neighbor("203.0.113.9", PASSWORD, ""))?;
    let in_the_way = format!("/run/tcpauth/{}.running.new", network.r1.namespace.name());
    std::fs::create_dir(&in_the_way)?;
    let add = ["neighbor", "add", "192.0.2.2", "--password-file=-"];
    let answer = agent.tcpauth_with(&add, PASSWORD);
    let status = agent.status();
    std::fs::remove_dir(&in_the_way)?;
    let answer = answer?;
    ensure!(answer.contains("WARNING") && answer.contains("running.toml"), "{answer}");
    ensure!(status?["agent"]["keep_error"].is_string(), "the status does not say that it is not kept");
    let answer = agent.tcpauth(&["neighbor", "remove", "203.0.113.9"])?;
    ensure!(!answer.contains("WARNING"), "{answer}");
    ensure!(agent.status()?["agent"]["keep_error"].is_null(), "{}", agent.status()?["agent"]);
    Ok(())
}

/// The daemon was killed after the file was written, and before what it had kept was removed.
#[test]
fn file_counts_after_a_daemon_that_was_killed_while_it_wrote_it() -> Result<()> {
    let network = Network::switched()?;
    let mut agent = Agent::start(&network.r1.namespace, &neighbor("203.0.113.9", PASSWORD, ""))?;
    agent.tcpauth_with(&["neighbor", "add", "192.0.2.2", "--password-file=-"], PASSWORD)?;
    let kept = format!("/run/tcpauth/{}.running.toml", network.r1.namespace.name());
    let before = std::fs::read(&kept)?;
    agent.tcpauth(&["config", "write"])?;
    agent.end(libc::SIGKILL)?;
    std::fs::write(&kept, before)?;
    agent.start_again()?;
    ensure!(agent.status()?["agent"]["unsaved"] == false, "the file has all");
    agent.tcpauth(&["neighbor", "remove", "203.0.113.9"])?;
    agent.tcpauth(&["config", "write"])?;
    // What was kept is gone, and does not come back when the file is changed by hand.
    agent.end(libc::SIGKILL)?;
    agent.configure(&neighbor("192.0.2.2", PASSWORD, "ttl-security = 3"))?;
    agent.start_again()?;
    ensure!(agent.neighbor("192.0.2.2")?["ttl_security"] == 3, "{}", agent.neighbor("192.0.2.2")?);
    Ok(())
}

#[test]
fn file_that_loses_every_neighbor_is_refused_until_forced() -> Result<()> {
    let mut protected = Protected::switched()?;
    let agent = &mut protected.agent1;
    agent.configure("")?;
    let refusal = agent.tcpauth(&["reload"]).err().context("an empty file was loaded")?;
    ensure!(format!("{refusal:#}").contains("--force"), "{refusal:#}");
    refuses_unsigned(&protected.network)?;
    agent.end(libc::SIGKILL)?;
    agent.spawn()?;
    let ended = agent.wait_until_it_answers().err().context("the daemon started with an empty file")?;
    ensure!(format!("{ended:#}").contains("--force"), "{ended:#}");
    refuses_unsigned(&protected.network)?;
    agent.configure(&neighbor("192.0.2.2", PASSWORD, ""))?;
    agent.start_again()?;
    agent.configure("")?;
    agent.tcpauth(&["reload", "--force"])?;
    ensure!(agent.neighbor("192.0.2.2").is_err(), "--force kept the neighbor");
    Ok(())
}

/// Starts a daemon with a file from which a neighbor is missing that an earlier one protected.
#[test]
fn neighbor_missing_at_start_stays_closed_until_it_is_let_go() -> Result<()> {
    let network = Network::switched()?;
    let (kept, lost) = (neighbor("203.0.113.9", PASSWORD, ""), neighbor("192.0.2.2", PASSWORD, ""));
    let agent1 = Agent::start(&network.r1.namespace, &format!("{kept}{lost}"))?;
    let agent2 = Agent::start(&network.r2.namespace, &neighbor("192.0.2.1", PASSWORD, ""))?;
    let mut protected = Protected::of_agents(network, agent1, agent2)?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    protected.agent1.end(libc::SIGKILL)?;
    protected.agent1.configure(&kept)?;
    protected.agent1.start_again()?;
    let agent = &protected.agent1;
    ensure!(agent.status()?["agent"]["unconfigured"][0] == "192.0.2.2", "{}", agent.status()?["agent"]);
    transfer::ping(&near, &far).context("the session ended with its neighbor's configuration")?;
    refuses_unsigned(&protected.network)?;
    agent.configure(&format!("{kept}{lost}"))?;
    agent.tcpauth(&["reload"])?;
    ensure!(
        agent.status()?["agent"]["unconfigured"].as_array().is_some_and(Vec::is_empty),
        "it is not configured"
    );
    transfer::ping(&near, &far).context("the session ended when its neighbor was configured again")?;
    Ok(())
}

/// Checks that `r1` takes no connection without a MAC in the name of `r2`.
fn refuses_unsigned(network: &Network) -> Result<()> {
    let unsigned = |port| tcpauth_tests::scenario::end(&network.r2, port);
    let server = tcpauth_tests::scenario::end(&network.r1, 179);
    let _listener = transfer::listen(&server, network.r2.v4.into(), &Options::default())?;
    let options = Options { connect_limit: Some(REFUSED), ..Options::default() };
    // The neighbor's own daemon, if there is one, must not sign: another address of the same host is not configured.
    let namespace = &network.attacker().namespace;
    namespace.ip(&["address", "replace", "192.0.2.2/32", "dev", INTERFACE])?;
    network.r1.namespace.ip(&[
        "neighbor",
        "replace",
        "192.0.2.2",
        "lladdr",
        "02:00:00:00:00:42",
        "dev",
        INTERFACE,
    ])?;
    let client = tcpauth_tests::transfer::End { namespace: namespace.clone(), ..unsigned(0) };
    let result = transfer::connect(&client, server.address, &options);
    namespace.ip(&["address", "delete", "192.0.2.2/32", "dev", INTERFACE])?;
    let mac = network.r2.mac_text();
    network.r1.namespace.ip(&["neighbor", "replace", "192.0.2.2", "lladdr", &mac, "dev", INTERFACE])?;
    ensure!(result.is_err(), "a connection without a MAC came up");
    Ok(())
}
