//! The TOML document: tables of fields, each checked for its type, range and name.

use std::ops::Range;
use std::path::Path;

use tcpauth_common::{Algorithm, Kdf, KeyId};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroize;

use super::error::{Report, Subject, nearest};
use super::peer::is_interface_name;
use super::secret::Source;
use super::{KeyManagement, Peer, PeerError, Problem, Unauthenticated};
use crate::keys::{MasterKey, TcpOptions};

/// The fields of a neighbour and of `[defaults]`.
pub(super) const FIELDS: [&str; 16] = [
    "password",
    "password-file",
    "key-hex",
    "key-base64",
    "key-id",
    "send-id",
    "recv-id",
    "algorithm",
    "kdf",
    "tcp-options",
    "port",
    "interface",
    "ttl-security",
    "forwarded",
    "key-management",
    "unauthenticated",
];

/// Keys at the top of a file.
const TOP_KEYS: [&str; 2] = ["defaults", "neighbor"];

/// A parsed document. Text with escapes has copies in it, which are wiped when it is dropped.
pub(super) struct Document<'t>(Spanned<DeTable<'t>>);

/// What a table says. Holds secrets: no `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) secret: Secret,
    pub(super) send_id: Option<KeyId>,
    pub(super) recv_id: Option<KeyId>,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) kdf: Option<Kdf>,
    pub(super) tcp_options: Option<TcpOptions>,
    pub(super) port: Option<u16>,
    pub(super) interface: Option<String>,
    pub(super) ttl_security: Option<u8>,
    pub(super) forwarded: Option<Vec<Peer>>,
    pub(super) key_management: Option<KeyManagement>,
    pub(super) unauthenticated: Option<Unauthenticated>,
}

/// The secret of a table.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum Secret {
    /// None is given.
    #[default]
    Absent,
    /// One is given, but not rightly, or its field's name is misspelled: an error was reported.
    Broken,
    /// This one.
    Given(MasterKey),
}

/// A table's fields, and where some of them are.
#[derive(Default)]
pub(super) struct Table {
    pub(super) fields: Fields,
    /// The value of `interface`.
    pub(super) interface_span: Option<Range<usize>>,
    /// The ends of `forwarded`, one for one.
    pub(super) forwarded_spans: Vec<Range<usize>>,
    /// The first secret that stands in the document itself.
    pub(super) inline_secret: Option<Range<usize>>,
}

/// A neighbour of the document.
pub(super) struct Entry<'d> {
    /// Its address as written.
    pub(super) peer: &'d str,
    /// Where that is.
    pub(super) span: Range<usize>,
    pub(super) table: Table,
}

impl<'t> Document<'t> {
    /// The document in `text`, or what of it is TOML if `report` then has errors.
    pub(super) fn parse(text: &'t str, report: &mut Report<'_>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        // The whole error would show the line, and the line can hold a secret.
        for error in &errors {
            let problem = match error.message() {
                "duplicate key" => Problem::DuplicateKey,
                message => Problem::Syntax(message.to_owned()),
            };
            let end = text.len()..text.len();
            report.add(&error.span().unwrap_or(end), &Subject::File, problem);
        }
        Self(table)
    }

    /// The fields of `[defaults]`.
    pub(super) fn defaults(&self, folder: &Path, report: &mut Report<'_>) -> Table {
        let Some(value) = self.0.get_ref().get("defaults") else { return Table::default() };
        match value.get_ref() {
            DeValue::Table(table) => {
                let mut read = read_fields(table, &Subject::Defaults, folder, report);
                // Said once here, not once for each neighbour that inherits it.
                if read.fields.interface.as_deref().is_some_and(|name| !is_interface_name(name)) {
                    let span = read.interface_span.clone().unwrap_or(value.span());
                    report.add(&span, &Subject::Defaults, PeerError::InterfaceName);
                    read.fields.interface = None;
                }
                read
            }
            other => {
                let problem =
                    Problem::WrongType { field: "defaults", expected: "a table".into(), found: kind(other) };
                report.add(&value.span(), &Subject::File, problem);
                Table::default()
            }
        }
    }

