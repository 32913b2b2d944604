//! Wire, key management, KDF and algorithm: which fit, which do not, and what is inherited.

use super::errors::{error, field_error};
use super::*;

/// The only neighbour.
fn neighbor(text: &str) -> Neighbor {
    let config = good(text);
    let [neighbor] = &config.neighbors[..] else { panic!("not one neighbour") };
    neighbor.clone()
}

/// A neighbour with `fields` below `defaults`: its wire, key management, KDF and algorithm.
fn mode(defaults: &str, fields: &str) -> (Wire, KeyManagement, Kdf, Algorithm) {
    let text =
        format!("[defaults]\n{defaults}\n[neighbor.\"192.0.2.1\"]\npassword = \"v61ne0qkel33&\"\n{fields}");
    let neighbor = neighbor(&text);
    (neighbor.wire, neighbor.key_management, neighbor.keys.first().kdf, neighbor.keys.first().algorithm)
}

#[test]
fn each_mode_has_its_kdf() {
    use {KeyManagement::*, Wire::*};
    let (sha1, md5) = (Algorithm::HmacSha1_96, Algorithm::Md5);
    for (defaults, fields, expected) in [
        ("", "", (TcpAo, Implicit, Kdf::Rfc5926, sha1)),
        ("", "kdf = \"isn\"", (TcpAo, Implicit, Kdf::Isn, sha1)),
        ("", "key-management = \"static\"", (TcpAo, Static, Kdf::None, sha1)),
        ("", "key-management = \"static\"\nkdf = \"none\"", (TcpAo, Static, Kdf::None, sha1)),
        ("", "wire = \"md5\"", (TcpMd5, Static, Kdf::None, md5)),
        ("", "wire = \"md5\"\nalgorithm = \"md5\"\nkdf = \"none\"", (TcpMd5, Static, Kdf::None, md5)),
        (
            "",
            "wire = \"md5\"\nkey-management = \"static\"\ntcp-options = \"exclude\"",
            (TcpMd5, Static, Kdf::None, md5),
        ),
        // What is inherited and does not fit is for others.
        ("kdf = \"isn\"", "key-management = \"static\"", (TcpAo, Static, Kdf::None, sha1)),
        ("kdf = \"isn\"", "key-management = \"implicit\"", (TcpAo, Implicit, Kdf::Isn, sha1)),
        (
            "key-management = \"static\"",
            "key-management = \"implicit\"",
            (TcpAo, Implicit, Kdf::Rfc5926, sha1),
        ),
        (
            "key-management = \"static\"\nkdf = \"none\"",
            "key-management = \"implicit\"",
            (TcpAo, Implicit, Kdf::Rfc5926, sha1),
        ),
        (
            "algorithm = \"hmac-sha-1-96\"\nkdf = \"rfc5926\"",
            "wire = \"md5\"",
            (TcpMd5, Static, Kdf::None, md5),
        ),
        (
            "wire = \"md5\"\nalgorithm = \"aes-128-cmac-96\"\nkdf = \"isn\"",
            "wire = \"tcp-ao\"",
            (TcpAo, Implicit, Kdf::Isn, Algorithm::Aes128Cmac96),
        ),
        ("wire = \"md5\"\nalgorithm = \"md5\"", "wire = \"tcp-ao\"", (TcpAo, Implicit, Kdf::Rfc5926, sha1)),
    ] {
        assert_eq!(mode(defaults, fields), expected, "{defaults:?} {fields:?}");
    }
}

#[test]
fn static_keys_have_no_kdf_and_derived_ones_have() {
    let static_kdf = "key-management = \"static\" derives no keys; remove kdf, or write kdf = \"none\"";
    let none = "without a kdf every connection has the same key; write key-management = \"static\" if that is meant, \
                else kdf = \"rfc5926\" or \"isn\"";
    for kdf in ["rfc5926", "isn"] {
        error(
            &format!(
                "neighbor.\"192.0.2.1\" = {{ key-management = \"static\", kdf = \"{kdf}\", password = \"v61ne0qkel33&\" }}"
            ),
            &format!("1:59: neighbor \"192.0.2.1\": {static_kdf}"),
        );
    }
    field_error("kdf = \"none\"", &format!("28: {none}"));
    error("[defaults]\nkdf = \"none\"", &format!("2:7: defaults: {none}"));
    error("[defaults]\nkey-management = \"static\"\nkdf = \"isn\"", &format!("3:7: defaults: {static_kdf}"));
    error(
        "defaults.key-management = \"static\"\nneighbor.\"192.0.2.1\" = { kdf = \"isn\", password = \"v61ne0qkel33&\" }",
        &format!("2:32: neighbor \"192.0.2.1\": {static_kdf}"),
    );
}

