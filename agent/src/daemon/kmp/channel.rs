//! The TCP connections of channels: each has a task that moves octets, and knows nothing of what they mean.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Most octets that are read at once.
const READ: usize = 16 * 1024;
/// Writes that may wait for the peer to read.
const WRITE_BACKLOG: usize = 256;
/// What the peer does not read for so long is not worth waiting for.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted.
const LISTEN_BACKLOG: u32 = 1024;
/// A quiet connection is probed after this, and again after [`PROBE_INTERVAL`], so often.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// A peer that acknowledges nothing for so long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A channel, by the order in which they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u64);

/// What the tasks of channels and listeners tell the main loop.
pub enum ChannelEvent {
    /// Somebody connected to one of our ports.
    Accepted(TcpStream),
    /// The TCP connection that we opened is there, from this address of ours to that of the peer.
    Connected(ChannelId, SocketAddr, SocketAddr),
    /// Octets came.
    Received(ChannelId, Vec<u8>),
    /// The TCP connection is over, or never came to be; why, if it was not the peer's end.
    Closed(ChannelId, Option<io::Error>),
}

/// The TCP connection of a channel. Dropped: what was sent is still written, then it is closed.
pub struct Line {
    outgoing: mpsc::Sender<Vec<u8>>,
}

impl Line {
    /// Opens a connection to `peer`, from the address `local`, by the interface `device`, if they are given.
    pub fn dial(
        id: ChannelId,
        local: Option<IpAddr>,
        peer: SocketAddr,
        device: Option<String>,
        events: mpsc::Sender<ChannelEvent>,
    ) -> Self {
        let (outgoing, mut waiting) = mpsc::channel(WRITE_BACKLOG);
        tokio::spawn(async move {
            let connected = tokio::select! {
                connected = connect(local, peer, device.as_deref()) => connected,
                // Nobody waits for it any more.
                _ = waiting.recv() => return,
            };
            match connected {
                Ok((stream, local)) => {
                    let _ = events.send(ChannelEvent::Connected(id, local, peer)).await;
                    carry(id, stream, waiting, events).await;
                }
                Err(error) => {
                    let _ = events.send(ChannelEvent::Closed(id, Some(error))).await;
                }
            }
        });
        Self { outgoing }
    }

    /// Takes a connection that was accepted.
    pub fn accepted(id: ChannelId, stream: TcpStream, events: mpsc::Sender<ChannelEvent>) -> Self {
        let (outgoing, waiting) = mpsc::channel(WRITE_BACKLOG);
        tokio::spawn(async move {
            match prepare(&stream) {
                Ok(()) => carry(id, stream, waiting, events).await,
                Err(error) => {
                    let _ = events.send(ChannelEvent::Closed(id, Some(error))).await;
                }
            }
        });
        Self { outgoing }
    }

    /// Sends octets; `false` if the peer does not read what was sent before.
    #[must_use]
    pub fn send(&self, octets: Vec<u8>) -> bool {
        octets.is_empty() || self.outgoing.try_send(octets).is_ok()
    }
}

/// A port on which neighbours' daemons connect. Dropped: it is closed.
pub struct Listener(JoinHandle<()>);

impl Listener {
    /// Listens on `address`; an unspecified one is about its own family only.
    ///
    /// # Errors
    /// If the port is taken, or the address is not ours.
    pub fn bind(address: SocketAddr, events: mpsc::Sender<ChannelEvent>) -> io::Result<Self> {
        let socket = socket_for(&address)?;
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        socket.bind(address)?;
        let listener = socket.listen(LISTEN_BACKLOG)?;
        Ok(Self(tokio::spawn(accept(listener, events))))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: TcpListener, events: mpsc::Sender<ChannelEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if events.send(ChannelEvent::Accepted(stream)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("a connection to the port for key management was not accepted: {error}");
                // Too many open files, most likely.
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn connect(
    local: Option<IpAddr>,
    peer: SocketAddr,
    device: Option<&str>,
) -> io::Result<(TcpStream, SocketAddr)> {
    let socket = socket_for(&peer)?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(local) = local {
        let scope = match peer {
            SocketAddr::V6(peer) => peer.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        socket.bind(address(local, 0, scope))?;
    }
    let stream = socket.connect(peer).await?;
    prepare(&stream)?;
    let local = stream.local_addr()?;
    Ok((stream, local))
}

/// A dead peer is noticed, also when nothing is to be sent.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &(PROBE_AFTER.as_secs() as u32))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &(PROBE_INTERVAL.as_secs() as u32))?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &(USER_TIMEOUT.as_millis() as u32))?;
    Ok(())
}

/// Moves octets until either side ends.
async fn carry(
    id: ChannelId,
    mut stream: TcpStream,
    mut waiting: mpsc::Receiver<Vec<u8>>,
    events: mpsc::Sender<ChannelEvent>,
) {
    let error = loop {
        tokio::select! {
            readable = stream.readable() => {
                // Not before there is something: most channels are quiet most of the time.
                let mut octets = Vec::with_capacity(READ);
                match readable.and_then(|()| stream.try_read_buf(&mut octets)) {
                    Ok(0) => break None,
                    Ok(_) => {
                        octets.shrink_to_fit();
                        if events.send(ChannelEvent::Received(id, octets)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => break Some(error),
                }
            }
            octets = waiting.recv() => {
                // Whoever sent it is not interested in this connection any more.
                let Some(octets) = octets else { return };
                match timeout(WRITE_LIMIT, stream.write_all(&octets)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => break Some(error),
                    Err(_) => break Some(io::ErrorKind::TimedOut.into()),
                }
            }
        }
    };
    let _ = events.send(ChannelEvent::Closed(id, error)).await;
}

fn socket_for(address: &SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// `address` and `port` as the kernel wants them; `scope` is the interface's index of a link-local address.
pub fn address(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, port),
        IpAddr::V6(address) => {
            let scope = if address.is_unicast_link_local() { scope } else { 0 };
            std::net::SocketAddrV6::new(address, port, 0, scope).into()
        }
    }
}
