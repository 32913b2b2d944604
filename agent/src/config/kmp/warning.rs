//! What is legal about keys that are agreed but probably not meant.

use super::{Authentication, Fallback, Kmp, Tls};
use crate::kmp::tls::suites::{Suite, suite};

/// The warnings about `kmp`.
pub(in crate::config) fn warnings(kmp: &Kmp) -> Vec<String> {
    let mut messages = Vec::new();
    if kmp.fallback == Fallback::Implicit {
        messages.push(
            "with fallback = \"implicit\" whoever blocks the daemons' channel has connections run on keys from the \
             secret alone; write \"never\" as soon as both sides have key-management = \"external\""
                .to_owned(),
        );
    }
    let suites: Vec<&Suite> = kmp.tls.suites.iter().filter_map(|name| suite(name)).collect();
    if let Some(weak) = suites.iter().find(|suite| !suite.exchange.has_forward_secrecy()) {
        messages.push(format!(
            "{} has no forward secrecy: whoever learns the secret later learns the keys that were agreed on, too; use \
             suites of TLS 1.3, DHE_PSK or ECDHE_PSK",
            weak.name
        ));
    }
    let of_tls13 = || suites.iter().filter(|suite| suite.exchange.is_tls13());
    let other_hash =
        of_tls13().find(|suite| of_tls13().next().is_some_and(|first| first.sha384 != suite.sha384));
    if let (true, Some(unused)) = (kmp.is_psk(), other_hash) {
        messages.push(format!(
            "{} is never used: in TLS 1.3 a secret goes with one hash, that of the first suite (RFC 8446, 4.2.11); \
             remove it, or put it first",
            unused.name
        ));
    }
    if suites.iter().all(|suite| suite.exchange.has_certificate()) && !has_certificate(&kmp.tls) {
        messages.push(
            "all suites are RSA_PSK ones, and without tls.certificate-file every handshake that the neighbour begins \
             fails; add it with tls.certificate-key-file"
                .to_owned(),
        );
    }
    messages
}

fn has_certificate(tls: &Tls) -> bool {
    matches!(&tls.authentication, Authentication::Psk { rsa: Some(rsa), .. } if rsa.certificate.is_some())
}
