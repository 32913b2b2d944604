//! A TCP segment, taken apart and put together.

use tcpauth_common::option::{BASE_HEADER, Header, OptionWalk, kind};

/// What a handshake needs of a TCP segment, whatever its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; counts with the flag ACK.
    pub ack: u32,
    /// The flags octet.
    pub flags: u8,
    /// The window field, unscaled.
    pub window: u16,
    /// The timestamps option (RFC 7323).
    pub timestamps: Option<Timestamps>,
    /// Data.
    pub data: Vec<u8>,
}

/// What a timestamps option holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: what the sender last had from its peer.
    pub echo: u32,
}

impl Segment {
    /// Of `octets`, TCP header and data; `None` if the header contradicts itself.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let header = Header::of_segment(octets)?;
        let options = OptionWalk::run(&header);
        if options.malformed != 0 {
            return None;
        }
        let number32 = |at| u32::from(header.number16(at)) << 16 | u32::from(header.number16(at + 2));
        let at = options.timestamps_at;
        let timestamps = (at != 0).then(|| Timestamps { value: number32(at + 2), echo: number32(at + 6) });
        Some(Self {
            seq: number32(4),
            ack: number32(8),
            flags: header.octet(13),
            window: header.number16(14),
            timestamps,
            data: octets.get(header.len_by_offset() as usize..)?.to_vec(),
        })
    }

    /// TCP header and data, with these ports and a checksum of 0.
    pub fn octets(&self, source_port: u16, destination_port: u16) -> Vec<u8> {
        let options = self.timestamps.map_or(Vec::new(), |Timestamps { value, echo }| {
            let head = [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10];
            [head, value.to_be_bytes(), echo.to_be_bytes()].concat()
        });
        let header_len = BASE_HEADER as usize + options.len();
        let mut octets = Vec::with_capacity(header_len + self.data.len());
        octets.extend(source_port.to_be_bytes());
        octets.extend(destination_port.to_be_bytes());
        octets.extend(self.seq.to_be_bytes());
        octets.extend(self.ack.to_be_bytes());
        octets.extend([(header_len as u8 / 4) << 4, self.flags]);
        octets.extend(self.window.to_be_bytes());
        // Checksum and urgent pointer.
        octets.extend([0; 4]);
        octets.extend(options);
        octets.extend(&self.data);
        octets
    }
}
