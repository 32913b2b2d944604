//! TCP-MD5 (RFC 2385) with neighbours that have the kernel's, and know nothing of tcpauth.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Frr, Peering, Speaker},
    frame::Segment,
    independent, link,
    namespace::Namespace,
    network::{INTERFACE, Network, Wire},
    scenario::{PASSWORD, end_at, neighbor, wait_attached},
    streams::Streams,
    transfer::{self, End, Options},
    wait::eventually,
    wire::Capture,
};

const WIRE: &str = "wire = \"md5\"";

const SOON: Duration = Duration::from_secs(10);

/// Kind of the timestamps option.
const TIMESTAMPS: u8 = 8;

#[test]
fn data_both_ways_with_the_kernels_tcp_md5() -> Result<()> {
    for v6 in [false, true] {
        for native_connects in [false, true] {
            let context = || format!("IPv6: {v6}, the neighbour connects: {native_connects}");
            let legacy = Legacy::new(Wire::Switch, v6)?;
            let sniffer = legacy.network.sniff()?;
            let capture = legacy.capture()?;
            let (near, far) = legacy.connection(native_connects).with_context(context)?;
            transfer::exchange(near, far, 3 << 20).with_context(context)?;
            legacy.is_verified(capture).with_context(context)?;
            let with_timestamps = sniffer.segments().into_iter().find(has_timestamps);
            ensure!(with_timestamps.is_none(), "{}: timestamps: {with_timestamps:?}", context());
            legacy.nothing_good_was_dropped().with_context(context)?;
        }
    }
    Ok(())
}

/// Between containers and on virtio, frames arrive with a checksum that only covers the pseudo-header.
#[test]
fn a_held_segment_with_a_partial_checksum_is_not_lost() -> Result<()> {
    for v6 in [false, true] {
        for native_connects in [false, true] {
            let legacy = Legacy::with_offloads(Network::with(Wire::Direct, 1500)?, v6)?;
            let (near, far) = legacy.connection(native_connects)?;
            transfer::exchange(near, far, 1 << 16)?;
            let errors = checksum_errors(&legacy.network.r1.namespace)?;
            // Each would cost a retransmission, and a connection a second.
            ensure!(
                errors == 0,
                "IPv6: {v6}, the neighbor connects: {native_connects}: {errors} wrong checksums"
            );
        }
    }
    Ok(())
}

#[test]
fn jumbo_frames() -> Result<()> {
    let legacy = Legacy::with(Network::with(Wire::Switch, 9000)?, false)?;
    let (near, far) = legacy.connection(false)?;
    transfer::exchange(near, far, 10 << 20)?;
    legacy.nothing_good_was_dropped()
}

#[test]
fn another_password_than_the_kernels() -> Result<()> {
    let legacy = Legacy::new(Wire::Switch, false)?;
    let md5 = Options { md5: Some("another".to_owned()), ..Options::default() };
    let soon = Options { connect_limit: Some(Duration::from_secs(3)), ..md5 };
    let listener =
        transfer::listen(&legacy.tcpauth(179), legacy.native(0).address.ip(), &Options::default())?;
    let connected = transfer::connect(&legacy.native(0), legacy.tcpauth(179).address, &soon);
    ensure!(connected.is_err(), "it connected");
    drop(listener);
    eventually(Duration::from_secs(5), "the wrong MACs to be counted", || {
        Ok((legacy.agent.dropped(&legacy.peer(), "wrong-mac")? > 0).then_some(()))
    })?;
    let neighbor = legacy.agent.neighbor(&legacy.peer())?;
    ensure!(neighbor["state"] == "failing", "{neighbor}");
    Ok(())
}

#[test]
fn status_says_that_it_is_obsolete() -> Result<()> {
    let legacy = Legacy::new(Wire::Direct, false)?;
    let status = legacy.agent.tcpauth(&["status"])?.to_lowercase();
    ensure!(status.contains("md5") && status.contains("deprecated"), "{status}");
    Ok(())
}

