//! Captures and configurations that tests are made of.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tcpauth_common::{Algorithm, Kdf, KeyId};
use zeroize::Zeroizing;

use crate::capture::{AgreedKeys, Examined, Frame, Frames, Others, Summary, Verdict, Verifier};
use crate::config::{Config, KeyManagement, Neighbor, OnUnprotected, Peer, Unauthenticated, Wire};
use crate::keys::{ChainKey, KeyChain, Lifetime, MasterKey, Mkt, TcpOptions};

/// Names of the captures of native Linux TCP-AO in tests/vectors/linux-ao whose connections use one key.
pub const ONE_KEY: [&str; 4] = ["cmac-v6-ts1", "sha1-noopt-v6-ts1", "sha1-sne-v4-ts1", "sha1-v4-ts1"];

/// The one whose client moves to a second key.
pub const REKEYED: &str = "cmac-rekey-both-v4-ts1";

/// Whose file a configuration is.
#[derive(Clone, Copy, Debug)]
pub enum Router {
    Client,
    Server,
}

/// The frames of a capture in tests/vectors/linux-ao.
pub fn frames(name: &str) -> Vec<Frame> {
    frames_of(&vector(&format!("{name}.pcap")))
}

/// The frames of a capture file.
pub fn frames_of(file: &Path) -> Vec<Frame> {
    let file = fs::read(file).unwrap();
    Frames::new(&file[..]).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What `router` would have in its file, with the key number `key` of the capture.
pub fn config(name: &str, router: Router, key: usize) -> Config {
    let about = &serde_json::from_slice::<Value>(&fs::read(vector("keys.json")).unwrap()).unwrap()[name];
    let key = &about["keys"][key];
    let id = |field: &str| KeyId(key[field].as_u64().unwrap().try_into().unwrap());
    let algorithm = match key["alg"].as_str().unwrap() {
        "hmac(sha1)" => Algorithm::HmacSha1_96,
        "cmac(aes128)" => Algorithm::Aes128Cmac96,
        other => panic!("algorithm {other}"),
    };
    let (peer, send_id, recv_id) = match router {
        Router::Client => ("server", "client_sndid", "server_sndid"),
        Router::Server => ("client", "server_sndid", "client_sndid"),
    };
    let secret = hex::decode(key["secret_hex"].as_str().unwrap()).unwrap();
    let mkt = Mkt {
        send_id: id(send_id),
        recv_id: id(recv_id),
        algorithm,
        kdf: Kdf::Rfc5926,
        tcp_options: if key["exclude_opt"] == true { TcpOptions::Exclude } else { TcpOptions::Include },
        master_key: MasterKey::new(Zeroizing::new(secret)).unwrap(),
    };
    let port = about["server_port"].as_u64().unwrap().try_into().unwrap();
    with_neighbor(about[peer].as_str().unwrap().parse().unwrap(), port, mkt)
}

/// A configuration of one neighbour with one key.
pub fn with_neighbor(address: IpAddr, port: u16, mkt: Mkt) -> Config {
    with_keys(address, port, vec![mkt])
}

/// A configuration of one neighbour with several keys.
pub fn with_keys(address: IpAddr, port: u16, mkts: Vec<Mkt>) -> Config {
    let prefix_len = if address.is_ipv4() { 32 } else { 128 };
    let keys = (0..).zip(mkts).map(|(number, mkt)| ChainKey {
        number,
        mkt,
        send: Lifetime::ALWAYS,
        accept: Lifetime::ALWAYS,
    });
    let mut config = Config::default();
    config.neighbors.push(Neighbor {
        peer: Peer { address, prefix_len, interface: None },
        keys: Arc::new(KeyChain { name: None, keys: keys.collect() }),
        port,
        ttl_security: None,
        forwarded: Vec::new(),
        key_warning: None,
        key_management: KeyManagement::Implicit,
        kmp: None,
        wire: Wire::TcpAo,
        unauthenticated: Unauthenticated::Drop,
        on_unprotected: OnUnprotected::Report,
    });
    config
}

/// What becomes of these frames.
pub fn examine<'f>(config: &Config, frames: impl IntoIterator<Item = &'f Frame>) -> Vec<Examined> {
    examine_with(config, &AgreedKeys::default(), frames)
}

/// The same, with keys of single connections.
pub fn examine_with<'f>(
    config: &Config,
    agreed: &AgreedKeys,
    frames: impl IntoIterator<Item = &'f Frame>,
) -> Vec<Examined> {
    let mut verifier = Verifier::new(config, agreed);
    frames.into_iter().filter_map(|frame| verifier.examine(frame).ok()).collect()
}

/// Their verdicts.
pub fn verdicts<'f>(config: &Config, frames: impl IntoIterator<Item = &'f Frame>) -> Vec<Verdict> {
    examine(config, frames).into_iter().map(|examined| examined.verdict).collect()
}

/// The sum of them.
pub fn summary<'f>(config: &Config, frames: impl IntoIterator<Item = &'f Frame>) -> Summary {
    let mut summary = Summary::default();
    verdicts(config, frames).into_iter().for_each(|verdict| summary.count(verdict));
    summary
}

/// The kinds of the frames that are not a neighbor's segments.
pub fn others<'f>(config: &Config, frames: impl IntoIterator<Item = &'f Frame>) -> Others {
    let agreed = AgreedKeys::default();
    let mut verifier = Verifier::new(config, &agreed);
    let mut others = Others::default();
    frames
        .into_iter()
        .filter_map(|frame| verifier.examine(frame).err())
        .for_each(|other| others.count(other));
    others
}

/// A file of tests/vectors/linux-ao.
pub fn vector(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/linux-ao").join(name)
}
