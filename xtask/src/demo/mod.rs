//! `cargo xtask demo`: two routers, an attacker, a wrong password.

mod screen;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::hide_logs,
    bgp::{self, Bird, Speaker},
    binaries::use_folder,
    frame::{Segment, flags},
    independent, namespace,
    network::Network,
    scenario::{PASSWORD, Protected, neighbor},
    wait::{eventually, steadily},
    wire::{self, Capture},
};

use self::screen::{explain, show, step};
use crate::{build::programs_under_test, command::require_root, setup};

/// Shows tcpauth at work, and fails if anything is not as it says.
pub fn run() -> Result<()> {
    require_root("`cargo xtask demo`")?;
    step("Install what is missing, and build");
    setup::for_demo()?;
    use_folder(programs_under_test()?);
    namespace::sweep()?;
    hide_logs();
    let folder = tempfile::tempdir()?;

    step("Two routers, r1 (192.0.2.1) and r2 (192.0.2.2), on a switch with a third host, the attacker");
    let network = Network::switched()?;
    explain("in network namespaces of their own, which are removed at the end");

    step("tcpauthd on both, with a line for the neighbor");
    let protected = Protected::over_v4(network, "")?;
    show("r2's /etc/tcpauth/tcpauth.toml", &fs::read_to_string(protected.agent2.config_file())?);

    step("BIRD on both, which does not know of tcpauth");
    let capture = start_capture(&protected.network, folder.path())?;
    let (bird1, bird2) = bgp::birds(&protected.network)?;
    bgp::wait_for_routes(&bird1, &bird2, 10, 10)?;
    show("r1# birdc show protocols", &bird1.birdc(&["show", "protocols", "bgp_neighbor"])?);
    show("r1# birdc show route (the first lines)", &first_lines(&bird1.birdc(&["show", "route"])?, 5));
    show("r1# tcpauth status", &protected.agent1.tcpauth(&["status"])?);
    show("r1# tcpauth session show", &protected.agent1.tcpauth(&["session", "show"])?);

    step("What was on the wire, verified by a program that shares no code with tcpauth");
    verify_wire(&protected, capture)?;

    step("The attacker sends r1 a forged RST, and forged data: right addresses, ports and sequence number");
    attack(&protected, &bird1, &bird2)?;

    step("r2 is given another password");
    wrong_password(&protected, &bird1, bird2)?;

    step("All as it should be; removing what was made");
    Ok(())
}

fn start_capture(network: &Network, folder: &Path) -> Result<Capture> {
    let (namespace, interface) = network.tap();
    Capture::start(namespace, interface, 179, &folder.join("wire.pcap"))
}

fn verify_wire(protected: &Protected, capture: Capture) -> Result<()> {
    // Keepalives, sent every second.
    std::thread::sleep(Duration::from_secs(3));
    let file = capture.finish()?;
    let segment = independent::verify(&file, PASSWORD, &["--show", "1"])?;
    show("one captured segment, the MAC computed again by verify_capture.py (Python's hmac)", &segment);
    let name = file.to_str().context("the folder's name is not UTF-8")?;
    let config = protected.agent1.config_file();
    let config = config.to_str().context("the folder's name is not UTF-8")?;
    show("r1# tcpauth verify wire.pcap", &protected.agent1.tcpauth(&["verify", name, "--config", config])?);
    Ok(())
}

fn attack(protected: &Protected, bird1: &Bird, bird2: &Bird) -> Result<()> {
    let Protected { agent1, network, .. } = protected;
    let peer = protected.peer2();
    let incarnations = (bird1.incarnation()?, bird2.incarnation()?);
    let sniffer = network.sniff()?;
    let attacks: [(&str, u8, &[u8]); 2] =
        [("RST", flags::RST, b""), ("data", flags::ACK | flags::PSH, b"forged")];
    for (name, flags, data) in attacks {
        let before = agent1.dropped_in_all(&peer)?;
        let last = sniffer.next_from(&network.r2, &network.r1)?;
        let forged = wire::forge(&last, flags, data);
        wire::inject(network.attacker(), &network.r1, &forged)?;
        explain(&format!("sent {name}: {}", describe(&forged)));
        eventually(Duration::from_secs(3), "the forged segment to be dropped and counted", || {
            Ok((agent1.dropped_in_all(&peer)? == before + 1).then_some(()))
        })?;
    }
    show(&format!("r1# tcpauth neighbor show {peer}"), &agent1.tcpauth(&["neighbor", "show", &peer])?);
    steadily(Duration::from_secs(2), "the session is up", || {
        Ok(incarnations == (bird1.incarnation()?, bird2.incarnation()?) && bird1.is_established()?)
    })?;
    explain("both dropped and counted, and the session is still the same one");
    show("r1# birdc show protocols", &bird1.birdc(&["show", "protocols", "bgp_neighbor"])?);
    Ok(())
}

fn wrong_password(protected: &Protected, bird1: &Bird, bird2: Bird) -> Result<()> {
    let Protected { agent1, agent2, network } = protected;
    let (peer1, peer2) = (protected.peer1(), protected.peer2());
    bird2.end(libc::SIGTERM)?;
    eventually(Duration::from_secs(15), "the old session to end", || {
        Ok((!bird1.is_established()?).then_some(()))
    })?;
    agent2.configure(&neighbor(&peer1, "another", ""))?;
    show("r2# tcpauth reload", &agent2.tcpauth(&["reload"])?);
    let bird2 = Bird::start(&network.r2.namespace, &bgp::Peering::pair(&network.r1, &network.r2).1)?;
    eventually(Duration::from_secs(20), "tcpauth to say why the session does not come up", || {
        let neighbor = agent1.neighbor(&peer2)?;
        Ok((neighbor["state"] == "failing" && neighbor["last_drop"]["reason"] == "wrong-mac").then_some(()))
    })?;
    steadily(Duration::from_secs(5), "the session stays down", || {
        Ok(!bird1.is_established()? && !bird2.is_established()?)
    })?;
    show("r1# birdc show protocols", &bird1.birdc(&["show", "protocols", "bgp_neighbor"])?);
    let status = agent1.tcpauth(&["status"])?;
    ensure!(status.contains(&peer2), "status does not show the neighbor");
    show("r1# tcpauth status", &status);
    Ok(())
}

fn describe(segment: &Segment) -> String {
    let Segment { source, destination, seq, ack, .. } = segment;
    format!("{source} > {destination}, seq {seq}, ack {ack}, {} octets of data", segment.data.len())
}

fn first_lines(text: &str, count: usize) -> String {
    text.lines().take(count).collect::<Vec<_>>().join("\n")
}
