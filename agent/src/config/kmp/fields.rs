//! What a table says about keys that are agreed: its own fields, and those of its table `tls`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tcpauth_common::Algorithm;
use toml::de::DeValue;

use super::credential::{self, Kind};
use super::identity;
use super::{Fallback, KmpProblem, Validation};
use crate::config::Problem;
use crate::config::cell::Cell;
use crate::config::error::nearest;
use crate::config::fields::{Spans, in_order};
use crate::kmp::tls::suites::{self, suite};

/// Fields of a neighbour and of `[defaults]` that are about keys that are agreed, and nothing else.
pub(in crate::config) const FIELDS: [&str; 7] =
    ["kmp-port", "kmp-local-address", "fallback", "rekey-interval", "rekey-segments", "algorithms", "tls"];

/// Fields of the table `tls`.
pub(in crate::config) const TLS_FIELDS: [&str; 11] = [
    "tls.authentication",
    "tls.identity",
    "tls.peer-identity",
    "tls.suites",
    "tls.private-key-file",
    "tls.peer-fingerprint",
    "tls.certificate-file",
    "tls.certificate-key-file",
    "tls.ca-file",
    "tls.server-fingerprint",
    "tls.server-certificate",
];

/// Shortest time between two handshakes of a session: long enough for one that is repeated over a lossy path.
const SHORTEST_REKEY: u32 = 10;
/// Longest, 30 days.
const LONGEST_REKEY: u32 = 30 * 86_400;
/// Fewest segments between two handshakes.
const FEWEST_SEGMENTS: u64 = 100;
/// Most: far more than a session has.
const MOST_SEGMENTS: u64 = 1_000_000_000_000;

/// What a table says.
#[derive(Default)]
pub(in crate::config) struct KmpFields {
    pub(super) port: Option<u16>,
    pub(super) local_address: Option<IpAddr>,
    pub(super) fallback: Option<Fallback>,
    pub(super) rekey_interval: Option<Duration>,
    pub(super) rekey_segments: Option<u64>,
    pub(super) algorithms: Option<Vec<Algorithm>>,
    pub(in crate::config) tls: TlsFields,
}

/// What its table `tls` says.
#[derive(Default)]
pub(in crate::config) struct TlsFields {
    pub(in crate::config) authentication: Option<AuthenticationKind>,
    pub(super) identity: Option<String>,
    pub(super) peer_identity: Option<String>,
    pub(super) suites: Option<Vec<&'static str>>,
    pub(super) private_key_file: Option<PathBuf>,
    pub(super) peer_fingerprint: Option<[u8; 32]>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) certificate_key_file: Option<PathBuf>,
    pub(super) validation: Option<Validation>,
}

/// The ways of [`super::Authentication`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::config) enum AuthenticationKind {
    #[default]
    Psk,
    RawPublicKey,
}

impl AuthenticationKind {
    const ALL: [Self; 2] = [Self::Psk, Self::RawPublicKey];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Psk => "psk",
            Self::RawPublicKey => "raw-public-key",
        }
    }
}

impl KmpFields {
    /// Takes the field `name`; false if it is none of these. Those of `tls` have their places in `spans` then.
    pub(in crate::config) fn take(
        &mut self,
        name: &str,
        cell: &mut Cell<'_, '_, '_>,
        folder: &Path,
        spans: &mut Spans,
    ) -> bool {
        match name {
            "kmp-port" => self.port = cell.number("kmp-port", 1, u16::MAX),
            "kmp-local-address" => self.local_address = local_address(cell),
            "fallback" => {
                self.fallback = cell.choice("fallback", &Fallback::ALL.map(|way| (way.name(), way)))
            }
            "rekey-interval" => {
                let seconds = cell.number("rekey-interval", SHORTEST_REKEY, LONGEST_REKEY);
                self.rekey_interval = seconds.map(|seconds| Duration::from_secs(seconds.into()));
            }
            "rekey-segments" => {
                self.rekey_segments = cell.number("rekey-segments", FEWEST_SEGMENTS, MOST_SEGMENTS);
            }
            "algorithms" => self.algorithms = algorithms(cell),
            "tls" => self.tls.read(cell, folder, spans),
            _ => return false,
        }
        true
    }
}

