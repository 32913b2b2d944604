use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use proptest::{prelude::*, sample::select};
use tcpauth_common::Isn;

use super::*;

/// Whatever the sender's version, in both ways that this one has to take.
const VERSIONS: [u16; 2] = [VERSION, VERSION + 1];

fn any_end(is_ipv4: bool) -> impl Strategy<Value = SocketAddr> {
    (any::<[u8; 16]>(), any::<u16>()).prop_map(move |(octets, port)| {
        let address = match is_ipv4 {
            true => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            false => IpAddr::from(Ipv6Addr::from(octets)).to_canonical(),
        };
        SocketAddr::new(address, port)
    })
}

fn any_connection() -> impl Strategy<Value = Connection> {
    any::<bool>()
        .prop_flat_map(|is_ipv4| (any_end(is_ipv4), any_end(is_ipv4), any::<u32>(), any::<Option<u32>>()))
        .prop_filter("both of one family", |(client, server, ..)| client.is_ipv4() == server.is_ipv4())
        .prop_map(|(client, server, client_isn, server_isn)| Connection {
            client,
            server,
            client_isn: Isn(client_isn),
            server_isn: server_isn.map(Isn),
        })
}

fn any_capabilities() -> impl Strategy<Value = Capabilities> {
    (
        1u16..,
        "[a-zß☃ ]{0,16}",
        prop::collection::vec("[!-~]{1,64}", 0..=32),
        prop::collection::vec(any::<u8>(), 0..=16),
        any::<u32>(),
    )
        .prop_map(|(version, software, algorithms, option_kinds, seconds)| Capabilities {
            version,
            software,
            algorithms,
            option_kinds,
            rekey_interval: Duration::from_secs(seconds.into()),
        })
}

pub fn any_message() -> impl Strategy<Value = Message> {
    let key_id = || (128u8..).prop_map(KeyId);
    let offer = (
        any::<u32>(),
        any_connection(),
        select(vec![Role::Client, Role::Server]),
        key_id(),
        select(vec![TcpOptions::Include, TcpOptions::Exclude]),
        any::<Nonce>(),
    );
    let accept = (any::<u32>(), key_id(), any::<Nonce>(), "[a-z0-9-]{0,64}", any::<Confirmation>());
    prop_oneof![
        any_capabilities().prop_map(Message::Capabilities),
        offer.prop_map(|(id, connection, role, recv_id, tcp_options, nonce)| {
            Message::Offer(Offer { id, connection, role, recv_id, tcp_options, nonce })
        }),
        accept.prop_map(|(id, recv_id, nonce, algorithm, confirmation)| {
            Message::Accept(Accept { id, recv_id, nonce, algorithm, confirmation })
        }),
        any::<(u32, Confirmation)>().prop_map(|(id, confirmation)| Message::Confirm { id, confirmation }),
        any::<u32>().prop_map(|id| Message::Done { id }),
        (any::<u32>(), select(&Refusal::ALL[..])).prop_map(|(id, reason)| Message::Refuse { id, reason }),
    ]
}

fn decode(octets: &[u8], version: u16) -> Result<Option<Message>, MessageError> {
    match Raw::split(octets)? {
        Some((raw, _)) => raw.decode(version),
        None => Ok(None),
    }
}

#[test]
fn messages_are_these_octets() {
    let capabilities = Capabilities {
        version: 1,
        software: "x".into(),
        algorithms: vec!["ab".into(), "c".into()],
        option_kinds: vec![29],
        rekey_interval: Duration::from_millis(3_600_999),
    };
    let offer = Offer {
        id: 7,
        connection: Connection {
            client: "192.0.2.1:40000".parse().unwrap(),
            server: "198.51.100.2:179".parse().unwrap(),
            client_isn: Isn(0x01020304),
            server_isn: Some(Isn(0x05060708)),
        },
        role: Role::Server,
        recv_id: KeyId(200),
        tcp_options: TcpOptions::Exclude,
        nonce: [0xaa; 16],
    };
    let accept = Accept {
        id: 7,
        recv_id: KeyId(128),
        nonce: [0xbb; 16],
        algorithm: "aes".into(),
        confirmation: [0xcc; 32],
    };
    let address = "00000000000000000000ffff";
    for (message, octets) in [
        (Message::Capabilities(capabilities), "01 0010 0001 0178 02 026162 0163 01 1d 00000e10".into()),
        (
            Message::Offer(offer),
            format!(
                "02 0044 00000007 {address}c0000201 9c40 {address}c6336402 00b3 01020304 01 05060708 01 c8 01 {}",
                "aa".repeat(16)
            ),
        ),
        (
            Message::Accept(accept),
            format!("03 0039 00000007 80 {} 03616573 {}", "bb".repeat(16), "cc".repeat(32)),
        ),
        (
            Message::Confirm { id: 7, confirmation: [0xdd; 32] },
            format!("04 0024 00000007 {}", "dd".repeat(32)),
        ),
        (Message::Done { id: 1 << 24 }, "05 0004 01000000".into()),
        (Message::Refuse { id: 7, reason: Refusal::Collision }, "06 0005 00000007 03".into()),
    ] {
        assert_eq!(hex::encode(message.encode().unwrap()), octets.replace(' ', ""), "{message:?}");
    }
}

