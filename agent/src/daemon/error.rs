//! Why the daemon does not run.

use std::{io, path::PathBuf};

use super::KeyLogError;
use crate::{config::ConfigErrors, control::server::ServerError, kernel::KernelError};

/// A failure that ends the daemon, or keeps it from starting.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration file is wrong.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// The configuration would take the protection of every neighbor away.
    #[error(
        "{} keeps no neighbor that is protected ({neighbors}): is it empty or another file by mistake? What is pinned \
         stays as it was; `tcpauthd --force` lets them go", file.display()
    )]
    Emptied {
        /// The configuration file.
        file: PathBuf,
        /// The neighbors that are protected.
        neighbors: String,
    },
    /// The kernel refuses something.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The control socket cannot be had.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Another daemon has this instance.
    #[error(
        "instance {instance} already runs ({holder}): stop that daemon, or, in another network namespace, choose \
         another name with --instance"
    )]
    Running {
        /// Name of the instance.
        instance: String,
        /// Who has it, as `pid 123`.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Lock {
        /// The lock file or its folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Agreed keys cannot be written where they were asked for.
    #[error(transparent)]
    KeyLog(#[from] KeyLogError),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}
