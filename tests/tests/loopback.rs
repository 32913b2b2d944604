//! Sessions between loopbacks, with a third router between: daemons reach each other from the addresses that the
//! sessions have, not from those of the interfaces on the way.

use std::{
    net::{Ipv4Addr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{Bird, Peering, Speaker},
    kmp::{self, Mode, REKEYING},
    namespace::Namespace,
    network::{INTERFACE, veth},
    scenario::{PASSWORD, end_at, neighbor, wait_attached},
    transfer::{self, Options},
    wait::eventually,
};

const LOOPBACKS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 255, 0, 1), Ipv4Addr::new(10, 255, 0, 2)];

#[test]
fn sessions_get_new_keys() -> Result<()> {
    for mode in Mode::ALL {
        let domain = Domain::start(mode, REKEYING)?;
        let birds = domain.establish([false, false])?;
        domain.wait_for_new_keys().with_context(|| mode.name())?;
        birds.stayed_up()?;
    }
    Ok(())
}

/// The end that waits for the peer to connect is the one whose daemon has the lower address and opens the channel.
#[test]
fn the_end_that_dials_may_be_passive() -> Result<()> {
    let domain = Domain::start(Mode::External, "")?;
    let birds = domain.establish([true, false])?;
    kmp::close_channels(&domain.routers[0])?;
    thread::sleep(Duration::from_secs(1));
    domain.wait_for_channels()?;
    birds.stayed_up()
}

/// The daemon learns the addresses anew from the sessions that are up.
#[test]
fn daemons_restart_under_sessions() -> Result<()> {
    for mode in Mode::ALL {
        let mut domain = Domain::start(mode, REKEYING)?;
        let birds = domain.establish([false, false])?;
        domain.agents.iter_mut().try_for_each(|agent| agent.end(libc::SIGKILL))?;
        domain.agents.iter_mut().try_for_each(|agent| agent.start_again().map(drop))?;
        if mode == Mode::External {
            domain.wait_for_channels()?;
        }
        domain.wait_for_new_keys().with_context(|| mode.name())?;
        birds.stayed_up()?;
    }
    Ok(())
}

/// The address of the channel is taken away, with a session that has it or after it: it is not tried again and again, and
/// once it is back the channel is, too.
#[test]
fn an_address_that_is_gone_is_not_tried() -> Result<()> {
    for is_session_up in [false, true] {
        let domain = Domain::start(Mode::External, "")?;
        let connection = domain.connect()?;
        let _session = is_session_up.then_some(connection);
        domain.wait_for_channels()?;
        // So that the daemon has seen the session in its rounds.
        thread::sleep(Duration::from_secs(7));
        let [first, _] = &domain.routers;
        let own = format!("{}/32", LOOPBACKS[0]);
        first.ip(&["address", "del", &own, "dev", "lo"])?;
        kmp::close_channels(first)?;
        let is_given_up = || -> Result<()> {
            let channel = domain.agents[0].kmp(&LOOPBACKS[1].to_string())?["channel"].clone();
            ensure!(channel["state"] == "awaited", "{channel}");
            let text = channel["text"].as_str().unwrap_or_default();
            ensure!(text.contains("our address 10.255.0.1"), "{channel}");
            Ok(())
        };
        eventually(Duration::from_secs(20), "the address to be given up", || is_given_up().map(Some))?;
        for _ in 0..30 {
            thread::sleep(Duration::from_millis(50));
            is_given_up().with_context(|| format!("with a session: {is_session_up}"))?;
        }
        first.ip(&["address", "add", &own, "dev", "lo"])?;
        domain.wait_for_channels()?;
    }
    Ok(())
}

/// Two routers of one autonomous system, each with a loopback, and the router between them.
struct Domain {
    agents: [Agent; 2],
    routers: [Namespace; 2],
    _transit: Namespace,
}

/// The BGP daemons, and how often their session has come up.
struct Session {
    birds: [Bird; 2],
    incarnations: [String; 2],
}

impl Domain {
    fn start(mode: Mode, more: &str) -> Result<Self> {
        let transit = Namespace::create("transit")?;
        transit.sysctl("net.ipv4.ip_forward", "1")?;
        let routers = [Namespace::create("r1")?, Namespace::create("r2")?];
        for (number, (router, own)) in routers.iter().zip(LOOPBACKS).enumerate() {
            let port = format!("to-r{}", number + 1);
            router.ip(&veth(INTERFACE, &transit, &port))?;
            router.ip(&["address", "add", &format!("{own}/32"), "dev", "lo"])?;
            router.ip(&["address", "add", &format!("198.18.{number}.1/24"), "dev", INTERFACE])?;
            router.ip(&["link", "set", INTERFACE, "up"])?;
            transit.ip(&["address", "add", &format!("198.18.{number}.254/24"), "dev", &port])?;
            transit.ip(&["link", "set", &port, "up"])?;
            transit.ip(&["route", "add", &format!("{own}/32"), "via", &format!("198.18.{number}.1")])?;
            router.ip(&["route", "add", "default", "via", &format!("198.18.{number}.254")])?;
        }
        let fields = mode.fields(more);
        let agent = |router: &Namespace, other: Ipv4Addr| -> Result<Agent> {
            let agent = Agent::start(router, &neighbor(&other.to_string(), PASSWORD, &fields))?;
            wait_attached(&agent, INTERFACE)?;
            Ok(agent)
        };
        let agents = [agent(&routers[0], LOOPBACKS[1])?, agent(&routers[1], LOOPBACKS[0])?];
        Ok(Self { agents, routers, _transit: transit })
    }

    /// Waits until the iBGP session is up; each end connects, or only waits for the other to connect.
    fn establish(&self, passive: [bool; 2]) -> Result<Session> {
        let [a, b] = LOOPBACKS;
        let bird = |number: usize, local: Ipv4Addr, peer: Ipv4Addr| {
            let (peering, _) = Peering::between(local.into(), peer.into());
            let peering = Peering { peer_as: peering.local_as, hops: 2, passive: passive[number], ..peering };
            Bird::start(&self.routers[number], &peering)
        };
        let birds = [bird(0, a, b)?, bird(1, b, a)?];
        eventually(Duration::from_secs(60), "the session between the loopbacks", || {
            Ok((birds[0].is_established()? && birds[1].is_established()?).then_some(()))
        })?;
        let incarnations = [birds[0].incarnation()?, birds[1].incarnation()?];
        Ok(Session { birds, incarnations })
    }

    /// A connection that stays up when an address goes, as that of a BGP daemon does which does not look at interfaces.
    fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let [client, server] = [0, 1].map(|number| {
            let port = if number == 1 { 179 } else { 0 };
            end_at(&self.routers[number], (LOOPBACKS[number], port).into())
        });
        let connection = transfer::pair(&client, &server, &Options::default())?;
        transfer::ping(&connection.0, &connection.1)?;
        Ok(connection)
    }

    fn wait_for_channels(&self) -> Result<()> {
        let mut peers = self.agents.iter().zip(LOOPBACKS.iter().rev());
        peers.try_for_each(|(agent, peer)| kmp::wait_for_channel(agent, &peer.to_string()))
    }

    /// Waits until the keys of the session are younger than they were, at both ends.
    fn wait_for_new_keys(&self) -> Result<()> {
        self.agents.iter().try_for_each(kmp::wait_for_new_keys)
    }
}

impl Session {
    fn stayed_up(&self) -> Result<()> {
        let now = [self.birds[0].incarnation()?, self.birds[1].incarnation()?];
        ensure!(now == self.incarnations, "the session was down meanwhile");
        Ok(())
    }
}
