//! Frames on an interface: sniffed, captured to a file, sent as they are.

use std::{
    io::{self, Read},
    mem,
    net::SocketAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    frame::{Segment, flags},
    link,
    namespace::Namespace,
    network::Router,
    process::Process,
    wait::eventually,
};

/// Largest frame: a super-packet of 64 KiB with its headers.
const MAX_FRAME: usize = 66_000;

/// Collects the TCP segments that pass an interface.
pub struct Sniffer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    tap: Mutex<Tap>,
    stop: AtomicBool,
}

/// The socket, and what was read from it.
struct Tap {
    socket: Socket,
    buffer: Vec<u8>,
    segments: Vec<Segment>,
    largest_frame: usize,
}

impl Sniffer {
    /// Starts on `interface` of `namespace`.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let socket = namespace.enter(|| packet_socket(interface))?;
        socket.set_nonblocking(true)?;
        let tap = Tap { socket, buffer: vec![0; MAX_FRAME], segments: Vec::new(), largest_frame: 0 };
        let shared = Arc::new(Shared { tap: Mutex::new(tap), stop: AtomicBool::new(false) });
        let source = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !source.stop.load(Ordering::Relaxed) {
                lock(&source.tap).empty();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// All segments so far, to the last that passed before the call.
    pub fn segments(&self) -> Vec<Segment> {
        self.emptied().segments.clone()
    }

    /// Octets of the largest frame so far.
    pub fn largest_frame(&self) -> usize {
        self.emptied().largest_frame
    }

    /// Waits for a segment that comes from now on.
    ///
    /// # Errors
    /// When none came in time.
    pub fn next(&self, limit: Duration, what: &str, accept: impl Fn(&Segment) -> bool) -> Result<Segment> {
        let seen = self.emptied().segments.len();
        eventually(limit, what, || {
            Ok(self.emptied().segments[seen..].iter().find(|segment| accept(segment)).cloned())
        })
    }

    /// The last segment of an established connection that `from` sent to `to`'s address; what comes next has
    /// its [`Segment::next_seq`].
    ///
    /// # Errors
    /// When none comes within 20 seconds.
    pub fn next_from(&self, from: &Router, to: &Router) -> Result<Segment> {
        self.next(Duration::from_secs(20), "a segment of the session on the wire", |segment| {
            segment.source.ip() == from.v4
                && segment.destination.ip() == to.v4
                && segment.flags & (flags::SYN | flags::RST | flags::ACK) == flags::ACK
        })
    }

    /// The tap once nothing is left in its socket, because the thread may not have run for a while.
    fn emptied(&self) -> MutexGuard<'_, Tap> {
        let mut tap = lock(&self.shared.tap);
        tap.empty();
        tap
    }
}

impl Tap {
    /// Reads all that the socket holds.
    fn empty(&mut self) {
        loop {
            let length = match self.socket.read(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if would_block(&error) => return,
                // Told once when the interface goes down; it may come up again.
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => continue,
                Err(error) => panic!("a sniffer's socket: {error}"),
            };
            self.largest_frame = self.largest_frame.max(length);
            self.segments.extend(Segment::parse(&self.buffer[..length]));
        }
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends `segment` from `attacker` to `target` on the wire they share, `target`'s MAC address on it.
///
/// # Errors
/// If the socket refuses it.
pub fn inject(attacker: &Router, target: &Router, segment: &Segment) -> Result<()> {
    inject_frames(attacker, &[segment.frame(attacker.mac, target.mac)])
}

/// Sends frames from `attacker`'s interface as they are, one right after the other.
///
/// # Errors
/// If the socket refuses one.
pub fn inject_frames(attacker: &Router, frames: &[Vec<u8>]) -> Result<()> {
    inject_by(&attacker.namespace, crate::network::INTERFACE, frames)
}

/// Sends frames out of any interface as they are, one right after the other.
///
/// # Errors
/// If the socket refuses one.
pub fn inject_by(namespace: &Namespace, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    inject_through(namespace, interface, frames, packet_socket)
}

/// As [`inject_by`], past the interface's queue: a netem there loses none of them.
///
/// # Errors
/// If the socket refuses one.
pub fn inject_past_queue(namespace: &Namespace, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    inject_through(namespace, interface, frames, |interface| {
        let socket = send_only_socket(interface)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_i32)?;
        Ok(socket)
    })
}

/// Sends IPv4 packets out of an interface without Ethernet headers, as they are.
///
/// # Errors
/// If the socket refuses one.
pub fn inject_packets(namespace: &Namespace, interface: &str, packets: &[Vec<u8>]) -> Result<()> {
    inject_through(namespace, interface, packets, |interface| {
        Ok(bound_packet_socket(interface, libc::ETH_P_IP as u16)?.0)
    })
}

fn inject_through(
    namespace: &Namespace,
    interface: &str,
    frames: &[Vec<u8>],
    socket: impl FnOnce(&str) -> Result<Socket> + Send,
) -> Result<()> {
    namespace.enter(|| {
        let socket = socket(interface)?;
        for frame in frames {
            socket.send(frame)?;
        }
        Ok(())
    })
}

/// What the sender of `last` could send next, without options.
pub fn forge(last: &Segment, flags: u8, data: &[u8]) -> Segment {
    Segment { seq: last.next_seq(), flags, options: Vec::new(), data: data.to_vec(), ..last.clone() }
}

/// `tcpdump` writing what passes an interface to a file.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts; TCP of `port` goes to `file`.
    ///
    /// # Errors
    /// If tcpdump does not listen within ten seconds.
    pub fn start(namespace: &Namespace, interface: &str, port: u16, file: &Path) -> Result<Self> {
        Self::matching(namespace, interface, &format!("tcp port {port}"), file)
    }

