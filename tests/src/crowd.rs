//! Two routers with many addresses, each of which is a neighbour of one of the other's.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    agent::Agent,
    network::{INTERFACE, Network, Router, Wire},
    process::run,
    scenario::{PASSWORD, end_at, wait_attached},
    transfer::{self, Options},
    wait::eventually,
};

/// How long a read may stand still before it is an error.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Connections that may wait to be accepted.
const MOST_WAITING: libc::c_int = 16_384;

/// Connections that are begun at a time.
const AT_A_TIME: u32 = 100;

/// Two routers that are neighbours many times over.
pub struct Crowd {
    /// Of `r1`.
    pub agent1: Agent,
    /// Of `r2`.
    pub agent2: Agent,
    neighbors: u32,
    network: Network,
}

impl Crowd {
    /// Starts both daemons with so many neighbours, whose channels go between the same addresses as their sessions;
    /// `fields` are those of each.
    ///
    /// # Errors
    /// If one does not start.
    pub fn new(neighbors: u32, fields: &str) -> Result<Self> {
        let network = Network::with(Wire::Direct, 1500)?;
        add_addresses(&network.r1, first_address, neighbors)?;
        add_addresses(&network.r2, second_address, neighbors)?;
        // By a gateway, as the kernel's table of link-layer addresses is small.
        network.r1.namespace.ip(&["route", "add", "198.19.0.0/16", "via", &network.r2.v4.to_string()])?;
        network.r2.namespace.ip(&["route", "add", "198.18.0.0/16", "via", &network.r1.v4.to_string()])?;
        let [config1, config2] = configs(neighbors, fields);
        let agent1 = Agent::start(&network.r1.namespace, &config1)?;
        let agent2 = Agent::start(&network.r2.namespace, &config2)?;
        for agent in [&agent1, &agent2] {
            wait_attached(agent, INTERFACE)?;
        }
        allow_descriptors()?;
        Ok(Self { agent1, agent2, neighbors, network })
    }

    /// Connects each of `r1`'s addresses with its neighbour, many at a time, and gives both ends.
    ///
    /// # Errors
    /// If a connection does not come up within a minute.
    pub fn connect_all(&self) -> Result<Vec<(TcpStream, TcpStream)>> {
        let listener = listen(&self.network.r2)?;
        let next = AtomicU32::new(0);
        let connect = || -> Result<Vec<TcpStream>> {
            let mut near = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.neighbors {
                    return Ok(near);
                }
                let own = SocketAddr::new(first_address(number).into(), 0);
                let server = SocketAddr::new(second_address(number).into(), 179);
                let options = Options { connect_limit: Some(STANDSTILL), ..Options::default() };
                let stream = transfer::connect(&end_at(&self.network.r1.namespace, own), server, &options);
                near.push(stream.with_context(|| format!("session {number} of {}", self.neighbors))?);
            }
        };
        let near = thread::scope(|scope| -> Result<Vec<TcpStream>> {
            let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(connect)).collect();
            let mut near = Vec::new();
            for thread in threads {
                near.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(near)
        })?;
        let mut far = HashMap::new();
        for _ in 0..near.len() {
            let (stream, peer) = listener.accept()?;
            stream.set_read_timeout(Some(STANDSTILL))?;
            stream.set_nodelay(true)?;
            far.insert(peer, stream);
        }
        near.into_iter()
            .map(|near| {
                let far = far.remove(&near.local_addr()?).context("another connection was accepted")?;
                Ok((near, far))
            })
            .collect()
    }

    /// Waits until both routers say of each neighbour that its channel is up.
    ///
    /// # Errors
    /// If they do not within a minute.
    pub fn wait_for_channels(&self) -> Result<()> {
        for agent in [&self.agent1, &self.agent2] {
            eventually(Duration::from_secs(60), "all channels to be up", || {
                let status = agent.status()?;
                let neighbors = status["neighbors"].as_array().context("no neighbors")?;
                let is_up = |neighbor: &&Value| neighbor["kmp"]["channel"]["state"] == "up";
                let up = neighbors.iter().filter(is_up).count();
                ensure!(up == self.neighbors as usize, "{up} of {} are", self.neighbors);
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}

/// Resident memory of a daemon, megabytes.
///
/// # Errors
/// If it does not run.
pub fn resident_megabytes(agent: &Agent) -> Result<f64> {
    let process = agent.id().context("tcpauthd is not running")?;
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = resident.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// A socket for each session is in this process: as many as it may have.
///
/// # Errors
/// If the kernel refuses.
pub fn allow_descriptors() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the calls.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    ensure!(result == 0, "more open files: {}", io::Error::last_os_error());
    Ok(())
}

/// On all addresses of a router, with room for all sessions.
fn listen(router: &Router) -> Result<TcpListener> {
    router.namespace.sysctl("net.core.somaxconn", &MOST_WAITING.to_string())?;
    router.namespace.sysctl("net.ipv4.tcp_max_syn_backlog", &MOST_WAITING.to_string())?;
    router.namespace.enter(|| {
        let listener = eventually(Duration::from_secs(2), "the port to be free", || {
            Ok(Some(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 179))?))
        })?;
        // SAFETY: no pointers; to listen once more changes how many may wait.
        let result = unsafe { libc::listen(listener.as_raw_fd(), MOST_WAITING) };
        ensure!(result == 0, "listen: {}", io::Error::last_os_error());
        Ok(listener)
    })
}

fn add_addresses(router: &Router, address: fn(u32) -> Ipv4Addr, number: u32) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("addresses");
    let mut batch = String::new();
    for number in 0..number {
        writeln!(batch, "address add {}/32 dev {INTERFACE}", address(number))?;
    }
    fs::write(&file, batch)?;
    let mut ip = router.namespace.command("ip");
    ip.arg("-batch").arg(&file);
    run(ip)?;
    Ok(())
}

/// Of `r1` and `r2`.
fn configs(neighbors: u32, fields: &str) -> [String; 2] {
    let neighbor = |own: Ipv4Addr, peer: Ipv4Addr| {
        format!(
            "neighbor.\"{peer}\" = {{ password = \"{PASSWORD}\", kmp-local-address = \"{own}\", {fields} }}\n"
        )
    };
    let config1 = (0..neighbors).map(|number| neighbor(first_address(number), second_address(number)));
    let config2 = (0..neighbors).map(|number| neighbor(second_address(number), first_address(number)));
    [config1.collect(), config2.collect()]
}

/// An address of `r1`.
fn first_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + number)
}

/// An address of `r2`.
fn second_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 1)) + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbors_name_each_other() {
        let [config1, config2] = configs(300, "port = 179");
        let line1 = "neighbor.\"198.19.1.44\" = { password = \"v61ne0qkel33&\", kmp-local-address = \"198.18.1.44\", \
                     port = 179 }";
        assert_eq!(config1.lines().last(), Some(line1));
        assert!(config2.lines().last().unwrap().starts_with("neighbor.\"198.18.1.44\" ="));
    }
}
