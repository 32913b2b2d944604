//! Two routers, of which one has many neighbours.

use std::{
    collections::HashMap,
    fmt::{Display, Write as _},
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    crowd,
    network::{INTERFACE, Network, Wire},
    process::run,
    scenario::{PASSWORD, end, wait_attached},
    transfer::{self, Options},
};

use crate::{bench::programs::RunTimes, syscall::open_pinned};

/// Octets of the session whose segments are measured.
const OCTETS: usize = 16 << 20;

/// How long a read may stand still before it is an error.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Connections that wait to be accepted.
const MOST_WAITING: libc::c_int = 16_384;

/// What `r2` calls `r1`: a prefix, because one address may not have as many sessions.
const R1: &str = "192.0.2.0/31";

/// `r1` has the neighbours, `r2` their addresses.
pub struct Lab {
    /// Our ends.
    near: Vec<TcpStream>,
    /// The other ends of the first ones; the rest wait to be accepted, for which they need no descriptors.
    far: Vec<TcpStream>,
    listener: Option<TcpListener>,
    /// Of `r1`.
    pub agent: Agent,
    /// Of `r2`.
    pub agent2: Agent,
    /// Fields of each neighbour.
    secret: String,
    neighbors: u32,
    network: Network,
}

/// Nanoseconds of a run.
pub struct Cost {
    pub seal: f64,
    pub ingress: f64,
}

impl Lab {
    /// Starts both daemons, with one password.
    ///
    /// # Errors
    /// If one does not start.
    pub fn new(neighbors: u32) -> Result<Self> {
        Self::with(neighbors, format!("password = \"{PASSWORD}\""))
    }

    /// Starts both daemons. `secret` are fields of each neighbour, separated by commas.
    ///
    /// # Errors
    /// If one does not start.
    pub fn with(neighbors: u32, secret: String) -> Result<Self> {
        let network = Network::with(Wire::Direct, 1500)?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("addresses");
        let mut batch = String::new();
        for number in 0..=neighbors {
            writeln!(batch, "address add {}/32 dev {INTERFACE}", address(number))?;
        }
        fs::write(&file, batch)?;
        let mut ip = network.r2.namespace.command("ip");
        ip.arg("-batch").arg(&file);
        run(ip)?;
        network.r1.namespace.ip(&["route", "add", "198.18.0.0/15", "via", &network.r2.v4.to_string()])?;
        let agent = Agent::start(&network.r1.namespace, &config(neighbors, &secret))?;
        let agent2 = Agent::start(&network.r2.namespace, &config_of(R1, &secret))?;
        for agent in [&agent, &agent2] {
            wait_attached(agent, INTERFACE)?;
        }
        let (near, far) = (Vec::new(), Vec::new());
        Ok(Self { near, far, listener: None, agent, agent2, secret, neighbors, network })
    }

