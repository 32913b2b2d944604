//! Every error of the text itself, with its position and its whole message.

use super::*;

const ALGORITHMS: &str = r#"use "hmac-sha-1-96" or "aes-128-cmac-96" or "hmac-sha-256-96" or "hmac-sha-256-128" or "siphash-2-4-96" or "md5""#;
const FIELDS: &str = "the fields are password, password-file, key-hex, key-base64, key-chain, key, key-id, send-id, \
    recv-id, algorithm, kdf, tcp-options, send-lifetime, accept-lifetime, key-warning, port, interface, ttl-security, \
    forwarded, key-management, kmp-port, kmp-local-address, fallback, rekey-interval, rekey-segments, algorithms, tls, \
    unauthenticated, on-unprotected, wire";

/// `text` has one error, `expected` (after the name of the file).
#[track_caller]
pub(super) fn error(text: &str, expected: &str) {
    assert_eq!(errors(text), format!("t.toml:{expected}"), "{text}");
}

/// A good neighbour but for `field`, which begins at column 22 of line 2, has the error `expected`.
#[track_caller]
pub(super) fn field_error(field: &str, expected: &str) {
    let text =
        format!("neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"\nneighbor.\"192.0.2.1\".{field}\n");
    let (column, message) = expected.split_once(": ").unwrap();
    error(&text, &format!("2:{column}: neighbor \"192.0.2.1\": {message}"));
}

#[test]
fn text_that_is_not_toml() {
    let hint = "correct this line, with text in quotes: field = \"text\"";
    error("a b\n", &format!("1:3: not TOML: key with no value, expected `=`; {hint}"));
    error(
        "neighbor.\"192.0.2.1\".password = v61ne0qkel33&",
        &format!("1:33: not TOML: string values must be quoted, expected literal string; {hint}"),
    );
    error(
        "# ä\n[neighbor.\"192.0.2.1\"]\n\tpassword = \"ä\" \"v61ne0qkel33&\"\n",
        &format!("3:17: not TOML: unexpected key or value, expected newline, `#`; {hint}"),
    );
    error(
        "neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&",
        &format!("1:47: not TOML: invalid basic string, expected `\"`; {hint}"),
    );
    let found = errors("neighbor.\"192.0.2.1\".password = \"pa\\ss\"");
    assert!(
        found.contains("put text with backslashes in single quotes, which keep them: field = 'text'"),
        "{found}"
    );
    // All of them, and nothing else while the tables are uncertain.
    let several = errors("a = \n[defaults]\nport = 70000\n[neighbor.x\n");
    let positions: Vec<_> = several.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(positions, ["t.toml:1:5", "t.toml:4:12"], "{several}");
}

#[test]
fn keys_given_twice() {
    let twice = "this key is given a second time; keep one of the two";
    error(
        "[neighbor.\"192.0.2.1\"]\npassword = \"one-secret\"\n  password = \"two-secret\"\n",
        &format!("3:3: {twice}"),
    );
    error(
        "[neighbor.\"192.0.2.1\"]\npassword = \"one-secret\"\n[neighbor.\"192.0.2.1\"]\nport = 1\n",
        &format!("3:11: {twice}"),
    );
}

#[test]
fn unknown_keys_and_fields() {
    error("[default]\nport = 179", "1:2: unknown key; did you mean \"defaults\"?");
    error("neighbour.\"192.0.2.1\".port = 179", "1:1: unknown key; did you mean \"neighbor\"?");
    error("v61ne0qkel33 = 1", "1:1: unknown key; use [defaults], [key-chain.NAME] or neighbor.\"ADDRESS\"");
    field_error("pasword = \"x\"", "22: unknown field; did you mean \"password\"?");
    field_error("key_id = 2", "22: unknown field; did you mean \"key-id\"?");
    field_error("Port = 179", "22: unknown field; did you mean \"port\"?");
    field_error("v61ne0qkel33 = 2", &format!("22: unknown field; {FIELDS}"));
    error("defaults.ports = 1", "1:10: defaults: unknown field; did you mean \"port\"?");
}

