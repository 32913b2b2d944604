//! Keys that are agreed in a handshake, in words.

use super::{
    human,
    table::{Block, Paint},
};
use crate::control::{
    protocol::{KmpFailure, KmpStatus, PeerCapabilities},
    words::ChannelState,
};

/// What was agreed with a neighbour, what it could do and what comes next, as fields of a block.
pub fn fields(block: &mut Block, kmp: &KmpStatus) {
    block.painted_field("channel", paint_of_channel(&kmp.channel.state), &kmp.channel.text);
    match (&kmp.algorithm, &kmp.tls) {
        (Some(algorithm), Some(tls)) => {
            block.field("agreed", format!("{algorithm}, in {} with {}", tls.version, tls.suite));
        }
        (None, Some(tls)) => {
            block.field("agreed", format!("no keys yet; {} with {}", tls.version, tls.suite));
        }
        (Some(algorithm), None) => block.field("agreed", algorithm),
        (None, None) => block.field("agreed", "nothing yet"),
    }
    if let Some(tls) = &kmp.tls {
        block.field("peer is", &tls.peer);
    }
    if let Some(peer) = &kmp.peer {
        block.field("peer could do", algorithms(peer));
        block.field("peer runs", software(peer));
    }
    block.field("new keys", refresh(kmp));
    match fallback_in_use(kmp) {
        Some(in_use) => {
            let in_use = in_use.trim_start_matches("fallback: ");
            block.painted_field("fallback", Paint::Warn, format!("{}, IN USE: {in_use}", kmp.fallback));
        }
        None => block.field("fallback", &kmp.fallback),
    }
    if kmp.crowded_out_handshakes > 0 {
        let text = format!(
            "{} made room for newer ones: somebody on the peer's host, who is not its tcpauthd, connects to our kmp-port",
            human::plural(kmp.crowded_out_handshakes, "unfinished handshake")
        );
        block.painted_field("handshakes", Paint::Warn, text);
    }
    if let Some(failure) = &kmp.last_failure {
        block.painted_field("last failure", Paint::Bad, last_failure(failure));
    }
}

/// What is said of sessions with keys derived from the password for want of agreed ones; `None` if there are none.
pub fn fallback_in_use(kmp: &KmpStatus) -> Option<String> {
    let count = kmp.fallback_sessions;
    let verb = if count == 1 { "has" } else { "have" };
    (count > 0).then(|| {
        format!(
            "fallback: {} {verb} keys derived from the password: no keys could be agreed",
            human::plural(count, "session")
        )
    })
}

fn paint_of_channel(state: &ChannelState) -> Paint {
    match state {
        ChannelState::Up => Paint::Good,
        ChannelState::Waiting => Paint::Bad,
        ChannelState::Connecting | ChannelState::Handshaking => Paint::Warn,
        ChannelState::Awaited | ChannelState::Idle | ChannelState::Other(_) => Paint::Plain,
    }
}

/// The peer's algorithms, its best first.
fn algorithms(peer: &PeerCapabilities) -> String {
    let named = |name: &String| match peer.unknown_algorithms.contains(name) {
        true => format!("{name} (unknown here)"),
        false => name.clone(),
    };
    peer.algorithms.iter().map(named).collect::<Vec<_>>().join(", ")
}

fn software(peer: &PeerCapabilities) -> String {
    let kinds: Vec<_> = peer.option_kinds.iter().map(ToString::to_string).collect();
    format!(
        "{}, messages up to version {}, option kinds {}, new keys after {}",
        peer.software,
        peer.version,
        kinds.join(", "),
        human::duration(peer.rekey_interval_seconds)
    )
}

