//! `key-management = "layered"`: the handshake is on the connection itself, before the application's first octet.

use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Frr, GoBgp, Peering},
    crowd::Crowd,
    frame::{Segment, flags},
    impair::{Impairment, Random},
    keys::{Ends, NEVER, NEVER_OUT_OF_ORDER},
    kmp::{self, Holdings, Mode, Wiretap},
    namespace::Namespace,
    network::{Network, Wire},
    on_connect,
    scenario::{PASSWORD, Protected, end, end_at, neighbor},
    transfer::{self, Options},
    wait::{eventually, slowness},
    wire::Sniffer,
};

/// What an application says first. Nobody else says that.
const APPLICATION: &[u8] = b"octets of an application, which are for the other application only";

/// In which a handshake that comes to nothing has to end.
const DEADLINE: Duration = Duration::from_secs(15);

const SOON: Duration = Duration::from_secs(10);

#[test]
fn bird_and_bird() -> Result<()> {
    over_both_families(|network, a, b| {
        let (first, second) = Peering::between(a, b);
        let a = Bird::start(&network.r1.namespace, &first)?;
        let b = Bird::start(&network.r2.namespace, &second)?;
        bgp::wait_for_routes(&a, &b, 10, 10)
    })
}

#[test]
fn frr_and_bird() -> Result<()> {
    over_both_families(|network, a, b| {
        let (first, second) = Peering::between(a, b);
        let a = Frr::start(&network.r1.namespace, &first.with_routes(1000))?;
        let b = Bird::start(&network.r2.namespace, &without_link_local(second))?;
        bgp::wait_for_routes(&a, &b, 10, 1000)
    })
}

#[test]
fn gobgp_and_bird() -> Result<()> {
    over_both_families(|network, a, b| {
        let (first, second) = Peering::between(a, b);
        let a = GoBgp::start(&network.r1.namespace, &first)?;
        let b = Bird::start(&network.r2.namespace, &second.with_routes(1000))?;
        bgp::wait_for_routes(&a, &b, 1000, 10)
    })
}

#[test]
fn both_ends_send_at_once() -> Result<()> {
    on_connect::two_hundred(Mode::Layered)
}

/// `cargo xtask soak --case layered` makes two hundred.
#[test]
fn both_ends_send_at_once_over_a_wire_that_loses() -> Result<()> {
    on_connect::over_a_wire_that_loses(Mode::Layered)
}

/// Handshakes whose segments are lost, repeated and reordered a lot.
#[test]
fn handshakes_over_a_bad_wire() -> Result<()> {
    let impairment = Impairment { loss: 150, duplication: 100, reordering: 150, seed: 11 };
    let network = Network::with(Wire::Impaired(impairment), 1500)?;
    let protected = kmp::agreeing(network, Mode::Layered, "")?;
    let (client, server) = protected.ends();
    transfer::exchange_many(&client, &server, 40, 10, 1000)?;
    Ends::of(&protected).nothing_dropped_for(&["wrong-mac", "unknown-key-id", "wrong-length"])
}

/// Selective acknowledgments are in numbers of the wire when they leave, in the stack's when they arrive.
#[test]
fn selective_acknowledgments_after_the_switch() -> Result<()> {
    let impairment = Impairment { loss: 20, reordering: 30, seed: 5, ..Impairment::default() };
    let network = Network::with(Wire::Impaired(impairment), 1500)?;
    let protected = kmp::agreeing(network, Mode::Layered, "")?;
    let network = &protected.network;
    let middle = network.middle.as_ref().context("no wire")?;
    let sniffers = [
        (Sniffer::start(&middle.namespace, "to-r1")?, &network.r1),
        (Sniffer::start(&middle.namespace, "to-r2")?, &network.r2),
    ];
    let (client, server) = protected.ends();
    transfer::exchange_many(&client, &server, 5, 1, 1 << 20)?;
    for (sniffer, router) in sniffers {
        let segments = sniffer.segments();
        let (ours, theirs): (Vec<_>, Vec<_>) =
            segments.iter().partition(|segment| segment.source.ip() == router.v4);
        let bounds: HashSet<_> = theirs
            .iter()
            .flat_map(|segment| {
                [segment.seq, segment.next_seq()].map(|seq| (segment.source, segment.destination, seq))
            })
            .collect();
        let mut edges = 0_u64;
        for segment in ours {
            for edge in segment.sack_edges() {
                let is_known = bounds.contains(&(segment.destination, segment.source, edge));
                ensure!(is_known, "no segment that arrived begins or ends at {edge}: {segment:?}");
                edges += 1;
            }
        }
        ensure!(edges > 100, "{} sent {edges} edges only", router.v4);
        let (recoveries, discarded) =
            (count(&router.namespace, "TCPSackRecovery")?, count(&router.namespace, "TCPSACKDiscard")?);
        println!("{}: {edges} edges, {recoveries} recoveries, {discarded} discarded", router.v4);
        ensure!(recoveries > 0, "{} recovered by none", router.v4);
        // One that acknowledgments overtook may be out of date.
        ensure!(discarded < edges / 100, "{} discarded {discarded}", router.v4);
    }
    Ok(())
}

