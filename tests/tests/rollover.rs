//! Keys change by command while sessions carry data: nothing is lost, no session notices.

use std::{
    cell::Cell,
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Frr, Peering, Speaker},
    frame::{Segment, flags},
    impair::{Impairment, Treated},
    independent,
    network::{Network, Wire},
    scenario::{PASSWORD, Protected, neighbor},
    streams::Streams,
    transfer::{self, Options},
    wait::{eventually, steadily},
    wire,
};

/// How long sessions that carry data may take to follow both routers.
const SOON: Duration = Duration::from_secs(10);

/// Every algorithm of TCP-AO, those with MACs of different lengths next to each other.
const ALGORITHMS: [&str; 5] =
    ["aes-128-cmac-96", "hmac-sha-256-128", "siphash-2-4-96", "hmac-sha-256-96", "hmac-sha-1-96"];

/// Why a segment of the peer may not be dropped while keys change.
const NEVER: [&str; 5] = ["wrong-mac", "unknown-key-id", "wrong-length", "old-key", "no-key"];

#[test]
fn a_thousand_rollovers_over_a_wire_that_reorders_and_loses() -> Result<()> {
    const SESSIONS: u64 = 50;
    const ROUNDS: u32 = 20;
    /// Milliseconds between the rolls of the two routers.
    const GAPS: [u64; 10] = [0, 10, 100, 300, 1000, 0, 2000, 30, 5000, 10_000];
    let impairment = Impairment { loss: 50, reordering: 200, seed: 3, ..Impairment::default() };
    let protected = Protected::over_v4(Network::with(Wire::Impaired(impairment), 1500)?, "")?;
    let streams = Streams::start(connections(&protected, SESSIONS)?)?;
    let ends = Ends::of(&protected);
    for round in 0..ROUNDS {
        let (old, new) = (round, round + 1);
        let algorithm = format!("--algorithm={}", ALGORITHMS[round as usize % ALGORITHMS.len()]);
        // IDs that differ from those of the keys beside them, other ones in each direction.
        let (low, high) = (10 + new % 4, 20 + new % 3);
        let password = format!("password {new}");
        let order = [ends.first_is(1), ends.first_is(2)][round as usize % 2];
        for end in order {
            let (send, recv) = if end.is_first { (low, high) } else { (high, low) };
            let ids = [format!("--send-id={send}"), format!("--recv-id={recv}")];
            end.agent.add_key(
                &end.peer,
                &password,
                &[&format!("--number={new}"), &algorithm, &ids[0], &ids[1]],
            )?;
        }
        order[0].agent.roll_key(&order[0].peer)?;
        let gap = GAPS[round as usize % GAPS.len()];
        thread::sleep(Duration::from_millis(gap));
        order[1].agent.roll_key(&order[1].peer)?;
        let start = Instant::now();
        for end in order {
            end.agent
                .wait_until_rolled(&end.peer, SESSIONS, SOON)
                .with_context(|| format!("round {round}"))?;
        }
        println!("round {round}, {algorithm}: gap {gap} ms, followed in {:.1?}", start.elapsed());
        for end in order {
            end.agent.retire_key(&end.peer, old)?;
        }
        streams.wait_until_all_move(SOON).with_context(|| format!("round {round}"))?;
        ensure!(streams.ended() == 0, "{} directions ended in round {round}", streams.ended());
    }
    let octets = streams.finish()?;
    ensure!(octets > SESSIONS * 2 * 1_000_000, "only {octets} octets were carried");
    ends.nothing_dropped_for(&NEVER)?;
    let Treated { lost, reordered, .. } = treated(&protected)?;
    println!("{octets} octets; {lost} segments lost, {reordered} reordered");
    ensure!(lost > 1000 && reordered > 1000, "{lost} segments lost, {reordered} reordered");
    Ok(())
}

