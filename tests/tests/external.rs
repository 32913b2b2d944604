//! `key-management = "external"`: keys come over a channel beside the connection.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    bgp::{self, Bird, Frr, GoBgp, Peering, Speaker},
    frame::{Segment, flags, tcp_ao_option},
    impair::Impairment,
    keys::{Ends, NEVER},
    kmp::{self, CHANNEL_PORT, Holdings, Mode, Wiretap},
    network::{Network, Router, Wire},
    on_connect,
    scenario::{Protected, end_at},
    transfer::{self, Options},
    wait::{eventually, steadily},
    wire::{self, Sniffer},
};

/// How long a connection may take for which keys have to be agreed on first.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn bird_and_bird() -> Result<()> {
    over_both_families(|network, a, b| {
        let [first, second] = peerings(a, b);
        let a = Bird::start(&network.r1.namespace, &first)?;
        let b = Bird::start(&network.r2.namespace, &second)?;
        bgp::wait_for_routes(&a, &b, 10, 10)
    })
}

#[test]
fn frr_and_bird() -> Result<()> {
    over_both_families(|network, a, b| {
        let [first, second] = peerings(a, b);
        let a = Frr::start(&network.r1.namespace, &first.with_routes(1000))?;
        let b = Bird::start(&network.r2.namespace, &without_link_local(second))?;
        bgp::wait_for_routes(&a, &b, 10, 1000)
    })
}

#[test]
fn gobgp_and_bird() -> Result<()> {
    over_both_families(|network, a, b| {
        let [first, second] = peerings(a, b);
        let a = GoBgp::start(&network.r1.namespace, &first)?;
        let b = Bird::start(&network.r2.namespace, &second.with_routes(1000))?;
        bgp::wait_for_routes(&a, &b, 1000, 10)
    })
}

#[test]
fn both_ends_send_at_once() -> Result<()> {
    on_connect::two_hundred(Mode::External)
}

/// Of the channel's segments, too. `cargo xtask soak --case external` makes two hundred.
#[test]
fn both_ends_send_at_once_over_a_wire_that_loses() -> Result<()> {
    on_connect::over_a_wire_that_loses(Mode::External)
}

/// Both ends send a SYN before they have seen the other's.
#[test]
fn both_ends_open_the_same_connection_at_once() -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let protected = kmp::agreeing(network, Mode::External, "")?;
    kmp::forwarder(&protected)?.keep_back(|segment| kmp::is_of_bgp(segment) && segment.flags == flags::SYN);
    let (first, second) = protected.ends();
    let (mut first, second) = (first, second);
    first.address.set_port(40_000);
    let options = Options { connect_limit: Some(Duration::from_secs(20)), ..Options::default() };
    thread::scope(|scope| {
        let from_first = scope.spawn(|| transfer::connect(&first, second.address, &options));
        let from_second = scope.spawn(|| transfer::connect(&second, first.address, &options));
        eventually(SOON, "both SYNs to be on the wire", || {
            Ok((kmp::forwarder(&protected)?.kept() >= 2).then_some(()))
        })?;
        kmp::forwarder(&protected)?.release();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<TcpStream>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let (near, far) = (join(from_first)?, join(from_second)?);
        transfer::exchange(near, far, 1 << 20)?;
        Ok(())
    })
}

