//! The IPsec policies of the network namespace (`NETLINK_XFRM`, `linux/xfrm.h`), as far as they tell whether a segment is
//! taken past TC.

use std::{io, net::IpAddr};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};

use super::{
    KernelError,
    sock_diag::{half, malformed, take_message, word},
};

/// `XFRM_MSG_NEWPOLICY` and `XFRM_MSG_GETPOLICY`.
const NEW_POLICY: u16 = 0x13;
const GET_POLICY: u16 = 0x15;
/// `NLMSG_ERROR` and `NLMSG_DONE` of `linux/netlink.h`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `XFRMA_TMPL`, `XFRMA_MARK` and `XFRMA_IF_ID`.
const TEMPLATES: u16 = 5;
const MARK: u16 = 21;
const IF_ID: u16 = 31;
/// Length of `struct xfrm_userpolicy_info`, behind which the attributes are.
const POLICY_LEN: usize = 168;

/// Which way the segments go that a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpsecWay {
    /// From this host.
    Outbound,
    /// To this host.
    Inbound,
}

/// A policy that holds for plain traffic: one of an IPsec interface or with a mark is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsecPolicy {
    /// Which way.
    pub way: IpsecWay,
    /// This host's addresses that it is about: a prefix.
    pub local: (IpAddr, u8),
    /// The other addresses that it is about: a prefix.
    pub peer: (IpAddr, u8),
    /// This host's port and the mask of the bits that matter.
    pub local_port: (u16, u16),
    /// The other port and the mask of the bits that matter.
    pub peer_port: (u16, u16),
    /// IP protocol, or 0 for any.
    pub protocol: u8,
    /// Of those that match, the one with the lowest number holds.
    pub priority: u32,
    /// Whether it has segments transformed; otherwise it lets them pass or drops them.
    pub transforms: bool,
}

impl IpsecPolicy {
    /// Lists the policies of the calling thread's network namespace; none if the kernel has no IPsec.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub fn list() -> Result<Vec<Self>, KernelError> {
        let failed = |source| KernelError::Netlink { action: "list IPsec policies", source };
        match list() {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(Vec::new()),
            other => other.map_err(failed),
        }
    }
}

fn list() -> io::Result<Vec<IpsecPolicy>> {
    let mut socket = Socket::new(NETLINK_XFRM)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // struct xfrm_userpolicy_id, which a dump does not read.
    let payload = [0; 64];
    let mut request = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    for number in [GET_POLICY, DUMP] {
        request.extend(number.to_ne_bytes());
    }
    request.extend([0; 8]);
    request.extend(payload);
    socket.send(&request, 0)?;
    let mut policies = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some(message) = take_message(&mut rest)? {
            match message.kind {
                NEW_POLICY => policies.extend(parse(message.payload)),
                DONE => return Ok(policies),
                ERROR => {
                    let code = word(message.payload, 0).ok_or_else(malformed)?.cast_signed();
                    return if code == 0 { Ok(policies) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => {}
            }
        }
    }
}

/// Reads a `struct xfrm_userpolicy_info` with its attributes; `None` for a policy of another kind.
fn parse(message: &[u8]) -> Option<IpsecPolicy> {
    let (way, action) = (*message.get(160)?, *message.get(161)?);
    let way = match way {
        0 => IpsecWay::Inbound,
        1 => IpsecWay::Outbound,
        // Forwarded, or of one socket.
        _ => return None,
    };
    let family = half(message, 40)?;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
        match i32::from(family) {
            libc::AF_INET => Some([octets[0], octets[1], octets[2], octets[3]].into()),
            libc::AF_INET6 => Some(octets.into()),
            _ => None,
        }
    };
    let port = |at| Some((u16::from_be(half(message, at)?), u16::from_be(half(message, at + 2)?)));
    let destination = ((address(0)?, *message.get(42)?), port(32)?);
    let source = ((address(16)?, *message.get(43)?), port(36)?);
    let ((local, local_port), (peer, peer_port)) = match way {
        IpsecWay::Outbound => (source, destination),
        IpsecWay::Inbound => (destination, source),
    };
    let mut has_templates = false;
    let mut attributes = message.get(POLICY_LEN..).unwrap_or_default();
    while let (Some(len), Some(kind)) = (half(attributes, 0).map(usize::from), half(attributes, 2)) {
        let Some(value) = attributes.get(4..len) else { break };
        match kind {
            TEMPLATES => has_templates = !value.is_empty(),
            // A mask of 0 is no mark.
            MARK if word(value, 4) != Some(0) => return None,
            IF_ID if word(value, 0) != Some(0) => return None,
            _ => {}
        }
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(IpsecPolicy {
        way,
        local,
        peer,
        local_port,
        peer_port,
        protocol: *message.get(44)?,
        priority: word(message, 152)?,
        // XFRM_POLICY_ALLOW.
        transforms: action == 0 && has_templates,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel tells of `ip xfrm policy add dir out src 192.0.2.1/32 dst 192.0.2.2/32 proto tcp dport 179 …`.
    fn message() -> Vec<u8> {
        let mut message = vec![0; POLICY_LEN];
        message[..4].copy_from_slice(&[192, 0, 2, 2]);
        message[16..20].copy_from_slice(&[192, 0, 2, 1]);
        message[32..36].copy_from_slice(&[0, 179, 0xff, 0xff]);
        message[40..42].copy_from_slice(&2u16.to_ne_bytes());
        message[42..45].copy_from_slice(&[32, 32, 6]);
        message[152..156].copy_from_slice(&7u32.to_ne_bytes());
        message[160] = 1;
        message.extend([8, 0, 5, 0, 1, 2, 3, 4]);
        message
    }

    #[test]
    fn a_policy_is_seen_from_this_host() {
        let outbound = IpsecPolicy {
            way: IpsecWay::Outbound,
            local: ("192.0.2.1".parse().unwrap(), 32),
            peer: ("192.0.2.2".parse().unwrap(), 32),
            local_port: (0, 0),
            peer_port: (179, 0xffff),
            protocol: 6,
            priority: 7,
            transforms: true,
        };
        assert_eq!(parse(&message()), Some(outbound.clone()));
        let mut inbound = message();
        inbound[160] = 0;
        let parsed = parse(&inbound).unwrap();
        assert_eq!((parsed.local, parsed.local_port), (outbound.peer, outbound.peer_port));
    }

    #[test]
    fn policies_of_interfaces_marks_and_forwarded_traffic_are_left_out() {
        let with = |attribute: &[u8]| parse(&[&message(), attribute].concat());
        assert!(with(&[8, 0, 31, 0, 7, 0, 0, 0]).is_none());
        assert!(with(&[12, 0, 21, 0, 7, 0, 0, 0, 0xff, 0, 0, 0]).is_none());
        assert!(with(&[12, 0, 21, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_some());
        let mut forwarded = message();
        forwarded[160] = 2;
        assert!(parse(&forwarded).is_none());
    }

    #[test]
    fn a_policy_that_lets_segments_pass_or_drops_them_transforms_nothing() {
        let mut block = message();
        block[161] = 1;
        assert!(!parse(&block).unwrap().transforms);
        assert!(!parse(&message()[..POLICY_LEN]).unwrap().transforms);
    }

    #[test]
    fn truncated_policies_are_none() {
        let message = message();
        for len in 0..161 {
            assert!(parse(&message[..len]).is_none(), "{len}");
        }
        // An attribute of no length would be read for ever.
        assert!(parse(&[&message[..POLICY_LEN], &[0; 8]].concat()).is_some());
    }
}
