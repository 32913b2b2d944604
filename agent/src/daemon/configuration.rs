//! Changes of the running configuration: by the file, by a command; and back to the file.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{
    Daemon, DaemonError, Options,
    neighbors::{Neighbors, Rules},
    rules::{self, Reconciled, Replan},
    unconfigured::Unconfigured,
};
use crate::{
    config::{Config, Difference, Edit, Neighbor, Peer},
    kernel::KernelError,
    kmp::tls,
};

/// Differences that an error names: a terminal still shows what stands before them.
const NAMED: usize = 10;

/// What a change did, for the operator.
pub(super) struct Change {
    added: usize,
    changed: usize,
    removed: usize,
    pub(super) sessions: Reconciled,
}

/// The configuration that a daemon starts with.
pub(super) struct Start {
    pub(super) config: Config,
    /// Whether what an earlier daemon kept is not to be touched: it may be of use the next time.
    pub(super) leaves_kept: bool,
}

/// Returns the configuration that a daemon starts with: the running one of its predecessor since the machine started, if
/// that had changes which are not in the file, else the file's.
///
/// # Errors
/// [`DaemonError::Config`] if the file is wrong.
pub(super) fn at_start(options: &Options) -> Result<Start, DaemonError> {
    let kept = options.instance.kept_config();
    let leaves_kept = match Config::kept(&kept, &options.config_file) {
        Ok(Some(config)) => {
            tracing::warn!(
                "the running configuration goes on with changes made by command that are not in {}; `tcpauth config \
                 diff` shows them, `config write` or `config discard` ends it",
                options.config_file.display()
            );
            return Ok(Start { config, leaves_kept: false });
        }
        Ok(None) => false,
        Err(errors) => {
            tracing::error!(
                "changes made by command are not used, and lost with the next change of the configuration: {}: {errors}",
                kept.display()
            );
            true
        }
    };
    Ok(Start { config: Config::load(&options.config_file)?, leaves_kept })
}

impl Daemon {
    /// Reads the file again and applies it, all or nothing. `discard` also if changes made by command are lost, `force`
    /// also if no neighbor that is protected stays.
    ///
    /// # Errors
    /// What is wrong, for the operator; then everything is as it was, and the status says so too.
    pub(super) fn reload(&mut self, discard: bool, force: bool) -> Result<String, String> {
        let result = self.reloaded(discard, force).and_then(|config| {
            let mut change = self.apply(config, HashMap::new())?;
            // Not before: if the maps refuse the configuration, all is as it was.
            if force && !self.unconfigured.is_empty() {
                self.unconfigured = Unconfigured::default();
                let let_go = self.write_rules(self.current_rules(), &Replan::default());
                change.sessions.removed += let_go.map_err(|error| error.to_string())?.removed;
            }
            Ok(change.to_string())
        });
        match &result {
            Ok(done) => {
                tracing::info!(file = %self.config_file.display(), "configuration loaded: {done}");
                self.log_warnings();
                self.reload_error = None;
            }
            Err(error) => {
                tracing::error!("configuration not loaded, the one before stays: {error}");
                self.reload_error = Some(error.clone());
            }
        }
        result
    }

    /// The configuration in the file, if it may take the place of the running one.
    fn reloaded(&self, discard: bool, force: bool) -> Result<Config, String> {
        let config = Config::load(&self.config_file).map_err(|errors| errors.to_string())?;
        if !discard {
            let lost = self.config.lost_with(&config);
            if !lost.is_empty() {
                return Err(format!(
                    "changes made by command are not in {} and would be lost (`tcpauth config write` keeps them, \
                     `tcpauth reload --discard` does not):{}",
                    self.config_file.display(),
                    named(&lost)
                ));
            }
        }
        let protected = self.config.neighbors.len();
        let keeps_one = config.neighbors.iter().any(|new| self.config.of(&new.peer).is_some());
        if protected > 0 && !keeps_one && !force {
            return Err(format!(
                "{} keeps none of the {protected} neighbors that are protected: is it empty or another file by mistake? \
                 `tcpauth reload --force` takes their protection away",
                self.config_file.display()
            ));
        }
        Ok(config)
    }