    /// Starts; what matches `filter`, an expression of tcpdump, goes to `file`.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn matching(namespace: &Namespace, interface: &str, filter: &str, file: &Path) -> Result<Self> {
        let mut command = namespace.command("tcpdump");
        command.args(["-i", interface, "-s", "0", "-B", "65536", "-Z", "root", "-w"]).arg(file);
        command.arg(filter);
        let mut process = Process::start(command, &file.with_extension("tcpdump.log"))?;
        eventually(Duration::from_secs(10), "tcpdump to listen", || {
            process.check_running()?;
            Ok(process.log().contains("listening on").then_some(()))
        })?;
        Ok(Self { process, file: file.to_owned() })
    }

    /// Ends tcpdump and gives the file.
    ///
    /// # Errors
    /// If tcpdump had ended before, or lost packets.
    pub fn finish(mut self) -> Result<PathBuf> {
        // What passed just now is still in the kernel's buffer, which it hands over once a second.
        std::thread::sleep(Duration::from_millis(1300));
        self.process.end(libc::SIGINT)?;
        let log = self.process.log();
        if !log.contains("\n0 packets dropped by kernel") {
            bail!("tcpdump lost packets: {log}");
        }
        Ok(self.file.clone())
    }
}

/// A socket for whole frames of `interface`, in the namespace of the calling thread; frames that this host
/// sends are seen too.
pub(crate) fn packet_socket(interface: &str) -> Result<Socket> {
    let (socket, index) = bound_packet_socket(interface, libc::ETH_P_ALL as u16)?;
    // More than `net.core.rmem_max` allows, because a test that sees not all proves nothing.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(16_i32 << 20))?;
    let membership = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
    Ok(socket)
}

/// A socket that sends whole frames on `interface` and receives none, in the namespace of the calling thread.
pub(crate) fn send_only_socket(interface: &str) -> Result<Socket> {
    Ok(bound_packet_socket(interface, 0)?.0)
}

/// A socket for frames of `ether_type`, and the index of `interface`.
fn bound_packet_socket(interface: &str, ether_type: u16) -> Result<(Socket, u32)> {
    let protocol = Protocol::from(i32::from(ether_type.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    let index = link::index(interface)?;
    // SAFETY: sockaddr_storage is large enough for sockaddr_ll, whose fields are all set or zero.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = ether_type.to_be();
            (*address).sll_ifindex = index as i32;
            *length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.bind(&address)?;
    Ok((socket, index))
}

/// `setsockopt` with a plain C structure.
pub(crate) fn set_option<T: Copy>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is a plain C structure of that length, read only during the call.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a read timed out.
pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Whether a segment belongs to the connection between `a` and `b`, either way.
pub fn belongs_to(segment: &Segment, a: SocketAddr, b: SocketAddr) -> bool {
    (segment.source, segment.destination) == (a, b) || (segment.source, segment.destination) == (b, a)
}

/// Locks a mutex, also after a thread that held it has panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
