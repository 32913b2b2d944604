//! Where an instance's maps, programs and links are pinned.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{KernelError, error::is_privilege};
use crate::instance::Instance;

const BPFFS: &str = "/sys/fs/bpf";

/// The pin folders of an instance.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    /// Keeps `dir` good where it leads through a descriptor.
    _root: Root,
}

/// A mounted bpffs.
#[derive(Clone, Debug)]
enum Root {
    /// Where it belongs.
    Here,
    /// Where an ancestor sees it; held open, as the ancestor may end.
    Ancestors(Arc<File>),
}

impl Root {
    fn path(&self) -> PathBuf {
        match self {
            Self::Here => PathBuf::from(BPFFS),
            Self::Ancestors(folder) => PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())),
        }
    }
}

impl Pins {
    /// The folders, made if missing; bpffs mounted if missing.
    ///
    /// # Errors
    /// [`KernelError::NoBpffs`], [`KernelError::MountBpffs`], [`KernelError::Pin`].
    pub(super) fn make(instance: &Instance) -> Result<Self, KernelError> {
        let root = match existing_bpffs() {
            Some(root) => root,
            None => mount_bpffs()?,
        };
        let pins = Self::below(root, instance);
        for folder in [pins.maps(), pins.programs(), pins.links()] {
            // Pins are for root alone by themselves; so is the sight of them, however bpffs is mounted.
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(&folder).map_err(|source| failed("make", &folder, source))?;
        }
        Ok(pins)
    }

    /// The folders, if the instance has them.
    ///
    /// # Errors
    /// [`KernelError::NotRoot`] if that cannot be seen.
    pub(super) fn find(instance: &Instance) -> Result<Option<Self>, KernelError> {
        let Some(root) = existing_bpffs() else { return Ok(None) };
        let pins = Self::below(root, instance);
        match fs::metadata(&pins.dir) {
            Ok(metadata) => Ok(metadata.is_dir().then_some(pins)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look into", &pins.dir, error)),
        }
    }

    fn below(root: Root, instance: &Instance) -> Self {
        let dir = instance.pin_dir();
        let dir = root.path().join(dir.strip_prefix(BPFFS).unwrap_or(&dir));
        Self { dir, _root: root }
    }

    /// Folder of the maps.
    pub(super) fn maps(&self) -> PathBuf {
        self.dir.join("maps")
    }

    /// Folder of the programs.
    pub(super) fn programs(&self) -> PathBuf {
        self.dir.join("progs")
    }

    /// Folder of the links.
    pub(super) fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// Pin of a map.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Pin of a link: `7-ingress`, `lane1`.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Interfaces that have link pins.
    pub(super) fn linked(&self) -> Result<Vec<u32>, KernelError> {
        let mut indices: Vec<u32> = names(&self.links())?
            .iter()
            .filter_map(|name| name.split_once('-').and_then(|(index, _)| index.parse().ok()))
            .collect();
        indices.sort_unstable();
        indices.dedup();
        Ok(indices)
    }

    /// Removes all maps' pins.
    pub(super) fn remove_maps(&self) -> Result<usize, KernelError> {
        empty(&self.maps())
    }

    /// Removes all pins and the folders; how many pins there were.
    pub(super) fn remove_all(&self) -> Result<usize, KernelError> {
        let mut removed = 0;
        // Links first: while maps are pinned, an interrupted removal is found again.
        for folder in [self.links(), self.programs(), self.maps()] {
            removed += empty(&folder)?;
            match fs::remove_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &folder, error));
                }
                _ => {}
            }
        }
        fs::remove_dir(&self.dir).map_err(|source| failed("remove", &self.dir, source))?;
        // The folder of all instances stays while others have theirs in it.
        if let Some(all) = self.dir.parent() {
            let _ = fs::remove_dir(all);
        }
        Ok(removed)
    }
}

/// Removes a pin; whether it was there.
pub(super) fn unpin(path: &Path) -> Result<bool, KernelError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path, error)),
    }
}

/// Puts a new pin in the place of an old one at once.
pub(super) fn replace(new: &Path, old: &Path) -> Result<(), KernelError> {
    fs::rename(new, old).map_err(|source| failed("replace", old, source))
}

fn empty(folder: &Path) -> Result<usize, KernelError> {
    let names = names(folder)?;
    for name in &names {
        unpin(&folder.join(name))?;
    }
    Ok(names.len())
}

fn names(folder: &Path) -> Result<Vec<String>, KernelError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder, error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()
        .map_err(|source| failed("list", folder, source))
}

/// bpffs where this process sees it, else where an ancestor does: `ip netns exec` gives its command
/// a /sys of its own, and pins in a bpffs mounted there would end with the command.
fn existing_bpffs() -> Option<Root> {
    if is_bpffs(Path::new(BPFFS)) {
        return Some(Root::Here);
    }
    ancestors()
        .map(|pid| PathBuf::from(format!("/proc/{pid}/root{BPFFS}")))
        .filter(|path| is_bpffs(path))
        .find_map(|path| File::open(path).ok())
        .map(|folder| Root::Ancestors(Arc::new(folder)))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts bpffs, unless only this process and its children would see it.
fn mount_bpffs() -> Result<Root, KernelError> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").ok();
    let is_private = ancestors()
        .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok())
        .any(|other| Some(other) != own);
    if is_private {
        return Err(KernelError::NoBpffs);
    }
    mount_once(Path::new(BPFFS))?;
    Ok(Root::Here)
}

/// Mounts bpffs unless another instance just did: a second one above it would hide what that has pinned.
fn mount_once(at: &Path) -> Result<(), KernelError> {
    let refused = |source: io::Error| match is_privilege(&source) {
        true => KernelError::NotRoot { action: format!("mount bpffs at {}", at.display()) },
        false => KernelError::MountBpffs { source },
    };
    // The folder below the mount: whoever opens it later finds bpffs.
    let folder = File::open(at).map_err(refused)?;
    folder.lock().map_err(refused)?;
    if is_bpffs(at) {
        return Ok(());
    }
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|error| refused(error.into()))
}

/// The processes that started this one, nearest first, up to the first process.
fn ancestors() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(std::process::id()), |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, can contain anything; state and parent follow.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (parent != 0).then_some(parent)
    })
    .skip(1)
}

/// A failure at a pin.
pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> KernelError {
    if is_privilege(&source) {
        KernelError::NotRoot { action: format!("{action} {}", path.display()) }
    } else {
        KernelError::Pin { action, path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    const INSTANCES: usize = 16;

    /// Needs root, to mount.
    #[test]
    fn instances_that_start_at_once_mount_bpffs_once() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        // Threads begin in the mount namespace of the one that starts them; what is mounted goes with it.
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            let together = Barrier::new(INSTANCES);
            std::thread::scope(|scope| {
                for _ in 0..INSTANCES {
                    scope.spawn(|| {
                        together.wait();
                        mount_once(at).unwrap();
                    });
                }
            });
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            mounts.lines().filter(|line| line.contains(&at.display().to_string())).count()
        };
        let mounted = std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
        assert_eq!(mounted, 1);
    }
}