    /// Adds a neighbour to the running configuration.
    ///
    /// # Errors
    /// What is wrong, for the operator; then everything is as it was.
    pub(super) fn add_neighbor(&mut self, peer: &str, toml: &str) -> Result<String, String> {
        let edit = Edit::AddNeighbor { peer: peer.to_owned(), toml: Zeroizing::new(toml.to_owned()) };
        self.edit(&[edit])?;
        let name = self.config.neighbor(peer).map_or_else(|| peer.to_owned(), |added| added.peer.to_string());
        tracing::info!(neighbor = name, "neighbour added to the running configuration");
        Ok(format!(
            "{name} is added until the machine reboots; {}",
            self.file_hint("to keep it, `tcpauth config write`, or add it to")
        ))
    }

    /// Removes a neighbour from the running configuration.
    ///
    /// # Errors
    /// What is wrong, for the operator; then everything is as it was.
    pub(super) fn remove_neighbor(&mut self, peer: &str) -> Result<String, String> {
        let found = self.config.neighbors.iter().find(|neighbor| same_peer(neighbor, peer));
        let Some(peer) = found.map(|neighbor| neighbor.peer.clone()) else {
            return self.let_go(peer);
        };
        let name = peer.to_string();
        let change = self.edit(&[Edit::RemoveNeighbor { peer }])?;
        tracing::info!(neighbor = name, "neighbour removed from the running configuration");
        Ok(format!(
            "{name} is removed with its sessions ({}): our segments leave without MAC now; a peer that asks for one drops \
             them, and BGP ends at its hold time; {}",
            change.sessions.removed,
            self.file_hint("to keep it so, `tcpauth config write`, or remove it from")
        ))
    }

    /// Lets a neighbor go that is protected and not configured.
    fn let_go(&mut self, peer: &str) -> Result<String, String> {
        if !self.unconfigured.let_go(peer) {
            return Err(no_neighbor(peer));
        }
        let removed =
            self.write_rules(self.current_rules(), &Replan::default()).map_err(|error| error.to_string())?;
        tracing::info!(neighbor = peer, "neighbor that is not configured was let go");
        Ok(format!(
            "{peer} is removed with its sessions ({}): our segments leave without MAC now",
            removed.removed
        ))
    }

    /// Changes the running configuration, all or nothing.
    fn edit(&mut self, edits: &[Edit]) -> Result<Change, String> {
        let config = self.edited(edits)?;
        self.apply(config, HashMap::new())
    }

