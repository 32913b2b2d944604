//! Enabling without a reset: sessions that are up are taken over, and no segment is lost.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Frr, Peering, Speaker},
    frame::{Segment, flags},
    independent, link,
    network::{INTERFACE, Network, Router},
    scenario::{PASSWORD, end, end_at, neighbor, wait_attached},
    transfer::{self, Options},
    wait::{eventually, slowness},
    wire::{self, Capture},
};

const MODE: &str = "unauthenticated = \"accept-until-authenticated\"";
const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_connection_with_full_segments_both_ways_over_ipv4() -> Result<()> {
    let network = Network::switched()?;
    let (a, b) = (network.r1.v4.into(), network.r2.v4.into());
    full_segments(&network, a, b)
}

#[test]
fn a_connection_with_full_segments_both_ways_over_ipv6() -> Result<()> {
    let network = Network::switched()?;
    let (a, b) = (network.r1.v6.into(), network.r2.v6.into());
    full_segments(&network, a, b)
}

#[test]
fn a_connection_by_interfaces_without_offloads() -> Result<()> {
    let network = Network::switched()?;
    for router in [&network.r1, &network.r2] {
        link::disable_offloads(&router.namespace, INTERFACE)?;
    }
    let (a, b) = (network.r1.v4.into(), network.r2.v4.into());
    full_segments(&network, a, b)
}

/// Its socket is of this host; the programs that its segments pass are those of the interface below.
#[test]
fn a_connection_by_a_macvlan_is_taken_over_on_the_interface_below() -> Result<()> {
    let network = Network::switched()?;
    let r1 = &network.r1.namespace;
    r1.ip(&["link", "add", "above", "link", INTERFACE, "type", "macvlan", "mode", "bridge"])?;
    r1.ip(&["address", "add", "198.51.100.1/24", "dev", "above"])?;
    r1.ip(&["link", "set", "above", "up"])?;
    network.r2.namespace.ip(&["address", "add", "198.51.100.2/24", "dev", INTERFACE])?;
    full_segments(&network, "198.51.100.1".parse()?, "198.51.100.2".parse()?)
}

/// Its socket is in the container, so there is nothing to take over here, and its segments are its own.
#[test]
fn a_connection_of_a_container_on_a_macvlan_is_left_alone() -> Result<()> {
    let network = Network::switched()?;
    let container = network.r1.container_on_macvlan("192.0.2.3/24")?;
    let server = end(&network.r2, 179);
    let connect = |client| transfer::pair(&client, &server, &Options::default());
    let (contained, its_peer) = connect(end_at(&container, "192.0.2.3:0".parse()?))?;
    let (ours, our_peer) = connect(end(&network.r1, 0))?;
    let peer = network.r2.v4.to_string();
    let agent = Agent::start(&network.r1.namespace, &neighbor(&peer, PASSWORD, MODE))?;
    wait_attached(&agent, INTERFACE)?;
    says(&agent, &peer, "unsigned", "0 of 1 sessions signed")?;
    let local = agent.sessions()?[0]["local"].clone();
    ensure!(local == ours.local_addr()?.to_string(), "{local} is taken over");
    transfer::ping(&ours, &our_peer)?;
    // The first segment of the host's own that is signed ends nothing of the container's.
    agent.tcpauth(&["neighbor", "sign", &peer])?;
    let sniffer = network.sniff()?;
    transfer::exchange(contained, its_peer, 5 << 20)?;
    let signed = sniffer.segments().iter().filter(|segment| segment.tcp_ao().is_some()).count();
    ensure!(signed == 0, "{signed} segments of the container are signed");
    ensure!(agent.sessions()?.len() == 1, "{:?}", agent.sessions()?);
    ensure!(agent.dropped_in_all(&peer)? == 0, "{}", agent.neighbor(&peer)?);
    Ok(())
}

#[test]
fn bird_and_bird() -> Result<()> {
    let network = Network::switched()?;
    let (first, second) = Peering::pair(&network.r1, &network.r2);
    stays_up(&network, &first, || {
        Ok((Bird::start(&network.r1.namespace, &first)?, Bird::start(&network.r2.namespace, &second)?))
    })
}

#[test]
fn bird_and_bird_over_ipv6() -> Result<()> {
    let network = Network::switched()?;
    let (first, second) = Peering::between(network.r1.v6.into(), network.r2.v6.into());
    stays_up(&network, &first, || {
        Ok((Bird::start(&network.r1.namespace, &first)?, Bird::start(&network.r2.namespace, &second)?))
    })
}

#[test]
fn frr_and_bird() -> Result<()> {
    let network = Network::switched()?;
    let (first, second) = Peering::pair(&network.r1, &network.r2);
    stays_up(&network, &first, || {
        Ok((Frr::start(&network.r1.namespace, &first)?, Bird::start(&network.r2.namespace, &second)?))
    })
}

