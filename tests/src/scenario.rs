//! Two routers with tcpauthd on both: where most tests begin.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;

use crate::{
    agent::Agent,
    namespace::Namespace,
    network::{INTERFACE, Network, Router},
    transfer::End,
    wait::eventually,
};

/// The password of the README.
pub const PASSWORD: &str = "v61ne0qkel33&";

/// Two routers, each protecting its sessions with the other.
pub struct Protected {
    /// The agent of `network.r1`.
    pub agent1: Agent,
    /// The agent of `network.r2`.
    pub agent2: Agent,
    /// The routers. The last field, so that the agents end before their namespaces.
    pub network: Network,
}

impl Protected {
    /// Two routers on a switch, with the README's configuration.
    ///
    /// # Errors
    /// If something cannot be made.
    pub fn switched() -> Result<Self> {
        Self::over_v4(Network::switched()?, "")
    }

    /// The README's configuration for the IPv4 addresses on `network`, and `more` of it for the neighbour:
    /// fields as in `algorithm = "…"`, separated by commas.
    ///
    /// # Errors
    /// If a daemon does not start.
    pub fn over_v4(network: Network, more: &str) -> Result<Self> {
        let configs = [network.r2.v4, network.r1.v4].map(|peer| neighbor(&peer.to_string(), PASSWORD, more));
        Self::with(network, &configs[0], &configs[1])
    }

    /// Any configuration, of `r1` and of `r2`.
    ///
    /// # Errors
    /// If a daemon does not start.
    pub fn with(network: Network, config1: &str, config2: &str) -> Result<Self> {
        let agent1 = Agent::start(&network.r1.namespace, config1)?;
        let agent2 = Agent::start(&network.r2.namespace, config2)?;
        Self::of_agents(network, agent1, agent2)
    }

    /// The agents of `r1` and `r2`, as soon as they protect the interface between them.
    ///
    /// # Errors
    /// If one does not.
    pub fn of_agents(network: Network, agent1: Agent, agent2: Agent) -> Result<Self> {
        for agent in [&agent1, &agent2] {
            wait_attached(agent, INTERFACE)?;
        }
        Ok(Self { agent1, agent2, network })
    }

    /// Ends of connections over IPv4 from `r1` to port 179 of `r2`.
    pub fn ends(&self) -> (End, End) {
        (end(&self.network.r1, 0), end(&self.network.r2, 179))
    }

    /// Ends of connections over IPv6 from `r1` to port 179 of `r2`.
    pub fn ends_v6(&self) -> (End, End) {
        let at = |router: &Router, port| end_at(&router.namespace, SocketAddr::new(router.v6.into(), port));
        (at(&self.network.r1, 0), at(&self.network.r2, 179))
    }

    /// `r2` as `r1` has it configured.
    pub fn peer2(&self) -> String {
        self.network.r2.v4.to_string()
    }

    /// `r1` as `r2` has it configured.
    pub fn peer1(&self) -> String {
        self.network.r1.v4.to_string()
    }
}

/// One neighbour of a configuration. With nothing but a password, the one-line form.
pub fn neighbor(peer: &str, password: &str, more: &str) -> String {
    match more {
        "" => format!("neighbor.\"{peer}\".password = \"{password}\"\n"),
        _ => format!("neighbor.\"{peer}\" = {{ password = \"{password}\", {more} }}\n"),
    }
}

/// An end of a connection at `router`'s IPv4 address.
pub fn end(router: &Router, port: u16) -> End {
    end_at(&router.namespace, SocketAddr::new(router.v4.into(), port))
}

/// An end of a connection at any address.
pub fn end_at(namespace: &Namespace, address: SocketAddr) -> End {
    End { namespace: namespace.clone(), address }
}

/// Waits until `agent` protects `interface`.
///
/// # Errors
/// If it does not within ten seconds.
pub fn wait_attached(agent: &Agent, interface: &str) -> Result<()> {
    eventually(Duration::from_secs(10), &format!("{interface} to be protected"), || {
        let status = agent.status()?;
        let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
        let found = interfaces.iter().find(|found| found["name"] == interface);
        let attached = found.and_then(|found| found["attached"].as_str());
        anyhow::ensure!(matches!(attached, Some("tcx" | "clsact")), "attached: {attached:?}");
        Ok(Some(()))
    })
}
