//! TCP connections of the tests' own, between two namespaces.

use std::{
    io::{Read, Write},
    mem,
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    impair::Random,
    namespace::Namespace,
    native::{self, NativeKey},
    wait::eventually,
    wire::set_option,
};

/// How long a read or write may stand still before it is an error.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Not in libc: of `TCP_REPAIR`, off without a window probe.
const TCP_REPAIR_OFF_NO_WP: i32 = -1;

/// Not in libc (Linux 4.15).
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

/// One end of a connection to be.
#[derive(Clone)]
pub struct End {
    /// Where it is.
    pub namespace: Namespace,
    /// Its address; with port 0, any.
    pub address: SocketAddr,
}

/// What a connection is made with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A password for the kernel's TCP-MD5.
    pub md5: Option<String>,
    /// A key for the kernel's TCP-AO.
    pub ao: Option<NativeKey>,
    /// The client's ISN, if not the kernel's choice.
    pub isn: Option<u32>,
    /// `SO_MARK` of both ends' sockets.
    pub mark: u32,
    /// `SO_PRIORITY` of both ends' sockets.
    pub priority: u32,
    /// The client's SYN carries its first data, without a cookie (RFC 7413): `connect` sends nothing.
    pub fast_open: bool,
    /// How long connecting may take, 20 seconds if not given.
    pub connect_limit: Option<Duration>,
}

/// Opens a listening socket.
///
/// # Errors
/// If the address is in use or not there.
pub fn listen(server: &End, client: IpAddr, options: &Options) -> Result<Socket> {
    server.namespace.enter(|| {
        // A process that another test starts has what was closed here open until it is executed.
        eventually(Duration::from_secs(2), "the port to be free", || {
            let socket = stream_socket(server.address, client, options)?;
            socket.bind(&server.address.into())?;
            socket.listen(128)?;
            Ok(Some(socket))
        })
    })
}

/// A client that has only to connect.
pub struct Prepared {
    socket: Socket,
    limit: Duration,
}

/// Connects to `server`.
///
/// # Errors
/// If it does not answer in time.
pub fn connect(client: &End, server: SocketAddr, options: &Options) -> Result<TcpStream> {
    prepare(client, server.ip(), options)?.connect(server)
}

/// Makes all ready to connect to an address.
///
/// # Errors
/// If the client's address is not there.
pub fn prepare(client: &End, server: IpAddr, options: &Options) -> Result<Prepared> {
    let socket = client.namespace.enter(|| {
        let socket = stream_socket(client.address, server, options)?;
        socket.bind(&client.address.into())?;
        Ok(socket)
    })?;
    if options.fast_open {
        set_option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1_i32)?;
        set_option(&socket, libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, &1_i32)?;
    }
    if let Some(isn) = options.isn {
        set_isn(&socket, isn)?;
    }
    Ok(Prepared { socket, limit: options.connect_limit.unwrap_or(Duration::from_secs(20)) })
}

impl Prepared {
    /// Connects to `server`.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub fn connect(self, server: SocketAddr) -> Result<TcpStream> {
        let Self { socket, limit } = self;
        socket.connect_timeout(&server.into(), limit).with_context(|| format!("connect to {server}"))?;
        configure(socket)
    }
}

/// Accepts one connection.
///
/// # Errors
/// If none comes in time.
pub fn accept(listener: &Socket) -> Result<TcpStream> {
    listener.set_read_timeout(Some(Duration::from_secs(40)))?;
    let (socket, _) = listener.accept().context("accept")?;
    configure(socket)
}

/// The other end of `near`; connections that came before it are closed.
///
/// # Errors
/// If it does not come in time.
pub fn accept_other_end(listener: &Socket, near: &TcpStream) -> Result<TcpStream> {
    loop {
        let far = accept(listener)?;
        if far.peer_addr()? == near.local_addr()? {
            return Ok(far);
        }
    }
}

/// Connects, and gives client's and server's end.
///
/// # Errors
/// If the connection does not come up.
pub fn pair(client: &End, server: &End, options: &Options) -> Result<(TcpStream, TcpStream)> {
    let listener = listen(server, client.address.ip(), options)?;
    let near = connect(client, server.address, options)?;
    let far = accept(&listener)?;
    // Linux gives the sockets of a listening one its mark, but not its priority.
    set_option(&far, libc::SOL_SOCKET, libc::SO_PRIORITY, &options.priority)?;
    Ok((near, far))
}

