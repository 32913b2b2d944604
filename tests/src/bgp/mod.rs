//! BGP daemons as operators run them, none of them knowing of tcpauth.

mod bird;
mod frr;
mod gobgp;

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};

pub use self::{
    bird::{BIRD3_VARIABLE, Bird, config as bird_config, has_bird3},
    frr::Frr,
    gobgp::GoBgp,
};
use crate::{
    native::NativeKey,
    network::{INTERFACE, Network, Router},
    wait::{eventually, slowness},
};

/// How long a session may take to come up: daemons try again after a few seconds.
const ESTABLISH_LIMIT: Duration = Duration::from_secs(60);

/// Seconds between keepalives: more in a virtual machine, where a BIRD may wait some seconds for its turn.
fn keepalive() -> u32 {
    if slowness() > 1 { 5 } else { 1 }
}

/// How long a session lasts without keepalives, unless its [`Peering`] was told otherwise.
pub fn hold_time() -> Duration {
    Duration::from_secs(3 * u64::from(keepalive()))
}

/// One end of an eBGP session.
#[derive(Clone, Debug)]
pub struct Peering {
    /// Our AS number.
    pub local_as: u32,
    /// The neighbour's.
    pub peer_as: u32,
    /// Our address.
    pub local: IpAddr,
    /// The neighbour's.
    pub peer: IpAddr,
    /// Routes announced: /24s or /48s made from our AS number.
    pub routes: u32,
    /// Seconds between keepalives; a session without them ends after three times as long.
    pub keepalive: u32,
    /// Hops to the neighbour.
    pub hops: u8,
    /// A password for the daemon's own TCP-MD5.
    pub md5: Option<String>,
    /// Keys for the daemon's own TCP-AO, which BIRD 3 has; the first is preferred.
    pub ao: Vec<NativeKey>,
    /// Waits for the neighbour to connect.
    pub passive: bool,
    /// The VRF that it is in.
    pub vrf: Option<String>,
}

impl Peering {
    /// `own`'s end and `other`'s end of a session over IPv4.
    pub fn pair(own: &Router, other: &Router) -> (Self, Self) {
        Self::between(own.v4.into(), other.v4.into())
    }

    /// Both ends of a session between two addresses.
    pub fn between(a: IpAddr, b: IpAddr) -> (Self, Self) {
        let first = Self {
            local_as: 65001,
            peer_as: 65002,
            local: a,
            peer: b,
            routes: 10,
            keepalive: keepalive(),
            hops: 1,
            md5: None,
            ao: Vec::new(),
            passive: false,
            vrf: None,
        };
        let second = Self { local_as: 65002, peer_as: 65001, local: b, peer: a, ..first.clone() };
        (first, second)
    }

    /// The same with that many routes.
    pub fn with_routes(self, routes: u32) -> Self {
        Self { routes, ..self }
    }

    /// The routes announced.
    fn prefixes(&self) -> impl Iterator<Item = String> {
        let (octet, v4) = (self.local_as % 100, self.local.is_ipv4());
        (0..self.routes).map(move |n| match v4 {
            true => format!("10.{}.{}.0/24", octet * 2 + n / 256, n % 256),
            false => format!("2001:db8:{octet:x}{n:03x}::/48"),
        })
    }

    /// Whether the neighbour is named with an interface.
    fn is_link_local(&self) -> bool {
        matches!(self.peer, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    /// The neighbour as BIRD and FRR write it.
    fn scoped_peer(&self) -> String {
        if self.is_link_local() { format!("{}%{INTERFACE}", self.peer) } else { self.peer.to_string() }
    }

    /// An identifier: our address, or for IPv6 one made from our AS number.
    fn router_id(&self) -> String {
        match self.local {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(_) => format!("10.255.0.{}", self.local_as % 100),
        }
    }

    /// `ipv4` or `ipv6`.
    fn family(&self) -> &'static str {
        if self.local.is_ipv4() { "ipv4" } else { "ipv6" }
    }
}

/// A running BGP daemon with one session.
pub trait Speaker {
    /// The session's state in the daemon's own words; `Established` when it is up.
    ///
    /// # Errors
    /// If the daemon does not answer.
    fn state(&self) -> Result<String>;

    /// Number of routes received.
    ///
    /// # Errors
    /// If the daemon does not answer.
    fn received(&self) -> Result<u32>;

    /// Tells one session from the next: another value means that it went down meanwhile.
    ///
    /// # Errors
    /// If the daemon does not answer.
    fn incarnation(&self) -> Result<String>;

    /// Whether the session is up.
    ///
    /// # Errors
    /// If the daemon does not answer.
    fn is_established(&self) -> Result<bool> {
        Ok(self.state()? == "Established")
    }
}

/// Waits until the session between `a` and `b` is up, and each has the other's routes, as many as given.
///
/// # Errors
/// When that does not come within a minute.
pub fn wait_for_routes(a: &dyn Speaker, b: &dyn Speaker, from_b: u32, from_a: u32) -> Result<()> {
    eventually(ESTABLISH_LIMIT, "the BGP session with its routes", || {
        let (state, received) = ((a.state()?, b.state()?), (a.received()?, b.received()?));
        let up = state.0 == "Established" && state.1 == "Established";
        ensure!(up, "the states are {} and {}", state.0, state.1);
        ensure!(received == (from_b, from_a), "routes received are {} and {}", received.0, received.1);
        Ok(Some(()))
    })
}

/// BIRD on both routers with a session over IPv4.
///
/// # Errors
/// If one does not start.
pub fn birds(network: &Network) -> Result<(Bird, Bird)> {
    let (first, second) = Peering::pair(&network.r1, &network.r2);
    let bird = |router: &Router, peering| Bird::start(&router.namespace, peering).context("bird");
    Ok((bird(&network.r1, &first)?, bird(&network.r2, &second)?))
}
