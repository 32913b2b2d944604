//! `tcpauth check --json`: the same judgement as `check`, for programs.

use std::{path::Path, process::ExitCode};

use serde::Serialize;

use super::{
    failure::{Failure, USAGE},
    output::Output,
};
use crate::config::Config;

/// Judge the configuration at `path` and print a [`Judgement`].
pub fn run(path: &Path) -> Result<ExitCode, Failure> {
    let judgement = Judgement::of(path);
    Output::json().result(&judgement, |_| String::new())?;
    Ok(if judgement.errors.is_empty() { ExitCode::SUCCESS } else { USAGE.into() })
}

/// What is to be said of a configuration file.
#[derive(Debug, Serialize)]
struct Judgement {
    /// The file.
    file: String,
    /// Number of neighbours, if there is no error.
    neighbors: Option<usize>,
    /// What is legal but probably not meant.
    warnings: Vec<String>,
    /// What is wrong; empty if the daemon would take the file.
    errors: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
struct Fault {
    /// Line, from 1, if it is at one.
    line: Option<usize>,
    /// Column in characters, from 1.
    column: Option<usize>,
    /// What is wrong and what to do.
    message: String,
}

impl Judgement {
    fn of(path: &Path) -> Self {
        let file = path.display().to_string();
        match Config::load(path) {
            Ok(config) => Self {
                file,
                neighbors: Some(config.neighbors.len()),
                warnings: config.warnings().iter().map(ToString::to_string).collect(),
                errors: Vec::new(),
            },
            Err(errors) => Self {
                file,
                neighbors: None,
                warnings: Vec::new(),
                errors: errors
                    .iter()
                    .map(|error| Fault {
                        line: error.position.map(|position| position.line),
                        column: error.position.map(|position| position.column),
                        message: error.problem.to_string(),
                    })
                    .collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_with_their_place() {
        let file = tempfile::NamedTempFile::new().unwrap(); // mode 600
        std::fs::write(file.path(), "# a comment\nneighbor.\"192.0.2.1\".pasword = \"v61ne0qkel33&\"\n")
            .unwrap();
        let judgement = serde_json::to_value(Judgement::of(file.path())).unwrap();
        assert_eq!(judgement["neighbors"], serde_json::Value::Null);
        assert_eq!(judgement["errors"][0]["line"], 2);
        assert!(!judgement.to_string().contains("v61ne0qkel33&"));
    }

    #[test]
    fn a_good_file_has_its_neighbours_counted() {
        let file = tempfile::NamedTempFile::new().unwrap(); // mode 600
        std::fs::write(file.path(), "neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"\n").unwrap();
        let judgement = serde_json::to_value(Judgement::of(file.path())).unwrap();
        assert_eq!(judgement["neighbors"], 1);
        assert_eq!(judgement["errors"], serde_json::json!([]));
    }
}
