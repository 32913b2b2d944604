//! Edits of the running configuration, in every shape of TOML that it may be written in.

use proptest::prelude::*;

use super::*;

/// `text` after `edits`.
fn edited(text: &str, edits: &[Edit]) -> Result<Config, String> {
    let mut config = good(text);
    config.apply(edits, Path::new("/")).map_err(|error| error.to_string())?;
    Ok(config)
}

/// The text after `edit`, which also means what its edit says.
#[track_caller]
fn text_after(text: &str, edit: Edit) -> String {
    let config = edited(text, &[edit]).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let again = good(&config.text.running);
    assert!(again.neighbors == config.neighbors && again.key_chains == config.key_chains);
    config.text.running.to_string()
}

fn refused(text: &str, edit: Edit) -> String {
    edited(text, &[edit]).err().unwrap_or_else(|| panic!("not refused: {text}"))
}

fn peer(text: &str) -> Peer {
    text.parse().unwrap()
}

fn neighbor(text: &str) -> KeyOwner {
    KeyOwner::Neighbor(peer(text))
}

fn chain() -> KeyOwner {
    KeyOwner::Chain("c".to_owned())
}

fn add(peer: &str, toml: &str) -> Edit {
    Edit::AddNeighbor { peer: peer.to_owned(), toml: Zeroizing::new(toml.to_owned()) }
}

fn set(owner: KeyOwner, number: u32, toml: &str) -> Edit {
    Edit::SetKey { owner, number, toml: Zeroizing::new(toml.to_owned()) }
}

fn set_send(owner: KeyOwner, number: u32, value: &str) -> Edit {
    Edit::SetKeyField { owner, number, field: "send-lifetime", value: value.to_owned() }
}

fn remove(owner: KeyOwner, number: u32) -> Edit {
    Edit::RemoveKey { owner, number }
}

/// A chain `c` with keys 1 and 2, and a neighbour 192.0.2.1 with key 0 and keys 1 and 2, in every shape.
const SHAPES: [&str; 9] = [
    "# Lines.\nkey-chain.c.key.1 = { password = \"c-secret-1\" } # one\nkey-chain.c.key.2.password = \"c-secret-2\"\n\
     neighbor.\"192.0.2.1\".password = \"n-secret-0\"\nneighbor.\"192.0.2.1\".key.1.password = \"n-secret-1\" # two\n\
     neighbor.\"192.0.2.1\".key.2 = { password = \"n-secret-2\" }\n",
    "# Headers.\n\n[key-chain.c]\n  key.1 = { password = \"c-secret-1\" } # one\n  # between\n  key.2.password = \"c-secret-2\"\n\
     \n[neighbor.\"192.0.2.1\"] # two\npassword = \"n-secret-0\"\nkey.1.password = \"n-secret-1\"\nkey.2 = { password = \"n-secret-2\" }\n\
     # three\n[defaults]\nport = 180\n",
    "# Deep headers.\n[key-chain.c.key.1]\npassword = \"c-secret-1\" # one\n[key-chain.c.key.2]\n# two\npassword = \"c-secret-2\"\n\
     [neighbor.\"192.0.2.1\"]\npassword = \"n-secret-0\"\n[neighbor.\"192.0.2.1\".key.1]\npassword = \"n-secret-1\"\n\
     [neighbor.\"192.0.2.1\".key.2]\npassword = \"\"\"n-secret-2\"\"\" # three",
    "# Headers of tables of tables.\n[key-chain]\nc = { key.1.password = \"c-secret-1\", key.2 = { password = \"c-secret-2\" } }\n\
     [neighbor]\n\"192.0.2.1\" = { password = \"n-secret-0\", key.1 = { password = \"n-secret-1\" }, key.2.password = \"n-secret-2\" } # one\n",
    "# Inline altogether.\nkey-chain = { c = { key = { 1 = { password = \"c-secret-1\" }, 2.password = \"c-secret-2\" } } }\n\
     neighbor = { \"192.0.2.1\" = { password = \"n-secret-0\", key = { 1.password = \"n-secret-1\", 2 = { password = \"n-secret-2\" } } } } # one\n",
    "# Inline at the end of dots.\nkey-chain.c.key = { 1 = { password = \"c-secret-1\" }, 2 = { password = \"c-secret-2\" } } # one\n\
     neighbor = { \"192.0.2.1\".password = \"n-secret-0\", \"192.0.2.1\".key.1.password = \"n-secret-1\", \"192.0.2.1\".key.2.password = \"n-secret-2\" }\n",
    "# Headers of keys.\n[key-chain.c.key]\n1 = { password = \"c-secret-1\" } # one\n2 = { password = 'c-secret-2' }\n\
     [neighbor.\"192.0.2.1\"]\npassword = \"n-secret-0\"\n[neighbor.\"192.0.2.1\".key]\n1.password = \"n-secret-1\"\n2 = { password = \"n-secret-2\" }",
    "# With CR LF.\r\n[key-chain.c]\r\nkey.1 = { password = \"c-secret-1\" }\r\nkey.2 = { password = \"c-secret-2\" } # one\r\n\
     [neighbor.\"192.0.2.1\"]\r\npassword = \"n-secret-0\" # two\r\nkey.1.password = \"n-secret-1\"\r\nkey.2.password = \"n-secret-2\"\r\n",
    "# Over lines.\n[key-chain.c]\nkey = {\n  1 = { password = \"c-secret-1\" }, # one\n  2 = {\n    password = \"c-secret-2\", # two\n  },\n}\n\
     [ neighbor . '192.0.2.1' ]\npassword = '''n-secret-0'''\nkey.1 = { password = \"n-secret-1\", }\nkey.2 = { password = \"n-secret-2\" }\n",
];

