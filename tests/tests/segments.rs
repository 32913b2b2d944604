//! Every way in which the kernel sends a segment: all leave with a MAC, and the peer verifies them.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{SockRef, TcpKeepalive};
use tcpauth_tests::{
    frame::{Segment, flags},
    impair::Impairment,
    independent,
    network::{Network, Wire},
    scenario::{PASSWORD, Protected, end_at, neighbor},
    transfer::{self, End, Options},
    wait::eventually,
    wire::{self, Capture, Sniffer},
};

/// How soon what is told by one segment is known at the other end.
const SOON: Duration = Duration::from_millis(900);

#[test]
fn a_reset_of_a_live_connection() -> Result<()> {
    for wires in [Wires::v4()?, Wires::v6()?] {
        for server_resets in [false, true] {
            let (near, far) = wires.connection()?;
            let (resetting, mut other) = if server_resets { (far, near) } else { (near, far) };
            SockRef::from(&resetting).set_linger(Some(Duration::ZERO))?;
            drop(resetting);
            let start = Instant::now();
            is_reset(other.read(&mut [0]))?;
            ensure!(start.elapsed() < SOON, "the reset took {:?}", start.elapsed());
        }
        wires.all_verified(|segments| count(segments, |segment| segment.flags & flags::RST != 0) >= 2)?;
    }
    Ok(())
}

#[test]
fn a_reset_of_a_closed_connection() -> Result<()> {
    for wires in [Wires::v4()?, Wires::v6()?] {
        closed_with_unread_data(&wires)?;
        closed_before_the_data(&wires)?;
        no_longer_there(&wires)?;
        wires.all_verified(|segments| count(segments, |segment| segment.flags & flags::RST != 0) >= 3)?;
    }
    Ok(())
}

fn closed_with_unread_data(wires: &Wires) -> Result<()> {
    let (mut near, far) = wires.connection()?;
    near.write_all(b"nobody reads this")?;
    far.peek(&mut [0])?;
    drop(far);
    is_reset(near.read(&mut [0]))
}

fn closed_before_the_data(wires: &Wires) -> Result<()> {
    let (mut near, far) = wires.connection()?;
    drop(far);
    ensure!(near.read(&mut [0])? == 0, "no FIN");
    near.write_all(b"too late")?;
    eventually(SOON, "writing to be refused", || {
        let refused = near.write(b"more").is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        Ok(refused.then_some(()))
    })
}

/// The socket goes without a word, as by a crash: the reset is sent without any.
fn no_longer_there(wires: &Wires) -> Result<()> {
    let (mut near, far) = wires.connection()?;
    transfer::vanish(far)?;
    eventually(SOON, "the connection to be reset", || {
        let reset = near.write(b"hello").is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
        Ok(reset.then_some(()))
    })
}

#[test]
fn a_port_where_nobody_listens() -> Result<()> {
    for wires in [Wires::v4()?, Wires::v6()?] {
        for _ in 0..3 {
            let start = Instant::now();
            let error = match transfer::connect(&wires.client, wires.server.address, &Options::default()) {
                Ok(_) => anyhow::bail!("somebody listens"),
                Err(error) => error,
            };
            let took = start.elapsed();
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            ensure!(kind == Some(io::ErrorKind::ConnectionRefused), "{error:#}");
            ensure!(took < SOON, "refused only after {took:?}");
        }
        wires.all_verified(|segments| count(segments, |segment| segment.flags & flags::RST != 0) == 3)?;
    }
    Ok(())
}

#[test]
fn an_acknowledgment_in_time_wait() -> Result<()> {
    let wires = Wires::v4()?;
    let (mut near, mut far) = wires.connection()?;
    near.shutdown(Shutdown::Write)?;
    ensure!(far.read(&mut [0])? == 0, "no FIN");
    drop(far);
    ensure!(near.read(&mut [0])? == 0, "no FIN back");
    drop(near);
    let fin = |segment: &Segment| wires.is_from_server(segment) && segment.flags & flags::FIN != 0;
    let fin = eventually(SOON, "the FIN on the wire", || Ok(wires.sniffer.segments().into_iter().find(fin)))?;
    // The kernel answers a repeated FIN at most twice a second.
    thread::sleep(SOON);
    let before = wires.sniffer.segments().len();
    let network = &wires.protected.network;
    wire::inject(network.attacker(), &network.r1, &fin)?;
    eventually(SOON, "an answer to the repeated FIN", || {
        let segments = wires.sniffer.segments();
        let answer = |segment: &Segment| {
            segment.flags == flags::ACK && segment.ack == fin.next_seq() && segment.data.is_empty()
        };
        Ok(segments[before..]
            .iter()
            .any(|segment| !wires.is_from_server(segment) && answer(segment))
            .then_some(()))
    })?;
    wires.all_verified(|_| true)
}