    /// The running configuration as it would be after `edits`.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub(super) fn edited(&self, edits: &[Edit]) -> Result<Config, String> {
        let folder = self.config_file.parent().unwrap_or(Path::new("/"));
        let mut config = self.config.clone();
        config.apply(edits, folder).map_err(|error| error.to_string())?;
        Ok(config)
    }

    /// How the running configuration differs from the file, a difference a line.
    ///
    /// # Errors
    /// What is wrong with the file, for the operator.
    pub(super) fn differences(&self) -> Result<Vec<String>, String> {
        let differences = self.config.differences(&self.config_file).map_err(|errors| errors.to_string())?;
        Ok(differences.iter().map(ToString::to_string).collect())
    }

    /// Writes the running configuration to its file.
    ///
    /// # Errors
    /// Why not, for the operator; then the file is as it was.
    pub(super) fn write_config(&mut self) -> Result<String, String> {
        self.config.write(&self.config_file).map_err(|error| error.to_string())?;
        self.keep_running();
        tracing::info!(file = %self.config_file.display(), "running configuration written");
        Ok(format!("the running configuration is written to {}", self.config_file.display()))
    }

    /// Resolves interface names again, after interfaces came or went.
    ///
    /// # Errors
    /// [`KernelError::Map`], [`KernelError::MapFull`].
    pub(super) fn follow_interfaces(&mut self) -> Result<(), KernelError> {
        let rules = self.current_rules();
        if rules != self.rules {
            self.write_rules(rules, &Replan::default())?;
        }
        Ok(())
    }

    /// Makes `config` the running one. If the maps refuse it, they get the old one back. `forced` as in [`Replan`], by
    /// the name of the neighbour.
    pub(super) fn apply(&mut self, config: Config, forced: HashMap<Peer, u32>) -> Result<Change, String> {
        let now = Timestamp::now();
        let mut change = Change::between(&self.config, &config);
        let neighbors = Neighbors::number(
            config.neighbors.iter().cloned(),
            &self.neighbors,
            self.unconfigured.peers(),
            &|name| self.interfaces.bound(name),
        );
        let before = std::mem::replace(&mut self.neighbors, neighbors);
        let replan = self.replan_after(&before, &forced);
        let rules = self.current_rules();
        match self.write_rules(rules, &replan) {
            Ok(sessions) => change.sessions = sessions,
            Err(error) => {
                self.neighbors = before;
                let undo = rules::read(&self.dataplane).and_then(|found| {
                    self.rules = found;
                    self.write_rules(self.current_rules(), &Replan::of(self.neighbors.numbers()))
                });
                if let Err(error) = undo {
                    tracing::error!("the old configuration could not be restored: {error}");
                }
                return Err(format!("{error}; the configuration before stays"));
            }
        }
        self.config = config;
        tls::files::forget();
        self.unconfigured.follow(&self.neighbors);
        self.keep_running();
        self.adopt();
        self.drops.retain(|number| self.neighbors.numbered(number).is_some());
        self.crowding.retain(|number| self.neighbors.numbered(number).is_some());
        self.bypasses.retain(|number| self.neighbors.numbered(number).is_some());
        self.peer_keys.follow(&before, &self.neighbors);
        self.schedule.follow(&self.neighbors);
        self.refresh_changed(&before);
        self.tell_keys(now);
        let changed = self.numbers_of_other_channels(&before);
        self.forget_troubles(|number| changed.contains(&number));
        self.forget_agreed(|number| changed.contains(&number));
        self.follow_channels(&|number| changed.contains(&number));
        Ok(change)
    }

    /// Whose keys are others than before.
    fn replan_after(&self, before: &Neighbors, forced: &HashMap<Peer, u32>) -> Replan {
        let keys = |neighbor: &Neighbor| (Arc::clone(&neighbor.keys), neighbor.wire, neighbor.key_management);
        let is_changed =
            |number, neighbor: &Neighbor| before.numbered(number).map(keys) != Some(keys(neighbor));
        let mut replan = Replan::default();
        for (number, neighbor) in self.neighbors.iter() {
            if is_changed(number, neighbor) {
                replan.neighbors.insert(number);
            }
            if let Some(key) = forced.get(&neighbor.peer) {
                replan.forced.insert(number, *key);
            }
        }
        replan
    }

    /// Neighbours to whose daemons another channel is needed than before.
    fn numbers_of_other_channels(&self, before: &Neighbors) -> BTreeSet<u32> {
        let settings =
            |neighbor: &Neighbor| (neighbor.kmp.clone(), neighbor.key_management, Arc::clone(&neighbor.keys));
        let is_other = |number, now: &Neighbor| {
            before.numbered(number).is_some_and(|before| settings(before) != settings(now))
        };
        self.neighbors
            .iter()
            .filter(|(number, now)| is_other(*number, now))
            .map(|(number, _)| number)
            .collect()
    }

    /// What the maps have to say, with interfaces as they are now.
    pub(super) fn current_rules(&self) -> Rules {
        let mut rules =
            self.neighbors.rules(Timestamp::now(), &|name| self.interfaces.bound(name), &|name| {
                self.interfaces.arrival(name)
            });
        self.unconfigured.add_to(&mut rules);
        rules.keep_told(&self.rules);
        rules
    }

    /// Brings maps and sessions to `new`; of sessions that stay with their neighbour, only those that `replan` names.
    pub(super) fn write_rules(&mut self, new: Rules, replan: &Replan) -> Result<Reconciled, KernelError> {
        rules::write(&mut self.dataplane, &self.rules, &new)?;
        let index_of = |name: &str| self.interfaces.bound(name);
        let reconciled =
            rules::reconcile(&mut self.dataplane, &self.neighbors, &index_of, replan, &self.unconfigured)?;
        rules::drop_policies(&mut self.dataplane, &self.rules, &new)?;
        self.rules = new;
        if reconciled != Reconciled::default() {
            tracing::info!(
                rekeyed = reconciled.rekeyed,
                removed = reconciled.removed,
                "sessions brought up to date"
            );
        }
        Ok(reconciled)
    }

    /// Keeps the running configuration for the next daemon of this boot, if it differs from the file. If that cannot be,
    /// log, status and answers to commands say so.
    pub(super) fn keep_running(&mut self) {
        let kept = self.instance.kept_config();
        self.keep_error = self.config.keep(&kept, &self.config_file).err().map(|error| {
            let lost = match self.config.is_unsaved() {
                true => "the next tcpauthd would not have what was changed by command",
                false => "the next tcpauthd would take an older configuration for the running one",
            };
            format!("{lost}: {}: {error}", kept.display())
        });
        if let Some(error) = &self.keep_error {
            tracing::error!("{error}");
        }
    }

    /// Logs what is legal in the running configuration but probably not meant.
    pub(super) fn log_warnings(&self) {
        for warning in self.config.warnings() {
            tracing::warn!("configuration: {warning}");
        }
    }

    fn file_hint(&self, what: &str) -> String {
        format!("{what} {}", self.config_file.display())
    }
}

