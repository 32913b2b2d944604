//! Keys for known secrets of TLS, as an independent program computes them: tests/vectors/kmp.json.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use openssl::{
    hash::{MessageDigest, hash},
    pkey::PKey,
    sha::sha256,
    sign::Signer,
};
use serde_json::Value;
use tcpauth_common::{Algorithm, Isn, KeyId, layout::Quartet, mac};
use zeroize::Zeroizing;

use super::{
    agreement::{CONFIRMATION_LABEL, Confirmations, Connection, MASTER_KEY_LABEL, Terms},
    message::{Accept, Capabilities, Message, Offer, Raw, VERSION},
};
use crate::keys::{Role, TcpOptions};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests").join(name)
}

fn vectors() -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(path("vectors/kmp.json")).unwrap()).unwrap()
}

fn number<T: TryFrom<u64>>(value: &Value) -> T {
    T::try_from(value.as_u64().unwrap()).ok().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn octets<const N: usize>(value: &Value) -> [u8; N] {
    hex::decode(text(value)).unwrap().try_into().unwrap()
}

fn capabilities(value: &Value) -> Message {
    Message::Capabilities(Capabilities {
        version: VERSION,
        software: text(&value["software"]),
        algorithms: value["algorithms"].as_array().unwrap().iter().map(text).collect(),
        option_kinds: value["kinds"].as_array().unwrap().iter().map(number).collect(),
        rekey_interval: Duration::from_secs(number(&value["seconds"])),
    })
}

fn connection(case: &Value) -> Connection {
    let end = |end: &Value| (text(&end[0]).parse::<std::net::IpAddr>().unwrap(), number(&end[1])).into();
    Connection {
        client: end(&case["client"]),
        server: end(&case["server"]),
        client_isn: Isn(number(&case["client_isn"])),
        server_isn: case["server_isn"].as_u64().map(|isn| Isn(isn as u32)),
    }
}

fn terms(case: &Value) -> Terms {
    let said = ["offerer_can", "accepter_can"].map(|end| capabilities(&case[end]).encode().unwrap());
    Terms {
        version: VERSION,
        connection: connection(case),
        offerer: Role::from_number(number(&case["offerer"])).unwrap(),
        client_recv_id: KeyId(number(&case["client_recv_id"])),
        server_recv_id: KeyId(number(&case["server_recv_id"])),
        tcp_options: TcpOptions::from_number(number(&case["tcp_options"])).unwrap(),
        offer_nonce: octets(&case["offer_nonce"]),
        accept_nonce: octets(&case["accept_nonce"]),
        algorithm: Algorithm::from_name(&text(&case["algorithm"])).unwrap(),
        capabilities: sha256(&said.concat()),
    }
}

fn hmac(digest: MessageDigest, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let key = PKey::hmac(key).unwrap();
    let mut signer = Signer::new(digest, &key).unwrap();
    signer.update(&parts.concat()).unwrap();
    signer.sign_to_vec().unwrap()
}

/// RFC 8446 §7.1, for one block.
fn expand_label(digest: MessageDigest, secret: &[u8], label: &str, context: &[u8], len: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let head = [0, len as u8, label.len() as u8];
    let info = [&head[..], label.as_bytes(), &[context.len() as u8], context, &[1]];
    hmac(digest, secret, &info)[..len].to_vec()
}

/// What TLS exports, of these secrets of it.
fn export(tls: &Value, label: &str, context: &[u8]) -> Zeroizing<[u8; 32]> {
    let digest = MessageDigest::from_name(&text(&tls["hash"])).unwrap();
    let secret = hex::decode(text(&tls["secret"])).unwrap();
    if tls["version"] == "TLS 1.3" {
        let hash = |octets: &[u8]| hash(digest, octets).unwrap().to_vec();
        let derived = expand_label(digest, &secret, label, &hash(b""), digest.size());
        return Zeroizing::new(
            expand_label(digest, &derived, "exporter", &hash(context), 32).try_into().unwrap(),
        );
    }
    let length = (context.len() as u16).to_be_bytes();
    let seed = [label.as_bytes(), &hex::decode(text(&tls["randoms"])).unwrap(), &length, context].concat();
    let a = hmac(digest, &secret, &[&seed]);
    Zeroizing::new(hmac(digest, &secret, &[&a, &seed]).try_into().unwrap())
}

#[test]
fn contexts_keys_and_confirmations_are_those_of_the_vectors() {
    for case in vectors() {
        let (name, terms) = (&case["name"], terms(&case));
        let context = terms.context();
        assert_eq!(hex::encode(&context), case["context"], "{name}");
        let master_key = export(&case["tls"], MASTER_KEY_LABEL, &context);
        assert_eq!(hex::encode(*master_key), case["master_key"], "{name}");
        let key = export(&case["tls"], CONFIRMATION_LABEL, &context);
        assert_eq!(hex::encode(*key), case["confirmation_key"], "{name}");
        let confirmations = Confirmations::new(&key, &context).unwrap();
        for (message, confirmation) in
            [("accept", confirmations.accepter), ("confirm", confirmations.offerer)]
        {
            assert!(text(&case["messages"][message]).ends_with(&hex::encode(confirmation)), "{name}");
        }
    }
}

#[test]
fn messages_are_those_of_the_vectors() {
    for case in vectors() {
        let (id, terms, said) = (number(&case["id"]), terms(&case), &case["messages"]);
        let context = terms.context();
        let confirmations =
            Confirmations::new(&export(&case["tls"], CONFIRMATION_LABEL, &context), &context).unwrap();
        let (offerers_id, accepters_id) = match terms.offerer {
            Role::Client => (terms.client_recv_id, terms.server_recv_id),
            Role::Server => (terms.server_recv_id, terms.client_recv_id),
        };
        let offer = Offer {
            id,
            connection: terms.connection,
            role: terms.offerer,
            recv_id: offerers_id,
            tcp_options: terms.tcp_options,
            nonce: terms.offer_nonce,
        };
        let accept = Accept {
            id,
            recv_id: accepters_id,
            nonce: terms.accept_nonce,
            algorithm: terms.algorithm.name().to_owned(),
            confirmation: confirmations.accepter,
        };
        for (name, message) in [
            ("offerers_capabilities", capabilities(&case["offerer_can"])),
            ("accepters_capabilities", capabilities(&case["accepter_can"])),
            ("offer", Message::Offer(offer)),
            ("accept", Message::Accept(accept)),
            ("confirm", Message::Confirm { id, confirmation: confirmations.offerer }),
            ("done", Message::Done { id }),
        ] {
            let octets = hex::decode(text(&said[name])).unwrap();
            assert_eq!(hex::encode(message.encode().unwrap()), said[name], "{name}");
            assert_eq!(Raw { octets: &octets }.decode(VERSION), Ok(Some(message)), "{name}");
        }
        let (Message::Capabilities(offerer), Message::Capabilities(accepter)) =
            (capabilities(&case["offerer_can"]), capabilities(&case["accepter_can"]))
        else {
            unreachable!()
        };
        assert_eq!(accepter.best_common(&offerer), Some(terms.algorithm.name()));
    }
}

#[test]
fn traffic_keys_are_those_of_the_vectors() {
    for case in vectors() {
        let terms = terms(&case);
        let octets = |end: std::net::SocketAddr| tcpauth_common::layout::mapped(end.ip());
        let (client, server) = (terms.connection.client, terms.connection.server);
        let server_isn =
            terms.connection.server_isn.unwrap_or_else(|| Isn(number(&case["later_server_isn"])));
        let from_client = Quartet {
            local: octets(client),
            peer: octets(server),
            local_port: client.port(),
            peer_port: server.port(),
            scope: 0,
        };
        let from_server = Quartet {
            local: from_client.peer,
            peer: from_client.local,
            local_port: from_client.peer_port,
            peer_port: from_client.local_port,
            scope: 3,
        };
        let client_isn = terms.connection.client_isn;
        let master_key = export(&case["tls"], MASTER_KEY_LABEL, &terms.context());
        let [at_client, at_server] = [Role::Client, Role::Server].map(|role| terms.agreed(role, &master_key));
        let expected =
            |name: &str| mac::prepare(terms.algorithm, &hex::decode(text(&case[name])).unwrap()).words;
        let slot = at_client.mkt.traffic_slot(&from_client, client_isn, server_isn, Role::Client);
        assert_eq!(slot.send.words, expected("client_to_server_key"));
        assert_eq!(slot.recv.words, expected("server_to_client_key"));
        assert_eq!((slot.send_id, slot.recv_id), (terms.server_recv_id, terms.client_recv_id));
        let slot = at_server.mkt.traffic_slot(&from_server, server_isn, client_isn, Role::Server);
        assert_eq!(slot.recv.words, expected("client_to_server_key"));
        assert_eq!((slot.send_id, slot.recv_id), (terms.client_recv_id, terms.server_recv_id));
        let syn = at_client.mkt.syn_send(&from_client, client_isn);
        assert_eq!(syn.material.words, expected("client_syn_key"));

        let local =
            Connection::new(&from_client, Role::Client, Some(client_isn), terms.connection.server_isn);
        let peers =
            Connection::new(&from_server, Role::Server, terms.connection.server_isn, Some(client_isn));
        assert_eq!([local, peers], [Some(terms.connection); 2], "both ends see the same");
        assert_eq!(Connection::new(&from_client, Role::Client, None, Some(server_isn)), None);
    }
}

#[test]
fn the_vectors_are_what_the_independent_program_computes() {
    let output = Command::new("/usr/bin/python3").arg(path("independent/kmp_vectors.py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, fs::read(path("vectors/kmp.json")).unwrap(), "write them anew");
}
