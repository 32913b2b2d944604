//! Whether our stack leaves room for the option, where a route carries less than the interface that segments leave by.
//!
//! The MSS of the handshake leaves room for what interfaces carry, and the programs know an interface's MTU. That of a
//! route (`ip route … mtu`, a path MTU that the kernel has learned) only the stack knows.

use tcpauth_common::Algorithm;

/// Bytes of the headers of IPv4, IPv6 and TCP, and of TCP's timestamps, without options.
const IPV4: u32 = 20;
const IPV6: u32 = 40;
const TCP: u32 = 20;
const TIMESTAMPS: u32 = 12;
/// No segment is cut for a path that leaves less than this.
const LEAST: u32 = 256;

/// How large the stack makes the segments of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Whether the packets are those of IPv4.
    pub is_ipv4: bool,
    /// The MTU of the path, as the stack knows it.
    pub path_mtu: u32,
    /// Most bytes of data in a segment.
    pub mss: u32,
    /// Whether segments carry timestamps.
    pub has_timestamps: bool,
}

impl Sizes {
    /// Returns the most bytes of TCP header and data that leave room for any option, if segments can have more.
    pub fn limit(&self) -> Option<u32> {
        let options = if self.has_timestamps { TIMESTAMPS } else { 0 };
        let most = TCP.saturating_add(options).saturating_add(self.mss);
        largest_segment(self.is_ipv4, self.path_mtu).filter(|largest| most > *largest)
    }
}

/// Returns the most bytes of TCP header and data that leave room for any option in a packet of `mtu` bytes; `None` if
/// that is too little to cut segments for.
pub fn largest_segment(is_ipv4: bool, mtu: u32) -> Option<u32> {
    let others = if is_ipv4 { IPV4 } else { IPV6 } + Algorithm::MOST_OPTION_LEN as u32;
    mtu.checked_sub(others).filter(|largest| *largest >= LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a path MTU and an MSS without timestamps.
    fn sizes(is_ipv4: bool, path_mtu: u32, mss: u32) -> Sizes {
        Sizes { is_ipv4, path_mtu, mss, has_timestamps: false }
    }

    #[test]
    fn handshake_that_left_room_needs_no_limit() {
        assert_eq!(sizes(true, 1500, 1440).limit(), None);
        assert_eq!(sizes(false, 1500, 1420).limit(), None);
        assert_eq!(Sizes { has_timestamps: true, ..sizes(true, 1500, 1428) }.limit(), None);
    }

    #[test]
    fn path_that_is_narrower_than_the_handshake_supposed_has_a_limit() {
        assert_eq!(sizes(true, 1400, 1360).limit(), Some(1360));
        assert_eq!(sizes(false, 1280, 1220).limit(), Some(1220));
        assert_eq!(Sizes { has_timestamps: true, ..sizes(true, 1400, 1348) }.limit(), Some(1360));
        assert_eq!(sizes(true, 1500, 1441).limit(), Some(1460));
    }

    #[test]
    fn sizes_that_make_no_sense_have_no_limit() {
        assert_eq!(sizes(true, 0, 1460).limit(), None);
        assert_eq!(sizes(false, 100, u32::MAX).limit(), None);
        assert_eq!(largest_segment(true, 295), None);
        assert_eq!(largest_segment(true, 296), Some(256));
    }
}