    /// Seconds to start with everything pinned, as after an upgrade.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart(&mut self) -> Result<f64> {
        self.agent.end(libc::SIGTERM)?;
        Ok(self.agent.start_again()?.as_secs_f64())
    }

    /// Seconds to start with nothing pinned.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_anew(&mut self) -> Result<f64> {
        self.agent.end(libc::SIGTERM)?;
        fs::remove_dir_all(self.agent.pin_dir())?;
        Ok(self.agent.start_again()?.as_secs_f64())
    }

    /// Seconds to reload a configuration with one more neighbour. It has the old one afterwards.
    ///
    /// # Errors
    /// If the daemon refuses it.
    pub fn reload(&self) -> Result<f64> {
        self.agent.configure(&config(self.neighbors + 1, &self.secret))?;
        let start = Instant::now();
        self.agent.tcpauth(&["reload"])?;
        let seconds = start.elapsed().as_secs_f64();
        self.agent.configure(&config(self.neighbors, &self.secret))?;
        self.agent.tcpauth(&["reload"])?;
        Ok(seconds)
    }

    /// Reloads the configuration of both daemons with other fields of each neighbour.
    ///
    /// # Errors
    /// If one refuses it.
    pub fn reload_with(&mut self, secret: String) -> Result<()> {
        self.secret = secret;
        // What was changed by command would be lost otherwise, and the daemons refuse that.
        for agent in [&self.agent, &self.agent2] {
            agent.tcpauth(&["config", "write"])?;
        }
        self.agent.configure(&config(self.neighbors, &self.secret))?;
        self.agent2.configure(&config_of(R1, &self.secret))?;
        for agent in [&self.agent, &self.agent2] {
            agent.tcpauth(&["reload"])?;
        }
        Ok(())
    }

    /// Of the daemon with the neighbours.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resident_megabytes(&self) -> Result<f64> {
        crowd::resident_megabytes(&self.agent)
    }

    /// Connects to every neighbour, and gives the octets of map memory that each session takes.
    ///
    /// # Errors
    /// If a connection does not come up.
    pub fn connect_all(&mut self) -> Result<f64> {
        wait_attached(&self.agent, INTERFACE)?;
        crowd::allow_descriptors()?;
        let before = self.session_memory()?;
        let listener = self.listen()?;
        for number in 0..self.neighbors {
            let server = SocketAddr::new(address(number).into(), 179);
            let near = transfer::connect(&end(&self.network.r1, 0), server, &Options::default());
            self.near.push(near.with_context(|| format!("session {number} of {}", self.neighbors))?);
        }
        self.far.push(listener.accept()?.0);
        self.listener = Some(listener);
        Ok((self.session_memory()? - before) / f64::from(self.neighbors))
    }

    /// Accepts the sessions that wait for it.
    ///
    /// # Errors
    /// If there are none.
    pub fn accept_all(&mut self) -> Result<()> {
        let listener = self.listener.as_ref().context("no session")?;
        while self.far.len() < self.near.len() {
            let (far, _) = listener.accept()?;
            far.set_read_timeout(Some(STANDSTILL))?;
            self.far.push(far);
        }
        Ok(())
    }

    /// Our end and the other of every session, once all are accepted.
    ///
    /// # Errors
    /// If one is not up.
    pub fn pairs(&self) -> Result<Vec<(&TcpStream, &TcpStream)>> {
        let mut far_ends = HashMap::new();
        for far in &self.far {
            far_ends.insert((far.peer_addr()?, far.local_addr()?), far);
        }
        let pair = |near: &TcpStream| -> Result<_> {
            let ends = (near.local_addr()?, near.peer_addr()?);
            far_ends.get(&ends).copied().with_context(|| format!("{ends:?} is not accepted"))
        };
        self.near.iter().map(|near| Ok((near, pair(near)?))).collect()
    }

    /// Of one session while it carries data.
    ///
    /// # Errors
    /// If it ends.
    pub fn cost_per_segment(&self) -> Result<Cost> {
        let (near, far) = self.near.first().zip(self.far.first()).context("no session")?;
        let agents = [&self.agent, &self.agent2];
        let statistics = RunTimes::begin(&agents)?;
        carry(near, far)?;
        let runs = statistics.end()?;
        let each = |program: &str| {
            let run = runs.get(program).with_context(|| format!("no statistics of {program}"))?;
            ensure!(run.count > 0, "{program} did not run");
            Ok(run.nanoseconds as f64 / run.count as f64)
        };
        Ok(Cost { seal: each("seal")?, ingress: each("ingress")? })
    }

    /// On all addresses of `r2`, with room for all sessions.
    fn listen(&self) -> Result<TcpListener> {
        let namespace = &self.network.r2.namespace;
        namespace.sysctl("net.core.somaxconn", &MOST_WAITING.to_string())?;
        namespace.sysctl("net.ipv4.tcp_max_syn_backlog", &MOST_WAITING.to_string())?;
        namespace.enter(|| {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 179))?;
            // SAFETY: no pointers; to listen once more changes how many may wait.
            let result = unsafe { libc::listen(listener.as_raw_fd(), MOST_WAITING) };
            ensure!(result == 0, "listen: {}", io::Error::last_os_error());
            Ok(listener)
        })
    }

    /// Octets that the kernel accounts to the map of sessions.
    fn session_memory(&self) -> Result<f64> {
        let map = open_pinned(&self.agent.pin_dir().join("maps/SESSIONS"))?;
        let information = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", map.as_raw_fd()))?;
        number_after(&information, "memlock:").context("no memlock")
    }
}

/// An address of `r2`.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + number)
}

/// Of `r1`.
fn config(neighbors: u32, secret: &str) -> String {
    (0..neighbors).map(|number| config_of(address(number), secret)).collect()
}

/// One neighbor of a configuration.
fn config_of(peer: impl Display, secret: &str) -> String {
    format!("neighbor.\"{peer}\" = {{ {secret} }}\n")
}

fn carry(mut near: &TcpStream, mut far: &TcpStream) -> Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || near.write_all(&vec![0; OCTETS]));
        far.read_exact(&mut vec![0; OCTETS])?;
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(())
    })
}

fn number_after(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_their_units_left() {
        assert_eq!(number_after("Name:\tx\nVmRSS:\t    4096 kB\n", "VmRSS:"), Some(4096.0));
        assert_eq!(number_after("map_type:\t1\nmemlock:\t123\n", "memlock:"), Some(123.0));
        assert_eq!(number_after("", "memlock:"), None);
    }

    #[test]
    fn no_two_neighbors_have_one_address() {
        assert_eq!(address(0), Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(address(10_000), Ipv4Addr::new(198, 18, 39, 17));
    }
}
