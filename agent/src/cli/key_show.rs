//! `tcpauth key show`: the keys of neighbours, never their secrets.

use jiff::Timestamp;

use super::{
    failure::Failure,
    human,
    output::Output,
    table::{Cell, Colour, Paint, Table},
};
use crate::control::{
    client::Client,
    protocol::{AgreedKeys, KeyStatus, NeighborKeys},
    words::KeyState,
};

/// Show the keys of `neighbor`, or of all.
pub async fn run(client: &Client, neighbor: Option<String>, output: Output) -> Result<(), Failure> {
    let keys = client.keys(neighbor.clone()).await?;
    if let (Some(neighbor), true) = (neighbor, keys.is_empty()) {
        return Err(Failure::Failed(format!("no neighbor {neighbor} is configured")));
    }
    output.result(&keys, |colour| text(&keys, Timestamp::now(), colour))
}

fn text(neighbors: &[NeighborKeys], now: Timestamp, colour: Colour) -> String {
    if neighbors.is_empty() {
        return "no neighbors are configured\n".to_owned();
    }
    let shown: Vec<_> = neighbors.iter().map(|neighbor| keys_of(neighbor, now, colour)).collect();
    shown.join("\n")
}

fn keys_of(neighbor: &NeighborKeys, now: Timestamp, colour: Colour) -> String {
    let mut title = format!("neighbor {}", neighbor.neighbor);
    if let Some(chain) = &neighbor.chain {
        title += &format!(", key chain {chain}");
    }
    let mut text = colour.paint(Paint::Strong, &title);
    text += &match neighbor.open_sessions {
        0 => ": no open sessions\n".to_owned(),
        open if neighbor.agreed.is_some() => {
            format!(
                ": {} of {} under their newest agreed keys\n",
                neighbor.rolled_sessions,
                human::plural(open, "open session")
            )
        }
        open => format!(": {} of {} rolled\n", neighbor.rolled_sessions, human::plural(open, "open session")),
    };
    if let Some(agreed) = &neighbor.agreed {
        text += &agreed_keys(agreed);
        text += "keys of the chain, for handshakes:\n";
    }
    text += &table(&neighbor.keys).render(colour);
    if let Some((paint, warning)) = neighbor.closes.as_deref().map(|closes| end_of_chain(closes, now)) {
        text += &colour.paint(paint, &warning);
        text.push('\n');
    }
    text
}

/// What the sessions that have agreed keys have, and which have none.
fn agreed_keys(agreed: &AgreedKeys) -> String {
    let mut text = format!("agreed keys: {}", human::plural(agreed.sessions, "session"));
    let algorithms: Vec<_> =
        agreed.algorithms.iter().map(|(algorithm, count)| format!("{algorithm} {count}")).collect();
    if !algorithms.is_empty() {
        text += &format!(" ({})", algorithms.join(", "));
    }
    if let (Some(newest), Some(oldest)) = (agreed.newest_seconds, agreed.oldest_seconds) {
        text += &match human::duration(newest) == human::duration(oldest) {
            true => format!(", {} old", human::duration(newest)),
            false => format!(", {} to {} old", human::duration(newest), human::duration(oldest)),
        };
    }
    if agreed.due_sessions > 0 {
        text += &format!("; {} to get new ones now", agreed.due_sessions);
    }
    if agreed.chain_sessions > 0 {
        text += &format!("; {} under a key of the chain", human::plural(agreed.chain_sessions, "session"));
    }
    text + "\n"
}

fn table(keys: &[KeyStatus]) -> Table {
    let mut table = Table::new(&[
        "KEY",
        "SEND/RECV-ID",
        "ALGORITHM",
        "SEND-LIFETIME",
        "ACCEPT-LIFETIME",
        "STATE",
        "SENDING",
        "PEER SENDING",
        "SWITCHED",
    ]);
    for key in keys {
        // TCP-MD5 has no KeyID.
        let is_md5 = key.algorithm == "md5";
        let ids = if is_md5 { "-".to_owned() } else { format!("{}/{}", key.send_id, key.recv_id) };
        let preferred = if key.preferred { ", preferred" } else { "" };
        let switched = key.switched_seconds_ago.map(|seconds| format!("{} ago", human::duration(seconds)));
        table.row(
            vec![
                Cell::quantity(key.number),
                Cell::text(ids),
                Cell::text(&key.algorithm),
                Cell::text(&key.send_lifetime),
                Cell::text(&key.accept_lifetime),
                Cell::text(format!("{}{preferred}", key.state)).painted(paint_of(key)),
                Cell::quantity(key.sending_sessions),
                Cell::quantity(key.receiving_sessions),
                Cell::text(switched.unwrap_or_default()),
            ],
            vec![],
        );
    }
    table
}

