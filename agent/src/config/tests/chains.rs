//! Key chains and keys of a neighbour: what they mean, and every error in them.

use super::errors::error;
use super::*;
use crate::keys::{ChainKey, Lifetime};

/// The keys of the only neighbour.
fn keys(text: &str) -> Arc<KeyChain> {
    let config = good(text);
    let [neighbor] = &config.neighbors[..] else { panic!("not one neighbour") };
    neighbor.keys.clone()
}

fn numbers(keys: &KeyChain) -> Vec<u32> {
    keys.keys.iter().map(|key| key.number).collect()
}

fn ids(key: &ChainKey) -> (u8, u8) {
    (key.mkt.send_id.0, key.mkt.recv_id.0)
}

#[test]
fn a_chain_has_its_keys_in_the_order_of_their_numbers() {
    let keys = keys(
        r#"
        [key-chain.backbone]
        key.2 = { key-hex = "00ff", send-id = 7 }
        key.1 = { password = "v61ne0qkel33&", send-lifetime = "2026-12-01T00:00:00Z/2027-03-01T00:00:00Z", accept-lifetime = "/2027-04-01T00:00:00Z", key-id = 9, algorithm = "aes-128-cmac-96", tcp-options = "exclude" }
        [neighbor."192.0.2.1"]
        key-chain = "backbone"
        "#,
    );
    assert_eq!((keys.name.as_deref(), numbers(&keys)), (Some("backbone"), vec![1, 2]));
    let [first, second] = &keys.keys[..] else { panic!("not two keys") };
    assert_eq!(first.send.to_string(), "2026-12-01T00:00:00Z/2027-03-01T00:00:00Z");
    assert_eq!(first.accept.to_string(), "/2027-04-01T00:00:00Z");
    assert_eq!((ids(first), ids(second)), ((9, 9), (7, 2)));
    assert_eq!(first.mkt.master_key.octets(), b"v61ne0qkel33&");
    assert_eq!((first.mkt.algorithm, first.mkt.tcp_options), (Algorithm::Aes128Cmac96, TcpOptions::Exclude));
    assert_eq!((second.send, second.accept), (Lifetime::ALWAYS, Lifetime::ALWAYS));
    assert_eq!((second.mkt.algorithm, second.mkt.tcp_options), (Algorithm::HmacSha1_96, TcpOptions::Include));
}

#[test]
fn keys_inherit_from_the_neighbour_and_then_from_the_defaults() {
    let config = good(
        r#"
        defaults = { algorithm = "aes-128-cmac-96", kdf = "isn", key-chain = "c" }
        [key-chain.c]
        key.1 = { password = "v61ne0qkel33&" }
        key.2 = { password = "v61ne0qkel34&", algorithm = "hmac-sha-256-96" }
        [neighbor]
        "192.0.2.1" = {}
        "192.0.2.2" = { algorithm = "hmac-sha-256-128", tcp-options = "exclude", kdf = "rfc5926" }
        "#,
    );
    let mkts =
        |index: usize| config.neighbors[index].keys.keys.iter().map(|key| &key.mkt).collect::<Vec<_>>();
    let [first, second] = [mkts(0), mkts(1)];
    assert_eq!((first[0].algorithm, first[1].algorithm), (Algorithm::Aes128Cmac96, Algorithm::HmacSha256_96));
    assert_eq!((first[0].kdf, first[0].tcp_options), (Kdf::Isn, TcpOptions::Include));
    assert_eq!(
        (second[0].algorithm, second[1].algorithm),
        (Algorithm::HmacSha256_128, Algorithm::HmacSha256_96)
    );
    assert_eq!((second[1].kdf, second[1].tcp_options), (Kdf::Rfc5926, TcpOptions::Exclude));
}

#[test]
fn neighbours_that_inherit_the_same_share_a_chain() {
    let mut text = "[key-chain.c]\nkey.1 = { password = \"v61ne0qkel33&\" }\n[neighbor]\n".to_owned();
    for n in 0..1000 {
        let algorithm = if n % 2 == 0 { "hmac-sha-1-96" } else { "aes-128-cmac-96" };
        text += &format!(
            "\"10.0.{}.{}\" = {{ key-chain = \"c\", algorithm = \"{algorithm}\" }}\n",
            n >> 8,
            n & 255
        );
    }
    let config = good(&text);
    let chains: std::collections::HashSet<_> =
        config.neighbors.iter().map(|neighbor| Arc::as_ptr(&neighbor.keys)).collect();
    assert_eq!((config.neighbors.len(), chains.len()), (1000, 2));
    assert!(Arc::ptr_eq(&config.key_chains[0], &config.neighbors[0].keys));
}

