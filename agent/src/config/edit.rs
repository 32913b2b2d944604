//! Changes of the running configuration by command: edits of its text, which is then read as a file would be.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::document::Document;
use super::error::Report;
use super::fields::FIELDS_OF_SECRET;
use super::resolve::Resolved;
use super::secret::Source;
use super::splice::{self, Line, Place, Splice};
use super::{Config, ConfigErrors, Neighbor, Peer};

/// A change of a configuration. Can hold a secret: no `Debug`.
pub enum Edit {
    /// A neighbour more.
    AddNeighbor {
        /// Its address, as it is to stand in the configuration.
        peer: String,
        /// The fields of its table, a TOML document.
        toml: Zeroizing<String>,
    },
    /// A neighbour less, with its own keys.
    RemoveNeighbor {
        /// Which one.
        peer: Peer,
    },
    /// A key more, or another one in place of the one with its number.
    SetKey {
        /// Whose.
        owner: KeyOwner,
        /// N of `key.N`.
        number: u32,
        /// The fields of the key, a TOML document.
        toml: Zeroizing<String>,
    },
    /// A field of a key that is there.
    SetKeyField {
        /// Whose key.
        owner: KeyOwner,
        /// N of `key.N`; 0 also for the secret that a neighbour's table has itself.
        number: u32,
        /// The field, `send-lifetime` for instance.
        field: &'static str,
        /// Its text.
        value: String,
    },
    /// A key less; never the last.
    RemoveKey {
        /// Whose.
        owner: KeyOwner,
        /// N of `key.N`; 0 also for the secret that a neighbour's table has itself.
        number: u32,
    },
}

/// Whose keys they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyOwner {
    /// Those of a chain, by its name.
    Chain(String),
    /// A neighbour's own.
    Neighbor(Peer),
}

/// Why an edit was refused; nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each is.
pub enum EditError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("neighbor \"{0}\" is configured already; remove it first")]
    NeighborExists(Peer),
    #[error("{0} is not configured; `tcpauth key show` lists what is")]
    NoOwner(KeyOwner),
    #[error("{owner} has no key {number}; `tcpauth key show` lists those it has")]
    NoKey { owner: KeyOwner, number: u32 },
    #[error("key {number} is the only one of {owner}; add another one first, or remove the neighbour")]
    OnlyKey { owner: KeyOwner, number: u32 },
    #[error(
        "{0} has its keys from [defaults], and one of its own would replace them; give it a secret or a key-chain of \
         its own in the configuration first"
    )]
    KeysOfDefaults(KeyOwner),
}

impl std::fmt::Display for KeyOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chain(name) => write!(f, "key-chain \"{name}\""),
            Self::Neighbor(peer) => write!(f, "neighbor \"{peer}\""),
        }
    }
}

impl KeyOwner {
    fn is_neighbor(&self) -> bool {
        matches!(self, Self::Neighbor(_))
    }
}

impl Neighbor {
    /// Where its keys are configured.
    pub fn key_owner(&self) -> KeyOwner {
        match &self.keys.name {
            Some(name) => KeyOwner::Chain(name.clone()),
            None => KeyOwner::Neighbor(self.peer.clone()),
        }
    }
}

impl Config {
    /// Makes `edits` in their order, all or none. Relative paths in the text start at `folder`. Files of secrets are
    /// read again, all of them.
    pub fn apply(&mut self, edits: &[Edit], folder: &Path) -> Result<(), EditError> {
        let mut text = Zeroizing::new(String::clone(&self.text.running));
        let mut rest = edits;
        while !rest.is_empty() {
            (text, rest) = apply_some(&text, rest)?;
        }
        let mut report = Report::of_running(&text);
        match Self::resolve(&text, folder, &mut report) {
            Some(Resolved { neighbors, chains, inline_secret }) if report.is_empty() => {
                self.neighbors = neighbors;
                self.key_chains = chains;
                self.files = report.take_files();
                self.text.holds_secret = inline_secret.is_some();
            }
            _ => return Err(report.into_errors(Path::new("")).into()),
        }
        self.text.running = Arc::new(text);
        Ok(())
    }
}

/// `text` with as many of `edits` as can be made without reading it again, and those that are left.
fn apply_some<'e>(text: &str, edits: &'e [Edit]) -> Result<(Zeroizing<String>, &'e [Edit]), EditError> {
    let mut report = Report::of_running(text);
    let document = Document::parse(text, &mut report);
    if !report.is_empty() {
        return Err(report.into_errors(Path::new("")).into());
    }
    let editor = Editor::new(text, document.table());
    // Fields are set side by side, each once: a thousand neighbours are one reading. All else changes what is where.
    let mut splices = Vec::new();
    let mut fields = HashSet::new();
    let mut rest = edits;
    while let Some((Edit::SetKeyField { owner, number, field, value }, more)) = rest.split_first() {
        if !fields.insert((owner, number)) {
            break;
        }
        splices.push(editor.set_key_field(owner, *number, field, value)?);
        rest = more;
    }
    let text = match rest.split_first() {
        Some((edit, more)) if fields.is_empty() => {
            rest = more;
            editor.make(edit)?
        }
        _ => splice::apply(text, splices),
    };
    Ok((text, rest))
}

