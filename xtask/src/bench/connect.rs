//! Time to connect.

use std::time::Instant;

use anyhow::Result;
use tcpauth_tests::{
    network::Network,
    scenario::{Protected, end},
    transfer::{self, End, Options},
};

use super::{
    Measured,
    statistics::{least, median},
};

/// Connections of each kind.
const CONNECTIONS: usize = 200;
/// Taken in turn, this many at a time.
const ROUND: usize = 20;

pub fn measure() -> Result<Vec<Measured>> {
    let plain = Network::switched()?;
    let protected = Protected::switched()?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS / ROUND {
        let ends = (end(&plain.r1, 0), end(&plain.r2, 179));
        connect(&ends, &mut without)?;
        connect(&protected.ends(), &mut with)?;
    }
    let added = median(&with) - median(&without);
    Ok(vec![
        Measured::new("connect without tcpauth, p50 of 200", median(&without), "ms"),
        Measured::new("connect with tcpauth, p50 of 200", median(&with), "ms"),
        Measured::new("connect with tcpauth, least", least(&with), "ms"),
        Measured::new("added time to connect, p50", added, "ms").below(1.0),
    ])
}

fn connect((client, server): &(End, End), milliseconds: &mut Vec<f64>) -> Result<()> {
    let options = Options::default();
    let listener = transfer::listen(server, client.address.ip(), &options)?;
    for _ in 0..ROUND {
        let prepared = transfer::prepare(client, server.address.ip(), &options)?;
        let start = Instant::now();
        let near = prepared.connect(server.address)?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
        let far = transfer::accept(&listener)?;
        transfer::ping(&near, &far)?;
    }
    Ok(())
}
