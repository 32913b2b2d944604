//! Agreed keys are replaced by others of a new handshake while sessions carry data: nothing is lost, no session notices,
//! and the old keys are good for nothing.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Peering, Speaker},
    frame::{Segment, flags},
    impair::Impairment,
    independent::{self, Secret},
    keys::{Endpoint, Ends, NEVER, NEVER_OUT_OF_ORDER},
    kmp::{self, AgreedKey, Mode, Wiretap},
    network::{Network, Wire},
    scenario::Protected,
    streams::Streams,
    transfer::{self, Options},
    wait::eventually,
    wire::{self, Sniffer},
};

/// How long sessions that carry data may take to have new keys.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_hundred_by_command_external() -> Result<()> {
    by_command(Mode::External, Network::switched()?, 110)
}

#[test]
fn a_hundred_by_command_layered() -> Result<()> {
    by_command(Mode::Layered, Network::switched()?, 110)
}

#[test]
fn by_command_over_a_wire_that_reorders_and_loses() -> Result<()> {
    for mode in Mode::ALL {
        let impairment = Impairment { loss: 30, reordering: 200, seed: 3, ..Impairment::default() };
        by_command(mode, Network::with(Wire::Impaired(impairment), 1500)?, 15)
            .with_context(|| mode.name())?;
    }
    Ok(())
}

/// Every ten seconds, under BGP that says little, and with every segment verified.
#[test]
fn by_age() -> Result<()> {
    for mode in Mode::ALL {
        let protected = kmp::agreeing(Network::switched()?, mode, "rekey-interval = 10")?;
        let wiretap = Wiretap::start(&protected.network)?;
        let (a, b) = bgp::birds(&protected.network)?;
        bgp::wait_for_routes(&a, &b, 10, 10)?;
        let incarnations = (a.incarnation()?, b.incarnation()?);
        thread::sleep(Duration::from_secs(35));
        let refreshed = keys_of_bgp(&protected.agent1)?.len() - 1;
        ensure!((2..=8).contains(&refreshed), "{}: {refreshed} in 35 s", mode.name());
        ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
        match mode {
            Mode::External => wiretap.finish_external(&protected)?,
            Mode::Layered => wiretap.finish_layered(&protected)?,
        };
        Ends::of(&protected).nothing_dropped_for(&NEVER)?;
    }
    Ok(())
}

#[test]
fn by_segments() -> Result<()> {
    for mode in Mode::ALL {
        let protected = kmp::agreeing(Network::switched()?, mode, "rekey-segments = 100")?;
        let (client, server) = protected.ends();
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        let ends = Ends::of(&protected);
        let before = keys_of_bgp(&protected.agent1)?.len();
        for round in 1..=3 {
            transfer::ping(&near, &far)?;
            thread::sleep(Duration::from_millis(1500));
            // A megabyte is some 700 segments.
            send_both_ways(&near, &far, 1 << 20)?;
            eventually(SOON, "new keys", || {
                transfer::ping(&near, &far)?;
                let now = keys_of_bgp(&protected.agent1)?.len();
                ensure!(now >= before + round, "{}: {} after round {round}", mode.name(), now - before);
                Ok(Some(()))
            })?;
        }
        ends.nothing_dropped_for(&NEVER)?;
    }
    Ok(())
}

/// The file has another password on both ends, and is read again on each.
#[test]
fn when_the_password_changes() -> Result<()> {
    for mode in Mode::ALL {
        let protected = kmp::agreeing(Network::switched()?, mode, "")?;
        let Protected { agent1, agent2, network } = &protected;
        let (first, second) = Peering::pair(&network.r1, &network.r2);
        let a = Bird::start(&network.r1.namespace, &first)?;
        let b = Bird::start(&network.r2.namespace, &second)?;
        bgp::wait_for_routes(&a, &b, 10, 10)?;
        let incarnations = (a.incarnation()?, b.incarnation()?);
        let before = keys_of_bgp(agent1)?;
        for (agent, other) in [(agent1, &network.r2), (agent2, &network.r1)] {
            agent.configure(&kmp::config(other, "another password", &mode.fields("")))?;
            agent.tcpauth(&["reload"])?;
        }
        eventually(Duration::from_secs(20), "new keys", || {
            let now = keys_of_bgp(agent1)?;
            ensure!(now.len() > before.len(), "{}: no new ones", mode.name());
            Ok(Some(()))
        })?;
        for end in &Ends::of(&protected).0 {
            end.agent.wait_until_rolled(&end.peer, 1, SOON)?;
        }
        thread::sleep(Duration::from_secs(4));
        ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
        let (client, server) = protected.ends_v6();
        transfer::exchange_many(&client, &server, 1, 1, 100_000).context("a new connection")?;
    }
    Ok(())
}

