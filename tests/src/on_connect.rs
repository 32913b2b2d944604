//! Both ends send as soon as they have their connection, whose keys are agreed: nothing of that may come before the keys.

use anyhow::{Result, ensure};

use crate::{
    impair::Impairment,
    keys::{Ends, NEVER},
    kmp::{self, Mode},
    network::{Network, Wire},
    transfer,
};

/// What each end sends, octets.
const AMOUNT: u64 = 1 << 20;

/// Two hundred connections, over IPv4 and IPv6.
pub fn two_hundred(mode: Mode) -> Result<()> {
    let protected = kmp::agreeing(Network::switched()?, mode, "")?;
    for (client, server) in [protected.ends(), protected.ends_v6()] {
        transfer::exchange_many(&client, &server, 100, 4, AMOUNT)?;
    }
    Ends::of(&protected).nothing_dropped_for(&NEVER)
}

/// Thirty, a twentieth of whose segments is lost.
pub fn over_a_wire_that_loses(mode: Mode) -> Result<()> {
    let impairment = Impairment { loss: 50, seed: 7, ..Impairment::default() };
    let network = Network::with(Wire::Impaired(impairment), 1500)?;
    let protected = kmp::agreeing(network, mode, "")?;
    let (client, server) = protected.ends();
    transfer::exchange_many(&client, &server, 30, 10, AMOUNT)?;
    ensure!(kmp::forwarder(&protected)?.treated().lost > 1000, "nothing was lost");
    Ends::of(&protected).nothing_dropped_for(&["wrong-mac", "unknown-key-id", "wrong-length"])
}