/// Sends `octets` both ways at once, checks every one of them, closes, and gives the time it took.
///
/// # Errors
/// If one octet differs, is missing or too many, or the transfer stands still for a minute.
pub fn exchange(near: TcpStream, far: TcpStream, octets: u64) -> Result<Duration> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let mut work = Vec::new();
        for (from, to, seed) in [(&near, &far, 1), (&far, &near, 2)] {
            work.push(scope.spawn(move || send(from, octets, seed)));
            work.push(scope.spawn(move || receive(to, octets, seed)));
        }
        work.into_iter().try_for_each(|thread| join(thread.join()))
    })?;
    Ok(start.elapsed())
}

/// Connects, and each end sends `octets` as soon as it has the connection; checks every one of them. Gives the time
/// it took to connect.
///
/// # Errors
/// If the connection does not come up; else as [`exchange`].
pub fn exchange_on_connect(
    client: &End,
    server: SocketAddr,
    listener: &Socket,
    octets: u64,
    options: &Options,
) -> Result<Duration> {
    std::thread::scope(|scope| {
        let accepting = scope.spawn(|| both_ways(&accept(listener)?, octets, (2, 1)));
        let start = Instant::now();
        let near = connect(client, server, options)?;
        let connected = start.elapsed();
        both_ways(&near, octets, (1, 2)).context("at the client")?;
        join(accepting.join()).context("at the server")?;
        Ok(connected)
    })
}

/// Sends `octets` that the first seed gives and checks those that arrive by the second, at once.
fn both_ways(stream: &TcpStream, octets: u64, seeds: (u64, u64)) -> Result<()> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, octets, seeds.0));
        receive(stream, octets, seeds.1)?;
        join(sender.join())
    })
}

/// Makes `runs` connections, `at_a_time` of them, on which both ends send `octets` as soon as they have them.
///
/// # Errors
/// If one fails: all that did.
pub fn exchange_many(client: &End, server: &End, runs: u32, at_a_time: u32, octets: u64) -> Result<()> {
    let options = Options { connect_limit: Some(Duration::from_secs(60)), ..Options::default() };
    let listener = listen(server, client.address.ip(), &options)?;
    let next = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let run = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if run >= runs {
                    return Ok(());
                }
                exchange_on_connect(client, server.address, &listener, octets, &options)
                    .with_context(|| format!("connection {run} of {runs}"))?;
            }
        };
        let threads: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        let errors: Vec<_> = threads
            .into_iter()
            .filter_map(|thread| join(thread.join()).err().map(|error| format!("{error:#}")))
            .collect();
        ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    })
}

/// Sends `octets` from `from` to `to`, checks every one of them, and gives the time it took.
///
/// # Errors
/// As [`exchange`].
pub fn send_one_way(from: &TcpStream, to: &TcpStream, octets: u64) -> Result<Duration> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(from, octets, 3));
        receive(to, octets, 3)?;
        join(sender.join())
    })?;
    Ok(start.elapsed())
}

/// Sends one octet each way: the connection carries data.
///
/// # Errors
/// If it does not arrive within the limit of the streams.
pub fn ping(mut near: &TcpStream, mut far: &TcpStream) -> Result<()> {
    let mut octet = [0];
    near.write_all(b"?")?;
    far.read_exact(&mut octet).context("the first octet did not arrive")?;
    far.write_all(b"!")?;
    near.read_exact(&mut octet).context("the answer did not arrive")?;
    ensure!(octet == *b"!", "another octet arrived");
    Ok(())
}

