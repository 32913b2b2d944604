//! `tcpauth neighbor show|add|sign|remove`: the neighbours of the running daemon.

use super::{
    counts,
    failure::Failure,
    kmp,
    neighbor_add::AddArgs,
    output::Output,
    status::paint_of_neighbor,
    table::{Block, Colour, Paint},
};
use crate::control::{
    client::Client,
    protocol::{Answer, NeighborStatus, Request},
};

/// What to do with neighbours.
#[derive(clap::Subcommand)]
pub enum NeighborCommand {
    /// Show the neighbors, or one of them
    Show {
        /// An address or prefix as in the configuration, or an address that a prefix covers
        peer: Option<String>,
    },
    /// Add a neighbor to the running daemon
    ///
    /// The password is asked for at the terminal, twice, unless an option names a file for it. The configuration
    /// file is not written: `tcpauth config write` keeps the neighbor across a reload or a restart.
    Add(Box<AddArgs>),
    /// Sign what is sent to a neighbor whose sessions were up before they were protected
    ///
    /// Of a neighbor with `unauthenticated = "accept-until-authenticated"`. Its daemon must accept signed segments
    /// already. What it sends may stay unsigned until the first segment that verifies: tell its side to sign, too.
    Sign {
        /// The address or prefix as in the configuration
        peer: String,
    },
    /// Remove a neighbor from the running daemon
    ///
    /// What it sends is no longer checked, and what is sent to it is no longer signed: if it still asks for a MAC,
    /// it drops our segments, and the BGP session ends at its hold time. The configuration file is not written:
    /// a reload brings back a neighbor that is in the file, unless `tcpauth config write` has taken it out.
    Remove {
        /// The address or prefix as in the configuration
        peer: String,
    },
}

impl NeighborCommand {
    /// Do it.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        match self {
            Self::Show { peer } => show(client, peer, output).await,
            Self::Add(add) => order(client, add.request()?, output).await,
            Self::Sign { peer } => order(client, Request::NeighborSign { peer }, output).await,
            Self::Remove { peer } => order(client, Request::NeighborRemove { peer }, output).await,
        }
    }
}

/// Have the daemon do something, and say what it did.
pub async fn order(client: &Client, request: Request, output: Output) -> Result<(), Failure> {
    let done = Answer::Done(client.order(request).await?);
    output.line(&done, |_| if let Answer::Done(done) = &done { done.clone() } else { String::new() })
}

async fn show(client: &Client, peer: Option<String>, output: Output) -> Result<(), Failure> {
    let neighbors = client.neighbors(peer.clone()).await?;
    if let (Some(peer), true) = (peer, neighbors.is_empty()) {
        return Err(Failure::Failed(format!("no neighbor {peer} is configured")));
    }
    output.result(&neighbors, |colour| text(&neighbors, colour))
}

fn text(neighbors: &[NeighborStatus], colour: Colour) -> String {
    if neighbors.is_empty() {
        return "no neighbors are configured\n".to_owned();
    }
    let blocks: Vec<_> = neighbors.iter().map(|neighbor| block(neighbor).render(colour)).collect();
    blocks.join("\n")
}

fn block(neighbor: &NeighborStatus) -> Block {
    let mut block = Block::new(format!("neighbor {}", neighbor.peer));
    let state = match &neighbor.reason {
        Some(reason) => format!("{}: {reason}", neighbor.state),
        None => neighbor.state.to_string(),
    };
    block.painted_field("state", paint_of_neighbor(&neighbor.state), state);
    block.field("key management", &neighbor.key_management);
    let ids = format!("send {}, receive {}", neighbor.send_id, neighbor.recv_id);
    if let Some(kmp) = &neighbor.kmp {
        kmp::fields(&mut block, kmp);
        block.field("handshake key", format!("{}, key ids {ids}", neighbor.algorithm));
    } else {
        block.field("algorithm", &neighbor.algorithm);
        block.field("key ids", ids);
    }
    block.field("tcp options", &neighbor.tcp_options);
    block.field("port", neighbor.port.to_string());
    if let Some(hops) = neighbor.ttl_security {
        block.field("ttl security", format!("{hops} hop{}", if hops == 1 { "" } else { "s" }));
    }
    if !neighbor.forwarded.is_empty() {
        block.field("forwarded", neighbor.forwarded.join(", "));
    }
    block.field("unauthenticated", &neighbor.unauthenticated);
    if neighbor.on_unprotected != "report" {
        block.field("on unprotected", &neighbor.on_unprotected);
    }
    let closed = match neighbor.sessions.saturating_sub(neighbor.open_sessions) {
        0 => String::new(),
        closed => format!(", and {closed} closed"),
    };
    block.field("sessions", format!("{}{closed}", neighbor.open_sessions));
    if neighbor.displaced_sessions > 0 {
        let displaced = format!("{}, to make room for new ones", neighbor.displaced_sessions);
        block.painted_field("removed", Paint::Warn, displaced);
    }
    counts::fields(&mut block, &neighbor.counters);
    if let Some(last) = &neighbor.last_drop {
        block.painted_field("last drop", Paint::Warn, counts::last_drop(last));
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn what_was_agreed_and_what_the_peer_could_do_is_shown() {
        let expected = "\
neighbor 192.0.2.3
  state:           established
  key management:  external
  channel:         up for 5m0s, 192.0.2.2:41234 > 192.0.2.3:17179
  agreed:          hmac-sha-256-128, in TLS 1.3 with TLS_AES_128_GCM_SHA256
  peer is:         192.0.2.3
  peer could do:   hmac-sha-512-256 (unknown here), hmac-sha-256-128, hmac-sha-1-96
  peer runs:       tcpauth 0.3.0, messages up to version 2, option kinds 29, new keys after 30m0s
  new keys:        after 1h0m or 1000000 segments; last 3m12s ago, next in 56m48s
  fallback:        never
  handshake key:   hmac-sha-1-96, key ids send 1, receive 1
  tcp options:     include
  port:            179
  unauthenticated: drop
  sessions:        1
  signed:          1204 segments, 96.0 KiB
  verified:        1199 segments, 1000 B
";
        assert_eq!(text(&[samples::kmp_neighbor()], Colour::Off), expected);
    }

    #[test]
    fn neighbors_read_well() {
        let neighbors = [samples::failing_neighbor(), samples::status().neighbors.swap_remove(0)];
        let expected = "\
neighbor 192.0.2.9
  state:           failing: wrong MAC: the password differs at the two ends
  key management:  implicit
  algorithm:       hmac-sha-1-96
  key ids:         send 1, receive 1
  tcp options:     include
  port:            179
  ttl security:    1 hop
  forwarded:       10.88.0.0/24%veth1, 192.0.2.5
  unauthenticated: drop
  sessions:        0
  signed:          0 segments, 0 B
  verified:        0 segments, 0 B
  dropped:         wrong-mac 12, no-option 3
  last drop:       wrong-mac, inbound, 3s ago, 192.0.2.9:40000 > 192.0.2.2:179

neighbor 192.0.2.1
  state:           established
  key management:  implicit
  algorithm:       hmac-sha-1-96
  key ids:         send 1, receive 1
  tcp options:     include
  port:            179
  unauthenticated: drop
  sessions:        1, and 1 closed
  signed:          1204 segments, 96.0 KiB
  verified:        1199 segments, 1000 B
";
        assert_eq!(text(&neighbors, Colour::Off), expected);
        assert_eq!(text(&[], Colour::Off), "no neighbors are configured\n");
    }
}
