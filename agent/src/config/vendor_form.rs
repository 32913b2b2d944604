//! Secrets as routers print them in their configurations: encrypted or hashed, not as they were typed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Returns the name of the form in which a router printed `text`, or `None` if `text` has no such form.
///
/// Narrow on purpose: random passwords must not be taken for one.
pub(super) fn name(text: &str) -> Option<&'static str> {
    let (kind, value) = text.split_once(' ').unwrap_or(("", text));
    let has = |prefix: &str| value.len() > prefix.len() && value.starts_with(prefix);
    match kind {
        "3" if is_hex(value) && value.len().is_multiple_of(16) => Some("type 3"),
        "5" if has("$1$") => Some("type 5"),
        "6" if is_type_6(value) || is_base64(value) => Some("type 6"),
        "7" if decodes_as_type_7(value) || is_base64(value) || has("$1c$") => Some("type 7"),
        "8" if has("$8$") => Some("type 8"),
        "9" if has("$9$") => Some("type 9"),
        "ENC" if is_base64(value) => Some("`ENC`"),
        // Decimal digits alone are more often a number that a person chose.
        "" if decodes_as_type_7(value) && value.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
            Some("type 7")
        }
        "" if has("$8$aes256-") => Some("`$8$`"),
        "" if has("$9$") && value.len() >= 8 && value[3..].bytes().all(is_junos) => Some("`$9$`"),
        "" if has("$c$3$") => Some("`$c$`"),
        "" if ["%^%#", "%@%@", "%$%$"].iter().any(|frame| is_framed(value, frame)) => Some("cipher"),
        _ => None,
    }
}

/// Whether `text` is type 7 of IOS: two decimal digits, the place in [`TYPE_7`] to begin at, then the hexadecimal
/// bytes of a secret, each XORed with one of the table. The result has to be printable.
fn decodes_as_type_7(text: &str) -> bool {
    let Some((place, bytes)) = text.split_at_checked(2) else { return false };
    let (Ok(place), Ok(bytes)) = (place.parse::<usize>(), hex::decode(bytes)) else { return false };
    let is_upper = !text.bytes().any(|byte| byte.is_ascii_lowercase());
    let mut secret = bytes.iter().zip(TYPE_7.iter().cycle().skip(place)).map(|(byte, key)| byte ^ key);
    is_upper && place < TYPE_7.len() && !bytes.is_empty() && secret.all(|byte| matches!(byte, b' '..=b'~'))
}

/// Whether `text` is type 6 of IOS, which writes bytes in 41 characters from `A` on.
fn is_type_6(text: &str) -> bool {
    text.len() >= 8 && text.bytes().all(|byte| matches!(byte, b'A'..=b'i'))
}

/// Whether `text` is at least 8 bytes in base64 with its padding, and no word of letters.
fn is_base64(text: &str) -> bool {
    text.len() >= 12
        && STANDARD.decode(text).is_ok()
        && text.bytes().any(|byte| byte.is_ascii_uppercase())
        && text.bytes().any(|byte| !byte.is_ascii_alphabetic())
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `byte` is one that Junos writes behind `$9$`.
fn is_junos(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'/')
}

fn is_framed(text: &str, frame: &str) -> bool {
    text.len() > 2 * frame.len() && text.starts_with(frame) && text.ends_with(frame)
}

/// The table that type 7 of IOS XORs with.
const TYPE_7: &[u8; 53] = b"dsfd;kfoA,.iyewrkldJKDHSUBsgvca69834ncxv9873254k;fg87";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_secrets_of_each_vendor_are_known() {
        for (text, expected) in [
            ("7 070C285F4D06", "type 7"),
            ("070C285F4D06", "type 7"),
            ("110A1016141D", "type 7"),
            ("7 3QGcQxJ8ZBd+nWwdRCpyHw==", "type 7"),
            ("7 $1c$pSW0V7GuG8lF+D0rHnEqGg==", "type 7"),
            ("6 QNXRbAAcZBdfFVXbHYQMVFUTiUXLAAB", "type 6"),
            ("3 a667d47acc18ea6b", "type 3"),
            ("9 $9$2MJBozw/9R3UsU$2lFhcKvpghcyw8deP25GOfyZaagyUOGBymkryvOdfo6", "type 9"),
            ("$9$wxs2oGDikqf", "`$9$`"),
            ("$8$aes256-gcm$hmac-sha2-256$100$ZZ", "`$8$`"),
            ("$c$3$nQpIzXgDjPnUBhgwNzCDFjyUqzHrYA==", "`$c$`"),
            ("%^%#wF1(Bqmd+5%^%#", "cipher"),
            ("ENC oZ73rwRXyTYjjHNa5fTxkw==", "`ENC`"),
        ] {
            assert_eq!(name(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn passwords_that_only_resemble_them_are_not() {
        for text in [
            "1234567890",
            "0123456789012345",
            "0070c285f4d06",
            "070c285f4d06",
            "70C285F4D06",
            "0A1B2C3D4E5F",
            "00FFEE00FFEE",
            "v61ne0 qkel33&",
            "$9v61ne0qkel33",
            "$9$ sounds cheap",
            "12 monkeys",
            "6 monkeys1",
            "6 feet under",
            "7 dwarfs and a Prince",
            "7 Samurai1954",
            "ENC ounter",
            "",
            "é",
            "7 ",
        ] {
            assert_eq!(name(text), None, "{text}");
        }
    }
}
