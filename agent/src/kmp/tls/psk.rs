//! One end of a TLS connection by PSK, with OpenSSL.

use std::sync::{Arc, Mutex, PoisonError};

use openssl::{
    error::ErrorStack,
    ssl::{self, ErrorCode, Ssl, SslContextRef, SslStream, SslVersion},
    x509::X509VerifyResult,
};
use zeroize::Zeroizing;

use super::{
    Psk, Side, Summary, TlsError, certificate,
    context::{self, library},
    error::alert_name,
    pipe::Pipe,
    psk_callbacks::{self, Keyring},
};
use crate::config::{self, Rsa, Validation};

/// Longest identity, in octets: 128 characters (RFC 4279 §5.4) in UTF-8.
const MAX_IDENTITY: usize = 512;
/// Longest identity, in octets, that OpenSSL takes in TLS 1.2.
const MAX_IDENTITY_IN_TLS12: usize = 255;
/// Longest secret, in octets, that OpenSSL takes.
const MAX_SECRET: usize = 512;
/// So much plaintext is read at a time; messages are shorter.
const PIECE: usize = 1024;

/// Reasons of OpenSSL's errors (`openssl/sslerr.h`); received alerts are above this one.
const ALERTS: i32 = 1000;
const NO_SUITABLE_KEY_SHARE: i32 = 101;
const NO_SUITABLE_SIGNATURE_ALGORITHM: i32 = 118;
const CERTIFICATE_VERIFY_FAILED: i32 = 134;
const DIGEST_CHECK_FAILED: i32 = 149;
const VERSION_TOO_HIGH: i32 = 166;
const NO_SHARED_CIPHER: i32 = 193;
const BINDER_DOES_NOT_VERIFY: i32 = 253;
const UNSUPPORTED_PROTOCOL: i32 = 258;
const WRONG_VERSION_NUMBER: i32 = 267;
const DECRYPTION_FAILED_OR_BAD_RECORD_MAC: i32 = 281;
const VERSION_TOO_LOW: i32 = 396;
/// `openssl/err.h`
const ERR_LIB_SSL: i32 = 20;
/// `openssl/x509_vfy.h`
const X509_V_ERR_CERT_HAS_EXPIRED: i32 = 10;

/// One end of a connection.
pub struct PskConnection {
    stream: SslStream<Pipe>,
    keys: Arc<Keys>,
    side: Side,
    validation: Option<Validation>,
    state: State,
    received: Zeroizing<Vec<u8>>,
    /// The peer has ended its direction.
    closed: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum State {
    /// Nothing has come from the peer yet.
    Silent,
    Handshake,
    Established,
    Failed(TlsError),
}

/// The secret of one connection, and what the peer called itself.
struct Keys {
    psk: Psk,
    presented: Mutex<Option<Vec<u8>>>,
}

impl Keys {
    fn presented(&self) -> Option<Vec<u8>> {
        self.presented.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Keyring for Keys {
    fn own(&self) -> (&[u8], &[u8]) {
        (self.psk.identity.as_bytes(), self.psk.secret.octets())
    }

    /// Whoever is not expected gets a secret that nobody has, so that it learns no more than one whose secret is wrong
    /// (RFC 4279 §2).
    fn of_peer(&self, identity: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        // Of one that is too long to be expected, a client can make it 64 KiB, enough is kept to tell it.
        let kept = &identity[..identity.len().min(MAX_IDENTITY + 1)];
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept.to_vec());
        let mut secret = Zeroizing::new(self.psk.secret.octets().to_vec());
        if identity != self.psk.peer_identity.as_bytes() {
            getrandom::fill(&mut secret).ok()?;
        }
        Some(secret)
    }
}

impl PskConnection {
    /// A new end. A client has its first flight to send at once.
    pub fn new(side: Side, tls: &config::Tls, rsa: Option<&Rsa>, psk: &Psk) -> Result<Self, TlsError> {
        let suites = context::usable(side, tls, rsa)?;
        let is_tls13 = suites.iter().all(|suite| suite.exchange.is_tls13());
        check(psk, if is_tls13 { MAX_IDENTITY } else { MAX_IDENTITY_IN_TLS12 })?;
        let context = context::context(side, &suites, rsa)?;
        let keys = Arc::new(Keys { psk: psk.clone(), presented: Mutex::new(None) });
        let suite = suites.iter().find(|suite| suite.exchange.is_tls13()).map(|suite| suite.number);
        let stream = Self::stream(side, &context, keys.clone(), suite);
        let mut connection = Self {
            stream: stream.map_err(|error| library(&error))?,
            keys,
            side,
            validation: rsa.filter(|_| side == Side::Client).map(|rsa| rsa.validation.clone()),
            state: State::Silent,
            received: Zeroizing::default(),
            closed: false,
        };
        if side == Side::Client {
            connection.advance()?;
        }
        Ok(connection)
    }

