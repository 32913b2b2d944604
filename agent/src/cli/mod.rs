//! The command `tcpauth`: what an operator types, and what it prints.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};

use self::{
    config::ConfigCommand,
    failure::{Failure, USAGE},
    genkey::GenkeyArgs,
    key::KeyCommand,
    neighbor::NeighborCommand,
    output::{Output, print},
    purge::PurgeArgs,
    session::SessionCommand,
    table::Colour,
    verify::VerifyArgs,
};
use crate::{
    control::{
        client::{Client, ClientError},
        protocol::Request,
    },
    daemon,
    instance::Instance,
};

pub mod check;
mod check_json;
mod check_kmp;
mod config;
mod counts;
mod events;
mod failure;
mod genkey;
mod human;
mod key;
mod key_add;
mod key_fingerprint;
mod key_roll;
mod key_show;
mod kmp;
mod neighbor;
mod neighbor_add;
mod neighbor_add_kmp;
mod output;
mod pages;
mod prompt;
mod purge;
#[cfg(test)]
pub(crate) mod samples;
mod secret;
mod session;
mod status;
mod table;
pub mod verify;
mod verify_lines;
mod watch;

/// Authenticate every TCP segment of BGP sessions: show and steer tcpauthd
#[derive(clap::Parser)]
#[command(name = "tcpauth", version, after_help = failure::EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// The daemon to talk to, one of several on this host
    #[arg(long, global = true, value_name = "NAME", default_value_t, help_heading = GLOBAL)]
    pub instance: Instance,
    /// Print JSON
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// The daemon's control socket, if it is not the instance's
    #[arg(long, global = true, value_name = "PATH", hide = true)]
    pub socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Show the daemon, its interfaces and neighbors; exit code 4 if a neighbor is failing or closed
    Status,
    /// Show, add and remove neighbors, and begin to sign what is sent to one
    #[command(subcommand)]
    Neighbor(NeighborCommand),
    /// Show sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// Show keys, and change them without a reset: add, roll, retire, refresh; the fingerprint of a public one
    ///
    /// A key is changed in three steps. Each is done on both routers, before the next one begins; on which of them
    /// first, and how long after the other, does not matter.
    ///
    /// 1. `key add`: both routers accept the new key, and go on with the old one.
    ///
    /// 2. `key roll`: both routers prefer the new key; sessions move to it, none is reset.
    ///
    /// 3. `key retire`: when `key show` tells that nobody sends with the old key, both forget it.
    ///
    /// `config write` then keeps the change in the configuration file.
    ///
    /// Keys that the two daemons agree on by themselves (`key-management` `external` and `layered`) are replaced by
    /// `key refresh`, on either router.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Compare the running configuration with the file, or write it there
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Tell whether the daemon would take a configuration file; talks to no daemon
    Check {
        /// The file [default: the instance's]
        file: Option<PathBuf>,
    },
    /// Have the daemon read its configuration file again
    ///
    /// All or nothing: a file with an error changes nothing. Sessions of neighbors that did not change are not
    /// touched. Refused if changes made by `neighbor` and `key` would be lost (see `config diff`), or if no neighbor that is
    /// protected would stay.
    Reload {
        /// Throw away changes made by command that are not in the file
        #[arg(long)]
        discard: bool,
        /// Also if no neighbor that is protected stays, and let go of those that are not configured
        #[arg(long)]
        force: bool,
    },
    /// Follow what is dropped and why, and what becomes of sessions and keys
    Events,
    /// Make a random pre-shared key, or an Ed25519 key pair
    Genkey(GenkeyArgs),
    /// Verify a capture offline against the configured keys; exit code 0 only if every segment verified
    Verify(VerifyArgs),
    /// Take everything of an instance out of the kernel: programs, maps, keys, the lane
    ///
    /// Sessions will no longer be protected. The daemon must have been stopped.
    Purge(PurgeArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write all pages, the daemon's among them, into a directory
    Man {
        /// Where to write the pages of every command
        dir: Option<PathBuf>,
    },
    /// Print the version
    Version,
}

/// Parse the command line and do what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(cli.run()));
    result.unwrap_or_else(|failure| {
        if !failure.is_closed_pipe() {
            eprintln!("tcpauth: {failure}");
        }
        failure.exit_code()
    })
}

