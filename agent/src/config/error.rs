//! What is wrong with a configuration, and where.
//!
//! Values of the file are never quoted, for any of them can be a secret in the wrong place: a position says
//! where to look. Only a neighbour that has the form of an address, and a path that exists, are shown.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::PeerError;

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
}

impl Subject {
    /// The neighbour whose key is `text`.
    pub(super) fn neighbor(text: &str) -> Self {
        if has_form_of_peer(text) { Self::Neighbor(text.to_owned()) } else { Self::UnnamedNeighbor }
    }
}

/// What is wrong, and after a semicolon what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The messages say what each is.
pub enum Problem {
    #[error("cannot be read: {}; check its name and that tcpauthd's user may read it", reason(.0))]
    Unreadable(std::io::ErrorKind),
    #[error("is larger than {0} octets; is this the right file?")]
    TooLarge(u64),
    #[error("not UTF-8 text; save the file as UTF-8")]
    NotUtf8,
    #[error("not TOML: {0}; correct this line, with text in quotes: field = \"text\"")]
    Syntax(String),
    #[error("this key is given a second time; keep one of the two")]
    DuplicateKey,
    #[error("everyone can write to this file; chmod 600 {}", .0.display())]
    FileWritable(PathBuf),
    #[error("the file holds secrets and is readable by everyone; chmod 600 {}", .0.display())]
    FileReadable(PathBuf),