/// The channel's own segments are sealed, so it goes on.
#[test]
fn a_stranger_does_not_reset_the_channel() -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, Mode::External, "")?;
    let Protected { agent1, agent2, network } = &protected;
    let sniffer = network.sniff()?;
    // Something to see of the channel: a connection needs keys.
    let (client, server) = protected.ends();
    let pair = transfer::pair(&client, &server, &Options::default())?;
    let before = channel_ends(network)?;
    ensure!(!before.is_empty(), "there is no channel");
    let seen = sniffer.segments();
    for (from, to, agent, peer) in [
        (&network.r1, &network.r2, agent2, protected.peer1()),
        (&network.r2, &network.r1, agent1, protected.peer2()),
    ] {
        let is_it = |segment: &&Segment| {
            kmp::is_of_channel(segment) && segment.source.ip() == from.v4 && segment.destination.ip() == to.v4
        };
        let last = seen.iter().rev().find(is_it).context("nothing of the channel was seen")?;
        let dropped = agent.dropped_in_all(&peer)?;
        let forged = |flags, options: Vec<u8>| Segment { options, ..wire::forge(last, flags, b"") };
        for options in [Vec::new(), tcp_ao_option(1, 0x5a)] {
            let syn = Segment { seq: 12345, ack: 0, ..forged(flags::SYN, options.clone()) };
            let stranger = SocketAddr::new(from.v4.into(), 50_000);
            let fresh_syn = Segment {
                source: stranger,
                destination: SocketAddr::new(to.v4.into(), CHANNEL_PORT),
                ..syn.clone()
            };
            let data = Segment { data: b"forged".to_vec(), ..forged(flags::ACK, options.clone()) };
            for segment in [forged(flags::RST, options), syn, fresh_syn, data] {
                wire::inject(network.attacker(), to, &segment)?;
            }
        }
        eventually(SOON, "each of them to be dropped", || {
            let now = agent.dropped_in_all(&peer)? - dropped;
            ensure!(now == 8, "{now} of 8 are: {}", agent.neighbor(&peer)?["counters"]["dropped"]);
            Ok(Some(()))
        })?;
    }
    thread::sleep(Duration::from_secs(1));
    ensure!(channel_ends(network)? == before, "the channel is another one: {:?}", channel_ends(network)?);
    transfer::ping(&pair.0, &pair.1)
}

/// A client of TLS who is no neighbour gets no octet, neither from his own address nor with a neighbour's.
#[test]
fn a_stranger_on_the_port_of_the_channel_gets_nothing() -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, Mode::External, "")?;
    let Protected { agent2, network, .. } = &protected;
    let before = Holdings::of(agent2)?;
    for (own, server) in kmp::addresses(network.attacker()).into_iter().zip(kmp::addresses(&network.r2)) {
        for _ in 0..20 {
            gets_nothing(network.attacker(), own, server)?;
        }
    }
    // All at once, and none of them says anything.
    let idle = network.attacker().namespace.enter(|| {
        let target = SocketAddr::new(network.r2.v4.into(), CHANNEL_PORT);
        let limit = Duration::from_millis(500);
        Ok((0..200).filter_map(|_| TcpStream::connect_timeout(&target, limit).ok()).collect::<Vec<_>>())
    })?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    drop((idle, near, far));
    let before = Holdings { sessions: before.sessions + 1, ..before };
    before.wait_until_back(agent2, Duration::from_secs(20))
}

/// The channel cannot be made: no connection, and none in clear; afterwards it comes by itself.
#[test]
fn without_a_channel_a_connection_waits() -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let protected = filtered(network, "")?;
    let sniffer = protected.network.sniff()?;
    let (client, server) = protected.ends();
    let options = Options { connect_limit: Some(Duration::from_secs(6)), ..Options::default() };
    let listener = transfer::listen(&server, client.address.ip(), &options)?;
    ensure!(transfer::connect(&client, server.address, &options).is_err(), "it connected without keys");
    ensure!(!sniffer.segments().iter().any(kmp::is_of_bgp), "something of the connection was sent");
    let failure = protected.agent1.wait_for_failure(&protected.peer2(), SOON, &[])?;
    println!("{failure}");
    kmp::forwarder(&protected)?.filter(|_| false);
    let near = transfer::connect(&client, server.address, &Options::default())
        .context("after the port is open again")?;
    transfer::ping(&near, &transfer::accept(&listener)?)?;
    kmp::wait_for_channel(&protected.agent1, &protected.peer2())
}

/// The channel is made when a connection needs it, by the end that does not wait for its next attempt.
#[test]
fn a_handshake_on_demand() -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let protected = filtered(network, "")?;
    // So long that the next attempt is some time away.
    thread::sleep(Duration::from_secs(12));
    kmp::forwarder(&protected)?.filter(|_| false);
    // From r2, which does not dial by itself: its address is the higher one.
    let (second, first) = protected.ends();
    let client = end_at(&first.namespace, SocketAddr::new(first.address.ip(), 0));
    let server = end_at(&second.namespace, SocketAddr::new(second.address.ip(), 179));
    let listener = transfer::listen(&server, client.address.ip(), &Options::default())?;
    let start = Instant::now();
    let near = transfer::connect(&client, server.address, &Options::default())?;
    let took = start.elapsed();
    println!("connected after {took:.1?}");
    transfer::ping(&near, &transfer::accept(&listener)?)?;
    ensure!(took < Duration::from_secs(4), "it took {took:.1?}");
    Ok(())
}

