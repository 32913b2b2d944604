//! FRR's bgpd, without zebra: routes stay in BGP.

use std::{fmt::Write, fs, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{Peering, Speaker};
use crate::{
    namespace::Namespace,
    process::{Process, run},
    wait::eventually,
};

/// A running bgpd.
pub struct Frr {
    process: Process,
    folder: TempDir,
    peering: Peering,
}

impl Frr {
    /// Starts bgpd in `namespace` with one session, and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(namespace: &Namespace, peering: &Peering) -> Result<Self> {
        let folder = TempDir::new()?;
        let file = folder.path().join("bgpd.conf");
        fs::write(&file, config(peering)?)?;
        let mut command = namespace.command("/usr/lib/frr/bgpd");
        command.args(["--no_zebra", "--skip_runas", "--vty_port", "0", "--listenon"]);
        command.arg(peering.local.to_string());
        command.arg("--vty_socket").arg(folder.path()).arg("-f").arg(&file);
        command.arg("-i").arg(folder.path().join("bgpd.pid")).args(["--log", "stdout"]);
        let process = Process::start(command, &folder.path().join("bgpd.log"))?;
        let mut frr = Self { process, folder, peering: peering.clone() };
        eventually(Duration::from_secs(15), "bgpd to answer", || {
            frr.process.check_running()?;
            frr.neighbor().map(Some)
        })?;
        Ok(frr)
    }

    /// Time since the neighbour was last heard of.
    ///
    /// # Errors
    /// If bgpd does not answer.
    pub fn silence(&self) -> Result<Duration> {
        let neighbor = self.neighbor()?;
        let milliseconds = neighbor["bgpTimerLastRead"].as_u64().context("no time of the last message")?;
        Ok(Duration::from_millis(milliseconds))
    }

    fn neighbor(&self) -> Result<Value> {
        let mut command = Command::new("/usr/bin/vtysh");
        command.arg("--vty_socket").arg(self.folder.path()).args(["-c", "show bgp neighbors json"]);
        let peers: Value = serde_json::from_str(&run(command)?)?;
        peers.get(self.peering.peer.to_string()).cloned().context("no neighbor")
    }
}

impl Speaker for Frr {
    fn state(&self) -> Result<String> {
        Ok(self.neighbor()?["bgpState"].as_str().unwrap_or_default().to_owned())
    }

    fn received(&self) -> Result<u32> {
        let family = format!("{}Unicast", self.peering.family());
        let neighbor = self.neighbor()?;
        Ok(neighbor["addressFamilyInfo"][family]["acceptedPrefixCounter"].as_u64().unwrap_or(0) as u32)
    }

    fn incarnation(&self) -> Result<String> {
        // Its time of day moves by a second now and then; how often it came up does not.
        Ok(self.neighbor()?["connectionsEstablished"].to_string())
    }
}

fn config(peering: &Peering) -> Result<String> {
    let Peering { local_as, peer_as, local, peer, keepalive, .. } = peering;
    let (family, id) = (peering.family(), peering.router_id());
    let mut more = String::new();
    if peering.passive {
        writeln!(more, " neighbor {peer} passive")?;
    }
    if let Some(password) = &peering.md5 {
        writeln!(more, " neighbor {peer} password {password}")?;
    }
    let mut config = format!(
        "router bgp {local_as}
 bgp router-id {id}
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 timers bgp {keepalive} {hold}
 neighbor {peer} remote-as {peer_as}
 neighbor {peer} update-source {local}
 neighbor {peer} timers connect 2
{more} address-family {family} unicast
  neighbor {peer} activate
",
        hold = (keepalive * 3).max(3),
    );
    for prefix in peering.prefixes() {
        writeln!(config, "  network {prefix}")?;
    }
    config.push_str(" exit-address-family\n");
    Ok(config)
}
