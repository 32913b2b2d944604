//! The running configuration, kept for the next daemon while it differs from its file.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{Config, ConfigErrors, Difference, Problem, diff, text};

/// First line of a kept configuration, for people.
const TITLE: &str =
    "# The running configuration of tcpauthd, kept until `tcpauth config write` or `config discard`.";
/// Begins the line that names the boot in which it was kept.
const BOOT: &str = "# boot ";
/// Begins the line with the SHA-256 of the file that it was made from, as it was then, and the file's path.
const FILE: &str = "# file ";

impl Config {
    /// Whether anything was changed by command since the file was read or written.
    pub fn is_unsaved(&self) -> bool {
        self.text.running != self.text.file
    }

    /// Returns the changes made by command that would be lost with `file`, which was just read, in the place of this
    /// configuration.
    pub fn lost_with(&self, file: &Self) -> Vec<Difference> {
        if !self.is_unsaved() {
            return Vec::new();
        }
        let by_command = diff::between_texts(&self.text.file, &self.text.running);
        let mut lost = diff::between_texts(&file.text.file, &self.text.running);
        lost.retain(|difference| by_command.iter().any(|made| made.subject == difference.subject));
        lost
    }

    /// Keeps this configuration at `path`, mode 0600, if it differs from its `file`; removes what is kept there if not.
    ///
    /// # Errors
    /// The system's, of writing or removing; then what was kept before may be there still.
    pub fn keep(&self, path: &Path, file: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        // A daemon that was killed while it wrote may have left one.
        remove(&new)?;
        if !self.is_unsaved() {
            return remove(path);
        }
        let (boot, hash) = (boot_id()?, hash(&self.text.file));
        let head = format!("{TITLE}\n{BOOT}{boot}\n{FILE}{hash} {}\n", shown(file));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(head.as_bytes())
            .and_then(|()| file.write_all(self.text.running.as_bytes()))
            .and_then(|()| fs::rename(&new, path))
            .inspect_err(|_| {
                // It may hold secrets.
                let _ = fs::remove_file(&new);
            })
    }

    /// Reads what [`Config::keep`] left at `path` since the machine started, for the file at `file`; `None` if there is
    /// nothing that the file does not have.
    ///
    /// # Errors
    /// It cannot be read, is wrong, or was kept of another file.
    pub fn kept(path: &Path, file: &Path) -> Result<Option<Self>, ConfigErrors> {
        if !path.exists() {
            return Ok(None);
        }
        let (kept, _) = text::read(path)?;
        let Some(kept) = Kept::parse(&kept) else { return Ok(None) };
        if boot_id().ok().as_deref() != Some(kept.boot) {
            return Ok(None);
        }
        if kept.file != shown(file) {
            return Err(ConfigErrors::of_file(path, Problem::KeptOfAnother(kept.file.to_owned())));
        }
        let now = text::read(file).map(|(text, _)| text).unwrap_or_default();
        if *now == kept.running {
            // It was written, and the daemon was killed before it could forget this.
            return Ok(None);
        }
        let mut config = Self::parse(kept.running, file)?;
        // A file that was changed since is never taken for the one that this configuration comes from.
        let is_same = hash(&now) == kept.made_from;
        config.text.path = Some(file.to_owned());
        config.text.file = Arc::new(if is_same { now } else { Zeroizing::new(String::new()) });
        Ok(Some(config))
    }
}

/// The parts of a kept configuration.
struct Kept<'a> {
    boot: &'a str,
    /// Hash of the file that it was made from.
    made_from: &'a str,
    /// Path of that file.
    file: &'a str,
    running: &'a str,
}

impl<'a> Kept<'a> {
    fn parse(kept: &'a str) -> Option<Self> {
        let rest = kept.strip_prefix(TITLE)?.strip_prefix('\n')?;
        let (boot, rest) = rest.strip_prefix(BOOT)?.split_once('\n')?;
        let (made_from, rest) = rest.strip_prefix(FILE)?.split_once(' ')?;
        let (file, running) = rest.split_once('\n')?;
        Some(Self { boot, made_from, file, running })
    }
}

/// A path as it stands in one line of a comment.
fn shown(path: &Path) -> String {
    path.to_string_lossy().replace(|c: char| c.is_control(), "?")
}

