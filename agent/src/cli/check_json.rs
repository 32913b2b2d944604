//! `tcpauth check --json`: the same judgement as `check`, for programs.

use std::{path::Path, process::ExitCode};

use serde::Serialize;

use super::{
    check::users,
    check_kmp::{Agreement, agreements},
    failure::{Failure, USAGE},
    output::Output,
};
use crate::{
    config::Config,
    keys::{ChainKey, KeyChain},
};

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
    /// The chains that have a name, if there is no error.
    key_chains: Vec<Chain>,
    /// How keys are agreed, of each neighbour with which they are, if there is no error.
    key_agreements: Vec<Agreement>,
    /// What is legal but probably not meant.
    warnings: Vec<String>,
    /// What is wrong; empty if the daemon would take the file.
    errors: Vec<Fault>,
}

/// A key chain.
#[derive(Debug, Serialize)]
struct Chain {
    /// Its name.
    name: String,
    /// Number of neighbours that use it.
    neighbors: usize,
    /// Its keys, by number.
    keys: Vec<Key>,
}

/// A key of a chain. Never the secret.
#[derive(Debug, Serialize)]
struct Key {
    /// N of `key.N`.
    number: u32,
    /// KeyID we send.
    send_id: u8,
    /// KeyID we accept.
    recv_id: u8,
    /// Algorithm by name.
    algorithm: &'static str,
    /// `always`, `never`, `preferred`, `START/END` in RFC 3339 (START also `preferred`).
    send_lifetime: String,
    /// As `send_lifetime`.
    accept_lifetime: String,
}

impl Chain {
    fn of(chain: &KeyChain, config: &Config) -> Self {
        let name = chain.name.clone().unwrap_or_default();
        let key = |key: &ChainKey| Key {
            number: key.number,
            send_id: key.mkt.send_id.0,
            recv_id: key.mkt.recv_id.0,
            algorithm: key.mkt.algorithm.name(),
            send_lifetime: key.send.to_string(),
            accept_lifetime: key.accept.to_string(),
        };
        Self { neighbors: users(config, &name), keys: chain.keys.iter().map(key).collect(), name }
    }
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
                key_chains: config.key_chains.iter().map(|chain| Chain::of(chain, &config)).collect(),
                key_agreements: agreements(&config),
                warnings: config.warnings().iter().map(ToString::to_string).collect(),
                errors: Vec::new(),
            },
            Err(errors) => Self {
                file,
                neighbors: None,
                key_chains: Vec::new(),
                key_agreements: Vec::new(),
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
    fn chains_are_shown_without_their_secrets() {
        let file = tempfile::NamedTempFile::new().unwrap(); // mode 600
        let text = "[key-chain.b]\nkey.1 = { password = \"v61ne0qkel33&\", send-lifetime = \"never\" }\n\
                    [neighbor.\"192.0.2.1\"]\nkey-chain = \"b\"\n";
        std::fs::write(file.path(), text).unwrap();
        let judgement = serde_json::to_value(Judgement::of(file.path())).unwrap();
        assert_eq!(
            judgement["key_chains"],
            serde_json::json!([{ "name": "b", "neighbors": 1, "keys": [{
                "number": 1, "send_id": 1, "recv_id": 1, "algorithm": "hmac-sha-1-96",
                "send_lifetime": "never", "accept_lifetime": "always",
            }] }])
        );
        assert_eq!(judgement["warnings"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_good_file_has_its_neighbours_counted() {
        let file = tempfile::NamedTempFile::new().unwrap(); // mode 600
        std::fs::write(file.path(), "neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"\n").unwrap();
        let judgement = serde_json::to_value(Judgement::of(file.path())).unwrap();
        assert_eq!(judgement["neighbors"], 1);
        assert_eq!(judgement["key_agreements"], serde_json::json!([]));
        assert_eq!(judgement["errors"], serde_json::json!([]));
    }
}
