//! Captures of neighbours with several keys.

use tcpauth_common::Algorithm;

use super::samples::{REKEYED, Router, config, frames, summary, with_keys};

fn rekeyed(router: Router, keys: &[usize]) -> crate::config::Config {
    let configs: Vec<_> = keys.iter().map(|key| config(REKEYED, router, *key)).collect();
    let neighbor = &configs[0].neighbors[0];
    let mkts = configs.iter().map(|config| config.neighbors[0].keys.first().clone());
    with_keys(neighbor.peer.address, neighbor.port, mkts.collect())
}

#[test]
fn every_key_of_a_chain_is_tried() {
    let frames = frames(REKEYED);
    for router in [Router::Client, Router::Server] {
        for keys in [[0, 1], [1, 0]] {
            let summary = summary(&rekeyed(router, &keys), &frames);
            assert!(summary.is_good(), "{router:?}: {summary}");
        }
        assert!(!summary(&rekeyed(router, &[0]), &frames).is_good());
    }
}

#[test]
fn keys_that_share_ids_are_told_apart_by_their_macs() {
    let mut config = rekeyed(Router::Client, &[0, 1]);
    let mkts = config.neighbors[0].keys.keys.iter().map(|key| key.mkt.clone());
    let (mut wrong, right): (Vec<_>, Vec<_>) = (mkts.clone().collect(), mkts.collect());
    // The other key's secret under each key's ids, and another length of option.
    let secrets: Vec<_> = wrong.iter().map(|mkt| mkt.master_key.clone()).rev().collect();
    for (mkt, secret) in wrong.iter_mut().zip(secrets) {
        mkt.master_key = secret;
    }
    let mut longer = right.clone();
    for mkt in &mut longer {
        mkt.algorithm = Algorithm::HmacSha256_128;
    }
    let (address, port) = (config.neighbors[0].peer.address, config.neighbors[0].port);
    config = with_keys(address, port, [longer, wrong.clone(), right].concat());
    assert!(summary(&config, &frames(REKEYED)).is_good());
    assert_eq!(summary(&with_keys(address, port, wrong), &frames(REKEYED)).verified, 0);
}
