//! Channels between daemons where something is in the way: answers that are late, keys that end by schedule, other users
//! of the routers, interfaces that are renamed or in a VRF.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use tcpauth_tests::{
    agent::Agent,
    frame::Segment,
    impair::Impairment,
    kmp::{self, CHANNEL_PORT, Mode},
    network::{INTERFACE, Network, Wire},
    scenario::{PASSWORD, Protected, neighbor},
    transfer::{self, Options},
    wait::eventually,
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

/// The end that waits for the peer to connect has its link in a VRF.
#[test]
fn a_channel_comes_up_in_a_vrf() -> Result<()> {
    let network = Network::switched()?;
    let r2 = &network.r2.namespace;
    if r2.ip(&["link", "add", "red", "type", "vrf", "table", "10"]).is_err() {
        println!("NOT RUN: this kernel has no VRF");
        return Ok(());
    }
    r2.ip(&["link", "set", "red", "up"])?;
    r2.ip(&["link", "set", INTERFACE, "master", "red"])?;
    let fields = Mode::External.fields("");
    let bound = format!("{}%{INTERFACE}", network.r1.v4);
    let configs = [network.r2.v4.to_string(), bound.clone()].map(|peer| neighbor(&peer, PASSWORD, &fields));
    let protected = Protected::with(network, &configs[0], &configs[1])?;
    kmp::wait_for_channel(&protected.agent1, &protected.peer2())?;
    kmp::wait_for_channel(&protected.agent2, &bound)
}

fn is_said_on_channel(segment: &Segment) -> bool {
    kmp::is_of_channel(segment) && !segment.data.is_empty()
}

fn is_from_r2(segment: &Segment) -> bool {
    segment.source.ip().to_string().ends_with(".2")
}

fn channel_age(agent: &Agent, peer: &str) -> Result<u64> {
    let channel = agent.kmp(peer)?["channel"].clone();
    let text = channel["text"].as_str().with_context(|| format!("no text: {channel}"))?;
    let seconds = text.strip_prefix("up for ").and_then(|text| text.split(' ').next());
    seconds.and_then(|seconds| seconds.parse().ok()).with_context(|| format!("not up: {text}"))
}