/// What is behind `#` in a text, in its order.
fn comments(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_once('#')).map(|(_, comment)| comment.trim()).collect()
}

/// Secrets by numbers.
fn secrets(keys: &KeyChain) -> Vec<(u32, String)> {
    let secret =
        |key: &crate::keys::ChainKey| String::from_utf8(key.mkt.master_key.octets().to_vec()).unwrap();
    keys.keys.iter().map(|key| (key.number, secret(key))).collect()
}

/// The secrets of the chain `c` and of the neighbour 192.0.2.1.
fn all_secrets(config: &Config) -> [Vec<(u32, String)>; 2] {
    let neighbor = config.neighbor("192.0.2.1").unwrap();
    let chain = config.key_chains.iter().find(|chain| chain.name.as_deref() == Some("c")).unwrap();
    [secrets(chain), secrets(&neighbor.keys)]
}

fn before() -> [Vec<(u32, String)>; 2] {
    let named = |of: &str, number: u32| (number, format!("{of}-secret-{number}"));
    [vec![named("c", 1), named("c", 2)], vec![named("n", 0), named("n", 1), named("n", 2)]]
}

/// Every shape after `edits`: `change` says what is other than before. Comments are all there.
#[track_caller]
fn in_every_shape(edits: impl Fn() -> Vec<Edit>, change: impl Fn(&mut [Vec<(u32, String)>; 2])) {
    for shape in SHAPES {
        assert_eq!(all_secrets(&good(shape)), before(), "{shape}");
        let config = edited(shape, &edits()).unwrap_or_else(|error| panic!("{error}\n{shape}"));
        let text = config.text.running.as_str();
        let mut expected = before();
        change(&mut expected);
        assert_eq!(all_secrets(&config), expected, "{shape}\n---\n{text}");
        assert!(good(text).neighbors == config.neighbors, "{text}");
        assert_eq!(text.contains("\r\n"), shape.contains("\r\n"), "{text}");
    }
}

#[test]
fn a_key_is_added_in_every_shape() {
    for number in [3, 77, 4_000_000_000] {
        for owner in [chain(), neighbor("192.0.2.1")] {
            let index = usize::from(owner != chain());
            in_every_shape(
                || vec![set(owner.clone(), number, "password = \"new-secret\"\nkey-id = 9\n")],
                |secrets| secrets[index].push((number, "new-secret".to_owned())),
            );
        }
    }
}