/// As many handshakes as there are neighbours, all under way at once.
#[test]
fn many_neighbors_connect_at_once() -> Result<()> {
    let crowd = Crowd::new(400, &Mode::Layered.fields(""))?;
    let start = Instant::now();
    let pairs = crowd.connect_all()?;
    println!("connected in {:.1?}", start.elapsed());
    for (near, far) in &pairs {
        transfer::ping(near, far)?;
    }
    Ok(())
}

/// Both ends send a SYN before they have seen the other's: the one of the lower end counts.
#[test]
fn both_ends_open_the_same_connection_at_once() -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let protected = kmp::agreeing(network, Mode::Layered, "")?;
    for ports in [[40_000, 179], [179, 40_001]] {
        let is_syn = |segment: &Segment| kmp::is_of_bgp(segment) && segment.flags == flags::SYN;
        kmp::forwarder(&protected)?.keep_back(is_syn);
        let (mut first, mut second) = protected.ends();
        first.address.set_port(ports[0]);
        second.address.set_port(ports[1]);
        let options = Options { connect_limit: Some(Duration::from_secs(20)), ..Options::default() };
        thread::scope(|scope| -> Result<()> {
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
        })?;
    }
    Ends::of(&protected).nothing_dropped_for(&NEVER)
}

/// The stacks take the handshake for the round trip of their SYNs: their first timeout is longer by three of it, and
/// comes down with the first data.
#[test]
fn a_long_handshake_is_forgotten_by_the_retransmission_timeout() -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let protected = kmp::agreeing(network, Mode::Layered, "")?;
    let (client, server) = protected.ends();
    let listener = transfer::listen(&server, client.address.ip(), &Options::default())?;
    kmp::forwarder(&protected)?.keep_back(|segment| kmp::is_of_bgp(segment) && !segment.data.is_empty());
    let (near, far) = thread::scope(|scope| -> Result<_> {
        let near = scope.spawn(|| transfer::connect(&client, server.address, &Options::default()));
        thread::sleep(Duration::from_millis(500));
        kmp::forwarder(&protected)?.release();
        let near = near.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((near, transfer::accept(&listener)?))
    })?;
    let timeouts = || -> Result<[Duration; 2]> {
        Ok([transfer::retransmission_timeout(&near)?, transfer::retransmission_timeout(&far)?])
    };
    let first = timeouts()?;
    for pings in [1, 10, 20, 50] {
        (0..pings).try_for_each(|_| transfer::ping(&near, &far))?;
        println!("after {pings}: {:?}", timeouts()?);
    }
    let last = timeouts()?;
    println!("after the handshake {first:?}, after 81 round trips {last:?}");
    // Where instructions are emulated, a round trip takes hundreds of milliseconds, too.
    let [handshake, round_trips] = [2000, 400].map(|limit| Duration::from_millis(limit) * slowness());
    ensure!(first.iter().all(|timeout| *timeout < handshake), "{first:?}");
    ensure!(last.iter().all(|timeout| *timeout < round_trips), "{last:?}");
    Ok(())
}

/// The number wraps in the handshake, at the switch, just after it, and in the data.
#[test]
fn sequence_numbers_wrap() -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, Mode::Layered, "")?;
    let (client, server) = protected.ends();
    let listener = transfer::listen(&server, client.address.ip(), &Options::default())?;
    for before in [0, 1, 2, 100, 300, 500, 700, 900, 1200, 1500, 2500, 500_000] {
        let options = Options { isn: Some(0_u32.wrapping_sub(before)), ..Options::default() };
        transfer::exchange_on_connect(&client, server.address, &listener, 1 << 20, &options)
            .with_context(|| format!("{before} octets before the wrap"))?;
    }
    Ends::of(&protected).nothing_dropped_for(&NEVER)
}