/// The MSS was agreed on when the MAC was shorter.
#[test]
fn a_longer_mac_leaves_segments_within_the_mtu() -> Result<()> {
    let protected = Protected::switched()?;
    let ends = Ends::of(&protected);
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    for end in &ends.0 {
        let options = ["--number=1", "--key-id=2", "--algorithm=hmac-sha-256-128"];
        end.agent.add_key(&end.peer, "another", &options)?;
        end.agent.roll_key(&end.peer)?;
    }
    transfer::ping(&near, &far)?;
    for end in &ends.0 {
        end.agent.wait_until_rolled(&end.peer, 1, SOON)?;
    }
    let sniffer = protected.network.sniff()?;
    transfer::exchange(near, far, 1 << 20)?;
    let largest = sniffer.largest_frame();
    ensure!((1400..=1514).contains(&largest), "the largest frame has {largest} octets");
    ends.nothing_dropped_for(&NEVER)
}

/// No RNextKeyID can ask for a key that shares its KeyID: who rolls first sends with it at once, and the other end,
/// if it may send with it already, follows what it verified.
#[test]
fn keys_that_share_a_key_id_are_told_apart_by_trial() -> Result<()> {
    const SESSIONS: u64 = 5;
    let impairment = Impairment { loss: 50, reordering: 200, seed: 5, ..Impairment::default() };
    let network = Network::with(Wire::Impaired(impairment), 1500)?;
    let protected = Protected::over_v4(network, "")?;
    let streams = Streams::start(connections(&protected, SESSIONS)?)?;
    let ends = Ends::of(&protected);
    for (old, (first, until_rolled)) in (0..).zip([(1, true), (2, true), (1, false), (2, false)]) {
        let order = ends.first_is(first);
        let (new, password) = (old + 1, format!("password {old}"));
        let lifetime = if until_rolled { "never".to_owned() } else { format!("{}/", Timestamp::now()) };
        for end in order {
            let options = [format!("--number={new}"), format!("--send-lifetime={lifetime}")];
            end.agent.add_key(&end.peer, &password, &["--key-id=1", &options[0], &options[1]])?;
        }
        order[0].agent.roll_key(&order[0].peer)?;
        eventually(SOON, "the other end to verify with the new key", || {
            let key = order[1].agent.key(&order[1].peer, new)?;
            ensure!(key["receiving_sessions"] == SESSIONS, "{key}");
            ensure!(!until_rolled || key["sending_sessions"] == 0, "it was not rolled: {key}");
            Ok(Some(()))
        })?;
        if until_rolled {
            thread::sleep(Duration::from_millis(500));
            order[1].agent.roll_key(&order[1].peer)?;
        }
        for end in order {
            end.agent.wait_until_rolled(&end.peer, SESSIONS, SOON)?;
        }
        for end in order {
            end.agent.retire_key(&end.peer, old)?;
        }
    }
    streams.finish()?;
    // What was overtaken by a retransmission of earlier data with the new key is refused, and comes again: `old-key`.
    ends.nothing_dropped_for(&["wrong-mac", "unknown-key-id", "wrong-length", "no-key"])
}

#[test]
fn bird_and_bird_do_not_notice() -> Result<()> {
    let protected = Protected::switched()?;
    let (first, second) = peerings(&protected);
    let a = Bird::start(&protected.network.r1.namespace, &first)?;
    let b = Bird::start(&protected.network.r2.namespace, &second)?;
    rolled_unnoticed(&protected, [&a, &b], [&|| a.silence(), &|| b.silence()])
}

#[test]
fn frr_and_bird_do_not_notice() -> Result<()> {
    let protected = Protected::switched()?;
    let (first, second) = peerings(&protected);
    let a = Frr::start(&protected.network.r1.namespace, &first)?;
    let b = Bird::start(&protected.network.r2.namespace, &second)?;
    rolled_unnoticed(&protected, [&a, &b], [&|| a.silence(), &|| b.silence()])
}