#[test]
fn the_secret_of_a_neighbour_itself_is_its_key_0() {
    let keys = keys(
        r#"
        [neighbor."192.0.2.1"]
        password = "v61ne0qkel33&"
        send-id = 5
        send-lifetime = "/2027-03-01T00:00:00Z"
        key.3 = { password = "v61ne0qkel34&" }
        "#,
    );
    assert_eq!((keys.name.as_deref(), numbers(&keys)), (None, vec![0, 3]));
    assert_eq!((ids(&keys.keys[0]), ids(&keys.keys[1])), ((5, 1), (3, 3)));
    assert_eq!(keys.keys[0].send.to_string(), "/2027-03-01T00:00:00Z");
    assert_eq!(keys.keys[1].send, Lifetime::ALWAYS);
}

#[test]
fn keys_of_a_neighbour_stand_for_whatever_the_defaults_have() {
    for defaults in ["password = \"secret of all\"", "key-chain = \"c\""] {
        let chain = "key-chain.c.key.1.password = \"v61ne0qkel33&\"";
        let with = |neighbor: &str| {
            keys(&format!("{chain}\n[defaults]\n{defaults}\n[neighbor.\"192.0.2.1\"]\n{neighbor}"))
        };
        assert_eq!(numbers(&with("key.7.password = \"v61ne0qkel34&\"")), [7]);
        assert_eq!(with("password = \"v61ne0qkel34&\"").first().master_key.octets(), b"v61ne0qkel34&");
        assert_eq!(with("key-chain = \"c\"").name.as_deref(), Some("c"));
        assert_eq!(with("").name.is_some(), defaults.contains("key-chain"));
    }
}

#[test]
fn a_chain_that_is_none() {
    let written = "write [key-chain.NAME] and below it key.1 = { password = \"SECRET\" }";
    error("key-chain = 1", &format!("1:13: key-chain must be a table; {written}"));
    error("key-chain.c = 1", &format!("1:11: key-chain \"c\": a key chain is a table; {written}"));
    error(
        "key-chain.\"v61ne0 qkel\".key.1.password = \"v61ne0qkel33&\"",
        "1:11: key-chain: not the name of a key chain; use 1 to 64 letters, digits, dots, hyphens and underscores",
    );
    let none = "a key chain without keys; add key.1 = { password = \"SECRET\" }";
    error("[key-chain.c]", &format!("1:12: key-chain \"c\": {none}"));
    error("[key-chain.c]\nkey = {}", &format!("1:12: key-chain \"c\": {none}"));
    error(
        "[key-chain.c]\nkey.1.password = \"v61ne0qkel33&\"\nport = 179",
        "3:1: key-chain \"c\": unknown field; a key chain has keys alone: key.1 = { password = \"SECRET\" }",
    );
    error(
        "[key-chain.c]\nkey.1.password = \"v61ne0qkel33&\"\nneighbor.\"192.0.2.1\".key-chain = \"c\"",
        "3:1: key-chain \"c\": this is part of the table above it; move it before the first [table], or write \
         [neighbor.\"ADDRESS\"]",
    );
}

#[test]
fn a_chain_that_is_not_there() {
    let chain = "key-chain.backbone.key.1.password = \"v61ne0qkel33&\"\n";
    error(
        &format!("{chain}neighbor.\"192.0.2.1\".key-chain = \"backbon\""),
        "2:34: neighbor \"192.0.2.1\": no such key chain; did you mean \"backbone\"?",
    );
    error(
        &format!("{chain}neighbor.\"192.0.2.1\".key-chain = \"v61ne0qkel33&\""),
        "2:34: neighbor \"192.0.2.1\": no such key chain; add it as [key-chain.NAME] with its keys",
    );
    // Once, not for each neighbour that inherits it.
    error(
        &format!("{chain}defaults.key-chain = \"backbones\"\nneighbor.\"192.0.2.1\" = {{}}"),
        "2:22: defaults: no such key chain; did you mean \"backbone\"?",
    );
}

