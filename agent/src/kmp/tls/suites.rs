//! Cipher suites that two daemons may agree on, and those of RFC 4279 that are refused.

/// One cipher suite.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// Its name in the IANA registry.
    pub name: &'static str,
    /// Its number there.
    pub number: u16,
    /// How the two ends get a secret.
    pub exchange: KeyExchange,
    /// The hash of its key schedule: SHA-384, or else SHA-256 (TLS 1.2: of its PRF).
    pub sha384: bool,
    /// OpenSSL's name for it, or why it is refused.
    pub support: Support,
}

/// Whether a suite may be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It may; this is OpenSSL's name for it.
    OpenSsl(&'static str),
    /// It may not, for this reason.
    Refused(&'static str),
}

/// How the two ends of a suite get a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// TLS 1.3, `psk_dhe_ke` (RFC 8446 §4.2.9): the PSK authenticates X25519.
    Tls13,
    /// The PSK alone, no forward secrecy (RFC 4279 §2).
    Psk,
    /// The PSK authenticates Diffie-Hellman (RFC 4279 §3).
    DhePsk,
    /// The PSK authenticates X25519 (RFC 5489).
    EcdhePsk,
    /// The PSK, and a secret under the server's RSA key; no forward secrecy (RFC 4279 §4).
    RsaPsk,
}

impl KeyExchange {
    /// Whether it is one of TLS 1.3, and not of TLS 1.2.
    pub const fn is_tls13(self) -> bool {
        matches!(self, Self::Tls13)
    }

    /// Whether old traffic stays secret after the PSK and the server's key were learnt.
    pub const fn has_forward_secrecy(self) -> bool {
        matches!(self, Self::Tls13 | Self::DhePsk | Self::EcdhePsk)
    }

    /// Whether the server has a certificate.
    pub const fn has_certificate(self) -> bool {
        matches!(self, Self::RsaPsk)
    }
}

impl Suite {
    /// OpenSSL's name; `None`: it is refused.
    pub const fn openssl(&self) -> Option<&'static str> {
        match self.support {
            Support::OpenSsl(name) => Some(name),
            Support::Refused(_) => None,
        }
    }

    /// Why it is refused, if it is.
    pub const fn refused(&self) -> Option<&'static str> {
        match self.support {
            Support::OpenSsl(_) => None,
            Support::Refused(reason) => Some(reason),
        }
    }
}

/// The suite of this name in the IANA registry.
pub fn suite(name: &str) -> Option<&'static Suite> {
    ALL.iter().find(|suite| suite.name == name)
}

/// What is used if the configuration names none.
pub const DEFAULT: [&str; 1] = ["TLS_AES_128_GCM_SHA256"];

const RC4: Support = Support::Refused("RC4 is broken (RFC 7465)");
const TRIPLE_DES: Support =
    Support::Refused("3DES is broken: its blocks of 64 bits repeat too soon (Sweet32, RFC 8429)");

const fn with(
    name: &'static str,
    number: u16,
    exchange: KeyExchange,
    sha384: bool,
    openssl: &'static str,
) -> Suite {
    Suite { name, number, exchange, sha384, support: Support::OpenSsl(openssl) }
}

const fn refused(name: &'static str, number: u16, exchange: KeyExchange, support: Support) -> Suite {
    Suite { name, number, exchange, sha384: false, support }
}