/// The first of `differences`, each on a line of its own, and how many more there are.
fn named(differences: &[Difference]) -> String {
    let mut lines: String =
        differences.iter().take(NAMED).map(|difference| format!("\n  {difference}")).collect();
    if let more @ 1.. = differences.len().saturating_sub(NAMED) {
        lines += &format!("\n  and {more} more; `tcpauth config diff` shows all");
    }
    lines
}

/// The error for a neighbour that is not configured.
pub(super) fn no_neighbor(peer: &str) -> String {
    format!("{peer} is no configured neighbour; `tcpauth neighbor show` lists them")
}

/// Whether `peer`, as typed by an operator, is how the neighbour is configured.
pub(super) fn same_peer(neighbor: &Neighbor, peer: &str) -> bool {
    let (address, interface) = match peer.split_once('%') {
        Some((address, interface)) => (address, Some(interface)),
        None => (peer, None),
    };
    let same_address = neighbor.peer.is_host() && address.parse() == Ok(neighbor.peer.address);
    let same_interface = interface == neighbor.peer.interface.as_deref();
    neighbor.peer.to_string() == peer || (same_address && same_interface)
}

impl Change {
    fn between(old: &Config, new: &Config) -> Self {
        let kept: Vec<_> = new.neighbors.iter().filter_map(|new| Some((new, old.of(&new.peer)?))).collect();
        Self {
            added: new.neighbors.len() - kept.len(),
            changed: kept.iter().filter(|(new, old)| new != old).count(),
            removed: old.neighbors.len() - kept.len(),
            sessions: Reconciled::default(),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { added, changed, removed, sessions } = self;
        write!(
            f,
            "neighbours: {added} added, {changed} changed, {removed} removed; sessions: {} with new keys, {} removed",
            sessions.rekeyed, sessions.removed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::testing::neighbor;

    fn config(peers: &[&str]) -> Config {
        Config { neighbors: peers.iter().map(|peer| neighbor(peer)).collect(), ..Config::default() }
    }

    #[test]
    fn a_change_is_counted() {
        let old = config(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let mut new = config(&["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"]);
        new.neighbors[0].ttl_security = Some(1);
        let change = Change::between(&old, &new);
        assert_eq!((change.added, change.changed, change.removed), (2, 1, 1));
    }

    #[test]
    fn an_error_names_the_first_differences_and_counts_the_rest() {
        let differences: Vec<Difference> = (0..NAMED + 2)
            .map(|number| Difference {
                change: crate::config::Change::Added,
                subject: format!("key.{number}"),
                detail: None,
            })
            .collect();
        assert_eq!(named(&differences[..1]), "\n  + key.0");
        assert!(named(&differences[..NAMED]).ends_with(&format!("\n  + key.{}", NAMED - 1)));
        let more = named(&differences);
        assert_eq!(more.lines().count(), 1 + NAMED + 1);
        assert!(more.ends_with("\n  and 2 more; `tcpauth config diff` shows all"), "{more}");
    }

    #[test]
    fn operators_may_write_an_address_in_another_way() {
        assert!(same_peer(&neighbor("2001:db8::1"), "2001:DB8:0::1"));
        assert!(same_peer(&neighbor("192.0.2.0/24"), "192.0.2.0/24"));
        assert!(!same_peer(&neighbor("192.0.2.0/24"), "192.0.2.0"));
        assert!(same_peer(&neighbor("fe80::1%eth0"), "fe80::1%eth0"));
        assert!(!same_peer(&neighbor("fe80::1%eth0"), "fe80::1"));
    }
}