fn refresh(kmp: &KmpStatus) -> String {
    let mut text = format!("after {}", human::duration(kmp.rekey_interval_seconds));
    if let Some(segments) = kmp.rekey_segments {
        text += &format!(" or {}", human::plural(segments, "segment"));
    }
    let last = kmp.last_refresh_seconds_ago.map(|ago| format!("last {} ago", human::duration(ago)));
    let next = match (kmp.due_sessions, kmp.next_refresh_seconds) {
        (0, Some(left)) => Some(format!("next in {}", human::duration(left))),
        (0, None) => None,
        (due, _) => {
            Some(format!("{} {} now", human::plural(due, "session"), if due == 1 { "waits" } else { "wait" }))
        }
    };
    let parts: Vec<_> = last.into_iter().chain(next).collect();
    if parts.is_empty() { text } else { format!("{text}; {}", parts.join(", ")) }
}

fn last_failure(failure: &KmpFailure) -> String {
    let times = match failure.attempts {
        0 | 1 => String::new(),
        attempts => format!(", {attempts} times in a row"),
    };
    let retry = match failure.retry_seconds {
        Some(0) => ", trying again now".to_owned(),
        Some(left) => format!(", next attempt in {}", human::duration(left)),
        None => ", tried again when keys are needed".to_owned(),
    };
    format!("{} ago{times}{retry}: {}", human::duration(failure.seconds_ago), failure.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{samples, table::Colour};

    fn shown(change: impl FnOnce(&mut KmpStatus)) -> String {
        let mut kmp = samples::kmp_neighbor().kmp.unwrap();
        change(&mut kmp);
        let mut block = Block::new("");
        fields(&mut block, &kmp);
        block.render(Colour::Off)
    }

    fn has_line(text: &str, field: &str, expected: &str) {
        let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{field}:")));
        assert!(line.is_some_and(|line| line.ends_with(expected)), "{field} {expected}\n{text}");
    }

    #[test]
    fn a_failure_tells_since_when_and_what_comes_next() {
        let failure = |attempts, retry_seconds| {
            let text = "the secrets differ on the two sides".to_owned();
            shown(|kmp| {
                kmp.last_failure = Some(KmpFailure { text, seconds_ago: 75, attempts, retry_seconds })
            })
        };
        has_line(
            &failure(1, Some(0)),
            "last failure",
            " 1m15s ago, trying again now: the secrets differ on the two sides",
        );
        has_line(
            &failure(7, Some(30)),
            "last failure",
            " 1m15s ago, 7 times in a row, next attempt in 30s: the secrets differ on the two sides",
        );
        has_line(
            &failure(1, None),
            "last failure",
            " 1m15s ago, tried again when keys are needed: the secrets differ on the two sides",
        );
    }

    #[test]
    fn before_the_first_handshake_there_is_little_to_say() {
        let text = shown(|kmp| {
            (kmp.tls, kmp.peer, kmp.algorithm) = (None, None, None);
            (kmp.last_refresh_seconds_ago, kmp.next_refresh_seconds, kmp.rekey_segments) = (None, None, None);
        });
        has_line(&text, "agreed", " nothing yet");
        has_line(&text, "new keys", " after 1h0m");
        assert!(!text.contains("peer"), "{text}");
    }

    #[test]
    fn sessions_that_wait_for_new_keys_are_counted() {
        has_line(&shown(|kmp| kmp.due_sessions = 1), "new keys", "last 3m12s ago, 1 session waits now");
        has_line(&shown(|kmp| kmp.due_sessions = 9), "new keys", "last 3m12s ago, 9 sessions wait now");
    }

    #[test]
    fn handshakes_of_somebody_else_are_counted() {
        let text = shown(|kmp| kmp.crowded_out_handshakes = 3);
        assert!(text.contains("3 unfinished handshakes made room for newer ones"), "{text}");
        assert!(!shown(|_| {}).contains("made room"));
    }

    #[test]
    fn fallback_in_use_is_loud() {
        let text = shown(|kmp| (kmp.fallback, kmp.fallback_sessions) = ("implicit".to_owned(), 2));
        has_line(
            &text,
            "fallback",
            "implicit, IN USE: 2 sessions have keys derived from the password: no keys could be agreed",
        );
    }
}
