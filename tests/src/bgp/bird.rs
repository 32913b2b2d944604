//! BIRD 2; and BIRD 3, where the kernel's own TCP-AO is to be used.

use std::{
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{Peering, Speaker};
use crate::{
    namespace::Namespace,
    native::NativeKey,
    network::INTERFACE,
    process::{Process, run},
    wait::eventually,
};

/// How long BIRD may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Its configuration, in its folder.
const CONFIG: &str = "bird.conf";

/// Environment variable with the folder into which packages of BIRD 3 and of all that it needs have been extracted.
pub const BIRD3_VARIABLE: &str = "TCPAUTH_TEST_BIRD3";

/// Whether BIRD 3 is there.
pub fn has_bird3() -> bool {
    env::var_os(BIRD3_VARIABLE).is_some()
}

/// A running BIRD.
pub struct Bird {
    process: Process,
    folder: TempDir,
}

impl Bird {
    /// Starts BIRD in `namespace` with one session, and waits until it answers. It is BIRD 3 if the session has keys for
    /// TCP-AO.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(namespace: &Namespace, peering: &Peering) -> Result<Self> {
        let config = config(peering)?;
        let mut bird = match peering.ao.is_empty() {
            true => Self::launch(namespace, &config)?,
            false => Self::launch_program(bird3(namespace)?, &config)?,
        };
        eventually(START_LIMIT, "bird to answer", || {
            bird.check_running()?;
            bird.birdc(&["show", "status"]).map(Some)
        })?;
        Ok(bird)
    }

    /// Starts BIRD in `namespace` with any configuration, in which the session is called `bgp_neighbor`. It answers when
    /// it has read it, which takes long with a full table.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch(namespace: &Namespace, config: &str) -> Result<Self> {
        Self::launch_program(namespace.command("/usr/sbin/bird"), config)
    }

    fn launch_program(mut command: Command, config: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        let file = folder.path().join(CONFIG);
        fs::write(&file, config)?;
        command.arg("-f").arg("-c").arg(&file).arg("-s").arg(folder.path().join("bird.ctl"));
        let process = Process::start(command, &folder.path().join("bird.log"))?;
        Ok(Self { process, folder })
    }

    /// Has it take a changed session.
    ///
    /// # Errors
    /// If it does not.
    pub fn configure(&self, peering: &Peering) -> Result<()> {
        fs::write(self.folder.path().join(CONFIG), config(peering)?)?;
        let answer = self.birdc(&["configure"])?;
        ensure!(answer.contains("Reconfigur"), "{answer}");
        Ok(())
    }

    /// Makes sure that it runs.
    ///
    /// # Errors
    /// If it has ended, with its log.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.check_running()
    }

    /// Ends BIRD with `signal`; without a farewell to the neighbour if that is SIGKILL.
    ///
    /// # Errors
    /// If it has ended before.
    pub fn end(mut self, signal: libc::c_int) -> Result<()> {
        self.process.end(signal)?;
        Ok(())
    }

    /// Asks BIRD something and gives its answer.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn birdc(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("/usr/sbin/birdc");
        command.arg("-s").arg(self.socket()).args(words);
        let answer = run(command)?;
        // The first line greets.
        Ok(answer.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned()))
    }

    /// Time since the neighbour was last heard of, or up to a quarter of the hold time more: BIRD shortens its timers at
    /// random (RFC 4271 §10).
    ///
    /// # Errors
    /// If the session is not up.
    pub fn silence(&self) -> Result<Duration> {
        let details = self.birdc(&["show", "protocols", "all", "bgp_neighbor"])?;
        let timer = details.lines().find_map(|line| line.trim().strip_prefix("Hold timer:"));
        let (left, whole) = timer.and_then(|timer| timer.trim().split_once('/')).context("no hold timer")?;
        Ok(Duration::from_secs_f64((whole.parse::<f64>()? - left.parse::<f64>()?).max(0.0)))
    }

    /// Where it takes commands.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("bird.ctl")
    }

    /// The row of `show protocols` for the session: name, protocol, table, state, since, info.
    fn row(&self) -> Result<Vec<String>> {
        let table = self.birdc(&["show", "protocols", "bgp_neighbor"])?;
        let row = table.lines().find(|line| line.starts_with("bgp_neighbor")).context("no session")?;
        Ok(row.split_whitespace().map(str::to_owned).collect())
    }
}

