//! The running configuration, written to its file.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

const FILE: &str = "# Ours\nneighbor.\"192.0.2.1\".password-file = \"secret\" # not here\n";

/// A folder with a configuration of this text and mode, and the secret that it names.
fn folder(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, mode) in [("secret", "n-secret-0", 0o600), ("tcpauth.toml", text, mode)] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    let path = folder.path().join("tcpauth.toml");
    (folder, path)
}

fn load(path: &Path) -> Config {
    Config::load(path).unwrap_or_else(|errors| panic!("{errors}"))
}

fn change(config: &mut Config, path: &Path, toml: &str) {
    let owner = config.neighbors[0].key_owner();
    let edit = Edit::SetKey { owner, number: 1, toml: Zeroizing::new(toml.to_owned()) };
    config.apply(&[edit], path.parent().unwrap()).unwrap_or_else(|error| panic!("{error}"));
}

/// What is in the folder.
fn names(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_what_runs() {
    let (folder, path) = folder(FILE, 0o640);
    let mut config = load(&path);
    change(&mut config, &path, "password = \"n-secret-1\"");
    assert_eq!(config.differences(&path).unwrap().len(), 1);
    config.write(&path).unwrap();
    assert!(load(&path) == config, "another configuration");
    assert_eq!(config.differences(&path).unwrap(), []);
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{FILE}neighbor.\"192.0.2.1\".key.1 = {{ password = \"n-secret-1\" }}\n")
    );
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(names(&folder), ["secret", "tcpauth.toml"]);
    // And again: what was written is what the file was last.
    change(&mut config, &path, "password = \"n-secret-2\"");
    config.write(&path).unwrap();
    assert!(load(&path) == config, "another configuration");
}

#[test]
fn the_file_keeps_its_owner() {
    let (_folder, path) = folder(FILE, 0o600);
    // Only root can give a file away; for others it stays theirs.
    let owner = if nix::unistd::geteuid().is_root() { 12_345 } else { nix::unistd::geteuid().as_raw() };
    std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
    let mut config = load(&path);
    config.write(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), owner);
}

#[test]
fn a_link_stays_one() {
    let (folder, path) = folder(FILE, 0o600);
    let link = folder.path().join("link.toml");
    symlink(&path, &link).unwrap();
    let mut config = load(&link);
    change(&mut config, &link, "password = \"n-secret-1\"");
    config.write(&link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(load(&link) == config, "another configuration");
}

#[test]
fn a_file_that_was_changed_is_not_overwritten() {
    let (folder, path) = folder(FILE, 0o600);
    let mut config = load(&path);
    change(&mut config, &path, "password = \"n-secret-1\"");
    let changed = format!("{FILE}# Somebody else's\n");
    fs::write(&path, &changed).unwrap();
    let shown = path.display();
    assert_eq!(
        config.write(&path).unwrap_err().to_string(),
        format!(
            "{shown} was changed since tcpauthd read it, and is not overwritten; `tcpauth config diff` shows the \
             differences: bring those of the running configuration into the file by hand, then `tcpauth reload`"
        )
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), changed);
    fs::remove_file(&path).unwrap();
    assert!(matches!(config.write(&path), Err(WriteError::Unreadable(_))));
    assert_eq!(names(&folder), ["secret"]);
}

#[test]
fn a_secret_is_not_put_where_everyone_can_read_it() {
    let (folder, path) = folder(FILE, 0o644);
    let mut config = load(&path);
    config.write(&path).unwrap();
    change(&mut config, &path, "password = \"n-secret-1\"");
    let shown = path.display();
    assert_eq!(
        config.write(&path).unwrap_err().to_string(),
        format!(
            "the running configuration holds a secret, and {shown} can be read by everyone; chmod 600 {shown} and write \
             again"
        )
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    config.write(&path).unwrap();
    assert_eq!(names(&folder), ["secret", "tcpauth.toml"]);
}

#[test]
fn secrets_of_chains_and_keys_are_secrets_in_the_file() {
    for text in [
        "key-chain.c.key.1.password = \"c-secret-1\"",
        "neighbor.\"192.0.2.1\" = { password-file = \"secret\", key.1.key-hex = \"00112233445566\" }",
    ] {
        let (_folder, path) = folder(text, 0o644);
        let error = Config::load(&path).err().unwrap().to_string();
        assert!(error.contains("the file holds secrets and is readable by everyone"), "{error}");
    }
}
