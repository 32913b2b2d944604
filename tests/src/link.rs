//! What an interface does for TCP by itself.

use std::{io, mem, os::fd::AsRawFd};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::namespace::Namespace;

/// Commands of `SIOCETHTOOL` that take one value: transmit checksum, TSO, GSO, GRO.
const OFFLOADS: [u32; 4] = [0x17, 0x1f, 0x24, SET_GRO];

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
    turn_off(namespace, interface, &OFFLOADS)
}

/// Segments pass one by one, as authenticated ones do; their checksums may still be left for later.
///
/// # Errors
/// If the interface is not there.
pub fn disable_merging(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace.ip(&["link", "set", interface, "gso_max_segs", "1"])?;
    turn_off(namespace, interface, &[SET_GRO])
}

fn turn_off(namespace: &Namespace, interface: &str, commands: &[u32]) -> Result<()> {
    namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        for &command in commands {
            let mut value = EthtoolValue { command, value: 0 };
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
        }
        Ok(())
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
