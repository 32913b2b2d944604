//! Identities of TLS-PSK, as RFC 4279, section 5.4 has them entered: printable Unicode characters.

use super::KmpProblem;
use crate::config::cell::Cell;

/// Most characters (RFC 4279, 5.4).
const MOST_CHARACTERS: usize = 128;
/// Most octets on the wire, in UTF-8 (RFC 4279, 5.1): as many as OpenSSL takes.
const MOST_OCTETS: usize = 255;

/// The identity in `cell`.
pub(super) fn read(field: &'static str, cell: &mut Cell<'_, '_, '_>) -> Option<String> {
    let text = cell.text(field)?;
    match problem(field, text) {
        None => Some(text.to_owned()),
        Some(problem) => {
            cell.wrong(problem.into());
            None
        }
    }
}

fn problem(field: &'static str, text: &str) -> Option<KmpProblem> {
    if text.is_empty() {
        Some(KmpProblem::EmptyIdentity(field))
    } else if !text.chars().all(is_printable) {
        Some(KmpProblem::UnprintableIdentity(field))
    } else if text.chars().count() > MOST_CHARACTERS {
        Some(KmpProblem::LongIdentity { field, limit: MOST_CHARACTERS })
    } else if text.len() > MOST_OCTETS {
        Some(KmpProblem::LargeIdentity { field, limit: MOST_OCTETS })
    } else {
        None
    }
}

/// Neither a control character nor what changes how a line reads: ends of lines and paragraphs, directions, marks of
/// byte order, characters that are none.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fdd0}'..='\u{fdef}'
        )
        && u32::from(character) & 0xfffe != 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Option<String> {
        problem("tls.identity", text).map(|problem| problem.to_string())
    }

    #[test]
    fn every_printable_character_goes() {
        for text in
            ["192.0.2.1", "router 1", "Zürich-Süd", "маршрутизатор", "ルーター", "می‌خواهم", "\u{1f980}"]
        {
            assert_eq!(message(text), None, "{text}");
        }
        assert_eq!(message(&"ä".repeat(127)), None);
        assert_eq!(message(&"x".repeat(128)), None);
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let long = "tls.identity is longer than 128 characters; use a shorter name on both sides";
        assert_eq!(message(&"x".repeat(129)).as_deref(), Some(long));
        let large = "tls.identity is longer than 255 octets in UTF-8; use a shorter name on both sides";
        assert_eq!(message(&"ä".repeat(128)).as_deref(), Some(large));
        assert_eq!(message(&"\u{1f980}".repeat(63)), None);
        assert_eq!(message(&"\u{1f980}".repeat(64)).as_deref(), Some(large));
    }

    #[test]
    fn what_is_not_printable_is_refused() {
        for character in
            ["\0", "\n", "\u{7f}", "\u{85}", "\u{202e}", "\u{2028}", "\u{feff}", "\u{ffff}", "\u{10fffe}"]
        {
            let message = message(&format!("a{character}b")).unwrap();
            assert!(message.starts_with("tls.identity has a character that is not printable"), "{message}");
        }
        assert!(message("").unwrap().starts_with("tls.identity is empty"));
    }
}