    /// The neighbours, in no particular order.
    pub(super) fn neighbors(&self, folder: &Path, report: &mut Report<'_>) -> Vec<Entry<'_>> {
        let Some(value) = self.0.get_ref().get("neighbor") else { return Vec::new() };
        let DeValue::Table(neighbors) = value.get_ref() else {
            report.add(&value.span(), &Subject::File, Problem::NeighborsNotTable);
            return Vec::new();
        };
        let mut entries = Vec::with_capacity(neighbors.len());
        for (key, value) in neighbors {
            let (peer, span) = (key.get_ref().as_ref(), key.span());
            let subject = Subject::neighbor(peer);
            match value.get_ref() {
                DeValue::Table(_) if !peer.is_empty() && peer.bytes().all(|o| o.is_ascii_digit()) => {
                    report.add(&span, &subject, Problem::AddressWithoutQuotes);
                }
                DeValue::Table(table) => {
                    let table = read_fields(table, &subject, folder, report);
                    entries.push(Entry { peer, span, table });
                }
                _ => report.add(&span, &subject, Problem::NeighborNotTable),
            }
        }
        entries
    }

    /// Reports keys at the top that are not known.
    pub(super) fn check_top(&self, report: &mut Report<'_>) {
        for key in self.0.get_ref().keys().filter(|key| !TOP_KEYS.contains(&key.get_ref().as_ref())) {
            let problem = Problem::UnknownKey(nearest(key.get_ref(), &TOP_KEYS));
            report.add(&key.span(), &Subject::File, problem);
        }
    }

    /// The fields that stand at the top, for a document that is one neighbour's table.
    pub(super) fn fields(&self, subject: &Subject, folder: &Path, report: &mut Report<'_>) -> Table {
        read_fields(self.0.get_ref(), subject, folder, report)
    }
}

impl Drop for Document<'_> {
    fn drop(&mut self) {
        for (_, value) in std::mem::take(self.0.get_mut()) {
            wipe(value.into_inner());
        }
    }
}

/// Wipes the copies that unescaping made.
fn wipe(value: DeValue<'_>) {
    match value {
        DeValue::String(std::borrow::Cow::Owned(mut text)) => text.zeroize(),
        DeValue::Array(values) => values.into_iter().for_each(|value| wipe(value.into_inner())),
        DeValue::Table(table) => table.into_iter().for_each(|(_, value)| wipe(value.into_inner())),
        _ => {}
    }
}

/// Reads every field of `table`; what is wrong is reported and left out.
fn read_fields(table: &DeTable<'_>, subject: &Subject, folder: &Path, report: &mut Report<'_>) -> Table {
    let mut read = Table::default();
    // In the order of the text, so that of two fields that exclude each other the second is wrong.
    let mut in_order: Vec<_> = table.iter().collect();
    in_order.sort_by_key(|(key, _)| key.span().start);
    let mut key_id = None;
    let mut first_source: Option<Source> = None;
    for (key, value) in in_order {
        let fields = &mut read.fields;
        let mut cell = Cell { value, subject, report };
        match key.get_ref().as_ref() {
            "key-id" => key_id = cell.number("key-id", 0, 255).map(|id| (KeyId(id), key.span())),
            "send-id" => fields.send_id = cell.number("send-id", 0, 255).map(KeyId),
            "recv-id" => fields.recv_id = cell.number("recv-id", 0, 255).map(KeyId),
            "algorithm" => {
                fields.algorithm = cell.choice("algorithm", &Algorithm::TCP_AO.map(|a| (a.name(), a)))
            }
            "kdf" => fields.kdf = cell.choice("kdf", &[(Kdf::Rfc5926.name(), Kdf::Rfc5926)]),
            "tcp-options" => fields.tcp_options = cell.choice("tcp-options", &TCP_OPTIONS),
            "port" => fields.port = cell.number("port", 1, u16::MAX),
            "interface" => {
                fields.interface = cell.text("interface").map(str::to_owned);
                read.interface_span = Some(value.span());
            }
            "ttl-security" => fields.ttl_security = cell.number("ttl-security", 1, 254),
            "forwarded" => {
                if let Some(ends) = cell.forwarded() {
                    let (ends, spans): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
                    (fields.forwarded, read.forwarded_spans) = (Some(ends), spans);
                }
            }
            "key-management" => fields.key_management = cell.choice("key-management", &KEY_MANAGEMENT),
            "unauthenticated" => fields.unauthenticated = cell.choice("unauthenticated", &UNAUTHENTICATED),
            "neighbor" => report.add(&key.span(), subject, Problem::NeighborInTable),
            name => match (Source::from_field(name), first_source) {
                (Some(source), None) => {
                    first_source = Some(source);
                    fields.secret = cell.secret(source, folder);
                }
                (Some(source), Some(first)) => {
                    fields.secret = Secret::Broken;
                    let problem = Problem::TwoSecrets { first: first.field(), second: source.field() };
                    report.add(&key.span(), subject, problem);
                }
                (None, _) => {
                    let meant = nearest(name, &FIELDS);
                    // That there is no secret would be the same error a second time.
                    if fields.secret == Secret::Absent && meant.and_then(Source::from_field).is_some() {
                        fields.secret = Secret::Broken;
                    }
                    report.add(&key.span(), subject, Problem::UnknownField(meant));
                }
            },
        }
        let is_inline = Source::from_field(key.get_ref()).is_some_and(Source::is_inline);
        if is_inline && read.inline_secret.is_none() {
            read.inline_secret = Some(value.span());
        }
    }
    if let Some((id, span)) = key_id {
        if read.fields.send_id.is_some() || read.fields.recv_id.is_some() {
            report.add(&span, subject, Problem::KeyIdTwice);
        }
        read.fields.send_id = Some(id);
        read.fields.recv_id = Some(id);
    }
    read
}