/// A server that takes the ClientHello for its application's: a failure on both sides, and no octet of the client's.
#[test]
fn a_server_without_the_mode() -> Result<()> {
    let implicit = "key-management = \"implicit\"";
    let scene = Scene::new(&Mode::Layered.fields(""), implicit)?;
    // Its application answers garbage, or says something first, or says nothing.
    for answer in [None, Some(b"\x16\x03\x03\xff\xff garbage".as_slice()), Some(&[0xff; 19])] {
        let start = Instant::now();
        ensure!(scene.connect_against(answer)?.is_err(), "it connected");
        ensure!(start.elapsed() < DEADLINE, "it took {:.1?}", start.elapsed());
        let failure = scene.protected.agent1.wait_for_failure(&scene.protected.peer2(), SOON, &[])?;
        println!("{failure}");
        thread::sleep(Duration::from_secs(4));
    }
    scene.nothing_in_clear()
}

/// A client that speaks at once, as it knows of no handshake: its application is reset, the server's never asked.
#[test]
fn a_client_without_the_mode() -> Result<()> {
    let implicit = "key-management = \"implicit\"";
    let scene = Scene::new(implicit, &Mode::Layered.fields(""))?;
    let (client, server) = scene.protected.ends();
    let listener = transfer::listen(&server, client.address.ip(), &Options::default())?;
    for says in [b"\xff".repeat(19), b"\x16\x03\x01\x40\x00\x01".to_vec(), Vec::new(), vec![0; 100_000]] {
        let start = Instant::now();
        if let Ok(mut near) = transfer::connect(&client, server.address, &Options::default()) {
            near.set_read_timeout(Some(DEADLINE))?;
            let written = near.write_all(&says);
            let mut octets = Vec::new();
            let end = near.read_to_end(&mut octets);
            ensure!(octets.is_empty(), "the server's application said something");
            ensure!(written.is_err() || end.is_err(), "it ended as if all were well");
        }
        ensure!(start.elapsed() < DEADLINE, "it took {:.1?}", start.elapsed());
        let failure = scene.protected.agent2.wait_for_failure(&scene.protected.peer1(), SOON, &[])?;
        println!("{failure}");
        thread::sleep(Duration::from_secs(2));
    }
    listener.set_nonblocking(true)?;
    ensure!(listener.accept().is_err(), "the server's application was given a connection");
    Ok(())
}

/// No tcpauth at one end, or none that answers.
#[test]
fn a_peer_without_tcpauth() -> Result<()> {
    let network = Network::switched()?;
    let fields = Mode::Layered.fields("");
    let agent = Agent::start(&network.r1.namespace, &kmp::config(&network.r2, PASSWORD, &fields))?;
    tcpauth_tests::scenario::wait_attached(&agent, tcpauth_tests::network::INTERFACE)?;
    let (own, other) = (end(&network.r1, 0), end(&network.r2, 0));
    let port = |end: &transfer::End| {
        let address = SocketAddr::new(end.address.ip(), 179);
        end_at(&end.namespace, address)
    };
    let options = Options { connect_limit: Some(Duration::from_secs(4)), ..Options::default() };
    for (client, server) in [(&own, port(&other)), (&other, port(&own))] {
        let _listener = transfer::listen(&server, client.address.ip(), &options)?;
        ensure!(transfer::connect(client, server.address, &options).is_err(), "it connected");
    }
    ensure!(agent.dropped(&network.r2.v4.to_string(), "no-option")? > 0, "nothing was dropped");
    Ok(())
}