/// By a chain: the next password is added on both ends, and then preferred.
/// The daemon does not keep what its sessions' keys were agreed under: those of before serve until they are due.
#[test]
fn password_that_changes_while_the_daemons_are_stopped_is_used_from_the_next_refresh_on() -> Result<()> {
    let mut protected = kmp::agreeing(Network::switched()?, Mode::External, "")?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let before = keys_of_bgp(&protected.agent1)?;
    let Protected { agent1, agent2, network } = &mut protected;
    for (agent, other) in [(&mut *agent1, &network.r2), (&mut *agent2, &network.r1)] {
        agent.end(libc::SIGTERM)?;
        agent.configure(&kmp::config(other, "another password", &Mode::External.fields("")))?;
    }
    agent1.start_again()?;
    agent2.start_again()?;
    for _ in 0..8 {
        transfer::ping(&near, &far)?;
        thread::sleep(Duration::from_secs(1));
    }
    ensure!(keys_of_bgp(agent1)? == before, "new keys were agreed on without being asked for");
    agent1.refresh_keys(&network.r2.v4.to_string())?;
    eventually(SOON, "new keys", || {
        let now = keys_of_bgp(agent1)?;
        ensure!(now.len() > before.len(), "no new ones");
        Ok(Some(()))
    })?;
    transfer::exchange(near, far, 1 << 20)?;
    Ok(())
}

#[test]
fn when_the_password_is_rolled() -> Result<()> {
    for mode in Mode::ALL {
        let protected = kmp::agreeing(Network::switched()?, mode, "")?;
        let (client, server) = protected.ends();
        let streams = Streams::start(vec![transfer::pair(&client, &server, &Options::default())?])?;
        let ends = Ends::of(&protected);
        for end in &ends.0 {
            end.agent.add_key(&end.peer, "another", &["--number=1", "--key-id=2"])?;
        }
        let before = keys_of_bgp(&protected.agent1)?.len();
        for end in &ends.0 {
            end.agent.roll_key(&end.peer)?;
        }
        eventually(Duration::from_secs(20), "new keys", || {
            Ok((keys_of_bgp(&protected.agent1)?.len() > before).then_some(()))
        })?;
        for end in &ends.0 {
            end.agent.wait_until_rolled(&end.peer, 1, SOON)?;
        }
        streams.wait_until_all_move(SOON)?;
        for end in &ends.0 {
            end.agent.tcpauth(&["key", "retire", &end.peer, "0", "--force"])?;
        }
        streams.wait_until_all_move(SOON)?;
        streams.finish()?;
        transfer::exchange_many(&client, &server, 1, 1, 100_000)
            .context("a connection under the new password")?;
        ends.nothing_dropped_for(&["wrong-mac", "wrong-length"])?;
    }
    Ok(())
}

