//! How programs are attached to an interface, so that none is ever without them during a restart.

use std::{io, path::Path};

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, Link as _, LinkError, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
    util::KernelVersion,
};

use super::{KernelError, maps::chain, pins};

/// Preference of our clsact filters: before all others, because none runs after the first with a verdict.
const FIRST: u16 = 1;
/// Their preference where filters that are no eBPF programs have the first one, and that of earlier versions.
const LATER: u16 = 29;
/// Preferences at which our clsact filters may be.
pub(super) const PREFERENCES: [u16; 2] = [FIRST, LATER];
/// Upper and lower half of their handle: by it and the preference the next daemon finds and replaces them.
pub(super) const HANDLE_MAJOR: u16 = 0x7463;
pub(super) const HANDLE_MINOR: u16 = 0x7061;
const HANDLE: TcHandle = TcHandle::new(HANDLE_MAJOR, HANDLE_MINOR);

/// Environment variable with which a test chooses the hook of kernels without TCX, by the value `clsact`.
const VARIABLE: &str = "TCPAUTH_HOOK";

/// The kernel's way of running a program on an interface's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TCX links, Linux 6.6 and later; pinned, and updated in place.
    Tcx,
    /// Filters at the clsact qdisc; replaced in place.
    Clsact,
}

impl Hook {
    /// The best that the running kernel has, unless a test asks for the other one.
    pub fn of_this_kernel() -> Self {
        let tcx = KernelVersion::new(6, 6, 0);
        let has_tcx = KernelVersion::current().is_ok_and(|version| version >= tcx);
        let is_wanted = std::env::var_os(VARIABLE).is_none_or(|hook| hook != "clsact");
        if has_tcx && is_wanted { Self::Tcx } else { Self::Clsact }
    }

    /// Attaches a loaded program first in line, or puts it in the place of its predecessor.
    pub(super) fn attach(
        self,
        program: &mut SchedClassifier,
        ifindex: u32,
        at: TcAttachType,
        pin: &Path,
    ) -> Result<(), KernelError> {
        let interface = interface_name(ifindex)?;
        let attached = match self {
            Self::Tcx => attach_tcx(program, &interface, at, pin)?,
            Self::Clsact => attach_clsact(program, &interface, at),
        };
        attached.map_err(|error| match errno(&error) {
            Some(libc::EPERM) => KernelError::NotRoot { action: format!("attach to {interface}") },
            _ => KernelError::Attach { interface, reason: chain(&error) },
        })
    }
}

/// Removes our clsact filters; whether there was one.
pub(super) fn detach_clsact(interface: &str, at: TcAttachType) -> bool {
    PREFERENCES.map(|preference| detach_filter(interface, at, preference)).contains(&true)
}

fn detach_filter(interface: &str, at: TcAttachType, preference: u16) -> bool {
    SchedClassifierLink::attached(interface, at, preference, HANDLE, None)
        .is_ok_and(|link| link.detach().is_ok())
}

/// Name of the interface with an index, now.
pub(super) fn interface_name(ifindex: u32) -> Result<String, KernelError> {
    let gone = |reason| KernelError::Attach { interface: format!("with index {ifindex}"), reason };
    let name = nix::net::if_::if_indextoname(ifindex).map_err(|error| gone(error.to_string()))?;
    // nix takes the null pointer that says "no such interface" for success.
    if name.is_empty() {
        return Err(gone("it is gone".to_owned()));
    }
    Ok(name.to_string_lossy().into_owned())
}

/// The outer error is of the pins, the inner one of the attachment.
fn attach_tcx(
    program: &mut SchedClassifier,
    interface: &str,
    at: TcAttachType,
    pin: &Path,
) -> Result<Result<(), ProgramError>, KernelError> {
    match update_tcx(program, pin) {
        Ok(true) => return Ok(Ok(())),
        Ok(false) => {}
        // The interface that the link was for is gone, and the index or the lane was made anew.
        Err(error) if errno(&error) == Some(libc::ENOLINK) => {
            pins::unpin(pin)?;
        }
        Err(error) => return Ok(Err(error)),
    }
    match create_tcx(program, interface, at) {
        Err(error) => Ok(Err(error)),
        Ok(link) => link.pin(pin).map(|_| Ok(())).map_err(|error| KernelError::Pin {
            action: "pin a link at",
            path: pin.to_owned(),
            source: io::Error::other(chain(&error)),
        }),
    }
}

fn create_tcx(
    program: &mut SchedClassifier,
    interface: &str,
    at: TcAttachType,
) -> Result<FdLink, ProgramError> {
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, at, first)?;
    FdLink::try_from(program.take_link(id)?).map_err(link_error)
}

/// Updates the pinned link in place; `false` if none is pinned.
fn update_tcx(program: &mut SchedClassifier, pin: &Path) -> Result<bool, ProgramError> {
    let pinned = match PinnedLink::from_pin(pin) {
        Ok(pinned) => pinned,
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => return Err(link_error(error)),
    };
    let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(link_error)?;
    let id = program.attach_to_link(link)?;
    // Closes our descriptor; the pin keeps the link.
    drop(program.take_link(id)?);
    Ok(true)
}

fn attach_clsact(
    program: &mut SchedClassifier,
    interface: &str,
    at: TcAttachType,
) -> Result<(), ProgramError> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other?,
    }
    match attach_filter(program, interface, at, FIRST) {
        // All filters of a preference are of one kind.
        Err(error) if errno(&error) == Some(libc::EINVAL) => attach_filter(program, interface, at, LATER),
        Err(error) => Err(error),
        Ok(()) => {
            detach_filter(interface, at, LATER);
            Ok(())
        }
    }
}

fn attach_filter(
    program: &mut SchedClassifier,
    interface: &str,
    at: TcAttachType,
    preference: u16,
) -> Result<(), ProgramError> {
    let options = NlOptions { priority: preference, handle: HANDLE, classid: None };
    let id = match program.attach_with_options(interface, at, TcAttachOptions::Netlink(options)) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            let link = SchedClassifierLink::attached(interface, at, preference, HANDLE, None)
                .map_err(TcError::IoError)?;
            program.attach_to_link(link)?
        }
        other => other?,
    };
    // Dropping it would detach it; it holds no descriptor.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn link_error(error: LinkError) -> ProgramError {
    match error {
        LinkError::SyscallError(error) => error.into(),
        other => TcError::IoError(io::Error::other(other.to_string())).into(),
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    }
}