/// With `fallback = "implicit"` on both ends a connection gets the password's keys, and everybody is told.
#[test]
fn fallback_is_loud() -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let protected = filtered(network, "fallback = \"implicit\"")?;
    let Protected { agent1, agent2, network } = &protected;
    let events = agent1.events()?;
    let sniffer = network.sniff()?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    let ids = key_ids_of_syns(&sniffer);
    ensure!(ids.contains(&1), "no SYN under the key of the password: {ids:?}");
    for (agent, peer) in [(agent1, protected.peer2()), (agent2, protected.peer1())] {
        eventually(SOON, "the fallback to be told", || {
            let kmp = agent.kmp(&peer)?;
            ensure!(kmp["fallback_sessions"] == 1, "{kmp}");
            let shown = agent.tcpauth(&["neighbor", "show", &peer])?;
            ensure!(shown.contains("fallback") || shown.contains("password"), "{shown}");
            ensure!(agent.log().to_lowercase().contains("fallback"), "the log says nothing");
            Ok(Some(()))
        })?;
    }
    let told = events.log();
    ensure!(told.contains("\"fallback\""), "no event: {told}");
    transfer::exchange(near, far, 1 << 20)?;
    Ok(())
}

/// A peer that falls back meets one that does not: refused, and nothing in clear.
#[test]
fn fallback_of_one_end_is_refused_by_the_other() -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    kmp::forwarder_of(&network)?.filter(kmp::is_of_channel);
    let fields = |fallback: &str| Mode::External.fields(&format!("fallback = \"{fallback}\""));
    let protected = kmp::with_fields(network, &fields("implicit"), &fields("never"))?;
    let (client, server) = protected.ends();
    let options = Options { connect_limit: Some(Duration::from_secs(8)), ..Options::default() };
    let _listener = transfer::listen(&server, client.address.ip(), &options)?;
    ensure!(transfer::connect(&client, server.address, &options).is_err(), "it connected");
    let dropped = protected.agent2.dropped(&protected.peer1(), "no-key")?;
    ensure!(dropped > 0, "{}", protected.agent2.neighbor(&protected.peer1())?["counters"]["dropped"]);
    Ok(())
}

/// Sessions have their keys in the kernel; what was agreed on is not forgotten with a daemon.
#[test]
fn daemons_restart_under_live_sessions() -> Result<()> {
    let mut protected = kmp::agreeing(Network::switched()?, Mode::External, "")?;
    let (a, b) = bgp::birds(&protected.network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let incarnations = (a.incarnation()?, b.incarnation()?);
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        for which in [[true, false], [false, true], [true, true]] {
            for (agent, is_chosen) in [&mut protected.agent1, &mut protected.agent2].into_iter().zip(which) {
                if is_chosen {
                    agent.end(signal)?;
                }
            }
            // Longer than the hold time.
            thread::sleep(bgp::hold_time() + Duration::from_secs(1));
            for (agent, is_chosen) in [&mut protected.agent1, &mut protected.agent2].into_iter().zip(which) {
                if is_chosen {
                    agent.start_again()?;
                }
            }
            kmp::wait_for_channels(&protected).with_context(|| format!("after {signal} of {which:?}"))?;
            ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
            let (mut client, mut server) = protected.ends();
            (client.address, server.address) = (
                SocketAddr::new(protected.network.r1.v6.into(), 0),
                SocketAddr::new(protected.network.r2.v6.into(), 179),
            );
            transfer::exchange_many(&client, &server, 1, 1, 100_000).context("a new connection")?;
        }
    }
    // New keys for the session that has seen all of this.
    let before = protected.agent1.agreed_keys()?.len();
    for end in &Ends::of(&protected).0 {
        end.agent.refresh_keys(&end.peer)?;
        end.agent.wait_until_rolled(&end.peer, 1, SOON)?;
    }
    ensure!(protected.agent1.agreed_keys()?.len() > before, "no new keys were agreed on");
    steadily(Duration::from_secs(4), "the session stays up", || {
        Ok((a.incarnation()?, b.incarnation()?) == incarnations
            && a.is_established()?
            && b.is_established()?)
    })?;
    Ends::of(&protected).nothing_dropped_for(&["wrong-mac", "unknown-key-id", "wrong-length", "no-key"])
}

