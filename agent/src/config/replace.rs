//! A file replaced at once by a new text, with the owner, the mode and the attributes that it had.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
        },
    },
    path::Path,
};

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr},
    io::Errno,
};

/// The attribute in which Linux keeps a file's access list.
const ACCESS_LIST: &str = "system.posix_acl_access";
/// Signatures of a file's contents and attributes, which another text does not have.
const OF_CONTENTS: [&str; 2] = ["security.ima", "security.evm"];

/// How the name of a new file ends, until it is in its place.
const LAST: &str = ".new";

/// Why a file was not replaced; it is as it was then.
pub(super) enum NotReplaced {
    /// The system's reason.
    Io(io::Error),
    /// The attribute of this name cannot be given to the new file.
    Attribute(String, io::Error),
}

/// Puts `text` in place of the file at `path`. At no moment may anyone read it who may not read the old one.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), NotReplaced> {
    let old = File::open(path).map_err(NotReplaced::Io)?;
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    remove_left(path, name.as_bytes());
    name.push(std::process::id().to_string());
    name.push(LAST);
    let new = path.with_file_name(name);
    make(&new, &old, text).and_then(|()| fs::rename(&new, path).map_err(NotReplaced::Io)).inspect_err(|_| {
        // It may hold secrets, and is of no use.
        let _ = fs::remove_file(&new);
    })
}