/// A forger who has the keys of a connection can speak for its ends, but only until the next refresh.
#[test]
fn old_keys_are_good_for_nothing() -> Result<()> {
    for mode in Mode::ALL {
        let protected = kmp::agreeing(Network::switched()?, mode, "")?;
        let target = Target::up(&protected)?;
        let stolen = keys_of_bgp(&protected.agent1)?.pop().context("no key was agreed on")?;
        ensure!(target.takes(&stolen)?, "{}: the forger cannot sign", mode.name());
        let ends = Ends::of(&protected);
        ends.0[0].agent.refresh_keys(&ends.0[0].peer)?;
        let fresh = eventually(SOON, "new keys on both ends", || {
            target.speak()?;
            let fresh = keys_of_bgp(&protected.agent1)?.pop().filter(|fresh| *fresh != stolen);
            Ok(fresh)
        })?;
        // Until both ends have moved, and what was on its way has arrived.
        for Endpoint { agent, peer, .. } in &ends.0 {
            eventually(Duration::from_secs(20), "the old keys to be gone", || {
                target.speak()?;
                let sessions = agent.sessions()?;
                let of_bgp = sessions.iter().find(|session| is_of_bgp(session)).context("no session")?;
                let accepted = of_bgp["accepted_ids"].as_array().map_or(0, Vec::len);
                ensure!(accepted == 1, "{peer}: {of_bgp}");
                Ok(Some(()))
            })?;
        }
        ensure!(!target.takes(&stolen)?, "{}: the stolen key still verifies", mode.name());
        // Not even under the other's KeyID.
        let renamed = AgreedKey { send_id: fresh.send_id, ..stolen };
        ensure!(!target.takes(&renamed)?, "{}: the stolen key verifies", mode.name());
        ensure!(target.takes(&fresh)?, "{}: the forger cannot sign any more", mode.name());
        target.speak()?;
    }
    Ok(())
}

/// Nobody can be reached over the channel: the session goes on under the keys that it has, and the operator is told.
#[test]
fn without_a_way_to_the_peer_sessions_go_on() -> Result<()> {
    for mode in Mode::ALL {
        let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
        let protected = kmp::agreeing(network, mode, "rekey-interval = 10")?;
        let (client, server) = protected.ends();
        let streams = Streams::start(vec![transfer::pair(&client, &server, &Options::default())?])?;
        kmp::forwarder(&protected)?.filter(kmp::is_of_channel);
        let failure = protected.agent1.wait_for_failure(&protected.peer2(), Duration::from_secs(45), &[])?;
        println!("{}: {failure}", mode.name());
        streams.wait_until_all_move(SOON)?;
        let before = keys_of_bgp(&protected.agent1)?.len();
        kmp::forwarder(&protected)?.filter(|_| false);
        eventually(Duration::from_secs(60), "new keys when the port is open again", || {
            Ok((keys_of_bgp(&protected.agent1)?.len() > before).then_some(()))
        })?;
        streams.wait_until_all_move(SOON)?;
        streams.finish()?;
        Ends::of(&protected).nothing_dropped_for(&NEVER)?;
    }
    Ok(())
}

/// New keys again and again, asked for by either end, for sessions that carry data.
fn by_command(mode: Mode, network: Network, rounds: usize) -> Result<()> {
    const SESSIONS: usize = 4;
    let is_lossy = network.middle.as_ref().is_some_and(|middle| middle.forwarder.is_some());
    let protected = kmp::agreeing(network, mode, "")?;
    let (client, server) = protected.ends();
    let connections = (0..SESSIONS).map(|_| transfer::pair(&client, &server, &Options::default()));
    let streams = Streams::start(connections.collect::<Result<_>>()?)?;
    let ends = Ends::of(&protected);
    let start = Instant::now();
    for round in 1..=rounds {
        let order = [ends.first_is(1), ends.first_is(2)][round % 2];
        order[0].agent.refresh_keys(&order[0].peer)?;
        for end in order {
            eventually(SOON, "new keys of all sessions", || {
                let agreed = keys_of_bgp(end.agent)?.len();
                ensure!(agreed >= SESSIONS * (round + 1), "{agreed} keys were agreed on");
                Ok(Some(()))
            })
            .with_context(|| format!("round {round}"))?;
            let sessions = SESSIONS as u64;
            end.agent
                .wait_until_rolled(&end.peer, sessions, SOON)
                .with_context(|| format!("round {round}"))?;
        }
        ensure!(streams.ended() == 0, "{} directions ended in round {round}", streams.ended());
        if round % 10 == 0 {
            streams.wait_until_all_move(SOON).with_context(|| format!("round {round}"))?;
        }
    }
    println!("{}: {rounds} refreshes of {SESSIONS} sessions in {:.1?}", mode.name(), start.elapsed());
    let octets = streams.finish()?;
    ensure!(octets > 1_000_000, "only {octets} octets were carried");
    let agreed = keys_of_bgp(&protected.agent1)?;
    let distinct: HashSet<_> = agreed.iter().map(|key| &key.master_key).collect();
    ensure!(distinct.len() == agreed.len(), "the same key was agreed on twice");
    let reasons = if is_lossy { &NEVER_OUT_OF_ORDER[..] } else { &NEVER };
    ends.nothing_dropped_for(reasons)
}

