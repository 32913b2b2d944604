//! Shell completions and man pages, made from the command's own definition.

use std::{fs, path::Path};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{failure::Failure, output::print};

/// Print the completions of `command` for `shell`.
pub fn completions(command: Command, shell: Shell) -> Result<(), Failure> {
    print(&String::from_utf8_lossy(&completion_script(command, shell)))
}

/// Print the first command's page; or write each command's, and its subcommands', into `dir`.
/// With each goes the section of the manual that it belongs to.
pub fn man(commands: &[(Command, &str)], dir: Option<&Path>) -> Result<(), Failure> {
    let mut all = Vec::new();
    for (command, section) in commands {
        pages(command, section, &mut all)?;
    }
    let Some(dir) = dir else {
        return match all.first() {
            Some((_, page)) => print(&String::from_utf8_lossy(page)),
            None => Ok(()),
        };
    };
    let cannot_write =
        |path: &Path, error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(dir).map_err(|error| cannot_write(dir, error))?;
    for (name, page) in all {
        let path = dir.join(name);
        fs::write(&path, page).map_err(|error| cannot_write(&path, error))?;
    }
    Ok(())
}

fn completion_script(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// The page of a command and those of its subcommands, with their file names.
fn pages(command: &Command, section: &str, all: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    pages_of_built(&command, section, all)
}

fn pages_of_built(command: &Command, section: &str, all: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(command.clone())
        .title(name.to_uppercase())
        .section(section)
        .source(concat!("tcpauth ", env!("CARGO_PKG_VERSION")))
        .render(&mut page)?;
    all.push((format!("{name}.{section}"), page));
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        pages_of_built(subcommand, section, all)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_shell_has_completions() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completion_script(Cli::command(), *shell)).unwrap();
            for word in ["neighbor", "password-file", "watch", "genkey", "retire", "send-lifetime", "diff"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = crate::daemon::Arguments::command();
        man(&[(Cli::command(), "1"), (daemon, "8")], Some(dir.path())).unwrap();
        for (page, words) in [
            ("tcpauth.1", "Exit codes"),
            ("tcpauth-status.1", "tcpauth"),
            ("tcpauth-neighbor.1", "add"),
            ("tcpauth-neighbor-add.1", "password"),
            ("tcpauth-session-show.1", "watch"),
            ("tcpauth-key.1", "on both routers"),
            ("tcpauth-key-add.1", "First step"),
            ("tcpauth-key-roll.1", "The exit code is 0 once the key is rolled"),
            ("tcpauth-key-retire.1", "force"),
            ("tcpauth-config-diff.1", "differs"),
            ("tcpauth-config-write.1", "running configuration"),
            ("tcpauth-purge.1", "yes"),
            ("tcpauth-verify.1", "capture"),
            ("tcpauth-check.1", "configuration"),
            ("tcpauthd.8", "foreground"),
        ] {
            let text = fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(words), "{page} does not speak of {words}");
            assert!(text.starts_with(".ie") || text.contains(".TH"), "{page} is no man page");
        }
        assert!(!dir.path().join("tcpauth-help.1").exists());
    }
}
