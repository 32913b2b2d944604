//! Keys change by command while sessions carry data: nothing is lost, no session notices.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;
use tcpauth_tests::{
    bgp::{self, Bird, Frr, Peering, Speaker},
    frame::Segment,
    impair::{Impairment, Treated},
    keys::{Ends, NEVER},
    network::{Network, Wire},
    scenario::Protected,
    streams::Streams,
    transfer::{self, Options},
    wait::{eventually, steadily},
};

/// How long sessions that carry data may take to follow both routers.
const SOON: Duration = Duration::from_secs(10);

/// Every algorithm of TCP-AO, those with MACs of different lengths next to each other.
const ALGORITHMS: [&str; 5] =
    ["aes-128-cmac-96", "hmac-sha-256-128", "siphash-2-4-96", "hmac-sha-256-96", "hmac-sha-1-96"];

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