/// The keys that were agreed on for connections of port 179, in order.
fn keys_of_bgp(agent: &Agent) -> Result<Vec<AgreedKey>> {
    let mut keys = agent.agreed_keys()?;
    keys.retain(|key| [key.local.port(), key.peer.port()].contains(&179));
    Ok(keys)
}

/// Whether a session, as `session show` has it, is of port 179.
fn is_of_bgp(session: &serde_json::Value) -> bool {
    ["local", "peer"].iter().any(|end| session[end].as_str().is_some_and(|end| end.ends_with(":179")))
}

fn send_both_ways(mut near: &TcpStream, mut far: &TcpStream, octets: usize) -> Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || near.write_all(&vec![1; octets]));
        far.read_exact(&mut vec![0; octets])?;
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(())
    })
}

/// A quiet connection from `r1` to `r2`, and someone on the wire who has learned its keys.
struct Target<'a> {
    protected: &'a Protected,
    connection: (TcpStream, TcpStream),
    sniffer: Sniffer,
    isns: independent::Connection,
    client: SocketAddr,
}

impl<'a> Target<'a> {
    fn up(protected: &'a Protected) -> Result<Self> {
        let sniffer = protected.network.sniff()?;
        let (client, server) = protected.ends();
        let connection = transfer::pair(&client, &server, &Options::default())?;
        transfer::ping(&connection.0, &connection.1)?;
        let client = connection.0.local_addr()?;
        let syn_ack = eventually(SOON, "the SYN-ACK on the wire", || {
            let is_it =
                |segment: &Segment| segment.flags == flags::SYN | flags::ACK && segment.destination == client;
            Ok(sniffer.segments().into_iter().find(is_it))
        })?;
        let (source_isn, destination_isn) = (syn_ack.ack.wrapping_sub(1), syn_ack.seq);
        let isns = independent::Connection { source_isn, destination_isn, sne: 0 };
        Ok(Self { protected, connection, sniffer, isns, client })
    }

    fn speak(&self) -> Result<()> {
        transfer::ping(&self.connection.0, &self.connection.1)
    }

    /// Whether `r2` takes an empty segment for the client's that is signed with that key, and not by `r1`.
    fn takes(&self, key: &AgreedKey) -> Result<bool> {
        // A delayed acknowledgment is not to be taken for what is sent now.
        thread::sleep(Duration::from_millis(300));
        let segments = self.sniffer.segments();
        let last = segments.iter().rev().find(|segment| segment.source == self.client);
        let empty = wire::forge(last.context("nothing of the client was heard")?, flags::ACK, b"");
        let secret = Secret::MasterKey(&key.master_key, &key.algorithm);
        let forged = independent::sign(&empty, key.send_id, &secret, &self.isns)?;
        let before = self.counts()?;
        let network = &self.protected.network;
        wire::inject(network.attacker(), &network.r2, &forged)?;
        let after = eventually(Duration::from_secs(3), "the forged segment to be counted", || {
            let after = self.counts()?;
            Ok((after != before).then_some(after))
        })?;
        match (after.0 - before.0, after.1 - before.1) {
            (1, 0) => Ok(true),
            (0, 1) => Ok(false),
            more => anyhow::bail!("one segment was counted as {more:?}, verified and dropped"),
        }
    }

    /// Segments of the connection that `r2` has verified, and those that it has dropped.
    fn counts(&self) -> Result<(u64, u64)> {
        let sessions = self.protected.agent2.sessions()?;
        let client = self.client.to_string();
        let session = sessions.iter().find(|session| session["peer"] == *client).context("no session")?;
        let verified = session["counters"]["verified_segments"].as_u64().context("no counter")?;
        // Of the neighbour: a segment with an unknown KeyID is not the session's.
        Ok((verified, self.protected.agent2.dropped_in_all(&self.protected.peer1())?))
    }
}
