//! Routers that agree on keys in a TLS handshake, beside the connection or on it; what their operators and
//! strangers see of that.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    agent::Agent,
    frame::Segment,
    impair::Forwarder,
    independent,
    namespace::Namespace,
    network::{Network, Router},
    process::run,
    scenario::{PASSWORD, Protected, neighbor},
    wait::eventually,
    wire::Capture,
};

/// TCP port of the channel between two daemons, unless the configuration has another one.
pub const CHANNEL_PORT: u16 = 17_179;

/// How long a channel may take to be up after both daemons have started.
const CHANNEL_LIMIT: Duration = Duration::from_secs(20);

/// How long new keys may take: the interval, a quarter of it more, and the handshake.
const REFRESH_LIMIT: Duration = Duration::from_secs(25);

/// A field of a neighbor: new keys as often as the configuration allows.
pub const REKEYING: &str = "rekey-interval = 10";

/// Where the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// On a channel beside the connection.
    External,
    /// On the connection itself.
    Layered,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::External, Self::Layered];

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Layered => "layered",
        }
    }

    /// Fields of a neighbour, with `more` of them.
    pub fn fields(self, more: &str) -> String {
        let comma = if more.is_empty() { "" } else { ", " };
        format!("key-management = \"{}\"{comma}{more}", self.name())
    }
}

/// Two routers that agree on keys for IPv4 and IPv6, and write them to their key logs; `more` are further fields of
/// each neighbour. Their channels are up, if there are to be any.
///
/// # Errors
/// If a daemon does not start, or a channel does not come up.
pub fn agreeing(network: Network, mode: Mode, more: &str) -> Result<Protected> {
    let fields = mode.fields(more);
    let protected = with_fields(network, &fields, &fields)?;
    if mode == Mode::External {
        wait_for_channels(&protected)?;
    }
    Ok(protected)
}

/// Two routers with these fields of the other's addresses.
///
/// # Errors
/// If a daemon does not start.
pub fn with_fields(network: Network, fields1: &str, fields2: &str) -> Result<Protected> {
    let configs = [config(&network.r2, PASSWORD, fields1), config(&network.r1, PASSWORD, fields2)];
    let agent1 = Agent::start_logging_keys(&network.r1.namespace, &configs[0])?;
    let agent2 = Agent::start_logging_keys(&network.r2.namespace, &configs[1])?;
    Protected::of_agents(network, agent1, agent2)
}

/// A configuration with both addresses of `other` as neighbours.
pub fn config(other: &Router, password: &str, fields: &str) -> String {
    [other.v4.to_string(), other.v6.to_string()].map(|peer| neighbor(&peer, password, fields)).concat()
}

/// Waits until both routers say that their channels over both families are up.
///
/// # Errors
/// If one does not come up in time; with what its agent says of it.
pub fn wait_for_channels(protected: &Protected) -> Result<()> {
    let Protected { agent1, agent2, network } = protected;
    for (agent, other) in [(agent1, &network.r2), (agent2, &network.r1)] {
        for peer in [other.v4.to_string(), other.v6.to_string()] {
            wait_for_channel(agent, &peer)?;
        }
    }
    Ok(())
}

/// Waits until `agent` says that its channel with `peer` is up.
///
/// # Errors
/// As [`wait_for_channels`].
pub fn wait_for_channel(agent: &Agent, peer: &str) -> Result<()> {
    eventually(CHANNEL_LIMIT, &format!("the channel with {peer} to be up"), || {
        let channel = agent.kmp(peer)?["channel"].clone();
        ensure!(channel["state"] == "up", "{channel}");
        Ok(Some(()))
    })
}

/// Waits until the keys of the agent's BGP session are younger than they were; the neighbor has [`REKEYING`].
///
/// # Errors
/// If they do not get so in time.
pub fn wait_for_new_keys(agent: &Agent) -> Result<()> {
    let mut oldest = 0;
    eventually(REFRESH_LIMIT, "the age of the keys to fall", || {
        let age = keys_age(agent)?;
        let is_younger = age < oldest;
        oldest = oldest.max(age);
        let peer = agent.status()?["neighbors"][0].clone();
        ensure!(is_younger, "they are {age} s old: {}", peer["kmp"]);
        Ok(Some(()))
    })
}

fn keys_age(agent: &Agent) -> Result<u64> {
    let sessions = agent.sessions()?;
    let is_of_bgp = |session: &&Value| {
        [&session["local"], &session["peer"]]
            .iter()
            .any(|end| end.as_str().is_some_and(|end| end.ends_with(":179")))
            && session["state"] == "established"
    };
    let session = sessions.iter().find(is_of_bgp).with_context(|| format!("no session: {sessions:?}"))?;
    session["keys_age_seconds"].as_u64().with_context(|| format!("no age: {session}"))
}

