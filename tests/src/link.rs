//! What an interface does for TCP by itself.

use std::{io, mem, os::fd::AsRawFd};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::namespace::Namespace;

/// Commands of `SIOCETHTOOL` that take one value: transmit checksum, TSO, GSO, GRO.
const OFFLOADS: [u32; 4] = [0x17, 0x1f, 0x24, SET_GRO];

/// The same, and scatter-gather first, on which others depend.
const ALL_OFFLOADS: [u32; 5] = [0x19, 0x17, 0x1f, 0x24, SET_GRO];

const SET_GRO: u32 = 0x2c;

const SIOCETHTOOL: libc::Ioctl = 0x8946;

#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// Turns off what merges segments or leaves checksums for later.
///
/// # Errors
/// If the interface is not there.
pub fn disable_offloads(namespace: &Namespace, interface: &str) -> Result<()> {
    set(namespace, interface, &OFFLOADS, 0).map(|_| ())
}

/// Turns on what merges segments or leaves checksums for later.
///
/// # Errors
/// If the interface is not there.
pub fn enable_offloads(namespace: &Namespace, interface: &str) -> Result<()> {
    set(namespace, interface, &ALL_OFFLOADS, 1).map(|_| ())
}

/// Whether anything is on that merges segments or leaves checksums for later.
///
/// # Errors
/// If the interface is not there.
pub fn has_offloads(namespace: &Namespace, interface: &str) -> Result<bool> {
    // The command that asks is the one before.
    let values = set(namespace, interface, &ALL_OFFLOADS.map(|command| command - 1), 0)?;
    Ok(values.iter().any(|value| *value != 0))
}

/// Segments pass one by one, as authenticated ones do; their checksums may still be left for later.
///
/// # Errors
/// If the interface is not there.
pub fn disable_merging(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace.ip(&["link", "set", interface, "gso_max_segs", "1"])?;
    set(namespace, interface, &[SET_GRO], 0).map(|_| ())
}

/// Gives each of `commands` the `value`, and returns what they say.
fn set(namespace: &Namespace, interface: &str, commands: &[u32], value: u32) -> Result<Vec<u32>> {
    namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        let mut said = Vec::with_capacity(commands.len());
        for &command in commands {
            let mut value = EthtoolValue { command, value };
            // SAFETY: an all-zero ifreq is valid.
            let mut request: libc::ifreq = unsafe { mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_data = (&raw mut value).cast();
            // SAFETY: the request and the value it points to outlive the call.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) };
            if result != 0 {
                return Err(io::Error::last_os_error()).context(format!("offloads of {interface}"));
            }
            said.push(value.value);
        }
        Ok(said)
    })
}

/// Index of `interface` in the namespace of the calling thread.
///
/// # Errors
/// If there is none.
pub(crate) fn index(interface: &str) -> Result<u32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the name is a C string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()).context(interface.to_owned()),
        index => Ok(index),
    }
}
