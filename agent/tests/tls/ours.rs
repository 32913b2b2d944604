//! Our end of a connection over TCP, and what went over the wire.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use tcpauth::{
    config::{Authentication, Rsa, Tls},
    keys::MasterKey,
    kmp::tls::{Endpoint, Psk, Side, TlsError},
};

/// What both ends have.
pub const SECRET: &[u8] = b"a secret of 27 octets: v61n";
/// What the client calls itself.
pub const CLIENT: &str = "10.0.0.1";
/// What the server would call itself.
pub const SERVER: &str = "10.0.0.2";
/// Label of the exported key.
pub const LABEL: &str = "EXPORTER-test";

/// Our end.
pub struct Ours {
    pub endpoint: Endpoint,
    stream: TcpStream,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Ours {
    /// An end of `stream` that has one suite.
    pub fn new(side: Side, suite: &'static str, rsa: Option<Rsa>, stream: TcpStream) -> Self {
        let authentication = Authentication::Psk { identity: None, peer_identity: None, rsa };
        Self::with(side, Tls { authentication, suites: vec![suite] }, stream)
    }

    /// An end of `stream`.
    pub fn with(side: Side, tls: Tls, stream: TcpStream) -> Self {
        let (identity, peer_identity) = match side {
            Side::Client => (CLIENT, SERVER),
            Side::Server => (SERVER, CLIENT),
        };
        let psk = Psk {
            identity: identity.to_owned(),
            peer_identity: peer_identity.to_owned(),
            secret: MasterKey::new(SECRET.to_vec().into()).unwrap(),
        };
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let endpoint = Endpoint::new(side, &tls, &psk).unwrap_or_else(|error| panic!("{tls:?}: {error}"));
        Self { endpoint, stream, sent: Vec::new(), received: Vec::new() }
    }

    /// Sends what there is to send.
    pub fn flush(&mut self) {
        let output = self.endpoint.take_output();
        self.sent.extend_from_slice(&output);
        self.stream.write_all(&output).unwrap();
    }

    /// Reads once.
    pub fn receive(&mut self) -> Result<(), TlsError> {
        let mut buffer = [0; 4096];
        let len = self.stream.read(&mut buffer).unwrap();
        assert_ne!(len, 0, "the other end closed the connection");
        self.received.extend_from_slice(&buffer[..len]);
        let received = self.endpoint.receive(&buffer[..len]);
        self.flush();
        received
    }

    /// Until the handshake is over.
    pub fn establish(&mut self) -> Result<(), TlsError> {
        self.flush();
        while !self.endpoint.is_established() {
            self.receive()?;
        }
        Ok(())
    }

    /// The next octets of the other application.
    pub fn hear(&mut self) -> Vec<u8> {
        loop {
            let heard = self.endpoint.take_received();
            if !heard.is_empty() {
                return heard.to_vec();
            }
            self.receive().unwrap();
        }
    }

    /// Sends octets of our application.
    pub fn say(&mut self, octets: &[u8]) {
        self.endpoint.send(octets).unwrap();
        self.flush();
    }

    /// Our exported key.
    pub fn export(&self, context: &[u8]) -> String {
        hex::encode(*self.endpoint.export(LABEL, context).unwrap())
    }

    /// Random octets of the client and the server, from their hellos: after a record's header of 5 octets, a message's of 4
    /// and the version's 2.
    pub fn randoms(&self, side: Side) -> [&[u8]; 2] {
        let (client, server) = match side {
            Side::Client => (&self.sent, &self.received),
            Side::Server => (&self.received, &self.sent),
        };
        [client, server].map(|octets| &octets[11..43])
    }
}
