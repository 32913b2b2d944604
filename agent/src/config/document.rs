//! The TOML document: which tables it has, each read by `fields`.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroize;

use super::cell::kind;
use super::error::{Report, Subject, nearest};
use super::fields::{KeyEntry, Table, read_fields, read_keys};
use super::peer::is_interface_name;
use super::{PeerError, Problem};

/// Keys at the top of a file.
const TOP_KEYS: [&str; 3] = ["defaults", "key-chain", "neighbor"];

/// A parsed document. Text with escapes has copies in it, which are wiped when it is dropped.
pub(super) struct Document<'t>(Spanned<DeTable<'t>>);

/// A neighbour of the document.
pub(super) struct Entry<'d> {
    /// Its address as written.
    pub(super) peer: &'d str,
    /// Where that is.
    pub(super) span: Range<usize>,
    pub(super) table: Table,
}

/// A key chain of the document.
pub(super) struct ChainEntry<'d> {
    /// Its name.
    pub(super) name: &'d str,
    /// Where that is.
    pub(super) span: Range<usize>,
    /// Its keys, in the order of the text.
    pub(super) keys: Vec<KeyEntry>,
    /// The first secret that stands in the document itself.
    pub(super) inline_secret: Option<Range<usize>>,
}

impl<'t> Document<'t> {
    /// The document in `text`, or what of it is TOML if `report` then has errors.
    pub(super) fn parse(text: &'t str, report: &mut Report<'_>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        // The whole error would show the line, and the line can hold a secret.
        for error in &errors {
            let problem = match error.message() {
                "duplicate key" => Problem::DuplicateKey,
                message if message.contains("escape") => Problem::Backslash(message.to_owned()),
                message => Problem::Syntax(message.to_owned()),
            };
            let end = text.len()..text.len();
            report.add(&error.span().unwrap_or(end), &Subject::File, problem);
        }
        Self(table)
    }

    /// All of it.
    pub(super) fn table(&self) -> &DeTable<'t> {
        self.0.get_ref()
    }

    /// The fields of `[defaults]`.
    pub(super) fn defaults(&self, folder: &Path, report: &mut Report<'_>) -> Table {
        let Some(value) = self.0.get_ref().get("defaults") else { return Table::default() };
        match value.get_ref() {
            DeValue::Table(table) => {
                let mut read = read_fields(table, &Subject::Defaults, folder, report);
                // Said once here, not once for each neighbour that inherits it.
                if read.fields.interface.as_deref().is_some_and(|name| !is_interface_name(name)) {
                    let span = read.spans.of("interface").cloned().unwrap_or(value.span());
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

    /// The key chains, in no particular order.
    pub(super) fn chains(&self, folder: &Path, report: &mut Report<'_>) -> Vec<ChainEntry<'_>> {
        let Some(value) = self.0.get_ref().get("key-chain") else { return Vec::new() };
        let DeValue::Table(chains) = value.get_ref() else {
            report.add(&value.span(), &Subject::File, Problem::ChainsNotTable);
            return Vec::new();
        };
        let mut entries = Vec::with_capacity(chains.len());
        for (key, value) in chains {
            let (name, span) = (key.get_ref().as_ref(), key.span());
            let subject = Subject::chain(name);
            if subject == Subject::UnnamedChain {
                report.add(&span, &subject, Problem::ChainName);
            }
            let DeValue::Table(table) = value.get_ref() else {
                report.add(&span, &subject, Problem::ChainNotTable);
                continue;
            };
            let mut entry = ChainEntry { name, span, keys: Vec::new(), inline_secret: None };
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "key" => {
                        (entry.keys, entry.inline_secret) = read_keys(value, &subject, folder, report);
                    }
                    "neighbor" => report.add(&key.span(), &subject, Problem::NeighborInTable),
                    _ => report.add(&key.span(), &subject, Problem::UnknownChainField),
                }
            }
            if table.get("key").is_none_or(|keys| keys.get_ref().as_table().is_some_and(DeTable::is_empty)) {
                report.add(&entry.span, &subject, Problem::ChainWithoutKeys);
            }
            entries.push(entry);
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
