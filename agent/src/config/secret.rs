//! Where a neighbour's shared secret comes from: a password, a file, or a key in hex or base64.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::{Problem, text};
use crate::keys::MasterKey;

/// Longest secret accepted, in octets.
pub(super) const MAX_SECRET: usize = 4096;

/// A field that holds or names a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Password,
    PasswordFile,
    KeyHex,
    KeyBase64,
}

impl Source {
    /// Every source.
    pub(super) const ALL: [Self; 4] = [Self::Password, Self::PasswordFile, Self::KeyHex, Self::KeyBase64];

    /// The source whose field is called `name`.
    pub(super) fn from_field(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.field() == name)
    }

    /// The name of its field.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::PasswordFile => "password-file",
            Self::KeyHex => "key-hex",
            Self::KeyBase64 => "key-base64",
        }
    }

    /// Whether the configuration itself holds the secret.
    pub(super) fn is_inline(self) -> bool {
        self != Self::PasswordFile
    }

    /// The master key that `value` stands for; a relative path starts at `folder`.
    pub(super) fn master_key(self, value: &str, folder: &Path) -> Result<MasterKey, Problem> {
        let field = self.field();
        if value.is_empty() {
            return Err(Problem::EmptySecret(field));
        }
        let octets = match self {
            Self::Password => Zeroizing::new(value.as_bytes().to_vec()),
            Self::PasswordFile => read(&folder.join(value))?,
            Self::KeyHex => Zeroizing::new(hex::decode(value).map_err(|_| Problem::NotHex)?),
            Self::KeyBase64 => Zeroizing::new(BASE64.decode(value).map_err(|_| Problem::NotBase64)?),
        };
        if octets.len() > MAX_SECRET {
            return Err(Problem::LongSecret { field, limit: MAX_SECRET });
        }
        MasterKey::new(octets).ok_or(Problem::EmptySecret(field))
    }
}

/// The standard alphabet, with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The content of a password file without its trailing newline. Its path is told only once it is known to
/// be a file: until then it may be a password in the wrong field.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let unreadable = |error: std::io::Error| Problem::SecretFileUnreadable(error.kind());
    // Not to wait for the other end of a named pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Problem::SecretFileNotRegular);
    }
    // A group may be let in to read, no more; others not at all.
    if metadata.mode() & 0o027 != 0 {
        return Err(Problem::SecretFileOpen(path.to_owned()));
    }
    // Room for all of it and one octet more, so that the vector never moves and leaves a copy behind.
    let limit = MAX_SECRET + 2;
    let mut octets = Zeroizing::new(Vec::with_capacity(limit + 1));
    file.take(limit as u64).read_to_end(&mut octets).map_err(unreadable)?;
    if octets.last() == Some(&b'\n') {
        octets.pop();
    }
    if octets.len() > MAX_SECRET {
        return Err(Problem::SecretFileTooLarge(MAX_SECRET));
    }
    if text::is_utf16(&octets) {
        return Err(Problem::SecretFileUtf16(path.to_owned()));
    }
    Ok(octets)
}
