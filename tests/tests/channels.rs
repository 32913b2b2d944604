//! Channels between daemons where something is in the way: answers that are late, keys that end by schedule, other users
//! of the routers, interfaces that are renamed.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use tcpauth_tests::{
    agent::Agent,
    frame::Segment,
    impair::{Forwarder, Impairment},
    kmp::{self, CHANNEL_PORT, Mode},
    network::{INTERFACE, Network, Wire},
    scenario::{PASSWORD, Protected, end, end_at, neighbor},
    transfer::{self, Options},
    wait::{eventually, slowness},
};

/// How long a SYN waits for its keys, and half a second more.
const TOO_LATE: Duration = Duration::from_millis(2500);

/// The client falls back although the server has agreed: both have the keys of the password then.
#[test]
fn an_answer_that_is_late_is_withdrawn_at_both_ends() -> Result<()> {
    falls_back_late(|protected, from_r2| {
        let forwarder = kmp::forwarder(protected)?;
        forwarder.keep_back(move |segment| is_said_on_channel(segment) && from_r2(segment));
        Ok(())
    })
}

/// The server has answered the client that fell back, and then reads the offer.
#[test]
fn an_offer_that_is_late_does_not_end_the_connection() -> Result<()> {
    falls_back_late(|protected, from_r2| {
        let forwarder = kmp::forwarder(protected)?;
        let r2 = protected.network.r2.v4;
        forwarder.keep_back(move |segment| is_said_on_channel(segment) && !from_r2(segment));
        forwarder.filter(move |segment| kmp::is_of_bgp(segment) && segment.source.ip() == r2);
        Ok(())
    })
}

