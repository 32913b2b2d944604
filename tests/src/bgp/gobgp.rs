//! GoBGP.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{Peering, Speaker};
use crate::{
    namespace::Namespace,
    process::{Process, run},
    wait::eventually,
};

/// Port of its own interface, on the namespace's loopback.
const API_PORT: &str = "50051";

/// A running gobgpd.
pub struct GoBgp {
    process: Process,
    namespace: Namespace,
    peering: Peering,
    _folder: TempDir,
}

impl GoBgp {
    /// Starts gobgpd in `namespace` with one session and its routes.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn start(namespace: &Namespace, peering: &Peering) -> Result<Self> {
        let folder = TempDir::new()?;
        let file = folder.path().join("gobgpd.toml");
        fs::write(&file, config(peering))?;
        let mut command = namespace.command("/usr/bin/gobgpd");
        command.arg("-f").arg(&file).args(["--api-hosts", &format!("127.0.0.1:{API_PORT}")]);
        let process = Process::start(command, &folder.path().join("gobgpd.log"))?;
        let (namespace, peering) = (namespace.clone(), peering.clone());
        let mut gobgp = Self { process, namespace, peering, _folder: folder };
        eventually(Duration::from_secs(15), "gobgpd to answer", || {
            gobgp.process.check_running()?;
            gobgp.neighbor().map(Some)
        })?;
        for prefix in gobgp.peering.prefixes() {
            gobgp.ask(&["global", "rib", "-a", gobgp.peering.family(), "add", &prefix])?;
        }
        Ok(gobgp)
    }

    /// Number of routes received, by its own count, which is cheaper to ask for than [`Speaker::received`].
    ///
    /// # Errors
    /// If it does not answer.
    pub fn count(&self) -> Result<u64> {
        let families = self.neighbor()?["afi_safis"].as_array().cloned().unwrap_or_default();
        Ok(families.iter().filter_map(|family| family["state"]["received"].as_u64()).sum())
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = self.namespace.command("/usr/bin/gobgp");
        command.args(["-p", API_PORT]).args(words);
        run(command)
    }

    fn neighbor(&self) -> Result<Value> {
        let peer = self.peering.peer.to_string();
        Ok(serde_json::from_str(&self.ask(&["--json", "neighbor", &peer])?)?)
    }
}

impl Speaker for GoBgp {
    fn state(&self) -> Result<String> {
        // SessionState of its API: 6 is established.
        let state = self.neighbor()?["state"]["session_state"].as_u64().unwrap_or(0);
        Ok(if state == 6 { "Established".to_owned() } else { format!("state {state}") })
    }

    fn received(&self) -> Result<u32> {
        let peer = self.peering.peer.to_string();
        let text = self.ask(&["--json", "neighbor", &peer, "adj-in", "-a", self.peering.family()])?;
        let routes: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(routes.as_object().map_or(0, serde_json::Map::len) as u32)
    }

    fn incarnation(&self) -> Result<String> {
        Ok(self.neighbor()?["timers"]["state"]["uptime"].to_string())
    }
}

fn config(peering: &Peering) -> String {
    let Peering { local_as, peer_as, local, peer, keepalive, .. } = peering;
    let (family, id) = (peering.family(), peering.router_id());
    let hold = (keepalive * 3).max(3);
    let password = peering.md5.as_ref().map(|text| format!("auth-password = \"{text}\"")).unwrap_or_default();
    format!(
        "[global.config]
  as = {local_as}
  router-id = \"{id}\"
  local-address-list = [\"{local}\"]
[[neighbors]]
  [neighbors.config]
    neighbor-address = \"{peer}\"
    peer-as = {peer_as}
    {password}
  [neighbors.transport.config]
    local-address = \"{local}\"
  [neighbors.timers.config]
    connect-retry = 2
    hold-time = {hold}
    keepalive-interval = {keepalive}
    idle-hold-time-after-reset = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"{family}-unicast\"
"
    )
}