/// RFC 4808: we know the new password first, go on with the old one, and follow the neighbour.
#[test]
fn the_neighbor_changes_its_password_and_ours_follows() -> Result<()> {
    for v6 in [false, true] {
        let legacy = Legacy::new(Wire::Switch, v6)?;
        let (agent, peer) = (&legacy.agent, &legacy.peer());
        let (near, far) = legacy.connection(false)?;
        let native = far.try_clone()?;
        let our_address = near.local_addr()?.ip();
        let streams = Streams::start(vec![(near, far)])?;
        for (old, password) in [(0, "the next one"), (1, "the one after that")] {
            let new = old + 1;
            agent.add_key(peer, password, &[&format!("--number={new}")])?;
            streams.wait_until_all_move(SOON)?;
            let key = agent.key(peer, old)?;
            ensure!(
                key["sending_sessions"] == 1 && key["receiving_sessions"] == 1,
                "not before the peer: {key}"
            );
            transfer::set_md5(&native, our_address, password)?;
            eventually(SOON, "ours to follow", || {
                let key = agent.key(peer, new)?;
                ensure!(key["sending_sessions"] == 1 && key["receiving_sessions"] == 1, "{key}");
                Ok(Some(()))
            })?;
            streams.wait_until_all_move(SOON)?;
            agent.retire_key(peer, old)?;
            streams.wait_until_all_move(SOON)?;
        }
        streams.finish()?;
    }
    Ok(())
}

#[test]
fn bird_with_a_password() -> Result<()> {
    peers(false, 10, |network, peering| Ok(Box::new(Bird::start(&network.r2.namespace, peering)?)))
}

#[test]
fn bird_with_a_password_over_ipv6() -> Result<()> {
    peers(true, 10, |network, peering| Ok(Box::new(Bird::start(&network.r2.namespace, peering)?)))
}

#[test]
fn frr_with_a_password() -> Result<()> {
    peers(false, 10, |network, peering| Ok(Box::new(Frr::start(&network.r2.namespace, peering)?)))
}

#[test]
fn frr_with_a_password_over_ipv6() -> Result<()> {
    // Without zebra it does not know its interfaces, and takes no next hop with a link-local address.
    peers(true, 0, |network, peering| Ok(Box::new(Frr::start(&network.r2.namespace, peering)?)))
}

/// A session of BIRD above tcpauth with a daemon that has the kernel's TCP-MD5 and then so many routes; either
/// connects.
fn peers(
    v6: bool,
    routes: u32,
    native: impl Fn(&Network, &Peering) -> Result<Box<dyn Speaker>>,
) -> Result<()> {
    let legacy = Legacy::new(Wire::Switch, v6)?;
    let network = &legacy.network;
    for passive in [true, false] {
        let (first, second) = Peering::between(legacy.tcpauth(0).address.ip(), legacy.native(0).address.ip());
        let capture = legacy.capture()?;
        let second = Peering { md5: Some(PASSWORD.to_owned()), passive, ..second };
        let b = native(network, &second)?;
        let a = Bird::start(&network.r1.namespace, &Peering { passive: !passive, ..first })?;
        bgp::wait_for_routes(&a, &*b, 10, routes)
            .with_context(|| format!("the neighbour is passive: {passive}"))?;
        let incarnations = (a.incarnation()?, b.incarnation()?);
        // Longer than the hold time.
        thread::sleep(bgp::hold_time() + Duration::from_secs(1));
        ensure!((a.incarnation()?, b.incarnation()?) == incarnations, "the session was down meanwhile");
        legacy.is_verified(capture)?;
    }
    legacy.nothing_good_was_dropped()
}

/// Returns how many TCP segments the kernel has dropped because of their checksums.
fn checksum_errors(namespace: &Namespace) -> Result<u64> {
    let counters = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let mut counters = names.split(' ').zip(values.split(' '));
    let (_, errors) = counters.find(|(name, _)| *name == "InCsumErrors").context("no InCsumErrors")?;
    Ok(errors.parse()?)
}

