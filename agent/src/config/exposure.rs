//! Files of the configuration that others can change, found as `sshd` does (StrictModes).
//!
//! Whoever can write to such a file, or to a folder on the way to it, decides which segments count as authentic. This is
//! a warning and no error, so that a router that was protected before an upgrade is protected after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Links followed on the way to one file, as Linux does (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;
/// Only the owner of an entry may replace it in a folder with this bit (`S_ISVTX`).
const STICKY: u32 = 0o1000;

/// Returns a sentence about each of `files`, and each folder on the way to one, that others than root and the user who
/// runs this program can change.
pub(super) fn exposures(files: &BTreeSet<PathBuf>) -> Vec<String> {
    let own = nix::unistd::geteuid().as_raw();
    let mut seen = BTreeMap::new();
    for file in files {
        follow(file, &mut |path, metadata| {
            if !seen.contains_key(path) {
                seen.insert(path.to_owned(), exposure(path, metadata, own));
            }
        });
    }
    seen.into_values().flatten().collect()
}

/// Shows `look` every folder on the way to `file`, those with links among them, and the file; as far as there is a way.
fn follow(file: &Path, look: &mut dyn FnMut(&Path, &Metadata)) {
    let Ok(file) = std::path::absolute(file) else { return };
    let mut at = PathBuf::from("/");
    let mut rest = names(&file);
    let mut links = 0;
    if let Ok(metadata) = fs::symlink_metadata(&at) {
        look(&at, &metadata);
    }
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(name);
        let Ok(metadata) = fs::symlink_metadata(&next) else { return };
        if !metadata.is_symlink() {
            look(&next, &metadata);
            at = next;
            continue;
        }
        links += 1;
        let Some(target) = fs::read_link(&next).ok().filter(|_| links <= MOST_LINKS) else { return };
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        rest.extend(names(&target));
    }
}

/// The names in a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.rev().collect()
}

/// Who else can change what is at `path`, and what to do about it; `own`: the user who runs this program.
fn exposure(path: &Path, metadata: &Metadata, own: u32) -> Option<String> {
    let mode = metadata.mode() & 0o7777;
    let is_foreign = ![0, own].contains(&metadata.uid());
    let writable = match metadata.is_dir() && mode & STICKY != 0 {
        true => 0,
        false => mode & 0o022,
    };
    if !is_foreign && writable == 0 {
        return None;
    }
    let (writers, clear) = match writable {
        0o020 => (Some("its group"), "g-w"),
        0o002 => (Some("everyone"), "o-w"),
        0 => (None, ""),
        _ => (Some("everyone"), "go-w"),
    };
    let who: Vec<&str> = is_foreign.then_some("its owner").into_iter().chain(writers).collect();
    let path = path.display();
    let chown = is_foreign.then(|| format!("chown root {path}"));
    let chmod = writers.map(|_| format!("chmod {clear} {path}"));
    let commands: Vec<String> = chown.into_iter().chain(chmod).collect();
    let owner = if metadata.uid() == 0 { "root".to_owned() } else { format!("uid {}", metadata.uid()) };
    let (kind, what) = match metadata.is_dir() {
        true => ("the folder ", "put another file in place of one that tcpauthd reads"),
        false => ("", "change whom tcpauthd takes for authentic"),
    };
    Some(format!(
        "{kind}{path} (owner {owner}, mode {mode:04o}): {} can {what}; {}",
        who.join(" and "),
        commands.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt, chown, symlink},
    };

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn folder(&self, name: &str, mode: u32) -> PathBuf {
            fs::create_dir(self.path(name)).unwrap();
            set_mode(&self.path(name), mode);
            self.path(name)
        }

        fn file(&self, name: &str, mode: u32) -> PathBuf {
            fs::write(self.path(name), "").unwrap();
            set_mode(&self.path(name), mode);
            self.path(name)
        }

        /// What is told of a file of it, without what is above it.
        fn exposures(&self, file: &Path) -> Vec<String> {
            let all = exposures(&BTreeSet::from([file.to_owned()]));
            let here = self.0.path().to_str().unwrap().to_owned();
            all.into_iter()
                .filter(|told| told.contains(&here))
                .map(|told| told.replace(&here, "/etc"))
                .collect()
        }
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn file_that_others_can_write_to_is_told_with_its_remedy() {
        let place = Place::new();
        let owner = if nix::unistd::geteuid().is_root() {
            "root".to_owned()
        } else {
            format!("uid {}", nix::unistd::geteuid())
        };
        for (mode, who, clear) in
            [(0o660, "its group", "g-w"), (0o602, "everyone", "o-w"), (0o666, "everyone", "go-w")]
        {
            let file = place.file("a.toml", mode);
            assert_eq!(
                place.exposures(&file),
                [format!(
                    "/etc/a.toml (owner {owner}, mode {mode:04o}): {who} can change whom tcpauthd takes for authentic; \
                     chmod {clear} /etc/a.toml"
                )]
            );
        }
        for mode in [0o600, 0o640, 0o644, 0o400] {
            assert_eq!(place.exposures(&place.file("a.toml", mode)), [""; 0]);
        }
    }

    #[test]
    fn folders_on_the_way_are_looked_at_also_behind_links() {
        let place = Place::new();
        let folder = place.folder("open", 0o775);
        let file = place.file("open/secret", 0o600);
        let told = place.exposures(&file);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("the folder /etc/open (owner "), "{told:?}");
        assert!(
            told[0].ends_with("put another file in place of one that tcpauthd reads; chmod g-w /etc/open")
        );

        // A link in it, or to it, makes no difference.
        let target = place.file("closed", 0o600);
        symlink(&target, folder.join("to-closed")).unwrap();
        assert_eq!(place.exposures(&folder.join("to-closed")).len(), 1);
        symlink("open", place.path("alias")).unwrap();
        assert_eq!(place.exposures(&place.path("alias/secret")).len(), 1);
        place.folder("plain", 0o755);
        assert_eq!(place.exposures(&place.path("plain/../closed")), [""; 0]);
        // As in /tmp, nobody else may replace a file here.
        set_mode(&folder, 0o1777);
        assert_eq!(place.exposures(&file), [""; 0]);
        // A link to itself leads nowhere.
        symlink("loop", place.path("loop")).unwrap();
        assert_eq!(place.exposures(&place.path("loop")), [""; 0]);
    }

    #[test]
    fn file_of_another_user_is_told() {
        if !nix::unistd::geteuid().is_root() {
            return println!("NOT RUN: only root can give a file away");
        }
        let place = Place::new();
        let file = place.file("secret", 0o620);
        chown(&file, Some(12_345), None).unwrap();
        assert_eq!(
            place.exposures(&file),
            [
                "/etc/secret (owner uid 12345, mode 0620): its owner and its group can change whom tcpauthd takes for \
              authentic; chown root /etc/secret; chmod g-w /etc/secret"
            ]
        );
    }

    #[test]
    fn own_file_of_a_user_is_none_of_others() {
        let place = Place::new();
        let file = place.file("a.toml", 0o600);
        let metadata = fs::metadata(&file).unwrap();
        let uid = metadata.uid();
        assert_eq!(exposure(&file, &metadata, uid), None);
        assert_eq!(exposure(&file, &metadata, uid + 1).is_some(), uid != 0);
    }
}
