//! Every way to come from a secret to the key of a connection, with every algorithm, over both families.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    bgp::{self, Speaker},
    independent,
    network::{INTERFACE, Network},
    scenario::{PASSWORD, Protected, end_at, neighbor},
    transfer::{self, Options},
    wire::Capture,
};

const ALGORITHMS: [&str; 5] =
    ["hmac-sha-1-96", "aes-128-cmac-96", "hmac-sha-256-96", "hmac-sha-256-128", "siphash-2-4-96"];

/// A mode's field, and what the independent verifier calls its KDF.
const MODES: [(&str, &str); 3] = [
    ("key-management = \"implicit\"", "rfc5926"),
    ("kdf = \"isn\"", "isn"),
    ("key-management = \"static\"", "none"),
];

#[test]
fn every_mode_with_every_algorithm_over_both_families() -> Result<()> {
    let network = Network::switched()?;
    let pairs = pairs();
    let mut configs = [String::new(), String::new()];
    for pair in &pairs {
        let more = format!("{}, algorithm = \"{}\", port = {}", pair.mode.0, pair.algorithm, pair.port);
        for (config, peer) in configs.iter_mut().zip([pair.server, pair.client]) {
            *config += &neighbor(&peer.to_string(), PASSWORD, &more);
        }
        for (router, address) in [(&network.r1, pair.client), (&network.r2, pair.server)] {
            let address = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
            router.namespace.ip(&["address", "add", &address, "dev", INTERFACE])?;
        }
    }
    let protected = &Protected::with(network, &configs[0], &configs[1])?;
    let network = &protected.network;
    let folder = tempfile::tempdir()?;
    let (namespace, interface) = network.tap();
    let file = folder.path().join("wire.pcap");
    let capture = Capture::matching(namespace, interface, "tcp", &file)?;
    thread::scope(|scope| {
        let transfers: Vec<_> = pairs.iter().map(|pair| scope.spawn(|| pair.exchange(network))).collect();
        pairs.iter().zip(transfers).try_for_each(|(pair, transfer)| {
            transfer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .with_context(|| pair.name())
        })
    })?;
    let file = capture.finish()?;
    for pair in &pairs {
        let port = pair.port.to_string();
        let options = ["--kdf", pair.mode.1, "--algorithm", pair.algorithm, "--port", &port, "--mtu", "1500"];
        let said = independent::verify(&file, PASSWORD, &options).with_context(|| pair.name())?;
        ensure!(said.contains(", failed 0, without option 0, bad checksum 0"), "{}: {said}", pair.name());
        for (agent, peer) in [(&protected.agent1, pair.server), (&protected.agent2, pair.client)] {
            let dropped = agent.dropped_in_all(&peer.to_string())?;
            ensure!(
                dropped == 0,
                "{}: {dropped} segments dropped: {}",
                pair.name(),
                agent.neighbor(&peer.to_string())?
            );
        }
    }
    Ok(())
}

/// Both daemons connect at once: the client of `kdf = "isn"` is who sent the SYN, or the lower end.
#[test]
fn bird_and_bird_in_every_mode() -> Result<()> {
    for (mode, kdf) in &MODES[1..] {
        let protected = &Protected::over_v4(Network::switched()?, mode)?;
        let folder = tempfile::tempdir()?;
        let (namespace, interface) = protected.network.tap();
        let capture = Capture::start(namespace, interface, 179, &folder.path().join("wire.pcap"))?;
        let (a, b) = bgp::birds(&protected.network)?;
        bgp::wait_for_routes(&a, &b, 10, 10).with_context(|| mode.to_string())?;
        thread::sleep(Duration::from_secs(4));
        ensure!(a.is_established()? && b.is_established()?, "{mode}: the session did not stay up");
        independent::verify(&capture.finish()?, PASSWORD, &["--kdf", kdf, "--mtu", "1500"])?;
    }
    Ok(())
}

/// Two addresses that are neighbours in a mode of their own.
struct Pair {
    client: IpAddr,
    server: IpAddr,
    port: u16,
    mode: (&'static str, &'static str),
    algorithm: &'static str,
}

impl Pair {
    fn name(&self) -> String {
        format!("{}, {}, {}", self.mode.0, self.algorithm, self.client)
    }

    fn exchange(&self, network: &Network) -> Result<()> {
        let client = end_at(&network.r1.namespace, SocketAddr::new(self.client, 0));
        let server = end_at(&network.r2.namespace, SocketAddr::new(self.server, self.port));
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        transfer::exchange(near, far, 100_000)?;
        Ok(())
    }
}

fn pairs() -> Vec<Pair> {
    let choices = MODES.into_iter().flat_map(|mode| ALGORITHMS.map(|algorithm| (mode, algorithm)));
    let numbered = (0..).zip(choices);
    let of_both_families = numbered.flat_map(|(number, (mode, algorithm))| {
        [false, true].map(|v6| {
            let address = |host: u16| -> IpAddr {
                if v6 {
                    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xfeed, host).into()
                } else {
                    Ipv4Addr::new(192, 0, 2, host as u8).into()
                }
            };
            let port = 2000 + 2 * number + u16::from(v6);
            Pair { client: address(100 + number), server: address(200 + number), port, mode, algorithm }
        })
    });
    of_both_families.collect()
}
