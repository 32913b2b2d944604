//! The text of a configuration: the file's as it was read, and that of what runs. Both may hold secrets.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Problem;
use super::error::{ConfigErrors, Report, Subject};

/// Largest configuration file read, in octets.
pub(super) const MAX_FILE: u64 = 16 << 20;

/// What a configuration was read from. Wiped when the last copy is dropped; has no `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Text {
    /// The file's, as it was when it was read or written last.
    pub(super) file: Arc<Zeroizing<String>>,
    /// That of this configuration: the file's with the edits since.
    pub(super) running: Arc<Zeroizing<String>>,
    /// Whether a secret stands in it, not in a file that it names.
    pub(super) holds_secret: bool,
    /// The file, if it came from one.
    pub(super) path: Option<PathBuf>,
}

impl Text {
    /// That of a file just read.
    pub(super) fn loaded(text: Zeroizing<String>, holds_secret: bool) -> Self {
        let text = Arc::new(text);
        Self { file: text.clone(), running: text, holds_secret, path: None }
    }
}

/// The text of the file at `path`, and its mode.
pub(super) fn read(path: &Path) -> Result<(Zeroizing<String>, u32), ConfigErrors> {
    let unreadable = |error: std::io::Error| ConfigErrors::of_file(path, Problem::Unreadable(error.kind()));
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    // Room for all of it, so that the vector does not move and leave a copy behind.
    let room = usize::try_from(metadata.len().min(MAX_FILE)).unwrap_or_default() + 1;
    let mut octets = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_FILE + 1).read_to_end(&mut octets).map_err(unreadable)?;
    if octets.len() as u64 > MAX_FILE {
        return Err(ConfigErrors::of_file(path, Problem::TooLarge(MAX_FILE)));
    }
    let has_mark = octets.starts_with(&[0xff, 0xfe]) || octets.starts_with(&[0xfe, 0xff]);
    if has_mark || is_utf16(&octets) {
        return Err(ConfigErrors::of_file(path, Problem::Utf16));
    }
    match std::str::from_utf8(&octets) {
        Ok(text) => {
            // A pipe (`tcpauth check /dev/stdin`) is nobody else's to read or write.
            let mode = if metadata.is_file() { metadata.mode() } else { 0 };
            Ok((Zeroizing::new(text.to_owned()), mode))
        }
        Err(error) => {
            let text = str::from_utf8(&octets[..error.valid_up_to()]).unwrap_or_default();
            let mut report = Report::new(text);
            report.add(&(text.len()..text.len()), &Subject::File, Problem::NotUtf8);
            Err(report.into_errors(path))
        }
    }
}

/// Returns whether `octets` are text in UTF-16: a character of ASCII, in two octets of which one is 0, comes first, or
/// second after a byte order mark. Neither TOML nor a password has an octet 0; a random key that begins so is rarer than one
/// in 65,536 for each form, and `key-hex` takes it.
pub(super) fn is_utf16(octets: &[u8]) -> bool {
    let is_ascii = |octet: u8| matches!(octet, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    match *octets {
        [0xff, 0xfe, low, 0, ..] | [0xfe, 0xff, 0, low, ..] => is_ascii(low),
        [low, 0, next, 0, ..] | [0, low, 0, next, ..] => is_ascii(low) && is_ascii(next),
        _ => false,
    }
}
