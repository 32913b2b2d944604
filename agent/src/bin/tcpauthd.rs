//! `tcpauthd`: authenticates the TCP segments of BGP sessions.

use std::{env, io::IsTerminal, process::ExitCode, time::Duration};

use clap::Parser;
use tcpauth::{
    core_dump,
    daemon::{self, Arguments, DaemonError, Journal, Options, StderrLog},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// How long the daemon waits at its end for standard error to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    core_dump::forbid();
    let arguments = Arguments::parse();
    let log = start_logging(&arguments);
    let on_panic = log.clone();
    daemon::end_on_panic(move || on_panic.iter().for_each(|log| log.finish(LAST_WORDS)));
    let code = run(arguments);
    log.iter().for_each(|log| log.finish(LAST_WORDS));
    code
}

fn run(arguments: Arguments) -> ExitCode {
    let config_file = arguments.config.unwrap_or_else(|| arguments.instance.config_file());
    // Relative paths in errors and in the status would be relative to nothing an operator knows.
    let config_file = std::path::absolute(&config_file).unwrap_or(config_file);
    let key_log = arguments.key_log.map(|file| std::path::absolute(&file).unwrap_or(file));
    let options = Options { instance: arguments.instance, config_file, key_log, force: arguments.force };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(daemon::run(options)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(DaemonError::Config(errors)) => {
                tracing::error!("configuration:\n{errors}");
                ExitCode::from(2)
            }
            Err(error @ DaemonError::Emptied { .. }) => {
                tracing::error!("configuration: {error}");
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

/// The journal if systemd started us, else standard error, which is returned. `RUST_LOG` goes before `-v`.
fn start_logging(arguments: &Arguments) -> Option<StderrLog> {
    let level = ["info", "debug", "trace"][usize::from(arguments.verbose.min(2))];
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,tcpauth={level},tcpauthd={level}")));
    let registry = tracing_subscriber::registry().with(filter);
    let by_systemd = env::var_os("JOURNAL_STREAM").is_some() || env::var_os("NOTIFY_SOCKET").is_some();
    if by_systemd
        && !arguments.foreground
        && let Ok(journal) = Journal::new()
    {
        registry.with(journal).init();
        return None;
    }
    let layer =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_target(false);
    match StderrLog::start() {
        Ok(log) => {
            registry.with(layer.with_writer(log.clone())).init();
            Some(log)
        }
        Err(error) => {
            registry.with(layer.with_writer(std::io::stderr)).init();
            tracing::warn!(
                "no thread for the log, so tcpauthd stops while standard error is not read: {error}"
            );
            None
        }
    }
}
