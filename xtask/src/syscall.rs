//! bpf(2), where the kernel is asked for what no library gives.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use anyhow::{Context, Result};

const BPF_OBJ_GET: libc::c_int = 7;

/// Opens what is pinned at `path`.
///
/// # Errors
/// If nothing is.
pub fn open_pinned(path: &Path) -> Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut get = ObjGet { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the attribute has the layout of this command, and the path outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut get) }.with_context(|| path.display().to_string())?;
    // SAFETY: the call has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The system call.
///
/// # Safety
/// `attributes` has the layout that `command` asks for, and what it points to is valid.
pub unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: as promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// `union bpf_attr` as BPF_OBJ_GET has it.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}
