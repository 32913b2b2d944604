//! A function of octets for each way in.

mod capture;
mod captured;
mod clear;
mod config;
mod control;
mod exchange;
mod held;
mod layered;
mod message;
mod stream;
mod tls;

pub use capture::capture;
pub use config::config;
pub use control::control;
pub use exchange::exchange;
pub use held::held;
pub use layered::layered;
pub use message::message;
pub use stream::stream;
pub use tls::{tls_client, tls_server};

/// A way in.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, and who can send it.
    pub about: &'static str,
    /// Takes octets in any form. It panics only if there is a fault.
    pub run: fn(&[u8]),
    /// Inputs that get far.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs that a test has time for: about a second's worth without optimisation.
    pub inputs_in_tests: u64,
}

/// Every target.
pub const ALL: &[Target] = &[
    Target {
        name: "tls-server",
        about: "what the server of a TLS handshake hears, from whoever has not the secret",
        run: tls_server,
        seeds: tls::seeds_for_server,
        inputs_in_tests: 200,
    },
    Target {
        name: "tls-client",
        about: "what the client of a TLS handshake hears, from whoever has not the secret",
        run: tls_client,
        seeds: tls::seeds_for_client,
        inputs_in_tests: 200,
    },
    Target {
        name: "message",
        about: "messages inside TLS, taken apart: from a peer",
        run: message,
        seeds: message::seeds,
        inputs_in_tests: 20_000,
    },
    Target {
        name: "exchange",
        about: "two ends that agree on keys, with messages lost, repeated, changed and forged in between: from a peer",
        run: exchange,
        seeds: exchange::seeds,
        inputs_in_tests: 1_000,
    },
    Target {
        name: "stream",
        about: "segments of a handshake on the connection itself: from whoever has the neighbour's key",
        run: stream,
        seeds: stream::seeds,
        inputs_in_tests: 5_000,
    },
    Target {
        name: "layered",
        about: "the same with the messages in them: from whoever has the neighbour's key",
        run: layered,
        seeds: layered::seeds,
        inputs_in_tests: 1_000,
    },
    Target {
        name: "held",
        about: "segments that the data plane holds for the daemon: from anybody who can send with the neighbour's address",
        run: held,
        seeds: held::seeds,
        inputs_in_tests: 2_000,
    },
    Target {
        name: "config",
        about: "the configuration file: from the operator",
        run: config,
        seeds: config::seeds,
        inputs_in_tests: 300,
    },
    Target {
        name: "control",
        about: "request lines on the control socket, and what they add: from members of the group",
        run: control,
        seeds: control::seeds,
        inputs_in_tests: 2_000,
    },
    Target {
        name: "capture",
        about: "capture files, verified: from anybody whose traffic was captured",
        run: capture,
        seeds: capture::seeds,
        inputs_in_tests: 300,
    },
];
