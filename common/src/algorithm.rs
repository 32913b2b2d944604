//! MAC algorithms and key derivation functions by name and number.

/// MAC algorithm of a master key tuple. The number is the one stored in the eBPF maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC-SHA-1 cut to 96 bits (RFC 5926, 3.2.1). Native TCP-AO has it everywhere.
    #[default]
    HmacSha1_96 = 1,
    /// AES-128-CMAC cut to 96 bits (RFC 5926, 3.2.2).
    Aes128Cmac96 = 2,
    /// HMAC-SHA-256 cut to 96 bits, KDF in RFC 5926's counter form: Linux's `hmac(sha256)`.
    HmacSha256_96 = 3,
    /// HMAC-SHA-256 cut to 128 bits, KDF by HKDF: draft-ietf-tcpm-tcp-ao-algs.
    HmacSha256_128 = 4,
}

impl Algorithm {
    /// Every algorithm, in the order of the documentation.
    pub const ALL: [Self; 4] =
        [Self::HmacSha1_96, Self::Aes128Cmac96, Self::HmacSha256_96, Self::HmacSha256_128];

    /// The name used in the configuration, the CLI, metrics and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha1_96 => "hmac-sha-1-96",
            Self::Aes128Cmac96 => "aes-128-cmac-96",
            Self::HmacSha256_96 => "hmac-sha-256-96",
            Self::HmacSha256_128 => "hmac-sha-256-128",
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
            _ => None,
        }
    }

    /// MAC length on the wire, in octets.
    #[inline(always)]
    pub const fn mac_len(self) -> usize {
        match self {
            Self::HmacSha256_128 => 16,
            _ => 12,
        }
    }

    /// Length of the whole TCP-AO option, in octets: kind, length, KeyID, RNextKeyID, MAC.
    #[inline(always)]
    pub const fn option_len(self) -> usize {
        4 + self.mac_len()
    }

    /// Length of a traffic key, in octets.
    #[inline(always)]
    pub const fn traffic_key_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 20,
            Self::Aes128Cmac96 => 16,
            Self::HmacSha256_96 | Self::HmacSha256_128 => 32,
        }
    }
}

/// How a traffic key comes from the master key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kdf {
    /// The KDF that belongs to the algorithm: RFC 5926's counter form, or HKDF for
    /// [`Algorithm::HmacSha256_128`].
    #[default]
    Rfc5926,
}

impl Kdf {
    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rfc5926 => "rfc5926",
        }
    }
}
