//! The configuration as a file, and password files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

/// A folder with a configuration and what it names.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A configuration of one neighbour with a password file.
    fn with_password_file(&self, value: &str) -> Result<Config, String> {
        let text = format!("neighbor.\"192.0.2.1\".password-file = \"{value}\"\n");
        Config::load(&self.write("tcpauth.toml", 0o644, text)).map_err(|errors| errors.to_string())
    }

    /// Its error, behind the position.
    fn password_file_error(&self, value: &str) -> String {
        let path = self.0.path().join("tcpauth.toml");
        let Err(error) = self.with_password_file(value) else { panic!("no error") };
        let start = format!("{}:1:38: neighbor \"192.0.2.1\": password-file ", path.display());
        error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}")).to_owned()
    }
}

const INLINE: &str = "# Ours\nneighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"\n";

#[test]
fn a_password_file_loses_one_newline_and_nothing_else() {
    let folder = Folder::new();
    for (content, octets) in [
        (&b"v61ne0qkel33&\n"[..], &b"v61ne0qkel33&"[..]),
        (b"v61ne0qkel33&", b"v61ne0qkel33&"),
        (b"v61ne0qkel33&\n\n", b"v61ne0qkel33&\n"),
        (b"\xff\x00\n", b"\xff\x00"),
        (&[b's'; 4096], &[b's'; 4096]),
    ] {
        folder.write("secret", 0o640, content);
        let config = folder.with_password_file("secret").unwrap_or_else(|error| panic!("{error}"));
        assert!(config.neighbors[0].keys.first().master_key.octets() == octets);
    }
    let absolute = folder.write("secret", 0o600, "v61ne0qkel33&");
    assert!(folder.with_password_file(absolute.to_str().unwrap()).is_ok());
}

#[test]
fn a_password_file_that_others_may_open_is_refused() {
    let folder = Folder::new();
    for mode in [0o604, 0o602, 0o620, 0o644, 0o666] {
        let path = folder.write("secret", mode, "v61ne0qkel33&");
        assert_eq!(
            folder.password_file_error("secret"),
            format!("can be read or written by others; chmod 600 {}", path.display())
        );
    }
}