#[test]
fn keepalive_probes() -> Result<()> {
    let wires = Wires::v4()?;
    let (near, far) = wires.connection()?;
    let second = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3);
    SockRef::from(&near).set_tcp_keepalive(&keepalive)?;
    SockRef::from(&near).set_tcp_user_timeout(Some(3 * second))?;
    let before = wires.sniffer.segments().len();
    thread::sleep(Duration::from_millis(4500));
    let idle = wires.sniffer.segments().split_off(before);
    let probes = count(&idle, |segment| !wires.is_from_server(segment) && segment.data.is_empty());
    let answers = count(&idle, |segment| wires.is_from_server(segment) && segment.data.is_empty());
    ensure!(probes >= 3 && answers >= 3, "{probes} probes, {answers} answers");
    transfer::ping(&near, &far)?;
    wires.all_verified(|_| true)
}

#[test]
fn zero_window_probes() -> Result<()> {
    // More than all buffers hold.
    const OCTETS: u64 = 16 << 20;
    let wires = Wires::v4()?;
    let (near, far) = wires.connection()?;
    SockRef::from(&near).set_send_buffer_size(64 << 10)?;
    thread::scope(|scope| {
        let sender = scope.spawn(|| transfer::send(&near, OCTETS, 3));
        let closed = |segment: &Segment| wires.is_from_server(segment) && segment.window == 0;
        wires.sniffer.next(Duration::from_secs(10), "the window to close", closed)?;
        let before = wires.sniffer.segments().len();
        thread::sleep(Duration::from_secs(3));
        let full = wires.sniffer.segments().split_off(before);
        let probes = count(&full, |segment| !wires.is_from_server(segment) && segment.data.is_empty());
        let answers = count(&full, closed);
        ensure!(!sender.is_finished(), "all was sent, though nobody read");
        ensure!(probes >= 2 && answers >= 2, "{probes} probes, {answers} answers");
        transfer::receive(&far, OCTETS, 3)?;
        sender.join().map_err(|_| anyhow!("the sender panicked"))?
    })?;
    wires.all_verified(|_| true)
}

#[test]
fn one_direction_after_the_other_closes() -> Result<()> {
    for wires in [Wires::v4()?, Wires::v6()?] {
        for server_first in [false, true] {
            let (near, far) = wires.connection()?;
            let (first, second) = if server_first { (far, near) } else { (near, far) };
            transfer::send_one_way(&first, &second, 1 << 10)?;
            transfer::send_one_way(&second, &first, 1 << 20)?;
        }
        wires.all_verified(|segments| count(segments, |segment| segment.flags & flags::FIN != 0) >= 4)?;
    }
    Ok(())
}

#[test]
fn retransmissions() -> Result<()> {
    let impairment = Impairment { loss: 20, seed: 11, ..Impairment::default() };
    let network = Network::with(Wire::Impaired(impairment), 1500)?;
    network.sysctl("net.ipv4.tcp_sack", "1")?;
    let wires = Wires::over_v4(network)?;
    let (near, far) = wires.connection()?;
    transfer::exchange(near, far, 3 << 20)?;
    let network = &wires.protected.network;
    let forwarder = network.middle.as_ref().and_then(|middle| middle.forwarder.as_ref());
    let treated = forwarder.context("no forwarder")?.treated();
    ensure!(treated.lost > 20, "{treated:?}");
    wires.all_verified(|segments| {
        let sack = |segment: &Segment| segment.options.windows(2).any(|kinds| kinds == [5, 10]);
        count(segments, sack) > 10
    })
}

