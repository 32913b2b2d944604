//! Arbitrary octets in the place of TCP options: host code and the programs have the same opinion of each.

use std::{cell::RefCell, net::IpAddr};

use proptest::{prelude::*, test_runner::TestRunner};
use tcpauth::keys::segment::{is_same_mac, parse_option, segment_mac};
use tcpauth_common::{
    DropReason,
    layout::Session,
    option::{Header, OptionWalk, kind},
};

use super::{
    connection::{ACK, Connection, LOCAL_ISN, PEER_ISN, SYN},
    context::Verdict,
    lab::Lab,
    segment::{Segment, tcp_sum},
};

const CASES: u32 = 4000;

/// Octets of options: noise, and pieces of what stacks send, TCP-AO among them.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..9);
    let some_kind = prop::sample::select(vec![0u8, 1, 2, 3, 4, 5, 8, 19, 29, 30, 34, 254]);
    let lying = (some_kind.clone(), any::<u8>()).prop_map(|(kind, len)| vec![kind, len % 24]);
    let whole = (some_kind, 0usize..18).prop_map(|(kind, len)| {
        let len = match kind {
            kind::END | kind::NOP => return vec![kind],
            kind::MSS => 4,
            kind::WINDOW_SCALE => 3,
            kind::SACK => 2 + 8 * (len % 4 + 1),
            8 => 10,
            kind::MD5 => 18,
            _ => 2 + len,
        };
        let mut option = vec![0x55; len];
        option[..2].copy_from_slice(&[kind, len as u8]);
        option
    });
    let ao = (84u8..86, 14u8..19).prop_map(|(id, len)| {
        let mut option = vec![29, len, id, 61];
        option.resize(len.into(), 0);
        option
    });
    let right_ao = Just([&[29, 16, 84, 61][..], &[0; 12]].concat());
    let sound = (prop::collection::vec(whole.clone(), 0..3), right_ao.clone()).prop_map(|(before, ao)| {
        let before = before.concat();
        [vec![kind::NOP; (4 - before.len() % 4) % 4], before, ao].concat()
    });
    let piece = prop_oneof![2 => noise, 1 => lying, 4 => whole, 1 => ao, 3 => right_ao];
    let pieces = prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    let any = prop::collection::vec(any::<u8>(), 0..=40);
    // Any length to 40: what is short of a whole word lies in the data.
    prop_oneof![2 => pieces, 2 => any, 1 => sound].prop_map(|mut options| {
        options.truncate(40);
        options
    })
}

/// A TCP header whose options and what follows are `octets`, with a data offset that mostly covers them.
fn tcp(connection: &Connection, octets: &[u8], offset: Option<u8>, is_inbound: bool) -> Vec<u8> {
    let segment = match is_inbound {
        true => connection.inbound(ACK, PEER_ISN + 1),
        false => connection.outbound(ACK, LOCAL_ISN + 1),
    };
    let mut tcp = segment.tcp();
    tcp.extend(octets);
    tcp[12] = offset.unwrap_or((5 + octets.len() / 4) as u8) << 4;
    tcp
}

fn frame(connection: &Connection, mut tcp: Vec<u8>, is_inbound: bool) -> Vec<u8> {
    let (source, destination) = ends(connection, is_inbound);
    tcp[16..18].fill(0);
    let checksum = !tcp_sum(source, destination, &tcp);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let shell = if is_inbound { connection.inbound(ACK, 0) } else { connection.outbound(ACK, 0) };
    // As data, so that the builder sets the lengths; then the empty header in front of it goes.
    let mut frame = Segment { data: tcp[20.min(tcp.len())..].to_vec(), ..shell }.frame();
    frame[34..].copy_from_slice(&tcp);
    frame
}

fn ends(connection: &Connection, is_inbound: bool) -> (IpAddr, IpAddr) {
    let (local, peer) = (connection.local.ip(), connection.peer.ip());
    if is_inbound { (peer, local) } else { (local, peer) }
}

/// What host code thinks of a segment that arrives.
fn opinion(connection: &Connection, session: &Session, tcp: &[u8]) -> Result<(), DropReason> {
    let option = parse_option(tcp).map_err(|error| error.drop_reason())?;
    if option.key_id != connection.mkt.recv_id {
        return Err(DropReason::UnknownKeyId);
    }
    if option.option_len() != connection.mkt.algorithm.option_len() {
        return Err(DropReason::WrongLength);
    }
    let mac = mac(connection, session, tcp);
    let is_right = is_same_mac(connection.mkt.algorithm, &mac, &tcp[option.mac]);
    if is_right { Ok(()) } else { Err(DropReason::WrongMac) }
}

fn mac(connection: &Connection, session: &Session, tcp: &[u8]) -> [u8; 16] {
    let (source, destination) = ends(connection, true);
    let key = &session.slots[0].recv;
    segment_mac(key, connection.mkt.algorithm, false, 0, source, destination, tcp).unwrap()
}