/// Segments that TCP has taken up for the connection, right ones or not, modulo 2^32.
///
/// # Errors
/// If the kernel does not tell.
pub fn segments_received(stream: &TcpStream) -> Result<u32> {
    /// `tcpi_segs_in`, which libc's structure lacks.
    const AT: usize = 140;
    let mut info = [0_u8; AT + 4];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the pointers are to a value of this size and to its length; the kernel writes no more.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    ensure!(result == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    ensure!(len as usize == info.len(), "this kernel counts no segments");
    Ok(u32::from_ne_bytes([info[AT], info[AT + 1], info[AT + 2], info[AT + 3]]))
}

/// What the stack waits for an acknowledgment before it sends again.
///
/// # Errors
/// If the kernel does not tell.
pub fn retransmission_timeout(stream: &TcpStream) -> Result<Duration> {
    // SAFETY: zeros are a valid value of it.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointers are to a value of this size and to its length; the kernel writes no more.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    ensure!(result == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    Ok(Duration::from_micros(info.tcpi_rto.into()))
}

/// Closes a connection without a segment, as if its host had crashed.
///
/// # Errors
/// If the kernel refuses.
pub fn vanish(stream: TcpStream) -> Result<()> {
    // A socket under repair is only taken down.
    set_option(&stream, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32).context("TCP_REPAIR")
}

/// Gives a socket, connected or not, another password for the kernel's TCP-MD5 with `peer`, at once.
///
/// # Errors
/// If the kernel has no TCP-MD5, or the password is too long.
pub fn set_md5(socket: &impl AsRawFd, peer: IpAddr, password: &str) -> Result<()> {
    /// `struct tcp_md5sig` of linux/tcp.h.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Md5Signature {
        address: libc::sockaddr_storage,
        flags: u8,
        prefix_len: u8,
        key_len: u16,
        ifindex: i32,
        key: [u8; 80],
    }
    let address = SockAddr::from(SocketAddr::new(peer, 0)).as_storage();
    let mut key = [0; 80];
    key.get_mut(..password.len()).context("TCP-MD5 takes 80 octets")?.copy_from_slice(password.as_bytes());
    let key_len = password.len() as u16;
    // SAFETY: the storage of a SockAddr is a sockaddr_storage.
    let address = unsafe { mem::transmute::<socket2::SockAddrStorage, libc::sockaddr_storage>(address) };
    let signature = Md5Signature { address, flags: 0, prefix_len: 0, key_len, ifindex: 0, key };
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &signature).context("TCP-MD5")
}

/// Sends `octets` that `seed` gives, and closes this direction.
///
/// # Errors
/// If writing stands still for a minute, or the connection ends.
pub fn send(mut stream: &TcpStream, octets: u64, seed: u64) -> Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut left = octets as usize;
    while left > 0 {
        let block = pattern.next_block();
        let length = left.min(block.len());
        stream.write_all(&block[..length]).context("write")?;
        left -= length;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// Reads what [`send`] sends with the same arguments, to the end of the direction.
///
/// # Errors
/// As [`exchange`].
pub fn receive(mut stream: &TcpStream, octets: u64, seed: u64) -> Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; Pattern::BLOCK];
    let mut left = octets as usize;
    while left > 0 {
        let length = left.min(buffer.len());
        stream.read_exact(&mut buffer[..length]).with_context(|| format!("read, {left} octets left"))?;
        ensure!(
            buffer[..length] == pattern.next_block()[..length],
            "data differ, {left} octets before the end"
        );
        left -= length;
    }
    ensure!(stream.read(&mut buffer)? == 0, "more than {octets} octets arrived");
    Ok(())
}

/// Octets that both ends can compute.
struct Pattern {
    random: Random,
    block: Vec<u8>,
}

impl Pattern {
    const BLOCK: usize = 64 << 10;

    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let block = (0..Self::BLOCK / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        Self { random, block }
    }

    /// The next 64 KiB: the first ones, with a random value at their start so that no block equals another.
    fn next_block(&mut self) -> &[u8] {
        self.block[..8].copy_from_slice(&self.random.next().to_le_bytes());
        &self.block
    }
}

fn stream_socket(own: SocketAddr, peer: IpAddr, options: &Options) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(own), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if let Some(password) = &options.md5 {
        set_md5(&socket, peer, password)?;
    }
    if let Some(key) = &options.ao {
        native::add_key(&socket, peer, key)?;
    }
    set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, &options.mark)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_PRIORITY, &options.priority)?;
    Ok(socket)
}

fn configure(socket: Socket) -> Result<TcpStream> {
    socket.set_read_timeout(Some(STANDSTILL))?;
    socket.set_write_timeout(Some(STANDSTILL))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// With `TCP_REPAIR` the next sequence number of a socket that is not connected yet can be chosen;
/// `connect` keeps it.
fn set_isn(socket: &Socket, isn: u32) -> Result<()> {
    const SEND_QUEUE: i32 = 2;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, &SEND_QUEUE)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, &isn)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &TCP_REPAIR_OFF_NO_WP)?;
    Ok(())
}

fn join(result: std::thread::Result<Result<()>>) -> Result<()> {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
