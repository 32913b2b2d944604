//! However a forged segment is wrapped: the kernel's TCP gets none that no program has verified.
//!
//! The stack of r1 takes in all that Linux can be told to: source routes, segment routing, foreign addresses by local
//! routes, VXLAN. Each socket's count of segments, which TCP raises before it looks at one, has to stay where the count of
//! verified ones is.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::Socket;
use tcpauth_tests::{
    agent::Agent,
    frame::{Segment, flags, tcp_ao_option},
    impair::Random,
    network::{INTERFACE, Network},
    odd::{self, Target, VXLAN_NETWORK, Wrapping},
    scenario::{PASSWORD, Protected, end_at, neighbor},
    transfer::{self, Options},
    wait::eventually,
    wire,
};

const SEED: u64 = 11;
const ROUNDS: u32 = 60;
/// Segments of a round, each perhaps several frames.
const BATCH: u32 = 100;
/// What segments on their way take.
const SETTLED: Duration = Duration::from_secs(10);

#[test]
fn no_odd_frame_brings_a_forged_segment_to_tcp() -> Result<()> {
    for listens in [false, true] {
        let network = permissive()?;
        let configs = [(&network.r2), (&network.r1)].map(|router| {
            [neighbor(&router.v4.to_string(), PASSWORD, ""), neighbor(&router.v6.to_string(), PASSWORD, "")]
                .concat()
        });
        let protected = Protected::with(network, &configs[0], &configs[1])?;
        let network = &protected.network;
        let listener = listens.then(|| listen_everywhere(network)).transpose()?;
        let connections = connections(network)?;
        let target = target(network);
        let mut random = Random(SEED);
        let before = [connections[0].counts(&protected.agent1)?, connections[1].counts(&protected.agent1)?];
        for round in 0..ROUNDS {
            let mut frames = Vec::new();
            let number = round as usize % 2;
            let connection = &connections[number];
            for _ in 0..BATCH {
                let forged = connection.forged(&mut random);
                let tcp = odd::odd_tcp(&forged, &mut random);
                let wrapping = Wrapping::ALL[random.below(Wrapping::ALL.len() as u32) as usize];
                frames.extend(wrapping.wrap(&forged, &tcp, &target, &mut random));
            }
            wire::inject_frames(network.attacker(), &frames)?;
            connection.counts_agree(&protected.agent1, before[number]).with_context(|| {
                format!("round {round}, seed {SEED}, listens: {listens}, frames:\n{}", shown(&frames))
            })?;
        }
        if let Some(listener) = listener {
            listener.set_nonblocking(true)?;
            ensure!(listener.accept().is_err(), "a forged connection came up");
        }
        for connection in &connections {
            transfer::ping(&connection.near, &connection.far)?;
        }
        for connection in connections {
            transfer::exchange(connection.near, connection.far, 1 << 20)?;
        }
    }
    Ok(())
}

/// Without tcpauth the same frames do reach TCP, in each way of wrapping that Linux unwraps: else the test above shows
/// nothing.
#[test]
fn odd_frames_reach_an_unprotected_stack() -> Result<()> {
    let network = permissive()?;
    let connections = connections(&network)?;
    let target = target(&network);
    let mut random = Random(SEED);
    let mut reached = BTreeMap::new();
    for connection in &connections {
        for wrapping in Wrapping::ALL {
            let before = transfer::segments_received(&connection.near)?;
            let mut frames = Vec::new();
            for _ in 0..BATCH {
                // Nothing that ends the connection.
                let old = Segment { seq: connection.next.seq.wrapping_sub(1), ..connection.next.clone() };
                let tcp = &old.frame([0; 6], [0; 6])[if old.source.is_ipv4() { 34 } else { 54 }..];
                frames.extend(wrapping.wrap(&old, tcp, &target, &mut random));
            }
            wire::inject_frames(network.attacker(), &frames)?;
            std::thread::sleep(Duration::from_millis(200));
            let count = transfer::segments_received(&connection.near)?.wrapping_sub(before);
            reached.insert((wrapping, connection.next.source.is_ipv4()), count);
        }
    }
    println!("reached TCP, of {BATCH}: {reached:?}");
    // This host has neither tunnels by IP alone nor mapped addresses on the wire.
    let expected = |(wrapping, is_ipv4): (Wrapping, bool)| match wrapping {
        Wrapping::Tunnel => false,
        Wrapping::Mapped => !is_ipv4,
        _ => true,
    };
    for (way, count) in reached {
        ensure!(!expected(way) || count >= 3, "{way:?}: {count} of {BATCH} reached TCP");
    }
    Ok(())
}

/// A connection from r1 to port 179 of r2.
struct Connection {
    near: TcpStream,
    far: TcpStream,
    /// What r2 could send next, without options.
    next: Segment,
}

impl Connection {
    /// Segments that reached r1's socket, and those from r2 that r1 has verified.
    fn counts(&self, agent: &Agent) -> Result<(u64, u64)> {
        let received = transfer::segments_received(&self.near)?;
        let neighbor = agent.neighbor(&self.next.source.ip().to_string())?;
        let verified = neighbor["counters"]["verified_segments"].as_u64().context("no count")?;
        Ok((received.into(), verified))
    }

