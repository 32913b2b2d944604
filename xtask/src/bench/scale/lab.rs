//! Two routers, of which one has many neighbours.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    network::{INTERFACE, Network, Wire},
    process::run,
    scenario::{PASSWORD, end, end_at, wait_attached},
    transfer::{self, Options},
};

use crate::bench::{mac::open_pinned, programs::RunTimes};

/// Octets of the session whose segments are measured.
const OCTETS: usize = 16 << 20;

/// `r1` has the neighbours, `r2` their addresses.
pub struct Lab {
    sessions: Vec<(TcpStream, TcpStream)>,
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
        Ok(Self { sessions: Vec::new(), agent, agent2, neighbors, network })
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
        for number in 0..self.neighbors {
            let server = SocketAddr::new(address(number).into(), 179);
            let (client, server) = (end(&self.network.r1, 0), end_at(&self.network.r2.namespace, server));
            let pair = transfer::pair(&client, &server, &Options::default())
                .with_context(|| format!("session {number} of {}", self.neighbors))?;
            self.sessions.push(pair);
        }
        Ok((self.session_memory()? - before) / f64::from(self.neighbors))
    }

    /// Of one session while it carries data.
    ///
    /// # Errors
    /// If it ends.
    pub fn cost_per_segment(&self) -> Result<Cost> {
        let (near, far) = self.sessions.get(self.sessions.len() / 2).context("no session")?;
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

/// Two sockets for each session are in this process.
fn allow_descriptors() -> Result<()> {
    let limit = libc::rlimit { rlim_cur: 1 << 16, rlim_max: 1 << 16 };
    // SAFETY: the structure outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("more open files"),
    }
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
