//! `tcpauth key show|add|roll|retire|refresh|fingerprint`: keys that change without a reset, and by what public ones
//! are known.

use std::path::PathBuf;

use super::{
    failure::Failure,
    key_add::AddArgs,
    key_fingerprint,
    key_roll::{RefreshArgs, RollArgs},
    key_show,
    neighbor::order,
    output::Output,
};
use crate::control::{client::Client, protocol::Request};

/// What to do with keys.
#[derive(clap::Subcommand)]
pub enum KeyCommand {
    /// Show keys: ids, lifetimes, which one is sent with by us and by the peer; never a secret
    Show {
        /// A neighbor as in the configuration [default: all]
        #[arg(value_name = "NEIGHBOR")]
        neighbor: Option<String>,
    },
    /// First step, on both routers: add a key, accepted at once and not sent with yet
    ///
    /// The password is asked for at the terminal, twice, unless an option names a file for it. Nothing changes for
    /// sessions that are up until the key is rolled. The configuration file is not written: `tcpauth config write`
    /// keeps the key across a reload or a restart.
    Add(Box<AddArgs>),
    /// Second step, on both routers: send with the added key, and ask the peer to
    ///
    /// Both routers must have the key before either of them rolls it. The first router to roll changes nothing yet: a
    /// session moves once both have. Then each side moves with the next segment that it gets, at the latest with the
    /// next BGP keepalive. Over TCP-MD5, and among keys with the same RecvID, the router that rolls first begins to
    /// send with the new key at once.
    ///
    /// Shows how many sessions have moved in both directions, until all have or the time to wait is over. The exit
    /// code is 0 once the key is rolled on this router, whether or not the peers have followed: sessions that wait for
    /// their peer go on with the older key, and nothing is lost. Ctrl-C ends only the waiting.
    Roll(RollArgs),
    /// Last step, on both routers: remove the old key; refused while a session uses it
    ///
    /// The configuration file is not written: `tcpauth config write` keeps the change.
    Retire {
        /// The neighbor as in the configuration
        #[arg(value_name = "NEIGHBOR")]
        neighbor: String,
        /// Number of the key, as `key show` has it
        #[arg(value_name = "KEY")]
        number: u32,
        /// Also if a session still uses it; its segments with that key are dropped from then on
        #[arg(long)]
        force: bool,
    },
    /// Agree on new keys now, with neighbors whose keys are agreed in a handshake
    ///
    /// On either router: the two daemons make a new handshake, and sessions that are up move to the new keys without a
    /// reset. The old ones are worth nothing a few seconds later. It happens by itself after `rekey-interval`, after
    /// `rekey-segments`, and when the password changes.
    ///
    /// Shows how many sessions have moved, until all have or the time to wait is over. The exit code is 0 once the
    /// daemon has begun; sessions that cannot get new keys go on with those they have. Ctrl-C ends only the waiting.
    Refresh(RefreshArgs),
    /// Print the SHA-256 fingerprint of an Ed25519 key or of a certificate; talks to no daemon
    ///
    /// Of a key, private or public, for `tls.peer-fingerprint`: of the public key, as a SubjectPublicKeyInfo in DER. Of a
    /// certificate, for `tls.server-fingerprint`: of all of it in DER.
    Fingerprint {
        /// The key or certificate, as PEM and without a password
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

impl KeyCommand {
    /// Do it.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        match self {
            Self::Show { neighbor } => key_show::run(client, neighbor, output).await,
            Self::Add(add) => add.run(client, output).await,
            Self::Roll(roll) => roll.run(client, output).await,
            Self::Refresh(refresh) => refresh.run(client, output).await,
            Self::Retire { neighbor, number, force } => {
                order(client, Request::KeyRetire { peer: neighbor, number, force }, output).await
            }
            Self::Fingerprint { file } => key_fingerprint::run(&file, output),
        }
    }
}
