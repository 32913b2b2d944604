//! What is compared: two routers without authentication, with the kernel's TCP-MD5, and with tcpauth.

use anyhow::Result;
use tcpauth_common::Algorithm;
use tcpauth_tests::{
    agent::Agent,
    link,
    network::{INTERFACE, Network},
    scenario::{PASSWORD, Protected, end},
    transfer::{End, Options},
};

/// No authentication, all offloads.
pub const NONE: &str = "none";
/// No authentication, segments one by one as authenticated ones are: `gso_max_segs` 1, no GRO.
pub const NONE_NO_OFFLOAD: &str = "none-no-offload";
/// TCP-MD5 of the kernel.
pub const TCP_MD5: &str = "tcp-md5";

/// Two routers, and what authenticates between them.
pub struct Subject {
    /// As it is called in tables.
    pub name: &'static str,
    /// What the kernel is told of each connection.
    pub options: Options,
    scene: Scene,
}

enum Scene {
    Plain(Network),
    Protected(Box<Protected>),
}

impl Subject {
    /// No authentication.
    pub fn none(network: Network) -> Self {
        Self { name: NONE, options: Options::default(), scene: Scene::Plain(network) }
    }

    /// No authentication, segment by segment.
    ///
    /// # Errors
    /// If the interfaces refuse it.
    pub fn none_no_offload(network: Network) -> Result<Self> {
        for router in [&network.r1, &network.r2] {
            link::disable_merging(&router.namespace, INTERFACE)?;
        }
        Ok(Self { name: NONE_NO_OFFLOAD, ..Self::none(network) })
    }

    /// The kernel's TCP-MD5.
    pub fn tcp_md5(network: Network) -> Self {
        let options = Options { md5: Some(PASSWORD.to_owned()), ..Options::default() };
        Self { name: TCP_MD5, options, scene: Scene::Plain(network) }
    }

    /// tcpauth with `algorithm`.
    ///
    /// # Errors
    /// If a daemon does not start.
    pub fn tcpauth(network: Network, algorithm: Algorithm) -> Result<Self> {
        let name = algorithm.name();
        let fields = match algorithm {
            Algorithm::Md5 => "wire = \"md5\"".to_owned(),
            _ => format!("algorithm = \"{name}\""),
        };
        Self::configured(name, network, &fields)
    }

    /// tcpauth with these fields of the neighbour's configuration.
    ///
    /// # Errors
    /// If a daemon does not start.
    pub fn configured(name: &'static str, network: Network, fields: &str) -> Result<Self> {
        let protected = Box::new(Protected::over_v4(network, fields)?);
        Ok(Self { name, options: Options::default(), scene: Scene::Protected(protected) })
    }

    pub fn network(&self) -> &Network {
        match &self.scene {
            Scene::Plain(network) => network,
            Scene::Protected(protected) => &protected.network,
        }
    }

    /// The daemons of both routers, if this is tcpauth.
    pub fn agents(&self) -> Option<[&Agent; 2]> {
        match &self.scene {
            Scene::Plain(_) => None,
            Scene::Protected(protected) => Some([&protected.agent1, &protected.agent2]),
        }
    }

    /// Client and server of connections to port 179 of `r2`.
    pub fn ends(&self) -> (End, End) {
        (end(&self.network().r1, 0), end(&self.network().r2, 179))
    }
}