#[test]
fn md5_leaves_no_choice() {
    for (field, only, fields) in [
        ("algorithm", "\"md5\"", "algorithm = \"hmac-sha-1-96\""),
        ("kdf", "\"none\"", "kdf = \"isn\""),
        ("key-management", "\"static\"", "key-management = \"implicit\""),
        ("tcp-options", "\"exclude\"", "tcp-options = \"include\""),
    ] {
        let column = field.len() + " = ".len() + 1;
        error(
            &format!("[neighbor.\"192.0.2.1\"]\npassword = \"v61ne0qkel33&\"\nwire = \"md5\"\n{fields}"),
            &format!(
                "4:{column}: neighbor \"192.0.2.1\": wire = \"md5\" knows one {field}, {only}; remove {field}, or write \
                 wire = \"tcp-ao\""
            ),
        );
    }
    let without_wire =
        "algorithm \"md5\" is not for TCP-AO; add wire = \"md5\" to the neighbour, or use another algorithm";
    field_error("algorithm = \"md5\"", &format!("34: {without_wire}"));
    error("defaults.algorithm = \"md5\"", &format!("1:22: defaults: {without_wire}"));
    // In a chain it depends on who uses it.
    let chain = |wire: &str, field: &str| {
        format!(
            "[key-chain.c]\nkey.1 = {{ {field}, password = \"v61ne0qkel33&\" }}\n[neighbor.\"192.0.2.1\"]\n\
             key-chain = \"c\"\nwire = \"{wire}\""
        )
    };
    assert_eq!(neighbor(&chain("md5", "algorithm = \"md5\"")).keys.first().algorithm, Algorithm::Md5);
    error(&chain("tcp-ao", "algorithm = \"md5\""), &format!("2:23: key-chain \"c\" key.1: {without_wire}"));
    for (field, only, fields) in [
        ("algorithm", "\"md5\"", "algorithm = \"aes-128-cmac-96\""),
        ("tcp-options", "\"exclude\"", "tcp-options = \"include\""),
    ] {
        error(
            &chain("md5", fields),
            &format!(
                "2:{}: key-chain \"c\" key.1: wire = \"md5\" knows one {field}, {only}; remove {field}, or write wire = \
                 \"tcp-ao\"",
                11 + field.len() + 3
            ),
        );
    }
}

#[test]
fn a_password_for_md5_has_80_octets_at_most() {
    let text = |length: usize| {
        format!("neighbor.\"192.0.2.1\" = {{ wire = \"md5\", password = \"{}\" }}", "s".repeat(length))
    };
    assert_eq!(neighbor(&text(80)).keys.first().master_key.octets().len(), 80);
    let long = "with wire = \"md5\" a password has at most 80 octets; use a shorter one on both sides";
    error(&text(81), &format!("1:10: neighbor \"192.0.2.1\": {long}"));
    error(
        &format!(
            "[key-chain.c]\nkey.1 = {{ password = \"{}\" }}\n[neighbor.\"192.0.2.1\"]\nkey-chain = \"c\"\nwire = \"md5\"",
            "s".repeat(81)
        ),
        &format!("2:5: key-chain \"c\" key.1: {long}"),
    );
}

#[test]
fn a_connection_is_taken_over_only_where_its_socket_is() {
    let taken = |text: &str| neighbor(text).unauthenticated;
    let accept = "unauthenticated = \"accept-until-authenticated\"";
    let own = "password = \"v61ne0qkel33&\"";
    assert_eq!(
        taken(&format!("neighbor.\"192.0.2.0/24\" = {{ {own}, {accept} }}")),
        Unauthenticated::AcceptUntilAuthenticated
    );
    assert_eq!(
        taken(&format!("neighbor.\"192.0.2.1\" = {{ {own}, {accept}, forwarded = [] }}")),
        Unauthenticated::AcceptUntilAuthenticated
    );
    let refused = "\"accept-until-authenticated\" takes over a connection from its socket, and sessions of forwarded \
                   have none here; write \"drop\", or remove forwarded";
    let forwarded = "forwarded = [\"172.17.0.2%docker0\"]";
    error(
        &format!("neighbor.\"192.0.2.1\" = {{ {accept}, {own}, {forwarded} }}"),
        &format!("1:44: neighbor \"192.0.2.1\": {refused}"),
    );
    error(
        &format!("defaults.{accept}\nneighbor.\"192.0.2.1\" = {{ {forwarded}, {own} }}"),
        &format!("2:38: neighbor \"192.0.2.1\": {refused}"),
    );
    error(
        &format!("[defaults]\n{accept}\n{forwarded}\n[neighbor.\"192.0.2.1\"]\n{own}"),
        &format!("2:19: defaults: {refused}"),
    );
}

#[test]
fn the_warning_before_the_end_of_keys_is_in_days() {
    let days = |defaults: &str, fields: &str| {
        let text = format!(
            "[defaults]\n{defaults}\n[neighbor.\"192.0.2.1\"]\npassword = \"v61ne0qkel33&\"\n{fields}"
        );
        neighbor(&text).key_warning.map(|span| span.as_secs() / 86_400)
    };
    assert_eq!(days("", ""), Some(7));
    assert_eq!(days("", "key-warning = 30"), Some(30));
    assert_eq!(days("key-warning = 0", ""), None);
    assert_eq!(days("key-warning = 0", "key-warning = 1"), Some(1));
    assert_eq!(days("key-warning = 1", "key-warning = 0"), None);
    field_error("key-warning = 3651", "36: key-warning is out of range; use a number from 0 to 3650");
}