#[test]
fn a_key_is_replaced_in_every_shape() {
    for number in [1, 2] {
        in_every_shape(
            || vec![set(chain(), number, "key-hex = \"616263646566\"")],
            |secrets| secrets[0][number as usize - 1].1 = "abcdef".to_owned(),
        );
    }
    for number in [0, 1, 2] {
        in_every_shape(
            || vec![set(neighbor("192.0.2.1"), number, "key-hex = \"616263646566\"")],
            |secrets| secrets[1][number as usize].1 = "abcdef".to_owned(),
        );
    }
}

#[test]
fn the_only_key_is_replaced_in_every_shape() {
    for number in [0, 1, 2] {
        let others = [0, 1, 2].into_iter().filter(|other| *other != number);
        let edits = || {
            let others = others.clone().map(|other| remove(neighbor("192.0.2.1"), other));
            others.chain([set(neighbor("192.0.2.1"), number, "password = \"new-secret\"")]).collect()
        };
        in_every_shape(edits, |secrets| secrets[1] = vec![(number, "new-secret".to_owned())]);
    }
    for number in [1, 2] {
        in_every_shape(
            || vec![remove(chain(), 3 - number), set(chain(), number, "password = \"new-secret\"")],
            |secrets| secrets[0] = vec![(number, "new-secret".to_owned())],
        );
    }
}

#[test]
fn a_key_is_removed_in_every_shape() {
    for number in [1, 2] {
        in_every_shape(
            || vec![remove(chain(), number)],
            |secrets| secrets[0].retain(|(other, _)| *other != number),
        );
    }
    for number in [0, 1, 2] {
        in_every_shape(
            || vec![remove(neighbor("192.0.2.1"), number)],
            |secrets| secrets[1].retain(|(other, _)| *other != number),
        );
        // Nor is anything of it left.
        for shape in SHAPES {
            let text = text_after(shape, remove(neighbor("192.0.2.1"), number));
            assert!(!text.contains(&format!("n-secret-{number}")), "{text}");
        }
    }
    in_every_shape(
        || [0, 1].map(|number| remove(neighbor("192.0.2.1"), number)).into(),
        |secrets| drop(secrets[1].drain(..2)),
    );
    in_every_shape(
        || [2, 1].map(|number| remove(neighbor("192.0.2.1"), number)).into(),
        |secrets| secrets[1].truncate(1),
    );
}

#[test]
fn a_lifetime_is_set_in_every_shape_and_set_again() {
    for (owner, number) in [
        (chain(), 1),
        (chain(), 2),
        (neighbor("192.0.2.1"), 0),
        (neighbor("192.0.2.1"), 1),
        (neighbor("192.0.2.1"), 2),
    ] {
        for lifetimes in [&["2026-12-01T00:00:00Z/"][..], &["never", "/2027-03-01T00:00:00Z"]] {
            for shape in SHAPES {
                let edits: Vec<_> =
                    lifetimes.iter().map(|lifetime| set_send(owner.clone(), number, lifetime)).collect();
                let config = edited(shape, &edits).unwrap_or_else(|error| panic!("{error}\n{shape}"));
                assert_eq!(all_secrets(&config), before());
                let neighbor = config.neighbor("192.0.2.1").unwrap();
                let keys = if owner == chain() { &config.key_chains[0] } else { &neighbor.keys };
                for key in &keys.keys {
                    let expected = if key.number == number { lifetimes.last().unwrap() } else { "always" };
                    assert_eq!(key.send.to_string(), expected, "{}", config.text.running.as_str());
                }
                assert_eq!(comments(&config.text.running), comments(shape));
            }
        }
    }
}