    fn stream(
        side: Side,
        context: &SslContextRef,
        keyring: Arc<dyn Keyring>,
        suite: Option<u16>,
    ) -> Result<SslStream<Pipe>, ErrorStack> {
        let mut ssl = Ssl::new(context)?;
        psk_callbacks::attach(&mut ssl, keyring, suite)?;
        match side {
            Side::Client => ssl.set_connect_state(),
            Side::Server => ssl.set_accept_state(),
        }
        SslStream::new(ssl, Pipe::default())
    }

    /// See [`super::Endpoint::receive`].
    pub fn receive(&mut self, octets: &[u8]) -> Result<(), TlsError> {
        match &self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Silent => match octets.first() {
                None => return Ok(()),
                Some(first) if !super::FIRST_OCTETS.contains(first) => return self.fail(TlsError::NotTls),
                Some(_) => self.state = State::Handshake,
            },
            State::Handshake | State::Established => {}
        }
        self.stream.get_mut().push(octets);
        self.advance()
    }

    /// See [`super::Endpoint::take_output`].
    pub fn take_output(&mut self) -> Vec<u8> {
        self.stream.get_mut().take_output()
    }

    /// See [`super::Endpoint::is_established`].
    pub fn is_established(&self) -> bool {
        self.state == State::Established
    }

    /// See [`super::Endpoint::send`].
    pub fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.established()?;
        let mut left = plaintext;
        while !left.is_empty() {
            match self.stream.ssl_write(left) {
                Ok(written) => left = &left[written..],
                Err(error) => {
                    let error = self.reason(&error);
                    return self.fail(error);
                }
            }
        }
        Ok(())
    }

