//! Takes a pinned link off its interface at once.
//!
//! Unpinning alone lets the kernel do so when it comes to it, and aya has no call for this.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use super::{KernelError, pins::unpin};

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Detaches and unpins; whether there was a pin.
pub(super) fn detach_pinned(pin: &Path) -> Result<bool, KernelError> {
    match open(pin) {
        Ok(link) => {
            let attribute = LinkDetach { link_fd: link.as_raw_fd().cast_unsigned() };
            // A link whose interface is gone is detached already; for any other, unpinning will do, later.
            if let Err(error) = bpf(BPF_LINK_DETACH, &attribute) {
                tracing::debug!(%error, pin = %pin.display(), "link not detached at once");
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(KernelError::Pin { action: "open", path: pin.to_owned(), source }),
    }
    unpin(pin)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attribute = ObjGet { pathname: path.as_ptr().addr() as u64, bpf_fd: 0, file_flags: 0 };
    let descriptor = bpf(BPF_OBJ_GET, &attribute)?;
    // SAFETY: the kernel made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The part of `union bpf_attr` that BPF_OBJ_GET reads.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_DETACH reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

fn bpf<T>(command: libc::c_int, attribute: &T) -> io::Result<libc::c_int> {
    // SAFETY: the attribute is the command's part of the union, given with its size, only read by
    // these commands, and outlives the call, as does the path that it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attribute, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
