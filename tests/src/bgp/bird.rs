//! BIRD 2.

use std::{fmt::Write, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Peering, Speaker};
use crate::{
    namespace::Namespace,
    network::INTERFACE,
    process::{Process, run},
    wait::eventually,
};

/// How long BIRD may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running BIRD.
pub struct Bird {
    process: Process,
    folder: TempDir,
}

impl Bird {
    /// Starts BIRD in `namespace` with one session, and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(namespace: &Namespace, peering: &Peering) -> Result<Self> {
        let mut bird = Self::launch(namespace, &config(peering)?)?;
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
        let folder = TempDir::new()?;
        let file = folder.path().join("bird.conf");
        fs::write(&file, config)?;
        let mut command = namespace.command("/usr/sbin/bird");
        command.arg("-f").arg("-c").arg(&file).arg("-s").arg(folder.path().join("bird.ctl"));
        let process = Process::start(command, &folder.path().join("bird.log"))?;
        Ok(Self { process, folder })
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
    /// random (RFC 4271, 10).
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

fn config(peering: &Peering) -> Result<String> {
    let Peering { local_as, peer_as, local, keepalive, hops, .. } = peering;
    let (family, peer, id) = (peering.family(), peering.scoped_peer(), peering.router_id());
    let hop = match hops {
        1 if peering.is_link_local() => format!("direct; interface \"{INTERFACE}\""),
        1 => "direct".to_owned(),
        _ => format!("multihop {hops}"),
    };
    let passive = if peering.passive { "passive;" } else { "" };
    let password = peering.md5.as_ref().map(|text| format!("password \"{text}\";")).unwrap_or_default();
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
    debug {{ events }};
    local {local} as {local_as};
    neighbor {peer} as {peer_as};
    {hop};
    {password}
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
