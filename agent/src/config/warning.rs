//! What is legal in a configuration but probably not meant.

use std::fmt;

use super::{Config, Peer};

/// Shortest secret that is not warned about, in octets.
const SHORT_SECRET: usize = 8;
/// Longest master key that Linux's own TCP-AO takes (`TCP_AO_MAXKEYLEN`), in octets.
const LONG_SECRET: usize = 80;

/// A warning. Displayed as `neighbor "192.0.2.1": what; what to do`, never with the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Whom it is about, if not the whole configuration.
    pub peer: Option<Peer>,
    /// What is odd and what to do.
    pub message: &'static str,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(peer) = &self.peer {
            write!(f, "neighbor \"{peer}\": ")?;
        }
        f.write_str(self.message)
    }
}

/// The warnings about `config`, in the order of its neighbours.
pub(super) fn warnings(config: &Config) -> Vec<Warning> {
    if config.neighbors.is_empty() {
        return vec![Warning {
            peer: None,
            message: "no neighbour: nothing is protected; add neighbor.\"ADDRESS\"",
        }];
    }
    let about = |neighbor: &super::Neighbor| {
        let peer = neighbor.peer.clone();
        secret_warnings(neighbor.keys.first().master_key.octets())
            .map(move |message| Warning { peer: Some(peer.clone()), message })
    };
    config.neighbors.iter().flat_map(about).collect()
}

fn secret_warnings(secret: &[u8]) -> impl Iterator<Item = &'static str> + use<> {
    // Only what a person typed or saved; a random key may end in any octet.
    let text = std::str::from_utf8(secret).unwrap_or_default();
    let padded = text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace);
    let short = "the secret is shorter than 8 octets and can be guessed; make one with `tcpauth genkey`";
    let long = "the secret is longer than 80 octets, which routers with TCP-AO of their own may refuse";
    let space = "the secret begins or ends with white space; if that is not meant, remove it \
                 (a file saved with CR LF line ends has it)";
    [(secret.len() < SHORT_SECRET, short), (secret.len() > LONG_SECRET, long), (padded, space)]
        .into_iter()
        .filter_map(|(applies, message)| applies.then_some(message))
}
