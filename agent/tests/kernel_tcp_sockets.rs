//! What the iterator tells of TCP connections, against what `TCP_REPAIR` tells of their sequence numbers. Needs root.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
};
use tcpauth::{
    kernel::{TcpSockets, mapped},
    sessions::adopt,
};
use tcpauth_common::tcp_socket::TcpSocket;

#[test]
fn isns_follow_from_counts_at_both_ends_for_each_family_and_beyond_a_wrap() {
    own_namespace();
    let mut sockets = TcpSockets::open().unwrap();
    for (address, isn) in [("127.0.0.1", 1), ("127.0.0.1", 0xffff_ff00), ("::1", 0xffff_ffff)] {
        let (client, server) = pair(address, isn);
        let server_isn = isn_of(&server);
        assert_eq!(isn_of(&client), isn, "the ISN was not ours to choose");
        let (mut sent, mut received) = (0, 0);
        for (more_sent, more_received) in [(0, 0), (100_000, 0), (0, 70_000), (3 << 20, 1 << 20)] {
            transfer(&client, &server, more_sent);
            transfer(&server, &client, more_received);
            sent += more_sent as u64;
            received += more_received as u64;
            let port = server.local_addr().unwrap().port();
            let listed = sockets.established().unwrap();
            let active = adopt(&find(&listed, &client), port).unwrap();
            let passive = adopt(&find(&listed, &server), port).unwrap();
            let what = format!("{address} ISN {isn:#x}, {sent} sent and {received} received");
            assert_eq!((active.local_isn.0, active.peer_isn.0), (isn, server_isn), "{what}");
            assert_eq!((passive.local_isn.0, passive.peer_isn.0), (server_isn, isn), "{what}");
            assert_eq!(active.send_seq, u64::from(isn) + 1 + sent, "{what}");
            assert_eq!(active.recv_seq, u64::from(server_isn) + 1 + received, "{what}");
            assert_eq!((passive.send_seq, passive.recv_seq), (active.recv_seq, active.send_seq), "{what}");
        }
    }
}

#[test]
fn more_than_32_bits_of_octets_are_counted() {
    own_namespace();
    let mut sockets = TcpSockets::open().unwrap();
    let isn = 0x8000_0000;
    let (client, server) = pair("127.0.0.1", isn);
    let octets = (5_u64 << 30) + 12_345;
    transfer(&client, &server, octets as usize);
    let port = server.local_addr().unwrap().port();
    let listed = sockets.established().unwrap();
    for (end, stream) in [("active", &client), ("passive", &server)] {
        let session = adopt(&find(&listed, stream), port).unwrap();
        let sent = if end == "active" { session.send_seq } else { session.recv_seq };
        assert_eq!(sent, u64::from(isn) + 1 + octets, "{end}");
    }
}

#[test]
fn what_is_sent_and_not_acknowledged_is_told_apart() {
    own_namespace();
    let mut sockets = TcpSockets::open().unwrap();
    let (mut client, server) = pair("127.0.0.1", 77);
    transfer(&client, &server, 1000);
    // Nothing arrives any more.
    ip("link set lo down");
    client.write_all(&[0; 500]).unwrap();
    let socket = find(&sockets.established().unwrap(), &client);
    assert_eq!((socket.snd_una, socket.snd_nxt), (77 + 1 + 1000, 77 + 1 + 1500));
    assert_eq!(socket.bytes_acked, 1001, "with the SYN");
}

#[test]
fn window_and_segment_size_are_those_of_the_socket() {
    own_namespace();
    ip("link set lo mtu 1500");
    let mut sockets = TcpSockets::open().unwrap();
    for (address, ip_header) in [("127.0.0.1", 20), ("::1", 40)] {
        let (client, server) = pair(address, 5);
        transfer(&client, &server, 1000);
        let socket = find(&sockets.established().unwrap(), &client);
        assert_eq!(socket.mss + u32::from(socket.header_len) + ip_header, 1500, "{address}: {socket:?}");
        assert_eq!(socket.header_len, 32, "timestamps");
        assert!(socket.rcv_wnd > 1000 && (1..=14).contains(&socket.rcv_wscale), "{socket:?}");
    }
}