#[test]
fn a_misspelled_secret_is_one_error() {
    error(
        "neighbor.\"192.0.2.1\".pasword = \"v61ne0qkel33&\"",
        "1:22: neighbor \"192.0.2.1\": unknown field; did you mean \"password\"?",
    );
    error(
        "defaults.key_hex = \"00ff\"\nneighbor.\"192.0.2.1\".port = 179",
        "1:10: defaults: unknown field; did you mean \"key-hex\"?",
    );
}

#[test]
fn a_neighbour_inside_the_table_above_it() {
    let moved = "this is part of the table above it; move it before the first [table], or write [neighbor.\"ADDRESS\"]";
    error(
        "[defaults]\nport = 179\n\nneighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"",
        &format!("4:1: defaults: {moved}"),
    );
    error(
        "[neighbor.\"192.0.2.1\"]\npassword = \"v61ne0qkel33&\"\nneighbor.\"192.0.2.2\".port = 179",
        &format!("3:1: neighbor \"192.0.2.1\": {moved}"),
    );
}

#[test]
fn values_of_the_wrong_type_or_range() {
    field_error("key-id = \"2\"", "31: key-id must be a number from 0 to 255, not text");
    field_error("key-id = 256", "31: key-id is out of range; use a number from 0 to 255");
    field_error("send-id = -1", "32: send-id is out of range; use a number from 0 to 255");
    field_error("recv-id = 1.5", "32: recv-id must be a number from 0 to 255, not a number with a fraction");
    field_error("port = 0", "29: port is out of range; use a number from 1 to 65535");
    field_error("port = 65536", "29: port is out of range; use a number from 1 to 65535");
    field_error("port = 99999999999999999999", "29: port is out of range; use a number from 1 to 65535");
    field_error("port = [179]", "29: port must be a number from 1 to 65535, not a list");
    field_error("ttl-security = 0", "37: ttl-security is out of range; use a number from 1 to 254");
    field_error("ttl-security = 255", "37: ttl-security is out of range; use a number from 1 to 254");
    field_error("ttl-security = true", "37: ttl-security must be a number from 1 to 254, not true or false");
    field_error("interface = 2", "34: interface must be text in quotes, not a number");
    field_error("kdf = 2026-01-01", "28: kdf must be text in quotes, not a date or time");
    field_error("algorithm = {}", "34: algorithm must be text in quotes, not a table");
}

#[test]
fn unknown_values() {
    field_error("algorithm = \"md4-of-old\"", &format!("34: algorithm has an unknown value; {ALGORITHMS}"));
    field_error(
        "algorithm = \"HMAC-SHA1-96\"",
        &format!("34: algorithm has an unknown value; {ALGORITHMS}; did you mean \"hmac-sha-1-96\"?"),
    );
    field_error("kdf = \"hkdf\"", "28: kdf has an unknown value; use \"rfc5926\" or \"isn\" or \"none\"");
    field_error(
        "tcp-options = \"included\"",
        "36: tcp-options has an unknown value; use \"include\" or \"exclude\"; did you mean \"include\"?",
    );
    field_error(
        "key-management = \"extern\"",
        "39: key-management has an unknown value; use \"implicit\" or \"static\" or \"external\" or \"layered\"; did you \
         mean \"external\"?",
    );
    field_error(
        "unauthenticated = \"accept\"",
        "40: unauthenticated has an unknown value; use \"drop\" or \"accept-until-authenticated\"",
    );
    field_error(
        "on-unprotected = \"rest\"",
        "39: on-unprotected has an unknown value; use \"report\" or \"reset\"; did you mean \"reset\"?",
    );
    field_error("wire = \"tcp-md5\"", "29: wire has an unknown value; use \"tcp-ao\" or \"md5\"");
}

#[test]
fn fields_that_exclude_each_other() {
    field_error(
        "key-id = 2\nneighbor.\"192.0.2.1\".send-id = 3",
        "22: key-id sets both send-id and recv-id; give either key-id or these",
    );
    field_error("key-hex = \"00\"", "22: password and key-hex are both given; keep one");
    error(
        "defaults = { password = \"one-secret\", key-base64 = \"AAAA\" }\nneighbor.\"192.0.2.1\" = {}",
        "1:39: defaults: password and key-base64 are both given; keep one",
    );
    error(
        "neighbor.\"fe80::1%eth0\" = { password = \"one-secret\", interface = \"eth1\" }",
        "1:66: neighbor \"fe80::1%eth0\": the address and the field interface name different interfaces; \
         keep one of the two",
    );
}

