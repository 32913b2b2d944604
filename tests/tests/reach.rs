//! Whose a segment is, the kernel's sockets and routes decide too: the list of this host's addresses is not all.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    network::{INTERFACE, Network},
    scenario::{PASSWORD, Protected, end_at, neighbor, wait_attached},
    transfer::{self, Options},
};

const HASTE: Options = Options {
    md5: None,
    ao: None,
    isn: None,
    mark: 0,
    priority: 0,
    fast_open: false,
    connect_limit: Some(Duration::from_secs(3)),
};

/// `r1` takes in all of 203.0.113.0/24 and 2001:db8:113::/64, and `r2` sends it there.
fn with_local_routes() -> Result<Network> {
    let network = Network::switched()?;
    let (r1, r2) = (&network.r1, &network.r2);
    r1.namespace.ip(&["route", "add", "local", "203.0.113.0/24", "dev", "lo"])?;
    r1.namespace.ip(&["-6", "route", "add", "local", "2001:db8:113::/64", "dev", "lo"])?;
    r2.namespace.ip(&["route", "add", "203.0.113.0/24", "via", &r1.v4.to_string()])?;
    r2.namespace.ip(&["-6", "route", "add", "2001:db8:113::/64", "via", &r1.v6.to_string()])?;
    Ok(network)
}

#[test]
fn an_address_of_a_local_route_takes_no_unsigned_connection() -> Result<()> {
    for (forwarding, cookies) in [("0", "1"), ("1", "1"), ("1", "2")] {
        let network = with_local_routes()?;
        let (r1, r2) = (&network.r1, &network.r2);
        r1.namespace.sysctl("net.ipv4.ip_forward", forwarding)?;
        r1.namespace.sysctl("net.ipv6.conf.all.forwarding", forwarding)?;
        r1.namespace.sysctl("net.ipv4.tcp_syncookies", cookies)?;
        let config =
            [neighbor("192.0.2.2", PASSWORD, ""), neighbor(&r2.v6.to_string(), PASSWORD, "")].concat();
        let agent = Agent::start(&r1.namespace, &config)?;
        wait_attached(&agent, INTERFACE)?;
        let ends: [(IpAddr, &str, &str); 2] = [
            (r2.v4.into(), "0.0.0.0:179", "203.0.113.9:179"),
            (r2.v6.into(), "[::]:179", "[2001:db8:113::9]:179"),
        ];
        for (peer, listening, reached) in ends {
            let _server =
                transfer::listen(&end_at(&r1.namespace, listening.parse()?), peer, &Options::default())?;
            let client = end_at(&r2.namespace, SocketAddr::new(peer, 0));
            let connected = transfer::connect(&client, reached.parse()?, &HASTE);
            ensure!(connected.is_err(), "an unsigned connection to {reached} came up");
            let dropped = agent.dropped(&peer.to_string(), "no-option")?;
            ensure!(dropped > 0, "forwarding {forwarding}: the SYN to {reached} was not refused on arrival");
        }
    }
    Ok(())
}

#[test]
fn an_address_of_a_local_route_takes_signed_connections() -> Result<()> {
    let network = with_local_routes()?;
    network.r1.namespace.sysctl("net.ipv4.ip_forward", "1")?;
    let configs = [neighbor("192.0.2.2", PASSWORD, ""), neighbor("203.0.113.9", PASSWORD, "")];
    let Protected { network, .. } = &Protected::with(network, &configs[0], &configs[1])?;
    let sniffer = network.sniff()?;
    let server = transfer::listen(
        &end_at(&network.r1.namespace, "0.0.0.0:179".parse()?),
        network.r2.v4.into(),
        &Options::default(),
    )?;
    let client = end_at(&network.r2.namespace, SocketAddr::new(network.r2.v4.into(), 0));
    let near = transfer::connect(&client, "203.0.113.9:179".parse()?, &Options::default())?;
    let far = server.accept()?.0.into();
    transfer::exchange(near, far, 1 << 20)?;
    let naked = sniffer.segments().into_iter().filter(|segment| segment.tcp_ao().is_none()).count();
    ensure!(naked == 0, "{naked} segments without the option");
    Ok(())
}

/// A socket that listens on all addresses is found for those of other hosts too.
#[test]
fn a_strangers_session_crosses_a_host_that_listens_on_all_addresses() -> Result<()> {
    let protected = Protected::switched()?;
    let network = &protected.network;
    let stranger = network.attacker();
    let _server = transfer::listen(
        &end_at(&network.r1.namespace, "0.0.0.0:179".parse()?),
        network.r2.v4.into(),
        &Options::default(),
    )?;
    for key in ["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"] {
        network.r1.namespace.sysctl(key, "1")?;
    }
    for key in ["net.ipv4.conf.all.send_redirects", "net.ipv4.conf.eth0.send_redirects"] {
        network.r1.namespace.sysctl(key, "0")?;
    }
    for (router, other) in [(stranger, network.r2.v4), (&network.r2, stranger.v4)] {
        router.namespace.ip(&["route", "add", &format!("{other}/32"), "via", &network.r1.v4.to_string()])?;
        router.namespace.sysctl("net.ipv4.conf.all.accept_redirects", "0")?;
    }
    // The neighbor connects to the stranger, through r1.
    let server = end_at(&stranger.namespace, SocketAddr::new(stranger.v4.into(), 179));
    let client = end_at(&network.r2.namespace, SocketAddr::new(network.r2.v4.into(), 0));
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 1 << 20)?;
    let dropped = protected.agent1.dropped_in_all(&protected.peer2())?;
    ensure!(dropped == 0, "r1 dropped {dropped} of the stranger's segments");
    Ok(())
}