#[test]
fn every_truncation_is_refused_or_waited_for() {
    for octets in
        ["01 0010 0001 0178 02 026162 0163 01 1d 00000e10", "05 0004 01000000", "06 0005 00000007 03"]
    {
        let octets = hex::decode(octets.replace(' ', "")).unwrap();
        for length in 0..octets.len() {
            assert_eq!(Raw::split(&octets[..length]), Ok(None), "the rest may come");
            if let Some(body) = length.checked_sub(3) {
                let mut short = octets[..length].to_vec();
                short[2] = body as u8;
                assert_eq!(decode(&short, VERSION), Err(MessageError::Truncated(octets[0])));
            }
        }
        let mut long = octets.clone();
        long.push(0);
        long[2] += 1;
        assert_eq!(decode(&long, VERSION), Err(MessageError::Trailing(octets[0])));
    }
}

#[test]
fn lengths_and_lists_are_bounded() {
    assert_eq!(Raw::split(&[1, 0x0f, 0xfd]), Ok(None));
    assert_eq!(Raw::split(&[1, 0x0f, 0xfe]), Err(MessageError::TooLong(4097)));
    let fine = Capabilities {
        version: 1,
        software: "x".repeat(64),
        algorithms: vec!["y".repeat(64); 32],
        option_kinds: vec![29; 16],
        rekey_interval: Duration::ZERO,
    };
    let encode = |capabilities: &Capabilities| Message::Capabilities(capabilities.clone()).encode();
    assert!(encode(&fine).is_ok());
    for wrong in [
        Capabilities { version: 0, ..fine.clone() },
        Capabilities { software: "x".repeat(65), ..fine.clone() },
        Capabilities { software: "a\x1b[2J".into(), ..fine.clone() },
        Capabilities { algorithms: vec!["y".into(); 33], ..fine.clone() },
        Capabilities { algorithms: vec!["y".repeat(65)], ..fine.clone() },
        Capabilities { algorithms: vec![String::new()], ..fine.clone() },
        Capabilities { algorithms: vec!["\u{202e}".into()], ..fine.clone() },
        Capabilities { option_kinds: vec![29; 17], ..fine.clone() },
    ] {
        assert!(matches!(encode(&wrong), Err(MessageError::Field(_))), "{wrong:?}");
    }
    // And of a peer that does not keep to it.
    for body in
        ["0000 00 00 00 00000000", "0001 021b5b 00 00 00000000", "0001 00 21", "0001 00 01 00 00 00000000"]
    {
        let body = hex::decode(body.replace(' ', "")).unwrap();
        let octets = [&[1, 0, body.len() as u8][..], &body].concat();
        assert!(matches!(decode(&octets, VERSION), Err(MessageError::Field(_))), "{body:02x?}");
    }
}