/// What passes the forwarder, if the routers are joined by one.
///
/// # Errors
/// If they are not.
pub fn forwarder(protected: &Protected) -> Result<&Forwarder> {
    forwarder_of(&protected.network)
}

/// As [`forwarder`], before the routers protect anything.
///
/// # Errors
/// As [`forwarder`].
pub fn forwarder_of(network: &Network) -> Result<&Forwarder> {
    let middle = network.middle.as_ref();
    middle.and_then(|middle| middle.forwarder.as_ref()).context("the test made a network without a forwarder")
}

/// Closes every channel at its end in `namespace`, with a reset.
///
/// # Errors
/// If the kernel cannot.
pub fn close_channels(namespace: &Namespace) -> Result<()> {
    let mut command = namespace.command("ss");
    command.args(["--kill", "--tcp", "--numeric", "state", "established"]);
    command.arg(format!("( sport = :{CHANNEL_PORT} or dport = :{CHANNEL_PORT} )"));
    run(command)?;
    Ok(())
}

/// Whether a segment is one of a channel.
pub fn is_of_channel(segment: &Segment) -> bool {
    [segment.source.port(), segment.destination.port()].contains(&CHANNEL_PORT)
}

/// Whether a segment is one of a BGP connection.
pub fn is_of_bgp(segment: &Segment) -> bool {
    [segment.source.port(), segment.destination.port()].contains(&179)
}

impl Agent {
    /// What `status` says of how keys are agreed with the neighbour.
    ///
    /// # Errors
    /// If it says nothing.
    pub fn kmp(&self, peer: &str) -> Result<Value> {
        let kmp = self.neighbor(peer)?["kmp"].clone();
        ensure!(!kmp.is_null(), "nothing is said of how keys are agreed with {peer}");
        Ok(kmp)
    }

    /// Waits until `status` has a failed handshake with `peer` of which all of `words` are said, in one line.
    ///
    /// # Errors
    /// If it does not in time; with what it says.
    pub fn wait_for_failure(&self, peer: &str, limit: Duration, words: &[&str]) -> Result<Value> {
        eventually(limit, &format!("{peer} to be said to fail for {words:?}"), || {
            let kmp = self.kmp(peer)?;
            let failure = &kmp["last_failure"];
            let text = failure["text"].as_str().with_context(|| format!("no failure: {kmp}"))?;
            let is_said = |word: &&str| text.to_lowercase().contains(&word.to_lowercase());
            ensure!(words.iter().all(is_said), "{failure}");
            ensure!(text.lines().count() == 1, "more than one line: {text}");
            Ok(Some(failure.clone()))
        })
    }

    /// The keys that it has agreed on since it was first started, in order.
    ///
    /// # Errors
    /// If the log has a line that is none.
    pub fn agreed_keys(&self) -> Result<Vec<AgreedKey>> {
        let text = fs::read_to_string(self.key_log()).unwrap_or_default();
        let is_key = |line: &&str| !line.is_empty() && !line.starts_with('#');
        text.lines()
            .filter(is_key)
            .map(|line| AgreedKey::parse(line).with_context(|| line.to_owned()))
            .collect()
    }
}

/// A line of a key log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgreedKey {
    /// The end of the router that wrote it.
    pub local: SocketAddr,
    /// The other.
    pub peer: SocketAddr,
    /// Of the end that opened the connection.
    pub client_isn: u32,
    /// Of the other, if there was one yet.
    pub server_isn: Option<u32>,
    /// Its name.
    pub algorithm: String,
    /// KeyID of what the router sends.
    pub send_id: u8,
    /// KeyID of what it accepts.
    pub recv_id: u8,
    /// In hex.
    pub master_key: String,
    /// Whether its MACs include or exclude other TCP options.
    pub tcp_options: String,
}

impl AgreedKey {
    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [local, peer, client_isn, server_isn, algorithm, send_id, recv_id, master_key, tcp_options] =
            fields[..]
        else {
            anyhow::bail!("{} fields, not nine", fields.len());
        };
        let server_isn = if server_isn == "-" { None } else { Some(server_isn.parse()?) };
        Ok(Self {
            local: local.parse()?,
            peer: peer.parse()?,
            client_isn: client_isn.parse()?,
            server_isn,
            algorithm: algorithm.to_owned(),
            send_id: send_id.parse()?,
            recv_id: recv_id.parse()?,
            master_key: master_key.to_owned(),
            tcp_options: tcp_options.to_owned(),
        })
    }

    /// As the other router writes it.
    pub fn of_the_peer(&self) -> Self {
        let Self { local, peer, send_id, recv_id, .. } = *self;
        Self { local: peer, peer: local, send_id: recv_id, recv_id: send_id, ..self.clone() }
    }
}

/// All BGP on the wire, to be verified by code that shares nothing with the project's.
pub struct Wiretap {
    capture: Capture,
    folder: TempDir,
}

