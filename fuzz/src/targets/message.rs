//! Messages inside TLS.

use std::time::Duration;

use tcpauth::{
    keys::{Role, TcpOptions},
    kmp::{
        Capabilities, Connection, Refusal,
        message::{Accept, MAX_LEN, Message, Offer, Raw, VERSION},
    },
};
use tcpauth_common::{Algorithm, Isn, KeyId};

/// The sender's version (u8), then messages. What is understood says the same when it is said again.
pub fn message(data: &[u8]) {
    let Some((version, mut rest)) = data.split_first() else { return };
    while let Ok(Some((raw, after))) = Raw::split(rest) {
        assert!(raw.octets.len() <= MAX_LEN && raw.octets.len() + after.len() == rest.len());
        match raw.decode((*version).into()) {
            Ok(Some(Message::Capabilities(told))) if told.version > VERSION => {}
            Ok(Some(message)) => assert_eq!(message.encode().as_deref(), Ok(raw.octets)),
            Ok(None) | Err(_) => {}
        }
        rest = after;
    }
}

/// One of each.
pub fn all() -> Vec<Message> {
    let connection = Connection {
        client: ([192, 0, 2, 1], 40000).into(),
        server: ([192, 0, 2, 2], 179).into(),
        client_isn: Isn(1),
        server_isn: Some(Isn(2)),
    };
    let (recv_id, tcp_options, nonce) = (KeyId(128), TcpOptions::Include, [0; 16]);
    let (algorithm, confirmation) = (Algorithm::HmacSha256_128.name().to_owned(), [0; 32]);
    vec![
        Message::Capabilities(Capabilities::ours(&Algorithm::TCP_AO, Duration::from_secs(3600))),
        Message::Offer(Offer { id: 1, connection, role: Role::Client, recv_id, tcp_options, nonce }),
        Message::Accept(Accept { id: 1, recv_id, nonce, algorithm, confirmation }),
        Message::Confirm { id: 1, confirmation },
        Message::Done { id: 1 },
        Message::Refuse { id: 1, reason: Refusal::Collision },
    ]
}

/// Each alone, and all after each other.
pub fn seeds() -> Vec<Vec<u8>> {
    let octets: Vec<_> = all().iter().filter_map(|message| message.encode().ok()).collect();
    let with_version = |octets: &[u8]| [&[VERSION as u8], octets].concat();
    octets.iter().map(|octets| with_version(octets)).chain([with_version(&octets.concat())]).collect()
}
