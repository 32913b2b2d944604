//! How a running configuration differs from a file, in the words of the file. Secrets are compared, not shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::document::Document;
use super::error::Report;
use super::fields::FIELDS;
use super::kmp::fields::TLS_FIELDS;
use super::secret::Source;
use super::{Config, ConfigErrors, Peer, text};

/// A difference. Displayed as `~ key-chain.backbone key.2 send-lifetime: "never" → "always"`, never with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What the running configuration has more, less or otherwise.
    pub change: Change,
    /// Which table or field: `neighbor."192.0.2.1" port`.
    pub subject: String,
    /// Of a field: its values, or that it is a secret.
    pub detail: Option<String>,
}

/// How the running configuration differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has what the file does not have.
    Added,
    /// It does not have what the file has.
    Removed,
    /// It has it otherwise.
    Changed,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed => '~',
        };
        write!(f, "{sign} {}", self.subject)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl Config {
    /// How this configuration differs from the file at `path` as it is now, in the order of the tables' names.
    ///
    /// # Errors
    /// The file cannot be read, or is not TOML.
    pub fn differences(&self, path: &Path) -> Result<Vec<Difference>, ConfigErrors> {
        let (file, _) = text::read(path)?;
        let mut report = Report::new(&file);
        let document = Document::parse(&file, &mut report);
        if !report.is_empty() {
            return Err(report.into_errors(path));
        }
        let mut report = Report::of_running(&self.text.running);
        let running = Document::parse(&self.text.running, &mut report);
        Ok(between(&tables(document.table()), &tables(running.table())))
    }
}

/// How the second of two texts that are configurations differs from the first.
pub(super) fn between_texts(first: &str, second: &str) -> Vec<Difference> {
    let (mut of_first, mut of_second) = (Report::of_running(first), Report::of_running(second));
    let (first, second) = (Document::parse(first, &mut of_first), Document::parse(second, &mut of_second));
    between(&tables(first.table()), &tables(second.table()))
}

/// The tables of a document by their names, each with its fields.
type Tables = BTreeMap<Vec<String>, BTreeMap<String, Value>>;

/// The value of a field. May be a secret: no `Debug`.
#[derive(PartialEq, Eq)]
struct Value {
    text: Zeroizing<String>,
    is_shown: bool,
}

impl Value {
    fn of(value: &DeValue<'_>, is_shown: bool) -> Self {
        let text = match value {
            // One allocation: nothing of a secret is left behind.
            DeValue::String(text) if !is_shown => Zeroizing::new(text.to_string()),
            value => canonical(value),
        };
        Self { text, is_shown }
    }
}

fn between(file: &Tables, running: &Tables) -> Vec<Difference> {
    let names: BTreeSet<&Vec<String>> = file.keys().chain(running.keys()).collect();
    let mut differences = Vec::new();
    let mut whole: Option<&[String]> = None;
    for name in names {
        // What is in a table that came or went as a whole is said with it.
        if whole.is_some_and(|whole| name.starts_with(whole)) {
            continue;
        }
        let subject = name.join(" ");
        let change = match (file.get(name), running.get(name)) {
            (Some(file), Some(running)) => {
                differences.extend(fields_between(&subject, file, running));
                continue;
            }
            (Some(_), None) => Change::Removed,
            _ => Change::Added,
        };
        whole = Some(name);
        differences.push(Difference { change, subject, detail: None });
    }
    differences
}

fn fields_between(
    table: &str,
    file: &BTreeMap<String, Value>,
    running: &BTreeMap<String, Value>,
) -> Vec<Difference> {
    let names: BTreeSet<&String> = file.keys().chain(running.keys()).collect();
    let mut secret = None;
    let mut differences = Vec::new();
    for name in names {
        let (old, new) = (file.get(name), running.get(name));
        if old == new {
            continue;
        }
        if Source::from_field(name).is_some() {
            let detail = Some("secret changed".to_owned());
            secret = Some(Difference { change: Change::Changed, subject: table.to_owned(), detail });
            continue;
        }
        let shown = |value: Option<&Value>| match value {
            Some(value) if value.is_shown => value.text.to_string(),
            Some(_) => "a value that is not shown".to_owned(),
            None => "not given".to_owned(),
        };
        differences.push(Difference {
            change: Change::Changed,
            subject: format!("{table} {name}"),
            detail: Some(format!("{} → {}", shown(old), shown(new))),
        });
    }
    secret.into_iter().chain(differences).collect()
}

/// The tables of a document.
fn tables(document: &DeTable<'_>) -> Tables {
    let mut found = Tables::new();
    for (key, value) in document {
        let (name, Some(table)) = (key.get_ref(), value.get_ref().as_table()) else { continue };
        if name == "defaults" {
            add(vec!["defaults".to_owned()], table, &mut found);
            continue;
        }
        for (key, value) in table {
            if let Some(table) = value.get_ref().as_table() {
                add(vec![format!("{name}.{}", shown_name(name, key.get_ref()))], table, &mut found);
            }
        }
    }
    found
}

/// Adds a table and the keys in it.
fn add(name: Vec<String>, table: &DeTable<'_>, found: &mut Tables) {
    let mut fields = BTreeMap::new();
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("key", DeValue::Table(keys)) => {
                for (number, value) in keys {
                    if let Some(key) = value.get_ref().as_table() {
                        let name = name.iter().cloned().chain([format!("key.{}", number.get_ref())]);
                        add(name.collect(), key, found);
                    }
                }
            }
            ("tls", DeValue::Table(tls)) => {
                for (key, value) in tls {
                    let field = format!("tls.{}", key.get_ref());
                    let is_shown = TLS_FIELDS.contains(&field.as_str());
                    fields.insert(field, Value::of(value.get_ref(), is_shown));
                }
            }
            // A field that is none may be a secret in the wrong place.
            (field, value) => {
                let is_shown = FIELDS.contains(&field) && Source::from_field(field).is_none();
                fields.insert(field.to_owned(), Value::of(value, is_shown));
            }
        }
    }
    found.insert(name, fields);
}

/// A table's name in one form, however it is written.
fn shown_name(kind: &str, name: &str) -> String {
    match (kind, name.parse::<Peer>()) {
        ("neighbor", Ok(peer)) => format!("\"{peer}\""),
        ("neighbor", Err(_)) => format!("{name:?}"),
        _ => name.to_owned(),
    }
}

/// A value in one form, however it is written.
fn canonical(value: &DeValue<'_>) -> Zeroizing<String> {
    Zeroizing::new(match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Array(values) => {
            let values: Vec<Zeroizing<String>> =
                values.iter().map(|value| canonical(value.get_ref())).collect();
            format!("[{}]", values.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", "))
        }
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Table(table) => {
            let fields = table
                .iter()
                .map(|(key, value)| format!("{} = {}", key.get_ref(), *canonical(value.get_ref())));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
    })
}
