//! One daemon per instance: a locked file with the daemon's process id.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{Gid, Group, chown},
};

use super::DaemonError;
use crate::instance::Instance;

/// The lock of an instance, held until dropped or until the process ends, however it ends.
pub struct InstanceLock {
    _file: Flock<File>,
}

impl InstanceLock {
    /// Takes the lock; makes the folder of sockets on the way.
    ///
    /// # Errors
    /// [`DaemonError::Running`] if another daemon has it, [`DaemonError::Lock`].
    pub fn take(instance: &Instance) -> Result<Self, DaemonError> {
        let path = instance.socket().with_extension("pid");
        let folder = path.parent().unwrap_or(Path::new("/"));
        make_folder(folder).map_err(|source| DaemonError::Lock { path: folder.to_owned(), source })?;
        let failed = |source| DaemonError::Lock { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&path)
            .map_err(failed)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // What cannot be read is shown as it is known: not at all.
                let _ = file.read_to_string(&mut pid);
                let holder = match pid.trim() {
                    "" => "its process id is not known".to_owned(),
                    pid => format!("pid {pid}"),
                };
                return Err(DaemonError::Running { instance: instance.name().to_owned(), holder });
            }
            Err((_, error)) => return Err(failed(error.into())),
        };
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Group that may use the control socket, if the host has it.
pub fn control_group() -> Option<Gid> {
    Group::from_name("tcpauth").ok().flatten().map(|group| group.gid)
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(0o750))?;
    if let Some(group) = control_group() {
        chown(folder, None, Some(group))?;
    }
    Ok(())
}