    #[error("unknown key; {}", suggestion(*.0, "use [defaults] or neighbor.\"ADDRESS\""))]
    UnknownKey(Option<&'static str>),
    #[error("unknown field; {}", unknown_field(*.0))]
    UnknownField(Option<&'static str>),
    #[error(
        "this is part of the table above it; move it before the first [table], or write [neighbor.\"ADDRESS\"]"
    )]
    NeighborInTable,
    #[error("{field} must be {expected}, not {found}")]
    WrongType { field: &'static str, expected: String, found: &'static str },
    #[error("{field} is out of range; use {expected}")]
    OutOfRange { field: &'static str, expected: String },
    #[error("{field} has an unknown value; {}", choices(.accepted, *.nearest))]
    UnknownValue { field: &'static str, accepted: Vec<&'static str>, nearest: Option<&'static str> },
    #[error("key-id sets both send-id and recv-id; give either key-id or these")]
    KeyIdTwice,

    #[error("neighbor must be a table; write neighbor.\"192.0.2.1\".password = \"SECRET\"")]
    NeighborsNotTable,
    #[error("a neighbour is a table of fields; write neighbor.\"192.0.2.1\".password = \"SECRET\"")]
    NeighborNotTable,
    #[error("a key without quotes ends at each dot; put the address in quotes: neighbor.\"192.0.2.1\"")]
    AddressWithoutQuotes,
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{other} is the same; keep one of the two")]
    SameNeighbor { other: String },
    #[error("the same neighbour is configured already; remove it first")]
    NeighborExists,
    #[error(
        "{other} is the same address, and only one of them has an interface; bind both, to interfaces that differ, \
         or keep one"
    )]
    SameOnOtherInterface { other: String },
    #[error(
        "{other} is bound to an interface and contains this one, which is not; bind this one to its interface too"
    )]
    InsideBoundPrefix { other: String },

    #[error(
        "{0}; write an end behind this host as \"172.17.0.2%docker0\", \"10.88.0.0/24%veth1\" or \"192.0.2.9\""
    )]
    ForwardedEnd(&'static str),
    #[error("the same end is in the list already; keep one of the two")]
    ForwardedTwice,
    #[error("an end of the other IP family; sessions with this neighbour cannot have it, remove it")]
    ForwardedFamily,

    #[error("no secret; give password, password-file, key-hex or key-base64 here or under [defaults]")]
    NoSecret,
    #[error("{first} and {second} are both given; keep one")]
    TwoSecrets { first: &'static str, second: &'static str },
    #[error("{0} is empty; give the secret agreed with the neighbour")]
    EmptySecret(&'static str),
    #[error("{field} is longer than {limit} octets; use a shorter secret")]
    LongSecret { field: &'static str, limit: usize },
    #[error("key-hex is not hexadecimal; write two digits (0-9, a-f) for each octet and nothing else")]
    NotHex,
    #[error("key-base64 is not base64; write it with the alphabet A-Z a-z 0-9 + / as `tcpauth genkey` does")]
    NotBase64,
    #[error("password-file cannot be read: {}; name a file that tcpauthd's user may read \
             (a relative path starts at the configuration's folder)", reason(.0))]
    SecretFileUnreadable(std::io::ErrorKind),
    #[error("password-file is not a regular file; give the path of a file that holds the password alone")]
    SecretFileNotRegular,
    #[error("password-file is larger than {0} octets; the file must hold the password alone")]
    SecretFileTooLarge(usize),
    #[error("password-file can be read or written by others; chmod 600 {}", .0.display())]
    SecretFileOpen(PathBuf),
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

    /// A single error about a neighbour that is in no file.
    pub(super) fn of_neighbor(peer: &super::Peer, problem: Problem) -> Self {
        let subject = Subject::Neighbor(peer.to_string());
        Self { path: None, errors: vec![ConfigError { position: None, subject, problem }] }
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
        match &self.subject {
            Subject::File => {}
            Subject::Defaults => f.write_str("defaults: ")?,
            Subject::Neighbor(text) => write!(f, "neighbor \"{text}\": ")?,
            Subject::UnnamedNeighbor => f.write_str("neighbor: ")?,
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

/// Errors of one text as they are found.
pub(super) struct Report<'t> {
    text: &'t str,
    errors: Vec<ConfigError>,
}

impl<'t> Report<'t> {
    /// None yet about `text`.
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, errors: Vec::new() }
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

    /// The line of octet `offset`.
    pub(super) fn line(&self, offset: usize) -> usize {
        Position::of(self.text, offset).line
    }

    /// Whether the text is not TOML, so that its tables may be read wrongly.
    pub(super) fn has_syntax_errors(&self) -> bool {
        self.errors.iter().any(|error| matches!(error.problem, Problem::Syntax(_)))
    }

    /// Whether none was found.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// What was found, with positions in the file `path` if there is one.
    pub(super) fn into_errors(mut self, path: Option<&Path>) -> ConfigErrors {
        self.errors.sort_by_key(|error| error.position);
        if path.is_none() {
            self.errors.iter_mut().for_each(|error| error.position = None);
        }
        ConfigErrors { path: path.map(Path::to_owned), errors: self.errors }
    }
}

/// The name in `names` that `written` is probably meant to be.
pub(super) fn nearest(written: &str, names: &[&'static str]) -> Option<&'static str> {
    if written.len() > 64 {
        return None;
    }
    let written = written.to_lowercase().replace('_', "-");
    let near = |name: &&&'static str| strsim::damerau_levenshtein(&written, name) <= (name.len() / 3).min(3);
    names.iter().filter(near).min_by_key(|name| strsim::damerau_levenshtein(&written, name)).copied()
}

/// Whether `text` looks like an address or prefix, right or wrong.
fn has_form_of_peer(text: &str) -> bool {
    let (address, interface) = text.split_once('%').unwrap_or((text, ""));
    text.len() <= 64
        && address.contains(['.', ':'])
        && address.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/'))
        && interface.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/'))
}

fn reason(kind: &std::io::ErrorKind) -> String {
    match kind {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        kind => kind.to_string(),
    }
}

fn suggestion(nearest: Option<&str>, otherwise: &str) -> String {
    nearest.map_or_else(|| otherwise.to_owned(), |name| format!("did you mean \"{name}\"?"))
}

fn unknown_field(nearest: Option<&str>) -> String {
    suggestion(nearest, &format!("the fields are {}", super::document::FIELDS.join(", ")))
}

fn choices(accepted: &[&str], nearest: Option<&str>) -> String {
    let accepted: Vec<String> = accepted.iter().map(|name| format!("\"{name}\"")).collect();
    let hint = nearest.map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"));
    format!("use {}{hint}", accepted.join(" or "))
}
