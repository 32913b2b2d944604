//! Why TLS between two daemons failed, in words for an operator.

/// Why a handshake, or the connection after it, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Our configuration or one of its files.
    #[error("{0}")]
    Settings(String),
    /// The peer is the one that we expect, and its secret is not ours.
    #[error("the peer has another secret than we: compare the passwords of both ends")]
    WrongSecret,
    /// The peer found that its secret is not ours, or does not expect the identity that we told; it does not say which.
    #[error(
        "the peer refuses our secret or our identity {identity:?}: compare the passwords of both ends, and our \
         tls.identity with tls.peer-identity of the peer"
    )]
    SecretRefused {
        /// What we call ourselves.
        identity: String,
    },
    /// The peer calls itself something else. It is told the same as one with a wrong secret.
    #[error("the peer calls itself {presented:?}, and tls.peer-identity expects {expected:?}")]
    UnknownIdentity {
        /// What it calls itself, unprintable octets replaced.
        presented: String,
        /// What it should.
        expected: String,
    },
    /// The peer has no secret that it could use with what we ask for.
    #[error("the peer offers no secret that fits: compare tls.authentication and tls.suites of both ends")]
    NoSecret,
    /// The public key of the peer is another one.
    #[error(
        "the peer's public key has the fingerprint {presented}, and tls.peer-fingerprint expects {expected}"
    )]
    WrongPublicKey {
        /// SHA-256 in hex.
        presented: String,
        /// SHA-256 in hex.
        expected: String,
    },
    /// The peer expects another public key.
    #[error("the peer refuses our public key: set tls.peer-fingerprint there to {fingerprint}")]
    PublicKeyRefused {
        /// Of our key: SHA-256 in hex.
        fingerprint: String,
    },
    /// No suite is in the lists of both ends.
    #[error("no cipher suite in common: compare tls.suites and tls.authentication of both ends")]
    NoCommonSuite,
    /// Or no version, which follows from the suites.
    #[error("no TLS version in common: compare tls.suites of both ends, which are of TLS 1.2 or of TLS 1.3")]
    Version,
    /// The server's certificate has expired.
    #[error("the peer's certificate has expired: it needs a new one")]
    CertificateExpired,
    /// It is not one that we trust.
    #[error("the peer's certificate is refused: {0}")]
    Certificate(String),
    /// Our certificate has expired.
    #[error("the peer says that our certificate has expired: make a new tls.certificate-file")]
    OurCertificateExpired,
    /// The peer does not trust our certificate.
    #[error(
        "the peer refuses our certificate ({0}): compare our tls.certificate-file with what the peer trusts"
    )]
    OurCertificate(String),
    /// Keys would not be bound to one handshake (RFC 7627).
    #[error("the peer's TLS 1.2 has no extended master secret, which keys cannot do without: use TLS 1.3")]
    NoExtendedMasterSecret,
    /// The handshake ended well, and the peer has not proved who it is.
    #[error("the peer has not proved who it is")]
    Unauthenticated,
    /// What came is something else.
    #[error("the peer does not speak TLS: is something else listening on the KMP port there?")]
    NotTls,
    /// The peer ended the connection in order.
    #[error("closed by the peer")]
    Closed,
    /// The peer ended the connection for a reason not named above.
    #[error("the peer ended TLS with the alert {0}")]
    Alert(String),
    /// The peer broke the rules of TLS, or what it sent was changed on its way.
    #[error("what the peer sent is no proper TLS: {0}")]
    Protocol(String),
    /// Asked of a connection that is not established.
    #[error("TLS is not established yet")]
    NotEstablished,
    /// OpenSSL or rustls failed by itself.
    #[error("the TLS library failed: {0}")]
    Library(String),
}

impl TlsError {
    /// A failure that concerns a file of the configuration.
    pub fn file(field: &str, path: &std::path::Path, reason: impl std::fmt::Display) -> Self {
        Self::Settings(format!("tls.{field} {}: {reason}", path.display()))
    }
}

/// The name of an alert (RFC 8446 §6; RFC 5246 §7.2).
pub fn alert_name(alert: u8) -> String {
    let name = match alert {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        other => return format!("number {other}"),
    };
    name.to_owned()
}
