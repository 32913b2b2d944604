//! Offload features of an interface, by the ethtool ioctl.

use std::{io, os::fd::AsRawFd, os::fd::OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A feature that an end of the lane must not have: the kernel does the work on the way in, and each segment passes by
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offload {
    /// Filling in checksums.
    TxChecksum,
    /// Frames in pieces.
    ScatterGather,
    /// Cutting TCP into segments, by the interface.
    TcpSegmentation,
    /// Cutting into segments late, by the kernel.
    GenericSegmentation,
    /// Merging segments that arrive.
    GenericReceive,
}

impl Offload {
    /// All of them, those that others depend on last.
    pub(super) const ALL: [Self; 5] = [
        Self::GenericReceive,
        Self::TcpSegmentation,
        Self::GenericSegmentation,
        Self::TxChecksum,
        Self::ScatterGather,
    ];

    /// Name of the feature, as `ethtool -K` has it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::TxChecksum => "tx",
            Self::ScatterGather => "sg",
            Self::TcpSegmentation => "tso",
            Self::GenericSegmentation => "gso",
            Self::GenericReceive => "gro",
        }
    }

    /// ETHTOOL_GTXCSUM, _GSG, _GTSO, _GGSO, _GGRO; the command that sets is the next number.
    const fn query(self) -> u32 {
        match self {
            Self::TxChecksum => 0x16,
            Self::ScatterGather => 0x18,
            Self::TcpSegmentation => 0x1e,
            Self::GenericSegmentation => 0x23,
            Self::GenericReceive => 0x2b,
        }
    }
}

/// Turns a feature off.
pub(super) fn turn_off(interface: &str, offload: Offload) -> io::Result<()> {
    command(interface, offload.query() + 1, 0)?;
    if is_on(interface, offload)? {
        return Err(io::Error::other(format!("{offload:?} stays on")));
    }
    Ok(())
}

/// Whether a feature is on.
pub(super) fn is_on(interface: &str, offload: Offload) -> io::Result<bool> {
    command(interface, offload.query(), 0).map(|data| data != 0)
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

fn command(interface: &str, cmd: u32, data: u32) -> io::Result<u32> {
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = EthtoolValue { cmd, data };
    // SAFETY: all zeros are an ifreq: an empty name and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL takes an ifreq with a name that ends in zero and a pointer to a command;
    // these commands read and write an ethtool_value, and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}
