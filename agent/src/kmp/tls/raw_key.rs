//! One end of a TLS 1.3 connection by raw public keys (RFC 7250), with rustls.

use std::{
    io::{ErrorKind, Read, Write},
    sync::Arc,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error, InvalidMessage,
    PeerIncompatible, ServerConfig, ServerConnection,
    client::{AlwaysResolvesClientRawPublicKeys, Resumption},
    crypto::{CryptoProvider, ring},
    pki_types::{PrivateKeyDer, ServerName},
    server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage},
    sign::CertifiedKey,
    version::TLS13,
};
use zeroize::Zeroizing;

use super::{
    Side, Summary, TlsError,
    error::alert_name,
    key_file::{KeyFileError, PrivateKey},
    raw_key_peer::Peer,
    suites,
};
use crate::config;

/// One end of a connection.
pub struct RawKeyConnection {
    connection: Connection,
    peer: Arc<Peer>,
    /// Of our public key.
    own: [u8; 32],
    /// Something has come from the peer.
    begun: bool,
    established: bool,
    failed: Option<TlsError>,
    received: Zeroizing<Vec<u8>>,
    closed: bool,
}

impl RawKeyConnection {
    /// A new end, with the private key in the file `key`, whose peer is known by `peer`. A client has its first flight to
    /// send at once.
    pub fn new(
        side: Side,
        tls: &config::Tls,
        key: &std::path::Path,
        peer: [u8; 32],
    ) -> Result<Self, TlsError> {
        let wrong = |error: KeyFileError| TlsError::file("private-key-file", key, error);
        let private = PrivateKey::read(key).map_err(wrong)?;
        let own = private.fingerprint().map_err(wrong)?;
        let provider = Arc::new(provider(tls)?);
        let peer = Arc::new(Peer::new(peer, provider));
        let certified = Arc::new(certified(&private, &peer.provider).map_err(wrong)?);
        let connection = connection(side, certified, &peer).map_err(|error| library(&error))?;
        let received = Zeroizing::default();
        Ok(Self {
            connection,
            peer,
            own,
            begun: false,
            established: false,
            failed: None,
            received,
            closed: false,
        })
    }

    /// See [`super::Endpoint::receive`].
    pub fn receive(&mut self, octets: &[u8]) -> Result<(), TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let (false, Some(first)) = (self.begun, octets.first()) {
            if !super::FIRST_OCTETS.contains(first) {
                return self.fail(TlsError::NotTls);
            }
            self.begun = true;
        }
        let mut left = octets;
        while !left.is_empty() && !self.closed {
            match self.connection.read_tls(&mut left) {
                Ok(0) => break,
                Ok(_) => {}
                // Its buffers are emptied each time, so that they are full only of what is no proper TLS.
                Err(error) => return self.fail(TlsError::Protocol(error.to_string())),
            }
            self.advance()?;
        }
        Ok(())
    }

    /// See [`super::Endpoint::take_output`].
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.connection.wants_write() {
            // A vector takes everything.
            if self.connection.write_tls(&mut output).is_err() {
                break;
            }
        }
        output
    }

    /// See [`super::Endpoint::is_established`].
    pub fn is_established(&self) -> bool {
        self.established && self.failed.is_none()
    }

    /// See [`super::Endpoint::send`].
    pub fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.usable()?;
        let written = self.connection.writer().write_all(plaintext);
        written.map_err(|error| TlsError::Library(error.to_string()))
    }

    /// See [`super::Endpoint::take_received`].
    pub fn take_received(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.received)
    }

    /// See [`super::Endpoint::close`].
    pub fn close(&mut self) {
        if self.is_established() {
            self.connection.send_close_notify();
        }
    }

    /// See [`super::Endpoint::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// See [`super::Endpoint::export`].
    pub fn export(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, TlsError> {
        self.usable()?;
        let mut key = Zeroizing::new([0; 32]);
        let exported =
            self.connection.export_keying_material(key.as_mut_slice(), label.as_bytes(), Some(context));
        exported.map_err(|error| library(&error))?;
        Ok(key)
    }

    /// See [`super::Endpoint::summary`].
    pub fn summary(&self) -> Option<Summary> {
        let suite = u16::from(self.connection.negotiated_cipher_suite()?.suite());
        let suite = suites::ALL.iter().find(|known| known.number == suite)?;
        self.is_established().then(|| Summary {
            version: "TLS 1.3".to_owned(),
            suite: suite.name.to_owned(),
            peer: hex::encode(self.peer.expected),
        })
    }

    fn usable(&self) -> Result<(), TlsError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.established => Ok(()),
            None => Err(TlsError::NotEstablished),
        }
    }

    fn advance(&mut self) -> Result<(), TlsError> {
        if let Err(error) = self.connection.process_new_packets() {
            let error = self.reason(&error);
            return self.fail(error);
        }
        if !self.connection.is_handshaking() && !self.established {
            if self.peer.presented() != Some(self.peer.expected) {
                return self.fail(TlsError::Unauthenticated);
            }
            self.established = true;
        }
        match self.connection.reader().read_to_end(&mut self.received) {
            Ok(_) => self.closed = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return self.fail(TlsError::Protocol(error.to_string())),
        }
        if self.closed && !self.established {
            return self.fail(TlsError::Closed);
        }
        Ok(())
    }

    fn fail(&mut self, error: TlsError) -> Result<(), TlsError> {
        self.received = Zeroizing::default();
        self.failed = Some(error.clone());
        Err(error)
    }

    /// What the error of rustls means.
    fn reason(&self, error: &Error) -> TlsError {
        match error {
            Error::AlertReceived(alert) => self.told(*alert),
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                TlsError::WrongPublicKey {
                    presented: self.peer.presented().map(hex::encode).unwrap_or_default(),
                    expected: hex::encode(self.peer.expected),
                }
            }
            Error::NoCertificatesPresented => TlsError::NoSecret,
            Error::PeerIncompatible(reason) => match reason {
                PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon => {
                    TlsError::NoCommonSuite
                }
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled => TlsError::Version,
                PeerIncompatible::IncorrectCertificateTypeExtension
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => TlsError::NoSecret,
                other => TlsError::Protocol(format!("{other:?}")),
            },
            Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => TlsError::Version,
            Error::FailedToGetRandomBytes | Error::FailedToGetCurrentTime => library(error),
            other => TlsError::Protocol(other.to_string()),
        }
    }

    /// What the peer's alert means.
    fn told(&self, alert: AlertDescription) -> TlsError {
        match alert {
            AlertDescription::CloseNotify | AlertDescription::UserCanceled => TlsError::Closed,
            AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA => {
                TlsError::PublicKeyRefused { fingerprint: hex::encode(self.own) }
            }
            AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity
            | AlertDescription::UnsupportedCertificate => TlsError::NoCommonSuite,
            AlertDescription::ProtocolVersion => TlsError::Version,
            other => TlsError::Alert(alert_name(u8::from(other))),
        }
    }
}

