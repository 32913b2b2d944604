//! A wall clock that a test sets: libfaketime, in one daemon.

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};
use tempfile::TempDir;

/// The wall clock of a daemon, some time away from the true one. Its monotonic clock is the true one.
pub struct Clock {
    folder: TempDir,
}

impl Clock {
    /// One that shows the true time.
    ///
    /// # Errors
    /// If its file cannot be written.
    pub fn new() -> Result<Self> {
        let clock = Self { folder: TempDir::new()? };
        clock.set(0)?;
        Ok(clock)
    }

    /// Shows from now on what the true one does, and so many seconds more.
    ///
    /// # Errors
    /// If its file cannot be written.
    pub fn set(&self, offset_seconds: i64) -> Result<()> {
        // Renamed into its place, so that nobody reads half of it.
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{offset_seconds:+}\n"))?;
        fs::rename(new, self.file())?;
        Ok(())
    }

    /// Environment variables for the daemon that goes by it.
    ///
    /// # Errors
    /// If libfaketime is not installed.
    pub fn environment(&self) -> Result<Vec<(String, String)>> {
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
        ensure!(fs::exists(&library)?, "{library} is not there: `cargo xtask setup` installs faketime");
        let file = self.file().display().to_string();
        let variables = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        Ok(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}