#[test]
fn comments_and_order_survive() {
    for shape in SHAPES {
        for edit in [
            set(chain(), 3, "password = \"new-secret\""),
            set(neighbor("192.0.2.1"), 3, "password = \"new-secret\""),
            set_send(chain(), 1, "never"),
            add("192.0.2.9", "password = \"new-secret\""),
        ] {
            let text = text_after(shape, edit);
            assert_eq!(comments(&text), comments(shape));
            // Nothing but what was added is new: what was there is there in its order.
            let mut rest = text.as_str();
            for word in shape.split_whitespace().filter(|word| !matches!(*word, "{" | "}" | "},")) {
                let word = word.trim_end_matches([',', '}']);
                let at = rest.find(word).unwrap_or_else(|| panic!("{word} is lost or moved\n{text}"));
                rest = &rest[at + word.len()..];
            }
        }
    }
}

#[test]
fn a_file_as_operators_write_it_looks_as_they_would_edit_it() {
    let text = "# Ours\n[key-chain.backbone]\n# The first\nkey.1 = { password = \"c-secret-1\" }\n\n[neighbor.\"192.0.2.1\"]\nkey-chain = \"backbone\"\n";
    let owner = || KeyOwner::Chain("backbone".to_owned());
    let added = text_after(text, set(owner(), 2, "password = \"c-secret-2\"\nsend-lifetime = \"never\"\n"));
    let second = "key.2 = { password = \"c-secret-2\", send-lifetime = \"never\" }\n";
    assert_eq!(added, text.replace("\n\n", &format!("\n{second}\n")));
    let rolled = text_after(&added, set_send(owner(), 2, "2026-12-01T00:00:00Z/"));
    assert_eq!(rolled, added.replace("never", "2026-12-01T00:00:00Z/"));
    let retired = text_after(&rolled, remove(owner(), 1));
    assert_eq!(retired, rolled.replace("key.1 = { password = \"c-secret-1\" }\n", ""));
    let more = text_after(&retired, add("2001:db8::1", "password = \"n-secret\"\nport = 1790\n"));
    assert_eq!(
        more,
        retired.clone() + "\n[neighbor.\"2001:db8::1\"]\npassword = \"n-secret\"\nport = 1790\n"
    );
    assert_eq!(text_after(&more, Edit::RemoveNeighbor { peer: peer("2001:db8::1") }), retired + "\n");
}

