//! The TCP connections of channels: each has a task that moves octets, and knows nothing of what they mean.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
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

use super::super::neighbors::covers;
use crate::{config::Peer, kernel::mapped};

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

/// An interface by which connections are made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its name, as the kernel takes no index for it.
    pub name: String,
    /// Its index, which stays when it is renamed.
    pub index: u32,
}

/// Who may connect: the neighbors whose keys are agreed. Connections of others end in the listener's task, so that
/// a stranger who opens thousands takes no place in the queue that the octets of neighbors wait in.
#[derive(Clone, Default)]
pub struct Gate(Arc<RwLock<Admitted>>);

/// Addresses of neighbors.
#[derive(Default)]
pub struct Admitted {
    hosts: HashSet<IpAddr>,
    prefixes: Vec<Peer>,
}

impl FromIterator<Peer> for Admitted {
    fn from_iter<T: IntoIterator<Item = Peer>>(peers: T) -> Self {
        let mut admitted = Self::default();
        for peer in peers {
            if peer.is_host() {
                admitted.hosts.insert(peer.address);
            } else {
                admitted.prefixes.push(peer);
            }
        }
        admitted
    }
}

impl Gate {
    /// These may connect from now on.
    pub fn replace(&self, admitted: Admitted) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = admitted;
    }

    fn admits(&self, address: IpAddr) -> bool {
        let admitted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let key = mapped(address);
        admitted.hosts.contains(&address) || admitted.prefixes.iter().any(|peer| covers(peer, &key))
    }
}

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
        device: Option<Device>,
        events: mpsc::Sender<ChannelEvent>,
    ) -> Self {
        let (outgoing, mut waiting) = mpsc::channel(WRITE_BACKLOG);
        tokio::spawn(async move {
            let connected = tokio::select! {
                connected = connect(local, peer, device.as_ref()) => connected,
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
    /// Listens on `address`, to those whom `gate` admits; an unspecified address is about its own family only. With
    /// `device`: to what arrives there.
    ///
    /// # Errors
    /// If the port is taken, or the address or the device is not ours.
    pub fn bind(
        address: SocketAddr,
        device: Option<&Device>,
        gate: Gate,
        events: mpsc::Sender<ChannelEvent>,
    ) -> io::Result<Self> {
        let socket = socket_for(&address)?;
        socket.set_reuseaddr(true)?;
        if let Some(device) = device {
            socket.bind_device(Some(device.name.as_bytes()))?;
        }
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        socket.bind(address)?;
        let listener = socket.listen(LISTEN_BACKLOG)?;
        Ok(Self(tokio::spawn(accept(listener, gate, events))))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: TcpListener, gate: Gate, events: mpsc::Sender<ChannelEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if !gate.admits(peer.ip()) => {
                tracing::debug!(%peer, "a connection for key management came from no neighbor");
                // By a reset: an orderly end leaves an entry in TIME-WAIT for each.
                let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
                let _ = setsockopt(&stream, sockopt::Linger, &at_once);
            }
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
    device: Option<&Device>,
) -> io::Result<(TcpStream, SocketAddr)> {
    let socket = socket_for(&peer)?;
    if let Some(device) = device {
        socket.bind_device(Some(device.name.as_bytes()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_neighbors_is_admitted() {
        let gate = Gate::default();
        let admits = |address: &str| gate.admits(address.parse().unwrap());
        assert!(!admits("192.0.2.1"));
        let peers = ["192.0.2.1", "198.51.100.0/24", "2001:db8::/32", "fe80::1%eth0"];
        gate.replace(peers.iter().map(|peer| peer.parse::<Peer>().unwrap()).collect());
        for (address, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("198.51.100.9", true),
            ("2001:db8::7", true),
            ("2001:db9::7", false),
            ("fe80::1", true),
        ] {
            assert_eq!(admits(address), expected, "{address}");
        }
    }

    /// However many they are, the queue that neighbors' octets wait in stays empty.
    #[tokio::test]
    async fn connections_of_strangers_end_without_a_word() {
        let (events, mut queue) = mpsc::channel(4);
        let gate = Gate::default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(any).unwrap();
        let listener = socket.listen(LISTEN_BACKLOG).unwrap();
        let at = listener.local_addr().unwrap();
        let _listener = Listener(tokio::spawn(accept(listener, gate.clone(), events)));
        for _ in 0..20 {
            // The reset may come before the client knows that it is connected.
            let Ok(mut stream) = TcpStream::connect(at).await else { continue };
            let mut octets = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut octets);
            assert!(timeout(Duration::from_secs(5), read).await.unwrap().is_err(), "it was not reset");
        }
        assert!(queue.try_recv().is_err());
        // Not parsed: a configuration has no neighbor on the loopback.
        let here = Peer { address: "127.0.0.1".parse().unwrap(), prefix_len: 32, interface: None };
        gate.replace(Admitted::from_iter([here]));
        let _stream = TcpStream::connect(at).await.unwrap();
        let event = timeout(Duration::from_secs(5), queue.recv()).await.unwrap();
        assert!(matches!(event, Some(ChannelEvent::Accepted(_))));
    }
}
