//! A held frame, taken apart.

use std::net::{IpAddr, Ipv6Addr};

use tcpauth_common::{
    Algorithm, DropReason, Isn, KeyId,
    layout::{Direction, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Held, KeyMaterial, Quartet},
    option::{Header, OptionWalk},
};

use crate::{
    config::Wire,
    keys::{
        Mkt,
        segment::{SegmentError, is_same_mac, md5, segment_mac},
    },
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

/// What the option of a segment says of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// TCP-AO.
    Ao {
        /// KeyID: the key that signed the segment.
        key_id: KeyId,
        /// RNextKeyID: the key that its sender wishes to be answered with.
        rnext_id: KeyId,
        /// Length of the whole option, octets.
        len: usize,
    },
    /// TCP-MD5: nothing.
    Md5,
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

    /// Whether there is a window scale option.
    pub fn scales_window(&self) -> bool {
        self.options.wscale_plus_1 != 0
    }

    /// TCP header and data.
    pub fn octets(&self) -> &'a [u8] {
        self.octets
    }

    /// The sequence number, of a segment that carries its sender's ISN.
    pub fn isn(&self) -> Isn {
        Isn(self.seq())
    }

    /// The hop limit or TTL of the packet.
    pub fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    /// What the one option of this wire says.
    ///
    /// # Errors
    /// The reason for which the segment has to be dropped.
    pub fn signature(&self, wire: Wire) -> Result<Signature, DropReason> {
        if self.options.authentications > 1 {
            return Err(DropReason::OptionTwice);
        }
        match wire {
            Wire::TcpMd5 if self.options.md5_at != 0 => Ok(Signature::Md5),
            // TCP-MD5 of another length than it has.
            Wire::TcpMd5 if self.options.authentications == 1 && self.options.ao_at == 0 => {
                Err(DropReason::WrongLength)
            }
            Wire::TcpAo if self.options.ao_at != 0 && self.options.ao_len < 4 => Err(DropReason::WrongLength),
            Wire::TcpAo if self.options.ao_at != 0 => Ok(Signature::Ao {
                key_id: KeyId(self.header.octet(self.options.ao_at + 2)),
                rnext_id: KeyId(self.header.octet(self.options.ao_at + 3)),
                len: self.options.ao_len as usize,
            }),
            Wire::TcpAo | Wire::TcpMd5 => Err(DropReason::NoOption),
        }
    }

    /// Checks the MAC of a segment that came from the peer under TCP-AO. Its SNE
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

    /// Checks the digest of a segment that came from the peer under TCP-MD5.
    ///
    /// # Errors
    /// [`DropReason::WrongMac`].
    pub fn check_digest(&self, mkt: &Mkt, quartet: &Quartet) -> Result<(), DropReason> {
        let at = md5::parse_option(self.octets).map_err(SegmentError::drop_reason)?;
        let (source, destination) = (address(quartet.peer), address(quartet.local));
        let computed = md5::digest(mkt.master_key.octets(), source, destination, self.octets)
            .map_err(SegmentError::drop_reason)?;
        let is_same = is_same_mac(Algorithm::Md5, &computed, &self.octets[at]);
        if is_same { Ok(()) } else { Err(DropReason::WrongMac) }
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
