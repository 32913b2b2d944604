//! What is wrong with a configuration, and where.
//!
//! Values of the file are never quoted, for any of them can be a secret in the wrong place: a position says
//! where to look. Only a neighbour that has the form of an address, and a path that exists, are shown.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Problem;

/// Everything that is wrong with a configuration, in the order of the file. Displayed one to a line, as
/// `FILE:LINE:COLUMN: neighbor "192.0.2.1": what is wrong; what to do`.
#[derive(Debug)]
pub struct ConfigErrors {
    path: Option<PathBuf>,
    errors: Vec<ConfigError>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct ConfigError {
    /// Where; `None` if it is about the file as a whole, or the text did not come from a file.
    pub position: Option<Position>,
    /// Which table it is in.
    pub subject: Subject,
    /// What is wrong and what to do.
    pub problem: Problem,
}

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// The table that an error is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// None: the top of the file.
    File,
    /// `[defaults]`.
    Defaults,
    /// A neighbour, as it is written in the file.
    Neighbor(String),
    /// A neighbour whose key has not the form of an address: it may be a misplaced secret, and is not kept.
    UnnamedNeighbor,
    /// A key chain, by its name.
    Chain(String),
    /// A key chain whose name cannot be one: it may be a misplaced secret, and is not kept.
    UnnamedChain,
    /// A key of a chain or of a neighbour, by its number.
    Key(Box<Subject>, u32),
}

impl Subject {
    /// The neighbour whose key is `text`.
    pub(super) fn neighbor(text: &str) -> Self {
        if has_form_of_peer(text) { Self::Neighbor(text.to_owned()) } else { Self::UnnamedNeighbor }
    }

    /// The chain called `name`.
    pub(super) fn chain(name: &str) -> Self {
        if is_chain_name(name) { Self::Chain(name.to_owned()) } else { Self::UnnamedChain }
    }

    /// The key `number` of this chain or neighbour.
    pub(super) fn key(&self, number: u32) -> Self {
        Self::Key(Box::new(self.clone()), number)
    }
}

/// As `neighbor "192.0.2.1"` or `key-chain "backbone" key.2`; nothing for [`Subject::File`].
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Defaults => f.write_str("defaults"),
            Self::Neighbor(text) => write!(f, "neighbor \"{text}\""),
            Self::UnnamedNeighbor => f.write_str("neighbor"),
            Self::Chain(name) => write!(f, "key-chain \"{name}\""),
            Self::UnnamedChain => f.write_str("key-chain"),
            Self::Key(owner, number) => write!(f, "{owner} key.{number}"),
        }
    }
}

impl ConfigErrors {
    /// The errors, in the order of the file; at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.errors.iter()
    }

    /// The file they are about, if the text came from one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A single error that is about all of `path`.
    pub(super) fn of_file(path: &Path, problem: Problem) -> Self {
        Self {
            path: Some(path.to_owned()),
            errors: vec![ConfigError { position: None, subject: Subject::File, problem }],
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            if let Some(path) = &self.path {
                write!(f, "{}:", path.display())?;
                match error.position {
                    Some(position) => write!(f, "{position}: ")?,
                    None => f.write_str(" ")?,
                }
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// Without its position.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject != Subject::File {
            write!(f, "{}: ", self.subject)?;
        }
        self.problem.fmt(f)
    }
}

/// `LINE:COLUMN`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl Position {
    /// Of the octet `offset` of `text`; its end if that is beyond it.
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

/// Errors of one text as they are found, and the files that it names.
pub(super) struct Report<'t> {
    text: &'t str,
    /// Whether an operator can look the positions up.
    is_file: bool,
    errors: Vec<ConfigError>,
    files: BTreeSet<PathBuf>,
}

