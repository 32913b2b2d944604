//! TCP options: the walk that finds TCP-AO, and the rewriting that makes room for it.
//!
//! Both go octet by octet or option by option through `step`, so that an eBPF program can run them in
//! `bpf_loop`, where the verifier follows one step and not forty.

pub use header::Header;
pub use rewrite::OptionRewrite;
pub use walk::OptionWalk;

mod header;
mod rewrite;
#[cfg(test)]
mod tests;
mod walk;

/// Longest TCP header, octets.
pub const MAX_HEADER: u32 = 60;
/// TCP header without options, octets.
pub const BASE_HEADER: u32 = 20;
/// Length of a TCP-MD5 option, octets: kind, length, digest (RFC 2385 §3.0).
pub const MD5_LEN: u32 = 18;
/// Length of a timestamps option, octets (RFC 7323 §3.2).
pub const TIMESTAMPS_LEN: u32 = 10;

/// Option kinds (IANA, TCP option kind numbers).
pub mod kind {
    /// End of option list.
    pub const END: u8 = 0;
    /// No operation.
    pub const NOP: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Window scale.
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgment is understood (RFC 2018).
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgment.
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323).
    pub const TIMESTAMPS: u8 = 8;
    /// TCP-MD5 (RFC 2385).
    pub const MD5: u8 = 19;
    /// TCP-AO (RFC 5925).
    pub const AO: u8 = 29;
    /// Multipath TCP (RFC 8684).
    pub const MPTCP: u8 = 30;
    /// TCP Fast Open (RFC 7413).
    pub const FAST_OPEN: u8 = 34;
    /// Experimental; was used by Fast Open.
    pub const EXPERIMENTAL: u8 = 254;
}

/// Options that would put data where no key covers it, or leave no room: they go from a header that is rewritten.
#[inline(always)]
const fn is_unwanted(kind: u8) -> bool {
    kind == kind::MPTCP || kind == kind::FAST_OPEN || kind == kind::EXPERIMENTAL
}

/// Returns whether a connection works without the option, for example Accurate ECN's (RFC 9768): it goes where
/// there is no room for it beside authentication.
#[inline(always)]
const fn is_dispensable(kind: u8) -> bool {
    !matches!(
        kind,
        kind::MSS
            | kind::WINDOW_SCALE
            | kind::SACK_PERMITTED
            | kind::SACK
            | kind::TIMESTAMPS
            | kind::MD5
            | kind::AO
    ) && !is_unwanted(kind)
}
