//! The running configuration, written back to its file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Config, ConfigErrors, text};

/// Why the configuration was not written; the file is as it was then.
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
}

impl Config {
    /// Writes the text of this configuration to the file at `path`, that it was read from: at once or not at all,
    /// with the mode and the owner that the file has. A link is followed.
    pub fn write(&mut self, path: &Path) -> Result<(), WriteError> {
        let failed = |error| WriteError::Io { path: path.to_owned(), error };
        let (found, mode) = text::read(path)?;
        if *found != **self.text.file {
            return Err(WriteError::Changed(path.to_owned()));
        }
        if self.text.holds_secret && mode & 0o004 != 0 {
            return Err(WriteError::Readable(path.to_owned()));
        }
        replace(&fs::canonicalize(path).map_err(failed)?, &self.text.running).map_err(failed)?;
        self.text.file = Arc::clone(&self.text.running);
        Ok(())
    }
}

/// Puts `text` in place of the file at `path`.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        let made = file.metadata()?;
        // Only where it differs: not every daemon may give files away.
        if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if result.is_err() {
        // It may hold secrets, and is of no use to anybody.
        let _ = fs::remove_file(&new);
        return result;
    }
    // The file's new name is safe once its folder is.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
