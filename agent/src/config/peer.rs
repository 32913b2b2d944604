//! The address, prefix or link-local address that a neighbour is configured by.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::Problem;

/// Whom a neighbour entry is about: one address, or a prefix of dynamic neighbours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The address, host bits zero for a prefix.
    pub address: IpAddr,
    /// Length of the prefix in bits: 32 or 128 for one address.
    pub prefix_len: u8,
    /// Interface it is reached by, if bound to one; always for link-local addresses.
    pub interface: Option<String>,
}

/// Why a text is not a neighbour, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each is.
pub enum PeerError {
    #[error(
        "not an IP address or prefix; write it as 192.0.2.1, 192.0.2.0/24 or 2001:db8::1 (names are not looked up)"
    )]
    NotAddress,
    #[error("the prefix length is wrong; write a number from 0 to {0} after the slash")]
    PrefixLength(u8),
    #[error("bits are set behind the prefix; write \"{0}\", or the address alone for one neighbour")]
    HostBits(Peer),
    #[error("an IPv4 address in IPv6 form; write \"{0}\"")]
    Mapped(Peer),
    #[error("a multicast address has no TCP sessions; write the neighbour's own address")]
    Multicast,
    #[error("the broadcast address has no TCP sessions; write the neighbour's own address")]
    Broadcast,
    #[error("the unspecified address is nobody's; write the neighbour's address, or \"{0}/0\" for all")]
    Unspecified(IpAddr),
    #[error(
        "a loopback address is this host's own, whose segments never leave it; write the neighbour's address"
    )]
    Loopback,
    #[error("a link-local address needs its interface; write it as \"{0}%eth0\" or add interface = \"eth0\"")]
    LinkLocalWithoutInterface(Box<Peer>),
    #[error("not the name of an interface; use 1 to 15 characters without spaces, slashes and colons")]
    InterfaceName,
    #[error("the address and the field interface name different interfaces; keep one of the two")]
    TwoInterfaces,
}

impl Peer {
    /// Whether this is one address and not a prefix of dynamic neighbours.
    pub fn is_host(&self) -> bool {
        self.prefix_len == address_bits(self.address)
    }