const TCP_OPTIONS: [(&str, TcpOptions); 2] =
    [("include", TcpOptions::Include), ("exclude", TcpOptions::Exclude)];
const KEY_MANAGEMENT: [(&str, KeyManagement); 1] = [("implicit", KeyManagement::Implicit)];
const UNAUTHENTICATED: [(&str, Unauthenticated); 1] = [("drop", Unauthenticated::Drop)];

/// The value of a field, and where to report what is wrong with it.
struct Cell<'c, 't, 'r> {
    value: &'c Spanned<DeValue<'t>>,
    subject: &'c Subject,
    report: &'c mut Report<'r>,
}

impl<'c> Cell<'c, '_, '_> {
    fn wrong(&mut self, problem: Problem) {
        self.report.add(&self.value.span(), self.subject, problem);
    }

    fn wrong_type(&mut self, field: &'static str, expected: &str) {
        let found = kind(self.value.get_ref());
        self.wrong(Problem::WrongType { field, expected: expected.to_owned(), found });
    }

    /// Text.
    fn text(&mut self, field: &'static str) -> Option<&'c str> {
        let text = self.value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(field, "text in quotes");
        }
        text
    }

    /// A whole number in `min..=max`.
    fn number<N: Copy + Into<u64> + TryFrom<u64>>(
        &mut self,
        field: &'static str,
        min: N,
        max: N,
    ) -> Option<N> {
        let range: std::ops::RangeInclusive<u64> = min.into()..=max.into();
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let Some(integer) = self.value.get_ref().as_integer() else {
            self.wrong_type(field, &expected);
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number =
            number.filter(|number| range.contains(number)).and_then(|number| N::try_from(number).ok());
        if number.is_none() {
            self.wrong(Problem::OutOfRange { field, expected });
        }
        number
    }

    /// One of `options` by name.
    fn choice<T: Copy>(&mut self, field: &'static str, options: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(field)?;
        let option = options.iter().find(|(name, _)| *name == text);
        if option.is_none() {
            let accepted: Vec<_> = options.iter().map(|(name, _)| *name).collect();
            let nearest = nearest(text, &accepted);
            self.wrong(Problem::UnknownValue { field, accepted, nearest });
        }
        option.map(|(_, option)| *option)
    }

    /// Ends behind this host, and where each is. What is wrong is left out.
    fn forwarded(&mut self) -> Option<Vec<(Peer, Range<usize>)>> {
        let DeValue::Array(values) = self.value.get_ref() else {
            self.wrong_type("forwarded", "a list of addresses and prefixes in quotes");
            return None;
        };
        let mut ends: Vec<(Peer, Range<usize>)> = Vec::with_capacity(values.len());
        for value in values {
            let mut cell = Cell { value, subject: self.subject, report: self.report };
            let Some(text) = cell.text("an end of forwarded") else { continue };
            match Peer::forwarded_end(text) {
                Err(problem) => cell.wrong(problem),
                Ok(end) if ends.iter().any(|(other, _)| other.same_addresses(&end)) => {
                    cell.wrong(Problem::ForwardedTwice);
                }
                Ok(end) => ends.push((end, value.span())),
            }
        }
        Some(ends)
    }

    /// The secret from `source`.
    fn secret(&mut self, source: Source, folder: &Path) -> Secret {
        let Some(text) = self.text(source.field()) else { return Secret::Broken };
        match source.master_key(text, folder) {
            Ok(key) => Secret::Given(key),
            Err(problem) => {
                self.wrong(problem);
                Secret::Broken
            }
        }
    }
}

/// What a value is, for a sentence.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
