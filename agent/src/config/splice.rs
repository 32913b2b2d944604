//! Changes of a TOML text in place: whatever a change is not about, comments and order too, stays as it was written.
//!
//! TOML writes a table in three ways, which may be mixed: a header `[a.b]` with lines below it, lines with dotted keys
//! `a.b.c = 1`, and inline `{ c = 1 }`. The places of keys and values tell which one it is.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};
use zeroize::Zeroizing;

/// Other text for a part of a text. Can hold a secret: no `Debug`.
pub(super) struct Splice {
    span: Range<usize>,
    text: Zeroizing<String>,
}

impl Splice {
    fn insert(at: usize, text: String) -> Self {
        Self { span: at..at, text: Zeroizing::new(text) }
    }

    fn remove(span: Range<usize>) -> Self {
        Self { span, text: Zeroizing::default() }
    }
}

/// `text` with `splices`; those at one place in their order.
pub(super) fn apply(text: &str, mut splices: Vec<Splice>) -> Zeroizing<String> {
    splices.sort_by_key(|splice| splice.span.start);
    // Room for all of it, so that no copy is left behind where it would have to move.
    let added: usize = splices.iter().map(|splice| splice.text.len()).sum();
    let mut changed = Zeroizing::new(String::with_capacity(text.len() + added));
    let mut done = 0;
    for Splice { span, text: new } in &splices {
        changed.push_str(&text[done..span.start.max(done)]);
        changed.push_str(new);
        done = span.end.max(done);
    }
    changed.push_str(&text[done..]);
    changed
}

/// A new table `[header]` with `lines` at the end of `text`.
pub(super) fn append(text: &str, header: &str, lines: &[Line]) -> Splice {
    let newline = newline(text);
    let start = if text.is_empty() || text.ends_with('\n') { "" } else { newline };
    let blank = if text.is_empty() { "" } else { newline };
    // One allocation for the whole, as it can hold a secret.
    let length: usize = lines.iter().map(Line::len).sum();
    let mut table = String::with_capacity(header.len() + length + 4 * (lines.len() + 3));
    for part in [start, blank, "[", header, "]", newline] {
        table.push_str(part);
    }
    for line in lines {
        line.write(&mut table);
        table.push_str(newline);
    }
    Splice::insert(text.len(), table)
}

/// A field and its value, as TOML. Can hold a secret: no `Debug`.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) key: String,
    pub(super) value: Zeroizing<String>,
}

impl Line {
    fn len(&self) -> usize {
        self.key.len() + " = ".len() + self.value.len()
    }

    fn write(&self, text: &mut String) {
        for part in [&self.key, " = ", &self.value] {
            text.push_str(part);
        }
    }

    /// A table of `lines`, inline.
    pub(super) fn inline(key: String, lines: &[Self]) -> Self {
        let length: usize = lines.iter().map(Self::len).sum();
        let mut value = Zeroizing::new(String::with_capacity(length + 2 * lines.len() + 4));
        value.push_str("{ ");
        for (index, line) in lines.iter().enumerate() {
            value.push_str(if index > 0 { ", " } else { "" });
            line.write(&mut value);
        }
        value.push_str(" }");
        Self { key, value }
    }
}

