//! `tcpauth events`: follow what is dropped and why, and what becomes of sessions and keys.

use std::pin::pin;

use super::{
    failure::Failure,
    human,
    output::Output,
    status::paint_of,
    table::{Colour, Paint},
    watch::interrupted,
};
use crate::control::{
    client::Client,
    protocol::Event,
    words::{KeyChange, KmpChange, ProgramsState, ProtectionState},
};

/// Follow until Ctrl-C.
pub async fn run(client: &Client, output: Output) -> Result<(), Failure> {
    let mut interrupted = pin!(interrupted());
    let mut events = client.events().await?;
    loop {
        tokio::select! {
            result = &mut interrupted => return Ok(result?),
            event = events.next() => {
                let event = event?;
                output.line(&event, |colour| text(&event, colour))?;
            }
        }
    }
}

fn text(event: &Event, colour: Colour) -> String {
    match event {
        Event::Drop { time, neighbor, reason, direction, segment, flags, seq, key_id, interface } => {
            let key_id = key_id.map_or_else(|| "no key id".to_owned(), |id| format!("key id {id}"));
            format!(
                "{} neighbor {neighbor}: {} {reason}: {direction} on {interface}, {segment}, flags {flags}, \
                 seq {seq}, {key_id}",
                human::timestamp(*time),
                colour.paint(Paint::Bad, "dropped"),
            )
        }
        Event::Session { time, neighbor, session, state } => format!(
            "{} neighbor {neighbor}: session {session} is {}",
            human::timestamp(*time),
            colour.paint(paint_of(state), state.as_str()),
        ),
        Event::Key { time, neighbor, state, text, .. } => format!(
            "{} neighbor {neighbor}: {}: {text}",
            human::timestamp(*time),
            colour.paint(paint_of_key(state), "key"),
        ),
        Event::Kmp { time, neighbor, state, text } => format!(
            "{} neighbor {neighbor}: {} {state}: {text}",
            human::timestamp(*time),
            colour.paint(paint_of_kmp(state), "handshake"),
        ),
        Event::Interface { time, interface, state, text } => format!(
            "{} interface {interface}: {}: {text}",
            human::timestamp(*time),
            colour.paint(
                if *state == ProgramsState::Failing { Paint::Bad } else { Paint::Good },
                state.as_str()
            ),
        ),
        Event::Protection { time, neighbor, state, text } => format!(
            "{} neighbor {neighbor}: {}: {text}",
            human::timestamp(*time),
            colour.paint(paint_of_protection(state), state.as_str()),
        ),
        Event::Missed { count } => colour
            .paint(Paint::Warn, &format!("{} not shown: too many at once", human::plural(*count, "event"))),
        Event::Unknown => colour.paint(Paint::Warn, "an event that this version of tcpauth does not know"),
    }
}

/// In which colour the state that an [`Event::Key`] tells of is shown.
fn paint_of_key(state: &KeyChange) -> Paint {
    match state {
        KeyChange::Closed => Paint::Bad,
        KeyChange::Ending | KeyChange::Other(_) => Paint::Warn,
        KeyChange::Preferred | KeyChange::Open => Paint::Good,
    }
}

/// In which color the state that an [`Event::Protection`] tells of is shown.
fn paint_of_protection(state: &ProtectionState) -> Paint {
    match state {
        ProtectionState::Unprotected => Paint::Bad,
        ProtectionState::Reset | ProtectionState::Other(_) => Paint::Warn,
        ProtectionState::Protected => Paint::Good,
    }
}

/// In which colour the state that an [`Event::Kmp`] tells of is shown.
fn paint_of_kmp(state: &KmpChange) -> Paint {
    match state {
        KmpChange::Failed => Paint::Bad,
        KmpChange::Down | KmpChange::Fallback | KmpChange::Other(_) => Paint::Warn,
        KmpChange::Up | KmpChange::Agreed | KmpChange::Refreshed => Paint::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn events_read_well() {
        let lines: Vec<_> = samples::events().iter().map(|event| text(event, Colour::Off)).collect();
        let expected = [
            "2024-02-29T23:59:59.250Z neighbor 192.0.2.9: dropped wrong-mac: inbound on eth0, \
             192.0.2.9:40000 > 192.0.2.2:179, flags S, seq 4294967295, key id 7",
            "2024-03-01T00:00:00.000Z neighbor 192.0.2.1: session 192.0.2.2:40000 > 192.0.2.1:179 is established",
            "2024-03-01T00:00:01.000Z neighbor 192.0.2.1: key: key 2 is preferred",
            "2024-03-01T00:00:02.000Z neighbor 192.0.2.3: handshake refreshed: 192.0.2.2:40000 > 192.0.2.3:179 has new \
             keys, hmac-sha-256-128",
            "2024-03-01T00:00:03.000Z neighbor 192.0.2.1: unprotected: NOT PROTECTED: segments arrive that tcpauth's programs \
             did not verify",
            "2024-03-01T00:00:04.000Z interface eth0: failing: the program on ingress is missing",
            "3 events not shown: too many at once",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_neighbour_without_keys_is_shown_in_red() {
        assert_eq!(paint_of_key(&KeyChange::Closed), Paint::Bad);
        assert_eq!(paint_of_key(&KeyChange::Ending), Paint::Warn);
        assert_eq!(paint_of_key(&KeyChange::Preferred), Paint::Good);
        assert_eq!(paint_of_key(&KeyChange::Open), Paint::Good);
    }

    #[test]
    fn a_handshake_that_fails_is_shown_in_red() {
        assert_eq!(paint_of_kmp(&KmpChange::Failed), Paint::Bad);
        assert_eq!(paint_of_kmp(&KmpChange::Fallback), Paint::Warn);
        assert_eq!(paint_of_kmp(&KmpChange::Refreshed), Paint::Good);
    }
}