/// Runs a session over IPv4 and one over IPv6, each captured on the wire: every segment, the SYN's among them, has a
/// MAC of keys that were agreed on.
fn over_both_families(session: impl Fn(&Network, IpAddr, IpAddr) -> Result<()>) -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, Mode::External, "")?;
    let network = &protected.network;
    for (a, b) in kmp::addresses(&network.r1).into_iter().zip(kmp::addresses(&network.r2)) {
        let wiretap = Wiretap::start(network)?;
        session(network, a, b).with_context(|| a.to_string())?;
        wiretap.finish_external(&protected).with_context(|| a.to_string())?;
    }
    let [of_first, of_second] = [protected.agent1.agreed_keys()?, protected.agent2.agreed_keys()?];
    ensure!(of_first.len() >= 2, "{} keys were agreed on", of_first.len());
    for key in &of_first {
        ensure!(key.send_id >= 128 && key.recv_id >= 128, "KeyIDs {} and {}", key.send_id, key.recv_id);
        let same = of_second.iter().any(|other| *other == key.of_the_peer());
        ensure!(same, "r2 knows nothing of the keys of {} to {}", key.local, key.peer);
    }
    Ends::of(&protected).nothing_dropped_for(&NEVER)
}

fn peerings(a: IpAddr, b: IpAddr) -> [Peering; 2] {
    let (first, second) = Peering::between(a, b);
    [first, second]
}

/// Two routers whose channels do not get through.
fn filtered(network: Network, more: &str) -> Result<Protected> {
    kmp::forwarder_of(&network)?.filter(kmp::is_of_channel);
    let fields = Mode::External.fields(more);
    kmp::with_fields(network, &fields, &fields)
}

/// Local and remote address of each channel that `r1` has, in order.
fn channel_ends(network: &Network) -> Result<Vec<String>> {
    let mut command = network.r1.namespace.command("ss");
    let filter = format!("( sport = :{CHANNEL_PORT} or dport = :{CHANNEL_PORT} )");
    command.args(["-H", "-t", "-n", "state", "established", &filter]);
    let shown = tcpauth_tests::process::run(command)?;
    let ends = |line: &str| line.split_whitespace().skip(2).take(2).collect::<Vec<_>>().join(" ");
    let mut all: Vec<_> = shown.lines().map(ends).collect();
    all.sort();
    Ok(all)
}

/// A ClientHello from `own` to the port of the channel: what comes back, if anything, is an end without an octet.
fn gets_nothing(stranger: &Router, own: IpAddr, server: IpAddr) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(12);
    let client = end_at(&stranger.namespace, SocketAddr::new(own, 0));
    let options = Options { connect_limit: Some(Duration::from_millis(500)), ..Options::default() };
    let Ok(mut stream) = transfer::connect(&client, SocketAddr::new(server, CHANNEL_PORT), &options) else {
        return Ok(());
    };
    let hello = b"\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x03";
    let _ = std::io::Write::write_all(&mut stream, &[hello.as_slice(), &[0; 60]].concat());
    stream.set_read_timeout(Some(LIMIT))?;
    let mut octets = Vec::new();
    let start = Instant::now();
    let _ = stream.read_to_end(&mut octets);
    ensure!(octets.is_empty(), "the stranger got {} octets", octets.len());
    ensure!(start.elapsed() < LIMIT, "the stranger was not sent away");
    Ok(())
}

/// KeyIDs of the SYNs to port 179.
fn key_ids_of_syns(sniffer: &Sniffer) -> Vec<u8> {
    let segments = sniffer.segments();
    let syns = segments.iter().filter(|segment| kmp::is_of_bgp(segment) && segment.flags == flags::SYN);
    syns.filter_map(|syn| syn.tcp_ao().map(|(key_id, _)| key_id)).collect()
}

/// bgpd without zebra refuses routes by link-local addresses, as it knows no interface.
fn without_link_local(bird: Peering) -> Peering {
    Peering { hops: 2, ..bird }
}
