//! SYNs sent in our name, more than connections come of: they keep out no connection of any neighbor, and end none.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use tcpauth_tests::{
    agent::Agent,
    frame::{Segment, flags},
    network::{INTERFACE, Network, Router},
    scenario::{PASSWORD, Protected, end, neighbor, wait_attached},
    transfer::{self, Options},
    wait::eventually,
    wire,
};

/// Sessions of one neighbor that is an address.
const LIMIT: u64 = 4096;

#[test]
fn syns_of_a_raw_socket_take_no_connections_turn() -> Result<()> {
    let network = Network::switched()?;
    let (r1, r2, other) =
        (network.r1.v4.to_string(), network.r2.v4.to_string(), network.attacker().v4.to_string());
    let config = [neighbor(&r2, PASSWORD, ""), neighbor(&other, PASSWORD, "")].concat();
    let agent3 = Agent::start(&network.attacker().namespace, &neighbor(&r1, PASSWORD, ""))?;
    wait_attached(&agent3, INTERFACE)?;
    let protected = Protected::with(network, &config, &neighbor(&r1, PASSWORD, ""))?;
    let network = &protected.network;
    // A SYN that is dropped is repeated once and not for minutes.
    network.r1.namespace.sysctl("net.ipv4.tcp_syn_retries", "1")?;
    let flood = Flood::start(&network.r1, &network.r2);
    let agent = &protected.agent1;
    eventually(Duration::from_secs(20), "the flood to be dropped", || {
        Ok((agent.dropped(&r2, "rate-limited")? > 10_000).then_some(()))
    })?;
    for (host, port) in [(&network.r2, 179), (network.attacker(), 179)] {
        for _ in 0..5 {
            let (near, far) = transfer::pair(&end(&network.r1, 0), &end(host, port), &Options::default())
                .with_context(|| format!("to {} during the flood", host.v4))?;
            transfer::ping(&near, &far)?;
        }
    }
    eventually(Duration::from_secs(60), "the flood to go on for a while", || {
        Ok((agent.dropped(&r2, "rate-limited")? > 50_000).then_some(()))
    })?;
    let sessions = agent.neighbor(&r2)?["sessions"].as_u64().context("no count")?;
    ensure!(sessions <= LIMIT, "{sessions} sessions");
    ensure!(agent.log().contains("rate-limited"), "the log does not tell of the flood");
    flood.stop()
}

#[test]
fn half_open_connections_make_room_and_those_that_are_up_stay() -> Result<()> {
    let protected = Protected::switched()?;
    let network = &protected.network;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    // From now on the peer is silent.
    let switch = &network.middle.as_ref().context("a switch")?.namespace;
    let mac = network.r2.mac_text();
    let address = network.r2.v4.to_string();
    network.r1.namespace.ip(&[
        "neighbor",
        "replace",
        &address,
        "lladdr",
        &mac,
        "dev",
        INTERFACE,
        "nud",
        "permanent",
    ])?;
    switch.ip(&["link", "set", "to-r2", "down"])?;
    let begun = network.r1.namespace.enter(|| begin_connections(LIMIT as usize + 600, server.address))?;
    let agent = &protected.agent1;
    let (sessions, displaced) = eventually(Duration::from_secs(20), "sessions to make room", || {
        let shown = agent.neighbor(&address)?;
        let count = |field: &str| shown[field].as_u64().context("no count");
        Ok((count("displaced_sessions")? > 0).then_some((count("sessions")?, count("displaced_sessions")?)))
    })?;
    ensure!(sessions <= LIMIT, "{sessions} sessions, {displaced} displaced");
    let reason = agent.neighbor(&address)?["reason"].to_string();
    ensure!(reason.contains("removed to make room"), "{reason}");
    ensure!(agent.log().contains("removed to make room"), "the log does not tell");
    drop(begun);
    switch.ip(&["link", "set", "to-r2", "up"])?;
    transfer::ping(&near, &far).context("the connection that was up")?;
    let (near, far) = transfer::pair(&client, &server, &Options::default()).context("a new connection")?;
    transfer::ping(&near, &far)
}

/// Begins connections that nobody answers, at less than the rate at which SYNs of sockets are let through.
fn begin_connections(count: usize, server: SocketAddr) -> Result<Vec<Socket>> {
    let limit = libc::rlimit { rlim_cur: 16_384, rlim_max: 16_384 };
    // SAFETY: the structure is read during the call only.
    ensure!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0, "limit of open files");
    let mut begun = Vec::with_capacity(count);
    while begun.len() < count {
        for _ in 0..20 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&server.into()) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => begun.push(socket),
                other => other.with_context(|| format!("connection {}", begun.len()))?,
            }
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Ok(begun)
}

/// A thread that sends SYNs by a packet socket, which no TCP socket knows of.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Flood {
    fn start(from: &Router, to: &Router) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, is_over) = (from.namespace.clone(), Arc::clone(&stop));
        let syn = |port: u16| Segment {
            source: SocketAddr::new(from.v4.into(), port),
            destination: SocketAddr::new(to.v4.into(), 179),
            seq: u32::from(port) << 8,
            ack: 0,
            flags: flags::SYN,
            window: 64_000,
            hop_limit: 64,
            options: Vec::new(),
            data: Vec::new(),
        };
        let frames: Vec<_> = (1024..31_024).map(|port| syn(port).frame(from.mac, to.mac)).collect();
        let thread = std::thread::spawn(move || {
            for frames in frames.chunks(50).cycle() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                wire::inject_by(&namespace, INTERFACE, frames)?;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        Self { stop, thread }
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
