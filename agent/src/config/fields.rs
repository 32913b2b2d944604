//! What the tables say: the fields of a neighbour and of `[defaults]`, and those of a key.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use tcpauth_common::{Algorithm, Kdf, KeyId};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::cell::{Cell, kind};
use super::error::{Report, Subject, nearest};
use super::kmp::fields::KmpFields;
use super::secret::Source;
use super::{KeyManagement, OnUnprotected, Peer, Problem, Unauthenticated, Wire};
use crate::keys::{Lifetime, MasterKey, TcpOptions};

/// The fields of a neighbour and of `[defaults]`.
pub(super) const FIELDS: [&str; 30] = [
    "password",
    "password-file",
    "key-hex",
    "key-base64",
    "key-chain",
    "key",
    "key-id",
    "send-id",
    "recv-id",
    "algorithm",
    "kdf",
    "tcp-options",
    "send-lifetime",
    "accept-lifetime",
    "key-warning",
    "port",
    "interface",
    "ttl-security",
    "forwarded",
    "key-management",
    "kmp-port",
    "kmp-local-address",
    "fallback",
    "rekey-interval",
    "rekey-segments",
    "algorithms",
    "tls",
    "unauthenticated",
    "on-unprotected",
    "wire",
];

/// The fields of a key.
pub(super) const KEY_FIELDS: [&str; 11] = [
    "password",
    "password-file",
    "key-hex",
    "key-base64",
    "key-id",
    "send-id",
    "recv-id",
    "algorithm",
    "tcp-options",
    "send-lifetime",
    "accept-lifetime",
];

/// Fields that say something about the secret of the same table and nothing else.
pub(super) const FIELDS_OF_SECRET: [&str; 5] =
    ["key-id", "send-id", "recv-id", "send-lifetime", "accept-lifetime"];

/// What the table of a key says, or of a neighbour about the secret in it. Holds a secret: no `Debug`.
#[derive(Default)]
pub(super) struct KeyFields {
    pub(super) secret: Secret,
    pub(super) send_id: Option<KeyId>,
    pub(super) recv_id: Option<KeyId>,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) tcp_options: Option<TcpOptions>,
    pub(super) send: Option<Lifetime>,
    pub(super) accept: Option<Lifetime>,
}