#[test]
fn a_neighbour_is_added_and_removed_in_every_shape() {
    for shape in SHAPES {
        let mut config =
            edited(shape, &[add("192.0.2.0/24", "algorithm = \"aes-128-cmac-96\"\nkey.1 = { password = \"new-secret\" }\n[key.2]\npassword = \"new-secret\"")])
                .unwrap_or_else(|error| panic!("{error}\n{shape}"));
        assert_eq!(peers(&config), ["192.0.2.0/24", "192.0.2.1"]);
        let added = config.neighbor("192.0.2.0/24").unwrap();
        assert_eq!(added.keys.keys.iter().map(|key| key.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(added.keys.first().algorithm, Algorithm::Aes128Cmac96);
        assert_eq!(all_secrets(&config), before());
        for gone in ["192.0.2.1", "192.0.2.0/24"] {
            config.apply(&[Edit::RemoveNeighbor { peer: peer(gone) }], Path::new("/")).unwrap();
        }
        assert_eq!(peers(&config), [""; 0]);
        assert!(!config.text.running.contains("n-secret"), "{}", config.text.running.as_str());
        assert!(config.text.running.contains("c-secret-1"));
    }
}

#[test]
fn a_neighbour_is_found_however_it_is_written() {
    let text = "[neighbor.\"2001:DB8:0::1\"]\npassword = \"n-secret-0\"\ninterface = \"eth1\"\n";
    let owner = || KeyOwner::Neighbor(peer("2001:db8::1%eth1"));
    let changed = text_after(text, set(owner(), 1, "password = \"new-secret\""));
    assert_eq!(changed, format!("{text}key.1 = {{ password = \"new-secret\" }}\n"));
    let inherits = format!("defaults.interface = \"eth1\"\n{}", text.replace("interface = \"eth1\"\n", ""));
    text_after(&inherits, Edit::RemoveNeighbor { peer: peer("2001:db8::1%eth1") });
    assert!(good(text).neighbor("2001:DB8::1%eth1").is_some());
    assert!(good(text).neighbor("2001:DB8::1").is_none());
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let shape = SHAPES[1];
    let no_chain = KeyOwner::Chain("d".to_owned());
    for (edit, expected) in [
        (
            add("192.0.2.1/32", "password = \"new-secret\""),
            "neighbor \"192.0.2.1\" is configured already; remove it first",
        ),
        (
            add("192.0.2.1%eth0", "password = \"new-secret\""),
            "neighbor \"192.0.2.1%eth0\": neighbor \"192.0.2.1\" is the same address, and only one of them has an \
             interface; bind both, to interfaces that differ, or keep one",
        ),
        (
            add("router1", "password = \"new-secret\""),
            "neighbor: not an IP address or prefix; write it as 192.0.2.1, 192.0.2.0/24 or 2001:db8::1 (names are not \
             looked up)",
        ),
        (
            add("192.0.2.2", "password = v61ne0qkel33&"),
            "not TOML: string values must be quoted, expected literal string; correct this line, with text in quotes: \
             field = \"text\"",
        ),
        (
            add("192.0.2.2", "pasword = \"v61ne0qkel33&\""),
            "neighbor \"192.0.2.2\": unknown field; did you mean \"password\"?",
        ),
        (
            Edit::RemoveNeighbor { peer: peer("192.0.2.2") },
            "neighbor \"192.0.2.2\" is not configured; `tcpauth key show` lists what is",
        ),
        (
            set(no_chain.clone(), 1, "password = \"new-secret\""),
            "key-chain \"d\" is not configured; `tcpauth key show` lists what is",
        ),
        (
            set(chain(), 3, "send-id = 3"),
            "key-chain \"c\" key.3: no secret; give password, password-file, key-hex or key-base64 in this key",
        ),
        (
            set_send(chain(), 3, "never"),
            "key-chain \"c\" has no key 3; `tcpauth key show` lists those it has",
        ),
        (
            set_send(chain(), 1, "soon"),
            "key-chain \"c\" key.1: send-lifetime: not a lifetime; write \"2026-12-01T00:00:00Z/2027-03-01T00:00:00Z\" \
             with START/END, a side left empty if it is open, or \"always\", \"never\" or \"preferred\"",
        ),
        (remove(chain(), 0), "key-chain \"c\" has no key 0; `tcpauth key show` lists those it has"),
        (
            remove(neighbor("192.0.2.1"), 3),
            "neighbor \"192.0.2.1\" has no key 3; `tcpauth key show` lists those it has",
        ),
    ] {
        let mut config = good(shape);
        // Also where others of the same request could be made.
        let edits = [set_send(chain(), 2, "never"), edit];
        assert_eq!(config.apply(&edits, Path::new("/")).unwrap_err().to_string(), expected);
        assert!(config == good(shape), "changed");
    }
}

#[test]
fn the_last_key_stays() {
    let only = "is the only one of";
    let rest = "add another one first, or remove the neighbour";
    let text = "neighbor.\"192.0.2.1\".password = \"n-secret-0\"";
    assert_eq!(
        refused(text, remove(neighbor("192.0.2.1"), 0)),
        format!("key 0 {only} neighbor \"192.0.2.1\"; {rest}")
    );
    let text = "key-chain.c.key.1.password = \"c-secret-1\"";
    assert_eq!(refused(text, remove(chain(), 1)), format!("key 1 {only} key-chain \"c\"; {rest}"));
}

#[test]
fn a_neighbour_that_inherits_its_keys_gets_none_of_its_own_by_the_way() {
    let kept = "neighbor \"192.0.2.1\" has its keys from [defaults], and one of its own would replace them; give it a \
                secret or a key-chain of its own in the configuration first";
    for defaults in ["password = \"n-secret-0\"", "key-chain = \"c\""] {
        let text = format!(
            "key-chain.c.key.1.password = \"c-secret-1\"\n[defaults]\n{defaults}\n[neighbor]\n\"192.0.2.1\" = {{}}\n"
        );
        for number in [0, 1] {
            assert_eq!(refused(&text, set(neighbor("192.0.2.1"), number, "password = \"new-secret\"")), kept);
        }
    }
    // The lifetime of an inherited secret may be its own.
    let text = "defaults.password = \"n-secret-0\"\n[neighbor]\n\"192.0.2.1\" = {}\n\"192.0.2.2\" = {}\n";
    let config = edited(text, &[set_send(neighbor("192.0.2.1"), 0, "never")]).unwrap();
    let sent: Vec<String> =
        config.neighbors.iter().map(|neighbor| neighbor.keys.keys[0].send.to_string()).collect();
    assert_eq!(sent, ["never", "always"]);
}

#[test]
fn all_neighbours_of_a_chain_get_its_new_key() {
    let text = "key-chain.c.key.1.password = \"c-secret-1\"\n[neighbor]\n\"192.0.2.1\" = { key-chain = \"c\" }\n\
                \"192.0.2.2\" = { key-chain = \"c\", algorithm = \"aes-128-cmac-96\" }\n";
    assert_eq!(good(text).neighbors[0].key_owner(), chain());
    let config = edited(text, &[set(chain(), 2, "password = \"new-secret\"")]).unwrap();
    for neighbor in &config.neighbors {
        assert_eq!(neighbor.keys.keys.len(), 2);
    }
}

#[test]
fn a_thousand_lifetimes_are_set_at_once() {
    let mut text = "[neighbor]\n".to_owned();
    for n in 0..1000 {
        text += &format!(
            "\"10.0.{}.{}\" = {{ password = \"n-secret-0\", key.1 = {{ password = \"n-secret-1\" }} }}\n",
            n >> 8,
            n & 255
        );
    }
    let mut config = good(&text);
    let edits: Vec<Edit> = (config.neighbors.iter())
        .flat_map(|neighbor| {
            [(0, "/2026-12-01T00:00:00Z"), (1, "2026-12-01T00:00:00Z/")]
                .map(|(number, lifetime)| set_send(neighbor.key_owner(), number, lifetime))
        })
        .collect();
    config.apply(&edits, Path::new("/")).unwrap_or_else(|error| panic!("{error}"));
    for neighbor in &config.neighbors {
        let sent: Vec<String> = neighbor.keys.keys.iter().map(|key| key.send.to_string()).collect();
        assert_eq!(sent, ["/2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z/"]);
    }
}

proptest! {
    #[test]
    fn any_sequence_of_edits_in_any_shape_does_what_it_says(
        shape in prop::sample::select(&SHAPES[..]),
        steps in prop::collection::vec((0..4u8, any::<bool>(), 0..5u32), 0..12),
    ) {
        let mut config = good(shape);
        let mut expected = before();
        for (index, (what, of_chain, number)) in steps.into_iter().enumerate() {
            let owner = if of_chain { chain() } else { neighbor("192.0.2.1") };
            let keys = &mut expected[usize::from(!of_chain)];
            let position = keys.iter().position(|(other, _)| *other == number);
            let (edit, is_good) = match what {
                0 | 1 => {
                    let secret = format!("secret-{index}");
                    keys.retain(|(other, _)| *other != number);
                    keys.push((number, secret.clone()));
                    keys.sort();
                    (set(owner, number, &format!("password = \"{secret}\"")), true)
                }
                2 => (set_send(owner, number, "2026-12-01T00:00:00Z/"), position.is_some()),
                _ => {
                    let is_good = position.is_some() && keys.len() > 1;
                    if is_good {
                        keys.retain(|(other, _)| *other != number);
                    }
                    (remove(owner, number), is_good)
                }
            };
            let result = config.apply(&[edit], Path::new("/"));
            prop_assert_eq!(result.is_ok(), is_good, "{:?}\n{}", result.err(), config.text.running.as_str());
            prop_assert_eq!(all_secrets(&config), expected.clone(), "{}", config.text.running.as_str());
        }
    }
}

#[test]
fn a_table_tls_comes_goes_and_stays_with_its_neighbour() {
    let toml = [
        "password = \"n-secret-00\"\nkey-management = \"external\"\n\n[tls]\nidentity = \"router 1\"\n",
        "password = \"n-secret-00\"\nkey-management = \"external\"\ntls.identity = \"router 1\"\n",
        "password = \"n-secret-00\"\nkey-management = \"external\"\ntls = { identity = \"router 1\" }\n",
    ];
    for before in ["# one\n[neighbor]\n\"192.0.2.9\" = { password = \"n-secret-99\" }\n", "neighbor = {}\n"] {
        for toml in toml {
            let added = text_after(before, add("192.0.2.1", toml));
            let config = good(&added);
            let kmp = config.neighbor("192.0.2.1").and_then(|neighbor| neighbor.kmp.clone()).expect("kmp");
            let Authentication::Psk { identity, .. } = &kmp.tls.authentication else { panic!("{added}") };
            assert_eq!(identity.as_deref(), Some("router 1"), "{added}");
            let removed = text_after(&added, Edit::RemoveNeighbor { peer: peer("192.0.2.1") });
            assert!(!removed.contains("router 1"), "{removed}");
        }
    }
    let tables = [
        "[neighbor.\"192.0.2.1\"]\nkey-management = \"external\"\npassword = \"n-secret-00\"\n\
         [neighbor.\"192.0.2.1\".tls] # one\nidentity = \"router 1\"\n",
        "[neighbor.\"192.0.2.1\".tls] # one\nidentity = \"router 1\"\n[neighbor.\"192.0.2.1\"]\n\
         password = \"n-secret-00\"\nkey-management = \"external\"\n",
        "neighbor.\"192.0.2.1\".key.0.password = \"n-secret-00\"\nneighbor.\"192.0.2.1\".tls.identity = \"router 1\" # one\n\
         neighbor.\"192.0.2.1\".key-management = \"layered\"",
        "neighbor = { \"192.0.2.1\" = { tls.identity = \"router 1\", key-management = \"layered\", password = \"n-secret-00\" } } # one\n",
    ];
    for text in tables {
        assert_eq!(comments(text), ["one"]);
        let owner = || neighbor("192.0.2.1");
        let edits = || {
            [
                set(owner(), 2, "password = \"n-secret-22\""),
                set_send(owner(), 0, "never"),
                set(owner(), 2, "password = \"n-secret-23\""),
                set(owner(), 0, "password = \"n-secret-01\""),
                remove(owner(), 2),
            ]
        };
        for count in 1..=edits().len() {
            let config = edited(text, &edits()[..count]).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let kmp = config.neighbors[0].kmp.clone().expect("kmp");
            let Authentication::Psk { identity, .. } = &kmp.tls.authentication else { panic!("{text}") };
            assert_eq!(identity.as_deref(), Some("router 1"));
            assert_eq!(comments(&config.text.running), ["one"], "{}", config.text.running.as_str());
        }
    }
}

#[test]
fn comments_in_a_table_of_several_lines_are_no_part_of_its_entries() {
    for text in [
        "[key-chain.c]\nkey = { 1 = { password = \"c-secret-1\" } # was, 3 = { password = \"c-secret-3\" }\n, 2 = { password = \"c-secret-2\" } }\n",
        "[key-chain.c]\nkey = { # first, of all\n 1 = { password = \"c-secret-1\" }, # one, two\n 2 = { password = \"c-secret-2\" }, # three\n }\n",
        "[key-chain.c]\nkey = {\n 1 = { password = \"c-secret-1\" }, # one, }\n 2 = { password = \"c-secret-2\" } # last, {\n }\n",
    ] {
        for number in [1, 2] {
            let after = text_after(text, remove(chain(), number));
            let left: Vec<u32> = good(&after).key_chains[0].keys.iter().map(|key| key.number).collect();
            assert_eq!(left, [3 - number], "{after}");
        }
        let after = text_after(text, set(chain(), 3, "password = \"c-secret-3\""));
        assert_eq!(good(&after).key_chains[0].keys.len(), 3, "{after}");
        text_after(text, set_send(chain(), 1, "2026-12-01T00:00:00Z/"));
    }
}
