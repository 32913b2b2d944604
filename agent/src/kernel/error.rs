//! What can go wrong between the daemon and the kernel.

use std::{io, path::PathBuf};

/// The kernels that the project's tests run on.
const TESTED_KERNELS: &str = "6.1, 6.12, 6.18 and 7.x";

/// A failure at the kernel's door: who is at fault and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The caller lacks privileges.
    #[error("not allowed to {action}: run as root (CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW)")]
    NotRoot {
        /// What was tried.
        action: String,
    },
    /// bpffs is not mounted where pins outlive the daemon.
    #[error(
        "no bpffs at /sys/fs/bpf, and this mount namespace is a private one, in which pins would end with the \
         daemon: run `mount -t bpf bpf /sys/fs/bpf` on the host first"
    )]
    NoBpffs,
    /// Mounting bpffs failed.
    #[error("cannot mount bpffs at /sys/fs/bpf ({source}): the kernel needs CONFIG_BPF_SYSCALL")]
    MountBpffs {
        /// The system's reason.
        source: io::Error,
    },
    /// A pin could not be made, listed or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    Pin {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Pinned maps have another layout.
    #[error(
        "instance {instance} was set up by another version of tcpauthd (map layout {found}, this one has \
         {expected}): stop the BGP sessions, run `tcpauth purge --instance {instance}` and start again"
    )]
    Layout {
        /// Name of the instance.
        instance: String,
        /// Version found.
        found: u32,
        /// Version of this daemon.
        expected: u32,
    },
    /// The instance's pins belong to another network namespace.
    #[error(
        "instance {instance} belongs to another network namespace (inode {found}, this one is {here}): choose \
         another --instance, or run `tcpauth purge --instance {instance}` if that namespace is gone"
    )]
    OtherNamespace {
        /// Name of the instance.
        instance: String,
        /// Inode number found in the maps.
        found: u32,
        /// Inode number of the caller's namespace.
        here: u32,
    },
    /// Another instance works in this network namespace.
    #[error(
        "this network namespace already has the {owner:?}: one instance per namespace; \
         run `tcpauth purge` with that instance's name first"
    )]
    OtherInstance {
        /// Alias of the lane interface found.
        owner: String,
    },
    /// An interface with the lane's name is not ours.
    #[error("interface {name} exists and is not a veth: rename or delete it, tcpauth needs the name")]
    LaneName {
        /// Name of the interface.
        name: &'static str,
    },
    /// Setting up the lane failed.
    #[error("cannot {action} of {name}: {source}")]
    Lane {
        /// What was tried.
        action: &'static str,
        /// Name of the interface.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The eBPF object did not load: the kernel's verifier refused it or lacks a feature.
    #[error(
        "Linux {release} does not take {what} of tcpauth, which is tested on Linux {TESTED_KERNELS}: {reason}"
    )]
    Load {
        /// The running kernel, as `uname -r` has it.
        release: String,
        /// The program that is refused, or the object they are in.
        what: String,
        /// The loader's reason, with the end of the verifier's log.
        reason: String,
    },
    /// The kernel has no BTF.
    #[error(
        "a session that is up cannot be taken over: {path} cannot be read ({source}): a kernel with \
         CONFIG_DEBUG_INFO_BTF is needed for that, as distributions build them; or protect the neighbour with \
         `unauthenticated = \"drop\"` and let its session restart"
    )]
    NoBtf {
        /// The file.
        path: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel's BTF does not describe TCP sockets as they are known.
    #[error(
        "a session that is up cannot be taken over: {path} does not know {what}: this version of tcpauthd does not \
         know this kernel's sockets"
    )]
    ForeignBtf {
        /// The file.
        path: &'static str,
        /// What it lacks: a member of a struct.
        what: &'static str,
    },
    /// The eBPF object lacks something this daemon needs: a broken build.
    #[error("this build of tcpauthd is broken: its eBPF object has no {kind} {name}")]
    Object {
        /// `program` or `map`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A program could not be attached.
    #[error("cannot attach to interface {interface}: {reason}")]
    Attach {
        /// Name of the interface.
        interface: String,
        /// The kernel's reason.
        reason: String,
    },
    /// More interfaces than slots.
    #[error("interface {interface} is not protected: more than {max} interfaces")]
    TooManyInterfaces {
        /// Name of the interface.
        interface: String,
        /// Number of slots.
        max: u32,
    },
    /// A map is full.
    #[error("map {map} is full: fewer neighbours or sessions, please")]
    MapFull {
        /// Name of the map.
        map: &'static str,
    },
    /// A map operation failed.
    #[error("map {map}: {reason}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// The kernel's reason.
        reason: String,
    },
    /// A ring was taken twice.
    #[error("ring {0} was taken already")]
    RingTaken(&'static str),
    /// A record in a ring is shorter than its head says: a daemon of another version feeds it.
    #[error("ring {ring}: a record of {len} octets makes no sense")]
    Record {
        /// Name of the ring.
        ring: &'static str,
        /// Length of the record, octets.
        len: usize,
    },
    /// Netlink failed.
    #[error("netlink: cannot {action}: {source}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A held segment could not be released.
    #[error("cannot release a held segment: {source}")]
    Release {
        /// The system's reason.
        source: io::Error,
    },
    /// Another system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl KernelError {
    /// The running kernel refuses `what`; the reason has the end of the verifier's log.
    pub(super) fn refused(what: impl Into<String>, reason: String) -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::Load { release: release.trim().to_owned(), what: what.into(), reason }
    }
}

/// Whether an error number says that privileges are missing.
pub(super) fn is_privilege(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_kernel_the_program_and_the_kernels_that_are_tested() {
        let text =
            KernelError::refused("the program `seal`", "R4 min value is negative".to_owned()).to_string();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(
            text.starts_with(&format!("Linux {} does not take the program `seal`", release.trim())),
            "{text}"
        );
        assert!(text.contains("tested on Linux 6.1, 6.12, 6.18 and 7.x: R4 min value"), "{text}");
    }
}