    /// What has reached the socket since `before` was verified. The few segments of r2 itself are in both counts.
    fn counts_agree(&self, agent: &Agent, before: (u64, u64)) -> Result<()> {
        eventually(SETTLED, "the socket's count to be that of verified segments", || {
            let now = self.counts(agent)?;
            let (received, verified) = (now.0 - before.0, now.1 - before.1);
            ensure!(received == verified, "{received} reached the socket, {verified} were verified");
            Ok(Some(()))
        })
    }

    /// A segment that could do harm.
    fn forged(&self, random: &mut Random) -> Segment {
        const FLAGS: [u8; 8] = [
            flags::RST,
            flags::RST | flags::ACK,
            flags::FIN | flags::ACK,
            flags::PSH | flags::ACK,
            flags::SYN,
            flags::SYN | flags::ACK,
            0,
            0xff,
        ];
        let flags = FLAGS[random.below(8) as usize];
        let options = match random.below(4) {
            0 => tcp_ao_option(1, 0x5a),
            1 => [vec![1, 1, 8, 10], odd::octets(random, 8), tcp_ao_option(1, 0xa5)].concat(),
            2 => {
                let words = random.below(11);
                odd::octets(random, 4 * words)
            }
            _ => Vec::new(),
        };
        let count = random.below(64);
        let mut forged = Segment { flags, options, data: odd::octets(random, count), ..self.next.clone() };
        if flags & flags::SYN != 0 && random.below(2) == 0 {
            // A connection of its own, whose data come with the SYN.
            forged.source.set_port([179, 1024 + random.below(60_000) as u16][random.below(2) as usize]);
            forged.destination.set_port(179);
        }
        forged
    }
}

/// One over each family, quiet.
fn connections(network: &Network) -> Result<[Connection; 2]> {
    let (r1, r2) = (&network.r1, &network.r2);
    let sniffer = network.sniff()?;
    let of = |near: IpAddr, far: IpAddr| -> Result<Connection> {
        let client = end_at(&r1.namespace, SocketAddr::new(near, 0));
        let server = end_at(&r2.namespace, SocketAddr::new(far, 179));
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        transfer::ping(&near, &far)?;
        let ends = (near.local_addr()?, near.peer_addr()?);
        let last = eventually(SETTLED, "the answer and its acknowledgment on the wire", || {
            let segments = sniffer.segments();
            let last =
                |from, to| segments.iter().rfind(|one| (one.source, one.destination) == (from, to)).cloned();
            let (of_r1, of_r2) = (last(ends.0, ends.1), last(ends.1, ends.0));
            Ok(of_r2.filter(|of_r2| of_r1.is_some_and(|of_r1| of_r1.ack == of_r2.next_seq())))
        })?;
        Ok(Connection { near, far, next: wire::forge(&last, flags::ACK, b"") })
    };
    Ok([of(r1.v4.into(), r2.v4.into())?, of(r1.v6.into(), r2.v6.into())?])
}

/// A switch whose r1 refuses nothing that Linux can be told to take.
fn permissive() -> Result<Network> {
    let network = Network::switched()?;
    let r1 = &network.r1.namespace;
    for group in ["all", "default", INTERFACE] {
        for (key, value) in [("accept_source_route", "1"), ("accept_local", "1"), ("rp_filter", "0")] {
            r1.sysctl(&format!("net.ipv4.conf.{group}.{key}"), value)?;
        }
        r1.sysctl(&format!("net.ipv6.conf.{group}.seg6_enabled"), "1")?;
        r1.sysctl(&format!("net.ipv6.conf.{group}.accept_source_route"), "1")?;
    }
    for address in ["198.51.100.1/32", "2001:db8:5::1/128"] {
        r1.ip(&["address", "add", address, "dev", "lo"])?;
    }
    r1.ip(&["route", "add", "local", "203.0.113.0/24", "dev", "lo"])?;
    r1.ip(&["-6", "route", "add", "local", "2001:db8:113::/64", "dev", "lo"])?;
    let network_number = VXLAN_NETWORK.to_string();
    r1.ip(&[
        "link",
        "add",
        "vxlan",
        "address",
        VXLAN_MAC,
        "type",
        "vxlan",
        "id",
        &network_number,
        "dstport",
        "4789",
    ])?;
    r1.ip(&["link", "set", "vxlan", "up"])?;
    Ok(network)
}

const VXLAN_MAC: &str = "02:00:00:00:00:77";

fn target(network: &Network) -> Target {
    let attacker = network.attacker();
    Target {
        macs: (attacker.mac, network.r1.mac),
        attacker: attacker.v4.into(),
        others: ["198.51.100.1", "203.0.113.9", "2001:db8:5::1", "2001:db8:113::9"]
            .map(|address| address.parse().expect("an address"))
            .into(),
        vxlan: [2, 0, 0, 0, 0, 0x77],
    }
}

/// Listens on r1 at all addresses.
fn listen_everywhere(network: &Network) -> Result<Socket> {
    let end = end_at(&network.r1.namespace, "[::]:179".parse()?);
    transfer::listen(&end, network.r2.v6.into(), &Options::default())
}

fn shown(frames: &[Vec<u8>]) -> String {
    let hex = |frame: &Vec<u8>| frame.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    frames.iter().map(hex).collect::<Vec<_>>().join("\n")
}
