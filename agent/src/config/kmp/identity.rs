//! Identities of TLS-PSK, as RFC 4279 §5.4 has them entered: printable Unicode characters.

use unicode_normalization::UnicodeNormalization;

use super::KmpProblem;
use crate::config::cell::Cell;

/// Most characters (RFC 4279 §5.4).
const MOST_CHARACTERS: usize = 128;
/// Most bytes in UTF-8 with TLS 1.2: as many as OpenSSL takes there. TLS 1.3 takes all that 128 characters can have.
const MOST_IN_TLS12: usize = 255;

/// Returns the identity in `cell` in Unicode's form NFC (RFC 4279 §5.1), so that both ends send the same bytes however
/// their operators typed it.
pub(super) fn read(field: &'static str, cell: &mut Cell<'_, '_, '_>) -> Option<String> {
    let text: String = cell.text(field)?.nfc().collect();
    match problem(field, &text) {
        None => Some(text),
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
    } else if text.trim() != text {
        Some(KmpProblem::PaddedIdentity(field))
    } else {
        None
    }
}

/// Returns what is wrong with an identity if a suite of TLS 1.2 is to carry it.
pub(super) fn tls12_problem(field: &'static str, text: &str) -> Option<KmpProblem> {
    (text.len() > MOST_IN_TLS12).then_some(KmpProblem::LargeIdentity { field, limit: MOST_IN_TLS12 })
}

/// Returns false for controls and for characters that are not seen or change how a line reads: soft hyphens, spaces
/// without width, directions, ends of lines and paragraphs, byte order marks, fillers, private use, noncharacters.
/// U+200C and U+200D are printable, because Persian and other scripts are not written without them.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..
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
        assert_eq!(message(&"ä".repeat(128)), None);
        assert_eq!(message(&"\u{1f980}".repeat(128)), None);
        assert_eq!(message(&"\u{1f980}".repeat(129)).as_deref(), Some(long));
        let large = "tls.identity is longer than 255 octets in UTF-8, which suites of TLS 1.2 do not carry; use a shorter \
                     name on both sides, or suites of TLS 1.3 only";
        let tls12 = |text: &str| tls12_problem("tls.identity", text).map(|problem| problem.to_string());
        assert_eq!(tls12(&"x".repeat(255)), None);
        assert_eq!(tls12(&"ル".repeat(128)).as_deref(), Some(large));
    }

    #[test]
    fn what_is_not_printable_is_refused() {
        for character in [
            "\0",
            "\n",
            "\u{7f}",
            "\u{85}",
            "\u{ad}",
            "\u{61c}",
            "\u{200b}",
            "\u{2060}",
            "\u{202e}",
            "\u{2028}",
            "\u{e000}",
            "\u{feff}",
            "\u{ffff}",
            "\u{10fffe}",
        ] {
            let message = message(&format!("a{character}b")).unwrap();
            assert!(message.starts_with("tls.identity has a character that is not printable"), "{message}");
        }
        assert!(message("").unwrap().starts_with("tls.identity is empty"));
        for padded in [" a", "a ", "a\u{3000}"] {
            assert!(message(padded).unwrap().starts_with("tls.identity begins or ends with white space"));
        }
    }
}