#[test]
fn a_chain_and_a_secret_exclude_each_other() {
    let chain = "key-chain.c.key.1.password = \"v61ne0qkel33&\"\n";
    error(
        &format!("{chain}neighbor.\"192.0.2.1\" = {{ password = \"v61ne0qkel34&\", key-chain = \"c\" }}"),
        "2:66: neighbor \"192.0.2.1\": key-chain and a secret are both given; keep one",
    );
    error(
        &format!(
            "{chain}neighbor.\"192.0.2.1\" = {{ key-chain = \"c\", key.1.password = \"v61ne0qkel34&\" }}"
        ),
        "2:38: neighbor \"192.0.2.1\": key-chain and key.N are both given; keep one",
    );
    error(
        &format!("{chain}defaults = {{ key-chain = \"c\", password = \"v61ne0qkel34&\" }}"),
        "2:26: defaults: key-chain and a secret are both given; keep one",
    );
}

#[test]
fn keys_that_are_none() {
    let key = |key: &str| format!("[neighbor.\"192.0.2.1\"]\n{key}");
    let write = "write key.1 = { password = \"SECRET\" }";
    error(
        &key("key = \"v61ne0qkel33&\""),
        &format!("2:7: neighbor \"192.0.2.1\": key must be a table, not text; {write}"),
    );
    error(
        &key("key.1 = \"v61ne0qkel33&\""),
        &format!("2:9: neighbor \"192.0.2.1\" key.1: a key is a table of fields; {write}"),
    );
    for number in ["one", "01", "-1", "4294967296"] {
        error(
            &key(&format!("key.{number}.password = \"v61ne0qkel33&\"")),
            "2:5: neighbor \"192.0.2.1\": a key is called by its number; write key.1, with a number up to 4294967295",
        );
    }
    error(
        &key("key.1.key-id = 2"),
        "2:5: neighbor \"192.0.2.1\" key.1: no secret; give password, password-file, key-hex or key-base64 in this key",
    );
    error(
        &key("key.1.pasword = \"v61ne0qkel33&\""),
        "2:7: neighbor \"192.0.2.1\" key.1: unknown field; did you mean \"password\"?",
    );
    error(
        &key("key.1 = { password = \"v61ne0qkel33&\", port = 1 }"),
        "2:39: neighbor \"192.0.2.1\" key.1: unknown field; the fields are password, password-file, key-hex, key-base64, \
         key-id, send-id, recv-id, algorithm, tcp-options, send-lifetime, accept-lifetime",
    );
    error(
        &key("key.1 = { password = \"v61ne0qkel33&\", key-hex = \"00\" }"),
        "2:39: neighbor \"192.0.2.1\" key.1: password and key-hex are both given; keep one",
    );
    let ids = "a number above 255 cannot be a KeyID too; add key-id, or send-id and recv-id";
    error(
        &key("key.256 = { password = \"v61ne0qkel33&\" }"),
        &format!("2:5: neighbor \"192.0.2.1\" key.256: {ids}"),
    );
    error(
        &key("key.256 = { password = \"v61ne0qkel33&\", send-id = 1 }"),
        &format!("2:5: neighbor \"192.0.2.1\" key.256: {ids}"),
    );
    assert_eq!(
        numbers(&keys(&key("key.4294967295 = { password = \"v61ne0qkel33&\", key-id = 1 }"))),
        [u32::MAX]
    );
}

#[test]
fn the_same_key_twice() {
    let key = "password = \"v61ne0qkel33&\", key-id = 1";
    let twin = "once more: ids, algorithm and secret are the same, and nothing tells the two apart; remove one, or give \
                it another secret";
    error(
        &format!("[key-chain.c]\nkey.1 = {{ {key} }}\nkey.2 = {{ {key} }}"),
        &format!("3:5: key-chain \"c\" key.2: is key 1 {twin}"),
    );
    error(
        &format!("[neighbor.\"192.0.2.1\"]\npassword = \"v61ne0qkel33&\"\nkey.2 = {{ {key} }}"),
        &format!("3:5: neighbor \"192.0.2.1\" key.2: is key 0 {twin}"),
    );
    let others = ["password = \"v61ne0qkel33&\", key-id = 3", "password = \"v61ne0qkel34&\", key-id = 1"];
    for other in others {
        keys(&format!("[neighbor.\"192.0.2.1\"]\nkey.1 = {{ {key} }}\nkey.2 = {{ {other} }}"));
    }
}

