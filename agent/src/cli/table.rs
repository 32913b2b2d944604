//! Text for people: aligned columns, blocks of fields, and colour.

use std::{env, io::IsTerminal};

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// With escape sequences.
    On,
    /// Plain text.
    Off,
}

/// What a piece of text means to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// On its way, or worth a look.
    Warn,
    /// Needs the operator.
    Bad,
    /// Headings.
    Strong,
}

impl Colour {
    /// Coloured if standard output is a terminal and `NO_COLOR` is unset or empty.
    pub fn of_stdout() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if !refused && std::io::stdout().is_terminal() { Self::On } else { Self::Off }
    }

    /// `text` in the colour of its meaning.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        let code = match (self, paint) {
            (Self::Off, _) | (_, Paint::Plain) => return text.to_owned(),
            (Self::On, Paint::Good) => "32",
            (Self::On, Paint::Warn) => "33",
            (Self::On, Paint::Bad) => "31",
            (Self::On, Paint::Strong) => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// One cell of a table.
pub struct Cell {
    text: String,
    paint: Paint,
    to_the_right: bool,
}

impl Cell {
    /// Text, to the left.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), paint: Paint::Plain, to_the_right: false }
    }

    /// A quantity, to the right.
    pub fn quantity(text: impl ToString) -> Self {
        Self { text: text.to_string(), paint: Paint::Plain, to_the_right: true }
    }

    /// The same cell in another colour.
    pub fn painted(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }
}

/// Aligned columns under a heading, with notes below rows that need explaining.
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Row>,
}

struct Row {
    cells: Vec<Cell>,
    notes: Vec<(Paint, String)>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// A row, with the lines to put below it.
    pub fn row(&mut self, cells: Vec<Cell>, notes: Vec<(Paint, String)>) {
        self.rows.push(Row { cells, notes });
    }

    /// The lines of the table, without blanks at their ends.
    pub fn render(&self, colour: Colour) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(column));
            let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
            widest.max(self.heading[column].len())
        };
        let widths: Vec<usize> = (0..self.heading.len()).map(width).collect();
        let to_the_right = |column: usize| {
            self.rows.first().and_then(|row| row.cells.get(column)).is_some_and(|cell| cell.to_the_right)
        };
        let mut text = String::new();
        let heading = self.heading.iter().enumerate().map(|(column, name)| Cell {
            text: (*name).to_owned(),
            paint: Paint::Strong,
            to_the_right: to_the_right(column),
        });
        push_line(&mut text, heading, &widths, colour);
        for Row { cells, notes } in &self.rows {
            push_line(&mut text, cells, &widths, colour);
            for (paint, note) in notes {
                text.push_str("  ");
                text.push_str(&colour.paint(*paint, note));
                text.push('\n');
            }
        }
        text
    }
}

fn push_line(
    text: &mut String,
    cells: impl IntoIterator<Item = impl std::borrow::Borrow<Cell>>,
    widths: &[usize],
    colour: Colour,
) {
    let mut blanks = 0;
    for (cell, &width) in cells.into_iter().zip(widths) {
        let cell = cell.borrow();
        let padding = width.saturating_sub(cell.text.chars().count());
        if cell.to_the_right {
            blanks += padding;
        }
        if !cell.text.is_empty() {
            text.extend(std::iter::repeat_n(' ', blanks));
            text.push_str(&colour.paint(cell.paint, &cell.text));
            blanks = 0;
        }
        blanks += if cell.to_the_right { 2 } else { padding + 2 };
    }
    text.push('\n');
}

/// A titled block of named fields.
pub struct Block {
    title: String,
    fields: Vec<(&'static str, Paint, String)>,
}

impl Block {
    /// An empty block.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), fields: Vec::new() }
    }

    /// A field.
    pub fn field(&mut self, name: &'static str, value: impl Into<String>) {
        self.painted_field(name, Paint::Plain, value);
    }

    /// A field in a colour.
    pub fn painted_field(&mut self, name: &'static str, paint: Paint, value: impl Into<String>) {
        self.fields.push((name, paint, value.into()));
    }

    /// The lines of the block; a value's further lines stand below its first.
    pub fn render(&self, colour: Colour) -> String {
        let width = self.fields.iter().map(|(name, _, _)| name.len() + 2).max().unwrap_or(0);
        let mut text = colour.paint(Paint::Strong, &self.title) + "\n";
        for (name, paint, value) in &self.fields {
            let name = format!("{name}:");
            let mut lines = value.split('\n');
            let first = lines.next().unwrap_or_default();
            text.push_str(&format!("  {name:width$}{}\n", colour.paint(*paint, first)));
            for line in lines {
                text.push_str(&format!("  {:width$}{}\n", "", colour.paint(*paint, line)));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_whatever_the_colour() {
        let mut table = Table::new(&["NAME", "COUNT", "STATE"]);
        table.row(
            vec![Cell::text("a"), Cell::quantity(7), Cell::text("up").painted(Paint::Good)],
            vec![(Paint::Plain, "fine".to_owned())],
        );
        table.row(vec![Cell::text("longer"), Cell::quantity(1_234_567), Cell::text("")], vec![]);
        let plain = table.render(Colour::Off);
        assert_eq!(plain, "NAME      COUNT  STATE\na             7  up\n  fine\nlonger  1234567\n");
        let mut uncoloured = table.render(Colour::On);
        assert!(uncoloured.contains("\x1b[32mup\x1b[0m"));
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[32m"] {
            uncoloured = uncoloured.replace(code, "");
        }
        assert_eq!(uncoloured, plain);
    }

    #[test]
    fn fields_of_a_block_align() {
        let mut block = Block::new("neighbor 192.0.2.1");
        block.field("state", "idle");
        block.painted_field("algorithm", Paint::Bad, "none");
        assert_eq!(block.render(Colour::Off), "neighbor 192.0.2.1\n  state:     idle\n  algorithm: none\n");
    }
}
