//! What can be wrong with the fields about keys that are agreed, in words for the operator.

use std::path::PathBuf;

use crate::config::problem::reason;

/// What is wrong, and after a semicolon what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The messages say what each is.
pub enum KmpProblem {
    #[error(
        "{0} is about keys that two daemons agree on; remove it, or write key-management = \"external\" or \"layered\""
    )]
    WithoutAgreement(&'static str),
    #[error(
        "the daemons agree on keys for sockets of this host, and sessions of forwarded have none here; write \
         key-management = \"implicit\", or remove forwarded"
    )]
    Forwarded,
    #[error(
        "layered keys are agreed when a connection begins, and \"accept-until-authenticated\" is for one that is up; \
         write \"drop\", or key-management = \"external\""
    )]
    TakeOver,
    #[error(
        "a layered connection without its handshake is refused, and has nothing to fall back on; write fallback = \
         \"never\", or key-management = \"external\""
    )]
    LayeredFallback,
    #[error(
        "port and kmp-port are the same, and the daemons' channel needs one of its own; give kmp-port another number, \
         the same at both ends"
    )]
    SamePort,
    #[error("kmp-local-address is not an address of a host; write one of this host's own, as \"192.0.2.2\"")]
    LocalAddress,
    #[error("kmp-local-address is of the other IP family; write one of the neighbour's family, or remove it")]
    LocalAddressFamily,
    #[error("{0} is empty; name one at least, or remove {0}")]
    EmptyList(&'static str),
    #[error("the same name is in {0} already; keep one of the two")]
    Twice(&'static str),

    #[error("unknown suite; {}", .0.map_or_else(
        || "write its name in the IANA registry, as \"TLS_AES_128_GCM_SHA256\"".to_owned(),
        |name| format!("did you mean \"{name}\"?")
    ))]
    UnknownSuite(Option<&'static str>),
    #[error("this suite is refused: {0}; use another one, or remove tls.suites for TLS 1.3")]
    RefusedSuite(&'static str),
    #[error(
        "an RSA_PSK suite has a certificate, and nothing says what to ask of it; add tls.ca-file or \
         tls.server-fingerprint, or tls.server-certificate = \"unvalidated\" to trust the secret alone"
    )]
    Unvalidated,
    #[error(
        "{0} is about the certificate of RSA_PSK suites, and tls.suites has none; remove it, or add one of them"
    )]
    WithoutRsaPsk(&'static str),
    #[error("{given} goes with {missing}, which is not given; add it, or remove {given}")]
    HalfCertificate { given: &'static str, missing: &'static str },
    #[error("{first} and {second} are both given; keep one")]
    TwoValidations { first: &'static str, second: &'static str },

    #[error("{field} does not go with tls.authentication = \"{authentication}\"; remove one of them")]
    NotOfAuthentication { field: &'static str, authentication: &'static str },
    #[error("tls.authentication = \"raw-public-key\" needs {field}; add {what}")]
    RawPublicKeyWithout { field: &'static str, what: &'static str },
    #[error(
        "tls.authentication = \"raw-public-key\" cannot use this suite; use {}",
        .0.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
    )]
    NotRawPublicKeySuite(Vec<&'static str>),
    #[error("{0} is empty; give a name, or remove {0} for the address")]
    EmptyIdentity(&'static str),
    #[error("{field} is longer than {limit} characters; use a shorter name on both sides")]
    LongIdentity { field: &'static str, limit: usize },
    #[error(
        "{field} is longer than {limit} octets in UTF-8, which suites of TLS 1.2 do not carry; use a shorter name on both \
         sides, or suites of TLS 1.3 only"
    )]
    LargeIdentity { field: &'static str, limit: usize },
    #[error("{0} begins or ends with white space; remove it on both sides")]
    PaddedIdentity(&'static str),
    #[error("{0} has a character that is not printable; use letters, digits, signs and spaces")]
    UnprintableIdentity(&'static str),
    #[error(
        "a TLS handshake takes a secret of {0} octets at most; use a shorter one on both sides, or tls.authentication = \
         \"raw-public-key\""
    )]
    LongPsk(usize),

    #[error(
        "{0} is not a SHA-256 fingerprint; write its 32 octets in hexadecimal, as `tcpauth key fingerprint` does"
    )]
    NotFingerprint(&'static str),
    #[error("{field} cannot be read: {}; name a file that tcpauthd's user may read \
             (a relative path starts at the configuration's folder)", reason(.kind))]
    FileUnreadable { field: &'static str, kind: std::io::ErrorKind },
    #[error("{0} is not a regular file; give the path of a file in PEM")]
    FileNotRegular(&'static str),
    #[error("{field} can be read or written by others; chmod 600 {}", .path.display())]
    KeyFileOpen { field: &'static str, path: PathBuf },
    #[error("{0}; name another file, or correct it")]
    FileContent(String),
    #[error("{0}; use other suites")]
    UnusableSuites(String),
    #[error("{field} can be written by others; chmod 644 {}", .path.display())]
    FileWritable { field: &'static str, path: PathBuf },
}