#[test]
fn a_password_file_that_is_no_file_is_refused() {
    let folder = Folder::new();
    // It may be the password in the wrong field: the value is not told.
    assert_eq!(
        folder.password_file_error("v61ne0qkel33&"),
        "cannot be read: no such file; name a file that tcpauthd's user may read (a relative path starts at the \
         configuration's folder)"
    );
    assert_eq!(
        folder.password_file_error("."),
        "is not a regular file; give the path of a file that holds the password alone"
    );
    nix::unistd::mkfifo(&folder.0.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(
        folder.password_file_error("pipe"),
        "is not a regular file; give the path of a file that holds the password alone"
    );
    folder.write("large", 0o600, [b's'; 4098]);
    assert_eq!(
        folder.password_file_error("large"),
        "is larger than 4096 octets; the file must hold the password alone"
    );
    for content in ["", "\n"] {
        folder.write("empty", 0o600, content);
        assert_eq!(
            folder.password_file_error("empty"),
            "is empty; give the secret agreed with the neighbour"
        );
    }
}

#[test]
fn files_in_utf_16_are_refused() {
    let folder = Folder::new();
    for has_mark in [true, false] {
        let encoded = |text: &str, octets: fn(u16) -> [u8; 2]| -> Vec<u8> {
            let mark = has_mark.then_some(0xfeff);
            mark.into_iter().chain(text.encode_utf16()).flat_map(octets).collect()
        };
        for octets in [u16::to_le_bytes, u16::to_be_bytes] {
            let path = folder.write("utf-16.toml", 0o600, encoded(INLINE, octets));
            assert_eq!(
                Config::load(&path).err().unwrap().to_string(),
                format!("{}: the file is in UTF-16; save it as UTF-8", path.display())
            );
            let path = folder.write("secret", 0o600, encoded("v61ne0qkel33&\r\n", octets));
            assert_eq!(
                folder.password_file_error("secret"),
                format!("{} is in UTF-16; save it as UTF-8", path.display())
            );
        }
    }
    // A configuration in ISO 8859-1 is told where its first strange octet is.
    let path = folder.write("latin-1.toml", 0o600, b"# Router\n# Z\xfcrich\n");
    let error = Config::load(&path).err().unwrap().to_string();
    assert_eq!(error, format!("{}:2:4: not UTF-8 text; save the file as UTF-8", path.display()));
}

#[test]
fn a_file_with_secrets_must_not_be_readable_by_everyone() {
    let folder = Folder::new();
    for mode in [0o600, 0o640, 0o660] {
        assert!(Config::load(&folder.write("tcpauth.toml", mode, INLINE)).is_ok());
    }
    let path = folder.write("tcpauth.toml", 0o644, INLINE);
    let shown = path.display();
    assert_eq!(
        Config::load(&path).err().unwrap().to_string(),
        format!(
            "{shown}:2:33: neighbor \"192.0.2.1\": the file holds secrets and is readable by everyone; chmod 600 {shown}"
        )
    );
    let text = "neighbor.\"192.0.2.1\" = {}\n[defaults]\nkey-hex = \"00112233445566\"\n";
    let path = folder.write("tcpauth.toml", 0o604, text);
    assert_eq!(
        Config::load(&path).err().unwrap().to_string(),
        format!(
            "{shown}:3:11: defaults: the file holds secrets and is readable by everyone; chmod 600 {shown}"
        )
    );
    // Without secrets it may be.
    folder.write("secret", 0o600, "v61ne0qkel33&");
    assert!(folder.with_password_file("secret").is_ok());
}

#[test]
fn a_file_that_everyone_can_write_to_is_refused() {
    let folder = Folder::new();
    let path = folder.write("tcpauth.toml", 0o602, INLINE);
    assert_eq!(
        Config::load(&path).err().unwrap().to_string(),
        format!("{0}: everyone can write to this file; chmod 600 {0}", path.display())
    );
}

#[test]
fn a_file_that_cannot_be_read_as_text_is_refused() {
    let folder = Folder::new();
    let missing = folder.0.path().join("missing.toml");
    assert_eq!(
        Config::load(&missing).err().unwrap().to_string(),
        format!(
            "{}: cannot be read: no such file; check its name and that tcpauthd's user may read it",
            missing.display()
        )
    );
    let latin1 = folder.write("latin1.toml", 0o600, b"# a\n# b \xe9\n");
    assert_eq!(
        Config::load(&latin1).err().unwrap().to_string(),
        format!("{}:2:5: not UTF-8 text; save the file as UTF-8", latin1.display())
    );
    let large = folder.write("large.toml", 0o600, "");
    fs::File::options().write(true).open(&large).unwrap().set_len(text::MAX_FILE + 1).unwrap();
    assert_eq!(
        Config::load(&large).err().unwrap().to_string(),
        format!("{}: is larger than 16777216 octets; is this the right file?", large.display())
    );
}

#[test]
fn files_that_others_can_change_are_warned_about_after_each_change() {
    let folder = Folder::new();
    let secret = folder.write("secret", 0o600, "v61ne0qkel33&");
    let here = folder.0.path().display().to_string();
    let told = |config: &Config| -> Vec<String> {
        let messages = config.warnings().into_iter().map(|warning| warning.to_string());
        messages.filter(|message| message.contains(&here)).collect()
    };
    let mut config = folder.with_password_file("secret").unwrap();
    assert_eq!(told(&config), [""; 0]);

    let file = folder.write("tcpauth.toml", 0o660, "neighbor.\"192.0.2.1\".password-file = \"secret\"\n");
    fs::set_permissions(folder.0.path(), Permissions::from_mode(0o777)).unwrap();
    let mended = [format!("chmod go-w {here}"), format!("chmod g-w {}", file.display())];
    config = Config::load(&file).unwrap();
    for _ in 0..2 {
        let told = told(&config);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(mended.iter().zip(&told).all(|(command, told)| told.ends_with(command)), "{told:?}");
        // It is so after an edit, and of the configuration that is kept.
        let peer = "192.0.2.9".to_owned();
        let toml = Zeroizing::new("password-file = \"secret\"".to_owned());
        config.apply(&[Edit::AddNeighbor { peer: peer.clone(), toml }], folder.0.path()).unwrap();
        let kept = folder.0.path().join("kept.toml");
        config.keep(&kept, &file).unwrap();
        config = Config::kept(&kept, &file).unwrap().unwrap();
        config.apply(&[Edit::RemoveNeighbor { peer: peer.parse().unwrap() }], folder.0.path()).unwrap();
    }
    // A group may read a file of secrets, and `password-file` that it may change is refused anyway.
    fs::set_permissions(&secret, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(told(&config).len(), 2);
}
