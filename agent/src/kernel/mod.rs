//! Everything of the daemon that touches the kernel.
//!
//! - [`Dataplane`]: the eBPF programs and maps of one instance, pinned below bpffs, and where they are attached.
//! - [`LinkWatch`]: interfaces and addresses of the network namespace as they come and go.
//! - [`HeldRing`], [`DroppedRing`]: what the programs report.
//! - [`SockDiag`]: the kernel's own list of connections, with what passed them.
//! - [`TcpSockets`]: connections that were up before they were protected.
//!
//! All calls are for the network namespace of the calling thread and block for no longer than a
//! system call takes; only the rings and the watch are asynchronous.

mod batch;
mod btf;
mod dataplane;
mod detach;
mod error;
mod ethtool;
mod hook;
mod ipsec;
mod lane;
mod links;
mod maps;
mod netlink;
mod pins;
mod placement;
mod pod;
mod programs;
mod purge;
mod release;
mod rings;
mod sock_diag;
mod tcp_sockets;
mod watch;

/// EtherType of 802.1Q.
const ETHERTYPE_8021Q: u16 = 0x8100;
/// EtherType of 802.1ad.
const ETHERTYPE_8021AD: u16 = 0x88a8;

pub use dataplane::{Attachment, Dataplane, Rekeyed};
pub use error::KernelError;
pub use hook::Hook;
pub use ipsec::{IpsecPolicy, IpsecWay};
pub use lane::{LANE0, LANE1, LaneState};
pub use links::{Link, LinkKind};
pub use netlink::{Detour, RouteLookup, interface_towards};
pub use placement::Misplaced;
pub use purge::PurgeReport;
pub use rings::{DroppedRing, HeldRing};
pub use sock_diag::{SockDiag, TcpConnection};
pub use tcp_sockets::TcpSockets;
pub use tcpauth_common::layout::mapped;
pub use watch::{LinkEvent, LinkWatch};
