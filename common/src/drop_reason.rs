//! Why a segment was refused.

/// Reason for a drop; the number indexes the counters in the maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The segment carries no TCP-AO option.
    NoOption = 0,
    /// No key of the neighbour has the option's KeyID.
    UnknownKeyId = 1,
    /// The MAC does not verify: another key, or a forged or altered segment.
    WrongMac = 2,
    /// The option is not as long as the key's algorithm makes it.
    WrongLength = 3,
    /// The sequence number is outside what the session could accept.
    OutsideWindow = 4,
    /// The hop limit (TTL) is lower than `ttl-security` allows.
    WrongHopLimit = 5,
    /// The option stands twice, or together with TCP-MD5.
    OptionTwice = 6,
    /// Segments arrived merged (GSO or LRO): their MACs are lost.
    Merged = 7,
    /// An IP fragment of a protected session.
    Fragment = 8,
    /// Not a SYN, and no session is known for the quartet.
    NoSession = 9,
    /// Held for keys longer than TCP would wait.
    HeldTooLong = 10,
    /// More segments to hold than the neighbour's rate allows.
    RateLimited = 11,
    /// Headers that contradict themselves.
    Malformed = 12,
    /// An ICMP error about a protected connection (RFC 5925 §7.8).
    Icmp = 13,
    /// From a neighbour whose `interface` is another one.
    WrongInterface = 14,
    /// The ring buffer to the daemon was full.
    Overload = 15,
    /// A segment to forward that claims to come from an address of this host.
    Spoofed = 16,
    /// No key of the neighbour may be used now: all lifetimes have ended, or none has begun.
    NoKey = 17,
    /// Under a key from which the peer has switched away.
    OldKey = 18,
    /// It verified, but keys are agreed on the connection first, and that is not over or has failed.
    Handshake = 19,
    /// A new connection for which there is no room: the neighbor, or all together, have as many sessions as they may have.
    TooManySessions = 20,
    /// Other programs of the CPU, in whose middle this one ran, had all working memory; whose it was was not looked at.
    NoMemory = 21,
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = 22;

    /// Length of every counter array: a power of two, so that a number is in it by a mask.
    pub const SLOTS: usize = 32;

    /// Every reason, at the index that is its number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::NoOption,
        Self::UnknownKeyId,
        Self::WrongMac,
        Self::WrongLength,
        Self::OutsideWindow,
        Self::WrongHopLimit,
        Self::OptionTwice,
        Self::Merged,
        Self::Fragment,
        Self::NoSession,
        Self::HeldTooLong,
        Self::RateLimited,
        Self::Malformed,
        Self::Icmp,
        Self::WrongInterface,
        Self::Overload,
        Self::Spoofed,
        Self::NoKey,
        Self::OldKey,
        Self::Handshake,
        Self::TooManySessions,
        Self::NoMemory,
    ];

    /// The reason numbered `number`, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name shown to operators and used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoOption => "no-option",
            Self::UnknownKeyId => "unknown-key-id",
            Self::WrongMac => "wrong-mac",
            Self::WrongLength => "wrong-length",
            Self::OutsideWindow => "outside-window",
            Self::WrongHopLimit => "wrong-hop-limit",
            Self::OptionTwice => "option-twice",
            Self::Merged => "merged",
            Self::Fragment => "fragment",
            Self::NoSession => "no-session",
            Self::HeldTooLong => "held-too-long",
            Self::RateLimited => "rate-limited",
            Self::Malformed => "malformed",
            Self::Icmp => "icmp",
            Self::WrongInterface => "wrong-interface",
            Self::Overload => "overload",
            Self::Spoofed => "spoofed",
            Self::NoKey => "no-key",
            Self::OldKey => "old-key",
            Self::Handshake => "handshake",
            Self::TooManySessions => "too-many-sessions",
            Self::NoMemory => "no-memory",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_index_the_list() {
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }
}
