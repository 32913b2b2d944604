//! Secrets from a file or standard input, never from the command line.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use zeroize::{Zeroize, Zeroizing};

use super::{failure::Failure, prompt};

/// Files that a secret may come from; `-` is standard input.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct SecretArgs {
    /// Read the password from FILE, or from standard input if it is `-`
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Read a key in hex, as genkey makes it, from FILE or `-`
    #[arg(long, value_name = "FILE")]
    pub key_hex_file: Option<PathBuf>,
    /// Read a key in base64 from FILE or `-`
    #[arg(long, value_name = "FILE")]
    pub key_base64_file: Option<PathBuf>,
}

/// A neighbour's secret, in the form it was given. Has no `Debug`.
pub enum Secret {
    /// Any UTF-8 text.
    Password(Zeroizing<String>),
    /// Octets in hex.
    KeyHex(Zeroizing<String>),
    /// Octets in base64.
    KeyBase64(Zeroizing<String>),
}

/// A secret as its field in a TOML document.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretField<'a> {
    /// `password`.
    Password(&'a str),
    /// `key-hex`.
    KeyHex(&'a str),
    /// `key-base64`.
    KeyBase64(&'a str),
}

impl SecretArgs {
    /// The secret: from the file that was named, or asked for at the terminal as the password for `whom`.
    ///
    /// # Errors
    /// As [`password_from`]; or if there is no terminal, or nothing or two different passwords were typed.
    pub fn read(&self, whom: &str) -> Result<Secret, Failure> {
        if let Some(path) = &self.password_file {
            Ok(Secret::Password(password_from(path)?))
        } else if let Some(path) = &self.key_hex_file {
            Ok(Secret::KeyHex(key_from(path)?))
        } else if let Some(path) = &self.key_base64_file {
            Ok(Secret::KeyBase64(key_from(path)?))
        } else {
            prompt::password(whom).map(Secret::Password)
        }
    }
}

impl Secret {
    /// The secret's field.
    pub fn field(&self) -> SecretField<'_> {
        match self {
            Self::Password(password) => SecretField::Password(password),
            Self::KeyHex(key) => SecretField::KeyHex(key),
            Self::KeyBase64(key) => SecretField::KeyBase64(key),
        }
    }
}

/// The password in a file, or on standard input if `path` is `-`. As for `password-file` in the configuration, one
/// newline at its end is not part of it.
///
/// # Errors
/// If the file is open to others, cannot be read, is not UTF-8, or holds no password.
pub fn password_from(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = text_from(path)?;
    not_empty(text.strip_suffix('\n').unwrap_or(&text), path)
}

/// The key in a file, or on standard input if `path` is `-`, without the blanks around it.
///
/// # Errors
/// As [`password_from`].
pub fn key_from(path: &Path) -> Result<Zeroizing<String>, Failure> {
    not_empty(text_from(path)?.trim(), path)
}

fn text_from(path: &Path) -> Result<Zeroizing<String>, Failure> {
    if path == Path::new("-") {
        return utf8(octets(io::stdin().lock(), path)?, path);
    }
    let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    let metadata = file.metadata().map_err(|error| cannot_read(path, &error))?;
    // A group may be let in to read, no more; others not at all: the rule of `password-file`.
    if metadata.is_file() && metadata.permissions().mode() & 0o027 != 0 {
        let path = path.display();
        return Err(Failure::Usage(format!(
            "{path}: others can read or change this secret: `chmod 600 {path}`"
        )));
    }
    utf8(octets(file, path)?, path)
}

/// Everything there is to read, in one buffer that never grows and so leaves no copy behind.
fn octets(source: impl Read, path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut octets = Zeroizing::new(Vec::with_capacity(LONGEST + 64));
    let limited = source.take(LONGEST as u64 + 1);
    read_into(limited, &mut octets).map_err(|error| cannot_read(path, &error))?;
    if octets.len() > LONGEST {
        let path = path.display();
        return Err(Failure::Usage(format!("{path}: longer than {LONGEST} octets; is it the right file?")));
    }
    Ok(octets)
}

/// As `read_to_end`, within the buffer's capacity.
fn read_into(mut source: impl Read, octets: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = Zeroizing::new([0; 4096]);
    loop {
        match source.read(&mut *chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => octets.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn utf8(mut octets: Zeroizing<Vec<u8>>, path: &Path) -> Result<Zeroizing<String>, Failure> {
    String::from_utf8(std::mem::take(&mut *octets)).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        let path = path.display();
        Failure::Usage(format!("{path}: not UTF-8 text; give a key of any octets with --key-hex-file"))
    })
}

fn not_empty(text: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    if text.is_empty() {
        return Err(Failure::Usage(format!("{}: holds no secret", path.display())));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("cannot read {}: {error}", path.display()))
}

/// No secret is longer, in octets; hex has two for one of the 4096 that the configuration allows.
const LONGEST: usize = 16_384;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(dir: &tempfile::TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn said<T>(result: Result<T, Failure>) -> String {
        result.err().expect("this must fail").to_string()
    }

    #[test]
    fn a_password_loses_one_newline_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for (content, password) in [
            (&b"v61ne0qkel33&\n"[..], "v61ne0qkel33&"),
            (b"v61ne0qkel33&", "v61ne0qkel33&"),
            (b" two words \n\n", " two words \n"),
            ("p\u{e4}ss".as_bytes(), "p\u{e4}ss"),
        ] {
            assert_eq!(password_from(&file(&dir, content, 0o600)).ok().unwrap().as_str(), password);
        }
        assert_eq!(key_from(&file(&dir, b"\n 00ff \n", 0o640)).ok().unwrap().as_str(), "00ff");
    }

    #[test]
    fn files_that_cannot_be_right_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o644, 0o620, 0o604, 0o602] {
            assert!(said(password_from(&file(&dir, b"secret", mode))).contains("`chmod 600 "), "{mode:o}");
        }
        assert!(said(password_from(&file(&dir, b"\n", 0o600))).ends_with("holds no secret"));
        assert!(said(key_from(&file(&dir, b" \n", 0o600))).ends_with("holds no secret"));
        assert!(said(password_from(&file(&dir, b"\xff\xfe", 0o600))).contains("not UTF-8"));
        assert!(said(password_from(&file(&dir, &[b'a'; LONGEST + 1], 0o600))).contains("longer than"));
        assert!(said(password_from(Path::new("/nonexistent/secret"))).starts_with("cannot read"));
        assert_eq!(password_from(&file(&dir, &[b'a'; LONGEST], 0o600)).ok().unwrap().len(), LONGEST);
    }
}
