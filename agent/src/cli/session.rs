//! `tcpauth session show`: the sessions and their keys' numbers.

use std::net::IpAddr;

use super::{
    counts,
    failure::Failure,
    human,
    output::Output,
    status::paint_of,
    table::{Block, Colour, Paint},
    watch,
};
use crate::control::{
    client::Client,
    protocol::SessionStatus,
    words::{KeySource, SessionPhase},
};

/// What to do with sessions.
#[derive(clap::Subcommand)]
pub enum SessionCommand {
    /// Show the sessions: quartet, keys, ISNs, SNE, counters
    Show(ShowArgs),
}

/// Which sessions to show, and how.
#[derive(clap::Args)]
pub struct ShowArgs {
    /// A neighbor as in the configuration, or an address
    pub peer: Option<String>,
    /// Refresh every second until Ctrl-C
    #[arg(long, short)]
    pub watch: bool,
}

impl SessionCommand {
    /// Do it.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let Self::Show(args) = self;
        let peer = args.peer.as_deref();
        if args.watch {
            let frame = async || {
                let sessions = selected(client, peer).await?;
                if output.json {
                    super::output::compact(&sessions).map(|line| line + "\n")
                } else {
                    Ok(text(&sessions, output.colour))
                }
            };
            return watch::every_second(frame, !output.json).await;
        }
        let sessions = selected(client, peer).await?;
        output.result(&sessions, |colour| text(&sessions, colour))
    }
}

async fn selected(client: &Client, peer: Option<&str>) -> Result<Vec<SessionStatus>, Failure> {
    let mut sessions = client.sessions().await?;
    if let Some(peer) = peer {
        sessions.retain(|session| is_with(session, peer));
        if sessions.is_empty() {
            // Refused if there is no such neighbour.
            client.neighbors(Some(peer.to_owned())).await?;
        }
    }
    Ok(sessions)
}

/// Whether a session is one of the neighbour configured as `peer`, or with the address `peer`.
fn is_with(session: &SessionStatus, peer: &str) -> bool {
    session.neighbor == peer
        || address_of(&session.peer).is_some_and(|address| Some(address) == without_interface(peer))
}

/// The address of an end, `192.0.2.1:179` or `[fe80::1%eth0]:179`.
fn address_of(end: &str) -> Option<IpAddr> {
    let (address, _port) = end.rsplit_once(':')?;
    without_interface(address.trim_start_matches('[').trim_end_matches(']'))
}

fn without_interface(address: &str) -> Option<IpAddr> {
    address.split('%').next()?.parse().ok()
}

fn text(sessions: &[SessionStatus], colour: Colour) -> String {
    if sessions.is_empty() {
        return "no sessions\n".to_owned();
    }
    let blocks: Vec<_> = sessions.iter().map(|session| block(session).render(colour)).collect();
    blocks.join("\n")
}

fn block(session: &SessionStatus) -> Block {
    let mut block = Block::new(format!("session {} > {}", session.local, session.peer));
    block.field("neighbor", &session.neighbor);
    block.painted_field("state", paint_of(&session.state), session.state.as_str());
    block.field("age", human::duration(session.age_seconds));
    block.field("idle", human::duration(session.idle_seconds));
    block.field("key management", &session.key_management);
    if session.phase != SessionPhase::Open {
        let paint = if session.phase == SessionPhase::Failed { Paint::Bad } else { Paint::Warn };
        block.painted_field("handshake", paint, phase(&session.phase));
    }
    block.field("keys", keys(session));
    block.field("algorithm", &session.algorithm);
    block.field("key ids", format!("send {}, receive {}", session.send_id, session.recv_id));
    if !session.accepted_ids.is_empty() {
        let ids: Vec<_> = session.accepted_ids.iter().map(ToString::to_string).collect();
        block.field("accepted", format!("key ids {}", ids.join(", ")));
    }
    block.field("isns", format!("local {}, peer {}", isn(session.local_isn), isn(session.peer_isn)));
    block.field("sne", format!("send {}, receive {}", session.send_sne, session.recv_sne));
    counts::fields(&mut block, &session.counters);
    block
}