    /// See [`super::Endpoint::take_received`].
    pub fn take_received(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.received)
    }

    /// See [`super::Endpoint::close`].
    pub fn close(&mut self) {
        if self.is_established() {
            // Whatever it says, the connection is not used any more.
            let _ = self.stream.shutdown();
        }
    }

    /// See [`super::Endpoint::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// See [`super::Endpoint::export`].
    pub fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError> {
        self.established()?;
        let mut key = Zeroizing::new([0; 32]);
        let exported = self.stream.ssl().export_keying_material(&mut *key, label, Some(context));
        exported.map_err(|error| library(&error))?;
        Ok(key)
    }

    /// See [`super::Endpoint::summary`].
    pub fn summary(&self) -> Option<Summary> {
        let ssl = self.stream.ssl();
        let suite = self.is_established().then(|| ssl.current_cipher()?.standard_name()).flatten()?;
        let version = match ssl.version2()? {
            SslVersion::TLS1_3 => "TLS 1.3",
            _ => "TLS 1.2",
        };
        Some(Summary {
            version: version.to_owned(),
            suite: suite.to_owned(),
            peer: self.keys.psk.peer_identity.clone(),
        })
    }

    fn established(&self) -> Result<(), TlsError> {
        match &self.state {
            State::Established => Ok(()),
            State::Silent | State::Handshake => Err(TlsError::NotEstablished),
            State::Failed(error) => Err(error.clone()),
        }
    }

    /// Does what can be done with what has come.
    fn advance(&mut self) -> Result<(), TlsError> {
        if self.state != State::Established {
            match self.stream.do_handshake() {
                Ok(()) => {}
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(()),
                Err(error) => {
                    let error = self.reason(&error);
                    return self.fail(error);
                }
            }
            if let Err(error) = self.authenticated() {
                return self.fail(error);
            }
            self.state = State::Established;
        }
        self.read()
    }

    fn read(&mut self) -> Result<(), TlsError> {
        let mut piece = Zeroizing::new([0; PIECE]);
        loop {
            match self.stream.ssl_read(&mut *piece) {
                Ok(len) => self.received.extend_from_slice(&piece[..len]),
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(()),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    self.closed = true;
                    return Ok(());
                }
                Err(error) => {
                    let error = self.reason(&error);
                    return self.fail(error);
                }
            }
        }
    }

    /// Whether a handshake that ended well proves what it must.
    fn authenticated(&self) -> Result<(), TlsError> {
        let ssl = self.stream.ssl();
        // With a certificate of the server a handshake of TLS 1.3 can do without a secret.
        match ssl.version2() {
            Some(SslVersion::TLS1_3) if !ssl.session_reused() => return Err(TlsError::NoSecret),
            Some(SslVersion::TLS1_2) if ssl.extms_support() != Some(true) => {
                return Err(TlsError::NoExtendedMasterSecret);
            }
            Some(SslVersion::TLS1_2 | SslVersion::TLS1_3) => {}
            _ => return Err(TlsError::Version),
        }
        if self.side == Side::Server && !self.is_expected() {
            return Err(TlsError::Unauthenticated);
        }
        let certified = ssl.peer_certificate().is_some();
        if let Some(validation) = self.validation.as_ref().filter(|_| certified)
            && !certificate::is_expected(ssl, validation)
        {
            return Err(TlsError::Unauthenticated);
        }
        Ok(())
    }

    /// Of a server: whether the peer called itself what it should.
    fn is_expected(&self) -> bool {
        self.keys.presented().as_deref() == Some(self.keys.psk.peer_identity.as_bytes())
    }

    fn fail(&mut self, error: TlsError) -> Result<(), TlsError> {
        self.received = Zeroizing::default();
        self.stream.get_mut().clear_input();
        self.state = State::Failed(error.clone());
        Err(error)
    }

    /// What OpenSSL's error means.
    fn reason(&self, error: &ssl::Error) -> TlsError {
        let Some(stack) = error.ssl_error() else {
            return match error.code() {
                ErrorCode::ZERO_RETURN => TlsError::Closed,
                _ => TlsError::Library(error.to_string()),
            };
        };
        // Errors of ciphers and certificates may stand before that of TLS.
        let of_tls = stack.errors().iter().find(|error| error.library_code() == ERR_LIB_SSL);
        let Some(first) = of_tls.or(stack.errors().first()) else {
            return TlsError::Library(error.to_string());
        };
        let code = first.reason_code();
        if let Some(alert) = code.checked_sub(ALERTS).and_then(|alert| u8::try_from(alert).ok()) {
            return self.told(alert);
        }
        match code {
            BINDER_DOES_NOT_VERIFY | DECRYPTION_FAILED_OR_BAD_RECORD_MAC | DIGEST_CHECK_FAILED
                if !self.is_established() =>
            {
                self.wrong_secret()
            }
            NO_SUITABLE_SIGNATURE_ALGORITHM => TlsError::NoSecret,
            NO_SHARED_CIPHER | NO_SUITABLE_KEY_SHARE => TlsError::NoCommonSuite,
            UNSUPPORTED_PROTOCOL | WRONG_VERSION_NUMBER | VERSION_TOO_LOW | VERSION_TOO_HIGH => {
                TlsError::Version
            }
            CERTIFICATE_VERIFY_FAILED => match self.stream.ssl().verify_result() {
                _ if self.validation.is_none() => TlsError::NoSecret,
                result if result.as_raw() == X509_V_ERR_CERT_HAS_EXPIRED => TlsError::CertificateExpired,
                X509VerifyResult::OK => {
                    TlsError::Certificate("its fingerprint is not tls.server-fingerprint".to_owned())
                }
                result => TlsError::Certificate(result.error_string().to_owned()),
            },
            _ => TlsError::Protocol(first.reason().unwrap_or("no reason is known").to_owned()),
        }
    }

    /// What the peer's alert means.
    fn told(&self, alert: u8) -> TlsError {
        let secret = || TlsError::SecretRefused { identity: self.keys.psk.identity.clone() };
        match alert {
            0 | 90 => TlsError::Closed,
            // What servers say of a wrong secret: OpenSSL illegal_parameter in TLS 1.3, bad_record_mac in TLS 1.2.
            20 | 47 | 51 | 115 if !self.is_established() && self.side == Side::Client => secret(),
            20 | 51 if !self.is_established() => self.wrong_secret(),
            40 | 71 if !self.is_established() => TlsError::NoCommonSuite,
            42 | 43 | 44 | 46 | 48 | 49 => TlsError::OurCertificate(alert_name(alert)),
            45 => TlsError::OurCertificateExpired,
            70 => TlsError::Version,
            other => TlsError::Alert(alert_name(other)),
        }
    }

    fn wrong_secret(&self) -> TlsError {
        match self.keys.presented() {
            Some(presented) if !self.is_expected() => TlsError::UnknownIdentity {
                presented: printable(&presented),
                expected: self.keys.psk.peer_identity.clone(),
            },
            _ => TlsError::WrongSecret,
        }
    }
}

