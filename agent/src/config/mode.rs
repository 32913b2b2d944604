//! How a neighbour's keys are used: wire, key management, KDF and algorithm, which have to fit each other.
//!
//! What a neighbour says itself has to fit. What it inherits holds if it fits, so that defaults for most neighbours
//! do not stand in the way of one that is different.

use tcpauth_common::{Algorithm, Kdf};

use super::chain::Inherited;
use super::error::{Report, Subject};
use super::fields::{Fields, Table};
use super::kmp::fields::AuthenticationKind;
use super::{KeyManagement, Problem, Wire};
use crate::keys::TcpOptions;

/// How a neighbour's keys are used.
pub(super) struct Mode {
    pub(super) key_management: KeyManagement,
    /// What the keys have from it.
    pub(super) inherited: Inherited,
}

/// Of the neighbour that `own` is about.
pub(super) fn resolve(own: &Table, defaults: &Fields, subject: &Subject, report: &mut Report<'_>) -> Mode {
    match own.fields.wire.or(defaults.wire).unwrap_or_default() {
        Wire::TcpAo => tcp_ao(own, defaults, subject, report),
        Wire::TcpMd5 => tcp_md5(own, subject, report),
    }
}

fn tcp_ao(own: &Table, defaults: &Fields, subject: &Subject, report: &mut Report<'_>) -> Mode {
    let fields = &own.fields;
    let mut wrong = |field, problem| {
        let span = own.spans.of(field).cloned().unwrap_or_default();
        report.add(&span, subject, problem);
    };
    let key_management = fields.key_management.or(defaults.key_management).unwrap_or_default();
    let (fallback, misfit): (Kdf, fn(Kdf) -> bool) = match key_management {
        KeyManagement::Implicit | KeyManagement::External | KeyManagement::Layered => {
            (Kdf::Rfc5926, |kdf| kdf == Kdf::None)
        }
        KeyManagement::Static => (Kdf::None, |kdf| kdf != Kdf::None),
    };
    if fields.kdf.is_some_and(misfit) {
        let problem = match key_management {
            KeyManagement::Static => Problem::StaticWithKdf,
            _ => Problem::ImplicitWithoutKdf,
        };
        wrong("kdf", problem);
    }
    if fields.key.algorithm == Some(Algorithm::Md5) {
        wrong("algorithm", Problem::Md5WithoutWire);
    }
    let authentication = fields.kmp.tls.authentication.or(defaults.kmp.tls.authentication);
    let inherited_algorithm = defaults.key.algorithm.filter(|algorithm| *algorithm != Algorithm::Md5);
    Mode {
        key_management,
        inherited: Inherited {
            wire: Wire::TcpAo,
            kdf: fields.kdf.or(defaults.kdf).filter(|kdf| !misfit(*kdf)).unwrap_or(fallback),
            algorithm: fields.key.algorithm.or(inherited_algorithm).unwrap_or_default(),
            tcp_options: fields.key.tcp_options.or(defaults.key.tcp_options).unwrap_or_default(),
            is_psk: key_management.is_agreed()
                && authentication.unwrap_or_default() == AuthenticationKind::Psk,
        },
    }
}

/// RFC 2385 leaves no choice: nothing of the defaults applies.
fn tcp_md5(own: &Table, subject: &Subject, report: &mut Report<'_>) -> Mode {
    let fields = &own.fields;
    for (is_other, field, only) in [
        (fields.key.algorithm.is_some_and(|algorithm| algorithm != Algorithm::Md5), "algorithm", "\"md5\""),
        (fields.kdf.is_some_and(|kdf| kdf != Kdf::None), "kdf", "\"none\""),
        (
            fields.key_management.is_some_and(|mode| mode != KeyManagement::Static),
            "key-management",
            "\"static\"",
        ),
        (fields.key.tcp_options == Some(TcpOptions::Include), "tcp-options", "\"exclude\""),
    ] {
        if is_other {
            let span = own.spans.of(field).cloned().unwrap_or_default();
            report.add(&span, subject, Problem::NotOfMd5 { field, only });
        }
    }
    Mode {
        key_management: KeyManagement::Static,
        inherited: Inherited {
            wire: Wire::TcpMd5,
            kdf: Kdf::None,
            algorithm: Algorithm::Md5,
            tcp_options: TcpOptions::Exclude,
            is_psk: false,
        },
    }
}
