//! The configuration: neighbours, each with its master key tuple and policy.
//!
//! Text becomes a [`Config`] in three steps: `document` reads TOML tables into fields, `secret` obtains the
//! secrets that they name, `resolve` makes neighbours of them. What is wrong on the way is collected with its
//! position as [`ConfigErrors`]; secrets never come into an error or a warning.
//!
//! A `Config` keeps its text. A change by command is an [`Edit`] of that text, which is then read as a file would
//! be: so there is one way from words to keys, and [`Config::write`] saves exactly what runs.

pub use diff::{Change, Difference};
pub use edit::{Edit, EditError, KeyOwner};
pub use error::{ConfigError, ConfigErrors, Position, Subject};
pub use kmp::{Authentication, Fallback, Kmp, KmpProblem, Rsa, Tls, Validation};
pub use lifetime::{LifetimeError, Side};
pub use peer::{Peer, PeerError};
pub use problem::Problem;
pub use warning::Warning;
pub use write::WriteError;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::keys::KeyChain;
use document::Document;
use error::Report;
use resolve::Resolved;
use text::Text;

mod cell;
mod chain;
mod clash;
mod diff;
mod document;
mod edit;
mod error;
mod exposure;
mod fields;
mod kept;
mod kmp;
mod lifetime;
mod mode;
mod peer;
mod problem;
mod replace;
mod resolve;
mod secret;
mod splice;
#[cfg(test)]
mod tests;
mod text;
mod vendor_form;
mod warning;
mod write;

/// A parsed configuration: no field of it can be wrong any more. Holds secrets: no `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The neighbours, in the order of their peers ([`Peer`]'s `Ord`); no two have the same peer.
    pub neighbors: Vec<Neighbor>,
    /// The chains that have a name, in its order, whether a neighbour uses them or not; each as its first neighbour
    /// in the file has it.
    pub key_chains: Vec<Arc<KeyChain>>,
    /// The other files that were read for it: of secrets, keys and certificates.
    pub(crate) files: BTreeSet<PathBuf>,
    /// What it was read from.
    pub(crate) text: Text,
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
    /// How long before the end of its last key the operator is warned; `None`: not at all.
    pub key_warning: Option<Duration>,
    /// Where the keys of a connection come from.
    pub key_management: KeyManagement,
    /// How they are agreed; `Some` with [`KeyManagement::External`] and [`KeyManagement::Layered`] only.
    pub kmp: Option<Arc<Kmp>>,
    /// The option that carries the MAC.
    pub wire: Wire,
    /// What becomes of segments without a MAC.
    pub unauthenticated: Unauthenticated,
    /// What becomes of a connection that gets past the programs.
    pub on_unprotected: OnUnprotected,
}

/// Where the keys of a connection come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyManagement {
    /// From the master key, the quartet and both ISNs.
    #[default]
    Implicit,
    /// They are the configured secret, for every connection (draft-rescorla-tcp-auth-arch-00, 6.1.1).
    Static,
    /// They are agreed on a channel of the two daemons, before the SYN leaves (6.2.2).
    External,
    /// They are agreed on the connection itself, before its first octet of data (6.2.3).
    Layered,
}

impl KeyManagement {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Implicit, Self::Static, Self::External, Self::Layered];

    /// Whether two daemons agree on them, in a handshake: with [`Neighbor::kmp`].
    pub const fn is_agreed(self) -> bool {
        matches!(self, Self::External | Self::Layered)
    }

    /// The name used in the configuration and the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Implicit => "implicit",
            Self::Static => "static",
            Self::External => "external",
            Self::Layered => "layered",
        }
    }
}

/// The TCP option that carries the MAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// TCP-AO (RFC 5925).
    #[default]
    TcpAo,
    /// TCP-MD5 (RFC 2385), for a neighbour that has nothing better.
    TcpMd5,
}

impl Wire {
    /// Every wire.
    pub const ALL: [Self; 2] = [Self::TcpAo, Self::TcpMd5];

    /// The name used in the configuration and the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpAo => "tcp-ao",
            Self::TcpMd5 => "md5",
        }
    }
}

