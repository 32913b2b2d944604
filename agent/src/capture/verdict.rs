//! What was found of each segment, and the sum of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use tcpauth_common::{KeyId, SeqNumber};

use super::file::Timestamp;

/// A segment of a configured neighbour, and whether it verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Number of its frame in the file, from 1.
    pub frame: u64,
    /// When it was captured, if the file says.
    pub time: Option<Timestamp>,
    /// Source address, and port if it was captured (0 if not).
    pub source: SocketAddr,
    /// Destination address, and port if it was captured (0 if not).
    pub destination: SocketAddr,
    /// Its TCP header, if all of it was captured.
    pub header: Option<TcpHeader>,
    /// Its TCP-AO option, if there is one.
    pub option: Option<AoOption>,
    /// The digest of its TCP-MD5 option, if there is one.
    pub digest: Option<Vec<u8>>,
    /// Whether it verified.
    pub verdict: Verdict,
}

/// What is shown of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    /// The flags octet.
    pub flags: Flags,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Octets of data.
    pub len: usize,
}

/// The flags octet of a TCP header. Shows as in tcpdump: `S`, `S.`, `.`, `P.`, `F.`, `R`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    const URG: u8 = 0x20;
    const ECE: u8 = 0x40;
    const CWR: u8 = 0x80;

    /// Whether one of these bits is set.
    pub(super) fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        const LETTERS: [(u8, &str); 8] = [
            (Flags::FIN, "F"),
            (Flags::SYN, "S"),
            (Flags::RST, "R"),
            (Flags::PSH, "P"),
            (Flags::ACK, "."),
            (Flags::URG, "U"),
            (Flags::ECE, "E"),
            (Flags::CWR, "W"),
        ];
        LETTERS.iter().filter(|(bit, _)| self.has(*bit)).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// A TCP-AO option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AoOption {
    /// KeyID.
    pub key_id: KeyId,
    /// RNextKeyID.
    pub rnext_key_id: KeyId,
    /// The MAC, as long as the option has it.
    pub mac: Vec<u8>,
}

/// Whether a segment verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its MAC is right.
    Verified,
    /// It could not be verified.
    Failed(Failure),
    /// It carries no TCP-AO option, or no TCP-MD5 option of a neighbour whose keys are of that.
    WithoutOption,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified => f.write_str("verified"),
            Self::Failed(failure) => write!(f, "failed: {failure}"),
            Self::WithoutOption => f.write_str("without option"),
        }
    }
}

/// Why a segment with the option, or too little of a segment to tell, could not be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Too little of it is in the file.
    #[error("cut short in the capture")]
    CutShort,
    /// An IP fragment.
    #[error("IP fragment")]
    Fragment,
    /// Headers that contradict themselves.
    #[error("malformed TCP header")]
    Malformed,
    /// More than one segment, as hosts have them before they are cut or after they were joined.
    #[error("merged by segmentation offload: capture on the wire, or with offloads off")]
    Merged,
    /// More than one of TCP-AO and TCP-MD5.
    #[error("authentication option twice")]
    OptionTwice,
    /// The SYN is there, the answer to it is not.
    #[error("SYN-ACK not in the capture: ISNs unknown")]
    SynAckMissing,
    /// The connection began before the capture did.
    #[error("SYN not in the capture: ISNs unknown")]
    SynMissing,
    /// No neighbour's key has this KeyID in this direction.
    #[error("unknown KeyID")]
    UnknownKeyId,
    /// The MAC, which does not cover the checksum, is right; the checksum is not.
    #[error("wrong TCP checksum")]
    WrongChecksum,
    /// The option is not as long as the key's algorithm makes it.
    #[error("wrong option length")]
    WrongLength,
    /// Another key, or an altered or forged segment.
    #[error("wrong MAC")]
    WrongMac,
}

/// What became of all segments. Shows as the summary line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Segments to or from configured neighbours.
    pub segments: u64,
    /// Of these, those whose MAC is right.
    pub verified: u64,
    /// Of these, those that could not be verified, by reason.
    pub failed: BTreeMap<Failure, u64>,
    /// Of these, those without the option.
    pub without_option: u64,
}

impl Summary {
    /// Counts one more.
    pub fn count(&mut self, verdict: Verdict) {
        self.segments += 1;
        match verdict {
            Verdict::Verified => self.verified += 1,
            Verdict::Failed(failure) => *self.failed.entry(failure).or_default() += 1,
            Verdict::WithoutOption => self.without_option += 1,
        }
    }

    /// How many could not be verified, whatever the reason.
    pub fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Whether there were segments and every one verified.
    pub fn is_good(&self) -> bool {
        self.segments > 0 && self.verified == self.segments
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segments, verified, without_option, .. } = self;
        let failed = self.failed();
        write!(
            f,
            "segments {segments}, verified {verified}, failed {failed}, without option {without_option}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_line_is_exact() {
        let mut summary = Summary::default();
        assert_eq!(summary.to_string(), "segments 0, verified 0, failed 0, without option 0");
        assert!(!summary.is_good(), "no segment is no proof");
        summary.count(Verdict::Verified);
        assert!(summary.is_good());
        for failure in [Failure::WrongMac, Failure::CutShort, Failure::WrongMac] {
            summary.count(Verdict::Failed(failure));
        }
        summary.count(Verdict::WithoutOption);
        assert_eq!(summary.to_string(), "segments 5, verified 1, failed 3, without option 1");
        assert!(!summary.is_good());
    }

    #[test]
    fn flags_show_as_in_tcpdump() {
        let shown = [0x02, 0x12, 0x10, 0x18, 0x11, 0x14, 0x04, 0].map(|octet| Flags(octet).to_string());
        assert_eq!(shown, ["S", "S.", ".", "P.", "F.", "R.", "R", "none"]);
    }
}