#[test]
fn only_connections_that_are_up_are_listed_and_only_those_of_this_namespace() {
    let outside = thread::spawn(|| {
        own_namespace();
        let (client, server) = pair("127.0.0.1", 9);
        assert_eq!(TcpSockets::open().unwrap().established().unwrap().len(), 2);
        (client, server)
    })
    .join()
    .unwrap();
    own_namespace();
    let mut sockets = TcpSockets::open().unwrap();
    assert!(sockets.established().unwrap().is_empty(), "{:?} is elsewhere", outside.0);
    let (client, server) = pair("127.0.0.1", 9);
    assert_eq!(sockets.established().unwrap().len(), 2, "both ends, and not the listener");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&server).read(&mut [0]).unwrap(), 0, "the FIN has come");
    assert!(sockets.established().unwrap().is_empty());
}

#[test]
fn more_connections_than_fit_a_read_are_listed_whole() {
    own_namespace();
    let mut sockets = TcpSockets::open().unwrap();
    let pairs: Vec<_> = (0..250).map(|isn| pair("127.0.0.1", isn)).collect();
    let listed = sockets.established().unwrap();
    assert_eq!(listed.len(), 2 * pairs.len());
    for (client, server) in &pairs {
        assert_eq!(find(&listed, client).snd_nxt, find(&listed, server).rcv_nxt);
    }
}

/// Moves the calling thread into a new network namespace with a loopback interface.
fn own_namespace() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root with CAP_SYS_ADMIN");
    ip("link set lo up");
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// A connection of which the client's ISN is `isn`: client's and server's end.
fn pair(address: &str, isn: u32) -> (TcpStream, TcpStream) {
    let address: IpAddr = address.parse().unwrap();
    let listener = TcpListener::bind((address, 0)).unwrap();
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let client = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    set_tcp_option(&client, libc::TCP_REPAIR, 1);
    set_tcp_option(&client, libc::TCP_REPAIR_QUEUE, SEND_QUEUE);
    set_tcp_option(&client, libc::TCP_QUEUE_SEQ, isn as i32);
    set_tcp_option(&client, libc::TCP_REPAIR, REPAIR_OFF_NO_PROBE);
    let server: SocketAddr = listener.local_addr().unwrap();
    connect(client.as_raw_fd(), &SockaddrStorage::from(server)).unwrap();
    (TcpStream::from(client), listener.accept().unwrap().0)
}

/// The ISN of an end that has sent nothing yet.
fn isn_of(stream: &TcpStream) -> u32 {
    set_tcp_option(stream, libc::TCP_REPAIR, 1);
    set_tcp_option(stream, libc::TCP_REPAIR_QUEUE, SEND_QUEUE);
    let (mut next, mut len) = (0_u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: the pointers are to variables of the length given.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUEUE_SEQ,
            (&raw mut next).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    set_tcp_option(stream, libc::TCP_REPAIR, REPAIR_OFF_NO_PROBE);
    next.wrapping_sub(1)
}

/// Sends octets, and returns when they have been read and acknowledged.
fn transfer(mut from: &TcpStream, mut to: &TcpStream, octets: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let block = vec![0; 1 << 20];
            let mut left = octets;
            while left > 0 {
                left -= from.write(&block[..left.min(block.len())]).unwrap();
            }
        });
        let mut block = vec![0; 1 << 20];
        let mut left = octets;
        while left > 0 {
            left -= to.read(&mut block).unwrap();
        }
    });
    while unacknowledged(from) > 0 {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Octets sent that were not acknowledged yet (SIOCOUTQ).
fn unacknowledged(stream: &TcpStream) -> i32 {
    let mut octets = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ, writes an int.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    octets
}

fn find(listed: &[TcpSocket], stream: &TcpStream) -> TcpSocket {
    let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let ends = (mapped(local.ip()), local.port(), mapped(peer.ip()), peer.port());
    let mut found = listed
        .iter()
        .filter(|socket| (socket.local, socket.local_port, socket.peer, socket.peer_port) == ends);
    let socket = *found.next().expect("the connection is listed");
    assert!(found.next().is_none(), "and once only");
    socket
}

/// Of linux/tcp.h.
const SEND_QUEUE: i32 = 2;
const REPAIR_OFF_NO_PROBE: i32 = -1;

fn set_tcp_option(socket: &impl AsRawFd, option: i32, value: i32) {
    // SAFETY: the pointer is to a variable of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