/// Held for its keys, as each SYN, and not lost for its length: it would be sent again after a second, without data.
#[test]
fn a_syn_full_of_data() -> Result<()> {
    const AMOUNT: usize = 4000;
    for wires in [Wires::v4()?, Wires::v6()?] {
        let options = Options { fast_open: true, ..Options::default() };
        let listener = transfer::listen(&wires.server, wires.client.address.ip(), &options)?;
        let mut near = transfer::connect(&wires.client, wires.server.address, &options)?;
        near.write_all(&[7; AMOUNT])?;
        let mut received = [0; AMOUNT];
        transfer::accept(&listener)?.read_exact(&mut received)?;
        ensure!(received == [7; AMOUNT], "other data arrived");
        wires.all_verified(|segments| {
            let is_full = |segment: &Segment| segment.flags & flags::SYN != 0 && segment.data.len() > 1300;
            count(segments, is_full) == 1
        })?;
    }
    Ok(())
}

/// What was sent before is authentic, so it verifies; and TCP has it already, so it takes nothing from it.
#[test]
fn old_segments_of_the_same_connection() -> Result<()> {
    let wires = Wires::v4()?;
    let (mut near, mut far) = wires.connection()?;
    let (mut old, mut replayed) = (Vec::new(), 0);
    for round in 0..20_u8 {
        let sent = [round; 300];
        near.write_all(&sent)?;
        let mut buffer = [0; 300];
        far.read_exact(&mut buffer)?;
        ensure!(buffer == sent, "other data arrived in round {round}");
        old = wires.sniffer.segments();
        old.retain(|segment| !wires.is_from_server(segment) && segment.flags & flags::SYN == 0);
        wires.replay(&old)?;
        replayed += old.len() as u64;
    }
    ensure!(count(&old, |segment| !segment.data.is_empty()) >= 19, "too few segments were replayed");
    near.shutdown(Shutdown::Write)?;
    ensure!(far.read(&mut [0])? == 0, "more arrived than was sent");
    eventually(SOON, "what was replayed to be verified", || {
        let neighbor = wires.protected.agent2.neighbor(&wires.peers[1])?;
        let verified = neighbor["counters"]["verified_segments"].as_u64().context("no counter")?;
        ensure!(verified > old.len() as u64 + replayed, "{verified} were, {replayed} replayed");
        Ok(Some(()))
    })?;
    wires.all_verified(|_| true)
}

/// All that a client sent, again: while a later connection of the same ports lives, and after that.
#[test]
fn a_connection_of_the_past() -> Result<()> {
    let mut wires = Wires::v4()?;
    wires.client.address.set_port(40_000);
    let listener = transfer::listen(&wires.server, wires.client.address.ip(), &Options::default())?;
    let connect = || -> Result<_> {
        let near = transfer::connect(&wires.client, wires.server.address, &Options::default())?;
        Ok((near, transfer::accept(&listener)?))
    };
    let (mut near, mut far) = connect()?;
    near.write_all(b"of the past")?;
    far.read_exact(&mut [0; 11])?;
    // Ends without TIME-WAIT, so that the ports can be used again at once.
    SockRef::from(&near).set_linger(Some(Duration::ZERO))?;
    drop(near);
    is_reset(far.read(&mut [0]))?;
    drop(far);
    thread::sleep(Duration::from_millis(200));
    let mut past = wires.sniffer.segments();
    past.retain(|segment| !wires.is_from_server(segment));
    ensure!(past.len() >= 4, "SYN, ACK, data and RST are not all in {past:?}");
    wires.none_dropped()?;

    let (near, far) = connect()?;
    wires.replay(&past)?;
    wires.refused(past.len() as u64 - 1)?;
    transfer::exchange(near, far, 1 << 20)?;

    let refused = wires.refused(0)?;
    wires.replay(&past)?;
    wires.refused(refused + past.len() as u64 - 1)?;
    listener.set_read_timeout(Some(Duration::from_secs(2)))?;
    ensure!(listener.accept().is_err(), "the connection of the past came up again");
    Ok(())
}

