//! The kernel's own TCP-AO, as the other side of tcpauth's: `CONFIG_TCP_AO`, Linux 6.7 and later.

use std::{
    fs, io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{namespace::Namespace, wire::set_option};

/// Options of linux/tcp.h that libc lacks.
const TCP_AO_ADD_KEY: i32 = 38;
const TCP_AO_INFO: i32 = 40;

/// A key of the kernel's, for all connections of a socket with one peer.
#[derive(Clone, Debug)]
pub struct NativeKey {
    /// The master key.
    pub password: &'static str,
    /// As tcpauth's configuration has it.
    pub algorithm: &'static str,
    /// KeyID in both directions.
    pub id: u8,
}

/// `struct tcp_ao_add` of linux/tcp.h.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct AddKey {
    address: libc::sockaddr_storage,
    algorithm: [u8; 64],
    ifindex: i32,
    flags: u32,
    reserved: u16,
    prefix_len: u8,
    send_id: u8,
    recv_id: u8,
    mac_len: u8,
    key_flags: u8,
    key_len: u8,
    key: [u8; 80],
}

/// `struct tcp_ao_info_opt` of linux/tcp.h.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct Info {
    flags: u32,
    reserved: u16,
    current: u8,
    rnext: u8,
    counters: [u64; 5],
}

/// Whether this kernel has TCP-AO.
///
/// # Errors
/// If it cannot be told.
pub fn is_there() -> Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    let key = NativeKey { password: "a", algorithm: "hmac-sha-1-96", id: 1 };
    match set_option(&socket, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &add(&key, "192.0.2.1".parse()?)?) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(error) => Err(error).context("TCP_AO_ADD_KEY"),
    }
}

/// Gives a socket, connected with TCP-AO or not connected yet, one more key for `peer`.
///
/// # Errors
/// If the kernel refuses it.
pub fn add_key(socket: &impl AsRawFd, peer: IpAddr, key: &NativeKey) -> Result<()> {
    set_option(socket, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &add(key, peer)?).context("TCP_AO_ADD_KEY")
}

/// From now on the connection asks the peer to send with key `id`.
///
/// # Errors
/// If there is no such key.
pub fn request_key(socket: &impl AsRawFd, id: u8) -> Result<()> {
    const SET_RNEXT: u32 = 1 << 1;
    let info = Info { flags: SET_RNEXT, rnext: id, ..Info::default() };
    set_option(socket, libc::IPPROTO_TCP, TCP_AO_INFO, &info).context("TCP_AO_INFO")
}

/// How many segments the kernel of `namespace` has refused: without option, with a wrong MAC, or of a key it has not.
///
/// # Errors
/// If it does not say.
pub fn refused(namespace: &Namespace) -> Result<u64> {
    let text = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TcpExt in netstat")?;
    let counts = names.split(' ').zip(values.split(' '));
    let of_ao = ["TCPAORequired", "TCPAOBad", "TCPAOKeyNotFound"];
    let found: Vec<u64> = counts
        .filter(|(name, _)| of_ao.contains(name))
        .map(|(_, value)| value.parse())
        .collect::<Result<_, _>>()?;
    ensure!(found.len() == of_ao.len(), "netstat has not all of {of_ao:?}");
    Ok(found.iter().sum())
}

fn add(key: &NativeKey, peer: IpAddr) -> io::Result<AddKey> {
    let (name, mac_len) = match key.algorithm {
        "hmac-sha-1-96" => ("hmac(sha1)", 12),
        "aes-128-cmac-96" => ("cmac(aes128)", 12),
        "hmac-sha-256-96" => ("hmac(sha256)", 12),
        other => return Err(io::Error::other(format!("the kernel has no {other}"))),
    };
    let storage = SockAddr::from(SocketAddr::new(peer, 0)).as_storage();
    let mut record = AddKey {
        // SAFETY: the storage of a SockAddr is a sockaddr_storage.
        address: unsafe { mem::transmute::<socket2::SockAddrStorage, libc::sockaddr_storage>(storage) },
        algorithm: [0; 64],
        ifindex: 0,
        flags: 0,
        reserved: 0,
        prefix_len: if peer.is_ipv4() { 32 } else { 128 },
        send_id: key.id,
        recv_id: key.id,
        mac_len,
        key_flags: 0,
        key_len: key.password.len() as u8,
        key: [0; 80],
    };
    record.algorithm[..name.len()].copy_from_slice(name.as_bytes());
    record.key[..key.password.len()].copy_from_slice(key.password.as_bytes());
    Ok(record)
}