fn has_timestamps(segment: &Segment) -> bool {
    let mut rest = &segment.options[..];
    loop {
        match *rest {
            [TIMESTAMPS, ..] => return true,
            [1, ref after @ ..] => rest = after,
            [kind, length, ..] if kind != 0 && (2..=rest.len()).contains(&length.into()) => {
                rest = &rest[usize::from(length)..];
            }
            _ => return false,
        }
    }
}

/// `r1` with tcpauth, and `r2` with no more than its kernel.
struct Legacy {
    agent: Agent,
    v6: bool,
    folder: tempfile::TempDir,
    network: Network,
}

impl Legacy {
    fn new(wire: Wire, v6: bool) -> Result<Self> {
        Self::with(Network::with(wire, 1500)?, v6)
    }

    fn with(network: Network, v6: bool) -> Result<Self> {
        // Else the capture has segments of its kernel before their checksums are filled in.
        link::disable_offloads(&network.r2.namespace, INTERFACE)?;
        Self::with_offloads(network, v6)
    }

    /// The same, where the neighbor's kernel leaves checksums to its interface.
    fn with_offloads(network: Network, v6: bool) -> Result<Self> {
        let peer: IpAddr = if v6 { network.r2.v6.into() } else { network.r2.v4.into() };
        let agent = Agent::start(&network.r1.namespace, &neighbor(&peer.to_string(), PASSWORD, WIRE))?;
        wait_attached(&agent, INTERFACE)?;
        Ok(Self { agent, v6, folder: tempfile::tempdir()?, network })
    }

    fn tcpauth(&self, port: u16) -> End {
        let router = &self.network.r1;
        let address = if self.v6 { router.v6.into() } else { router.v4.into() };
        end_at(&router.namespace, SocketAddr::new(address, port))
    }

    fn native(&self, port: u16) -> End {
        let router = &self.network.r2;
        let address = if self.v6 { router.v6.into() } else { router.v4.into() };
        end_at(&router.namespace, SocketAddr::new(address, port))
    }

    /// The neighbour as it is configured.
    fn peer(&self) -> String {
        self.native(0).address.ip().to_string()
    }

    /// A connection, the end of tcpauth first.
    fn connection(&self, native_connects: bool) -> Result<(std::net::TcpStream, std::net::TcpStream)> {
        let plain = Options::default();
        let md5 = Options { md5: Some(PASSWORD.to_owned()), ..Options::default() };
        if native_connects {
            let server = self.tcpauth(179);
            let listener = transfer::listen(&server, self.native(0).address.ip(), &plain)?;
            let far = transfer::connect(&self.native(0), server.address, &md5)?;
            Ok((transfer::accept(&listener)?, far))
        } else {
            let server = self.native(179);
            let listener = transfer::listen(&server, self.tcpauth(0).address.ip(), &md5)?;
            let near = transfer::connect(&self.tcpauth(0), server.address, &plain)?;
            Ok((near, transfer::accept(&listener)?))
        }
    }

    fn capture(&self) -> Result<Capture> {
        let (namespace, interface) = self.network.tap();
        Capture::start(namespace, interface, 179, &self.folder.path().join("wire.pcap"))
    }

    /// Everything on the wire is as RFC 2385 says.
    fn is_verified(&self, capture: Capture) -> Result<()> {
        let options = ["--algorithm", "md5", "--mtu", "1500"];
        let said = independent::verify(&capture.finish()?, PASSWORD, &options)?;
        ensure!(said.contains(", failed 0, without option 0, bad checksum 0"), "{said}");
        println!("{said}");
        Ok(())
    }

    fn nothing_good_was_dropped(&self) -> Result<()> {
        for reason in ["wrong-mac", "no-option", "wrong-length", "malformed", "merged", "old-key", "no-key"] {
            let dropped = self.agent.dropped(&self.peer(), reason)?;
            ensure!(dropped == 0, "{dropped} segments dropped: {reason}");
        }
        Ok(())
    }
}
