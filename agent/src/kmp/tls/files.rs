//! Files of keys and certificates. A handshake begins in the daemon's only thread, which is not to wait for a disk: what
//! is in a file is read again only if the file was changed.

use std::{
    collections::HashMap,
    fs::{self, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use zeroize::Zeroizing;

/// Largest file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;
/// Files that are kept.
const MOST: usize = 4096;
/// A file that was changed just now may change once more without another time: clocks of file systems are coarse.
const SETTLED: Duration = Duration::from_secs(2);

static KEPT: LazyLock<Mutex<HashMap<PathBuf, Kept>>> = LazyLock::new(Mutex::default);

/// What is in a file. May be secret: no `Debug`.
pub struct Contents {
    /// Its octets.
    pub octets: Zeroizing<Vec<u8>>,
    /// Its permissions.
    pub mode: u32,
}

struct Kept {
    version: Version,
    contents: Arc<Contents>,
}

/// Which file it is, and when it was last changed in whatever way.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether each change to come has another time.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        u64::try_from(self.changed.0).is_ok_and(|changed| changed + SETTLED.as_secs() < now)
    }
}

/// Returns what is in a file, as it is now.
///
/// # Errors
/// The system's; or it is no regular file, or too large for a key or certificates.
pub fn read(path: &Path) -> io::Result<Arc<Contents>> {
    read_at(path, SystemTime::now())
}

/// Wipes what is kept of files that may not be named any more.
pub fn forget() {
    kept().clear();
}

fn kept() -> MutexGuard<'static, HashMap<PathBuf, Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_at(path: &Path, now: SystemTime) -> io::Result<Arc<Contents>> {
    let version = Version::of(&fs::metadata(path)?);
    let mut kept = kept();
    if let Some(kept) = kept.get(path).filter(|kept| kept.version == version) {
        return Ok(Arc::clone(&kept.contents));
    }
    kept.remove(path);
    let (version, contents) = read_anew(path)?;
    let contents = Arc::new(contents);
    if version.is_settled(now) {
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(path.to_owned(), Kept { version, contents: Arc::clone(&contents) });
    }
    Ok(contents)
}

fn read_anew(path: &Path) -> io::Result<(Version, Contents)> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    // Not to wait for the other end of a named pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return wrong("it is not a regular file");
    }
    if metadata.len() > MAX_FILE {
        return wrong("it is larger than 1 MiB");
    }
    // Room for all of it and one more, so that the vector does not move and leave a copy behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(metadata.len()).read_to_end(&mut octets)?;
    Ok((Version::of(&metadata), Contents { octets, mode: metadata.mode() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> SystemTime {
        SystemTime::now() + 2 * SETTLED
    }

    fn is_kept(path: &Path, now: SystemTime) -> bool {
        let contents = || read_at(path, now).unwrap();
        Arc::ptr_eq(&contents(), &contents())
    }

    #[test]
    fn file_is_read_again_when_it_was_changed_in_whatever_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pem");
        fs::write(&path, "one").unwrap();
        assert!(!is_kept(&path, SystemTime::now()), "it may change in this very moment");
        assert!(is_kept(&path, later()));
        assert_eq!(read_at(&path, later()).unwrap().octets.as_slice(), b"one");

        // In its place, as long as before.
        fs::write(&path, "two").unwrap();
        assert_eq!(read_at(&path, later()).unwrap().octets.as_slice(), b"two");
        assert!(is_kept(&path, later()));
        // Another file under its name.
        let other = folder.path().join("b.pem");
        fs::write(&other, "six").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(read_at(&path, later()).unwrap().octets.as_slice(), b"six");
        // Its permissions alone.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
        assert_eq!(read_at(&path, later()).unwrap().mode & 0o777, 0o604);
        fs::remove_file(&path).unwrap();
        assert!(read_at(&path, later()).is_err());
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read(&pipe).err().unwrap().to_string(), "it is not a regular file");
        assert!(read(folder.path()).is_err());
        let large = folder.path().join("large");
        fs::File::create(&large).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert_eq!(read(&large).err().unwrap().to_string(), "it is larger than 1 MiB");
    }
}