/// Two protected routers and all that is on the wire between them.
struct Wires {
    client: End,
    server: End,
    /// The server as the client's agent has it configured, and the client as the server's has.
    peers: [String; 2],
    sniffer: Sniffer,
    capture: Option<Capture>,
    _folder: tempfile::TempDir,
    protected: Protected,
}

impl Wires {
    fn v4() -> Result<Self> {
        Self::over_v4(Network::switched()?)
    }

    fn over_v4(network: Network) -> Result<Self> {
        let addresses =
            [SocketAddr::new(network.r1.v4.into(), 0), SocketAddr::new(network.r2.v4.into(), 179)];
        Self::between(network, addresses)
    }

    fn v6() -> Result<Self> {
        let network = Network::switched()?;
        let addresses =
            [SocketAddr::new(network.r1.v6.into(), 0), SocketAddr::new(network.r2.v6.into(), 179)];
        Self::between(network, addresses)
    }

    fn between(network: Network, [client, server]: [SocketAddr; 2]) -> Result<Self> {
        let peers = [server, client].map(|peer| peer.ip().to_string());
        let configs = peers.each_ref().map(|peer| neighbor(peer, PASSWORD, ""));
        let protected = Protected::with(network, &configs[0], &configs[1])?;
        let network = &protected.network;
        let (client, server) = (end_at(&network.r1.namespace, client), end_at(&network.r2.namespace, server));
        let folder = tempfile::tempdir()?;
        let (namespace, interface) = network.tap();
        let capture = Some(Capture::start(namespace, interface, 179, &folder.path().join("wire.pcap"))?);
        let sniffer = network.sniff()?;
        Ok(Self { client, server, peers, sniffer, capture, _folder: folder, protected })
    }

    /// A new connection that has carried data, the client's end first.
    fn connection(&self) -> Result<(TcpStream, TcpStream)> {
        let (near, far) = transfer::pair(&self.client, &self.server, &Options::default())?;
        transfer::ping(&near, &far)?;
        Ok((near, far))
    }

    fn is_from_server(&self, segment: &Segment) -> bool {
        segment.source == self.server.address
    }

    /// Sends the server what the client once sent.
    fn replay(&self, segments: &[Segment]) -> Result<()> {
        let network = &self.protected.network;
        let (attacker, target) = (network.attacker(), &network.r2);
        let frames: Vec<_> = segments.iter().map(|segment| segment.frame(attacker.mac, target.mac)).collect();
        wire::inject_frames(attacker, &frames)
    }

    /// Waits until the server's agent has refused `least` segments, for the reasons there are to refuse one of
    /// the past, and gives how many it has.
    fn refused(&self, least: u64) -> Result<u64> {
        eventually(Duration::from_secs(5), "what is of the past to be refused", || {
            let mut refused = 0;
            for reason in ["wrong-mac", "outside-window", "no-session"] {
                refused += self.protected.agent2.dropped(&self.peers[1], reason)?;
            }
            ensure!(refused >= least, "{refused} of {least} are");
            Ok(Some(refused))
        })
    }

    fn none_dropped(&self) -> Result<()> {
        for (agent, peer) in
            [(&self.protected.agent1, &self.peers[0]), (&self.protected.agent2, &self.peers[1])]
        {
            let counters = agent.neighbor(peer)?["counters"].clone();
            ensure!(agent.dropped_in_all(peer)? == 0, "segments of {peer} dropped: {counters}");
        }
        Ok(())
    }

    /// No agent has dropped anything, the independent verifier finds no fault with anything on the wire, and what
    /// `was_seen` looks for was there.
    fn all_verified(mut self, was_seen: impl FnOnce(&[Segment]) -> bool) -> Result<()> {
        let file = self.capture.take().context("no capture")?.finish()?;
        ensure!(was_seen(&self.sniffer.segments()), "what this is about was not on the wire");
        let said = independent::verify(&file, PASSWORD, &["--mtu", "1500"])?;
        ensure!(said.contains(", failed 0, without option 0, bad checksum 0"), "{said}");
        self.none_dropped()
    }
}

fn is_reset(result: io::Result<usize>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        other => Err(anyhow!("no reset but {other:?}")),
    }
}

fn count(segments: &[Segment], accept: impl Fn(&Segment) -> bool) -> usize {
    segments.iter().filter(|segment| accept(segment)).count()
}
