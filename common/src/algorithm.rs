//! MAC algorithms and key derivation functions by name and number.

/// MAC algorithm of a master key tuple. The number is the one stored in the eBPF maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC-SHA-1 cut to 96 bits (RFC 5926 §3.2.1). Native TCP-AO has it everywhere.
    #[default]
    HmacSha1_96 = 1,
    /// AES-128-CMAC cut to 96 bits (RFC 5926 §3.2.2).
    Aes128Cmac96 = 2,
    /// HMAC-SHA-256 cut to 96 bits, KDF in RFC 5926's counter form: Linux's `hmac(sha256)`.
    HmacSha256_96 = 3,
    /// HMAC-SHA-256 cut to 128 bits, KDF by HKDF: draft-ietf-tcpm-tcp-ao-algs.
    HmacSha256_128 = 4,
    /// SipHash-2-4 with an output of 128 bits, cut to 96: tcpauth's own, the fast one.
    SipHash2_4_96 = 5,
    /// Keyed MD5 in the option of RFC 2385, which has room for no KeyID: never in TCP-AO.
    Md5 = 6,
}

impl Algorithm {
    /// Every algorithm, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::HmacSha1_96,
        Self::Aes128Cmac96,
        Self::HmacSha256_96,
        Self::HmacSha256_128,
        Self::SipHash2_4_96,
        Self::Md5,
    ];

    /// Those whose MAC the TCP-AO option carries.
    pub const TCP_AO: [Self; 5] = [
        Self::HmacSha1_96,
        Self::Aes128Cmac96,
        Self::HmacSha256_96,
        Self::HmacSha256_128,
        Self::SipHash2_4_96,
    ];

    /// Those of TCP-AO, the best first: what a daemon offers its neighbour's. The longest MAC comes first, the one that
    /// was made for speed and not for the net comes last.
    pub const BY_PREFERENCE: [Self; 5] = [
        Self::HmacSha256_128,
        Self::HmacSha256_96,
        Self::Aes128Cmac96,
        Self::HmacSha1_96,
        Self::SipHash2_4_96,
    ];

    /// The name used in the configuration, the CLI, metrics and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha1_96 => "hmac-sha-1-96",
            Self::Aes128Cmac96 => "aes-128-cmac-96",
            Self::HmacSha256_96 => "hmac-sha-256-96",
            Self::HmacSha256_128 => "hmac-sha-256-128",
            Self::SipHash2_4_96 => "siphash-2-4-96",
            Self::Md5 => "md5",
        }
    }

    /// The algorithm called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The algorithm numbered `number` in the maps, if there is one.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::HmacSha1_96),
            2 => Some(Self::Aes128Cmac96),
            3 => Some(Self::HmacSha256_96),
            4 => Some(Self::HmacSha256_128),
            5 => Some(Self::SipHash2_4_96),
            6 => Some(Self::Md5),
            _ => None,
        }
    }

    /// MAC length on the wire, in octets.
    #[inline(always)]
    pub const fn mac_len(self) -> usize {
        match self {
            Self::HmacSha256_128 | Self::Md5 => 16,
            Self::HmacSha1_96 | Self::Aes128Cmac96 | Self::HmacSha256_96 | Self::SipHash2_4_96 => 12,
        }
    }

    /// Room that the option takes in a header, in octets. TCP-AO: kind, length, KeyID, RNextKeyID, MAC. TCP-MD5:
    /// two NOPs that fill whole words, kind, length, digest.
    #[inline(always)]
    pub const fn option_len(self) -> usize {
        4 + self.mac_len()
    }

    /// The most that any algorithm's option takes. A session may move from each to each, but its MSS is agreed on once.
    pub const MOST_OPTION_LEN: usize = 20;

    /// Length of a traffic key that is derived, in octets; 0 for [`Algorithm::Md5`], whose key is the password.
    #[inline(always)]
    pub const fn traffic_key_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 20,
            Self::Aes128Cmac96 | Self::SipHash2_4_96 => 16,
            Self::HmacSha256_96 | Self::HmacSha256_128 => 32,
            Self::Md5 => 0,
        }
    }
}

/// How a traffic key comes from the master key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kdf {
    /// The KDF that belongs to the algorithm: RFC 5926's counter form, or HKDF for
    /// [`Algorithm::HmacSha256_128`]. A key for each direction of each connection.
    #[default]
    Rfc5926,
    /// One key for both directions of a connection, from the quartet and both ISNs
    /// (draft-rescorla-tcp-auth-arch-00, 6.1.2).
    Isn,
    /// The master key itself, the same for every connection (draft-rescorla-tcp-auth-arch-00, 6.1.1).
    None,
}

impl Kdf {
    /// Every KDF, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Rfc5926, Self::Isn, Self::None];

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rfc5926 => "rfc5926",
            Self::Isn => "isn",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back_to_the_algorithm() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::from_number(algorithm as u8), Some(algorithm));
        }
        assert_eq!(Algorithm::from_name("siphash-2-4-96"), Some(Algorithm::SipHash2_4_96));
        assert_eq!(Algorithm::from_name("md5"), Some(Algorithm::Md5));
        assert_eq!((Algorithm::from_number(0), Algorithm::from_number(7)), (None, None));
    }

    #[test]
    fn every_algorithm_but_md5_is_of_tcp_ao() {
        let of_tcp_ao: Vec<_> = Algorithm::ALL.into_iter().filter(|a| *a != Algorithm::Md5).collect();
        assert_eq!(of_tcp_ao, Algorithm::TCP_AO);
        for algorithm in Algorithm::TCP_AO {
            assert_eq!(Algorithm::BY_PREFERENCE.into_iter().filter(|a| *a == algorithm).count(), 1);
        }
    }

    #[test]
    fn an_option_fills_whole_words() {
        assert_eq!(Algorithm::ALL.map(Algorithm::option_len), [16, 16, 16, 20, 16, 20]);
        assert_eq!(
            Algorithm::ALL.map(Algorithm::option_len).into_iter().max(),
            Some(Algorithm::MOST_OPTION_LEN)
        );
    }
}