/// Removes a file, if there is one.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn hash(text: &str) -> String {
    hex::encode(openssl::sha::sha256(text.as_bytes()))
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Edit;

    const FILE_TEXT: &str = "neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"\n";

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let place = Self { folder: tempfile::tempdir().unwrap() };
            place.write_file(FILE_TEXT);
            place
        }

        fn write_file(&self, text: &str) {
            fs::write(self.file(), text).unwrap();
            fs::set_permissions(self.file(), fs::Permissions::from_mode(0o600)).unwrap();
        }

        fn file(&self) -> std::path::PathBuf {
            self.folder.path().join("tcpauth.toml")
        }

        fn kept(&self) -> std::path::PathBuf {
            self.folder.path().join("default.running.toml")
        }

        fn keep(&self, config: &Config) {
            config.keep(&self.kept(), &self.file()).unwrap();
        }

        fn edited(&self) -> Config {
            let mut config = Config::load(&self.file()).unwrap();
            let toml = Zeroizing::new("password = \"another one of these\"".to_owned());
            config
                .apply(&[Edit::AddNeighbor { peer: "192.0.2.9".to_owned(), toml }], self.folder.path())
                .unwrap();
            config
        }
    }

    #[test]
    fn changes_by_command_come_back() {
        let place = Place::new();
        place.keep(&place.edited());
        assert_eq!(fs::metadata(place.kept()).unwrap().permissions().mode() & 0o777, 0o600);
        let mut kept = Config::kept(&place.kept(), &place.file()).unwrap().unwrap();
        assert!(kept.neighbor("192.0.2.9").is_some() && kept.is_unsaved());
        kept.write(&place.file()).unwrap();
        place.keep(&kept);
        assert!(!place.kept().exists());
        assert!(Config::kept(&place.kept(), &place.file()).unwrap().is_none());
        assert!(Config::load(&place.file()).unwrap().neighbor("192.0.2.9").is_some());
    }

    #[test]
    fn a_file_that_was_changed_meanwhile_is_not_overwritten() {
        let place = Place::new();
        place.keep(&place.edited());
        place.write_file(&format!("# by hand\n{FILE_TEXT}"));
        let mut kept = Config::kept(&place.kept(), &place.file()).unwrap().unwrap();
        assert!(kept.neighbor("192.0.2.9").is_some());
        assert!(matches!(kept.write(&place.file()), Err(crate::config::WriteError::Changed(_))));
    }

    #[test]
    fn what_another_boot_kept_is_not_used() {
        let place = Place::new();
        place.keep(&place.edited());
        let text = fs::read_to_string(place.kept()).unwrap().replace(&boot_id().unwrap(), "another");
        fs::write(place.kept(), text).unwrap();
        assert!(Config::kept(&place.kept(), &place.file()).unwrap().is_none());
    }

    #[test]
    fn what_was_written_before_the_daemon_was_killed_is_the_files() {
        let place = Place::new();
        let mut config = place.edited();
        place.keep(&config);
        config.write(&place.file()).unwrap();
        // Killed here: what was kept before is there still, and would never be written again.
        assert!(place.kept().exists());
        assert!(Config::kept(&place.kept(), &place.file()).unwrap().is_none());
    }

    #[test]
    fn what_was_kept_of_another_file_is_not_used_and_told_of() {
        let place = Place::new();
        place.keep(&place.edited());
        let other = place.folder.path().join("other.toml");
        fs::copy(place.file(), &other).unwrap();
        let error = Config::kept(&place.kept(), &other).err().unwrap().to_string();
        assert!(error.contains(&format!("made to {}, another file", place.file().display())), "{error}");
        assert!(Config::kept(&place.kept(), &place.file()).unwrap().is_some());
    }

    #[test]
    fn what_stands_in_the_way_is_an_error_and_no_link_is_followed() {
        let place = Place::new();
        let target = place.folder.path().join("target");
        for link in [place.kept(), place.kept().with_extension("new")] {
            std::os::unix::fs::symlink(&target, link).unwrap();
        }
        place.keep(&place.edited());
        assert!(!target.exists() && fs::symlink_metadata(place.kept()).unwrap().is_file());
        let new = place.kept().with_extension("new");
        fs::create_dir(&new).unwrap();
        assert!(place.edited().keep(&place.kept(), &place.file()).is_err());
        fs::remove_dir(&new).unwrap();
        // Saved: neither stays.
        fs::write(&new, "left by one that was killed").unwrap();
        place.keep(&Config::load(&place.file()).unwrap());
        assert!(!place.kept().exists() && !new.exists());
    }

    #[test]
    fn changes_that_the_file_has_by_now_are_not_lost() {
        let place = Place::new();
        let config = place.edited();
        let lost = || config.lost_with(&Config::load(&place.file()).unwrap());
        assert_eq!(lost().len(), 1);
        place.write_file(&format!(
            "{FILE_TEXT}neighbor.\"192.0.2.9\".password = \"another one of these\"\nneighbor.\"192.0.2.7\".password = \
             \"an unrelated one\"\n"
        ));
        assert_eq!(lost(), []);
        let loaded = Config::load(&place.file()).unwrap();
        assert_eq!(loaded.lost_with(&loaded), []);
    }
}
