//! What the iterator over TCP sockets reports of each, for a connection that is taken over while it is up.
//!
//! Both are `repr(C)`, without padding, integers in host byte order.

/// An established TCP connection of a network namespace, as the kernel has it at one moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSocket {
    /// Octets received in order (`bytes_received`). SYN does not count.
    pub bytes_received: u64,
    /// Octets acknowledged by the peer (`bytes_acked`). SYN counts at the end that connected, and not at the one
    /// that accepted.
    pub bytes_acked: u64,
    /// Our end's address, IPv4-mapped for IPv4.
    pub local: [u8; 16],
    /// The peer's address.
    pub peer: [u8; 16],
    /// Our end's port.
    pub local_port: u16,
    /// The peer's port.
    pub peer_port: u16,
    /// Interface index that the socket is bound to, else 0.
    pub ifindex: u32,
    /// Sequence number expected next from the peer.
    pub rcv_nxt: u32,
    /// First sequence number that the peer has not acknowledged.
    pub snd_una: u32,
    /// First sequence number that was not sent.
    pub snd_nxt: u32,
    /// Window that our end offers, octets.
    pub rcv_wnd: u32,
    /// Data that a segment takes, octets.
    pub mss: u32,
    /// Length of the TCP header of a segment with data, options included and no SACK block, octets.
    pub header_len: u16,
    /// Window scale of our end's SYN.
    pub rcv_wscale: u8,
    /// 1 if the kernel has a key for the socket (TCP-MD5 or TCP-AO): its segments carry an option of their own.
    pub is_signed: u8,
}

/// Where the running kernel keeps what is in a [`TcpSocket`]: offsets in octets from the beginning of
/// `struct tcp_sock`, but of a bit field in bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSocketOffsets {
    /// `skc_state`, an octet.
    pub state: u32,
    /// `skc_family`, 16 bits.
    pub family: u32,
    /// `skc_rcv_saddr`, an IPv4 address.
    pub local_v4: u32,
    /// `skc_daddr`, an IPv4 address.
    pub peer_v4: u32,
    /// `skc_v6_rcv_saddr`; 0 if this kernel has no IPv6.
    pub local_v6: u32,
    /// `skc_v6_daddr`; 0 if this kernel has no IPv6.
    pub peer_v6: u32,
    /// `skc_num`, 16 bits.
    pub local_port: u32,
    /// `skc_dport`, 16 bits, network byte order.
    pub peer_port: u32,
    /// `skc_bound_dev_if`, 32 bits.
    pub ifindex: u32,
    /// `bytes_received`, 64 bits.
    pub bytes_received: u32,
    /// `bytes_acked`, 64 bits.
    pub bytes_acked: u32,
    /// `rcv_nxt`, 32 bits.
    pub rcv_nxt: u32,
    /// `snd_una`, 32 bits.
    pub snd_una: u32,
    /// `snd_nxt`, 32 bits.
    pub snd_nxt: u32,
    /// `rcv_wnd`, 32 bits.
    pub rcv_wnd: u32,
    /// `mss_cache`, 32 bits.
    pub mss: u32,
    /// `tcp_header_len`, 16 bits.
    pub header_len: u32,
    /// `rx_opt.rcv_wscale`, 4 bits; this offset is in bits.
    pub rcv_wscale: u32,
    /// `md5sig_info`, a pointer; 0 if this kernel has no TCP-MD5.
    pub md5sig_info: u32,
    /// `ao_info`, a pointer; 0 if this kernel has no TCP-AO.
    pub ao_info: u32,
}