#[test]
fn host_and_ingress_agree_on_any_options() {
    let connection = Connection::plain();
    let session = connection.session();
    let lab = RefCell::new(Lab::with(&connection, Some(&session)));
    let offset = prop_oneof![6 => Just(None), 1 => (0u8..16).prop_map(Some)];
    let verified = RefCell::new(0);
    run(&(options(), offset, any::<bool>()), |(octets, offset, is_signed)| {
        let mut tcp = tcp(&connection, &octets, offset, true);
        if is_signed && let Ok(option) = parse_option(&tcp) {
            let mac = mac(&connection, &session, &tcp);
            let len = option.mac.len().min(16);
            tcp[option.mac.start..option.mac.start + len].copy_from_slice(&mac[..len]);
        }
        let mut lab = lab.borrow_mut();
        lab.put(&connection, &session);
        lab.refill(connection.neighbor);
        let frame = frame(&connection, tcp.clone(), true);
        let (verdict, _) = lab.ingress(&frame);
        let found = match (verdict, lab.take_dropped()) {
            (Verdict::Pass, None) => Ok(()),
            (Verdict::Drop, Some(dropped)) => Err(DropReason::from_number(dropped.reason).unwrap()),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(found, opinion(&connection, &session, &tcp));
        *verified.borrow_mut() += u32::from(found.is_ok());
        Ok(())
    });
    let verified = verified.into_inner();
    assert!(verified > CASES / 50, "only {verified} of {CASES} verified");
}

#[test]
fn what_seal_makes_of_any_options_verifies_or_does_not_leave() {
    let connection = Connection::plain();
    let session = connection.session();
    let lab = RefCell::new(Lab::with(&connection, Some(&session)));
    let sealed = RefCell::new(0);
    run(&(options(), any::<bool>()), |(octets, is_syn)| {
        let mut tcp = tcp(&connection, &octets, None, false);
        if is_syn {
            tcp[4..8].copy_from_slice(&LOCAL_ISN.to_be_bytes());
            tcp[13] = SYN;
        }
        let header = Header::of_segment(&tcp).unwrap();
        let walk = OptionWalk::run(&header);
        let wanted = if walk.malformed != 0 {
            Err(DropReason::Malformed)
        } else if walk.authentications != 0 {
            Err(DropReason::OptionTwice)
        } else if walk.kept - walk.dispensable > 40 - 16 {
            Err(DropReason::Malformed) // No room.
        } else {
            Ok(())
        };
        let mut lab = lab.borrow_mut();
        lab.put(&connection, &session);
        lab.refill(connection.neighbor);
        let frame = frame(&connection, tcp.clone(), false);
        let (verdict, out) = lab.seal(&frame);
        let found = match (verdict, lab.take_dropped()) {
            (Verdict::Redirect, None) => Ok(()),
            (Verdict::Drop, Some(dropped)) => Err(DropReason::from_number(dropped.reason).unwrap()),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(found, wanted);
        if found.is_ok() {
            let segment = Segment::of_frame(&out);
            let key = if is_syn { &session.syn_send.material } else { &session.slots[0].send };
            prop_assert!(connection.accepts(key, &segment, 0));
            prop_assert_eq!(&segment.data, &tcp[header.len_by_offset() as usize..]);
            let one_block = if walk.has_sack != 0 { 10 } else { 0 };
            let has_room = walk.kept + one_block + 16 <= 40;
            let mut wanted = lasting(&tcp[20..header.len_by_offset() as usize], has_room);
            if is_syn && let Some(mss) = wanted.iter_mut().rfind(|option| option[..2] == [kind::MSS, 4]) {
                let lowered = u16::from_be_bytes([mss[2], mss[3]]).min(15_360);
                mss[2..].copy_from_slice(&lowered.to_be_bytes());
            }
            prop_assert_eq!(lasting(&segment.options, has_room), wanted);
            *sealed.borrow_mut() += 1;
        }
        Ok(())
    });
    let sealed = sealed.into_inner();
    assert!(sealed > CASES / 10, "only {sealed} of {CASES} sealed");
}

/// Returns the options that no rewriting may take away; those that a connection works without only if there `has_room`.
fn lasting(mut options: &[u8], has_room: bool) -> Vec<Vec<u8>> {
    const UNWANTED: [u8; 5] = [kind::AO, kind::SACK, kind::MPTCP, kind::FAST_OPEN, kind::EXPERIMENTAL];
    const NEEDED: [u8; 4] = [kind::MSS, kind::WINDOW_SCALE, kind::SACK_PERMITTED, kind::TIMESTAMPS];
    let mut lasting = Vec::new();
    while let Some((&kind, rest)) = options.split_first() {
        if kind == kind::END {
            break;
        }
        if kind == kind::NOP {
            options = rest;
            continue;
        }
        let (option, rest) = options.split_at(usize::from(options[1]));
        if NEEDED.contains(&kind) || (has_room && !UNWANTED.contains(&kind)) {
            lasting.push(option.to_vec());
        }
        options = rest;
    }
    lasting
}

fn run<S: Strategy>(strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config).run(strategy, test).unwrap_or_else(|error| panic!("{error}"));
}
