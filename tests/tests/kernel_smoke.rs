//! What depends on the kernel, once each: hooks, the socket table, timers, packet sockets. `cargo xtask test` runs this on
//! this machine's kernel with the rest, and on each supported one in a virtual machine.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Peering, Speaker},
    frame::{Segment, flags, tcp_ao_option},
    keys::{Ends, NEVER},
    kmp::{self, AgreedKey, Mode},
    network::{INTERFACE, Network, Router},
    scenario::{PASSWORD, Protected, neighbor},
    tcx,
    wait::eventually,
    wire::{self, Sniffer},
};

const SOON: Duration = Duration::from_secs(15);

/// One pair of daemons for all of that: to verify programs is most of what this takes in a virtual machine.
#[test]
fn bgp_outlives_adoption_forged_segments_a_roll_and_its_daemons() -> Result<()> {
    let network = Network::switched()?;
    let sessions = Sessions::start(&network)?;
    let mut protected = passwords(network, "unauthenticated = \"accept-until-authenticated\"")?;
    for agent in [&protected.agent1, &protected.agent2] {
        ensure!(attached(agent)? == tcx::hook()?, "attached by {}", attached(agent)?);
    }
    sessions_are_adopted(&protected)?;
    sessions.stay_up()?;
    let sniffer = protected.network.sniff()?;
    for family in Family::ALL {
        forged_segments_are_dropped(&protected, &sniffer, family).with_context(|| format!("{family:?}"))?;
    }
    sessions.stay_up()?;
    let peers = Family::ALL.map(|family| [family.peer(&protected, 1), family.peer(&protected, 2)]);
    let both = |protected: &Protected, change: &dyn Fn(&Agent, &str) -> Result<()>| -> Result<()> {
        for [peer1, peer2] in &peers {
            change(&protected.agent1, peer1)?;
            change(&protected.agent2, peer2)?;
        }
        Ok(())
    };
    let algorithm = &["--algorithm=hmac-sha-256-128"];
    both(&protected, &|agent, peer| agent.add_key(peer, "another secret", algorithm))?;
    both(&protected, &|agent, peer| agent.roll_key(peer))?;
    both(&protected, &|agent, peer| agent.wait_until_rolled(peer, 1, SOON))?;
    both(&protected, &|agent, peer| agent.retire_key(peer, 0))?;
    for agent in [&protected.agent1, &protected.agent2] {
        agent.tcpauth(&["config", "write"])?;
    }
    sessions.stay_up()?;
    protected.agent1.end(libc::SIGKILL)?;
    protected.agent2.end(libc::SIGKILL)?;
    thread::sleep(bgp::hold_time() + Duration::from_secs(1));
    sessions.stay_up()?;
    protected.agent1.start_again()?;
    protected.agent2.start_again()?;
    let verified = |protected: &Protected| -> Result<Vec<u64>> {
        let peers = Family::ALL.map(|family| family.peer(protected, 1));
        peers.iter().map(|peer| verified_segments(&protected.agent1, peer)).collect()
    };
    let before = verified(&protected)?;
    thread::sleep(bgp::hold_time() + Duration::from_secs(1));
    sessions.stay_up()?;
    // Connections that collided may still be listed as closed.
    let mut known = protected.agent1.sessions()?;
    known.retain(|session| session["state"] == "established");
    ensure!(known.len() == 2, "{known:?}");
    let after = verified(&protected)?;
    ensure!(before.iter().zip(&after).all(|(before, after)| after > before), "{before:?} {after:?}");
    drop(sessions);
    // The first ones came up without tcpauth.
    Sessions::start(&protected.network)?.stay_up()
}

/// Both ends take over what is up, and the second is told to sign by what the first sends.
fn sessions_are_adopted(protected: &Protected) -> Result<()> {
    let in_state = |agent: &Agent, peer: &str, state: &str| {
        eventually(SOON, &format!("{peer} to be {state}"), || {
            let found = agent.neighbor(peer)?;
            ensure!(found["state"] == state && found["sessions"] == 1, "{found}");
            Ok(Some(()))
        })
    };
    for family in Family::ALL {
        let peer1 = family.peer(protected, 1);
        in_state(&protected.agent1, &peer1, "unsigned")?;
        in_state(&protected.agent2, &family.peer(protected, 2), "unsigned")?;
        protected.agent1.tcpauth(&["neighbor", "sign", &peer1])?;
    }
    for family in Family::ALL {
        for (agent, number) in [(&protected.agent1, 1), (&protected.agent2, 2)] {
            let peer = family.peer(protected, number);
            in_state(agent, &peer, "established")?;
            ensure!(agent.dropped_in_all(&peer)? == 0, "{}", agent.neighbor(&peer)?);
        }
    }
    Ok(())
}

/// Beside the connections over IPv4, on those over IPv6.
#[test]
fn keys_are_agreed_on_and_replaced() -> Result<()> {
    let network = Network::switched()?;
    let config = |other: &Router| {
        let with = |peer: IpAddr, mode: Mode| neighbor(&peer.to_string(), PASSWORD, &mode.fields(""));
        with(other.v4.into(), Mode::External) + &with(other.v6.into(), Mode::Layered)
    };
    let agent1 = Agent::start_logging_keys(&network.r1.namespace, &config(&network.r2))?;
    let agent2 = Agent::start_logging_keys(&network.r2.namespace, &config(&network.r1))?;
    let protected = Protected::of_agents(network, agent1, agent2)?;
    kmp::wait_for_channel(&protected.agent1, &protected.peer2())?;
    let sessions = Sessions::start(&protected.network)?;
    let ends = Ends::of(&protected);
    // While one daemon is slow to start or to agree, what the other sends is refused, and comes again.
    let refused =
        || ends.0.iter().map(|end| dropped_for(end.agent, &end.peer, &NEVER)).collect::<Result<Vec<_>>>();
    let refused_before = refused()?;
    for family in Family::ALL {
        let peer = family.peer(&protected, 1);
        let agreed = || -> Result<usize> {
            let of_bgp = |key: &&AgreedKey| {
                key.peer.ip().to_string() == peer && [key.local.port(), key.peer.port()].contains(&179)
            };
            Ok(protected.agent1.agreed_keys()?.iter().filter(of_bgp).count())
        };
        let before = agreed()?;
        ensure!(before > 0, "{family:?}: no keys were agreed on");
        protected.agent1.refresh_keys(&peer)?;
        eventually(SOON, &format!("new keys for {peer}"), || Ok((agreed()? > before).then_some(())))?;
        protected.agent1.wait_until_rolled(&peer, 1, SOON)?;
    }
    ensure!(refused()? == refused_before, "{refused_before:?} became {:?}", refused()?);
    sessions.stay_up()
}

