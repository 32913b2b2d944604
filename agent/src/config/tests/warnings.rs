//! Every warning about keys and their lifetimes.

use super::*;

/// The warnings about `text` on the first of December 2026.
fn warnings(text: &str) -> Vec<String> {
    let now = "2026-12-01T00:00:00Z".parse().unwrap();
    warning::warnings(&good(text), now).iter().map(Warning::to_string).collect()
}

/// Those about a neighbour with `keys`.
#[track_caller]
fn assert_warnings(keys: &str, expected: &[&str]) {
    let expected: Vec<String> =
        expected.iter().map(|message| format!("neighbor \"192.0.2.1\"{message}")).collect();
    assert_eq!(warnings(&format!("[neighbor.\"192.0.2.1\"]\n{keys}")), expected, "{keys}");
}

/// A key with these lifetimes in TOML.
fn key(number: u32, send: &str, accept: &str) -> String {
    format!(
        "key.{number} = {{ password = \"v61ne0qkel33&\", send-lifetime = \"{send}\", accept-lifetime = \"{accept}\" }}\n"
    )
}

#[test]
fn lifetimes_that_follow_on_each_other_are_fine() {
    let keys = key(1, "/2027-01-01T00:00:00Z", "/2027-02-01T00:00:00Z")
        + &key(2, "2027-01-01T00:00:00Z/", "2026-12-15T00:00:00Z/");
    assert_warnings(&keys, &[]);
    // An end is no gap: the daemon warns when it is near.
    assert_warnings(&key(1, "/2027-01-01T00:00:00Z", "always"), &[]);
    // Nor is what is over.
    let past =
        key(1, "/2025-01-01T00:00:00Z", "/2025-01-01T00:00:00Z") + &key(2, "2025-02-01T00:00:00Z/", "always");
    assert_warnings(&past, &[]);
}

#[test]
fn a_gap_is_warned_about() {
    let closed =
        "no key may be sent with or none is accepted, and the neighbour is closed; let the lifetimes overlap";
    let keys = key(1, "/2027-01-01T00:00:00Z", "always") + &key(2, "2027-01-01T00:00:01Z/", "always");
    assert_warnings(
        &keys,
        &[&format!(": from 2027-01-01T00:00:00Z on and until 2027-01-01T00:00:01Z, {closed}")],
    );
    let keys = key(1, "always", "/2027-01-01T00:00:00Z") + &key(2, "always", "2027-01-02T00:00:00Z/");
    assert_warnings(
        &keys,
        &[&format!(": from 2027-01-01T00:00:00Z on and until 2027-01-02T00:00:00Z, {closed}")],
    );
    assert_warnings(
        &key(1, "2026-12-02T00:00:00Z/", "always"),
        &[&format!(": now and until 2026-12-02T00:00:00Z, {closed}")],
    );
}

#[test]
fn keys_that_are_all_over_are_warned_about() {
    let over = ": no key may be sent with or none is accepted any more, and the neighbour is closed; add a key that is \
                valid";
    assert_warnings(&key(1, "/2026-12-01T00:00:00Z", "always"), &[over]);
    assert_warnings(&key(1, "always", "/2026-11-30T00:00:00Z"), &[over]);
    assert_warnings(&key(1, "never", "always"), &[over]);
}

#[test]
fn a_key_that_is_never_used_is_warned_about() {
    let keys = key(1, "always", "always") + &key(2, "never", "never") + &key(3, "never", "always");
    assert_warnings(
        &keys,
        &[" key.2: neither lifetime has a moment: the key is never used; remove it, or give it lifetimes"],
    );
}