/// Whether OpenSSL can use what we call ourselves, the peer and the secret, with identities of up to `longest` octets.
fn check(psk: &Psk, longest: usize) -> Result<(), TlsError> {
    for (field, identity) in [("identity", &psk.identity), ("peer-identity", &psk.peer_identity)] {
        if identity.is_empty() || identity.len() > longest || identity.contains('\0') {
            return Err(TlsError::Settings(format!(
                "tls.{field} is to be 1 to {longest} octets of UTF-8 without NUL: it has {}",
                identity.len()
            )));
        }
    }
    match psk.secret.octets().len() {
        1..=MAX_SECRET => Ok(()),
        len => Err(TlsError::Settings(format!(
            "the key of the neighbor has {len} octets, and TLS takes {MAX_SECRET} at most"
        ))),
    }
}

/// Text for operators, of octets that anybody can send.
fn printable(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets)
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::MasterKey;

    #[test]
    fn only_the_expected_identity_gets_the_secret_and_no_other_is_kept_whole() {
        let longest = "a".repeat(MAX_IDENTITY);
        let secret = MasterKey::new(b"a secret".to_vec().into()).expect("not empty");
        let psk = Psk { identity: "b".to_owned(), peer_identity: longest.clone(), secret };
        let keys = Keys { psk, presented: Mutex::default() };
        let of_peer = |identity: &str| keys.of_peer(identity.as_bytes()).expect("random").to_vec();
        assert_eq!(of_peer(&longest), b"a secret");
        assert_eq!(keys.presented().as_deref(), Some(longest.as_bytes()));

        let (first, second) = (of_peer(&"a".repeat(65_535)), of_peer(&"a".repeat(65_535)));
        assert!(first.len() == 8 && first != b"a secret" && first != second);
        assert_eq!(keys.presented().map(|kept| kept.len()), Some(MAX_IDENTITY + 1));
        assert_ne!(of_peer(&longest[1..]), b"a secret");
        assert_ne!(of_peer(""), b"a secret");
    }

    #[test]
    fn identities_are_shown_without_control_characters() {
        assert_eq!(printable(b"a\x1b[2J\xffz"), "a\u{fffd}[2J\u{fffd}z");
    }
}
