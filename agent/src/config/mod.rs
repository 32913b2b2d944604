//! The configuration: neighbours, each with its master key tuple and policy.
//!
//! Text becomes a [`Config`] in three steps: `document` reads TOML tables into fields, `secret` obtains the
//! secrets that they name, `resolve` makes neighbours of them. What is wrong on the way is collected with its
//! position as [`ConfigErrors`]; secrets never come into an error or a warning.

pub use error::{ConfigError, ConfigErrors, Position, Problem, Subject};
pub use peer::{Peer, PeerError};
pub use resolve::Defaults;
pub use warning::Warning;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::keys::KeyChain;
use document::Document;
use error::Report;

mod document;
mod error;
mod peer;
mod resolve;
mod secret;
#[cfg(test)]
mod tests;
mod warning;

/// Largest configuration file read, in octets.
const MAX_FILE: u64 = 16 << 20;

/// A parsed configuration: no field of it can be wrong any more.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The neighbours, in the order of their peers ([`Peer`]'s `Ord`); no two have the same peer.
    pub neighbors: Vec<Neighbor>,
    /// What neighbours added while the daemon runs inherit.
    pub defaults: Defaults,
}

/// One neighbour, or a prefix of dynamic neighbours that share a policy.
#[derive(Clone, PartialEq, Eq)]
pub struct Neighbor {
    /// Whom it is about.
    pub peer: Peer,
    /// How segments to and from it are signed.
    pub keys: Arc<KeyChain>,
    /// TCP port that makes a connection with it a protected session, at either end. Default 179.
    pub port: u16,
    /// GTSM (RFC 5082): hops away at most, 1 to 254; segments with a hop limit below 256 − hops are refused.
    pub ttl_security: Option<u8>,
    /// Ends of its sessions that are behind this host, each with the interface by which its segments arrive
    /// here; all of the neighbour's family, no address or prefix twice.
    pub forwarded: Vec<Peer>,
    /// Where the keys of a connection come from.
    pub key_management: KeyManagement,
    /// What becomes of segments without a MAC.
    pub unauthenticated: Unauthenticated,
    /// The option that carries the MAC.
    pub wire: Wire,
}

/// The option that carries the MAC of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// TCP-AO (RFC 5925).
    #[default]
    TcpAo,
    /// TCP-MD5 (RFC 2385), which has no KeyID.
    TcpMd5,
}

/// Where the keys of a connection come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyManagement {
    /// From the master key, the quartet and both ISNs.
    #[default]
    Implicit,
}

/// What becomes of segments of a neighbour that carry no MAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unauthenticated {
    /// They are dropped.
    #[default]
    Drop,
}

impl Config {
    /// Reads the file at `path`. Beyond what [`Config::parse`] refuses, it is an error if everyone can write
    /// to the file, or if everyone can read it and it holds a secret itself.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let unreadable =
            |error: std::io::Error| ConfigErrors::of_file(path, Problem::Unreadable(error.kind()));
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        // Room for all of it, so that the vector does not move and leave a copy behind.
        let room = usize::try_from(metadata.len().min(MAX_FILE)).unwrap_or_default() + 1;
        let mut octets = Zeroizing::new(Vec::with_capacity(room));
        file.take(MAX_FILE + 1).read_to_end(&mut octets).map_err(unreadable)?;
        if octets.len() as u64 > MAX_FILE {
            return Err(ConfigErrors::of_file(path, Problem::TooLarge(MAX_FILE)));
        }
        // A pipe (`tcpauth check /dev/stdin`) is nobody else's to read or write.
        let mode = if metadata.is_file() { metadata.mode() } else { 0 };
        match std::str::from_utf8(&octets) {
            Ok(text) => Self::parse_with_mode(text, path, mode),
            Err(error) => {
                let text = str::from_utf8(&octets[..error.valid_up_to()]).unwrap_or_default();
                let mut report = Report::new(text);
                report.add(&(text.len()..text.len()), &Subject::File, Problem::NotUtf8);
                Err(report.into_errors(Some(path)))
            }
        }
    }

    /// The configuration in `text`. `path` is the file's for errors, and relative paths in it start at its
    /// folder. All that is wrong is reported, except that a text which is not TOML is judged no further.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        Self::parse_with_mode(text, path, 0)
    }

    /// Adds a neighbour; an error if it is configured already, or ambiguous beside another.
    pub fn insert(&mut self, neighbor: Neighbor) -> Result<(), ConfigErrors> {
        if let Some((peer, problem)) = resolve::clash_with(&neighbor.peer, &self.neighbors) {
            return Err(ConfigErrors::of_neighbor(peer, problem));
        }
        let index = self.neighbors.partition_point(|other| other.peer < neighbor.peer);
        self.neighbors.insert(index, neighbor);
        Ok(())
    }

    /// Removes the neighbour configured as `peer`, and returns it.
    pub fn remove(&mut self, peer: &Peer) -> Option<Neighbor> {
        let index = self.neighbors.binary_search_by(|other| other.peer.cmp(peer)).ok()?;
        Some(self.neighbors.remove(index))
    }

    /// What is legal but probably not meant.
    pub fn warnings(&self) -> Vec<Warning> {
        warning::warnings(self)
    }

    fn parse_with_mode(text: &str, path: &Path, mode: u32) -> Result<Self, ConfigErrors> {
        let mut report = Report::new(text);
        if mode & 0o002 != 0 {
            report.add_to_file(Problem::FileWritable(path.to_owned()));
        }
        let document = Document::parse(text, &mut report);
        if report.has_syntax_errors() {
            return Err(report.into_errors(Some(path)));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let resolved = resolve::resolve(&document, folder, &mut report);
        if let Some((subject, span)) = resolved.inline_secret
            && mode & 0o004 != 0
        {
            report.add(&span, &subject, Problem::FileReadable(path.to_owned()));
        }
        if report.is_empty() { Ok(resolved.config) } else { Err(report.into_errors(Some(path))) }
    }
}

impl Neighbor {
    /// The neighbour `peer` from `toml`, a document with the fields of its table: what
    /// `tcpauth neighbor add` sends. Fields that are absent come from `defaults`; relative paths start at
    /// `folder`. Errors have no positions, as no operator wrote the document.
    pub fn parse_table(
        peer: &str,
        toml: &str,
        defaults: &Defaults,
        folder: &Path,
    ) -> Result<Self, ConfigErrors> {
        let mut report = Report::new(toml);
        let document = Document::parse(toml, &mut report);
        let neighbor = if report.is_empty() {
            resolve::resolve_one(peer, &document, defaults, folder, &mut report)
        } else {
            None
        };
        match neighbor {
            Some(neighbor) if report.is_empty() => Ok(neighbor),
            _ => Err(report.into_errors(None)),
        }
    }
}