#[test]
fn connections_that_begin_unsigned_are_taken_over_until_the_neighbour_has_authenticated() -> Result<()> {
    let network = Network::switched()?;
    let (client, server) = (end(&network.r1, 0), end(&network.r2, 179));
    let (peer1, peer2) = (network.r2.v4.to_string(), network.r1.v4.to_string());
    let start = |router: &Router, peer: &str| {
        let agent = Agent::start(&router.namespace, &neighbor(peer, PASSWORD, MODE))?;
        wait_attached(&agent, INTERFACE)?;
        anyhow::Ok(agent)
    };
    let (agent1, agent2) = (start(&network.r1, &peer1)?, start(&network.r2, &peer2)?);
    let mut sides = Sides { agent1, agent2, peer1, peer2 };
    let listener = transfer::listen(&server, client.address.ip(), &Options::default())?;
    let connect = || -> Result<_> {
        let near = transfer::connect(&client, server.address, &Options::default())?;
        let far = transfer::accept(&listener)?;
        transfer::ping(&near, &far)?;
        Ok((near, far))
    };
    let connections = [connect()?, connect()?, connect()?];
    let ping = || connections.iter().try_for_each(|(near, far)| transfer::ping(near, far));
    for (agent, peer) in sides.both() {
        says(
            agent,
            peer,
            "unsigned",
            "0 of 3 sessions signed by the neighbour; when the neighbour's side has",
        )?;
    }
    sides.agent1.tcpauth(&["neighbor", "sign", &sides.peer1])?;
    // That it was told outlives the daemon.
    sides.agent1.end(libc::SIGKILL)?;
    sides.agent1.start_again()?;
    says(&sides.agent1, &sides.peer1, "unsigned", "0 of 3 sessions signed by the neighbour; we sign")?;
    let sniffer = network.sniff()?;
    ping()?;
    sides.wait_signed()?;
    // One that is new is signed from its SYN on.
    connect()?;
    let unsigned = sniffer.segments().iter().filter(|segment| segment.tcp_ao().is_none()).count();
    ensure!(unsigned == 0, "{unsigned} segments without option");
    for (agent, peer) in sides.both() {
        ensure!(agent.dropped_in_all(peer)? == 0, "{}", agent.neighbor(peer)?);
    }

    // r1 without tcpauth is whoever sends in its name.
    let Sides { mut agent1, mut agent2, peer2, .. } = sides;
    agent1.end(libc::SIGKILL)?;
    agent1.tcpauth(&["purge", "--yes"])?;
    let soon = Options { connect_limit: Some(Duration::from_secs(2)), ..Options::default() };
    let is_refused = |agent2: &Agent| -> Result<()> {
        let before = agent2.dropped(&peer2, "no-option")?;
        ensure!(
            transfer::connect(&client, server.address, &soon).is_err(),
            "it connected without the option"
        );
        let dropped = agent2.dropped(&peer2, "no-option")? - before;
        ensure!(dropped > 0, "{}", agent2.neighbor(&peer2)?);
        let before = agent2.dropped(&peer2, "no-option")?;
        for (near, _) in &connections {
            let mut near = near;
            near.write_all(b"unsigned")?;
        }
        eventually(SOON, "the segments to be refused", || {
            Ok((agent2.dropped(&peer2, "no-option")? >= before + 3).then_some(()))
        })
    };
    is_refused(&agent2)?;
    agent2.end(libc::SIGKILL)?;
    agent2.start_again()?;
    is_refused(&agent2)?;
    for (_, far) in &connections {
        let mut far = far;
        far.set_nonblocking(true)?;
        let read = far.read(&mut [0; 8]);
        ensure!(read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "something came through");
    }
    Ok(())
}

