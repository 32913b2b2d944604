//! `tcpauth check FILE`: whether `tcpauthd` would take a configuration.

use std::path::Path;
use std::process::ExitCode;

use crate::config::Config;

/// Reads the configuration at `path` as the daemon does. Prints how many neighbours there are, with warnings
/// before it on standard error, and returns success; or prints all errors on standard error and returns failure.
pub fn check(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            for warning in config.warnings() {
                eprintln!("{}: warning: {warning}", path.display());
            }
            println!("{}", summary(path, config.neighbors.len()));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::FAILURE
        }
    }
}

fn summary(path: &Path, neighbors: usize) -> String {
    let plural = if neighbors == 1 { "" } else { "s" };
    format!("{}: {neighbors} neighbour{plural}, no errors", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_neighbours() {
        let summary = |neighbors| summary(Path::new("/etc/tcpauth/tcpauth.toml"), neighbors);
        assert_eq!(summary(0), "/etc/tcpauth/tcpauth.toml: 0 neighbours, no errors");
        assert_eq!(summary(1), "/etc/tcpauth/tcpauth.toml: 1 neighbour, no errors");
        assert_eq!(summary(3), "/etc/tcpauth/tcpauth.toml: 3 neighbours, no errors");
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