/// Whatever happens to the daemons, no octet of an application is sent but under agreed keys, and what a connection
/// carries is right.
#[test]
fn daemons_killed_at_random_moments() -> Result<()> {
    const PERIOD: Duration = Duration::from_secs(30);
    let mut protected = kmp::agreeing(Network::switched()?, Mode::Layered, "")?;
    let sniffer = protected.network.sniff()?;
    let (client, server) = protected.ends();
    let options = Options { connect_limit: Some(DEADLINE), ..Options::default() };
    let listener = transfer::listen(&server, client.address.ip(), &options)?;
    let (is_over, connected, refused) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| -> Result<()> {
        let echo = scope.spawn(|| serve(&listener, &is_over));
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while !is_over.load(Ordering::Relaxed) {
                        match transfer::connect(&client, server.address, &options) {
                            Ok(near) => {
                                // Reset while the server's end was switched: the application sees that, and no octets.
                                match talk(&near) {
                                    Ok(()) => connected.fetch_add(1, Ordering::Relaxed),
                                    Err(error) if error.downcast_ref::<std::io::Error>().is_some() => {
                                        refused.fetch_add(1, Ordering::Relaxed)
                                    }
                                    Err(error) => return Err(error),
                                };
                            }
                            Err(_) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                thread::sleep(Duration::from_millis(100));
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let mut random = Random(17);
        let start = Instant::now();
        let kills = || -> Result<u32> {
            let mut kills = 0;
            while start.elapsed() < PERIOD {
                thread::sleep(Duration::from_millis(random.below(600).into()));
                let agent = if random.below(2) == 0 { &mut protected.agent1 } else { &mut protected.agent2 };
                agent.end(libc::SIGKILL)?;
                agent.start_again()?;
                kills += 1;
            }
            // Long enough for the wait before another attempt, whatever had failed.
            thread::sleep(Duration::from_secs(5));
            Ok(kills)
        };
        let kills = { kills }();
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        echo.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        println!("{} daemons killed; {connected:?} connections, {refused:?} refused", kills?);
        Ok(())
    })?;
    ensure!(connected.load(Ordering::Relaxed) >= 20, "{connected:?} connections only");
    let near = eventually(Duration::from_secs(30), "a connection afterwards", || {
        Ok(Some(transfer::connect(&client, server.address, &options)?))
    })?;
    let far = transfer::accept_other_end(&listener, &near)?;
    transfer::exchange(near, far, 1 << 20)?;
    let said: Vec<_> = of_applications(&sniffer);
    ensure!(said.len() > 20, "{} segments of applications were seen", said.len());
    for segment in said {
        ensure!(is_agreed(&segment), "an application's octets under another key: {segment:?}");
    }
    Ok(())
}

/// Segments of the handshake, and of a whole connection, sent again by somebody who heard them.
#[test]
fn a_handshake_that_is_played_again() -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, Mode::Layered, "")?;
    let Protected { agent2, network, .. } = &protected;
    let sniffer = network.sniff()?;
    let (mut client, server) = protected.ends();
    client.address.set_port(40_000);
    let listener = transfer::listen(&server, client.address.ip(), &Options::default())?;
    let near = transfer::connect(&client, server.address, &Options::default())?;
    let mut far = transfer::accept(&listener)?;
    (&near).write_all(APPLICATION)?;
    far.read_exact(&mut [0; APPLICATION.len()])?;
    // Ends at once, so that the ports are free.
    socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO))?;
    drop((near, far));
    thread::sleep(Duration::from_millis(300));
    let mut past = sniffer.segments();
    past.retain(|segment| segment.source == client.address);
    ensure!(
        past.iter().any(|segment| segment.data.first() == Some(&0x16)),
        "no handshake was heard: {past:?}"
    );
    let before = Holdings::of(agent2)?;
    let attacker = network.attacker();
    for _ in 0..50 {
        for segment in &past {
            tcpauth_tests::wire::inject(attacker, &network.r2, segment)?;
        }
    }
    thread::sleep(Duration::from_millis(500));
    listener.set_nonblocking(true)?;
    ensure!(listener.accept().is_err(), "the application was given a connection of the past");
    listener.set_nonblocking(false)?;
    // From another port, while what was played again is still half open; and from the same one.
    transfer::exchange_on_connect(
        &end(&network.r1, 0),
        server.address,
        &listener,
        100_000,
        &Options::default(),
    )?;
    eventually(Duration::from_secs(40), "a connection from the same port", || {
        transfer::exchange_on_connect(&client, server.address, &listener, 1000, &Options::default())?;
        Ok(Some(()))
    })?;
    let now = Holdings::of(agent2)?;
    ensure!(now.descriptors <= before.descriptors + 2, "before {before:?}, now {now:?}");
    ensure!(now.sessions <= before.sessions + 3, "before {before:?}, now {now:?}");
    ensure!(now.kibibytes <= before.kibibytes + 8192, "before {before:?}, now {now:?}");
    Ok(())
}