impl TlsFields {
    fn read(&mut self, cell: &mut Cell<'_, '_, '_>, folder: &Path, spans: &mut Spans) {
        let DeValue::Table(table) = cell.value.get_ref() else {
            return cell.wrong_type("tls", "a table");
        };
        let mut validation_field = None;
        for (key, value) in in_order(table) {
            let name = format!("tls.{}", key.get_ref());
            let Some(field) = TLS_FIELDS.into_iter().find(|field| *field == name) else {
                let nearest = nearest(&name, &TLS_FIELDS);
                let problem = Problem::UnknownField { nearest, fields: &TLS_FIELDS };
                cell.report.add(&key.span(), cell.subject, problem);
                continue;
            };
            spans.add(field, value.span());
            let mut cell = Cell { value, subject: cell.subject, report: cell.report };
            if let Some(first) = validation_field
                && is_validation(field)
            {
                cell.report.add(
                    &key.span(),
                    cell.subject,
                    KmpProblem::TwoValidations { first, second: field },
                );
                continue;
            }
            validation_field = validation_field.or(Some(field).filter(|field| is_validation(field)));
            self.take(field, &mut cell, folder);
        }
    }

    fn take(&mut self, field: &'static str, cell: &mut Cell<'_, '_, '_>, folder: &Path) {
        match field {
            "tls.authentication" => {
                let kinds = AuthenticationKind::ALL.map(|kind| (kind.name(), kind));
                self.authentication = cell.choice(field, &kinds);
            }
            "tls.identity" => self.identity = identity::read(field, cell),
            "tls.peer-identity" => self.peer_identity = identity::read(field, cell),
            "tls.suites" => self.suites = suites(cell),
            "tls.private-key-file" => {
                self.private_key_file = credential::file(field, Kind::PrivateKey, cell, folder);
            }
            "tls.peer-fingerprint" => self.peer_fingerprint = credential::fingerprint(field, cell),
            "tls.certificate-file" => {
                self.certificate_file = credential::file(field, Kind::Certificate, cell, folder);
            }
            "tls.certificate-key-file" => {
                self.certificate_key_file = credential::file(field, Kind::PrivateKey, cell, folder);
            }
            "tls.ca-file" => {
                let file = credential::file(field, Kind::Certificate, cell, folder);
                self.validation = file.map(Validation::CaFile);
            }
            "tls.server-fingerprint" => {
                self.validation = credential::fingerprint(field, cell).map(Validation::Fingerprint);
            }
            _ => {
                self.validation = cell.choice(field, &[("unvalidated", ())]).map(|()| Validation::Unvalidated)
            }
        }
    }
}

/// The fields that say what is asked of a server's certificate.
pub(super) const VALIDATION_FIELDS: [&str; 3] =
    ["tls.ca-file", "tls.server-fingerprint", "tls.server-certificate"];

fn is_validation(field: &str) -> bool {
    VALIDATION_FIELDS.contains(&field)
}

fn local_address(cell: &mut Cell<'_, '_, '_>) -> Option<IpAddr> {
    let address = cell.text("kmp-local-address")?.parse().ok().filter(|address| match address {
        IpAddr::V4(v4) => !v4.is_broadcast() && is_of_host(address),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none() && is_of_host(address),
    });
    if address.is_none() {
        cell.wrong(KmpProblem::LocalAddress.into());
    }
    address
}

fn is_of_host(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

fn algorithms(cell: &mut Cell<'_, '_, '_>) -> Option<Vec<Algorithm>> {
    let options = Algorithm::TCP_AO.map(|algorithm| (algorithm.name(), algorithm));
    cell.names("algorithms", |name, cell| cell.option("algorithms", name, &options))
}

fn suites(cell: &mut Cell<'_, '_, '_>) -> Option<Vec<&'static str>> {
    cell.names("tls.suites", |name, cell| {
        let Some(suite) = suite(name) else {
            cell.wrong(KmpProblem::UnknownSuite(nearest_suite(name)).into());
            return None;
        };
        if let Some(reason) = suite.refused() {
            cell.wrong(KmpProblem::RefusedSuite(reason).into());
            return None;
        }
        Some(suite.name)
    })
}

/// The suite that `name` is probably meant to be: misspelled, or as OpenSSL has it.
fn nearest_suite(name: &str) -> Option<&'static str> {
    let suites: Vec<_> = suites::ALL.iter().filter(|suite| suite.refused().is_none()).collect();
    if let Some(suite) = suites.iter().find(|suite| suite.openssl() == Some(name)) {
        return Some(suite.name);
    }
    // As `nearest` writes what it compares.
    let forms: Vec<String> = suites.iter().map(|suite| suite.name.to_lowercase().replace('_', "-")).collect();
    let forms: Vec<&str> = forms.iter().map(String::as_str).collect();
    let found = nearest(name, &forms)?;
    suites.iter().zip(&forms).find(|(_, form)| **form == found).map(|(suite, _)| suite.name)
}
