//! A held frame, taken apart.

use std::net::{IpAddr, Ipv6Addr};

use tcpauth_common::{
    DropReason, Isn, KeyId,
    layout::{Direction, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Held, KeyMaterial, Quartet},
    option::{Header, OptionWalk},
};

use crate::keys::{
    Mkt,
    segment::{SegmentError, is_same_mac, segment_mac},
};

const IPV6_HEADER: usize = 40;

/// A TCP segment in a held frame: all its lengths agree with each other.
pub struct Segment<'a> {
    /// TCP header and data, without what Ethernet padded.
    octets: &'a [u8],
    header: Header,
    options: OptionWalk,
    hop_limit: u8,
}

/// What the TCP-AO option of a segment says of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// KeyID: the key that signed the segment.
    pub key_id: KeyId,
    /// RNextKeyID: the key that its sender wishes to be answered with.
    pub rnext_id: KeyId,
    /// Length of the whole option, octets.
    pub len: usize,
}

impl<'a> Segment<'a> {
    /// Finds the segment of a held frame.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if offsets, lengths or options contradict each other or the record.
    pub fn parse(held: &Held, frame: &'a [u8]) -> Result<Self, DropReason> {
        Self::find(held, frame).ok_or(DropReason::Malformed)
    }

    fn find(held: &Held, frame: &'a [u8]) -> Option<Self> {
        let l4_in_l3 = usize::from(held.l4_offset).checked_sub(usize::from(held.l3_offset))?;
        let packet = frame.get(usize::from(held.l3_offset)..)?;
        let (total_len, hop_limit, shortest) = match held.ethertype {
            ETHERTYPE_IPV4 => (number16(packet, 2)?, *packet.get(8)?, 20),
            ETHERTYPE_IPV6 => (IPV6_HEADER + number16(packet, 4)?, *packet.get(7)?, IPV6_HEADER),
            _ => return None,
        };
        if l4_in_l3 < shortest {
            return None;
        }
        let octets = packet.get(l4_in_l3..total_len)?;
        let header = Header::of_segment(octets)?;
        let options = OptionWalk::run(&header);
        if options.malformed != 0 {
            return None;
        }
        let (local, peer) = (held.quartet.local_port, held.quartet.peer_port);
        let wanted = if held.direction == Direction::Outbound as u8 { (local, peer) } else { (peer, local) };
        let segment = Self { octets, header, options, hop_limit };
        ((header.number16(0), header.number16(2)) == wanted).then_some(segment)
    }

    /// Sequence number.
    pub fn seq(&self) -> u32 {
        self.number32(4)
    }

    /// Acknowledgment number.
    pub fn ack(&self) -> u32 {
        self.number32(8)
    }

    /// The flags octet.
    pub fn flags(&self) -> u8 {
        self.header.octet(13)
    }

    /// The window field, unscaled.
    pub fn window(&self) -> u16 {
        self.header.number16(14)
    }

    /// The window scale option's shift, 0 to 14; 0 if there is none.
    pub fn window_scale(&self) -> u32 {
        self.options.wscale_plus_1.saturating_sub(1)
    }

    /// The sequence number, of a segment that carries its sender's ISN.
    pub fn isn(&self) -> Isn {
        Isn(self.seq())
    }

    /// The hop limit or TTL of the packet.
    pub fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    /// The one TCP-AO option.
    ///
    /// # Errors
    /// The reason for which the segment has to be dropped.
    pub fn option(&self) -> Result<Signature, DropReason> {
        if self.options.authentications > 1 {
            return Err(DropReason::OptionTwice);
        }
        if self.options.ao_at == 0 {
            return Err(DropReason::NoOption);
        }
        if self.options.ao_len < 4 {
            return Err(DropReason::WrongLength);
        }
        Ok(Signature {
            key_id: KeyId(self.header.octet(self.options.ao_at + 2)),
            rnext_id: KeyId(self.header.octet(self.options.ao_at + 3)),
            len: self.options.ao_len as usize,
        })
    }

    /// Checks the MAC of a segment that came from the peer and has one [`Self::option`]. Its SNE
    /// is 0, as of every segment that carries an ISN.
    ///
    /// # Errors
    /// [`DropReason::WrongMac`].
    pub fn check_mac(&self, mkt: &Mkt, quartet: &Quartet, key: &KeyMaterial) -> Result<(), DropReason> {
        let at = self.options.ao_at as usize + 4;
        let found = self.octets.get(at..at + mkt.algorithm.mac_len()).ok_or(DropReason::WrongLength)?;
        let (source, destination) = (address(quartet.peer), address(quartet.local));
        let exclude = mkt.excludes_options();
        let computed = segment_mac(key, mkt.algorithm, exclude, 0, source, destination, self.octets)
            .map_err(SegmentError::drop_reason)?;
        if is_same_mac(mkt.algorithm, &computed, found) { Ok(()) } else { Err(DropReason::WrongMac) }
    }

    /// The option's KeyID, if there is an option.
    pub fn key_id(&self) -> Option<KeyId> {
        (self.options.ao_at != 0 && self.options.ao_len >= 4)
            .then(|| KeyId(self.header.octet(self.options.ao_at + 2)))
    }

    fn number32(&self, at: u32) -> u32 {
        (u32::from(self.header.number16(at)) << 16) | u32::from(self.header.number16(at + 2))
    }
}

/// An address of a map's key: IPv4-mapped is IPv4.
pub fn address(octets: [u8; 16]) -> IpAddr {
    let address = Ipv6Addr::from(octets);
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

fn number16(octets: &[u8], at: usize) -> Option<usize> {
    let pair = octets.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes([pair[0], pair[1]])))
}
