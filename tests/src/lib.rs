//! What the end-to-end tests, `cargo xtask demo` and `cargo xtask bench` are made of.
//!
//! - [`namespace`], [`process`]: a host of its own, and programs in it; both end when dropped.
//! - [`network`]: two routers, and what is between them: a switch with an attacker on it, nothing, or
//!   an [`impair`]ed path, perhaps by [`netem`].
//! - [`agent`], [`keys`]: `tcpauthd` and `tcpauth` on a router, and the keys that they change; [`clock`]: its clock.
//! - [`kmp`]: routers that agree on keys in a TLS handshake; [`crowd`]: a thousand neighbours that do.
//! - [`scenario`]: routers that protect their sessions: where most tests begin.
//! - [`bgp`]: BIRD, FRR and GoBGP.
//! - [`frame`], [`wire`]: segments forged, sniffed and captured; [`odd`]: wrapped in every way; [`blaster`]: sent at
//!   the highest rate.
//! - [`tunnel`]: links without Ethernet headers; [`ipsec`]: interfaces of IPsec; [`vrf`]: links in a VRF, and labels.
//! - [`tcx`]: foreign programs before tcpauth's.
//! - [`transfer`], [`streams`]: TCP connections of the tests' own, bulk data among them.
//!   [`on_connect`]: whose ends send as soon as their keys are agreed.
//! - [`native`]: the kernel's own TCP-AO.
//! - [`systemd`]: the first process of a virtual machine, and its units.
//! - [`tcx`], [`xdp`], [`xsk`]: programs and sockets of others that get at frames where tcpauth does not.
//! - [`independent`]: the verifier, and signer, that shares no code with the project's.

pub mod agent;
pub mod bgp;
pub mod binaries;
pub mod blaster;
pub mod clock;
pub mod crowd;
pub mod frame;
pub mod impair;
pub mod independent;
pub mod ipsec;
pub mod keys;
pub mod kmp;
pub mod link;
pub mod marks;
pub mod namespace;
pub mod native;
pub mod netem;
pub mod network;
pub mod odd;
pub mod on_connect;
pub mod process;
pub mod scenario;
pub mod streams;
pub mod systemd;
pub mod tcx;
pub mod transfer;
pub mod tunnel;
pub mod vrf;
pub mod wait;
pub mod wire;
pub mod xdp;
pub mod xsk;
