//! `tcpauth check FILE`: whether `tcpauthd` would take a configuration.

use std::path::Path;
use std::process::ExitCode;

use super::check_kmp;
use crate::config::Config;

/// Reads the configuration at `path` as the daemon does. Prints its key chains, how keys are agreed, and how many neighbours there are,
/// with warnings before it on standard error, and returns success; or prints all errors on standard error and
/// returns failure.
pub fn check(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            for warning in config.warnings() {
                eprintln!("{}: warning: {warning}", path.display());
            }
            print!("{}", summary(path, &config));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::FAILURE
        }
    }
}

/// How many neighbours of `config` have their keys from the chain called `name`.
pub(super) fn users(config: &Config, name: &str) -> usize {
    config.neighbors.iter().filter(|neighbor| neighbor.keys.name.as_deref() == Some(name)).count()
}

/// A line for each chain and key in it, how keys are agreed, and a line for the file.
fn summary(path: &Path, config: &Config) -> String {
    let mut text = String::new();
    for chain in &config.key_chains {
        let name = chain.name.as_deref().unwrap_or_default();
        text += &format!("key-chain {name}: {}\n", count(users(config, name), "neighbour"));
        for key in &chain.keys {
            let ids = format!("send-id {}, recv-id {}", key.mkt.send_id, key.mkt.recv_id);
            text += &format!("  key.{}: {ids}, send {}, accept {}\n", key.number, key.send, key.accept);
        }
    }
    text += &check_kmp::text(config);
    let neighbors = count(config.neighbors.len(), "neighbour");
    let chains = match config.key_chains.len() {
        0 => String::new(),
        chains => format!("{}, ", count(chains, "key chain")),
    };
    text + &format!("{}: {neighbors}, {chains}no errors\n", path.display())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_neighbours_and_shows_chains() {
        let path = Path::new("/etc/tcpauth/tcpauth.toml");
        let summary = |text: &str| {
            summary(path, &Config::parse(text, path).unwrap_or_else(|errors| panic!("{errors}")))
        };
        assert_eq!(summary(""), "/etc/tcpauth/tcpauth.toml: 0 neighbours, no errors\n");
        assert_eq!(
            summary("neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\""),
            "/etc/tcpauth/tcpauth.toml: 1 neighbour, no errors\n"
        );
        let chain = "[key-chain.b]\nkey.2 = { password = \"v61ne0qkel33&\", recv-id = 7 }\n\
                     key.1 = { password = \"v61ne0qkel34&\", send-lifetime = \"/2027-03-01T00:00:00Z\" }\n\
                     [neighbor]\n\"192.0.2.1\" = { key-chain = \"b\" }\n\"192.0.2.2\" = { key-chain = \"b\" }";
        assert_eq!(
            summary(chain),
            "key-chain b: 2 neighbours\n\
             \x20 key.1: send-id 1, recv-id 1, send /2027-03-01T00:00:00Z, accept always\n\
             \x20 key.2: send-id 2, recv-id 7, send always, accept always\n\
             /etc/tcpauth/tcpauth.toml: 2 neighbours, 1 key chain, no errors\n"
        );
    }

    #[test]
    fn the_exit_code_says_whether_the_daemon_would_take_it() {
        let file = tempfile::NamedTempFile::new().unwrap(); // mode 600
        std::fs::write(file.path(), "neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"\n").unwrap();
        assert_eq!(format!("{:?}", check(file.path())), format!("{:?}", ExitCode::SUCCESS));
        std::fs::write(file.path(), "neighbor.\"192.0.2.1\".pasword = \"v61ne0qkel33&\"\n").unwrap();
        assert_eq!(format!("{:?}", check(file.path())), format!("{:?}", ExitCode::FAILURE));
    }
}
