//! A peer that is plain OpenSSL, and keeps other rules than we do.

use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    hash::MessageDigest,
    pkey::{PKey, Private},
    rsa::Rsa,
    ssl::{ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVerifyMode, SslVersion},
    x509::{X509, X509NameBuilder},
};

use super::*;
use crate::kmp::tls::pipe::Pipe;

pub struct Stranger {
    pub stream: SslStream<Pipe>,
    /// Reason of the first error.
    pub error: Option<String>,
    pub established: bool,
}

impl Stranger {
    /// A peer with this context, of which nothing is set but the version.
    pub fn new(side: Side, version: SslVersion, settings: impl FnOnce(&mut SslContextBuilder)) -> Self {
        let mut context = SslContext::builder(SslMethod::tls()).expect("context");
        context.set_min_proto_version(Some(version)).expect("version");
        context.set_max_proto_version(Some(version)).expect("version");
        context.set_verify(SslVerifyMode::NONE);
        settings(&mut context);
        let mut ssl = Ssl::new(&context.build()).expect("connection");
        match side {
            Side::Client => ssl.set_connect_state(),
            Side::Server => ssl.set_accept_state(),
        }
        let stream = SslStream::new(ssl, Pipe::default()).expect("stream");
        Self { stream, error: None, established: false }
    }

    /// Goes on as far as it can.
    pub fn advance(&mut self) {
        if self.error.is_some() {
            return;
        }
        match self.stream.do_handshake() {
            Ok(()) => {
                self.established = true;
                let mut record = [0; 1024];
                match self.stream.ssl_read(&mut record) {
                    Ok(_) => {}
                    Err(error) if error.code() == ErrorCode::WANT_READ => {}
                    Err(error) => self.error = Some(error.to_string()),
                }
            }
            Err(error) if error.code() == ErrorCode::WANT_READ => {}
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    /// Talks with `ours` until neither has anything to say, and gives the first error of ours.
    pub fn meet(&mut self, ours: &mut Endpoint) -> Option<TlsError> {
        let mut error = None;
        loop {
            self.advance();
            let (to_us, to_them) = (self.stream.get_mut().take_output(), ours.take_output());
            if to_us.is_empty() && to_them.is_empty() {
                return error;
            }
            error = error.or(ours.receive(&to_us).err());
            self.stream.get_mut().push(&to_them);
        }
    }

    /// A key from its exporter.
    pub fn export(&self) -> [u8; 32] {
        let mut key = [0; 32];
        self.stream
            .ssl()
            .export_keying_material(&mut key, "EXPORTER-test", Some(b"context"))
            .expect("established");
        key
    }
}

/// Has a client use a secret, in TLS 1.2, or in TLS 1.3 with SHA-256.
pub fn use_secret(context: &mut SslContextBuilder, identity: &'static [u8], secret: &'static [u8]) {
    context.set_psk_client_callback(move |_, _, to, key| {
        to[..identity.len()].copy_from_slice(identity);
        to[identity.len()] = 0;
        key[..secret.len()].copy_from_slice(secret);
        Ok(secret.len())
    });
}

/// Has a server take anybody with a secret.
pub fn expect_secret(context: &mut SslContextBuilder, secret: &'static [u8]) {
    context.set_psk_server_callback(move |_, _, key| {
        key[..secret.len()].copy_from_slice(secret);
        Ok(secret.len())
    });
}

/// A certificate for `key`, valid for so many days from now or until so many days ago; signed by `authority` or itself.
pub fn certificate(key: &PKey<Private>, days: i64, authority: Option<(&X509, &PKey<Private>)>) -> X509 {
    let mut name = X509NameBuilder::new().expect("name");
    name.append_entry_by_text("CN", if authority.is_some() { "router" } else { "authority" }).expect("name");
    let name = name.build();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let now = i64::try_from(now.as_secs()).expect("before the end of time");
    let at = |days: i64| Asn1Time::from_unix(now + days * 86_400).expect("time");
    let mut certificate = X509::builder().expect("certificate");
    certificate.set_version(2).expect("version");
    let serial = BigNum::from_u32(7).and_then(|number| number.to_asn1_integer()).expect("number");
    certificate.set_serial_number(&serial).expect("number");
    certificate.set_subject_name(&name).expect("name");
    let issuer = authority.map_or(&*name, |(issuer, _)| issuer.subject_name());
    certificate.set_issuer_name(issuer).expect("name");
    certificate.set_pubkey(key).expect("key");
    certificate.set_not_before(&at(days.min(0) - 2)).expect("time");
    certificate.set_not_after(&at(days)).expect("time");
    if authority.is_none() {
        let authority =
            openssl::x509::extension::BasicConstraints::new().critical().ca().build().expect("CA");
        certificate.append_extension(authority).expect("CA");
    }
    certificate.sign(authority.map_or(key, |(_, key)| key), MessageDigest::sha256()).expect("signed");
    certificate.build()
}

/// A new RSA key.
pub fn rsa_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).expect("RSA")).expect("key")
}