impl Cli {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = Client::new(&self.instance, self.socket.as_deref());
        let output = Output { json: self.json, colour: Colour::of_stdout() };
        match self.command {
            Command::Status => return status::run(&client, output).await,
            Command::Neighbor(command) => command.run(&client, output).await?,
            Command::Session(command) => command.run(&client, output).await?,
            Command::Key(command) => command.run(&client, output).await?,
            Command::Config(command) => return command.run(&client, output).await,
            Command::Check { file } => {
                let file = file.unwrap_or_else(|| self.instance.config_file());
                return if self.json { check_json::run(&file) } else { Ok(checked(&file)) };
            }
            Command::Reload { discard, force } => {
                match neighbor::order(&client, Request::Reload { discard, force }, output).await {
                    Err(Failure::Client(ClientError::Refused(reason))) => {
                        return Err(Failure::Usage(format!(
                            "not loaded, the running configuration stays:\n{reason}"
                        )));
                    }
                    done => done?,
                }
            }
            Command::Events => events::run(&client, output).await?,
            Command::Genkey(args) => genkey::run(&args)?,
            Command::Verify(args) => return Ok(verify::run(&args, &self.instance, self.json)),
            Command::Purge(args) => purge::run(&args, &self.instance, &client, output).await?,
            Command::Completions { shell } => pages::completions(Cli::command(), shell)?,
            Command::Man { dir } => {
                let commands = [(Cli::command(), "1"), (daemon::Arguments::command(), "8")];
                pages::man(&commands, dir.as_deref())?;
            }
            Command::Version => print(&format!("tcpauth {}\n", env!("CARGO_PKG_VERSION")))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// As [`check::check`]; what it refuses is an error in the configuration.
fn checked(file: &Path) -> ExitCode {
    if check::check(file) == ExitCode::SUCCESS { ExitCode::SUCCESS } else { USAGE.into() }
}

const GLOBAL: &str = "Global options";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Cli {
        Cli::try_parse_from(std::iter::once("tcpauth").chain(line.split_whitespace()))
            .unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn refused(line: &str) {
        let error = Cli::try_parse_from(std::iter::once("tcpauth").chain(line.split_whitespace()))
            .err()
            .unwrap_or_else(|| panic!("{line} must be refused"));
        assert_eq!(error.exit_code(), i32::from(failure::USAGE), "{line}");
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_understood() {
        assert!(matches!(parsed("status").command, Command::Status));
        assert!(matches!(parsed("reload").command, Command::Reload { discard: false, force: false }));
        let forced = parsed("reload --discard --force").command;
        assert!(matches!(forced, Command::Reload { discard: true, force: true }));
        assert!(matches!(parsed("events").command, Command::Events));
        assert!(matches!(parsed("version").command, Command::Version));
        let Command::Neighbor(NeighborCommand::Show { peer }) = parsed("neighbor show 192.0.2.1").command
        else {
            panic!("not neighbor show");
        };
        assert_eq!(peer.as_deref(), Some("192.0.2.1"));
        let Command::Neighbor(NeighborCommand::Remove { peer }) =
            parsed("neighbor remove 192.0.2.0/24").command
        else {
            panic!("not neighbor remove");
        };
        assert_eq!(peer, "192.0.2.0/24");
        let Command::Neighbor(NeighborCommand::Sign { peer }) = parsed("neighbor sign fe80::1%eth0").command
        else {
            panic!("not neighbor sign");
        };
        assert_eq!(peer, "fe80::1%eth0");
        refused("neighbor sign");
        refused("neighbor sign 192.0.2.1 192.0.2.2");
        let Command::Neighbor(NeighborCommand::Add(add)) =
            parsed("neighbor add fe80::1%eth0 --password-file - --key-id 7").command
        else {
            panic!("not neighbor add");
        };
        assert_eq!((add.peer.as_str(), add.key_id), ("fe80::1%eth0", Some(7)));
        assert_eq!(add.secret.password_file, Some(PathBuf::from("-")));
        let Command::Session(SessionCommand::Show(show)) = parsed("session show --watch").command else {
            panic!("not session show");
        };
        assert!(show.watch && show.peer.is_none());
        assert!(matches!(parsed("key show").command, Command::Key(KeyCommand::Show { neighbor: None })));
        let Command::Key(KeyCommand::Add(add)) =
            parsed("key add 192.0.2.1 --number 2 --password-file - --key-id 7").command
        else {
            panic!("not key add");
        };
        assert_eq!((add.neighbor.as_str(), add.number, add.key_id), ("192.0.2.1", Some(2), Some(7)));
        assert_eq!(add.send_lifetime, None);
        let Command::Key(KeyCommand::Roll(roll)) = parsed("key roll 192.0.2.1 2").command else {
            panic!("not key roll");
        };
        assert_eq!((roll.neighbor.as_deref(), roll.number, roll.all), (Some("192.0.2.1"), Some(2), false));
        assert_eq!(roll.wait, 10);
        let Command::Key(KeyCommand::Roll(roll)) = parsed("key roll --all --wait 0").command else {
            panic!("not key roll --all");
        };
        assert_eq!((roll.neighbor, roll.number, roll.all, roll.wait), (None, None, true, 0));
        let Command::Key(KeyCommand::Refresh(refresh)) = parsed("key refresh 192.0.2.1 --wait 3").command
        else {
            panic!("not key refresh");
        };
        assert_eq!((refresh.neighbor.as_deref(), refresh.wait), (Some("192.0.2.1"), 3));
        let Command::Key(KeyCommand::Refresh(refresh)) = parsed("key refresh").command else {
            panic!("not key refresh of all");
        };
        assert_eq!((refresh.neighbor, refresh.wait), (None, 10));
        let Command::Key(KeyCommand::Retire { neighbor, number, force }) =
            parsed("key retire 192.0.2.1 1 --force").command
        else {
            panic!("not key retire");
        };
        assert_eq!((neighbor.as_str(), number, force), ("192.0.2.1", 1, true));
        assert!(matches!(parsed("config diff").command, Command::Config(ConfigCommand::Diff)));
        assert!(matches!(parsed("config write").command, Command::Config(ConfigCommand::Write)));
        let Command::Genkey(genkey) = parsed("genkey --format base64 --bits 128").command else {
            panic!("not genkey");
        };
        assert_eq!((genkey.format, genkey.bits), (genkey::KeyFormat::Base64, 16));
        let Command::Genkey(genkey) = parsed("genkey --raw-public-key --out router.pem").command else {
            panic!("not genkey");
        };
        assert!(genkey.raw_public_key && genkey.out == Some(PathBuf::from("router.pem")));
        let Command::Key(KeyCommand::Fingerprint { file }) = parsed("key fingerprint router.pem").command
        else {
            panic!("not key fingerprint");
        };
        assert_eq!(file, PathBuf::from("router.pem"));
        assert!(matches!(parsed("check").command, Command::Check { file: None }));
        assert!(matches!(parsed("check a.toml").command, Command::Check { file: Some(_) }));
        let Command::Verify(verify) = parsed("verify bgp.pcap --config b.toml --verbose").command else {
            panic!("not verify");
        };
        assert!(verify.verbose && verify.config == Some(PathBuf::from("b.toml")));
        assert!(matches!(parsed("purge").command, Command::Purge(PurgeArgs { yes: false })));
        assert!(matches!(parsed("purge --yes").command, Command::Purge(PurgeArgs { yes: true })));
        let Command::Completions { shell } = parsed("completions fish").command else {
            panic!("not completions");
        };
        assert_eq!(shell, clap_complete::Shell::Fish);
        assert!(matches!(parsed("man").command, Command::Man { dir: None }));
        assert!(matches!(parsed("man pages").command, Command::Man { dir: Some(_) }));
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = parsed("status --json --instance east --socket /tmp/x.sock");
        assert!(cli.json);
        assert_eq!(cli.instance.name(), "east");
        assert_eq!(cli.socket, Some(PathBuf::from("/tmp/x.sock")));
        assert_eq!(parsed("--instance west neighbor show").instance.name(), "west");
        assert_eq!(parsed("status").instance, Instance::default());
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "",
            "stat",
            "neighbor",
            "neighbor add",
            "neighbor remove",
            "session",
            "key",
            "key add",
            "key roll",
            "key roll 192.0.2.1 --all",
            "key roll 192.0.2.1 2 --all",
            "key roll 192.0.2.1 newest",
            "key roll 192.0.2.1 --wait -1",
            "key refresh 192.0.2.1 2",
            "key retire 192.0.2.1",
            "config",
            "genkey --bits 100",
            "genkey --format raw",
            "genkey --raw-public-key --bits 256",
            "genkey --out router.pem",
            "key fingerprint",
            "completions tcsh",
            "status --instance a/b",
            "status extra",
        ] {
            refused(line);
        }
    }

    /// `ps` shows arguments to everyone.
    #[test]
    fn no_argument_takes_a_secret() {
        for line in [
            "neighbor add 192.0.2.1 --password secret",
            "neighbor add 192.0.2.1 --key-hex 00ff",
            "neighbor add 192.0.2.1 --key-base64 AP8=",
            "neighbor add 192.0.2.1 secret",
            "key add 192.0.2.1 --password secret",
            "key add 192.0.2.1 --key-hex 00ff",
            "key add 192.0.2.1 secret",
        ] {
            refused(line);
        }
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let secret = ["password", "secret", "hex", "base64"].iter().any(|word| name.contains(word));
                assert!(!secret || name.ends_with("_file"), "{} {name}", command.get_name());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }
}
