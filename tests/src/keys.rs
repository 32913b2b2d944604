//! Keys of a neighbour, changed by command.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{agent::Agent, scenario::Protected, wait::eventually};

/// Why a segment of the peer may not be dropped while keys change.
pub const NEVER: [&str; 5] = ["wrong-mac", "unknown-key-id", "wrong-length", "old-key", "no-key"];

/// The same where one segment may overtake another: one under the peer's last key comes after one under its next.
pub const NEVER_OUT_OF_ORDER: [&str; 4] = ["wrong-mac", "unknown-key-id", "wrong-length", "no-key"];

impl Agent {
    /// `tcpauth key add` with more options, as in `--key-id=2`.
    ///
    /// # Errors
    /// As [`Agent::tcpauth`].
    pub fn add_key(&self, peer: &str, password: &str, options: &[&str]) -> Result<()> {
        let arguments = [&["key", "add", peer, "--password-file=-"], options].concat();
        self.tcpauth_with(&arguments, password)?;
        Ok(())
    }

    /// `tcpauth key roll` to the newest key, without waiting for the sessions.
    ///
    /// # Errors
    /// As [`Agent::tcpauth`].
    pub fn roll_key(&self, peer: &str) -> Result<()> {
        self.tcpauth(&["key", "roll", peer, "--wait=0"])?;
        Ok(())
    }

    /// `tcpauth key retire`, without force.
    ///
    /// # Errors
    /// As [`Agent::tcpauth`].
    pub fn retire_key(&self, peer: &str, number: u32) -> Result<()> {
        self.tcpauth(&["key", "retire", peer, &number.to_string()])?;
        Ok(())
    }

    /// `tcpauth key refresh`: new keys by a new handshake, for every session with `peer`.
    ///
    /// # Errors
    /// As [`Agent::tcpauth`].
    pub fn refresh_keys(&self, peer: &str) -> Result<()> {
        self.tcpauth(&["key", "refresh", peer])?;
        Ok(())
    }

    /// What `tcpauth key show --json` says of the neighbour.
    ///
    /// # Errors
    /// If there is no such neighbour.
    pub fn keys(&self, peer: &str) -> Result<Value> {
        self.json(&["key", "show", peer])?.get(0).cloned().with_context(|| format!("no keys of {peer}"))
    }

    /// What it says of key `number`.
    ///
    /// # Errors
    /// If there is no such key.
    pub fn key(&self, peer: &str, number: u32) -> Result<Value> {
        let keys = self.keys(peer)?;
        let mut listed = keys["keys"].as_array().into_iter().flatten();
        listed
            .find(|key| key["number"] == number)
            .cloned()
            .with_context(|| format!("no key {number}: {keys}"))
    }

    /// Waits until `sessions` are open and all of them use the preferred key both ways.
    ///
    /// # Errors
    /// If they do not in time.
    pub fn wait_until_rolled(&self, peer: &str, sessions: u64, limit: Duration) -> Result<()> {
        eventually(limit, &format!("{sessions} sessions with {peer} to be rolled"), || {
            let keys = self.keys(peer)?;
            let (open, rolled) = (keys["open_sessions"].as_u64(), keys["rolled_sessions"].as_u64());
            ensure!(open == Some(sessions) && rolled == open, "{keys}");
            Ok(Some(()))
        })
    }
}

/// Both routers.
pub struct Ends<'a>(pub [Endpoint<'a>; 2]);

/// A router, as its operator sees it.
#[derive(Clone)]
pub struct Endpoint<'a> {
    /// Its agent.
    pub agent: &'a Agent,
    /// The other router, as this one has it configured.
    pub peer: String,
    /// Whether it is `r1`.
    pub is_first: bool,
}

impl<'a> Ends<'a> {
    /// Those of `protected`.
    pub fn of(protected: &'a Protected) -> Self {
        Self([
            Endpoint { agent: &protected.agent1, peer: protected.peer2(), is_first: true },
            Endpoint { agent: &protected.agent2, peer: protected.peer1(), is_first: false },
        ])
    }

    /// Both, `r1` or `r2` first.
    pub fn first_is(&self, number: u8) -> [&Endpoint<'a>; 2] {
        let Self([a, b]) = self;
        if number == 1 { [a, b] } else { [b, a] }
    }

    /// Checks that nothing that a peer sent was dropped for one of `reasons`.
    ///
    /// # Errors
    /// If something was.
    pub fn nothing_dropped_for(&self, reasons: &[&str]) -> Result<()> {
        for Endpoint { agent, peer, .. } in &self.0 {
            let neighbor = agent.neighbor(peer)?;
            let dropped = &neighbor["counters"]["dropped"];
            for reason in reasons {
                ensure!(dropped.get(reason).is_none(), "segments of {peer} dropped: {dropped}");
            }
        }
        Ok(())
    }
}