#[test]
fn around_a_wrap_of_the_sequence_number() -> Result<()> {
    let protected = Protected::switched()?;
    let (client, server) = protected.ends();
    let ends = Ends::of(&protected);
    // Where the first segment with the new key begins, seen from the wrap.
    for (old, start) in (0..).zip([-100, -50, -1, 0, 1, 100]) {
        const BEFORE: u32 = 5000;
        let isn = 0_u32.wrapping_sub(BEFORE);
        let (near, far) =
            transfer::pair(&client, &server, &Options { isn: Some(isn), ..Options::default() })?;
        // The SYN has a sequence number too.
        let octets = BEFORE as i32 - 1 + start;
        carry(&near, &far, octets as usize - 50)?;
        let new = old + 1;
        for end in &ends.0 {
            let password = format!("password {new}");
            end.agent.add_key(
                &end.peer,
                &password,
                &[&format!("--number={new}"), &format!("--key-id={}", 100 + new)],
            )?;
        }
        for end in &ends.0 {
            end.agent.roll_key(&end.peer)?;
        }
        let sniffer = protected.network.sniff()?;
        // This asks the server for its new key, whose acknowledgment asks for ours.
        carry(&near, &far, 50)?;
        ends.0[0].agent.wait_until_rolled(&ends.0[0].peer, 1, SOON)?;
        carry(&near, &far, 75)?;
        let first = sniffer.segments().into_iter().find(|segment| {
            segment.source.ip() == client.address.ip()
                && key_id(segment) == Some(100 + new as u8)
                && !segment.data.is_empty()
        });
        let began = first.context("no data with the new key")?.seq as i32;
        ensure!(began == start, "the first segment with the new key begins at {began}, not {start}");
        carry(&far, &near, 75)?;
        transfer::exchange(near, far, 1 << 20).with_context(|| format!("at {start}"))?;
        for end in &ends.0 {
            end.agent.retire_key(&end.peer, old)?;
        }
    }
    ends.nothing_dropped_for(&NEVER)
}

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
    // Longer than the hold time of three seconds.
    steadily(Duration::from_secs(4), "the session stays up", || {
        Ok((a.incarnation()?, b.incarnation()?) == incarnations
            && a.is_established()?
            && b.is_established()?)
    })?;
    // A third key finds the session still as it should.
    rolled(&ends, 1, "a third", 3, || Ok(()))?;
    ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
    ends.nothing_dropped_for(&NEVER)
}

/// Rolls with either router first, ten seconds apart, with a hold time of nine seconds that no one notices.
fn rolled_unnoticed(
    protected: &Protected,
    [a, b]: [&dyn Speaker; 2],
    silences: [&dyn Fn() -> Result<Duration>; 2],
) -> Result<()> {
    bgp::wait_for_routes(a, b, 10, 10)?;
    let incarnations = (a.incarnation()?, b.incarnation()?);
    let ends = Ends::of(protected);
    for (old, order) in (0..).zip([ends.first_is(1), ends.first_is(2)]) {
        let new = old + 1;
        for end in order {
            let options = [format!("--number={new}"), format!("--key-id={}", new + 1)];
            end.agent.add_key(&end.peer, &format!("password {new}"), &[&options[0], &options[1]])?;
        }
        for end in order {
            end.agent.roll_key(&end.peer)?;
            // A keepalive comes every three seconds, and the clock of BIRD's hold timer is not exact: none is missing.
            steadily(Duration::from_secs(10), "keepalives arrive", || {
                let silences = [silences[0]()?, silences[1]()?];
                ensure!(
                    silences.iter().all(|silence| silence.as_millis() < 5500),
                    "{silences:?} without one"
                );
                Ok(a.is_established()? && b.is_established()?)
            })?;
        }
        for end in order {
            end.agent.wait_until_rolled(&end.peer, 1, Duration::ZERO)?;
            end.agent.retire_key(&end.peer, old)?;
        }
    }
    ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
    ends.nothing_dropped_for(&NEVER)
}