    /// Whether it is on one link only, and so means something only together with an interface.
    pub fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
            && self.prefix_len >= 10
    }

    /// Whether every address of `other` is one of this prefix too, whatever the interfaces.
    pub fn contains(&self, other: &Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.prefix_len <= other.prefix_len
            && masked(other.address, self.prefix_len) == self.address
    }

    /// Whether both are the same addresses, by whatever interface.
    pub(super) fn same_addresses(&self, other: &Self) -> bool {
        (self.address, self.prefix_len) == (other.address, other.prefix_len)
    }

    /// An end behind this host, from an item of `forwarded`. A link-local one needs no interface: from a macvlan
    /// its segments do not arrive at all. The problem does not quote the text.
    pub(super) fn forwarded_end(text: &str) -> Result<Self, Problem> {
        Self::parse(text, None).or_else(|error| match error {
            PeerError::LinkLocalWithoutInterface(peer) => Ok(*peer),
            PeerError::InterfaceName | PeerError::PrefixLength(_) => Err(error.into()),
            PeerError::HostBits(_) => Err(Problem::ForwardedEnd("bits are set behind the prefix")),
            PeerError::Mapped(_) => Err(Problem::ForwardedEnd("an IPv4 address in IPv6 form")),
            PeerError::NotAddress | PeerError::TwoInterfaces => {
                Err(Problem::ForwardedEnd("not an IP address or prefix"))
            }
            PeerError::Multicast | PeerError::Broadcast | PeerError::Unspecified(_) | PeerError::Loopback => {
                Err(Problem::ForwardedEnd("no end of a session has this address"))
            }
        })
    }

    /// As [`FromStr`], for a neighbour whose field `interface` is given as well or instead.
    pub(super) fn parse(text: &str, field_interface: Option<&str>) -> Result<Self, PeerError> {
        // `fe80::1%eth0`, `fe80::/64%eth0` or, with the zone where RFC 4007 has it, `fe80::%eth0/64`.
        let (text, zone) = text.split_once('%').map_or((text, None), |(text, zone)| (text, Some(zone)));
        let (zone, length_behind) = split_length(zone);
        let (address, length) = split_length(Some(text));
        let address = address.and_then(|address| address.parse().ok()).ok_or(PeerError::NotAddress)?;
        let prefix_len = match length.xor(length_behind) {
            Some(length) => parse_length(length, address_bits(address))?,
            None if length.is_some() => return Err(PeerError::PrefixLength(address_bits(address))),
            None => address_bits(address),
        };
        let interface = interface(zone, field_interface)?;
        // Errors suggest what to write in place of `text`: the field is not part of that.
        let written = Self { address, prefix_len, interface: interface.clone().filter(|_| zone.is_some()) };
        written.check(interface.is_some())?;
        Ok(Self { address, prefix_len, interface })
    }

    /// An error unless a router can have such a neighbour.
    fn check(self, has_interface: bool) -> Result<(), PeerError> {
        if let Some(peer) = self.unmapped() {
            return Err(PeerError::Mapped(peer));
        }
        let network = masked(self.address, self.prefix_len);
        if network != self.address {
            return Err(PeerError::HostBits(Self { address: network, ..self }));
        }
        let (multicast_len, loopback_len) = if network.is_ipv4() { (4, 8) } else { (8, 128) };
        if network.is_multicast() && self.prefix_len >= multicast_len {
            Err(PeerError::Multicast)
        } else if network.is_loopback() && self.prefix_len >= loopback_len {
            Err(PeerError::Loopback)
        } else if network.is_unspecified() && self.is_host() {
            Err(PeerError::Unspecified(network))
        } else if matches!(network, IpAddr::V4(address) if address.is_broadcast()) {
            Err(PeerError::Broadcast)
        } else if self.is_link_local() && !has_interface {
            Err(PeerError::LinkLocalWithoutInterface(Box::new(self)))
        } else {
            Ok(())
        }
    }

    /// The IPv4 peer, if this one is in `::ffff:0:0/96`.
    fn unmapped(&self) -> Option<Self> {
        let IpAddr::V6(address) = self.address else { return None };
        let prefix_len = self.prefix_len.checked_sub(96)?;
        let address = masked(address.to_ipv4_mapped()?.into(), prefix_len);
        Some(Self { address, prefix_len, interface: self.interface.clone() })
    }
}

/// From what [`Display`](std::fmt::Display) writes and what means the same, `192.0.2.1/32` or
/// `fe80::%eth0/64` for instance.
impl FromStr for Peer {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, None)
    }
}

/// As in the configuration: `192.0.2.1`, `2001:db8::/64`, `fe80::1%eth0`.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)?;
        if !self.is_host() {
            write!(f, "/{}", self.prefix_len)?;
        }
        match &self.interface {
            Some(interface) => write!(f, "%{interface}"),
            None => Ok(()),
        }
    }
}

