//! From fields to a [`Kmp`]: defaults inherited field by field, the whole checked for what does not fit.
//!
//! As with [`mode`](crate::config::mode), what a neighbour inherits holds if it fits, and what it says itself has to fit.

use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tcpauth_common::Algorithm;

use super::fields::{AuthenticationKind, FIELDS, TLS_FIELDS, TlsFields, VALIDATION_FIELDS};
use super::trial::{Trials, Verdict};
use super::{Authentication, Fallback, Kmp, KmpProblem, Rsa, Tls, identity};
use crate::config::error::{Report, Subject};
use crate::config::fields::Table;
use crate::config::{KeyManagement, Peer, Unauthenticated};
use crate::kmp::tls::suites::{self, suite};

/// TCP port of the daemons' channel.
const PORT: u16 = 17179;
/// Age at which keys are replaced.
const REKEY_INTERVAL: Duration = Duration::from_secs(3600);

const PSK_FIELDS: [&str; 2] = ["tls.identity", "tls.peer-identity"];
const RAW_PUBLIC_KEY_FIELDS: [&str; 2] = ["tls.private-key-file", "tls.peer-fingerprint"];
const CERTIFICATE_FIELDS: [&str; 2] = ["tls.certificate-file", "tls.certificate-key-file"];

/// A table and what it inherits.
pub(in crate::config) struct Source<'s> {
    pub(in crate::config) own: &'s Table,
    pub(in crate::config) defaults: &'s Table,
    /// Of the table.
    pub(in crate::config) subject: &'s Subject,
    /// Where the table is.
    pub(in crate::config) span: &'s Range<usize>,
    /// Its key management, be it inherited or not.
    pub(in crate::config) key_management: KeyManagement,
    /// Its TCP port.
    pub(in crate::config) port: u16,
    pub(in crate::config) is_forwarded: bool,
    pub(in crate::config) unauthenticated: Unauthenticated,
}

/// How keys are agreed with `peer`; `None` if they are not, or something is reported as wrong.
pub(in crate::config) fn resolve(
    source: &Source<'_>,
    peer: Option<&Peer>,
    trials: &mut Trials,
    report: &mut Report<'_>,
) -> Option<Arc<Kmp>> {
    if !source.key_management.is_agreed() {
        source.refuse_all(report);
        return None;
    }
    let before = report.len();
    source.check(report);
    let tls = source.tls(report);
    let local_address = source.local_address(peer, report);
    let (own, defaults) = (&source.own.fields.kmp, &source.defaults.fields.kmp);
    let fallback = match source.key_management {
        KeyManagement::Layered => Fallback::Never,
        _ => own.fallback.or(defaults.fallback).unwrap_or_default(),
    };
    let algorithms = own.algorithms.as_ref().or(defaults.algorithms.as_ref());
    let kmp = Kmp {
        port: source.kmp_port(),
        local_address,
        fallback,
        rekey_interval: own.rekey_interval.or(defaults.rekey_interval).unwrap_or(REKEY_INTERVAL),
        rekey_segments: own.rekey_segments.or(defaults.rekey_segments),
        algorithms: algorithms.cloned().unwrap_or_else(|| Algorithm::BY_PREFERENCE.to_vec()),
        tls: tls?,
    };
    if report.len() == before {
        source.try_out(&kmp.tls, trials, report);
    }
    (report.len() == before).then(|| Arc::new(kmp))
}

