//! Where an instance's maps, programs and links are pinned.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{KernelError, error::is_privilege};
use crate::instance::Instance;

const BPFFS: &str = "/sys/fs/bpf";
/// The same folder as the first process sees it.
const HOST_BPFFS: &str = "/proc/1/root/sys/fs/bpf";

/// The pin folders of an instance.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    dir: PathBuf,
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
        let pins = Self { dir: root.join(below_bpffs(instance)) };
        for folder in [pins.maps(), pins.programs(), pins.links()] {
            fs::create_dir_all(&folder).map_err(|source| failed("make", &folder, source))?;
        }
        Ok(pins)
    }

    /// The folder, if the instance has one.
    pub(super) fn find(instance: &Instance) -> Option<Self> {
        let dir = existing_bpffs()?.join(below_bpffs(instance));
        dir.is_dir().then_some(Self { dir })
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

/// bpffs where this process sees it, else where the first process does: `ip netns exec` gives its
/// command a /sys of its own, and pins made there would end with the command.
fn existing_bpffs() -> Option<PathBuf> {
    [BPFFS, HOST_BPFFS].into_iter().map(PathBuf::from).find(|path| is_bpffs(path))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs() -> Result<PathBuf, KernelError> {
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    if own.is_none() || own != fs::read_link("/proc/1/ns/mnt").ok() {
        return Err(match nix::unistd::geteuid().is_root() {
            true => KernelError::NoBpffs,
            false => KernelError::NotRoot { action: "find bpffs".to_owned() },
        });
    }
    match mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")) {
        Ok(()) => Ok(PathBuf::from(BPFFS)),
        Err(nix::errno::Errno::EPERM | nix::errno::Errno::EACCES) => {
            Err(KernelError::NotRoot { action: format!("mount bpffs at {BPFFS}") })
        }
        Err(error) => Err(KernelError::MountBpffs { source: error.into() }),
    }
}

/// The instance's folder, relative to bpffs.
fn below_bpffs(instance: &Instance) -> PathBuf {
    let dir = instance.pin_dir();
    dir.strip_prefix(BPFFS).map(Path::to_owned).unwrap_or(dir)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> KernelError {
    if is_privilege(&source) {
        KernelError::NotRoot { action: format!("{action} {}", path.display()) }
    } else {
        KernelError::Pin { action, path: path.to_owned(), source }
    }
}
