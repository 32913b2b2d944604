//! Keys that are retired, replaced and written to the file leave nothing of the old ones behind.

use std::{cell::Cell, fs, net::TcpStream, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Speaker},
    frame::{Segment, flags},
    independent::{self, Secret},
    keys::{Endpoint, Ends, NEVER},
    network::Network,
    scenario::{PASSWORD, Protected, neighbor},
    transfer::{self, Options},
    wait::{eventually, steadily},
    wire,
};

/// How long sessions may take to follow both routers.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_key_in_use_is_retired_by_force_only() -> Result<()> {
    let protected = Protected::switched()?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let ends = Ends::of(&protected);
    for end in &ends.0 {
        end.agent.add_key(&end.peer, "another", &["--number=1", "--key-id=2"])?;
    }
    let Ends([end, other]) = &ends;
    let refused = format!("{:#}", end.agent.retire_key(&end.peer, 0).err().context("it was retired")?);
    ensure!(refused.contains("--force"), "it does not say what to do: {refused}");
    transfer::ping(&near, &far)?;
    ends.nothing_dropped_for(&NEVER)?;

    end.agent.tcpauth(&["key", "retire", &end.peer, "0", "--force"])?;
    ensure!(end.agent.key(&end.peer, 0).is_err(), "it is still there");
    near.set_read_timeout(Some(Duration::from_secs(2)))?;
    far.set_read_timeout(Some(Duration::from_secs(2)))?;
    ensure!(transfer::ping(&near, &far).is_err(), "the key that was retired by force still serves");

    // The other end follows, and what was sent meanwhile arrives.
    for end in [other, end] {
        end.agent.roll_key(&end.peer)?;
    }
    other.agent.tcpauth(&["key", "retire", &other.peer, "0", "--force"])?;
    far.set_read_timeout(Some(Duration::from_secs(20)))?;
    far.peek(&mut [0]).context("what was sent with no key in common")?;
    Ok(())
}

#[test]
fn a_retired_key_verifies_nothing_any_more() -> Result<()> {
    let target = Target::up()?;
    let ends = Ends::of(&target.protected);
    let speak = || target.speak();
    ensure!(target.takes(1, PASSWORD)?, "the forger cannot sign");
    rolled(&ends, 0, "another", 2, speak)?;
    ensure!(!target.takes(1, PASSWORD)?, "the retired key still verifies");
    // The same KeyID, used again: nothing of the key that had it is left.
    rolled(&ends, 1, "a third", 1, speak)?;
    ensure!(!target.takes(1, PASSWORD)?, "the retired key verifies under a KeyID that has come again");
    ensure!(!target.takes(2, "another")?, "the second key still verifies");
    ensure!(target.takes(1, "a third")?, "the forger cannot sign any more");
    target.speak()
}

#[test]
fn a_neighbor_that_was_removed_and_added_again_has_its_new_key_only() -> Result<()> {
    let mut target = Target::up()?;
    ensure!(target.takes(1, PASSWORD)?, "the forger cannot sign");
    for Endpoint { agent, peer, .. } in &Ends::of(&target.protected).0 {
        agent.tcpauth(&["neighbor", "remove", peer])?;
        agent.tcpauth_with(&["neighbor", "add", peer, "--password-file=-"], "another")?;
    }
    ensure!(!target.takes(1, PASSWORD)?, "the old key still verifies in the session that was up");
    target.connect()?;
    ensure!(!target.takes(1, PASSWORD)?, "the old key verifies in a new session");
    ensure!(target.takes(1, "another")?, "the forger cannot sign any more");
    target.speak()
}

