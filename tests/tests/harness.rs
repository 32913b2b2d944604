//! The harness by itself, without tcpauth: what the other tests build on.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use tcpauth_tests::{
    bgp::{self, Bird, Frr, GoBgp, Peering, Speaker},
    frame::flags,
    impair::Impairment,
    network::{INTERFACE, Network, Router, Wire},
    transfer::{self, End, Options},
    wait::eventually,
    wire::{self, Capture},
};

type Start = fn(&Router, &Peering) -> Result<Box<dyn Speaker>>;

fn ends(network: &Network, port: u16) -> (End, End) {
    let end = |router: &Router, port| End {
        namespace: router.namespace.clone(),
        address: SocketAddr::new(router.v4.into(), port),
    };
    (end(&network.r1, 0), end(&network.r2, port))
}

#[test]
fn every_bgp_daemon_speaks_with_bird() -> Result<()> {
    let speakers: [Start; 3] = [
        |router, peering| Ok(Box::new(Bird::start(&router.namespace, peering)?)),
        |router, peering| Ok(Box::new(Frr::start(&router.namespace, peering)?)),
        |router, peering| Ok(Box::new(GoBgp::start(&router.namespace, peering)?)),
    ];
    for start in speakers {
        let network = Network::switched()?;
        let (first, second) = Peering::pair(&network.r1, &network.r2);
        let a = start(&network.r1, &first.with_routes(300))?;
        let b = Bird::start(&network.r2.namespace, &second)?;
        bgp::wait_for_routes(&*a, &b, 10, 300)?;
        let since = (a.incarnation()?, b.incarnation()?);
        std::thread::sleep(Duration::from_millis(1200));
        let later = (a.incarnation()?, b.incarnation()?);
        ensure!(since == later, "a session that is up changes from {since:?} to {later:?}");
    }
    Ok(())
}

#[test]
fn bird_speaks_over_link_local_addresses() -> Result<()> {
    let network = Network::switched()?;
    let (first, second) = Peering::between(network.r1.link_local.into(), network.r2.link_local.into());
    let a = Bird::start(&network.r1.namespace, &first)?;
    let b = Bird::start(&network.r2.namespace, &second)?;
    bgp::wait_for_routes(&a, &b, 10, 10)
}

/// Without tcpauth a forged RST ends the session: the attacker's frames are good ones.
#[test]
fn an_unprotected_session_falls_to_a_forged_rst() -> Result<()> {
    let network = Network::switched()?;
    let (a, b) = bgp::birds(&network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let sniffer = network.sniff()?;
    let up = a.incarnation()?;
    eventually(Duration::from_secs(20), "the session to fall", || {
        let last = sniffer.next_from(&network.r2, &network.r1)?;
        wire::inject(network.attacker(), &network.r1, &wire::forge(&last, flags::RST, b""))?;
        std::thread::sleep(Duration::from_millis(200));
        Ok((a.incarnation()? != up).then_some(()))
    })
}

#[test]
fn super_packets_are_seen_as_such_and_captures_are_whole() -> Result<()> {
    let network = Network::switched()?;
    let folder = tempfile::tempdir()?;
    let (namespace, interface) = network.tap();
    let capture = Capture::start(namespace, interface, 179, &folder.path().join("wire.pcap"))?;
    let sniffer = network.sniff()?;
    let (client, server) = ends(&network, 179);
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 10 << 20)?;
    ensure!(sniffer.largest_frame() > 1514, "largest frame {}", sniffer.largest_frame());
    let file = capture.finish()?;
    ensure!(file.metadata()?.len() > 20 << 20, "{} octets captured", file.metadata()?.len());
    Ok(())
}

#[test]
fn an_impaired_path_loses_repeats_and_reorders() -> Result<()> {
    let impairment = Impairment { loss: 10, duplication: 10, reordering: 10, seed: 1 };
    let network = Network::with(Wire::Impaired(impairment), 1500)?;
    let sniffer = wire::Sniffer::start(&network.r2.namespace, INTERFACE)?;
    let (client, server) = ends(&network, 179);
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 5 << 20)?;
    let treated = network.middle.as_ref().and_then(|middle| middle.forwarder.as_ref()).map(|f| f.treated());
    ensure!(treated.is_some_and(|t| t.lost > 5 && t.duplicated > 5 && t.reordered > 5), "{treated:?}");
    ensure!(sniffer.largest_frame() <= 1514, "largest frame {}", sniffer.largest_frame());
    Ok(())
}

#[test]
fn the_isn_of_a_connection_can_be_chosen() -> Result<()> {
    let network = Network::switched()?;
    let sniffer = network.sniff()?;
    let (client, server) = ends(&network, 179);
    let options = Options { isn: Some(0xffff_ff00), ..Options::default() };
    let (near, far) = transfer::pair(&client, &server, &options)?;
    transfer::exchange(near, far, 1 << 20)?;
    let syn = sniffer.segments().into_iter().find(|segment| segment.flags == flags::SYN);
    ensure!(syn.as_ref().is_some_and(|syn| syn.seq == 0xffff_ff00), "{syn:?}");
    Ok(())
}

#[test]
fn tcp_md5_needs_the_same_password_at_both_ends() -> Result<()> {
    let network = Network::switched()?;
    let (client, server) = ends(&network, 179);
    let with = |password: &str| Options {
        md5: Some(password.to_owned()),
        connect_limit: Some(Duration::from_secs(2)),
        ..Options::default()
    };
    let (near, far) = transfer::pair(&client, &server, &with("same"))?;
    transfer::exchange(near, far, 1 << 20)?;
    let _listener = transfer::listen(&server, client.address.ip(), &with("one"))?;
    ensure!(transfer::connect(&client, server.address, &with("another")).is_err(), "it connected");
    Ok(())
}