#[test]
fn fields_have_only_their_values() {
    let connection = Connection {
        client: "[2001:db8::1]:40000".parse().unwrap(),
        server: "[2001:db8::2]:179".parse().unwrap(),
        client_isn: Isn(1),
        server_isn: None,
    };
    let (role, tcp_options) = (Role::Client, TcpOptions::Include);
    let offer = Offer { id: 1, connection, role, recv_id: KeyId(128), tcp_options, nonce: [0; 16] };
    let octets = Message::Offer(offer.clone()).encode().unwrap();
    // The flag of an ISN; an ISN that is not there; role; KeyID; options; a server of IPv4.
    for (at, value) in [(47, 2), (51, 1), (52, 2), (53, 127), (54, 2)] {
        let mut wrong = octets.clone();
        wrong[at] = value;
        assert!(matches!(decode(&wrong, VERSION), Err(MessageError::Field(_))), "octet {at}");
    }
    let mut mixed = octets;
    mixed[25..37].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert!(matches!(decode(&mixed, VERSION), Err(MessageError::Field(_))));
    for reason in [0, 6] {
        assert_eq!(decode(&[6, 0, 5, 0, 0, 0, 1, reason], VERSION), Err(MessageError::Field("reason")));
    }
    let low = Message::Offer(Offer { recv_id: KeyId(127), ..offer });
    assert!(matches!(low.encode(), Err(MessageError::Field(_))));
}

#[test]
fn what_a_higher_version_adds_is_left_alone() {
    let unknown = [7, 0, 1, 0];
    assert_eq!(decode(&unknown, VERSION), Err(MessageError::UnknownType(7)));
    assert_eq!(decode(&unknown, VERSION + 1), Ok(None));
    let capabilities = |version, more: &[u8]| {
        let body = [&[0, version, 0, 0, 0, 0, 0, 0, 0][..], more].concat();
        decode(&[&[1, 0, body.len() as u8][..], &body].concat(), 0)
    };
    assert!(matches!(capabilities(2, b"more"), Ok(Some(Message::Capabilities(_)))));
    assert_eq!(capabilities(1, b"more"), Err(MessageError::Trailing(1)));
}

#[test]
fn the_accepters_order_decides_by_names_that_nobody_needs_to_know() {
    let with = |names: &[&str], option_kinds: &[u8]| Capabilities {
        algorithms: names.iter().map(|name| (*name).to_owned()).collect(),
        option_kinds: option_kinds.to_vec(),
        ..Capabilities::ours(&[], Duration::ZERO)
    };
    let accepter = with(&["tomorrow's", "hmac-sha-256-96", "hmac-sha-1-96"], &[29]);
    assert_eq!(
        accepter.best_common(&with(&["hmac-sha-1-96", "hmac-sha-256-96"], &[19, 29])),
        Some("hmac-sha-256-96")
    );
    assert_eq!(accepter.best_common(&with(&["hmac-sha-1-96", "tomorrow's"], &[29])), Some("tomorrow's"));
    assert_eq!(accepter.best_common(&with(&["md5"], &[29])), None);
    assert_eq!(accepter.best_common(&with(&["hmac-sha-1-96"], &[19])), None);
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(message in any_message(), more: Vec<u8>, version in select(&VERSIONS[..])) {
        let octets = message.encode().unwrap();
        prop_assert!(octets.len() <= MAX_LEN);
        let stream = [&octets[..], &more].concat();
        let (raw, after) = Raw::split(&stream).unwrap().unwrap();
        prop_assert_eq!((raw.octets, after), (&octets[..], &more[..]));
        prop_assert_eq!(raw.decode(version), Ok(Some(message)));
    }

    #[test]
    fn what_is_decoded_is_encoded_to_the_same_octets(
        message in any_message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        version in select(&VERSIONS[..]),
    ) {
        let mut octets = message.encode().unwrap();
        for (at, value) in changes {
            let at = at.index(octets.len());
            octets[at] = value;
        }
        octets.truncate(cut.map_or(octets.len(), |cut| cut.index(octets.len())));
        let Ok(Some((raw, _))) = Raw::split(&octets) else { return Ok(()) };
        match raw.decode(version) {
            // It may have more to tell than we can say again.
            Ok(Some(Message::Capabilities(told))) if told.version > VERSION => {}
            Ok(Some(message)) => prop_assert_eq!(message.encode().unwrap(), raw.octets),
            Ok(None) | Err(_) => {}
        }
    }

    #[test]
    fn any_octets_are_a_message_or_an_error(octets: Vec<u8>, kind in 0u8..8, version in select(&VERSIONS[..])) {
        let stream = [&[kind, 0, octets.len() as u8][..], &octets].concat();
        let _ = (decode(&stream, version), decode(&octets, version));
    }
}