#[test]
fn more_keys_at_a_time_than_a_session_holds_are_warned_about() {
    let three = (1..=3).map(|number| key(number, "always", "always")).collect::<String>();
    assert_warnings(&three, &[]);
    let many =
        "more than 3 keys are valid at a time, and a session has room for 3; end the lifetimes of the others";
    assert_warnings(&(three.clone() + &key(4, "never", "always")), &[&format!(": now, {many}")]);
    assert_warnings(
        &(three.clone() + &key(4, "never", "2027-01-01T00:00:00Z/")),
        &[&format!(": from 2027-01-01T00:00:00Z on, {many}")],
    );
    assert_warnings(&(three + &key(4, "never", "/2026-01-01T00:00:00Z")), &[]);
}

#[test]
fn keys_that_share_an_id_at_a_time_are_warned_about() {
    let keys = |first: &str, second: &str| {
        format!(
            "key.1 = {{ password = \"v61ne0qkel33&\", {first} }}\nkey.2 = {{ password = \"v61ne0qkel34&\", {second} }}\n"
        )
    };
    assert_warnings(
        &keys("recv-id = 7", "recv-id = 7"),
        &[
            ": key.1 and key.2 have the same recv-id 7: the key of a segment is found by trying, which costs a second MAC; \
           give each its own, if the neighbour can",
        ],
    );
    assert_warnings(
        &keys("send-id = 7", "send-id = 7"),
        &[
            ": key.1 and key.2 have the same send-id 7: the neighbour cannot ask for one of them; give each its own, if \
           the neighbour can",
        ],
    );
    assert_warnings(
        &keys(
            "recv-id = 7, accept-lifetime = \"/2027-01-01T00:00:00Z\"",
            "recv-id = 7, accept-lifetime = \"2027-01-01T00:00:00Z/\"",
        ),
        &[],
    );
    // TCP-MD5 has no KeyIDs.
    assert_warnings(&(keys("key-id = 7", "key-id = 7") + "wire = \"md5\""), &[]);
}

#[test]
fn a_secret_for_a_handshake_is_longer_than_one_for_macs_alone() {
    let short = ": the secret is shorter than 12 octets: whoever answers a handshake in the neighbour's place can guess at \
                 it for as long as it takes (RFC 4279, 7.2); make one with `tcpauth genkey`";
    assert_warnings("password = \"11 octets11\"\nkey-management = \"external\"", &[short]);
    assert_warnings("password = \"11 octets11\"\nkey-management = \"layered\"", &[short]);
    assert_warnings("password = \"11 octets11\"", &[]);
    assert_warnings("password = \"12 octets121\"\nkey-management = \"layered\"", &[]);
    let guessed = ": the secret is shorter than 8 octets and can be guessed; make one with `tcpauth genkey`";
    assert_warnings("password = \"7octets\"\nkey-management = \"layered\"", &[guessed]);
    // Of a chain once, if one of its neighbours has such handshakes.
    let chain = "[key-chain.a]\nkey.1 = { password = \"11 octets11\" }\n[neighbor]\n\"192.0.2.1\" = { key-chain = \"a\" }\n\
                 \"192.0.2.2\" = { key-chain = \"a\", key-management = \"external\" }";
    assert_eq!(warnings(chain), [format!("key-chain \"a\" key.1{short}")]);
    assert_eq!(warnings(&chain.replace("external", "implicit")), [""; 0]);
}