fn falls_back_late(impede: impl Fn(&Protected, fn(&Segment) -> bool) -> Result<()>) -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let protected = kmp::agreeing(network, Mode::External, "fallback = \"implicit\"")?;
    let (client, server) = protected.ends();
    let options = Options { connect_limit: Some(Duration::from_secs(5)), ..Options::default() };
    let listener = transfer::listen(&server, client.address.ip(), &options)?;
    impede(&protected, is_from_r2)?;
    let near = thread::scope(|scope| {
        let connecting = scope.spawn(|| transfer::connect(&client, server.address, &options));
        thread::sleep(TOO_LATE);
        kmp::forwarder(&protected)?.release();
        thread::sleep(Duration::from_millis(400));
        kmp::forwarder(&protected)?.filter(|_| false);
        connecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let far = transfer::accept(&listener)?;
    transfer::ping(&near, &far)?;
    let Protected { agent1, agent2, .. } = &protected;
    for (agent, peer) in [(agent1, protected.peer2()), (agent2, protected.peer1())] {
        // Soon after, the session gets agreed keys by a refresh.
        eventually(Duration::from_secs(5), "the fallback to be told", || {
            Ok(agent.log().contains("has keys derived from the password").then_some(()))
        })?;
        let dropped = agent.dropped(&peer, "unknown-key-id")? + agent.dropped(&peer, "no-session")?;
        ensure!(dropped == 0, "{}", agent.neighbor(&peer)?["counters"]["dropped"]);
    }
    transfer::exchange(near, far, 1 << 20)?;
    drop(listener);
    // The next one has agreed keys again.
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let local = near.local_addr()?.to_string();
    let sessions = agent1.sessions()?;
    let session = sessions.iter().find(|session| session["local"] == local.as_str());
    ensure!(session.context("no session")?["keys"] == "agreed", "{session:?}");
    Ok(())
}

/// Whoever has the old secret is out of the channel, also where no session asks for new keys.
#[test]
fn a_key_that_rolls_by_schedule_ends_an_idle_channel() -> Result<()> {
    const ROLL: i64 = 12;
    let network = Network::switched()?;
    let config = |peer: &str, keys: &str| {
        let fields = Mode::External.fields("");
        format!("[key-chain.backbone]\n{keys}\n[neighbor.\"{peer}\"]\nkey-chain = \"backbone\"\n{fields}\n")
    };
    let peers = [network.r2.v4.to_string(), network.r1.v4.to_string()];
    let only = "key.1.password = \"first\"";
    let protected = Protected::with(network, &config(&peers[0], only), &config(&peers[1], only))?;
    let begin = Timestamp::now();
    let at = |seconds| begin + SignedDuration::from_secs(seconds);
    let keys = format!(
        "key.1 = {{ password = \"first\", send-lifetime = \"{start}/{roll}\", accept-lifetime = \"{start}/{end}\" }}\n\
         key.2 = {{ password = \"second\", send-lifetime = \"{roll}/\" }}\n",
        start = at(-60),
        roll = at(ROLL),
        end = at(ROLL + 10),
    );
    let ends = [(&protected.agent1, protected.peer2()), (&protected.agent2, protected.peer1())];
    for (agent, peer) in &ends {
        agent.configure(&config(peer, &keys))?;
        agent.tcpauth(&["reload"])?;
    }
    for (agent, peer) in &ends {
        kmp::wait_for_channel(agent, peer)?;
    }
    for (agent, peer) in &ends {
        eventually(Duration::from_secs(ROLL as u64 + 10), "another channel", || {
            let now = Timestamp::now().duration_since(begin).as_secs_f64();
            let age = channel_age(agent, peer)? as f64;
            ensure!(now - age > ROLL as f64 - 1.0, "{now} s after the beginning it is up for {age} s");
            Ok(Some(()))
        })?;
    }
    // Until the old key has ended, and a while after.
    let left = at(ROLL + 13).duration_since(Timestamp::now());
    thread::sleep(Duration::try_from(left).unwrap_or_default());
    for (agent, peer) in &ends {
        kmp::wait_for_channel(agent, peer)?;
    }
    Ok(())
}

/// To the peer they are two neighbors, each with a channel of its own.
#[test]
fn each_of_two_own_addresses_has_a_channel() -> Result<()> {
    const STABLE: u64 = 8;
    let network = Network::switched()?;
    let second: Ipv4Addr = "192.0.2.101".parse()?;
    network.r1.namespace.ip(&["address", "add", &format!("{second}/24"), "dev", INTERFACE])?;
    let own = [network.r1.v4, second].map(|address| address.to_string());
    let fields = Mode::External.fields("");
    let configs = [
        neighbor(&network.r2.v4.to_string(), PASSWORD, &fields),
        own.iter().map(|address| neighbor(address, PASSWORD, &fields)).collect(),
    ];
    let protected = Protected::with(network, &configs[0], &configs[1])?;
    let Protected { agent1, agent2, network } = &protected;
    let server = end(&network.r2, 179);
    let mut pairs = Vec::new();
    for _ in 0..2 {
        for address in &own {
            let client = end_at(&network.r1.namespace, format!("{address}:0").parse()?);
            pairs.push(transfer::pair(&client, &server, &Options::default())?);
        }
    }
    pairs.iter().try_for_each(|(near, far)| transfer::ping(near, far))?;
    ensure!(agent1.sessions()?.iter().filter(is_of_bgp).all(|session| session["keys"] == "agreed"));
    // Neither takes the place of the other.
    eventually(Duration::from_secs(40), "both channels to stay up", || {
        for address in &own {
            let age = channel_age(agent2, address)?;
            ensure!(age >= STABLE, "the channel with {address} is up for {age} s");
        }
        Ok(Some(()))
    })?;
    agent1.tcpauth(&["key", "refresh"])?;
    eventually(Duration::from_secs(20), "all sessions to have new keys", || {
        pairs.iter().try_for_each(|(near, far)| transfer::ping(near, far))?;
        let sessions = agent1.sessions()?;
        let ages = sessions.iter().filter(is_of_bgp).map(|session| session["keys_age_seconds"].as_u64());
        let oldest = ages.max().flatten().context("no session")?;
        ensure!(oldest < STABLE, "the oldest keys are {oldest} s old");
        Ok(Some(()))
    })
}

/// The handshake began under the old key, and ends after another one is preferred.
#[test]
fn a_key_that_rolls_during_a_handshake_is_that_of_the_next_channel() -> Result<()> {
    rolls_while_a_channel_is_opened(|forwarder| {
        forwarder.keep_back(|segment| is_said_on_channel(segment) && is_from_r2(segment));
    })
}

/// The SYN left under the old key, and is answered after another one is preferred.
#[test]
fn a_key_that_rolls_while_a_channel_connects_is_that_of_the_next_one() -> Result<()> {
    rolls_while_a_channel_is_opened(|forwarder| {
        forwarder.filter(|segment| kmp::is_of_channel(segment) && is_from_r2(segment));
    })
}

fn rolls_while_a_channel_is_opened(impede: impl Fn(&Forwarder)) -> Result<()> {
    // Both channels are to be up before: where instructions are emulated, a daemon takes many seconds to start.
    let until_roll = SignedDuration::from_secs(17 + 3 * i64::from(slowness()));
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let begin = Timestamp::now();
    let roll = begin + until_roll;
    let sleep_until = |moment: Timestamp| {
        thread::sleep(Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default());
    };
    // The old key is accepted for long: nothing but the roll ends a channel.
    let keys = format!(
        "key.1 = {{ password = \"first\", send-lifetime = \"/{roll}\" }}\n\
         key.2 = {{ password = \"second\", send-lifetime = \"{roll}/\" }}\n"
    );
    let config = |peer: &str| {
        let fields = Mode::External.fields("");
        format!("[key-chain.backbone]\n{keys}\n[neighbor.\"{peer}\"]\nkey-chain = \"backbone\"\n{fields}\n")
    };
    let configs = [network.r2.v4, network.r1.v4].map(|peer| config(&peer.to_string()));
    let protected = Protected::with(network, &configs[0], &configs[1])?;
    let ends = [(&protected.agent1, protected.peer2()), (&protected.agent2, protected.peer1())];
    for (agent, peer) in &ends {
        kmp::wait_for_channel(agent, peer)?;
        ensure!(agent.kmp(peer)?["channel"]["key"] == 1, "{}", agent.kmp(peer)?);
    }
    sleep_until(roll - SignedDuration::from_secs(4));
    let forwarder = kmp::forwarder(&protected)?;
    impede(forwarder);
    kmp::close_channels(&protected.network.r1.namespace)?;
    sleep_until(roll + SignedDuration::from_secs(1));
    forwarder.filter(|_| false);
    forwarder.release();
    for (agent, peer) in &ends {
        eventually(Duration::from_secs(15), "a channel by the new key", || {
            let channel = agent.kmp(peer)?["channel"].clone();
            ensure!(channel["key"] == 2, "{channel}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// They have no password, and need none: their segments are signed as all of their host.
#[test]
fn other_users_of_the_peer_do_not_keep_its_daemon_out() -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, Mode::External, "")?;
    let Protected { agent1, agent2, network } = &protected;
    let target = SocketAddr::new(network.r2.v4.into(), CHANNEL_PORT);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            network.r1.namespace.enter(|| {
                let mut silent = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    silent.extend(TcpStream::connect_timeout(&target, Duration::from_secs(1)));
                    thread::sleep(Duration::from_millis(50));
                }
                Ok(silent.len())
            })
        });
        let watch = || -> Result<()> {
            eventually(Duration::from_secs(10), "handshakes to make room", || {
                let kmp = agent2.kmp(&protected.peer1())?;
                Ok(kmp["crowded_out_handshakes"].as_u64().filter(|count| *count > 0))
            })?;
            kmp::close_channels(&network.r1.namespace)?;
            thread::sleep(Duration::from_secs(1));
            for (agent, peer) in [(agent1, protected.peer2()), (agent2, protected.peer1())] {
                kmp::wait_for_channel(agent, &peer)?;
            }
            let shown = agent2.tcpauth(&["neighbor", "show", &protected.peer1()])?;
            ensure!(shown.contains("made room"), "{shown}");
            let warnings = agent2.log().matches("makes room for the newest").count();
            ensure!(warnings == 1, "{warnings} warnings");
            let (client, server) = protected.ends();
            transfer::exchange_many(&client, &server, 3, 1, 10_000)
        };
        let watched = watch();
        is_over.store(true, Ordering::Relaxed);
        let connections = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        println!("{connections} silent connections");
        watched
    })
}

