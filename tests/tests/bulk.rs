//! Much data through protected sessions: every octet arrives, every segment verifies.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    impair::{Impairment, Treated},
    independent,
    network::{Network, Wire},
    scenario::{PASSWORD, Protected, end, end_at, neighbor},
    transfer::{self, Options},
    wire::Capture,
};

const HUNDRED_MEGABYTES: u64 = 100_000_000;

#[test]
fn a_hundred_megabytes_each_way() -> Result<()> {
    exchange(Network::switched()?, HUNDRED_MEGABYTES)?;
    Ok(())
}

#[test]
fn a_hundred_megabytes_each_way_in_jumbo_frames() -> Result<()> {
    exchange(Network::with(Wire::Switch, 9000)?, HUNDRED_MEGABYTES)?;
    Ok(())
}

#[test]
fn over_ipv6() -> Result<()> {
    let network = Network::switched()?;
    let configs = [network.r2.v6, network.r1.v6].map(|peer| neighbor(&peer.to_string(), PASSWORD, ""));
    let Protected { agent1, agent2, network } = &Protected::with(network, &configs[0], &configs[1])?;
    let client = end_at(&network.r1.namespace, SocketAddr::new(network.r1.v6.into(), 0));
    let server = end_at(&network.r2.namespace, SocketAddr::new(network.r2.v6.into(), 179));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 20 << 20)?;
    nothing_good_was_dropped(agent1, &network.r2.v6.to_string())?;
    nothing_good_was_dropped(agent2, &network.r1.v6.to_string())
}

#[test]
fn with_and_without_timestamps_and_sack() -> Result<()> {
    for (timestamps, sack) in [("0", "0"), ("0", "1"), ("1", "0")] {
        let network = Network::switched()?;
        network.sysctl("net.ipv4.tcp_timestamps", timestamps)?;
        network.sysctl("net.ipv4.tcp_sack", sack)?;
        captured(network, 10 << 20, &Options::default(), "1500")
            .with_context(|| format!("timestamps {timestamps}, SACK {sack}"))?;
    }
    Ok(())
}

#[test]
fn every_segment_of_a_bulk_transfer_verifies() -> Result<()> {
    captured(Network::switched()?, 5 << 20, &Options::default(), "1500")
}

#[test]
fn every_segment_in_jumbo_frames_verifies() -> Result<()> {
    captured(Network::with(Wire::Switch, 9000)?, 5 << 20, &Options::default(), "9000")
}

#[test]
fn sequence_numbers_that_wrap() -> Result<()> {
    // The last before the wrap is the SYN's own, the first of data, or far inside the data.
    for isn in [u32::MAX, u32::MAX - 1, 0u32.wrapping_sub(1 << 20)] {
        let options = Options { isn: Some(isn), ..Options::default() };
        captured(Network::switched()?, 3 << 20, &options, "1500").with_context(|| format!("ISN {isn:#x}"))?;
    }
    Ok(())
}

#[test]
fn with_loss_duplication_and_reordering() -> Result<()> {
    let impairment = Impairment { loss: 10, duplication: 10, reordering: 20, seed: 7 };
    let options = Options { isn: Some(0u32.wrapping_sub(1 << 20)), ..Options::default() };
    for sack in ["1", "0"] {
        let network = Network::with(Wire::Impaired(impairment), 1500)?;
        network.sysctl("net.ipv4.tcp_sack", sack)?;
        let protected = Protected::over_v4(network, "")?;
        exchange_on(&protected, 10 << 20, &options)?;
        let forwarder = protected.network.middle.as_ref().and_then(|middle| middle.forwarder.as_ref());
        let Treated { lost, duplicated, reordered } = forwarder.context("no forwarder")?.treated();
        ensure!(lost > 20 && duplicated > 20 && reordered > 20, "{lost} {duplicated} {reordered}");
    }
    Ok(())
}

#[test]
fn other_flows_keep_their_super_packets() -> Result<()> {
    let protected = Protected::switched()?;
    let (_, server) = protected.ends();
    let sniffer = protected.network.sniff()?;
    let other = end(&protected.network.r2, 5001);
    let (near, far) = transfer::pair(&end(&protected.network.r1, 0), &other, &Options::default())?;
    transfer::exchange(near, far, 20 << 20)?;
    ensure!(sniffer.largest_frame() > 9000, "no super-packet: largest frame {}", sniffer.largest_frame());
    let with_option = sniffer.segments().iter().filter(|segment| segment.tcp_ao().is_some()).count();
    ensure!(with_option == 0, "{with_option} segments of another port carry TCP-AO");
    drop(sniffer);

    let sniffer = protected.network.sniff()?;
    let (near, far) = transfer::pair(&end(&protected.network.r1, 0), &server, &Options::default())?;
    transfer::exchange(near, far, 5 << 20)?;
    ensure!(sniffer.largest_frame() <= 1514, "a protected super-packet of {}", sniffer.largest_frame());
    Ok(())
}

/// Either end may be the one that listens on the neighbour's port.
#[test]
fn the_neighbor_connects_too() -> Result<()> {
    let protected = Protected::switched()?;
    let (client, server) = (end(&protected.network.r2, 0), end(&protected.network.r1, 179));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 5 << 20)?;
    Ok(())
}

fn exchange(network: Network, octets: u64) -> Result<Protected> {
    let protected = Protected::over_v4(network, "")?;
    exchange_on(&protected, octets, &Options::default())?;
    Ok(protected)
}

fn exchange_on(protected: &Protected, octets: u64, options: &Options) -> Result<()> {
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, options)?;
    let took = transfer::exchange(near, far, octets)?;
    println!("{octets} octets each way in {took:.1?}");
    nothing_good_was_dropped(&protected.agent1, &protected.peer2())?;
    nothing_good_was_dropped(&protected.agent2, &protected.peer1())
}

/// What a peer sent was not taken for forged. Segments that come after the end of their session, or again
/// after their time, may be dropped.
fn nothing_good_was_dropped(agent: &Agent, peer: &str) -> Result<()> {
    for reason in ["wrong-mac", "no-option", "unknown-key-id", "wrong-length", "malformed", "merged"] {
        let dropped = agent.dropped(peer, reason)?;
        ensure!(dropped == 0, "{dropped} segments dropped: {reason}");
    }
    Ok(())
}

fn captured(network: Network, octets: u64, options: &Options, mtu: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let protected = Protected::over_v4(network, "")?;
    let (namespace, interface) = protected.network.tap();
    let capture = Capture::start(namespace, interface, 179, &folder.path().join("wire.pcap"))?;
    exchange_on(&protected, octets, options)?;
    let said = independent::verify(&capture.finish()?, PASSWORD, &["--mtu", mtu])?;
    println!("{said}");
    Ok(())
}