#[test]
fn a_connection_that_the_kernel_signs_is_named_in_time_to_keep_it() -> Result<()> {
    let network = Network::switched()?;
    let options = Options { md5: Some("secret".to_owned()), ..Options::default() };
    let (near, far) = transfer::pair(&end(&network.r1, 0), &end(&network.r2, 179), &options)?;
    transfer::ping(&near, &far)?;
    let mut agents = Vec::new();
    for (router, peer) in [(&network.r1, network.r2.v4), (&network.r2, network.r1.v4)] {
        let peer = peer.to_string();
        let agent = Agent::start(&router.namespace, &neighbor(&peer, PASSWORD, MODE))?;
        let words = "is not taken over: our BGP daemon has the kernel sign it (TCP-MD5 or TCP-AO)";
        says(&agent, &peer, "unsigned", words)?;
        let log = agent.log();
        ensure!(log.contains("WARN") && log.contains("`tcpauth neighbor remove`"), "{log}");
        let refused =
            agent.tcpauth(&["neighbor", "sign", &peer]).err().context("it is signed to")?.to_string();
        ensure!(refused.contains("not signed to") && refused.contains("has the kernel sign it"), "{refused}");
        agents.push((agent, peer));
    }
    thread::scope(|scope| {
        let ping = scope.spawn(|| transfer::ping(&near, &far));
        let (agent, peer) = &agents[0];
        eventually(SOON, "what the kernel signed to be refused", || {
            Ok((agent.dropped(peer, "option-twice")? > 0).then_some(()))
        })?;
        for (agent, peer) in &agents {
            agent.tcpauth(&["neighbor", "remove", peer])?;
        }
        ping.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What a host behind us sends in our name has no socket here.
#[test]
fn a_connection_of_our_address_without_a_socket_here_is_refused_and_named() -> Result<()> {
    let network = Network::switched()?;
    network.r1.namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let (client, server) = [(&network.r1, 0), (&network.r2, 179)]
        .map(|(router, port)| end_at(&router.namespace, SocketAddr::new(router.v6.into(), port)))
        .into();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    let peer = network.r2.v6.to_string();
    let agent = Agent::start(&network.r1.namespace, &neighbor(&peer, PASSWORD, MODE))?;
    says(&agent, &peer, "unsigned", "0 of 1 sessions signed")?;
    let sniffer = network.sniff()?;
    transfer::ping(&near, &far)?;
    let last = eventually(SOON, "a segment of ours", || {
        Ok(sniffer.segments().into_iter().rfind(|segment| segment.source.ip() == network.r1.v6))
    })?;
    let mut elsewhere = wire::forge(&last, flags::ACK, b"from behind");
    elsewhere.source.set_port(33_333);
    // To r1's MAC address, to be forwarded.
    wire::inject(network.attacker(), &network.r1, &elsewhere)?;
    says(&agent, &peer, "unsigned", "if it is a container behind masquerade")?;
    ensure!(agent.dropped(&peer, "spoofed")? == 1, "{}", agent.neighbor(&peer)?);
    ensure!(agent.sessions()?.len() == 1, "{:?}", agent.sessions()?);
    transfer::ping(&near, &far)
}

/// A BGP session that is up is protected on both sides; every segment from then on verifies, and one that is
/// forged without MAC is refused.
fn stays_up<A: Speaker, B: Speaker>(
    network: &Network,
    peering: &Peering,
    start: impl FnOnce() -> Result<(A, B)>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // So that checksums on the wire are filled in before anything of tcpauth's is there, too.
    for router in [&network.r1, &network.r2] {
        link::disable_offloads(&router.namespace, INTERFACE)?;
    }
    let (namespace, interface) = network.tap();
    let capture = Capture::start(namespace, interface, 179, &folder.path().join("wire.pcap"))?;
    // They start after the capture, which has to have the handshake.
    let (a, b) = start()?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let before = (a.incarnation()?, b.incarnation()?);
    let sides = Sides::start(network, peering.local, peering.peer, || Ok(()))?;
    // Unsigned for some keepalives yet; then one side signs, and some later the other.
    thread::sleep(bgp::hold_time());
    sides.agent2.tcpauth(&["neighbor", "sign", &sides.peer2])?;
    sides.wait_signed()?;
    sides.agent1.tcpauth(&["neighbor", "sign", &sides.peer1])?;
    let sniffer = network.sniff()?;
    let last = sniffer.next(SOON, "a segment of the peer", |segment| {
        segment.source.ip() == peering.peer && segment.flags & (flags::SYN | flags::RST) == 0
    })?;
    for flags in [flags::RST, flags::RST | flags::ACK, flags::ACK] {
        let forged = wire::forge(&last, flags, if flags == flags::ACK { b"junk" } else { b"" });
        wire::inject(network.attacker(), &network.r1, &forged)?;
    }
    eventually(SOON, "the forged segments to be refused", || {
        Ok((sides.agent1.dropped(&sides.peer1, "no-option")? == 3).then_some(()))
    })?;
    thread::sleep(Duration::from_secs(4));
    ensure!((a.incarnation()?, b.incarnation()?) == before, "the session has restarted");
    ensure!(sides.agent2.dropped_in_all(&sides.peer2)? == 0, "{}", sides.agent2.neighbor(&sides.peer2)?);
    let unsigned =
        |segment: &&Segment| segment.tcp_ao().is_none() && segment.source.ip() != network.attacker().v4;
    let unsigned = sniffer.segments().iter().filter(unsigned).count();
    ensure!(unsigned == 3, "{unsigned} segments without option, 3 are forged");
    // The verifier finds fault with those from before, and with the forged ones.
    let said = independent::verify(&capture.finish()?, PASSWORD, &["--mtu", "1500"]);
    let said = format!("{:#}", said.err().context("unsigned segments were captured")?);
    ensure!(said.contains(", failed 0, without option ") && said.contains(", bad checksum 0"), "{said}");
    ensure!(!said.contains(" verified 0,"), "{said}");
    Ok(())
}

fn full_segments(network: &Network, a: IpAddr, b: IpAddr) -> Result<()> {
    let client = end_at(&network.r1.namespace, SocketAddr::new(a, 0));
    let server = end_at(&network.r2.namespace, SocketAddr::new(b, 179));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let sides = Sides::start(network, a, b, || transfer::ping(&near, &far))?;
    transfer::ping(&near, &far)?;
    // Enough to last while the sides sign: an emulated machine takes minutes for more.
    let megabytes = 150 / u64::from(slowness().clamp(1, 10));
    thread::scope(|scope| {
        let bulk = scope.spawn(|| transfer::exchange(near, far, megabytes << 20));
        thread::sleep(Duration::from_millis(300));
        sides.agent1.tcpauth(&["neighbor", "sign", &sides.peer1])?;
        thread::sleep(Duration::from_millis(300));
        ensure!(!bulk.is_finished(), "too little data for the test");
        sides.wait_signed()?;
        ensure!(!bulk.is_finished(), "too little data for the test");
        let sniffer = network.sniff()?;
        thread::sleep(Duration::from_millis(300));
        let segments = sniffer.segments();
        ensure!(segments.len() > 100, "{} segments", segments.len());
        let unsigned = segments.iter().filter(|segment| segment.tcp_ao().is_none()).count();
        ensure!(unsigned == 0, "{unsigned} of {} segments are not signed", segments.len());
        let elapsed = bulk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        println!("{megabytes} MiB each way: {elapsed:?}, largest frame {}", sniffer.largest_frame());
        ensure!(sniffer.largest_frame() <= 1514, "a frame of {} octets", sniffer.largest_frame());
        Ok(())
    })?;
    for (agent, peer) in sides.both() {
        let dropped = agent.dropped_in_all(peer)?;
        ensure!(dropped == 0, "{dropped} segments dropped: {}", agent.neighbor(peer)?);
    }
    Ok(())
}

/// Waits until the neighbour is in a state, for a reason that has these words.
fn says(agent: &Agent, peer: &str, state: &str, words: &str) -> Result<()> {
    eventually(SOON, &format!("{words:?} to be said"), || {
        let neighbor = agent.neighbor(peer)?;
        let reason = neighbor["reason"].as_str().unwrap_or_default();
        ensure!(neighbor["state"] == state && reason.contains(words), "{neighbor}");
        Ok(Some(()))
    })
}

/// Both sides' daemons, in the mode.
struct Sides {
    agent1: Agent,
    agent2: Agent,
    /// The neighbour of `agent1`.
    peer1: String,
    /// The neighbour of `agent2`.
    peer2: String,
}

impl Sides {
    /// Starts one after the other, with a connection that is taken over on each, and does `meanwhile` between.
    fn start(network: &Network, a: IpAddr, b: IpAddr, meanwhile: impl Fn() -> Result<()>) -> Result<Self> {
        let (peer1, peer2) = (b.to_string(), a.to_string());
        let start = |namespace, peer: &str| -> Result<Agent> {
            let agent = Agent::start(namespace, &neighbor(peer, PASSWORD, MODE))?;
            wait_attached(&agent, INTERFACE)?;
            eventually(SOON, "the session to be taken over", || {
                Ok((agent.sessions()?.len() == 1).then_some(()))
            })?;
            let neighbor = agent.neighbor(peer)?;
            ensure!(neighbor["state"] == "unsigned", "{neighbor}");
            let reason = neighbor["reason"].as_str().unwrap_or_default();
            ensure!(reason.contains("0 of 1 sessions signed"), "{reason}");
            Ok(agent)
        };
        let agent1 = start(&network.r1.namespace, &peer1)?;
        meanwhile()?;
        let agent2 = start(&network.r2.namespace, &peer2)?;
        meanwhile()?;
        Ok(Self { agent1, agent2, peer1, peer2 })
    }

    fn both(&self) -> [(&Agent, &str); 2] {
        [(&self.agent1, &self.peer1), (&self.agent2, &self.peer2)]
    }

    /// Waits until both say that all is signed.
    fn wait_signed(&self) -> Result<()> {
        for (agent, peer) in self.both() {
            eventually(SOON, "the session to be signed", || {
                let neighbor = agent.neighbor(peer)?;
                ensure!(neighbor["state"] == "established", "{neighbor}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}