/// Peerings with a hold time of nine seconds.
fn peerings(protected: &Protected) -> (Peering, Peering) {
    let (first, second) = Peering::pair(&protected.network.r1, &protected.network.r2);
    (Peering { keepalive: 3, ..first }, Peering { keepalive: 3, ..second })
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

/// Both routers.
struct Ends<'a>([Endpoint<'a>; 2]);

/// A router, as its operator sees it.
#[derive(Clone)]
struct Endpoint<'a> {
    agent: &'a Agent,
    /// The other router, as this one has it configured.
    peer: String,
    is_first: bool,
}

impl<'a> Ends<'a> {
    fn of(protected: &'a Protected) -> Self {
        Self([
            Endpoint { agent: &protected.agent1, peer: protected.peer2(), is_first: true },
            Endpoint { agent: &protected.agent2, peer: protected.peer1(), is_first: false },
        ])
    }

    /// Both, `r1` or `r2` first.
    fn first_is(&self, number: u8) -> [&Endpoint<'a>; 2] {
        let Self([a, b]) = self;
        if number == 1 { [a, b] } else { [b, a] }
    }

    fn nothing_dropped_for(&self, reasons: &[&str]) -> Result<()> {
        for Endpoint { agent, peer, .. } in &self.0 {
            let neighbor = agent.neighbor(peer)?;
            let dropped = &neighbor["counters"]["dropped"];
            for reason in reasons {
                ensure!(dropped.get(reason).is_none(), "segments of {peer} dropped: {dropped}");
            }
        }
        Ok(())
    }
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
        (self.connection, self.isns) = observed(&self.protected)?;
        self.spoken.set(1);
        Ok(())
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
        let forged = independent::sign(&segment, key_id, password, isns)?;
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

/// Connections from `r1` to `r2`, made side by side as each may wait for a SYN that is lost.
fn connections(protected: &Protected, number: u64) -> Result<Vec<(TcpStream, TcpStream)>> {
    let (client, server) = protected.ends();
    let listener = transfer::listen(&server, client.address.ip(), &Options::default())?;
    let near: Vec<_> = (0..number)
        .map(|_| {
            let (client, address) = (client.clone(), server.address);
            thread::spawn(move || transfer::connect(&client, address, &Options::default()))
        })
        .collect();
    let far = (0..number).map(|_| transfer::accept(&listener)).collect::<Result<Vec<_>>>()?;
    let mut far: HashMap<_, _> =
        far.into_iter().map(|far| Ok((far.peer_addr()?, far))).collect::<Result<_>>()?;
    near.into_iter()
        .map(|near| {
            let near = near.join().map_err(|_| anyhow!("a client panicked"))??;
            let far = far.remove(&near.local_addr()?).context("another connection was accepted")?;
            Ok((near, far))
        })
        .collect()
}

/// Sends octets one way and waits until they have arrived, and are acknowledged.
fn carry(mut from: &TcpStream, mut to: &TcpStream, octets: usize) -> Result<()> {
    let data: Vec<u8> = (0..octets).map(|at| at as u8).collect();
    from.write_all(&data)?;
    let mut arrived = vec![0; octets];
    to.read_exact(&mut arrived)?;
    ensure!(arrived == data, "other data arrived");
    // Longer than the receiver delays an acknowledgment.
    thread::sleep(Duration::from_millis(250));
    Ok(())
}

/// KeyID of a segment.
fn key_id(segment: &Segment) -> Option<u8> {
    segment.tcp_ao().map(|(key_id, _)| key_id)
}

fn treated(protected: &Protected) -> Result<Treated> {
    let middle = protected.network.middle.as_ref();
    Ok(middle.and_then(|middle| middle.forwarder.as_ref()).context("no forwarder")?.treated())
}