impl Source<'_> {
    /// Reports what in this table does not fit the rest of it, or what it inherits.
    pub(in crate::config) fn check(&self, report: &mut Report<'_>) {
        if !self.key_management.is_agreed() {
            return;
        }
        let is_layered = self.key_management == KeyManagement::Layered;
        if self.is_forwarded {
            self.wrong(&["forwarded", "key-management"], KmpProblem::Forwarded, report);
        }
        if is_layered && self.unauthenticated == Unauthenticated::AcceptUntilAuthenticated {
            self.wrong(&["unauthenticated", "key-management"], KmpProblem::TakeOver, report);
        }
        if is_layered && self.own.fields.kmp.fallback == Some(Fallback::Implicit) {
            self.wrong(&["fallback"], KmpProblem::LayeredFallback, report);
        }
        if self.kmp_port() == self.port {
            self.wrong(&["kmp-port", "port", "key-management"], KmpProblem::SamePort, report);
        }
    }

    fn kmp_port(&self) -> u16 {
        self.own.fields.kmp.port.or(self.defaults.fields.kmp.port).unwrap_or(PORT)
    }

    /// Reports `problem` at the first of `fields` in this table. If all are inherited, `[defaults]` is wrong.
    fn wrong(&self, fields: &[&str], problem: KmpProblem, report: &mut Report<'_>) {
        let found = fields.iter().find_map(|field| self.own.spans.of(field));
        if let Some(span) = found {
            report.add(span, self.subject, problem);
        }
    }

    /// Reports each of `fields` in this table.
    fn refuse(
        &self,
        fields: &[&'static str],
        problem: impl Fn(&'static str) -> KmpProblem,
        report: &mut Report<'_>,
    ) {
        for field in fields {
            self.wrong(&[field], problem(field), report);
        }
    }

    fn refuse_all(&self, report: &mut Report<'_>) {
        self.refuse(&FIELDS, KmpProblem::WithoutAgreement, report);
    }

    fn local_address(&self, peer: Option<&Peer>, report: &mut Report<'_>) -> Option<IpAddr> {
        let fits = |address: &IpAddr| peer.is_none_or(|peer| peer.address.is_ipv4() == address.is_ipv4());
        let own = self.own.fields.kmp.local_address;
        if own.is_some_and(|address| !fits(&address)) {
            self.wrong(&["kmp-local-address"], KmpProblem::LocalAddressFamily, report);
        }
        own.or(self.defaults.fields.kmp.local_address.filter(fits))
    }

    fn tls(&self, report: &mut Report<'_>) -> Option<Tls> {
        let (own, defaults) = self.tls_fields();
        let kind = own.authentication.or(defaults.authentication).unwrap_or_default();
        let not_of = |field| KmpProblem::NotOfAuthentication { field, authentication: kind.name() };
        match kind {
            AuthenticationKind::Psk => {
                self.refuse(&RAW_PUBLIC_KEY_FIELDS, not_of, report);
                let suites = own.suites.as_ref().or(defaults.suites.as_ref());
                let suites = suites.cloned().unwrap_or_else(|| suites::DEFAULT.to_vec());
                let own_identity = own.identity.as_ref().or(defaults.identity.as_ref()).cloned();
                let peer_identity = own.peer_identity.as_ref().or(defaults.peer_identity.as_ref()).cloned();
                let is_tls12 = |name: &str| suite(name).is_some_and(|suite| !suite.exchange.is_tls13());
                if suites.iter().any(|name| is_tls12(name)) {
                    for (field, text) in PSK_FIELDS.into_iter().zip([&own_identity, &peer_identity]) {
                        if let Some(problem) =
                            text.as_ref().and_then(|text| identity::tls12_problem(field, text))
                        {
                            self.wrong(&[field, "tls.suites", "key-management"], problem, report);
                        }
                    }
                }
                let rsa = self.rsa(&suites, report)?;
                Some(Tls {
                    authentication: Authentication::Psk { identity: own_identity, peer_identity, rsa },
                    suites,
                })
            }
            AuthenticationKind::RawPublicKey => {
                self.refuse(&PSK_FIELDS, not_of, report);
                self.refuse(&CERTIFICATE_FIELDS, not_of, report);
                self.refuse(&VALIDATION_FIELDS, not_of, report);
                let private_key_file = own.private_key_file.as_ref().or(defaults.private_key_file.as_ref());
                let peer_fingerprint = own.peer_fingerprint.or(defaults.peer_fingerprint);
                let [file, fingerprint] = RAW_PUBLIC_KEY_FIELDS;
                if private_key_file.is_none() {
                    self.missing(file, "the file that `tcpauth genkey --raw-public-key` makes", report);
                }
                if peer_fingerprint.is_none() {
                    self.missing(fingerprint, "what `tcpauth key fingerprint` says there", report);
                }
                let authentication = Authentication::RawPublicKey {
                    private_key_file: private_key_file?.clone(),
                    peer_fingerprint: peer_fingerprint?,
                };
                Some(Tls { authentication, suites: self.raw_public_key_suites(report) })
            }
        }
    }

    /// Reports suites and files with which no handshake can begin: where the field stands, and once.
    fn try_out(&self, tls: &Tls, trials: &mut Trials, report: &mut Report<'_>) {
        let Verdict { result: Err(wrong), is_new } = trials.of(tls) else { return };
        let is_of = |field: &&&str| wrong.strip_prefix(**field).is_some_and(|rest| rest.starts_with(' '));
        let field = TLS_FIELDS.iter().find(is_of);
        let problem = match field {
            Some(_) => KmpProblem::FileContent(wrong.clone()),
            None => KmpProblem::UnusableSuites(wrong.clone()),
        };
        let field = field.copied().unwrap_or("tls.suites");
        match (self.own.spans.of(field), self.defaults.spans.of(field)) {
            (Some(span), _) => report.add(span, self.subject, problem),
            (None, Some(span)) if is_new => report.add(span, &Subject::Defaults, problem),
            (None, None) => report.add(self.span, self.subject, problem),
            _ => {}
        }
    }

    fn tls_fields(&self) -> (&TlsFields, &TlsFields) {
        (&self.own.fields.kmp.tls, &self.defaults.fields.kmp.tls)
    }

    /// Reports that `field` is not given, unless it is, and is reported as wrong.
    fn missing(&self, field: &'static str, what: &'static str, report: &mut Report<'_>) {
        if !self.is_given(field) {
            let span = self.own.spans.of("tls.authentication").unwrap_or(self.span);
            report.add(span, self.subject, KmpProblem::RawPublicKeyWithout { field, what });
        }
    }

    fn is_given(&self, field: &str) -> bool {
        self.own.spans.of(field).or(self.defaults.spans.of(field)).is_some()
    }

    /// Suites for raw public keys, which TLS 1.3 alone has, and those of rustls.
    fn raw_public_key_suites(&self, report: &mut Report<'_>) -> Vec<&'static str> {
        let (own, defaults) = self.tls_fields();
        let fit =
            |suites: &&Vec<&'static str>| suites.iter().all(|name| RAW_PUBLIC_KEY_SUITES.contains(name));
        if own.suites.as_ref().is_some_and(|suites| !fit(&suites)) {
            let problem = KmpProblem::NotRawPublicKeySuite(RAW_PUBLIC_KEY_SUITES.to_vec());
            self.wrong(&["tls.suites"], problem, report);
        }
        let suites = own.suites.as_ref().or(defaults.suites.as_ref().filter(fit));
        suites.cloned().unwrap_or_else(|| suites::DEFAULT.to_vec())
    }

    /// What the RSA_PSK suites among `suites` need, if there are any; `None` if it is reported as wrong.
    fn rsa(&self, suites: &[&'static str], report: &mut Report<'_>) -> Option<Option<Rsa>> {
        let (own, defaults) = self.tls_fields();
        if !suites.iter().any(|name| suite(name).is_some_and(|suite| suite.exchange.has_certificate())) {
            // Unless the list of them is what is wrong.
            if own.suites.is_some() || self.own.spans.of("tls.suites").is_none() {
                self.refuse(&CERTIFICATE_FIELDS, KmpProblem::WithoutRsaPsk, report);
                self.refuse(&VALIDATION_FIELDS, KmpProblem::WithoutRsaPsk, report);
            }
            return Some(None);
        }
        let validation = own.validation.as_ref().or(defaults.validation.as_ref());
        if validation.is_none() && !VALIDATION_FIELDS.iter().any(|field| self.is_given(field)) {
            let span = self.own.spans.of("tls.suites").unwrap_or(self.span);
            report.add(span, self.subject, KmpProblem::Unvalidated);
        }
        let certificate = self.certificate(report);
        Some(Some(Rsa { certificate, validation: validation?.clone() }))
    }

    /// Our certificate and its key.
    fn certificate(&self, report: &mut Report<'_>) -> Option<(PathBuf, PathBuf)> {
        let (own, defaults) = self.tls_fields();
        for (given, missing) in [(0, 1), (1, 0)].map(|(a, b)| (CERTIFICATE_FIELDS[a], CERTIFICATE_FIELDS[b]))
        {
            if self.is_given(given) && !self.is_given(missing) {
                let span = self.own.spans.of(given).unwrap_or(self.span);
                report.add(span, self.subject, KmpProblem::HalfCertificate { given, missing });
            }
        }
        let file = own.certificate_file.as_ref().or(defaults.certificate_file.as_ref());
        let key = own.certificate_key_file.as_ref().or(defaults.certificate_key_file.as_ref());
        file.cloned().zip(key.cloned())
    }
}

/// Suites of TLS 1.3 that rustls has.
const RAW_PUBLIC_KEY_SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