/// How many segments of `peer` were dropped for any of `reasons`.
fn dropped_for(agent: &Agent, peer: &str, reasons: &[&str]) -> Result<u64> {
    reasons.iter().map(|reason| agent.dropped(peer, reason)).sum()
}

fn attached(agent: &Agent) -> Result<String> {
    let status = agent.status()?;
    let interfaces = status["interfaces"].as_array().context("status has no interfaces")?;
    let found = interfaces.iter().find(|found| found["name"] == INTERFACE).context("no such interface")?;
    Ok(found["attached"].as_str().unwrap_or_default().to_owned())
}

/// Routers that protect their sessions over both families by the README's password.
fn passwords(network: Network, more: &str) -> Result<Protected> {
    let configs = [&network.r2, &network.r1].map(|other| kmp::config(other, PASSWORD, more));
    Protected::with(network, &configs[0], &configs[1])
}

fn verified_segments(agent: &Agent, peer: &str) -> Result<u64> {
    agent.neighbor(peer)?["counters"]["verified_segments"].as_u64().context("no count of verified segments")
}

/// Each is counted once for its reason by `r1`.
fn forged_segments_are_dropped(protected: &Protected, sniffer: &Sniffer, family: Family) -> Result<()> {
    let Protected { agent1, network, .. } = protected;
    let peer = family.peer(protected, 1);
    let last = sniffer.next(SOON, "a segment of the session", |segment| {
        segment.source.ip().to_string() == peer
            && segment.flags & (flags::SYN | flags::RST | flags::ACK) == flags::ACK
    })?;
    let next = |flags, data: &[u8], options: Vec<u8>| Segment { options, ..wire::forge(&last, flags, data) };
    let wrong_mac = || tcp_ao_option(1, 0x5a);
    let wrong_length = {
        let mut option = tcp_ao_option(1, 0);
        option[1] = 12;
        option.truncate(12);
        option
    };
    let afar = Segment { seq: last.seq.wrapping_add(1 << 30), ..next(flags::ACK, b"forged", wrong_mac()) };
    let expected = [
        ("no-option", 2),
        ("wrong-mac", 2),
        ("unknown-key-id", 1),
        ("wrong-length", 1),
        ("outside-window", 1),
    ];
    for segment in [
        next(flags::RST, b"", vec![]),
        next(flags::ACK, b"forged", vec![]),
        next(flags::RST, b"", wrong_mac()),
        next(flags::ACK, b"forged", wrong_mac()),
        next(flags::ACK, b"", tcp_ao_option(77, 0)),
        next(flags::ACK, b"", wrong_length),
        afar,
    ] {
        wire::inject(network.attacker(), &network.r1, &segment)?;
    }
    for (reason, count) in expected {
        eventually(SOON, &format!("{reason} to be counted"), || {
            let dropped = agent1.dropped(&peer, reason)?;
            ensure!(dropped == count, "{dropped}, not {count}: {}", agent1.neighbor(&peer)?);
            Ok(Some(()))
        })?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn address(self, router: &Router) -> IpAddr {
        match self {
            Self::V4 => router.v4.into(),
            Self::V6 => router.v6.into(),
        }
    }

    /// The other router, as router `number` has it configured.
    fn peer(self, protected: &Protected, number: u8) -> String {
        let network = &protected.network;
        self.address(if number == 1 { &network.r2 } else { &network.r1 }).to_string()
    }
}

/// BGP between the routers over both families.
struct Sessions(Vec<Session>);

struct Session {
    birds: [Bird; 2],
    incarnations: [String; 2],
}

impl Sessions {
    fn start(network: &Network) -> Result<Self> {
        let mut birds = Vec::new();
        for family in Family::ALL {
            let (first, second) = Peering::between(family.address(&network.r1), family.address(&network.r2));
            let [a, b] = [(&network.r1, first), (&network.r2, second)]
                .map(|(router, peering)| Bird::start(&router.namespace, &peering));
            birds.push([a?, b?]);
        }
        let up = |birds: [Bird; 2]| {
            bgp::wait_for_routes(&birds[0], &birds[1], 10, 10)?;
            let incarnations = [birds[0].incarnation()?, birds[1].incarnation()?];
            Ok(Session { birds, incarnations })
        };
        Ok(Self(birds.into_iter().map(up).collect::<Result<_>>()?))
    }

    /// # Errors
    /// If one is down, or was meanwhile.
    fn stay_up(&self) -> Result<()> {
        for Session { birds, incarnations } in &self.0 {
            ensure!(birds[0].is_established()? && birds[1].is_established()?, "a session is down");
            let now = [birds[0].incarnation()?, birds[1].incarnation()?];
            ensure!(now == *incarnations, "a session was down meanwhile");
        }
        Ok(())
    }
}
