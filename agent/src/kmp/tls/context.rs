//! Settings of OpenSSL for connections by PSK.

use std::sync::{Mutex, PoisonError};

use openssl::{
    dh::Dh,
    error::ErrorStack,
    ssl::{
        SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode,
        SslVerifyMode, SslVersion,
    },
};

use super::{
    Side, TlsError, certificate, psk_callbacks,
    suites::{self, Suite},
};
use crate::config::{Rsa, Tls};

/// For DHE_PSK (RFC 7919, A.1).
const FFDHE2048: &[u8] = include_bytes!("ffdhe2048.pem");

/// So many contexts are kept; configurations have one or two.
const KEPT: usize = 8;

/// Contexts that need no file, as to make one takes as long as a handshake. Nothing in them is secret, and nothing in
/// them changes.
static CONTEXTS: Mutex<Vec<(Side, Vec<&'static str>, SslContext)>> = Mutex::new(Vec::new());

/// The context for connections of `suites`, which are usable for `side`.
pub fn context(side: Side, suites: &[&'static Suite], rsa: Option<&Rsa>) -> Result<SslContext, TlsError> {
    if let (true, Some(rsa)) = (suites.iter().any(|suite| suite.exchange.has_certificate()), rsa) {
        // Not kept: the files may change.
        let mut context = without_certificate(side, suites).map_err(|error| library(&error))?;
        match side {
            Side::Client => certificate::verify(&mut context, &rsa.validation)?,
            Side::Server => certificate::show(&mut context, rsa)?,
        }
        return Ok(context.build());
    }
    let names: Vec<_> = suites.iter().map(|suite| suite.name).collect();
    let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, _, context)) = contexts.iter().find(|kept| (kept.0, &kept.1) == (side, &names)) {
        return Ok(context.clone());
    }
    let context = without_certificate(side, suites).map_err(|error| library(&error))?.build();
    contexts.truncate(KEPT - 1);
    contexts.insert(0, (side, names, context.clone()));
    Ok(context)
}

/// The suites of a configuration that `side` can use. The secret has one hash in TLS 1.3 (RFC 8446 §4.2.11): that of the
/// first suite there, and the others of the same hash are used with it.
pub fn usable(side: Side, tls: &Tls, rsa: Option<&Rsa>) -> Result<Vec<&'static Suite>, TlsError> {
    let mut usable: Vec<&'static Suite> = Vec::new();
    for name in &tls.suites {
        let suite = suites::suite(name)
            .ok_or_else(|| TlsError::Settings(format!("tls.suites: there is no suite {name}")))?;
        if let Some(reason) = suite.refused() {
            return Err(TlsError::Settings(format!("tls.suites: {name} is refused: {reason}")));
        }
        if suite.exchange.has_certificate() {
            let Some(rsa) = rsa else {
                return Err(TlsError::Settings(format!(
                    "tls.suites: {name} needs a certificate: set tls.ca-file, tls.server-fingerprint or \
                     tls.server-certificate"
                )));
            };
            if side == Side::Server && rsa.certificate.is_none() {
                continue;
            }
        }
        let other_hash = |first: &&&Suite| first.exchange.is_tls13() && first.sha384 != suite.sha384;
        if !(suite.exchange.is_tls13() && usable.iter().any(|first| other_hash(&first))) {
            usable.push(suite);
        }
    }
    match usable.is_empty() {
        true => Err(TlsError::Settings(
            "tls.suites: each needs tls.certificate-file at the end that is the server".to_owned(),
        )),
        false => Ok(usable),
    }
}

fn without_certificate(side: Side, suites: &[&'static Suite]) -> Result<SslContextBuilder, ErrorStack> {
    let (tls13, tls12): (Vec<_>, Vec<_>) = suites.iter().partition(|suite| suite.exchange.is_tls13());
    let mut context = SslContext::builder(SslMethod::tls())?;
    context.set_security_level(2);
    let lowest = if tls12.is_empty() { SslVersion::TLS1_3 } else { SslVersion::TLS1_2 };
    let highest = if tls13.is_empty() { SslVersion::TLS1_2 } else { SslVersion::TLS1_3 };
    context.set_min_proto_version(Some(lowest))?;
    context.set_max_proto_version(Some(highest))?;
    context.set_groups_list("X25519")?;

    // Nothing is resumed, compressed or negotiated anew.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_options(
        SslOptions::NO_TICKET
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    // There is no middlebox that would have to take TLS 1.3 for TLS 1.2.
    context.clear_options(SslOptions::ENABLE_MIDDLEBOX_COMPAT);
    context.set_num_tickets(0)?;
    // A record is taken from the wire when it is due, as other octets may follow; and a channel that rests has no buffers.
    context.set_read_ahead(false);
    context.set_mode(SslMode::RELEASE_BUFFERS);

    // An empty store: no certificate is good enough, unless `certificate::verify` says otherwise.
    context.set_verify(match side {
        Side::Client => SslVerifyMode::PEER,
        Side::Server => SslVerifyMode::NONE,
    });
    context.set_ciphersuites(&openssl_names(&tls13))?;
    if !tls13.is_empty() {
        psk_callbacks::install(&mut context);
    }
    if !tls12.is_empty() {
        context.set_cipher_list(&openssl_names(&tls12))?;
        match side {
            Side::Client => context.set_psk_client_callback(|ssl, _hint, identity, secret| {
                Ok(psk_callbacks::guarded(0, || own_secret(ssl, identity, secret)))
            }),
            Side::Server => context.set_psk_server_callback(|ssl, identity, secret| {
                let identity = identity.unwrap_or_default();
                Ok(psk_callbacks::guarded(0, || secret_of_peer(ssl, identity, secret)))
            }),
        }
        if side == Side::Server {
            context.set_tmp_dh(&*Dh::params_from_pem(FFDHE2048)?)?;
        }
    }
    Ok(context)
}

fn openssl_names(suites: &[&&'static Suite]) -> String {
    suites.iter().filter_map(|suite| suite.openssl()).collect::<Vec<_>>().join(":")
}

/// TLS 1.2 of a client: writes its identity with a NUL after it, and the secret, whose length it gives; 0 fails.
fn own_secret(ssl: &SslRef, identity: &mut [u8], secret: &mut [u8]) -> usize {
    let Some((own, octets)) = psk_callbacks::keyring(ssl).map(|keyring| keyring.own()) else { return 0 };
    if own.len() >= identity.len() || octets.len() > secret.len() {
        return 0;
    }
    identity[..own.len()].copy_from_slice(own);
    identity[own.len()] = 0;
    secret[..octets.len()].copy_from_slice(octets);
    octets.len()
}

/// TLS 1.2 of a server: writes the secret of the client that calls itself `identity`, and gives its length; 0 fails.
fn secret_of_peer(ssl: &SslRef, identity: &[u8], secret: &mut [u8]) -> usize {
    let Some(octets) = psk_callbacks::keyring(ssl).and_then(|keyring| keyring.of_peer(identity)) else {
        return 0;
    };
    let Some(place) = secret.get_mut(..octets.len()) else { return 0 };
    place.copy_from_slice(&octets);
    octets.len()
}

/// OpenSSL failed at something that is nobody's fault.
pub fn library(error: &ErrorStack) -> TlsError {
    TlsError::Library(error.to_string())
}