/// Finds the places of edits in a text.
struct Editor<'a> {
    text: &'a str,
    root: Place<'a>,
    /// The neighbours' keys in their table.
    neighbors: HashMap<Peer, &'a str>,
}

impl<'a> Editor<'a> {
    fn new(text: &'a str, table: &'a DeTable<'a>) -> Self {
        let interface = |table: &'a DeTable<'a>| table.get("interface")?.get_ref().as_str();
        let default =
            table.get("defaults").and_then(|defaults| defaults.get_ref().as_table()).and_then(interface);
        let mut neighbors = HashMap::new();
        for (key, value) in
            table.get("neighbor").and_then(|value| value.get_ref().as_table()).into_iter().flatten()
        {
            let key: &str = key.get_ref();
            let own = value.get_ref().as_table().and_then(interface);
            let peer = Peer::parse(key, own.or(default.filter(|_| !key.contains('%'))));
            neighbors.extend(peer.map(|peer| (peer, key)));
        }
        Self { text, root: Place::root(text, table), neighbors }
    }

    /// The text after one edit.
    fn make(&self, edit: &Edit) -> Result<Zeroizing<String>, EditError> {
        let splices = match edit {
            Edit::AddNeighbor { peer, toml } => self.add_neighbor(peer, toml)?,
            Edit::RemoveNeighbor { peer } => {
                let key = self.neighbors.get(peer);
                let found = key.and_then(|key| Some(self.root.child("neighbor")?.remove(&[key])));
                found.ok_or_else(|| EditError::NoOwner(KeyOwner::Neighbor(peer.clone())))?
            }
            Edit::SetKey { owner, number, toml } => return self.set_key(owner, *number, &lines_of(toml)?),
            Edit::SetKeyField { owner, number, field, value } => {
                vec![self.set_key_field(owner, *number, field, value)?]
            }
            Edit::RemoveKey { owner, number } => self.remove_key(owner, *number)?,
        };
        Ok(splice::apply(self.text, splices))
    }

    fn set_key_field(
        &self,
        owner: &KeyOwner,
        number: u32,
        field: &str,
        value: &str,
    ) -> Result<Splice, EditError> {
        let table = self.owner(owner)?;
        let no_key = || EditError::NoKey { owner: owner.clone(), number };
        let key = match table.child("key").and_then(|keys| keys.child(&number.to_string())) {
            Some(key) => key,
            // The secret of its own, or that of the defaults.
            None if number == 0 && owner.is_neighbor() && (has_secret(&table) || !has_own_keys(&table)) => {
                table
            }
            None => return Err(no_key()),
        };
        key.set(&Line { key: field.to_owned(), value: quoted(value) }).ok_or_else(no_key)
    }

    fn add_neighbor(&self, peer: &str, toml: &str) -> Result<Vec<Splice>, EditError> {
        let lines = lines_of(toml)?;
        let interface =
            lines.iter().find(|line| line.key == "interface").map(|line| line.value.trim_matches('"'));
        if let Ok(peer) = Peer::parse(peer, interface)
            && self.neighbors.contains_key(&peer)
        {
            return Err(EditError::NeighborExists(peer));
        }
        let key = quoted(peer).to_string();
        let inline = self.root.child("neighbor").filter(Place::is_inline);
        let splice = match inline {
            Some(neighbors) => neighbors.insert(&Line::inline(key, &lines)),
            None => Some(splice::append(self.text, &format!("neighbor.{key}"), &lines)),
        };
        Ok(splice.into_iter().collect())
    }

    fn set_key(&self, owner: &KeyOwner, number: u32, lines: &[Line]) -> Result<Zeroizing<String>, EditError> {
        let table = self.owner(owner)?;
        if owner.is_neighbor() && !has_own_keys(&table) {
            return Err(EditError::KeysOfDefaults(owner.clone()));
        }
        let keys = table.child("key");
        let line = Line::inline(number.to_string(), lines);
        if let Some(keys) = &keys
            && let Some(old) = keys.child(&line.key)
        {
            if old.is_inline() {
                return Ok(splice::apply(self.text, keys.set(&line).into_iter().collect()));
            }
            let text = splice::apply(self.text, keys.remove(&[&line.key]));
            return with_new_key(&text, owner, &self.header(owner), &line, lines);
        }
        let text = with_new_key(self.text, owner, &self.header(owner), &line, lines)?;
        if number != 0 || !owner.is_neighbor() || !has_secret(&table) {
            return Ok(text);
        }
        // The new key 0 is there before the secret that it replaces goes, so that the table stays.
        reread(&text, |editor| {
            let table = editor.owner(owner)?;
            Ok(splice::apply(&text, table.remove(&fields_of_own_secret())))
        })
    }

