//! Standard output: text, or JSON for programs.

use std::io::Write;

use serde::Serialize;

use super::{failure::Failure, table::Colour};

/// How results are to be written.
#[derive(Clone, Copy)]
pub struct Output {
    /// JSON, and nothing else.
    pub json: bool,
    /// Colour of text.
    pub colour: Colour,
}

impl Output {
    /// JSON.
    pub fn json() -> Self {
        Self { json: true, colour: Colour::Off }
    }

    /// The protocol's struct as JSON, or what `text` makes for people.
    pub fn result<T: Serialize>(self, value: &T, text: impl FnOnce(Colour) -> String) -> Result<(), Failure> {
        if self.json { print(&(pretty(value)? + "\n")) } else { print(&text(self.colour)) }
    }

    /// The same on one line, for what follows one another.
    pub fn line<T: Serialize>(self, value: &T, text: impl FnOnce(Colour) -> String) -> Result<(), Failure> {
        let line = if self.json { compact(value)? } else { text(self.colour) };
        print(&(line + "\n"))
    }
}

/// Write to standard output, at once.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// JSON on one line.
pub fn compact<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::Output(error.into()))
}

fn pretty<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::Output(error.into()))
}