/// Removes new files that processes left which were killed before they could put them in place of the file at `path`:
/// they hold secrets, and this process may have the number of one. `first`: how their names begin.
fn remove_left(path: &Path, first: &[u8]) {
    let Some(Ok(folder)) = path.parent().map(fs::read_dir) else { return };
    for entry in folder.flatten() {
        let name = entry.file_name();
        let process = name.as_bytes().strip_prefix(first).and_then(|rest| rest.strip_suffix(LAST.as_bytes()));
        let process = process.and_then(|process| str::from_utf8(process).ok()?.parse::<u32>().ok());
        let is_left = |process| {
            process == std::process::id() || !Path::new("/proc").join(u32::to_string(&process)).exists()
        };
        if process.is_some_and(is_left) {
            // If it stays, making the new one says why.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes the name of the file at `path` safe from a power failure.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Makes a file at `path` that differs from `old` in its text only.
///
/// The order counts. The group comes before the mode, otherwise our own group would have the rights of the old one's. The
/// access list comes before the mode, otherwise its mask would be the group's rights. The owner comes last, because who
/// gives a file away may not change its mode any more without CAP_FOWNER.
fn make(path: &Path, old: &File, text: &str) -> Result<(), NotReplaced> {
    let io = NotReplaced::Io;
    let wanted = old.metadata().map_err(io)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)?;
    let made = file.metadata().map_err(io)?;
    if made.gid() != wanted.gid() {
        fchown(&file, None, Some(wanted.gid())).map_err(io)?;
    }
    give_attributes(&file, old)?;
    file.set_permissions(Permissions::from_mode(wanted.mode() & 0o7777)).map_err(io)?;
    if made.uid() != wanted.uid() {
        fchown(&file, Some(wanted.uid()), None).map_err(io)?;
    }
    file.sync_all().map_err(io)
}

/// Gives `new` the extended attributes of `old`, and takes an access list away that it has of its folder's default one.
fn give_attributes(new: &File, old: &File) -> Result<(), NotReplaced> {
    let (has, wanted) =
        (attributes(new).map_err(NotReplaced::Io)?, attributes(old).map_err(NotReplaced::Io)?);
    let failed = |name: &str, error: Errno| NotReplaced::Attribute(name.to_owned(), error.into());
    if has.contains_key(ACCESS_LIST) && !wanted.contains_key(ACCESS_LIST) {
        fremovexattr(new, ACCESS_LIST).map_err(|error| failed(ACCESS_LIST, error))?;
    }
    for (name, value) in &wanted {
        if OF_CONTENTS.contains(&name.as_str()) || has.get(name) == Some(value) {
            continue;
        }
        fsetxattr(new, name, value, XattrFlags::empty()).map_err(|error| failed(name, error))?;
    }
    Ok(())
}

/// The extended attributes of a file that may be seen; none on a file system without them.
fn attributes(file: &File) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let names = match read(|buffer| flistxattr(file.as_fd(), buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let mut attributes = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        match read(|buffer| fgetxattr(file.as_fd(), &name, buffer)) {
            Ok(value) => _ = attributes.insert(name, value),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(attributes)
}

/// Reads all that `fill` has, whose length may change between two calls.
fn read(fill: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    /// The most that Linux keeps of a name list or a value, bytes (`XATTR_SIZE_MAX`).
    const MOST: usize = 64 << 10;
    let mut buffer = vec![0; MOST];
    let length = fill(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An access list by which user 12345 may read, and the owning group may not: `user::rw-`, `user:12345:r--`,
    /// `group::---`, `mask::r--`, `other::---`.
    const LIST: [(u16, u16, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, 4, 12_345),
        (0x04, 0, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];

    fn list() -> Vec<u8> {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in LIST {
            value.extend(tag.to_le_bytes());
            value.extend(rights.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    /// A file, or none where the file system or the user may not keep such an attribute.
    fn file_with(name: &str, value: &[u8]) -> Option<(tempfile::TempDir, std::path::PathBuf)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tcpauth.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let file = File::open(&path).unwrap();
        match fsetxattr(&file, name, value, XattrFlags::empty()) {
            Ok(()) => Some((folder, path)),
            Err(error) => {
                println!("NOT RUN: {name}: {error}");
                None
            }
        }
    }

    fn replaced(path: &Path) -> File {
        assert!(replace(path, "new").is_ok(), "not replaced");
        assert_eq!(fs::read_to_string(path).unwrap(), "new");
        File::open(path).unwrap()
    }

    #[test]
    fn access_list_is_kept_and_never_widened() {
        let Some((_folder, path)) = file_with(ACCESS_LIST, &list()) else { return };
        let file = replaced(&path);
        assert_eq!(attributes(&file).unwrap()[ACCESS_LIST], list());
        // What `stat` shows of a group is the mask of the list.
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn new_files_that_killed_processes_left_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tcpauth.toml");
        fs::write(&path, "old").unwrap();
        let left = |process: &str| folder.path().join(format!(".tcpauth.toml.{process}.new"));
        // In a container the number of the process is the same each time. No process has the highest number.
        let own = std::process::id().to_string();
        let theirs = ["1", "tmp", "4294967295x"];
        for process in [&own, "4294967295"].into_iter().chain(theirs) {
            fs::write(left(process), "secret").unwrap();
        }
        replaced(&path);
        assert!(!left(&own).exists() && !left("4294967295").exists());
        assert!(theirs.iter().all(|process| left(process).exists()), "others' files are theirs");
    }

    #[test]
    fn attributes_are_kept() {
        let Some((_folder, path)) = file_with("user.owner", b"network team") else { return };
        assert_eq!(attributes(&replaced(&path)).unwrap()["user.owner"], b"network team");
    }

    #[test]
    fn default_list_of_the_folder_gives_no_rights_to_the_file() {
        let Some((folder, path)) = file_with("user.none", b"") else { return };
        let default = "system.posix_acl_default";
        if fsetxattr(File::open(folder.path()).unwrap(), default, &list(), XattrFlags::empty()).is_err() {
            println!("NOT RUN: no default access lists here");
            return;
        }
        let file = replaced(&path);
        assert!(!attributes(&file).unwrap().contains_key(ACCESS_LIST));
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
    }

    /// Runs itself again without CAP_FOWNER, as the shipped unit does.
    #[test]
    fn file_of_another_user_is_replaced_without_cap_fowner() {
        const INNER: &str = "TCPAUTH_TEST_WITHOUT_FOWNER";
        if !nix::unistd::geteuid().is_root() {
            return println!("NOT RUN: only root can give a file away");
        }
        if std::env::var_os(INNER).is_none() {
            let name = format!("{}::file_of_another_user_is_replaced_without_cap_fowner", module_path!());
            let name = name.split_once("::").unwrap().1;
            let status = std::process::Command::new("setpriv")
                .args(["--bounding-set=-fowner", "--inh-caps=-fowner", "--"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(INNER, "1")
                .status();
            return assert!(status.expect("util-linux is installed").success(), "without CAP_FOWNER");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tcpauth.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let metadata = replaced(&path).metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (12_345, 0o640));
    }
}