    fn remove_key(&self, owner: &KeyOwner, number: u32) -> Result<Vec<Splice>, EditError> {
        let table = self.owner(owner)?;
        let keys = table.child("key");
        let key = number.to_string();
        let is_own_secret = number == 0 && owner.is_neighbor() && has_secret(&table);
        let in_keys = keys.as_ref().filter(|keys| keys.table().contains_key(key.as_str()));
        if in_keys.is_none() && !is_own_secret {
            return Err(EditError::NoKey { owner: owner.clone(), number });
        }
        let count = keys.as_ref().map_or(0, |keys| keys.table().len()) + usize::from(has_secret(&table));
        if count <= 1 {
            return Err(EditError::OnlyKey { owner: owner.clone(), number });
        }
        Ok(match in_keys {
            Some(keys) => keys.remove(&[&key]),
            None => table.remove(&fields_of_own_secret()),
        })
    }

    /// The table whose keys they are.
    fn owner(&self, owner: &KeyOwner) -> Result<Place<'a>, EditError> {
        let place = match owner {
            KeyOwner::Chain(name) => self.root.child("key-chain").and_then(|chains| chains.child(name)),
            KeyOwner::Neighbor(peer) => {
                let key = self.neighbors.get(peer);
                key.and_then(|key| self.root.child("neighbor")?.child(key))
            }
        };
        place.ok_or_else(|| EditError::NoOwner(owner.clone()))
    }

    /// How a header names the table.
    fn header(&self, owner: &KeyOwner) -> String {
        match owner {
            KeyOwner::Chain(name) => format!("key-chain.{}", *quoted(name)),
            KeyOwner::Neighbor(peer) => {
                let key = self.neighbors.get(peer).map_or_else(|| peer.to_string(), |key| (*key).to_owned());
                format!("neighbor.{}", *quoted(&key))
            }
        }
    }
}

/// `text` with the key `line` of `owner`, which has none of its number; `lines` are its fields, and `header` is the
/// owner's, should nothing of it be left.
fn with_new_key(
    text: &str,
    owner: &KeyOwner,
    header: &str,
    line: &Line,
    lines: &[Line],
) -> Result<Zeroizing<String>, EditError> {
    reread(text, |editor| {
        let table = editor.owner(owner).ok();
        let new = match table.as_ref().and_then(|table| table.child("key")) {
            Some(keys) => keys.insert(line),
            None => {
                let dotted = Line { key: format!("key.{}", line.key), value: line.value.clone() };
                table.and_then(|table| table.insert(&dotted))
            }
        };
        // What there was of the owner went with the key that is replaced.
        let inside = || {
            let (kind, name) = header.split_once('.')?;
            let dotted = Line { key: format!("{name}.key.{}", line.key), value: line.value.clone() };
            editor.root.child(kind).filter(Place::is_inline)?.insert(&dotted)
        };
        let new = new
            .or_else(inside)
            .unwrap_or_else(|| splice::append(text, &format!("{header}.key.{}", line.key), lines));
        Ok(splice::apply(text, vec![new]))
    })
}

/// What `change` makes of `text`.
fn reread(
    text: &str,
    change: impl FnOnce(&Editor<'_>) -> Result<Zeroizing<String>, EditError>,
) -> Result<Zeroizing<String>, EditError> {
    let mut report = Report::of_running(text);
    let document = Document::parse(text, &mut report);
    if !report.is_empty() {
        return Err(report.into_errors(Path::new("")).into());
    }
    change(&Editor::new(text, document.table()))
}

/// Whether the table has a secret, keys or a chain, and inherits none.
fn has_own_keys(table: &Place<'_>) -> bool {
    has_secret(table) || ["key", "key-chain"].iter().any(|field| table.table().contains_key(*field))
}

fn has_secret(table: &Place<'_>) -> bool {
    table.table().keys().any(|key| Source::from_field(key.get_ref()).is_some())
}

/// The secret itself, and what is said about it.
fn fields_of_own_secret() -> Vec<&'static str> {
    Source::ALL.into_iter().map(Source::field).chain(FIELDS_OF_SECRET).collect()
}

/// The fields in a document that is one table.
fn lines_of(toml: &str) -> Result<Vec<Line>, EditError> {
    let mut report = Report::of_running(toml);
    let document = Document::parse(toml, &mut report);
    if report.is_empty() {
        Ok(splice::lines(toml, document.table()))
    } else {
        Err(report.into_errors(Path::new("")).into())
    }
}

/// `text` as a TOML string.
fn quoted(text: &str) -> Zeroizing<String> {
    Zeroizing::new(toml::Value::String(text.to_owned()).to_string())
}