impl<'t> Report<'t> {
    /// None yet about `text`, which is a file's.
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, is_file: true, errors: Vec::new(), files: BTreeSet::new() }
    }

    /// None yet about `text`, which is in no file.
    pub(super) fn of_running(text: &'t str) -> Self {
        Self { is_file: false, ..Self::new(text) }
    }

    /// One more, in the octets `span` of the text.
    pub(super) fn add(&mut self, span: &Range<usize>, subject: &Subject, problem: impl Into<Problem>) {
        let position = Some(Position::of(self.text, span.start));
        self.errors.push(ConfigError { position, subject: subject.clone(), problem: problem.into() });
    }

    /// One more, about the file as a whole.
    pub(super) fn add_to_file(&mut self, problem: Problem) {
        self.errors.push(ConfigError { position: None, subject: Subject::File, problem });
    }

    /// A file that was read for the text.
    pub(super) fn add_file(&mut self, path: PathBuf) {
        self.files.insert(path);
    }

    /// The files that were read for the text.
    pub(super) fn take_files(&mut self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut self.files)
    }

    /// How to say where `what` is, which is `subject` and stands at `span`.
    pub(super) fn place(&self, span: &Range<usize>, subject: &Subject, what: &str) -> String {
        if self.is_file {
            format!("{what} on line {}", Position::of(self.text, span.start).line)
        } else {
            subject.to_string()
        }
    }

    /// How many were found.
    pub(super) fn len(&self) -> usize {
        self.errors.len()
    }

    /// Whether the text is not TOML, so that its tables may be read wrongly.
    pub(super) fn has_syntax_errors(&self) -> bool {
        self.errors.iter().any(|error| matches!(error.problem, Problem::Syntax(_) | Problem::Backslash(_)))
    }

    /// Whether none was found.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// What was found, with positions in the file `path` if the text is a file's.
    pub(super) fn into_errors(mut self, path: &Path) -> ConfigErrors {
        self.errors.sort_by_key(|error| error.position);
        if !self.is_file {
            self.errors.iter_mut().for_each(|error| error.position = None);
        }
        ConfigErrors { path: self.is_file.then(|| path.to_owned()), errors: self.errors }
    }
}

/// The name in `names` that `written` is probably meant to be.
pub(super) fn nearest<'n>(written: &str, names: &[&'n str]) -> Option<&'n str> {
    if written.len() > 64 {
        return None;
    }
    let written = written.to_lowercase().replace('_', "-");
    // Linux calls the algorithms by these names.
    let written = match written.as_str() {
        "hmac(sha1)" => "hmac-sha-1-96",
        "hmac(sha256)" => "hmac-sha-256-96",
        "cmac(aes128)" | "cmac(aes)" => "aes-128-cmac-96",
        written => written,
    };
    if let Some(name) = names.iter().find(|name| **name == written) {
        return Some(name);
    }
    // A name that was cut short is meant more often than one with as many wrong letters.
    let is_cut_short = |name: &&&str| written.len() * 3 >= name.len() * 2 && name.starts_with(written);
    if let Some(name) = names.iter().find(is_cut_short) {
        return Some(name);
    }
    let near = |name: &&&str| strsim::damerau_levenshtein(written, name) <= (name.len() / 3).min(3);
    names.iter().filter(near).min_by_key(|name| strsim::damerau_levenshtein(written, name)).copied()
}

/// Whether a key chain may be called `text`.
fn is_chain_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// Whether `text` looks like an address or prefix, right or wrong.
fn has_form_of_peer(text: &str) -> bool {
    let (address, interface) = text.split_once('%').unwrap_or((text, ""));
    text.len() <= 64
        && address.contains(['.', ':'])
        && address.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/'))
        && interface.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/'))
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const ALGORITHMS: [&str; 4] = ["hmac-sha-1-96", "aes-128-cmac-96", "hmac-sha-256-96", "hmac-sha-256-128"];

    #[test]
    fn a_name_that_was_cut_short_never_suggests_a_weaker_algorithm() {
        for (written, meant) in [
            ("hmac-sha-256", "hmac-sha-256-96"),
            ("HMAC-SHA-1", "hmac-sha-1-96"),
            ("aes_128_cmac", "aes-128-cmac-96"),
            ("hmac-sha-256-12", "hmac-sha-256-128"),
            ("hmac-sha1-96", "hmac-sha-1-96"),
        ] {
            assert_eq!(nearest(written, &ALGORITHMS), Some(meant), "{written}");
        }
    }

    #[test]
    fn the_names_of_linux_are_known() {
        let linux = [("hmac(sha1)", 0), ("hmac(sha256)", 2), ("cmac(aes128)", 1)];
        for (written, meant) in linux {
            assert_eq!(nearest(written, &ALGORITHMS), Some(ALGORITHMS[meant]), "{written}");
        }
        assert_eq!(nearest("hmac(md5)", &ALGORITHMS), None);
        assert_eq!(nearest("", &ALGORITHMS), None);
    }
}
