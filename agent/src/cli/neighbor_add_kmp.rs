//! The options of `tcpauth neighbor add` about keys that two daemons agree on.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use serde::Serialize;
use tcpauth_common::Algorithm;

use super::failure::Failure;
use crate::config::Fallback;

/// How keys are agreed with a neighbour to add.
#[derive(clap::Args)]
#[command(next_help_heading = "Options for keys that the two daemons agree on (external, layered)")]
pub struct KmpArgs {
    /// TCP port of the channel between the daemons, the same at both ends [default: 17179]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub kmp_port: Option<u16>,
    /// Our address of that channel [default: that of the session]
    #[arg(long, value_name = "ADDRESS")]
    pub kmp_local_address: Option<std::net::IpAddr>,
    /// What becomes of a connection when no keys can be agreed on [default: never]
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(Fallback::ALL.map(Fallback::name)))]
    pub fallback: Option<String>,
    /// New keys for a session that is up after so many seconds [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub rekey_interval: Option<u32>,
    /// New keys after so many segments, too
    #[arg(long, value_name = "COUNT")]
    pub rekey_segments: Option<u64>,
    /// MAC algorithms that may be agreed on, the best first [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = PossibleValuesParser::new(Algorithm::BY_PREFERENCE.map(Algorithm::name)))]
    pub algorithms: Vec<String>,
    /// By what the ends know each other [default: psk]
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(["psk", "raw-public-key"]))]
    pub tls_authentication: Option<String>,
    /// What we call ourselves [default: our address]
    #[arg(long, value_name = "NAME")]
    pub tls_identity: Option<String>,
    /// What the neighbor calls itself [default: its address]
    #[arg(long, value_name = "NAME")]
    pub tls_peer_identity: Option<String>,
    /// Cipher suites by their IANA names, the best first [default: of TLS 1.3]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub tls_suites: Vec<String>,
    /// Our private key, PEM, as `genkey --raw-public-key` makes it; with raw-public-key
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// SHA-256 of the neighbor's public key in hex, as `key fingerprint` says there; with raw-public-key
    #[arg(long, value_name = "HEX")]
    pub tls_peer_fingerprint: Option<String>,
    /// Our certificate, PEM, for RSA_PSK suites
    #[arg(long, value_name = "FILE", requires = "tls_certificate_key_file")]
    pub tls_certificate_file: Option<PathBuf>,
    /// The private key of our certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate_file")]
    pub tls_certificate_key_file: Option<PathBuf>,
    /// Certificates that sign the neighbor's, PEM, for RSA_PSK suites
    #[arg(long, value_name = "FILE", group = "validation")]
    pub tls_ca_file: Option<PathBuf>,
    /// SHA-256 of the neighbor's certificate in hex, for RSA_PSK suites
    #[arg(long, value_name = "HEX", group = "validation")]
    pub tls_server_fingerprint: Option<String>,
    /// Ask nothing of the neighbor's certificate: the secret alone proves who it is
    #[arg(long, group = "validation")]
    pub tls_server_unvalidated: bool,
}

/// The fields in the neighbour's table.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KmpFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kmp_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kmp_local_address: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rekey_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rekey_segments: Option<u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    algorithms: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsFields<'a>>,
}

/// Its table `tls`.
#[derive(Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct TlsFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_identity: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    suites: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_fingerprint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_fingerprint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_certificate: Option<&'a str>,
}

impl KmpArgs {
    /// The fields; paths in them are absolute, as the daemon's start elsewhere.
    pub fn fields(&self) -> Result<KmpFields<'_>, Failure> {
        let tls = TlsFields {
            authentication: self.tls_authentication.as_deref(),
            identity: self.tls_identity.as_deref(),
            peer_identity: self.tls_peer_identity.as_deref(),
            suites: &self.tls_suites,
            private_key_file: absolute(self.tls_private_key_file.as_deref())?,
            peer_fingerprint: self.tls_peer_fingerprint.as_deref(),
            certificate_file: absolute(self.tls_certificate_file.as_deref())?,
            certificate_key_file: absolute(self.tls_certificate_key_file.as_deref())?,
            ca_file: absolute(self.tls_ca_file.as_deref())?,
            server_fingerprint: self.tls_server_fingerprint.as_deref(),
            server_certificate: self.tls_server_unvalidated.then_some("unvalidated"),
        };
        Ok(KmpFields {
            kmp_port: self.kmp_port,
            kmp_local_address: self.kmp_local_address,
            fallback: self.fallback.as_deref(),
            rekey_interval: self.rekey_interval,
            rekey_segments: self.rekey_segments,
            algorithms: &self.algorithms,
            tls: Some(tls).filter(|tls| *tls != TlsFields::default()),
        })
    }
}

fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    let wrong = |path: &Path| Failure::Usage(format!("{} is not the path of a file", path.display()));
    path.map(|path| std::path::absolute(path).map_err(|_| wrong(path))).transpose()
}
