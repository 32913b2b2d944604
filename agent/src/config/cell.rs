//! One value of the document, checked for its type and range.

use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::Spanned;
use toml::de::DeValue;

use super::error::{Report, Subject, nearest};
use super::fields::Secret;
use super::secret::Source;
use super::{KmpProblem, Peer, Problem};
use crate::keys::Lifetime;

/// The value of a field, and where to report what is wrong with it.
pub(super) struct Cell<'c, 't, 'r> {
    pub(super) value: &'c Spanned<DeValue<'t>>,
    pub(super) subject: &'c Subject,
    pub(super) report: &'c mut Report<'r>,
}

impl<'c> Cell<'c, '_, '_> {
    pub(super) fn wrong(&mut self, problem: Problem) {
        self.report.add(&self.value.span(), self.subject, problem);
    }

    pub(super) fn wrong_type(&mut self, field: &'static str, expected: &str) {
        let found = kind(self.value.get_ref());
        self.wrong(Problem::WrongType { field, expected: expected.to_owned(), found });
    }

    /// Text.
    pub(super) fn text(&mut self, field: &'static str) -> Option<&'c str> {
        let text = self.value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(field, "text in quotes");
        }
        text
    }

    /// A whole number in `min..=max`.
    pub(super) fn number<N: Copy + Into<u64> + TryFrom<u64>>(
        &mut self,
        field: &'static str,
        min: N,
        max: N,
    ) -> Option<N> {
        let range: RangeInclusive<u64> = min.into()..=max.into();
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
    pub(super) fn choice<T: Copy>(
        &mut self,
        field: &'static str,
        options: &[(&'static str, T)],
    ) -> Option<T> {
        let text = self.text(field)?;
        self.option(field, text, options)
    }

    /// The one of `options` that is called `text`.
    pub(super) fn option<T: Copy>(
        &mut self,
        field: &'static str,
        text: &str,
        options: &[(&'static str, T)],
    ) -> Option<T> {
        let option = options.iter().find(|(name, _)| *name == text);
        if option.is_none() {
            let accepted: Vec<_> = options.iter().map(|(name, _)| *name).collect();
            let nearest = nearest(text, &accepted);
            self.wrong(Problem::UnknownValue { field, accepted, nearest });
        }
        option.map(|(_, option)| *option)
    }

    /// What `one` makes of the names in a list, each of which is there once; `None` if it is empty or something is wrong.
    pub(super) fn names<T: PartialEq>(
        &mut self,
        field: &'static str,
        mut one: impl FnMut(&str, &mut Cell<'_, '_, '_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let DeValue::Array(values) = self.value.get_ref() else {
            self.wrong_type(field, "a list of names in quotes");
            return None;
        };
        if values.is_empty() {
            self.wrong(KmpProblem::EmptyList(field).into());
            return None;
        }
        let before = self.report.len();
        let mut found = Vec::with_capacity(values.len());
        for value in values {
            let mut cell = Cell { value, subject: self.subject, report: self.report };
            match cell.text("a name in the list").and_then(|text| one(text, &mut cell)) {
                Some(name) if found.contains(&name) => cell.wrong(KmpProblem::Twice(field).into()),
                name => found.extend(name),
            }
        }
        (self.report.len() == before).then_some(found)
    }

    /// When a key may be used.
    pub(super) fn lifetime(&mut self, field: &'static str) -> Option<Lifetime> {
        match self.text(field)?.parse() {
            Ok(lifetime) => Some(lifetime),
            Err(error) => {
                self.wrong(Problem::Lifetime { field, error });
                None
            }
        }
    }

    /// Ends behind this host, and where each is. What is wrong is left out.
    pub(super) fn forwarded(&mut self) -> Option<Vec<(Peer, Range<usize>)>> {
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
    pub(super) fn secret(&mut self, source: Source, folder: &Path) -> Secret {
        let Some(text) = self.text(source.field()) else { return Secret::Broken };
        match source.master_key(text, folder) {
            Ok(key) => {
                if !source.is_inline() {
                    self.report.add_file(folder.join(text));
                }
                Secret::Given(key)
            }
            Err(problem) => {
                self.wrong(problem);
                Secret::Broken
            }
        }
    }
}

/// What a value is, for a sentence.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
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