#[test]
fn the_same_number_twice() {
    let twice = "this key is given a second time; keep one of the two";
    error(
        "[key-chain.c]\nkey.1 = { password = \"v61ne0qkel33&\" }\nkey.1 = { password = \"v61ne0qkel34&\" }",
        &format!("3:5: {twice}"),
    );
    error(
        "[neighbor.\"192.0.2.1\"]\npassword = \"v61ne0qkel33&\"\nkey.0 = { password = \"v61ne0qkel34&\" }",
        "3:5: neighbor \"192.0.2.1\" key.0: the secret of the neighbour itself is its key 0 already; give this key \
         another number, or keep one",
    );
    assert_eq!(numbers(&keys("neighbor.\"192.0.2.1\".key.0.password = \"v61ne0qkel34&\"")), [0]);
}

#[test]
fn keys_stand_in_chains_and_neighbours_only() {
    error(
        "defaults.key.1.password = \"v61ne0qkel33&\"\nneighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"",
        "1:10: defaults: keys stand in a key chain or a neighbour; write [key-chain.NAME], and here key-chain = \"NAME\"",
    );
}

#[test]
fn fields_of_a_secret_that_is_not_there() {
    let chain = "key-chain.c.key.1.password = \"v61ne0qkel33&\"\n";
    for field in ["key-id = 3", "send-id = 3", "recv-id = 3", "send-lifetime = \"never\""] {
        let name = field.split(' ').next().unwrap();
        let column = 3 + name.len() + 1;
        error(
            &format!("{chain}[neighbor.\"192.0.2.1\"]\n{field}\nkey-chain = \"c\""),
            &format!(
                "3:{}: neighbor \"192.0.2.1\": {name} belongs to a secret beside it, and there is none; give {name} in \
                 the key",
                column
            ),
        );
        error(
            &format!("[neighbor.\"192.0.2.1\"]\n{field}\nkey.1.password = \"v61ne0qkel33&\""),
            &format!(
                "2:{column}: neighbor \"192.0.2.1\": {name} belongs to a secret beside it, and there is none; give \
                 {name} in the key"
            ),
        );
    }
}

#[test]
fn lifetimes_that_are_none() {
    let lifetime = |lifetime: &str| {
        format!("[neighbor.\"192.0.2.1\"]\npassword = \"v61ne0qkel33&\"\naccept-lifetime = {lifetime}")
    };
    let form = "\"2026-12-01T00:00:00Z/2027-03-01T00:00:00Z\"";
    error(
        &lifetime("\"2026-12-01\""),
        &format!(
            "3:19: neighbor \"192.0.2.1\": accept-lifetime: not a lifetime; write {form} with START/END, a side left \
             empty if it is open, or \"always\", \"never\" or \"preferred\""
        ),
    );
    error(
        &lifetime("\"/tomorrow\""),
        &format!(
            "3:19: neighbor \"192.0.2.1\": accept-lifetime: what stands behind the slash is no time; write {form}: RFC \
             3339 with Z or an offset, without either for this host's time zone, or a date alone"
        ),
    );
    error(
        &lifetime("\"2027-01-01/2026-01-01\""),
        "3:19: neighbor \"192.0.2.1\": accept-lifetime: ends before it begins, or at once; exchange the two times, or \
         write \"never\"",
    );
    error(
        &lifetime("2026-12-01"),
        "3:19: neighbor \"192.0.2.1\": accept-lifetime must be text in quotes, not a date or time",
    );
}

#[test]
fn a_broken_chain_is_reported_once() {
    error(
        "[key-chain.c]\nkey.1 = { password = \"\" }\n[neighbor]\n\"192.0.2.1\" = { key-chain = \"c\" }\n\
         \"192.0.2.2\" = { key-chain = \"c\" }\n\"192.0.2.3\" = { key-chain = \"c\", algorithm = \"aes-128-cmac-96\" }",
        "2:22: key-chain \"c\" key.1: password is empty; give the secret agreed with the neighbour",
    );
}
