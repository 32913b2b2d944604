//! `tcpauthd`: authenticates the TCP segments of BGP sessions.

use std::{env, io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::Parser;
use tcpauth::{
    daemon::{self, DaemonError, Options},
    instance::Instance,
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// The daemon that adds a MAC to every TCP segment of configured BGP neighbours, and checks it.
///
/// Exit status: 0 stopped by a signal, 1 failure, 2 error in the configuration or on the command line.
#[derive(Parser)]
#[command(name = "tcpauthd", version)]
struct Arguments {
    /// Configuration file [default: /etc/tcpauth/tcpauth.toml, or /etc/tcpauth/INSTANCE.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// One of several daemons on this host, each in a network namespace of its own
    #[arg(long, value_name = "NAME", default_value_t)]
    instance: Instance,

    /// Log to standard error, also under systemd
    #[arg(long)]
    foreground: bool,

    /// Log more; twice: even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(&arguments);
    let config_file = arguments.config.unwrap_or_else(|| arguments.instance.config_file());
    // Relative paths in errors and in the status would be relative to nothing an operator knows.
    let config_file = std::path::absolute(&config_file).unwrap_or(config_file);
    let options = Options { instance: arguments.instance, config_file };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(daemon::run(options)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(DaemonError::Config(errors)) => {
                tracing::error!("configuration:\n{errors}");
                ExitCode::from(2)
            }
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            tracing::error!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The journal if systemd started us, else standard error. `RUST_LOG` goes before `-v`.
fn start_logging(arguments: &Arguments) {
    let level = ["info", "debug", "trace"][usize::from(arguments.verbose.min(2))];
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,tcpauth={level},tcpauthd={level}")));
    let registry = tracing_subscriber::registry().with(filter);
    let by_systemd = env::var_os("JOURNAL_STREAM").is_some() || env::var_os("NOTIFY_SOCKET").is_some();
    if by_systemd
        && !arguments.foreground
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).init();
        return;
    }
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    registry.with(stderr).init();
}