/// What becomes of segments of a neighbour that carry no MAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unauthenticated {
    /// They are dropped.
    #[default]
    Drop,
    /// Those of a connection that was up before are accepted until its first segment that verifies.
    AcceptUntilAuthenticated,
}

impl Unauthenticated {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Drop, Self::AcceptUntilAuthenticated];

    /// The name used in the configuration and the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::AcceptUntilAuthenticated => "accept-until-authenticated",
        }
    }
}

/// What becomes of a neighbor's connection that is up and gets past the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnprotected {
    /// Log, events and status say so.
    #[default]
    Report,
    /// It is ended, too.
    Reset,
}

impl OnUnprotected {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Report, Self::Reset];

    /// The name used in the configuration and the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Reset => "reset",
        }
    }
}

/// Names of all fields of a neighbor's table; `tls.FIELD` for those of its table `tls`.
#[cfg(test)]
pub(crate) fn fields_of_neighbor() -> impl Iterator<Item = &'static str> {
    fields::FIELDS.into_iter().chain(kmp::fields::TLS_FIELDS)
}

/// Names of all fields of a key's table.
#[cfg(test)]
pub(crate) fn fields_of_key() -> impl Iterator<Item = &'static str> {
    fields::KEY_FIELDS.into_iter()
}

impl Config {
    /// Reads the file at `path`. Beyond what [`Config::parse`] refuses, it is an error if everyone can write
    /// to the file, or if everyone can read it and it holds a secret itself.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let (text, mode) = text::read(path)?;
        let mut config = Self::parse_with_mode(text, path, mode)?;
        config.text.path =
            std::fs::metadata(path).is_ok_and(|found| found.is_file()).then(|| path.to_owned());
        Ok(config)
    }

    /// The configuration in `text`. `path` is the file's for errors, and relative paths in it start at its
    /// folder. All that is wrong is reported, except that a text which is not TOML is judged no further.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        Self::parse_with_mode(Zeroizing::new(text.to_owned()), path, 0)
    }

    /// The neighbour that an operator calls `name`: an address or prefix in any of its forms.
    pub fn neighbor(&self, name: &str) -> Option<&Neighbor> {
        self.of(&name.parse().ok()?)
    }

    /// The neighbor with this peer.
    pub fn of(&self, peer: &Peer) -> Option<&Neighbor> {
        let index = self.neighbors.binary_search_by(|neighbor| neighbor.peer.cmp(peer)).ok()?;
        self.neighbors.get(index)
    }

    /// What is legal but probably not meant, now; first of files that others can change.
    pub fn warnings(&self) -> Vec<Warning> {
        let files = self.files.iter().chain(&self.text.path).cloned().collect();
        let exposures = exposure::exposures(&files).into_iter();
        let exposures = exposures.map(|message| Warning { subject: Subject::File, message });
        exposures.chain(warning::warnings(self, Timestamp::now())).collect()
    }

    fn parse_with_mode(text: Zeroizing<String>, path: &Path, mode: u32) -> Result<Self, ConfigErrors> {
        let mut report = Report::new(&text);
        if mode & 0o002 != 0 {
            report.add_to_file(Problem::FileWritable(path.to_owned()));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let resolved = match Self::resolve(&text, folder, &mut report) {
            Some(resolved) => resolved,
            None => return Err(report.into_errors(path)),
        };
        if let Some((subject, span)) = &resolved.inline_secret
            && mode & 0o004 != 0
        {
            report.add(span, subject, Problem::FileReadable(path.to_owned()));
        }
        if !report.is_empty() {
            return Err(report.into_errors(path));
        }
        let holds_secret = resolved.inline_secret.is_some();
        let files = report.take_files();
        let Resolved { neighbors, chains: key_chains, .. } = resolved;
        Ok(Self { neighbors, key_chains, files, text: Text::loaded(text, holds_secret) })
    }

    /// What the text means, good if `report` has no errors; `None` if it is not TOML.
    fn resolve(text: &str, folder: &Path, report: &mut Report<'_>) -> Option<Resolved> {
        let document = Document::parse(text, report);
        if report.has_syntax_errors() {
            return None;
        }
        Some(resolve::resolve(&document, folder, report))
    }
}
