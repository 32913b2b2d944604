//! The TCP connections that are up, with their sequence numbers: what nothing but a BPF iterator tells.

use std::{
    fs,
    io::{self, Read},
};

use aya::{
    Btf as LoaderBtf, Ebpf, EbpfLoader,
    programs::{Iter, ProgramError},
};
use tcpauth_common::tcp_socket::{TcpSocket, TcpSocketOffsets};

use super::{
    KernelError,
    btf::Btf,
    maps::chain,
    pod::{Value, split_head},
    programs::program_error,
};

/// The kernel's own BTF.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
const PROGRAM: &str = "established";

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TCPAUTH_SOCKETS_OBJECT"));

/// A BPF iterator over TCP sockets. The kernel must have BTF (CONFIG_DEBUG_INFO_BTF); nothing else of tcpauth
/// needs that.
pub struct TcpSockets(Ebpf);

impl TcpSockets {
    /// Loads the iterator.
    ///
    /// # Errors
    /// [`KernelError::NoBtf`], [`KernelError::ForeignBtf`], [`KernelError::NotRoot`], [`KernelError::Load`].
    pub fn open() -> Result<Self, KernelError> {
        let data = fs::read(KERNEL_BTF).map_err(|source| KernelError::NoBtf { path: KERNEL_BTF, source })?;
        let offsets = Value(offsets(&data)?);
        let refused = |reason| KernelError::refused("the eBPF object for sessions that are up", reason);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("OFFSETS", &offsets, true)
            .load(OBJECT)
            .map_err(|error| refused(chain(&error)))?;
        let btf =
            LoaderBtf::parse(&data, aya::Endianness::default()).map_err(|error| refused(chain(&error)))?;
        iterator(&mut ebpf)?.load("tcp", &btf).map_err(|error| program_error(PROGRAM, &error))?;
        Ok(Self(ebpf))
    }

    /// The established connections of the calling thread's network namespace. A connection of which one end has
    /// sent its FIN is not among them.
    ///
    /// # Errors
    /// [`KernelError::System`], [`KernelError::Load`].
    pub fn established(&mut self) -> Result<Vec<TcpSocket>, KernelError> {
        let refused = |error: ProgramError| program_error(PROGRAM, &error);
        let program = iterator(&mut self.0)?;
        let link = program.attach().map_err(refused)?;
        let link = program.take_link(link).map_err(refused)?;
        let read = |source| KernelError::System { action: "list TCP sockets", source };
        let mut file = link.into_file().map_err(|error| read(io::Error::other(chain(&error))))?;
        let mut records = Vec::new();
        file.read_to_end(&mut records).map_err(read)?;
        let mut rest = records.as_slice();
        let mut sockets = Vec::new();
        while let Some((socket, behind)) = split_head(rest) {
            sockets.push(socket);
            rest = behind;
        }
        Ok(sockets)
    }
}

fn iterator(ebpf: &mut Ebpf) -> Result<&mut Iter, KernelError> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| KernelError::Object { kind: "program", name: PROGRAM.to_owned() })
}

/// Where this kernel has what the iterator reads.
fn offsets(data: &[u8]) -> Result<TcpSocketOffsets, KernelError> {
    let btf =
        Btf::parse(data).ok_or(KernelError::ForeignBtf { path: KERNEL_BTF, what: "a file of that kind" })?;
    let bits = |of, member| {
        btf.bit_offset(of, member).ok_or(KernelError::ForeignBtf { path: KERNEL_BTF, what: member })
    };
    let common = |member| bits("sock_common", member).map(|bits| bits / 8);
    let tcp = |member| bits("tcp_sock", member).map(|bits| bits / 8);
    Ok(TcpSocketOffsets {
        state: common("skc_state")?,
        family: common("skc_family")?,
        local_v4: common("skc_rcv_saddr")?,
        peer_v4: common("skc_daddr")?,
        // A kernel without IPv6 has no such members, and no sockets that would.
        local_v6: common("skc_v6_rcv_saddr").unwrap_or(0),
        peer_v6: common("skc_v6_daddr").unwrap_or(0),
        local_port: common("skc_num")?,
        peer_port: common("skc_dport")?,
        ifindex: common("skc_bound_dev_if")?,
        bytes_received: tcp("bytes_received")?,
        bytes_acked: tcp("bytes_acked")?,
        rcv_nxt: tcp("rcv_nxt")?,
        snd_una: tcp("snd_una")?,
        snd_nxt: tcp("snd_nxt")?,
        rcv_wnd: tcp("rcv_wnd")?,
        mss: tcp("mss_cache")?,
        header_len: tcp("tcp_header_len")?,
        rcv_wscale: bits("tcp_sock", "rx_opt.rcv_wscale")?,
        // A kernel without the one or the other signs no segments with it.
        md5sig_info: tcp("md5sig_info").unwrap_or(0),
        ao_info: tcp("ao_info").unwrap_or(0),
    })
}
