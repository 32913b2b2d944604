//! Two routers, of which one has many neighbours.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    network::{INTERFACE, Network, Wire},
    process::run,
    scenario::{PASSWORD, end, wait_attached},
    transfer::{self, Options},
};

use crate::bench::{mac::open_pinned, programs::RunTimes};

/// Octets of the session whose segments are measured.
const OCTETS: usize = 16 << 20;

/// Connections that wait to be accepted.
const MOST_WAITING: libc::c_int = 16_384;

/// `r1` has the neighbours, `r2` their addresses.
pub struct Lab {
    /// Our ends; the others wait to be accepted, for which they need no descriptors.
    sessions: Vec<TcpStream>,
    /// The other end of the first one.
    first_far: Option<TcpStream>,
    listener: Option<TcpListener>,
    agent: Agent,
    agent2: Agent,
    neighbors: u32,
    network: Network,
}

/// Nanoseconds of a run.
pub struct Cost {
    pub seal: f64,
    pub ingress: f64,
}

impl Lab {
    /// Starts both daemons.
    ///
    /// # Errors
    /// If one does not start.
    pub fn new(neighbors: u32) -> Result<Self> {
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
        let agent = Agent::start(&network.r1.namespace, &config(neighbors)?)?;
        let config2 = format!("neighbor.\"{}\".password = \"{PASSWORD}\"\n", network.r1.v4);
        let agent2 = Agent::start(&network.r2.namespace, &config2)?;
        for agent in [&agent, &agent2] {
            wait_attached(agent, INTERFACE)?;
        }
        Ok(Self { sessions: Vec::new(), first_far: None, listener: None, agent, agent2, neighbors, network })
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
        self.agent.configure(&config(self.neighbors + 1)?)?;
        let start = Instant::now();
        self.agent.tcpauth(&["reload"])?;
        let seconds = start.elapsed().as_secs_f64();
        self.agent.configure(&config(self.neighbors)?)?;
        self.agent.tcpauth(&["reload"])?;
        Ok(seconds)
    }

    /// Of the daemon with the neighbours.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resident_megabytes(&self) -> Result<f64> {
        let process = self.agent.id().context("tcpauthd is not running")?;
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let kibibytes = number_after(&status, "VmRSS:").context("no VmRSS")?;
        Ok(kibibytes * 1024.0 / 1e6)
    }

    /// Connects to every neighbour, and gives the octets of map memory that each session takes.
    ///
    /// # Errors
    /// If a connection does not come up.
    pub fn connect_all(&mut self) -> Result<f64> {
        wait_attached(&self.agent, INTERFACE)?;
        allow_descriptors()?;
        let before = self.session_memory()?;
        let listener = self.listen()?;
        for number in 0..self.neighbors {
            let server = SocketAddr::new(address(number).into(), 179);
            let near = transfer::connect(&end(&self.network.r1, 0), server, &Options::default());
            self.sessions.push(near.with_context(|| format!("session {number} of {}", self.neighbors))?);
        }
        self.first_far = Some(listener.accept()?.0);
        self.listener = Some(listener);
        Ok((self.session_memory()? - before) / f64::from(self.neighbors))
    }

    /// Of one session while it carries data.
    ///
    /// # Errors
    /// If it ends.
    pub fn cost_per_segment(&self) -> Result<Cost> {
        let (near, far) = self.sessions.first().zip(self.first_far.as_ref()).context("no session")?;
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
fn config(neighbors: u32) -> Result<String> {
    let mut config = String::new();
    for number in 0..neighbors {
        writeln!(config, "neighbor.\"{}\".password = \"{PASSWORD}\"", address(number))?;
    }
    Ok(config)
}

fn carry(mut near: &TcpStream, mut far: &TcpStream) -> Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || near.write_all(&vec![0; OCTETS]));
        far.read_exact(&mut vec![0; OCTETS])?;
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(())
    })
}

/// A socket for each session is in this process: as many as it may have.
fn allow_descriptors() -> Result<()> {
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