#[test]
fn ends_behind_this_host_that_are_none() {
    let written =
        "write an end behind this host as \"172.17.0.2%docker0\", \"10.88.0.0/24%veth1\" or \"192.0.2.9\"";
    field_error(
        "forwarded = \"192.0.2.9\"",
        "34: forwarded must be a list of addresses and prefixes in quotes, not text",
    );
    field_error(
        "forwarded = [\"192.0.2.9\", 7]",
        "48: an end of forwarded must be text in quotes, not a number",
    );
    for (end, wrong) in [
        ("router1", "not an IP address or prefix"),
        ("192.0.2.1/24", "bits are set behind the prefix"),
        ("::ffff:192.0.2.9", "an IPv4 address in IPv6 form"),
        ("127.0.0.1", "no end of a session has this address"),
        ("224.0.0.5", "no end of a session has this address"),
    ] {
        field_error(&format!("forwarded = [\"{end}\"]"), &format!("35: {wrong}; {written}"));
    }
    field_error(
        "forwarded = [\"192.0.2.9%a b\"]",
        "35: not the name of an interface; use 1 to 15 characters without spaces, slashes and colons",
    );
    field_error(
        "forwarded = [\"192.0.2.9/33\"]",
        "35: the prefix length is wrong; write a number from 0 to 32 after the slash",
    );
    let twice = "the same end is in the list already; keep one of the two";
    field_error("forwarded = [\"192.0.2.9\", \"192.0.2.9/32%eth0\"]", &format!("48: {twice}"));
    field_error(
        "forwarded = [\"192.0.2.9\", \"2001:db8::9\"]",
        "48: an end of the other IP family; sessions with this neighbour cannot have it, remove it",
    );
    error(
        "defaults.forwarded = [\"10.0.0.1/8\"]\nneighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"",
        &format!("1:23: defaults: bits are set behind the prefix; {written}"),
    );
}

#[test]
fn secrets_that_are_none() {
    let at = |field: &str| format!("neighbor.\"192.0.2.1\" = {{ {field} }}");
    let none = "1:10: neighbor \"192.0.2.1\": no secret; give password, password-file, key-hex, key-base64 or key-chain \
                here or under [defaults]";
    error(&at("port = 179"), none);
    for field in ["password", "password-file", "key-hex", "key-base64"] {
        let column = 28 + field.len() + 1;
        error(
            &at(&format!("{field} = \"\"")),
            &format!(
                "1:{column}: neighbor \"192.0.2.1\": {field} is empty; give the secret agreed with the neighbour"
            ),
        );
    }
    error(
        &at("password = 12345678"),
        "1:37: neighbor \"192.0.2.1\": password must be text in quotes, not a number",
    );
    let not_hex = "1:36: neighbor \"192.0.2.1\": key-hex is not hexadecimal; write two digits (0-9, a-f) for each \
                   octet and nothing else";
    error(&at("key-hex = \"0x00\""), not_hex);
    error(&at("key-hex = \"012\""), not_hex);
    error(
        &at("key-base64 = \"A-_=\""),
        "1:39: neighbor \"192.0.2.1\": key-base64 is not base64; write it with the alphabet A-Z a-z 0-9 + / as \
         `tcpauth genkey` does",
    );
    error(
        &at(&format!("password = \"{}\"", "s".repeat(4097))),
        "1:37: neighbor \"192.0.2.1\": password is longer than 4096 octets; use a shorter secret",
    );
    // A broken secret of the defaults is one error, not one more for each neighbour.
    error(
        "defaults.password = \"\"\nneighbor.\"192.0.2.1\" = {}\nneighbor.\"192.0.2.2\" = {}",
        "1:21: defaults: password is empty; give the secret agreed with the neighbour",
    );
}

#[test]
fn tables_that_are_none() {
    error("defaults = 1", "1:12: defaults must be a table, not a number");
    error(
        "neighbor = \"v61ne0qkel33&\"",
        "1:12: neighbor must be a table; write neighbor.\"192.0.2.1\".password = \"SECRET\"",
    );
    error(
        "neighbor.\"192.0.2.1\" = \"v61ne0qkel33&\"",
        "1:10: neighbor \"192.0.2.1\": a neighbour is a table of fields; write neighbor.\"192.0.2.1\".password = \
         \"SECRET\"",
    );
    error(
        "neighbor.192.0.2.1.password = \"v61ne0qkel33&\"",
        "1:10: neighbor: a key without quotes ends at each dot; put the address in quotes: neighbor.\"192.0.2.1\"",
    );
}