#[test]
fn what_was_rolled_is_written_to_the_file_and_outlives_the_daemons() -> Result<()> {
    let network = Network::switched()?;
    let comment = "# The password of the contract of 2019.\n";
    let configs = [network.r2.v4, network.r1.v4].map(|peer| {
        format!("{comment}{}# The end.\n", neighbor(&peer.to_string(), PASSWORD, "ttl-security = 3"))
    });
    let mut protected = Protected::with(network, &configs[0], &configs[1])?;
    let (a, b) = bgp::birds(&protected.network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let incarnations = (a.incarnation()?, b.incarnation()?);
    let ends = Ends::of(&protected);
    let quiet = ends.0[0].agent.config_diff()?;
    ensure!(quiet.is_empty(), "there are differences before anything was changed: {quiet}");
    rolled(&ends, 0, "another & \"quoted\"", 2, || Ok(()))?;
    for Endpoint { agent, peer, .. } in &ends.0 {
        let diff = agent.config_diff()?;
        ensure!(diff.contains(peer), "the difference is not told: {diff:?}");
        ensure!(!diff.contains("another") && !diff.contains(PASSWORD), "a secret is in {diff}");
        agent.tcpauth(&["config", "write"])?;
        let diff = agent.config_diff()?;
        ensure!(diff.is_empty(), "the file differs after it was written: {diff}");
        let file = fs::read_to_string(agent.config_file())?;
        ensure!(file.contains(comment) && file.contains("# The end."), "comments are gone: {file}");
        ensure!(!file.contains(PASSWORD), "the retired password is still in the file: {file}");
        agent.tcpauth(&["reload"])?;
        ensure!(agent.status()?["agent"]["reload_error"].is_null(), "{}", agent.status()?);
    }
    let before = [ends.0[0].agent.keys(&ends.0[0].peer)?, ends.0[1].agent.keys(&ends.0[1].peer)?];
    for agent in [&mut protected.agent1, &mut protected.agent2] {
        agent.end(libc::SIGTERM)?;
        agent.start_again()?;
    }
    let ends = Ends::of(&protected);
    for (end, before) in ends.0.iter().zip(before) {
        end.agent.wait_until_rolled(&end.peer, 1, SOON)?;
        let after = end.agent.keys(&end.peer)?;
        for field in
            ["number", "send_id", "recv_id", "algorithm", "send_lifetime", "accept_lifetime", "state"]
        {
            ensure!(before["keys"][0][field] == after["keys"][0][field], "{before} became {after}");
        }
        ensure!(after["keys"].as_array().map(Vec::len) == Some(1), "{after}");
    }
    // Longer than the hold time.
    steadily(bgp::hold_time() + Duration::from_secs(1), "the session stays up", || {
        Ok((a.incarnation()?, b.incarnation()?) == incarnations
            && a.is_established()?
            && b.is_established()?)
    })?;
    // A third key finds the session still as it should.
    rolled(&ends, 1, "a third", 3, || Ok(()))?;
    ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
    ends.nothing_dropped_for(&NEVER)
}

/// Replaces key `old` by the next one on both ends at once; `speak` has a session say something, if none does by
/// itself.
fn rolled(
    ends: &Ends<'_>,
    old: u32,
    password: &str,
    key_id: u8,
    speak: impl Fn() -> Result<()>,
) -> Result<()> {
    let options = [format!("--number={}", old + 1), format!("--key-id={key_id}")];
    for end in &ends.0 {
        end.agent.add_key(&end.peer, password, &[&options[0], &options[1]])?;
    }
    for end in &ends.0 {
        end.agent.roll_key(&end.peer)?;
    }
    speak()?;
    for end in &ends.0 {
        end.agent.wait_until_rolled(&end.peer, 1, SOON)?;
        end.agent.retire_key(&end.peer, old)?;
    }
    Ok(())
}

/// A quiet connection from `r1` to `r2`, and someone on the wire who has learned keys.
struct Target {
    connection: (TcpStream, TcpStream),
    isns: independent::Connection,
    /// Octets that were sent each way.
    spoken: Cell<u32>,
    protected: Protected,
}

impl Target {
    fn up() -> Result<Self> {
        let protected = Protected::switched()?;
        let (connection, isns) = observed(&protected)?;
        Ok(Self { connection, isns, spoken: Cell::new(1), protected })
    }

    /// Takes another connection for the old one.
    fn connect(&mut self) -> Result<()> {
        let (connection, isns) = observed(&self.protected)?;
        let (near, far) = std::mem::replace(&mut self.connection, connection);
        (self.isns, self.spoken) = (isns, Cell::new(1));
        // Without a FIN, which would be sent again and again as it has no key, and counted.
        transfer::vanish(near)?;
        transfer::vanish(far)
    }

    fn speak(&self) -> Result<()> {
        transfer::ping(&self.connection.0, &self.connection.1)?;
        self.spoken.update(|octets| octets + 1);
        Ok(())
    }

    /// Whether `r2` takes an empty segment for the client's that is signed with that key, and not by `r1`.
    fn takes(&self, key_id: u8, password: &str) -> Result<bool> {
        let Self { connection: (near, _), isns, spoken, protected } = self;
        let Protected { agent2, network, .. } = protected;
        // A delayed acknowledgment is not to be taken for what is sent now.
        thread::sleep(Duration::from_millis(300));
        let segment = Segment {
            source: near.local_addr()?,
            destination: near.peer_addr()?,
            seq: isns.source_isn.wrapping_add(1 + spoken.get()),
            ack: isns.destination_isn.wrapping_add(1 + spoken.get()),
            flags: flags::ACK,
            window: 502,
            options: Vec::new(),
            data: Vec::new(),
            hop_limit: 64,
        };
        let forged = independent::sign(&segment, key_id, &Secret::Password(password), isns)?;
        let peer = protected.peer1();
        let before = counts(agent2, &peer)?;
        wire::inject(network.attacker(), &network.r2, &forged)?;
        let after = eventually(Duration::from_secs(3), "the forged segment to be counted", || {
            let after = counts(agent2, &peer)?;
            Ok((after != before).then_some(after))
        })?;
        match (after.0 - before.0, after.1 - before.1) {
            (1, 0) => Ok(true),
            (0, 1) => Ok(false),
            more => Err(anyhow!("one segment was counted as {more:?}, verified and dropped")),
        }
    }
}

/// A connection that has carried an octet each way, and its ISNs.
fn observed(protected: &Protected) -> Result<((TcpStream, TcpStream), independent::Connection)> {
    let sniffer = protected.network.sniff()?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let address = near.local_addr()?;
    let syn_ack = eventually(SOON, "the SYN-ACK on the wire", || {
        let is_it =
            |segment: &Segment| segment.flags == flags::SYN | flags::ACK && segment.destination == address;
        Ok(sniffer.segments().into_iter().find(is_it))
    })?;
    let (source_isn, destination_isn) = (syn_ack.ack.wrapping_sub(1), syn_ack.seq);
    Ok(((near, far), independent::Connection { source_isn, destination_isn, sne: 0 }))
}

/// Segments of `peer` verified, and dropped.
fn counts(agent: &Agent, peer: &str) -> Result<(u64, u64)> {
    let neighbor = agent.neighbor(peer)?;
    let verified = neighbor["counters"]["verified_segments"].as_u64().context("no counter")?;
    Ok((verified, agent.dropped_in_all(peer)?))
}