/// Runs a session over IPv4 and one over IPv6, both of whose ends connect at will, each captured on the wire: a
/// handshake, then BGP under the keys that were agreed on.
fn over_both_families(session: impl Fn(&Network, IpAddr, IpAddr) -> Result<()>) -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, Mode::Layered, "")?;
    let network = &protected.network;
    for (a, b) in kmp::addresses(&network.r1).into_iter().zip(kmp::addresses(&network.r2)) {
        let wiretap = Wiretap::start(network)?;
        session(network, a, b).with_context(|| a.to_string())?;
        wiretap.finish_layered(&protected).with_context(|| a.to_string())?;
    }
    // The last acknowledgment of the handshake leaves by the daemon, what follows by the kernel, on any CPU.
    Ends::of(&protected).nothing_dropped_for(&NEVER_OUT_OF_ORDER)
}

/// Two routers of which one has no handshake, and someone who listens.
struct Scene {
    sniffer: Sniffer,
    protected: Protected,
}

impl Scene {
    fn new(fields1: &str, fields2: &str) -> Result<Self> {
        let network = Network::switched()?;
        let configs = [(&network.r2, fields1), (&network.r1, fields2)]
            .map(|(other, fields)| neighbor(&other.v4.to_string(), PASSWORD, fields));
        let protected = Protected::with(network, &configs[0], &configs[1])?;
        Ok(Self { sniffer: protected.network.sniff()?, protected })
    }

    /// The client's attempt at a server whose application says `answer` to whatever comes; if it got through, what it
    /// says goes out.
    fn connect_against(&self, answer: Option<&[u8]>) -> Result<Result<()>> {
        let (client, server) = self.protected.ends();
        let options = Options { connect_limit: Some(DEADLINE), ..Options::default() };
        let listener = transfer::listen(&server, client.address.ip(), &options)?;
        thread::scope(|scope| {
            let application = scope.spawn(|| -> Result<()> {
                let mut far = transfer::accept(&listener)?;
                far.set_read_timeout(Some(DEADLINE))?;
                if let Some(answer) = answer {
                    far.write_all(answer)?;
                }
                // Until it is reset, as it has to be.
                let end = far.read_to_end(&mut Vec::new());
                ensure!(end.is_err(), "the server's end was not reset");
                Ok(())
            });
            let attempt = transfer::connect(&client, server.address, &options)
                .and_then(|mut near| Ok(near.write_all(APPLICATION)?));
            application.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(attempt)
        })
    }

    fn nothing_in_clear(&self) -> Result<()> {
        let said = of_applications(&self.sniffer);
        ensure!(said.is_empty(), "an application was heard: {said:?}");
        Ok(())
    }
}

/// Says what an application says, and waits for the same.
fn talk(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(APPLICATION)?;
    let mut octets = [0; APPLICATION.len()];
    stream.read_exact(&mut octets)?;
    ensure!(octets == APPLICATION, "other octets arrived: {octets:?}");
    Ok(())
}

/// The other end of [`talk`], which speaks as early, for each connection until it is over.
fn serve(listener: &socket2::Socket, is_over: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    thread::scope(|scope| -> Result<()> {
        while !is_over.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(false)?;
                    let stream = TcpStream::from(socket);
                    scope.spawn(move || talk(&stream));
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
        Ok(())
    })?;
    listener.set_nonblocking(false)?;
    Ok(())
}

/// Segments on the wire with an application's octets.
fn of_applications(sniffer: &Sniffer) -> Vec<Segment> {
    let mut segments = sniffer.segments();
    segments.retain(|segment| segment.data.windows(16).any(|octets| octets == &APPLICATION[..16]));
    segments
}

/// Whether a segment is under a key that was agreed on: those have KeyIDs of their own.
fn is_agreed(segment: &Segment) -> bool {
    segment.tcp_ao().is_some_and(|(key_id, _)| key_id >= 128) && segment.flags & flags::SYN == 0
}

/// A counter of the kernel's TCP in `namespace`.
fn count(namespace: &Namespace, name: &str) -> Result<u64> {
    let text = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.find(|(found, _)| *found == name).with_context(|| format!("no {name}"))?;
    Ok(value.parse()?)
}

/// bgpd without zebra refuses routes by link-local addresses, as it knows no interface.
fn without_link_local(bird: Peering) -> Peering {
    Peering { hops: 2, ..bird }
}