fn paint_of(key: &KeyStatus) -> Paint {
    match key.state {
        _ if key.preferred => Paint::Good,
        KeyState::Expired => Paint::Warn,
        _ => Paint::Plain,
    }
}

/// What it means that the chain ends at `closes`, RFC 3339.
fn end_of_chain(closes: &str, now: Timestamp) -> (Paint, String) {
    let left = closes.parse::<Timestamp>().ok().map(|end| end.as_second() - now.as_second());
    match left.map(u64::try_from) {
        Some(Ok(left @ 1..)) => {
            let left = human::duration(left);
            (Paint::Warn, format!("the chain ends at {closes}, in {left}: add a key on both routers before"))
        }
        Some(_) => (
            Paint::Bad,
            format!("closed: the chain ended at {closes}: add a key and roll it, on both routers"),
        ),
        None => (Paint::Warn, format!("the chain ends at {closes}: add a key on both routers before")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn keys_read_well() {
        let own = NeighborKeys {
            neighbor: "192.0.2.9".to_owned(),
            chain: None,
            open_sessions: 0,
            rolled_sessions: 0,
            closes: None,
            keys: vec![KeyStatus { algorithm: "md5".to_owned(), ..samples::key(0) }],
            agreed: None,
        };
        let expected = "\
neighbor 192.0.2.1, key chain backbone: 312 of 500 open sessions rolled
KEY  SEND/RECV-ID  ALGORITHM         SEND-LIFETIME                              ACCEPT-LIFETIME  STATE             SENDING  PEER SENDING  SWITCHED
  1  1/1           hmac-sha-1-96     always                                     always           valid                 188           100
  2  2/12          aes-128-cmac-96   2026-11-20T00:00:00Z/2027-03-01T00:00:00Z  always           valid, preferred      312           400  3m12s ago
  3  3/3           hmac-sha-256-128  never                                      always           accept-only             0             0
the chain ends at 2027-03-01T00:00:00Z, in 100d0h: add a key on both routers before

neighbor 192.0.2.9: no open sessions
KEY  SEND/RECV-ID  ALGORITHM  SEND-LIFETIME  ACCEPT-LIFETIME  STATE  SENDING  PEER SENDING  SWITCHED
  0  -             md5        always         always           valid        0             0
";
        assert_eq!(text(&[samples::keys(), own], now(), Colour::Off), expected);
        assert_eq!(text(&[], now(), Colour::Off), "no neighbors are configured\n");
    }

    #[test]
    fn agreed_keys_stand_before_those_of_the_handshake() {
        let expected = "\
neighbor 192.0.2.3: 1 of 3 open sessions under their newest agreed keys
agreed keys: 2 sessions (hmac-sha-256-128 2), 12s to 1h0m old; 1 to get new ones now; 1 session under a key of the chain
keys of the chain, for handshakes:
KEY  SEND/RECV-ID  ALGORITHM      SEND-LIFETIME  ACCEPT-LIFETIME  STATE             SENDING  PEER SENDING  SWITCHED
  1  1/1           hmac-sha-1-96  always         always           valid, preferred        1             1
";
        assert_eq!(text(&[samples::agreed_keys()], now(), Colour::Off), expected);
        let one = AgreedKeys {
            sessions: 1,
            oldest_seconds: Some(5),
            newest_seconds: Some(5),
            ..AgreedKeys::default()
        };
        assert_eq!(agreed_keys(&one), "agreed keys: 1 session, 5s old\n");
        assert_eq!(agreed_keys(&AgreedKeys::default()), "agreed keys: 0 sessions\n");
    }

    #[test]
    fn one_session_is_not_many() {
        let neighbor = NeighborKeys { open_sessions: 1, rolled_sessions: 1, ..samples::keys() };
        let text = text(&[neighbor], now(), Colour::Off);
        assert!(
            text.starts_with("neighbor 192.0.2.1, key chain backbone: 1 of 1 open session rolled\n"),
            "{text}"
        );
    }

    #[test]
    fn the_end_of_a_chain_is_told_before_and_after_it() {
        let end = |closes: &str| end_of_chain(closes, now());
        assert_eq!(
            end("2026-11-22T01:00:00Z"),
            (
                Paint::Warn,
                "the chain ends at 2026-11-22T01:00:00Z, in 1d1h: add a key on both routers before"
                    .to_owned()
            )
        );
        for past in ["2026-11-21T00:00:00Z", "2026-11-20T00:00:00Z"] {
            let (paint, text) = end(past);
            assert_eq!(paint, Paint::Bad);
            assert!(text.starts_with(&format!("closed: the chain ended at {past}")), "{text}");
        }
        assert_eq!(
            end("soon"),
            (Paint::Warn, "the chain ends at soon: add a key on both routers before".to_owned())
        );
    }
}
