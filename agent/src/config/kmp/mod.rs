//! Keys that are agreed by a TLS handshake: what a neighbour's table says of it.

pub use problem::KmpProblem;

use std::{path::PathBuf, time::Duration};

use tcpauth_common::Algorithm;

mod credential;
pub(super) mod fields;
mod identity;
mod problem;
pub(super) mod resolve;
pub(super) mod trial;
pub(super) mod warning;

/// How keys are agreed with a neighbour (`key-management = "external"` or `"layered"`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kmp {
    /// TCP port of the channel between the two daemons, at its server's end.
    pub port: u16,
    /// Our end's address of the channel; `None`: that of the session that needs keys, or what routing says.
    pub local_address: Option<std::net::IpAddr>,
    /// What becomes of a new connection when no keys can be agreed.
    pub fallback: Fallback,
    /// Age of traffic keys at which new ones are agreed.
    pub rekey_interval: Duration,
    /// Segments sealed or verified with traffic keys, either, after which new ones are agreed; `None`: any number.
    pub rekey_segments: Option<u64>,
    /// MAC algorithms that may be agreed on, the best first; not empty, no algorithm twice.
    pub algorithms: Vec<Algorithm>,
    /// The handshake.
    pub tls: Tls,
}

/// What becomes of a new connection when no keys can be agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It waits, and is refused in the end.
    #[default]
    Never,
    /// It gets keys derived from the password, as with `key-management = "implicit"`.
    Implicit,
}

impl Kmp {
    /// Whether the neighbour's secret authenticates the handshake.
    pub fn is_psk(&self) -> bool {
        matches!(self.tls.authentication, Authentication::Psk { .. })
    }
}

impl Fallback {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Never, Self::Implicit];

    /// The name used in the configuration and the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Implicit => "implicit",
        }
    }
}

/// How the two daemons prove to each other who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// By what.
    pub authentication: Authentication,
    /// Names of the cipher suites that may be used, as in the IANA registry, the best first; not empty.
    pub suites: Vec<&'static str>,
}

/// By what a daemon knows its neighbour's. Holds no secret: those are in the neighbour's key chain, or in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// By the neighbour's secret (RFC 4279, RFC 8446).
    Psk {
        /// What we call ourselves; `None`: our end's address as text.
        identity: Option<String>,
        /// What the neighbour calls itself; `None`: its address as text.
        peer_identity: Option<String>,
        /// For the RSA_PSK suites; `None` without them.
        rsa: Option<Rsa>,
    },
    /// By an Ed25519 key of each end (RFC 7250).
    RawPublicKey {
        /// File with our private key, PEM.
        private_key_file: PathBuf,
        /// SHA-256 of the neighbour's public key, as a SubjectPublicKeyInfo in DER.
        peer_fingerprint: [u8; 32],
    },
}

/// Certificates of the RSA_PSK suites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rsa {
    /// Our certificate and private key, PEM, for when we are the server; `None`: we never are, with these suites.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// What is asked of the server's certificate.
    pub validation: Validation,
}

/// What is asked of a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation {
    /// It is signed by a certificate in this file, PEM.
    CaFile(PathBuf),
    /// Its SHA-256, as DER, is this.
    Fingerprint([u8; 32]),
    /// Nothing: the secret alone authenticates (RFC 4279 §4).
    Unvalidated,
}