/// Of the suites in the configuration those of TLS 1.3 that rustls has, and X25519.
fn provider(tls: &config::Tls) -> Result<CryptoProvider, TlsError> {
    let all = ring::default_provider();
    let of_name = |name: &&'static str| {
        let number = suites::suite(name)?.number;
        all.cipher_suites
            .iter()
            .copied()
            .find(|suite| u16::from(suite.suite()) == number && suite.tls13().is_some())
    };
    let cipher_suites: Vec<_> = tls.suites.iter().filter_map(of_name).collect();
    if cipher_suites.is_empty() {
        return Err(TlsError::Settings(
            "tls.suites: raw public keys need TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384 or \
             TLS_CHACHA20_POLY1305_SHA256"
                .to_owned(),
        ));
    }
    Ok(CryptoProvider { cipher_suites, kx_groups: vec![ring::kx_group::X25519], ..all })
}

/// Our key as rustls wants it: the public key in place of a certificate.
fn certified(private: &PrivateKey, provider: &CryptoProvider) -> Result<CertifiedKey, KeyFileError> {
    let der = PrivateKeyDer::Pkcs8(private.der()?.to_vec().into());
    let signing = provider.key_provider.load_private_key(der);
    let signing = signing.map_err(|error| KeyFileError::Library(error.to_string()))?;
    Ok(CertifiedKey::new(vec![private.public_key()?.into()], signing))
}

fn connection(side: Side, key: Arc<CertifiedKey>, peer: &Arc<Peer>) -> Result<Connection, Error> {
    let provider = peer.provider.clone();
    let mut connection: Connection = match side {
        Side::Client => {
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(peer.clone())
                .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)));
            config.resumption = Resumption::disabled();
            config.enable_sni = false;
            // No name is told: the peer is known by its key.
            let nobody = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
            ClientConnection::new(Arc::new(config), nobody)?.into()
        }
        Side::Server => {
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&TLS13])?
                .with_client_cert_verifier(peer.clone())
                .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            ServerConnection::new(Arc::new(config))?.into()
        }
    };
    // Whatever is sent goes to the caller, who has it in memory anyway.
    connection.set_buffer_limit(None);
    Ok(connection)
}

fn library(error: &Error) -> TlsError {
    TlsError::Library(error.to_string())
}
