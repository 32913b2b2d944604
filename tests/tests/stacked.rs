//! Interfaces of this host whose frames pass another one first, with a tag or trailer that it takes off: MACsec, HSR and
//! PRP. Needs a kernel that has them, and says that it was not run where it does not: `cargo xtask test --kernel 7.x-rt
//! stacked` runs it in a virtual machine.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Peering},
    namespace::Namespace,
    network::{INTERFACE, Network, Router},
    scenario::{PASSWORD, end_at, neighbor, wait_attached},
    transfer::{self, Options},
};

/// The interface above.
const ABOVE: &str = "above0";
/// The second port of a ring.
const SECOND: &str = "eth1";
/// What tests of MACsec encrypt with.
const KEY: &str = "2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b";
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];

#[test]
fn session_over_macsec_is_protected() -> Result<()> {
    let network = Network::switched()?;
    for (own, other) in [(&network.r1, &network.r2), (&network.r2, &network.r1)] {
        let kind = ["type", "macsec", "encrypt", "off"];
        if !made(&own.namespace, &[&["link", INTERFACE][..], &kind].concat()) {
            return Ok(());
        }
        let peer = other.mac_text();
        let receiving = ["rx", "port", "1", "address", &peer];
        let key = ["pn", "1", "on", "key", "01", KEY];
        let macsec = |what: &[&str]| own.namespace.ip(&[&["macsec", "add", ABOVE], what].concat());
        macsec(&[&["tx", "sa", "0"][..], &key].concat())?;
        macsec(&receiving)?;
        macsec(&[&receiving[..], &["sa", "0"], &key].concat())?;
    }
    is_protected(&network)
}

/// The tag in front hides the segment from the programs below.
#[test]
fn session_over_hsr_is_protected() -> Result<()> {
    over_a_ring("0")
}

/// The trailer leaves the segment readable below, where it is verified first.
#[test]
fn session_over_prp_is_protected() -> Result<()> {
    over_a_ring("1")
}

fn over_a_ring(protocol: &str) -> Result<()> {
    let network = Network::switched()?;
    network.add_link(SECOND)?;
    for router in [&network.r1, &network.r2] {
        let ports = ["type", "hsr", "slave1", INTERFACE, "slave2", SECOND, "proto", protocol];
        if !made(&router.namespace, &ports) {
            return Ok(());
        }
    }
    is_protected(&network)
}

/// Makes the interface above. False, and says that the test was not run, if this kernel has none of its kind.
fn made(namespace: &Namespace, kind: &[&str]) -> bool {
    let (link, kind) = kind.split_at(kind.iter().position(|word| *word == "type").unwrap_or_default());
    let made = namespace.ip(&[&["link", "add"], link, &["name", ABOVE], kind].concat());
    if let Err(error) = &made {
        println!("NOT RUN: this kernel has no such interface: {error:#}");
    }
    made.is_ok()
}

fn is_protected(network: &Network) -> Result<()> {
    let routers = [&network.r1, &network.r2];
    for (router, address) in routers.iter().zip(ADDRESSES) {
        router.namespace.ip(&["address", "add", &format!("{address}/24"), "dev", ABOVE])?;
        router.namespace.ip(&["link", "set", ABOVE, "up"])?;
    }
    let start = |router: &Router, peer: &str| -> Result<Agent> {
        let agent = Agent::start(&router.namespace, &neighbor(peer, PASSWORD, ""))?;
        wait_attached(&agent, ABOVE)?;
        Ok(agent)
    };
    let peers = ADDRESSES.map(|address| address.to_string());
    let client = end_at(&network.r1.namespace, (ADDRESSES[0], 0).into());
    let server = end_at(&network.r2.namespace, (ADDRESSES[1], 179).into());
    let second = start(&network.r2, &peers[0])?;
    // The first end adds no MAC yet.
    let options = Options { connect_limit: Some(Duration::from_secs(3)), ..Options::default() };
    ensure!(transfer::pair(&client, &server, &options).is_err(), "an unsigned connection came up");
    let refused = || second.dropped(&peers[0], "no-option");
    let before = refused()?;
    ensure!(before > 0, "{}", second.neighbor(&peers[0])?);
    let first = start(&network.r1, &peers[1])?;
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 1 << 20)?;
    let (one, other) = Peering::between(ADDRESSES[0].into(), ADDRESSES[1].into());
    let a = Bird::start(&network.r1.namespace, &one.with_routes(100))?;
    let b = Bird::start(&network.r2.namespace, &other)?;
    bgp::wait_for_routes(&a, &b, 10, 100)?;
    for (agent, peer) in [(&first, &peers[1]), (&second, &peers[0])] {
        let shown = agent.neighbor(peer)?;
        ensure!(shown["state"] == "established", "{shown}");
    }
    ensure!(refused()? == before, "{}", second.neighbor(&peers[0])?);
    Ok(())
}
