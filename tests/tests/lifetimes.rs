//! Keys that follow on each other by the clock.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Speaker},
    clock::Clock,
    frame::flags,
    network::{INTERFACE, Network},
    scenario::{Protected, wait_attached},
    wait::{eventually, steadily},
};

const DAY: i64 = 86_400;

#[test]
fn lifetimes_that_overlap_lose_nothing() -> Result<()> {
    let protected = follows_every_key(5, |begin, start, end| {
        (period(begin, start, end), period(begin, start - 2, end + 2))
    })?;
    for (agent, peer) in ends(&protected) {
        let neighbor = agent.neighbor(&peer)?;
        let dropped = &neighbor["counters"]["dropped"];
        for reason in ["wrong-mac", "unknown-key-id", "wrong-length", "old-key", "no-key"] {
            ensure!(dropped.get(reason).is_none(), "segments dropped: {dropped}");
        }
    }
    Ok(())
}

/// Each daemon looks at the clock by itself, so what is sent meanwhile is refused, and comes again.
#[test]
fn lifetimes_that_only_touch_keep_the_session() -> Result<()> {
    follows_every_key(4, |begin, start, end| (period(begin, start, end), period(begin, start, end)))?;
    Ok(())
}

#[test]
fn without_a_valid_key_the_neighbor_is_closed_until_there_is_one() -> Result<()> {
    let network = Network::switched()?;
    let always = |peer: &str| chain(peer, &[key(1, "always", "always")]);
    let (peer1, peer2) = (network.r1.v4.to_string(), network.r2.v4.to_string());
    let protected = Protected::with(network, &always(&peer2), &always(&peer1))?;
    let Protected { agent1, agent2, network } = &protected;
    let events = agent1.events()?;
    let (a, b) = bgp::birds(network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;

    // The same key, which now ends: that is said before.
    let begin = now();
    let until = period(begin, -60, 8);
    let ending = |peer: &str| chain(peer, &[key(1, &until, &until)]);
    let reload = |config1: String, config2: String| -> Result<()> {
        for (agent, config) in [(agent1, config1), (agent2, config2)] {
            agent.configure(&config)?;
            agent.tcpauth(&["reload"])?;
        }
        Ok(())
    };
    reload(ending(&peer2), ending(&peer1))?;
    eventually(Duration::from_secs(3), "the warning", || {
        ensure!(events.log().contains("\"ending\""), "not in events: {}", events.log());
        let end = until.split_once('/').map(|(_, end)| end.to_owned()).unwrap_or_default();
        ensure!(
            agent1.log().lines().any(|line| line.contains("WARN") && line.contains(&end)),
            "not in the log"
        );
        let neighbor = agent1.neighbor(&peer2)?;
        ensure!(neighbor["state"] == "established" && neighbor.to_string().contains(&end), "{neighbor}");
        ensure!(agent1.tcpauth(&["status"])?.contains(&end), "not in what status shows");
        Ok(Some(()))
    })?;
    ensure!(a.is_established()? && b.is_established()?, "it is closed before the end");

    let left = Duration::try_from(begin + SignedDuration::from_secs(8) - Timestamp::now())?;
    thread::sleep(left);
    eventually(Duration::from_secs(3), "the neighbor to be closed", || {
        let neighbor = agent1.neighbor(&peer2)?;
        ensure!(neighbor["state"] == "closed", "{neighbor}");
        ensure!(neighbor["reason"].as_str().is_some_and(|reason| reason.contains("key")), "{neighbor}");
        ensure!(events.log().contains("\"closed\""), "not in events: {}", events.log());
        ensure!(agent1.log().contains("closed"), "not in the log");
        Ok(Some(()))
    })?;
    let sniffer = network.sniff()?;
    eventually(Duration::from_secs(15), "the sessions to end, and segments to be dropped", || {
        ensure!(!a.is_established()? && !b.is_established()?, "still up");
        let dropped = (agent1.dropped(&peer2, "no-key")?, agent2.dropped(&peer1, "no-key")?);
        ensure!(dropped.0 > 0 || dropped.1 > 0, "{dropped:?} were");
        Ok(Some(()))
    })?;
    steadily(Duration::from_secs(5), "the session stays down", || {
        Ok(!a.is_established()? && !b.is_established()?)
    })?;
    // Neither a SYN that nobody signs, nor an answer.
    let carried = sniffer.segments().into_iter().find(|segment| segment.flags & flags::SYN != 0);
    ensure!(carried.is_none(), "a SYN left a closed neighbor: {carried:?}");
    let naked = sniffer.segments().into_iter().find(|segment| segment.tcp_ao().is_none());
    ensure!(naked.is_none(), "a segment without the option: {naked:?}");

    let next = |peer: &str| chain(peer, &[key(1, &until, &until), key(2, "always", "always")]);
    reload(next(&peer2), next(&peer1))?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    ensure!(agent1.neighbor(&peer2)?["state"] == "established", "{}", agent1.neighbor(&peer2)?);
    ensure!(events.log().contains("\"open\""), "not in events: {}", events.log());
    Ok(())
}

#[test]
fn a_clock_that_jumps_a_day_each_way() -> Result<()> {
    let network = Network::switched()?;
    let (peer1, peer2) = (network.r1.v4.to_string(), network.r2.v4.to_string());
    let begin = now();
    // The last begins a little after a day from now: an hour that comes after the jumps.
    let later = 40;
    let sent = [
        format!("/{}", at(begin, DAY / 2)),
        period(begin, DAY / 2, DAY + later),
        format!("{}/", at(begin, DAY + later)),
    ];
    let keys: Vec<_> = (1..).zip(&sent).map(|(number, sent)| key(number, sent, "always")).collect();
    let clock = Clock::new()?;
    let agent1 = Agent::start_in(&network.r1.namespace, &chain(&peer2, &keys), clock.environment()?)?;
    // The true clock: this one sends with what it is asked for.
    let keys: Vec<_> = (1..=3).map(|number| key(number, "always", "always")).collect();
    let agent2 = Agent::start(&network.r2.namespace, &chain(&peer1, &keys))?;
    for agent in [&agent1, &agent2] {
        wait_attached(agent, INTERFACE)?;
    }
    let (a, b) = bgp::birds(&network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let incarnations = (a.incarnation()?, b.incarnation()?);
    let uses = |number: u32, limit: u64| {
        let start = Instant::now();
        eventually(Duration::from_secs(limit), &format!("key {number} in both directions"), || {
            for (agent, peer) in [(&agent1, &peer2), (&agent2, &peer1)] {
                let key = agent.key(peer, number)?;
                ensure!(key["sending_sessions"] == 1 && key["receiving_sessions"] == 1, "{key}");
            }
            Ok(Some(()))
        })?;
        println!("key {number} after {:.1?}", start.elapsed());
        ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
        Ok(())
    };
    uses(1, 3)?;
    clock.set(DAY)?;
    uses(2, 5)?;
    clock.set(-DAY)?;
    uses(1, 5)?;
    clock.set(DAY)?;
    uses(2, 5)?;
    let elapsed = Timestamp::now() - begin;
    ensure!(elapsed.total(jiff::Unit::Second)? < later as f64, "the test is too slow to see the change");
    uses(3, later as u64 + 3)?;
    ensure!(Timestamp::now() >= begin + SignedDuration::from_secs(later), "key 3 was used before its time");
    clock.set(0)?;
    uses(1, 5)?;
    // Longer than the hold time.
    thread::sleep(bgp::hold_time() + Duration::from_secs(1));
    uses(1, 1)
}

/// BIRD at both ends uses one key after the other, in both directions, until the last. `lifetimes` gives those of a key
/// that is to be sent with from one second after `begin` until another.
fn follows_every_key(
    last: i64,
    lifetimes: impl Fn(Timestamp, i64, i64) -> (String, String),
) -> Result<Protected> {
    /// Seconds for each key.
    const EACH: i64 = 4;
    let network = Network::switched()?;
    let (peer1, peer2) = (network.r1.v4.to_string(), network.r2.v4.to_string());
    let first = [key(1, "always", "always")];
    let protected = Protected::with(network, &chain(&peer2, &first), &chain(&peer1, &first))?;
    let (a, b) = bgp::birds(&protected.network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let incarnations = (a.incarnation()?, b.incarnation()?);
    let begin = now();
    let keys: Vec<_> = (1..=last)
        .map(|number| {
            let start = if number == 1 { -60 } else { EACH * (number - 1) };
            let end = if number == last { 3600 } else { EACH * number };
            let (send, accept) = lifetimes(begin, start, end);
            key(number, &send, &accept)
        })
        .collect();
    for (agent, peer) in ends(&protected) {
        agent.configure(&chain(&peer, &keys))?;
        agent.tcpauth(&["reload"])?;
    }
    let mut seen = [Vec::new(), Vec::new()];
    let limit = Duration::from_secs((EACH * last) as u64);
    eventually(limit, "the last key in both directions", || {
        for ((agent, peer), seen) in ends(&protected).into_iter().zip(&mut seen) {
            let shown = agent.keys(&peer)?;
            let both = |key: &&Value| key["sending_sessions"] == 1 && key["receiving_sessions"] == 1;
            let used = shown["keys"].as_array().context("no keys")?.iter().find(both);
            if let Some(number) = used.and_then(|key| key["number"].as_i64())
                && seen.last() != Some(&number)
            {
                seen.push(number);
            }
        }
        ensure!(seen.iter().all(|seen| seen.last() == Some(&last)), "the keys were {seen:?}");
        Ok(Some(()))
    })?;
    let all: Vec<i64> = (1..=last).collect();
    ensure!(seen.iter().all(|seen| *seen == all), "the keys were {seen:?}");
    // Longer than the hold time.
    thread::sleep(bgp::hold_time() + Duration::from_secs(1));
    ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
    ensure!(a.is_established()? && b.is_established()?, "the session is down");
    Ok(protected)
}

fn ends(protected: &Protected) -> [(&Agent, String); 2] {
    [(&protected.agent1, protected.peer2()), (&protected.agent2, protected.peer1())]
}

/// A configuration with a key chain and one neighbour.
fn chain(peer: &str, keys: &[String]) -> String {
    format!("[key-chain.backbone]\n{}\n[neighbor.\"{peer}\"]\nkey-chain = \"backbone\"\n", keys.join("\n"))
}

fn key(number: i64, send: &str, accept: &str) -> String {
    format!(
        "key.{number} = {{ password = \"password {number}\", send-lifetime = \"{send}\", accept-lifetime = \"{accept}\" }}"
    )
}

/// This second.
fn now() -> Timestamp {
    let now = Timestamp::now();
    now - SignedDuration::from_nanos(now.subsec_nanosecond().into())
}

/// A time some seconds from `begin`.
fn at(begin: Timestamp, seconds: i64) -> Timestamp {
    begin + SignedDuration::from_secs(seconds)
}

/// A lifetime, both ends in seconds from `begin`.
fn period(begin: Timestamp, start: i64, end: i64) -> String {
    format!("{}/{}", at(begin, start), at(begin, end))
}
