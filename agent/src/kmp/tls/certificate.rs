//! Certificates of the RSA_PSK suites (RFC 4279 §4).

use std::{path::Path, sync::Arc};

use openssl::{
    hash::MessageDigest,
    pkey::Id,
    ssl::{SslContextBuilder, SslRef, SslVerifyMode, SslVersion},
    x509::{X509, X509Ref, X509StoreContext, store::X509StoreBuilder},
};

use super::{
    TlsError,
    context::library,
    files::{self, Contents},
    key_file::private_key,
    psk_callbacks,
};
use crate::config::{Rsa, Validation};

/// Has servers of `context` show our certificate, in TLS 1.2 only.
pub fn show(context: &mut SslContextBuilder, rsa: &Rsa) -> Result<(), TlsError> {
    let Some((certificate_file, key_file)) = &rsa.certificate else { return Ok(()) };
    let mut chain = certificates("certificate-file", certificate_file)?.into_iter();
    let Some(certificate) = chain.next() else {
        return Err(TlsError::file("certificate-file", certificate_file, "there is no certificate in it"));
    };
    let wrong = |reason: &str| TlsError::file("certificate-key-file", key_file, reason);
    let key = private_key(&read("certificate-key-file", key_file)?.octets)
        .ok_or_else(|| wrong("there is no private key in it, as PEM and without a password"))?;
    if key.id() != Id::RSA {
        return Err(wrong("the key is none of RSA, which the RSA_PSK suites need"));
    }
    context.set_certificate(&certificate).map_err(|error| {
        TlsError::file("certificate-file", certificate_file, format!("OpenSSL refuses it: {error}"))
    })?;
    context.set_private_key(&key).map_err(|_| wrong("the key is not that of tls.certificate-file"))?;
    for certificate in chain {
        context.add_extra_chain_cert(certificate).map_err(|error| library(&error))?;
    }
    psk_callbacks::keep_certificate_out_of_tls13(context);
    Ok(())
}

/// Has clients of `context` check the server's certificate, and take none in TLS 1.3.
pub fn verify(context: &mut SslContextBuilder, validation: &Validation) -> Result<(), TlsError> {
    if let Validation::CaFile(path) = validation {
        let mut store = X509StoreBuilder::new().map_err(|error| library(&error))?;
        for authority in certificates("ca-file", path)? {
            store.add_cert(authority).map_err(|error| library(&error))?;
        }
        context.set_cert_store(store.build());
    }
    let validation = validation.clone();
    context.set_verify_callback(SslVerifyMode::PEER, move |valid, chain| {
        psk_callbacks::guarded(false, || {
            let ssl = X509StoreContext::ssl_idx().ok().and_then(|index| chain.ex_data(index));
            if ssl.and_then(|ssl: &SslRef| ssl.version2()) != Some(SslVersion::TLS1_2) {
                return false;
            }
            match (&validation, chain.error_depth()) {
                (Validation::CaFile(_), _) => valid,
                (Validation::Fingerprint(expected), 0) => {
                    chain.current_cert().is_some_and(|shown| fingerprint(shown) == Some(*expected))
                }
                (Validation::Fingerprint(_) | Validation::Unvalidated, _) => true,
            }
        })
    });
    Ok(())
}

/// Whether the server's certificate is the one that is known by its fingerprint, if one is.
pub fn is_expected(ssl: &SslRef, validation: &Validation) -> bool {
    match validation {
        Validation::Fingerprint(expected) => {
            ssl.peer_certificate().and_then(|shown| fingerprint(&shown)) == Some(*expected)
        }
        Validation::CaFile(_) | Validation::Unvalidated => true,
    }
}

fn fingerprint(certificate: &X509Ref) -> Option<[u8; 32]> {
    certificate.digest(MessageDigest::sha256()).ok()?.as_ref().try_into().ok()
}

fn certificates(field: &str, path: &Path) -> Result<Vec<X509>, TlsError> {
    match X509::stack_from_pem(&read(field, path)?.octets) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::file(field, path, "there is no certificate in it, as PEM")),
    }
}

fn read(field: &str, path: &Path) -> Result<Arc<Contents>, TlsError> {
    files::read(path).map_err(|error| TlsError::file(field, path, error))
}