/// What the table of a neighbour or of the defaults says. Holds secrets: no `Debug`.
#[derive(Default)]
pub(super) struct Fields {
    /// Its own secret, and what its keys inherit.
    pub(super) key: KeyFields,
    pub(super) key_chain: Option<String>,
    pub(super) kdf: Option<Kdf>,
    /// Days, as a duration; zero: never.
    pub(super) key_warning: Option<Duration>,
    pub(super) port: Option<u16>,
    pub(super) interface: Option<String>,
    pub(super) ttl_security: Option<u8>,
    pub(super) forwarded: Option<Vec<Peer>>,
    pub(super) key_management: Option<KeyManagement>,
    /// How keys are agreed.
    pub(super) kmp: KmpFields,
    pub(super) unauthenticated: Option<Unauthenticated>,
    pub(super) on_unprotected: Option<OnUnprotected>,
    pub(super) wire: Option<Wire>,
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

/// Where the values of a table's fields are.
#[derive(Default)]
pub(super) struct Spans(Vec<(&'static str, Range<usize>)>);

impl Spans {
    /// One more, behind the others.
    pub(super) fn add(&mut self, field: &'static str, span: Range<usize>) {
        self.0.push((field, span));
    }

    /// That of the value of `field`, if it is given.
    pub(super) fn of(&self, field: &str) -> Option<&Range<usize>> {
        self.0.iter().find(|(name, _)| *name == field).map(|(_, span)| span)
    }

    /// The first of `fields` that is given.
    pub(super) fn first(&self, fields: &[&str]) -> Option<&(&'static str, Range<usize>)> {
        self.0.iter().find(|(name, _)| fields.contains(name))
    }
}

/// A table's fields and keys, and where they are.
#[derive(Default)]
pub(super) struct Table {
    pub(super) fields: Fields,
    pub(super) spans: Spans,
    /// The keys `key.N`, in the order of the text.
    pub(super) keys: Vec<KeyEntry>,
    /// Whether something is called `key`, be it right or not.
    pub(super) has_keys: bool,
    /// The ends of `forwarded`, one for one.
    pub(super) forwarded_spans: Vec<Range<usize>>,
    /// The first secret that stands in the document itself.
    pub(super) inline_secret: Option<Range<usize>>,
}

/// A key `key.N`.
pub(super) struct KeyEntry {
    /// N.
    pub(super) number: u32,
    /// Where it is.
    pub(super) span: Range<usize>,
    pub(super) fields: KeyFields,
    pub(super) spans: Spans,
}

/// A table's fields, in the order of the text, so that of two that exclude each other the second is wrong.
pub(super) fn in_order<'t, 'd>(
    table: &'t DeTable<'d>,
) -> Vec<(&'t Spanned<DeString<'d>>, &'t Spanned<DeValue<'d>>)> {
    let mut fields: Vec<_> = table.iter().collect();
    fields.sort_by_key(|(key, _)| key.span().start);
    fields
}

/// Reads every field of `table`, a neighbour's or the defaults'; what is wrong is reported and left out.
pub(super) fn read_fields(
    table: &DeTable<'_>,
    subject: &Subject,
    folder: &Path,
    report: &mut Report<'_>,
) -> Table {
    let mut read = Table::default();
    let mut key_reader = KeyReader::default();
    for (key, value) in in_order(table) {
        let fields = &mut read.fields;
        let mut cell = Cell { value, subject, report };
        let name = key.get_ref().as_ref();
        match name {
            "kdf" => fields.kdf = cell.choice("kdf", &Kdf::ALL.map(|kdf| (kdf.name(), kdf))),
            "key-chain" => fields.key_chain = cell.text("key-chain").map(str::to_owned),
            "key-warning" => {
                let days = cell.number("key-warning", 0, 3650u16);
                fields.key_warning = days.map(|days| DAY * u32::from(days));
            }
            "port" => fields.port = cell.number("port", 1, u16::MAX),
            "interface" => fields.interface = cell.text("interface").map(str::to_owned),
            "ttl-security" => fields.ttl_security = cell.number("ttl-security", 1, 254),
            "forwarded" => {
                if let Some(ends) = cell.forwarded() {
                    let (ends, spans): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
                    (fields.forwarded, read.forwarded_spans) = (Some(ends), spans);
                }
            }
            "key-management" => {
                fields.key_management =
                    cell.choice("key-management", &KeyManagement::ALL.map(|mode| (mode.name(), mode)))
            }
            "unauthenticated" => {
                fields.unauthenticated =
                    cell.choice("unauthenticated", &Unauthenticated::ALL.map(|what| (what.name(), what)))
            }
            "on-unprotected" => {
                fields.on_unprotected =
                    cell.choice("on-unprotected", &OnUnprotected::ALL.map(|what| (what.name(), what)))
            }
            "wire" => fields.wire = cell.choice("wire", &Wire::ALL.map(|wire| (wire.name(), wire))),
            "key" => {
                read.has_keys = true;
                if *subject == Subject::Defaults {
                    report.add(&key.span(), subject, Problem::KeyInDefaults);
                } else {
                    let (keys, inline_secret) = read_keys(value, subject, folder, report);
                    read.keys = keys;
                    read.inline_secret = read.inline_secret.take().or(inline_secret);
                }
            }
            "neighbor" => report.add(&key.span(), subject, Problem::NeighborInTable),
            _ => {
                let is_taken = fields.kmp.take(name, &mut cell, folder, &mut read.spans)
                    || key_reader.take(key, &mut cell, folder);
                if !is_taken {
                    key_reader.unknown(key, &FIELDS, &mut cell);
                }
            }
        }
        let known = FIELDS.iter().find(|field| **field == name);
        read.spans.0.extend(known.map(|field| (*field, value.span())));
    }
    let inline_secret;
    (read.fields.key, inline_secret) = key_reader.finish(subject, report);
    let inline_secrets = [read.inline_secret.take(), inline_secret];
    read.inline_secret = inline_secrets.into_iter().flatten().min_by_key(|span| span.start);
    read
}

/// Reads the keys in `value`, what `key` is in a chain's or a neighbour's table, and finds the first secret that
/// stands in them.
pub(super) fn read_keys(
    value: &Spanned<DeValue<'_>>,
    owner: &Subject,
    folder: &Path,
    report: &mut Report<'_>,
) -> (Vec<KeyEntry>, Option<Range<usize>>) {
    let DeValue::Table(keys) = value.get_ref() else {
        report.add(&value.span(), owner, Problem::KeysNotTable { found: kind(value.get_ref()) });
        return (Vec::new(), None);
    };
    let mut entries = Vec::with_capacity(keys.len());
    let mut inline_secret: Option<Range<usize>> = None;
    for (key, value) in in_order(keys) {
        let number =
            key.get_ref().parse().ok().filter(|number: &u32| number.to_string() == key.get_ref().as_ref());
        let Some(number) = number else {
            report.add(&key.span(), owner, Problem::KeyNumber);
            continue;
        };
        let subject = owner.key(number);
        let DeValue::Table(table) = value.get_ref() else {
            report.add(&value.span(), &subject, Problem::KeyNotTable);
            continue;
        };
        let (entry, secret) = read_key(number, key.span(), table, &subject, folder, report);
        entries.push(entry);
        inline_secret = inline_secret.or(secret);
    }
    (entries, inline_secret)
}

fn read_key(
    number: u32,
    span: Range<usize>,
    table: &DeTable<'_>,
    subject: &Subject,
    folder: &Path,
    report: &mut Report<'_>,
) -> (KeyEntry, Option<Range<usize>>) {
    let mut reader = KeyReader::default();
    let mut spans = Spans::default();
    for (key, value) in in_order(table) {
        let mut cell = Cell { value, subject, report };
        if !reader.take(key, &mut cell, folder) {
            reader.unknown(key, &KEY_FIELDS, &mut cell);
        }
        let known = KEY_FIELDS.iter().find(|field| **field == key.get_ref().as_ref());
        spans.0.extend(known.map(|field| (*field, value.span())));
    }
    let (fields, inline_secret) = reader.finish(subject, report);
    (KeyEntry { number, span, fields, spans }, inline_secret)
}

/// The fields of a key, as they are met one by one.
#[derive(Default)]
struct KeyReader {
    fields: KeyFields,
    key_id: Option<(KeyId, Range<usize>)>,
    source: Option<Source>,
    inline_secret: Option<Range<usize>>,
}

impl KeyReader {
    /// Takes a field; false if it is none of a key's.
    fn take(&mut self, key: &Spanned<DeString<'_>>, cell: &mut Cell<'_, '_, '_>, folder: &Path) -> bool {
        let fields = &mut self.fields;
        match key.get_ref().as_ref() {
            "key-id" => self.key_id = cell.number("key-id", 0, 255).map(|id| (KeyId(id), key.span())),
            "send-id" => fields.send_id = cell.number("send-id", 0, 255).map(KeyId),
            "recv-id" => fields.recv_id = cell.number("recv-id", 0, 255).map(KeyId),
            "algorithm" => {
                fields.algorithm = cell.choice("algorithm", &Algorithm::ALL.map(|a| (a.name(), a)));
            }
            "tcp-options" => fields.tcp_options = cell.choice("tcp-options", &TcpOptions::NAMES),
            "send-lifetime" => fields.send = cell.lifetime("send-lifetime"),
            "accept-lifetime" => fields.accept = cell.lifetime("accept-lifetime"),
            name => {
                let Some(source) = Source::from_field(name) else { return false };
                if source.is_inline() && self.inline_secret.is_none() {
                    self.inline_secret = Some(cell.value.span());
                }
                match self.source {
                    None => {
                        self.source = Some(source);
                        fields.secret = cell.secret(source, folder);
                    }
                    Some(first) => {
                        fields.secret = Secret::Broken;
                        let problem = Problem::TwoSecrets { first: first.field(), second: source.field() };
                        cell.report.add(&key.span(), cell.subject, problem);
                    }
                }
            }
        }
        true
    }

    /// Reports a field that is none of `fields`.
    fn unknown(
        &mut self,
        key: &Spanned<DeString<'_>>,
        fields: &'static [&'static str],
        cell: &mut Cell<'_, '_, '_>,
    ) {
        let meant = nearest(key.get_ref(), fields);
        // That there is no secret would be the same error a second time.
        if self.fields.secret == Secret::Absent && meant.and_then(Source::from_field).is_some() {
            self.fields.secret = Secret::Broken;
        }
        cell.report.add(&key.span(), cell.subject, Problem::UnknownField { nearest: meant, fields });
    }

    /// The fields, and where the first secret among them stands in the document itself.
    fn finish(mut self, subject: &Subject, report: &mut Report<'_>) -> (KeyFields, Option<Range<usize>>) {
        if let Some((id, span)) = self.key_id {
            if self.fields.send_id.is_some() || self.fields.recv_id.is_some() {
                report.add(&span, subject, Problem::KeyIdTwice);
            }
            (self.fields.send_id, self.fields.recv_id) = (Some(id), Some(id));
        }
        (self.fields, self.inline_secret)
    }
}

const DAY: Duration = Duration::from_secs(86_400);
