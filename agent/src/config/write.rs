//! The running configuration, written back to its file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::replace::{self, NotReplaced};
use super::{Config, ConfigErrors, text};

/// Why the configuration was not written; the file is as it was then, except after [`WriteError::Unsynced`].
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each is.
pub enum WriteError {
    #[error(transparent)]
    Unreadable(#[from] ConfigErrors),
    #[error(
        "{0} was changed since tcpauthd read it, and is not overwritten; `tcpauth config diff` shows the differences: \
         bring those of the running configuration into the file by hand, then `tcpauth reload`"
    )]
    Changed(PathBuf),
    #[error(
        "the running configuration holds a secret, and {0} can be read by everyone; chmod 600 {0} and write again"
    )]
    Readable(PathBuf),
    #[error("{path} cannot be written: {error}; the file is as it was", path = .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{path} cannot be written: its attribute {attribute} cannot be kept: {error}; the file is as it was",
        path = .path.display()
    )]
    Attribute { path: PathBuf, attribute: String, error: io::Error },
    #[error(
        "{path} is written, but its folder cannot be synced: {error}; a power failure may bring the old file back",
        path = .path.display()
    )]
    Unsynced { path: PathBuf, error: io::Error },
}

impl Config {
    /// Writes the text of this configuration to the file at `path`, that it was read from: at once or not at all,
    /// with the mode, the owner and the extended attributes that the file has: access lists and security labels among
    /// them. A link is followed.
    pub fn write(&mut self, path: &Path) -> Result<(), WriteError> {
        let failed = |error| WriteError::Io { path: path.to_owned(), error };
        let (found, mode) = text::read(path)?;
        if *found != **self.text.file {
            return Err(WriteError::Changed(path.to_owned()));
        }
        if self.text.holds_secret && mode & 0o004 != 0 {
            return Err(WriteError::Readable(path.to_owned()));
        }
        let target = fs::canonicalize(path).map_err(failed)?;
        replace::replace(&target, &self.text.running).map_err(|error| match error {
            NotReplaced::Io(error) => failed(error),
            NotReplaced::Attribute(attribute, error) => {
                WriteError::Attribute { path: path.to_owned(), attribute, error }
            }
        })?;
        self.text.file = Arc::clone(&self.text.running);
        replace::sync_folder(&target).map_err(|error| WriteError::Unsynced { path: path.to_owned(), error })
    }
}