/// The fields of `table`, which is all of `text`, each in a line of its own.
pub(super) fn lines(text: &str, table: &DeTable<'_>) -> Vec<Line> {
    fn walk(text: &str, path: &str, table: &DeTable<'_>, found: &mut Vec<(usize, Line)>) {
        for (key, value) in table {
            let key = format!("{path}{}", &text[key.span()]);
            match value.get_ref() {
                DeValue::Table(table) if !is_inline(text, value) => {
                    walk(text, &format!("{key}."), table, found)
                }
                _ => {
                    let value_text = Zeroizing::new(text[value.span()].to_owned());
                    found.push((value.span().start, Line { key, value: value_text }));
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(text, "", table, &mut found);
    found.sort_by_key(|(start, _)| *start);
    found.into_iter().map(|(_, line)| line).collect()
}

/// A table in a text.
pub(super) struct Place<'a> {
    text: &'a str,
    table: &'a DeTable<'a>,
    /// The table's own.
    span: Range<usize>,
    /// The innermost inline table that it is, or is in, and how it is written there.
    inline: Option<Inline<'a>>,
}

#[derive(Clone)]
struct Inline<'a> {
    table: &'a DeTable<'a>,
    span: Range<usize>,
    /// What stands before the keys of the place: `key.1.`
    path: String,
}

/// A value that is no table with lines of its own.
struct Leaf {
    key: Range<usize>,
    value: Range<usize>,
}

impl<'a> Place<'a> {
    /// The table that is all of `text`.
    pub(super) fn root(text: &'a str, table: &'a DeTable<'a>) -> Self {
        Self { text, table, span: 0..0, inline: None }
    }

    /// What is in it.
    pub(super) fn table(&self) -> &'a DeTable<'a> {
        self.table
    }

    /// Whether it is written as `{ … }`.
    pub(super) fn is_inline(&self) -> bool {
        self.text[self.span.clone()].starts_with('{')
    }

    /// The table `key` in it.
    pub(super) fn child(&self, key: &str) -> Option<Self> {
        let (key, value) = self.table.get_key_value(key)?;
        let DeValue::Table(table) = value.get_ref() else { return None };
        let inline = if is_inline(self.text, value) {
            Some(Inline { table, span: value.span(), path: String::new() })
        } else {
            let path = |inline: &Inline<'a>| format!("{}{}.", inline.path, &self.text[key.span()]);
            self.inline.as_ref().map(|inline| Inline { path: path(inline), ..inline.clone() })
        };
        Some(Self { text: self.text, table, span: value.span(), inline })
    }

    /// Sets `line`, whether or not its field is there; `None` if there is no line to put it after.
    pub(super) fn set(&self, line: &Line) -> Option<Splice> {
        match self.table.get(line.key.as_str()) {
            Some(value) => Some(Splice { span: value.span(), text: line.value.clone() }),
            None => self.insert(line),
        }
    }

    /// Adds `line`, whose field is not there; `None` if there is no line to put it after.
    pub(super) fn insert(&self, line: &Line) -> Option<Splice> {
        let insert = |at, before: &str, after: &str| {
            let mut new = String::with_capacity(before.len() + line.len() + after.len());
            new.push_str(before);
            line.write(&mut new);
            new.push_str(after);
            Some(Splice::insert(at, new))
        };
        if let Some(inline) = &self.inline {
            let last = leaves(self.text, inline.table).into_iter().map(|leaf| leaf.value.end).max();
            return match last {
                Some(end) => insert(end, &format!(", {}", inline.path), ""),
                None => insert(inline.span.start + 1, &format!(" {}", inline.path), " "),
            };
        }
        let last = lines_of(self.text, self.table).into_iter().map(|leaf| leaf.value.end).max();
        let (prefix, at) = if self.text[self.span.clone()].starts_with('[') {
            let indent = line_start(self.text, self.span.start)..self.span.start;
            (indent, last.unwrap_or(self.span.end))
        } else {
            // Its first key in a line of its own shows what stands before each.
            let in_line = |key: &Spanned<DeString<'a>>| {
                let before = line_start(self.text, key.span().start)..key.span().start;
                (!self.text[before.clone()].trim_start().starts_with('[')).then_some(before)
            };
            (self.table.keys().filter_map(in_line).min_by_key(|prefix| prefix.start)?, last?)
        };
        let before = format!("{}{}", newline(self.text), &self.text[prefix]);
        insert(line_end(self.text, at), &before, "")
    }

    /// Takes `keys` out, with all that is below them; keys that are not there are none.
    pub(super) fn remove(&self, keys: &[&str]) -> Vec<Splice> {
        let text = self.text;
        let values = keys.iter().filter_map(|key| self.table.get_key_value(*key));
        let mut gone: Vec<Leaf> = Vec::new();
        let mut headers = Vec::new();
        for (key, value) in values {
            match value.get_ref() {
                DeValue::Table(table) if !is_inline(text, value) => {
                    gone.extend(leaves(text, table));
                    headers_of(text, value, &mut headers);
                }
                _ => gone.push(Leaf { key: key.span(), value: value.span() }),
            }
        }
        match &self.inline {
            Some(inline) => remove_entries(text, inline, &gone),
            None => {
                let lines = gone.iter().map(|leaf| leaf.key.start..leaf.value.end).chain(headers);
                let whole = |span: Range<usize>| line_start(text, span.start)..next_line(text, span.end);
                lines.map(whole).map(Splice::remove).collect()
            }
        }
    }
}

/// Takes entries out of an inline table, each with one comma.
fn remove_entries(text: &str, inline: &Inline<'_>, gone: &[Leaf]) -> Vec<Splice> {
    let mut entries = leaves(text, inline.table);
    entries.sort_by_key(|leaf| leaf.value.start);
    let is_gone = |entry: &Leaf| gone.iter().any(|leaf| leaf.value == entry.value);
    let Some(first_kept) = entries.iter().position(|entry| !is_gone(entry)) else {
        return vec![Splice { span: inline.span.clone(), text: Zeroizing::new("{}".to_owned()) }];
    };
    // Those before the first that stays go with the comma behind them, the others with the one before.
    let before = match first_kept {
        0 => None,
        kept => {
            let value_end = entries[kept - 1].value.end;
            let end = comma_after(text, value_end).map_or(value_end, |comma| comma + 1);
            Some(inline.span.start + 1..end)
        }
    };
    let after = entries.windows(2).skip(first_kept).filter(|pair| is_gone(&pair[1]));
    let after = after.map(|pair| pair[0].value.end..pair[1].value.end);
    before.into_iter().chain(after).map(Splice::remove).collect()
}

/// The comma behind the value of an entry that ends at `at`: one in a comment is none.
fn comma_after(text: &str, at: usize) -> Option<usize> {
    let mut is_comment = false;
    let comma = text[at..].bytes().position(|octet| {
        is_comment = octet == b'#' || (is_comment && octet != b'\n');
        octet == b',' && !is_comment
    });
    comma.map(|comma| at + comma)
}

/// The leaves of `table` and of the tables below it, however they are written.
fn leaves(text: &str, table: &DeTable<'_>) -> Vec<Leaf> {
    collect(text, table, &|_| true)
}

/// The leaves that stand in lines of `table` itself: not those under headers of their own.
fn lines_of(text: &str, table: &DeTable<'_>) -> Vec<Leaf> {
    collect(text, table, &|value| !text[value.span()].starts_with('['))
}

fn collect(text: &str, table: &DeTable<'_>, enter: &dyn Fn(&Spanned<DeValue<'_>>) -> bool) -> Vec<Leaf> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value.get_ref() {
            DeValue::Table(table) if !is_inline(text, value) => {
                if enter(value) {
                    found.extend(collect(text, table, enter));
                }
            }
            _ => found.push(Leaf { key: key.span(), value: value.span() }),
        }
    }
    found
}

/// The headers `[…]` of a table and of those below it.
fn headers_of(text: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    let DeValue::Table(table) = value.get_ref() else { return };
    if text[value.span()].starts_with('[') {
        found.push(value.span());
    }
    table.values().filter(|value| !is_inline(text, value)).for_each(|value| headers_of(text, value, found));
}

fn is_inline(text: &str, value: &Spanned<DeValue<'_>>) -> bool {
    text[value.span()].starts_with('{')
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Before the newline.
fn line_end(text: &str, at: usize) -> usize {
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    if text[..end].ends_with('\r') && end > at { end - 1 } else { end }
}

/// Behind the newline.
fn next_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}