/// Where the traffic keys come from, and how old they are.
fn keys(session: &SessionStatus) -> String {
    let from = match &session.keys {
        KeySource::Agreed => "agreed in a handshake",
        _ if matches!(session.key_management.as_str(), "external" | "layered") => {
            "of the key chain, none agreed yet"
        }
        _ => "of the key chain",
    };
    match session.keys_age_seconds {
        Some(age) => format!("{from}, sent with for {}", human::duration(age)),
        None => from.to_owned(),
    }
}

/// Where the handshake on a connection stands.
fn phase(phase: &SessionPhase) -> &str {
    match phase {
        SessionPhase::Handshake => "the two daemons agree on keys; the BGP daemons wait",
        SessionPhase::Switching => "keys are agreed; waiting for the peer to go on with them",
        SessionPhase::Failed => "failed: the connection is being reset, nothing passes",
        SessionPhase::Open | SessionPhase::Other(_) => phase.as_str(),
    }
}

/// An ISN as packet decoders print it.
fn isn(isn: Option<u32>) -> String {
    isn.map_or_else(|| "not known yet".to_owned(), |isn| isn.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn a_session_reads_well() {
        let mut session = samples::session();
        session.counters.dropped.insert("wrong-mac".to_owned(), 2);
        let expected = "\
session 192.0.2.2:40000 > 192.0.2.1:179
  neighbor:       192.0.2.1
  state:          established
  age:            3m12s
  idle:           4s
  key management: implicit
  keys:           of the key chain, sent with for 3m12s
  algorithm:      hmac-sha-1-96
  key ids:        send 1, receive 2
  accepted:       key ids 2, 1
  isns:           local 3735928559, peer not known yet
  sne:            send 0, receive 1
  signed:         1204 segments, 96.0 KiB
  verified:       1199 segments, 1000 B
  dropped:        wrong-mac 2
";
        assert_eq!(text(&[session], Colour::Off), expected);
        assert_eq!(text(&[], Colour::Off), "no sessions\n");
    }

    #[test]
    fn agreed_keys_and_a_handshake_that_goes_on_are_shown() {
        let agreed = SessionStatus {
            key_management: "layered".to_owned(),
            keys: KeySource::Agreed,
            ..samples::session()
        };
        let shown = text(std::slice::from_ref(&agreed), Colour::Off);
        assert!(
            shown.contains("\n  keys:           agreed in a handshake, sent with for 3m12s\n"),
            "{shown}"
        );
        assert!(!shown.contains("handshake:"), "{shown}");
        for (state, expected) in
            [("handshake", "daemons agree"), ("switching", "waiting for the peer"), ("failed", "being reset")]
        {
            let session = SessionStatus {
                phase: state.into(),
                keys: KeySource::Chain,
                keys_age_seconds: None,
                ..agreed.clone()
            };
            let shown = text(&[session], Colour::Off);
            assert!(
                shown.lines().any(|line| line.starts_with("  handshake:") && line.contains(expected)),
                "{shown}"
            );
            assert!(shown.contains("of the key chain, none agreed yet\n"), "{shown}");
        }
    }

    #[test]
    fn sessions_are_found_by_neighbour_and_by_address() {
        let mut session = samples::session();
        assert!(is_with(&session, "192.0.2.1"));
        assert!(!is_with(&session, "192.0.2.10"));
        assert!(!is_with(&session, "192.0.2.2"));
        session.neighbor = "2001:db8::/32".to_owned();
        session.peer = "[2001:db8::7]:179".to_owned();
        assert!(is_with(&session, "2001:db8::/32"));
        assert!(is_with(&session, "2001:DB8:0::7"));
        assert!(!is_with(&session, "2001:db8::8"));
        session.peer = "[fe80::1%eth0]:179".to_owned();
        assert!(is_with(&session, "fe80::1"));
        assert!(is_with(&session, "fe80::1%eth0"));
    }
}