/// Every suite that is known by name.
pub const ALL: &[Suite] = {
    use KeyExchange::{DhePsk, EcdhePsk, Psk, RsaPsk, Tls13};
    &[
        // RFC 8446
        with("TLS_AES_128_GCM_SHA256", 0x1301, Tls13, false, "TLS_AES_128_GCM_SHA256"),
        with("TLS_AES_256_GCM_SHA384", 0x1302, Tls13, true, "TLS_AES_256_GCM_SHA384"),
        with("TLS_CHACHA20_POLY1305_SHA256", 0x1303, Tls13, false, "TLS_CHACHA20_POLY1305_SHA256"),
        with("TLS_AES_128_CCM_SHA256", 0x1304, Tls13, false, "TLS_AES_128_CCM_SHA256"),
        // RFC 4279
        refused("TLS_PSK_WITH_RC4_128_SHA", 0x008a, Psk, RC4),
        refused("TLS_PSK_WITH_3DES_EDE_CBC_SHA", 0x008b, Psk, TRIPLE_DES),
        with("TLS_PSK_WITH_AES_128_CBC_SHA", 0x008c, Psk, false, "PSK-AES128-CBC-SHA"),
        with("TLS_PSK_WITH_AES_256_CBC_SHA", 0x008d, Psk, false, "PSK-AES256-CBC-SHA"),
        refused("TLS_DHE_PSK_WITH_RC4_128_SHA", 0x008e, DhePsk, RC4),
        refused("TLS_DHE_PSK_WITH_3DES_EDE_CBC_SHA", 0x008f, DhePsk, TRIPLE_DES),
        with("TLS_DHE_PSK_WITH_AES_128_CBC_SHA", 0x0090, DhePsk, false, "DHE-PSK-AES128-CBC-SHA"),
        with("TLS_DHE_PSK_WITH_AES_256_CBC_SHA", 0x0091, DhePsk, false, "DHE-PSK-AES256-CBC-SHA"),
        refused("TLS_RSA_PSK_WITH_RC4_128_SHA", 0x0092, RsaPsk, RC4),
        refused("TLS_RSA_PSK_WITH_3DES_EDE_CBC_SHA", 0x0093, RsaPsk, TRIPLE_DES),
        with("TLS_RSA_PSK_WITH_AES_128_CBC_SHA", 0x0094, RsaPsk, false, "RSA-PSK-AES128-CBC-SHA"),
        with("TLS_RSA_PSK_WITH_AES_256_CBC_SHA", 0x0095, RsaPsk, false, "RSA-PSK-AES256-CBC-SHA"),
        // RFC 5487
        with("TLS_PSK_WITH_AES_128_GCM_SHA256", 0x00a8, Psk, false, "PSK-AES128-GCM-SHA256"),
        with("TLS_PSK_WITH_AES_256_GCM_SHA384", 0x00a9, Psk, true, "PSK-AES256-GCM-SHA384"),
        with("TLS_DHE_PSK_WITH_AES_128_GCM_SHA256", 0x00aa, DhePsk, false, "DHE-PSK-AES128-GCM-SHA256"),
        with("TLS_DHE_PSK_WITH_AES_256_GCM_SHA384", 0x00ab, DhePsk, true, "DHE-PSK-AES256-GCM-SHA384"),
        with("TLS_RSA_PSK_WITH_AES_128_GCM_SHA256", 0x00ac, RsaPsk, false, "RSA-PSK-AES128-GCM-SHA256"),
        with("TLS_RSA_PSK_WITH_AES_256_GCM_SHA384", 0x00ad, RsaPsk, true, "RSA-PSK-AES256-GCM-SHA384"),
        with("TLS_PSK_WITH_AES_128_CBC_SHA256", 0x00ae, Psk, false, "PSK-AES128-CBC-SHA256"),
        with("TLS_PSK_WITH_AES_256_CBC_SHA384", 0x00af, Psk, true, "PSK-AES256-CBC-SHA384"),
        with("TLS_DHE_PSK_WITH_AES_128_CBC_SHA256", 0x00b2, DhePsk, false, "DHE-PSK-AES128-CBC-SHA256"),
        with("TLS_DHE_PSK_WITH_AES_256_CBC_SHA384", 0x00b3, DhePsk, true, "DHE-PSK-AES256-CBC-SHA384"),
        with("TLS_RSA_PSK_WITH_AES_128_CBC_SHA256", 0x00b6, RsaPsk, false, "RSA-PSK-AES128-CBC-SHA256"),
        with("TLS_RSA_PSK_WITH_AES_256_CBC_SHA384", 0x00b7, RsaPsk, true, "RSA-PSK-AES256-CBC-SHA384"),
        // RFC 5489
        refused("TLS_ECDHE_PSK_WITH_RC4_128_SHA", 0xc033, EcdhePsk, RC4),
        refused("TLS_ECDHE_PSK_WITH_3DES_EDE_CBC_SHA", 0xc034, EcdhePsk, TRIPLE_DES),
        with("TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA", 0xc035, EcdhePsk, false, "ECDHE-PSK-AES128-CBC-SHA"),
        with("TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA", 0xc036, EcdhePsk, false, "ECDHE-PSK-AES256-CBC-SHA"),
        with("TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256", 0xc037, EcdhePsk, false, "ECDHE-PSK-AES128-CBC-SHA256"),
        with("TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA384", 0xc038, EcdhePsk, true, "ECDHE-PSK-AES256-CBC-SHA384"),
        // RFC 7905
        with("TLS_PSK_WITH_CHACHA20_POLY1305_SHA256", 0xccab, Psk, false, "PSK-CHACHA20-POLY1305"),
        with(
            "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
            0xccac,
            EcdhePsk,
            false,
            "ECDHE-PSK-CHACHA20-POLY1305",
        ),
        with("TLS_DHE_PSK_WITH_CHACHA20_POLY1305_SHA256", 0xccad, DhePsk, false, "DHE-PSK-CHACHA20-POLY1305"),
        with("TLS_RSA_PSK_WITH_CHACHA20_POLY1305_SHA256", 0xccae, RsaPsk, false, "RSA-PSK-CHACHA20-POLY1305"),
    ]
};

#[cfg(test)]
mod tests {
    use openssl::ssl::{Ssl, SslContext, SslMethod};

    use super::*;

    #[test]
    fn names_and_numbers_are_those_that_openssl_has() {
        let context = SslContext::builder(SslMethod::tls()).expect("context").build();
        let ssl = Ssl::new(&context).expect("connection");
        for suite in ALL {
            let Some(name) = suite.openssl() else { continue };
            let found = ssl.bytes_to_cipher_list(&suite.number.to_be_bytes(), false).expect(name).suites;
            let cipher = found.get(0).expect("known by its number");
            assert_eq!((cipher.name(), cipher.standard_name()), (name, Some(suite.name)));
            let sha384 = cipher.handshake_digest().is_some_and(|digest| digest.size() == 48);
            assert_eq!(suite.sha384, sha384, "{name}");
        }
    }

    #[test]
    fn broken_ciphers_are_known_and_refused() {
        let refused: Vec<_> = ALL.iter().filter(|suite| suite.refused().is_some()).collect();
        assert_eq!(refused.len(), 8);
        for suite in ALL {
            let broken = suite.name.contains("RC4") || suite.name.contains("3DES");
            assert_eq!(suite.refused().is_some(), broken, "{}", suite.name);
            assert_eq!(suite.openssl().is_none(), broken, "{}", suite.name);
        }
    }

    #[test]
    fn each_suite_is_found_by_its_name_and_there_once() {
        for (place, one) in ALL.iter().enumerate() {
            assert_eq!(suite(one.name), Some(one));
            assert!(ALL[place + 1..].iter().all(|other| other.number != one.number), "{}", one.name);
        }
        assert_eq!(suite("PSK-AES128-CBC-SHA"), None);
        assert!(DEFAULT.iter().all(|name| suite(name).is_some_and(|suite| suite.refused().is_none())));
    }
}
