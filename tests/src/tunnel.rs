//! A tunnel: links that carry bare IP packets, without Ethernet headers.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::namespace::Namespace;

/// The interface at both ends.
pub const INTERFACE: &str = "tun0";

/// How long a thread waits if no packet is there.
const PAUSE: Duration = Duration::from_micros(200);

/// Two ends and what passes packets between them, until it is dropped.
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tunnel {
    /// Makes `tun0` in both namespaces, each with its address of a /30 or the like, up.
    ///
    /// # Errors
    /// If an interface cannot be made.
    pub fn between(ends: [(&Namespace, &str); 2]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut devices = Vec::new();
        for (namespace, address) in ends {
            devices.push(namespace.enter(open)?);
            namespace.ip(&["address", "add", address, "dev", INTERFACE])?;
            namespace.ip(&["link", "set", INTERFACE, "up"])?;
        }
        let mut threads = Vec::new();
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (devices[from].try_clone()?, devices[to].try_clone()?);
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || pass(from, to, &stop)));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn open() -> Result<File> {
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: all zeros is a value of this plain struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(INTERFACE.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open and the request lives through the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ensure!(result == 0, "cannot make {INTERFACE}: {}", std::io::Error::last_os_error());
    Ok(device)
}

fn pass(mut from: File, mut to: File, stop: &AtomicBool) {
    let mut packet = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        match from.read(&mut packet) {
            // A full queue at the other end loses the packet, as a wire would.
            Ok(len) => drop(to.write(&packet[..len])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(_) => return,
        }
    }
}