impl Wiretap {
    /// Begins to listen.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub fn start(network: &Network) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (namespace, interface) = network.tap();
        let capture = Capture::start(namespace, interface, 179, &folder.path().join("wire.pcap"))?;
        Ok(Self { capture, folder })
    }

    /// Checks that each segment has a MAC of the keys that were agreed on for its connection, the SYN's among them,
    /// and gives what the verifier said.
    ///
    /// # Errors
    /// If one has not, or the routers' key logs say different things.
    pub fn finish_external(self, protected: &Protected) -> Result<String> {
        self.finish(protected, &[])
    }

    /// Checks that each connection is a handshake under the keys of the password, then BGP under agreed keys, and gives
    /// what the verifier said.
    ///
    /// # Errors
    /// If one is not, or the routers' key logs say different things.
    pub fn finish_layered(self, protected: &Protected) -> Result<String> {
        self.finish(protected, &["--layered", "--password", PASSWORD])
    }

    fn finish(self, protected: &Protected, options: &[&str]) -> Result<String> {
        let file = self.capture.finish()?;
        let mut said = String::new();
        for agent in [&protected.agent1, &protected.agent2] {
            let key_log = agent.key_log();
            let key_log = key_log.to_str().context("a path that is not UTF-8")?;
            said =
                independent::verify_by(&file, &[&["--key-log", key_log, "--mtu", "1500"], options].concat())
                    .map_err(|error| kept(&file, &self.folder, error))?;
            ensure!(said.contains(", failed 0, without option 0, bad checksum 0"), "{said}");
        }
        println!("{said}");
        Ok(said)
    }
}

/// Says where the capture is that does not verify.
fn kept(file: &Path, folder: &TempDir, error: anyhow::Error) -> anyhow::Error {
    let name = folder.path().file_name().unwrap_or_default();
    let copy = std::env::temp_dir().join(PathBuf::from(name).with_extension("failed.pcap"));
    match fs::copy(file, &copy) {
        Ok(_) => error.context(format!("the capture is {}", copy.display())),
        Err(_) => error,
    }
}

/// What a daemon could leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open file descriptors.
    pub descriptors: usize,
    /// Those of them that are sockets.
    pub sockets: usize,
    /// Entries of the map of sessions.
    pub sessions: usize,
    /// Resident memory.
    pub kibibytes: u64,
}

impl Holdings {
    /// Of a daemon that runs.
    ///
    /// # Errors
    /// If it does not.
    pub fn of(agent: &Agent) -> Result<Self> {
        let process = PathBuf::from("/proc").join(agent.id().context("tcpauthd is not running")?.to_string());
        let (mut descriptors, mut sockets) = (0, 0);
        for entry in fs::read_dir(process.join("fd"))? {
            // One that was closed meanwhile is none.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            descriptors += 1;
            sockets += usize::from(target.to_string_lossy().starts_with("socket:"));
        }
        let status = fs::read_to_string(process.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { descriptors, sockets, sessions: agent.sessions()?.len(), kibibytes })
    }

    /// Waits until the daemon holds no more sockets, descriptors and sessions than these, and a few mebibytes more
    /// at most.
    ///
    /// # Errors
    /// If it still does after `limit`.
    pub fn wait_until_back(&self, agent: &Agent, limit: Duration) -> Result<()> {
        eventually(limit, "the daemon to hold as little as before", || {
            let now = Self::of(agent)?;
            let is_back = now.descriptors <= self.descriptors
                && now.sockets <= self.sockets
                && now.sessions <= self.sessions
                && now.kibibytes <= self.kibibytes + 8 * 1024;
            ensure!(is_back, "before {self:?}, now {now:?}");
            Ok(Some(()))
        })
    }
}

/// Both addresses of a router.
pub fn addresses(router: &Router) -> [IpAddr; 2] {
    [router.v4.into(), router.v6.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_key_log_is_read() {
        let key = AgreedKey::parse("192.0.2.1:40000 192.0.2.2:179 7 - hmac-sha-256-128 130 200 00ff exclude")
            .unwrap();
        assert_eq!(key.tcp_options, "exclude");
        assert_eq!((key.client_isn, key.server_isn), (7, None));
        assert_eq!((key.send_id, key.recv_id), (130, 200));
        let theirs =
            AgreedKey::parse("192.0.2.2:179 192.0.2.1:40000 7 - hmac-sha-256-128 200 130 00ff exclude")
                .unwrap();
        assert_eq!(key.of_the_peer(), theirs);
        assert!(AgreedKey::parse("192.0.2.1:40000 192.0.2.2:179 7").is_err());
    }

    #[test]
    fn fields_of_a_neighbor_are_separated() {
        assert_eq!(Mode::Layered.fields(""), "key-management = \"layered\"");
        assert_eq!(
            Mode::External.fields("ttl-security = 1"),
            "key-management = \"external\", ttl-security = 1"
        );
    }
}