#[test]
fn peers_that_are_none() {
    let text =
        |peer: &str, more: &str| format!("neighbor.\"{peer}\" = {{ password = \"v61ne0qkel33&\"{more} }}");
    error(
        &text("v61ne0qkel33&", ""),
        "1:10: neighbor: not an IP address or prefix; write it as 192.0.2.1, 192.0.2.0/24 or 2001:db8::1 (names \
         are not looked up)",
    );
    error(
        &text("192.0.2.1/24", ""),
        "1:10: neighbor \"192.0.2.1/24\": bits are set behind the prefix; write \"192.0.2.0/24\", or the address \
         alone for one neighbour",
    );
    error(
        &text("192.0.2.1/24", ", interface = \"v61ne0qkel33\""),
        "1:10: neighbor \"192.0.2.1/24\": bits are set behind the prefix; write \"192.0.2.0/24\", or the address \
         alone for one neighbour",
    );
    error(
        &text("fe80::1", ""),
        "1:10: neighbor \"fe80::1\": a link-local address needs its interface; write it as \"fe80::1%eth0\" or add \
         interface = \"eth0\"",
    );
    error(
        &text("192.0.2.1", ", interface = \"with space\""),
        "1:66: neighbor \"192.0.2.1\": not the name of an interface; use 1 to 15 characters without spaces, slashes \
         and colons",
    );
    error(
        "defaults.interface = \"with space\"\nneighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"",
        "1:22: defaults: not the name of an interface; use 1 to 15 characters without spaces, slashes and colons",
    );
}

#[test]
fn peers_that_are_the_same_or_ambiguous() {
    let text = |first: &str, second: &str| {
        format!(
            "defaults.password = \"v61ne0qkel33&\"\n[neighbor]\n\"{first}\" = {{}}\n  \"{second}\" = {{}}\n"
        )
    };
    for (first, second) in [
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::1", "2001:DB8:0::1"),
        ("fe80::/64%eth0", "fe80::%eth0/64"),
    ] {
        error(
            &text(first, second),
            &format!("4:3: neighbor \"{second}\": the neighbour on line 3 is the same; keep one of the two"),
        );
    }
    for (first, second) in [("192.0.2.1", "192.0.2.1%eth0"), ("2001:db8::/32%eth0", "2001:db8::/32")] {
        error(
            &text(first, second),
            &format!(
                "4:3: neighbor \"{second}\": the neighbour on line 3 is the same address, and only one of them has an \
                 interface; bind both, to interfaces that differ, or keep one"
            ),
        );
    }
    let inside =
        "is bound to an interface and contains this one, which is not; bind this one to its interface too";
    error(
        &text("192.0.2.0/24%eth0", "192.0.2.1"),
        &format!("4:3: neighbor \"192.0.2.1\": the neighbour on line 4 {inside}").replace("line 4", "line 3"),
    );
    error(
        &text("2001:db8:1::/48", "2001:db8::/32%eth0"),
        &format!("3:1: neighbor \"2001:db8:1::/48\": the neighbour on line 4 {inside}"),
    );
}

#[test]
fn all_errors_of_a_file_are_reported_in_its_order() {
    let text = "[neighbor.\"192.0.2.1\"]\npassword = \"\"\nport = 0\nttl = 1\n\n[neighbor.\"::1\"]\nkdf = 1\n\n[defaults]\nkey-id = 300\n";
    let errors = errors(text);
    let positions: Vec<_> = errors.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let expected = ["2:12", "3:8", "4:1", "6:11", "6:11", "7:7", "10:10"].map(|at| format!("t.toml:{at}"));
    assert_eq!(positions, expected, "{errors}");
}

#[test]
fn columns_count_characters_and_lines_may_end_in_crlf() {
    error(
        "# é\r\n\"neighbor\".\"192.0.2.1\" = { \"password\" = \"pässwörd✓\", port = 0 }\r\n",
        "2:61: neighbor \"192.0.2.1\": port is out of range; use a number from 1 to 65535",
    );
}