/// Sessions of a neighbor that is bound to it go on, and so do its channels.
#[test]
fn an_interface_that_is_renamed_keeps_its_channel() -> Result<()> {
    let network = Network::switched()?;
    let fields = Mode::External.fields("");
    let bound = format!("{}%{INTERFACE}", network.r2.v4);
    let configs = [bound.clone(), network.r1.v4.to_string()].map(|peer| neighbor(&peer, PASSWORD, &fields));
    let protected = Protected::with(network, &configs[0], &configs[1])?;
    let r1 = &protected.network.r1.namespace;
    kmp::wait_for_channel(&protected.agent1, &bound)?;
    r1.ip(&["link", "set", INTERFACE, "down"])?;
    r1.ip(&["link", "set", INTERFACE, "name", "uplink0"])?;
    r1.ip(&["link", "set", "uplink0", "up"])?;
    kmp::close_channels(r1)?;
    thread::sleep(Duration::from_secs(1));
    kmp::wait_for_channel(&protected.agent1, &bound)?;
    kmp::wait_for_channel(&protected.agent2, &protected.peer1())?;
    let (client, server) = protected.ends();
    transfer::exchange_many(&client, &server, 1, 1, 10_000)
}

fn is_said_on_channel(segment: &Segment) -> bool {
    kmp::is_of_channel(segment) && !segment.data.is_empty()
}

fn is_from_r2(segment: &Segment) -> bool {
    segment.source.ip().to_string().ends_with(".2")
}

fn is_of_bgp(session: &&serde_json::Value) -> bool {
    session["peer"].as_str().is_some_and(|peer| peer.ends_with(":179"))
}

fn channel_age(agent: &Agent, peer: &str) -> Result<u64> {
    let channel = agent.kmp(peer)?["channel"].clone();
    let text = channel["text"].as_str().with_context(|| format!("no text: {channel}"))?;
    let seconds = text.strip_prefix("up for ").and_then(|text| text.split(' ').next());
    seconds.and_then(|seconds| seconds.parse().ok()).with_context(|| format!("not up: {text}"))
}
