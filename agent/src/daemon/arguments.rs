//! The command line of `tcpauthd`.

use std::path::PathBuf;

use crate::instance::Instance;

/// The daemon that adds a MAC to every TCP segment of configured BGP neighbours, and checks it.
///
/// Exit status: 0 stopped by a signal, 1 failure, 2 error in the configuration or on the command line.
#[derive(clap::Parser)]
#[command(name = "tcpauthd", version)]
pub struct Arguments {
    /// Configuration file [default: /etc/tcpauth/tcpauth.toml, or /etc/tcpauth/INSTANCE.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// One of several daemons on this host, each in a network namespace of its own
    #[arg(long, value_name = "NAME", default_value_t)]
    pub instance: Instance,

    /// For debugging: append the keys that are agreed with neighbors to this file, in clear, for `tcpauth verify`
    ///
    /// Whoever reads it can forge segments of these sessions. It gets mode 0600; the status says that it is written.
    #[arg(long, value_name = "FILE")]
    pub key_log: Option<PathBuf>,

    /// Start although no neighbor that is protected stays configured, and let go of those that are not
    #[arg(long)]
    pub force: bool,

    /// Log to standard error, also under systemd
    #[arg(long)]
    pub foreground: bool,

    /// Log more; twice: even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}