#[test]
fn handshakes_that_protect_less_than_they_could_are_warned_about() {
    let external = "password = \"v61ne0qkel33&\"\nkey-management = \"external\"\n";
    assert_warnings(
        &format!("{external}fallback = \"implicit\""),
        &[
            ": with fallback = \"implicit\" whoever blocks the daemons' channel has connections run on keys from the secret \
           alone; write \"never\" as soon as both sides have key-management = \"external\"",
        ],
    );
    let no_secrecy = |suite: &str| {
        format!(
            ": {suite} has no forward secrecy: whoever learns the secret later learns the keys that were agreed on, too; \
             use suites of TLS 1.3, DHE_PSK or ECDHE_PSK"
        )
    };
    let suites =
        "tls.suites = [\"TLS_DHE_PSK_WITH_AES_128_GCM_SHA256\", \"TLS_PSK_WITH_AES_128_GCM_SHA256\"]";
    assert_warnings(&format!("{external}{suites}"), &[&no_secrecy("TLS_PSK_WITH_AES_128_GCM_SHA256")]);
    assert_warnings(
        &format!("{external}tls.suites = [\"TLS_AES_128_GCM_SHA256\", \"TLS_AES_256_GCM_SHA384\"]"),
        &[
            ": TLS_AES_256_GCM_SHA384 is never used: in TLS 1.3 a secret goes with one hash, that of the first suite (RFC \
           8446, 4.2.11); remove it, or put it first",
        ],
    );
    let rsa =
        "tls.suites = [\"TLS_RSA_PSK_WITH_AES_128_GCM_SHA256\"]\ntls.server-certificate = \"unvalidated\"";
    assert_warnings(
        &format!("{external}{rsa}"),
        &[
            &no_secrecy("TLS_RSA_PSK_WITH_AES_128_GCM_SHA256"),
            ": all suites are RSA_PSK ones, and without tls.certificate-file every handshake that the neighbour begins \
             fails; add it with tls.certificate-key-file",
        ],
    );
    assert_warnings(
        &format!("{external}{}", rsa.replace("[", "[\"TLS_AES_128_GCM_SHA256\", ")),
        &[&no_secrecy("TLS_RSA_PSK_WITH_AES_128_GCM_SHA256")],
    );
}

#[test]
fn chains_are_warned_about_once_and_also_if_nobody_uses_them() {
    let text = "[key-chain.a]\nkey.1 = { password = \"short\" }\n[key-chain.b]\nkey.1 = { password = \"v61ne0qkel33&\" }\n\
                [key-chain.md5]\nkey.1 = { password = \"v61ne0qkel33&\", algorithm = \"md5\" }\n\
                [neighbor]\n\"192.0.2.1\" = { key-chain = \"a\" }\n\"192.0.2.2\" = { key-chain = \"a\", port = 1 }";
    assert_eq!(
        warnings(text),
        [
            "key-chain \"a\" key.1: the secret is shorter than 8 octets and can be guessed; make one with `tcpauth genkey`",
            "key-chain \"b\": no neighbour uses it; write key-chain = \"b\" in one, or remove it",
            "key-chain \"md5\": no neighbour uses it; write key-chain = \"md5\" in one, or remove it",
        ]
    );
}

#[test]
fn a_secret_that_a_router_encrypted_is_warned_about() {
    for (secret, form) in [("7 070C285F4D06", "type 7"), ("$9$wxs2oGDikqf", "`$9$`")] {
        let expected = format!(
            ": the secret looks like one that a router encrypted for its configuration ({form}), and every character of it \
             is used as it stands; write the secret that was typed on that router"
        );
        assert_warnings(&format!("password = '{secret}'"), &[&expected]);
    }
    assert_warnings("password = '12 monkeys'", &[]);
}

#[test]
fn control_characters_in_a_secret_are_warned_about() {
    let expected = ": the secret contains control characters; if they come from backslashes in a password in \"…\", put it \
                    in single quotes, which keep a backslash: '…'";
    assert_warnings(r#"password = "pa\bss\next1""#, &[expected]);
    assert_warnings(r"password = 'pa\bss\next1'", &[]);
}

#[test]
fn a_secret_in_another_encoding_is_warned_about() {
    let mark = ": the secret begins with the byte order mark of UTF-8, whose octets count as well; save the file as UTF-8 \
                without byte order mark";
    assert_warnings("key-hex = \"efbbbf763631716b656c\"", &[mark]);
    let latin = ": the secret reads as text in another encoding than UTF-8, such as ISO 8859-1; the neighbor must have the \
                 very same octets: save the file as UTF-8 if it types the characters";
    assert_warnings("key-hex = \"70e4737377f67264\"", &[latin]);
    // A random key has octets that no text has.
    assert_warnings("key-hex = \"fffe763631716b656c8a\"", &[]);
}