impl Speaker for Bird {
    fn state(&self) -> Result<String> {
        Ok(self.row()?.get(5).cloned().unwrap_or_default())
    }

    fn received(&self) -> Result<u32> {
        let details = self.birdc(&["show", "protocols", "all", "bgp_neighbor"])?;
        let routes =
            details.lines().find_map(|line| line.trim().strip_prefix("Routes:")).unwrap_or("0 imported");
        Ok(routes.split_whitespace().next().unwrap_or("0").parse()?)
    }

    fn incarnation(&self) -> Result<String> {
        // The time that BIRD shows moves by microseconds.
        Ok(self.process.log().matches("BGP session established").count().to_string())
    }
}

/// BIRD 3 with the C library that it was built for, which is not this system's.
fn bird3(namespace: &Namespace) -> Result<Command> {
    let root = env::var_os(BIRD3_VARIABLE).with_context(|| format!("{BIRD3_VARIABLE} is not set"))?;
    let root = Path::new(&root);
    let mut command = namespace.command(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu")).arg(root.join("usr/sbin/bird"));
    Ok(command)
}

/// Returns a configuration of BIRD with one session, called `bgp_neighbor`.
///
/// # Errors
/// None in practice: writing to a string does not fail.
pub fn config(peering: &Peering) -> Result<String> {
    let Peering { local_as, peer_as, local, keepalive, hops, .. } = peering;
    let (family, peer, id) = (peering.family(), peering.scoped_peer(), peering.router_id());
    let hop = match hops {
        1 if peering.is_link_local() => format!("direct; interface \"{INTERFACE}\""),
        1 => "direct".to_owned(),
        _ => format!("multihop {hops}"),
    };
    let vrf = peering.vrf.as_ref().map(|name| format!("vrf \"{name}\";")).unwrap_or_default();
    let passive = if peering.passive { "passive;" } else { "" };
    let password = peering.md5.as_ref().map(|text| format!("password \"{text}\";")).unwrap_or_default();
    let ao = authentication(&peering.ao)?;
    let mut config = format!(
        "log stderr all;
router id {id};
protocol device {{ }}
protocol static announced_routes {{
    {family};
"
    );
    for prefix in peering.prefixes() {
        writeln!(config, "    route {prefix} blackhole;")?;
    }
    writeln!(
        config,
        "}}
protocol bgp bgp_neighbor {{
    {vrf}
    debug {{ events }};
    local {local} as {local_as};
    neighbor {peer} as {peer_as};
    {hop};
    {password}
    {ao}
    {passive}
    keepalive time {keepalive};
    hold time {hold};
    connect delay time 1;
    connect retry time 2;
    error wait time 1, 2;
    {family} {{
        import all;
        export where source = RTS_STATIC;
    }};
}}",
        hold = (keepalive * 3).max(3),
    )?;
    Ok(config)
}

/// BIRD's words for the keys of TCP-AO.
fn authentication(keys: &[NativeKey]) -> Result<String> {
    if keys.is_empty() {
        return Ok(String::new());
    }
    let mut text = "authentication ao; keys {\n".to_owned();
    for (place, NativeKey { password, algorithm, id }) in keys.iter().enumerate() {
        let algorithm = match *algorithm {
            "hmac-sha-1-96" => "hmac sha1",
            "hmac-sha-256-96" => "hmac sha256",
            "aes-128-cmac-96" => "cmac aes128",
            other => bail!("BIRD has no {other}"),
        };
        let preferred = if place == 0 { "preferred;" } else { "" };
        writeln!(text, "key {{ id {id}; secret \"{password}\"; algorithm {algorithm}; {preferred} }};")?;
    }
    Ok(text + "};")
}
