//! How a command fails, and what it tells the shell.

use std::{io, process::ExitCode};

use crate::control::client::ClientError;

/// Exit code of a command that failed.
pub const FAILED: u8 = 1;
/// Exit code of `config diff` when there are differences; that of diff(1).
pub const DIFFERENT: u8 = 1;
/// Exit code for a wrong command line or configuration; clap's own.
pub const USAGE: u8 = 2;
/// Exit code when the daemon cannot be talked to.
pub const UNREACHABLE: u8 = 3;
/// Exit code of `status` when a neighbour is failing or closed.
pub const NEIGHBOR_FAILING: u8 = 4;

/// The exit codes, for `--help` and the man page.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done; all is well
  1  the command failed, or tcpauthd refused; config diff: there are differences
  2  wrong usage, or an error in the configuration
  3  tcpauthd is not reachable
  4  status: a neighbor is failing, or closed for want of a valid key";

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The daemon is not reachable, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was asked cannot be done.
    #[error("{0}")]
    Failed(String),
    /// The operator has to ask otherwise.
    #[error("{0}")]
    Usage(String),
    /// The output could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit code. A reader that closes the pipe (`tcpauth events | head`) is no failure.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Client(error) if error.is_unreachable() => UNREACHABLE.into(),
            Self::Client(_) | Self::Failed(_) => FAILED.into(),
            Self::Usage(_) => USAGE.into(),
            Self::Output(_) if self.is_closed_pipe() => ExitCode::SUCCESS,
            Self::Output(_) => FAILED.into(),
        }
    }

    /// Whether nobody reads the output any more.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