fn address_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `address` with all bits behind the first `prefix_len` zero.
fn masked(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

/// What is before a slash, and the length behind it.
fn split_length(text: Option<&str>) -> (Option<&str>, Option<&str>) {
    match text.and_then(|text| text.split_once('/')) {
        Some((before, length)) => (Some(before), Some(length)),
        None => (text, None),
    }
}

fn parse_length(text: &str, bits: u8) -> Result<u8, PeerError> {
    let plain = text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let length = if plain { text.parse().ok() } else { None };
    length.filter(|length| *length <= bits).ok_or(PeerError::PrefixLength(bits))
}

/// The one interface that the zone of an address and the field `interface` name.
fn interface(zone: Option<&str>, field: Option<&str>) -> Result<Option<String>, PeerError> {
    if zone.is_some() && field.is_some() && zone != field {
        return Err(PeerError::TwoInterfaces);
    }
    match zone.or(field) {
        Some(name) if is_interface_name(name) => Ok(Some(name.to_owned())),
        Some(_) => Err(PeerError::InterfaceName),
        None => Ok(None),
    }
}

/// As the kernel's `dev_valid_name`, and without `%`.
pub(super) fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Peer>().unwrap().to_string()
    }

    fn error(text: &str) -> String {
        text.parse::<Peer>().unwrap_err().to_string()
    }

    #[test]
    fn spellings_of_one_peer_have_one_canonical_form() {
        for (text, form) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("2001:db8::1/128", "2001:db8::1"),
            ("::/0", "::/0"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("fe80::/64%eth0", "fe80::/64%eth0"),
            ("fe80::%eth0/64", "fe80::/64%eth0"),
            ("192.0.2.1%vlan.7", "192.0.2.1%vlan.7"),
        ] {
            assert_eq!(canonical(text), form);
            assert_eq!(canonical(form), form);
        }
    }

    #[test]
    fn what_is_not_a_neighbour_is_refused_with_what_to_write() {
        for (text, start) in [
            ("", "not an IP address"),
            ("router1", "not an IP address"),
            ("192.0.2", "not an IP address"),
            ("192.0.2.01", "not an IP address"),
            ("192.0.2.1/33", "the prefix length is wrong; write a number from 0 to 32 "),
            ("192.0.2.1/", "the prefix length is wrong"),
            ("192.0.2.0/+24", "the prefix length is wrong"),
            ("192.0.2.0/024", "the prefix length is wrong"),
            ("fe80::/64%eth0/64", "the prefix length is wrong; write a number from 0 to 128 "),
            ("192.0.2.1/24", "bits are set behind the prefix; write \"192.0.2.0/24\""),
            ("2001:db8::1/64", "bits are set behind the prefix; write \"2001:db8::/64\""),
            ("0.0.0.1/0", "bits are set behind the prefix; write \"0.0.0.0/0\""),
            ("::ffff:192.0.2.1", "an IPv4 address in IPv6 form; write \"192.0.2.1\""),
            ("::ffff:192.0.2.9/120", "an IPv4 address in IPv6 form; write \"192.0.2.0/24\""),
            ("224.0.0.5", "a multicast address"),
            ("224.0.0.0/4", "a multicast address"),
            ("ff02::1%eth0", "a multicast address"),
            ("255.255.255.255", "the broadcast address"),
            (
                "0.0.0.0",
                "the unspecified address is nobody's; write the neighbour's address, or \"0.0.0.0/0\"",
            ),
            ("::", "the unspecified address is nobody's; write the neighbour's address, or \"::/0\""),
            ("127.0.0.1", "a loopback address"),
            ("127.0.0.0/8", "a loopback address"),
            ("::1", "a loopback address"),
            ("fe80::1", "a link-local address needs its interface; write it as \"fe80::1%eth0\""),
            ("fe80::/64", "a link-local address needs its interface; write it as \"fe80::/64%eth0\""),
            ("fe80::1%", "not the name of an interface"),
            ("fe80::1%a b", "not the name of an interface"),
            ("fe80::1%sixteen-letters-", "not the name of an interface"),
            ("fe80::1%..", "not the name of an interface"),
        ] {
            let error = error(text);
            assert!(error.starts_with(start), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_field_may_name_the_interface() {
        let parse = |text, field| Peer::parse(text, Some(field));
        assert_eq!(parse("fe80::1", "eth0").unwrap().to_string(), "fe80::1%eth0");
        assert_eq!(parse("fe80::1%eth0", "eth0").unwrap().to_string(), "fe80::1%eth0");
        assert_eq!(parse("192.0.2.1", "eth0").unwrap().to_string(), "192.0.2.1%eth0");
        assert_eq!(parse("fe80::1%eth0", "eth1"), Err(PeerError::TwoInterfaces));
        assert_eq!(parse("fe80::1", ""), Err(PeerError::InterfaceName));
    }

    #[test]
    fn a_prefix_contains_what_is_in_it() {
        let contains = |prefix: &str, other: &str| {
            prefix.parse::<Peer>().unwrap().contains(&other.parse::<Peer>().unwrap())
        };
        assert!(contains("192.0.2.0/24", "192.0.2.255"));
        assert!(contains("192.0.2.0/24", "192.0.2.0/24"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(!contains("192.0.2.0/24", "192.0.3.0"));
        assert!(!contains("192.0.2.0/24", "192.0.0.0/16"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
    }
}
