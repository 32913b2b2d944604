//! Handshakes of neighbours with several keys.

use tcpauth_common::{Kdf, rollover::NO_SLOT};

use super::plan::{Part, any_chain, at, key, neighbor_of, number_in, shown, with_keys};
use super::*;
use crate::{
    config::Wire,
    keys::{ChainKey, Lifetime, Mkt},
};

/// Key 1 and key 2, both valid; key 2 is the newer.
fn two_keys() -> Neighbor {
    with_keys(&[key(1, 0, 50), key(2, 10, 50)])
}

fn decide_at(
    second: i64,
    draft: &Draft,
    us: &Neighbor,
    existing: Option<&Session>,
    peer_uses: Option<u32>,
) -> Outcome {
    let (held, frame) = draft.hold();
    on_held(&held, &frame, us, existing, peer_uses, Now { wall: at(second), ..now() })
}

fn tuple(us: &Neighbor, number: u32) -> &Mkt {
    &us.keys.key(number).unwrap().mkt
}

/// A segment that the peer signs with this key, and in which it asks for another.
fn peers(draft: Draft, mkt: &Mkt, rnext_id: u8, key: KeyMaterial) -> Draft {
    let mut theirs = mirrored(mkt);
    theirs.recv_id.0 = rnext_id;
    draft.signed(&theirs, key)
}

fn syn_by(us: &Neighbor, number: u32, rnext_id: u8) -> Draft {
    let mkt = tuple(us, number);
    let key = mkt.syn_recv(&quartet(false), Isn(THEIRS)).material;
    peers(Draft::new(IN, SYN, THEIRS, 0), mkt, rnext_id, key)
}

fn syn_ack_by(us: &Neighbor, number: u32, rnext_id: u8) -> Draft {
    let mkt = tuple(us, number);
    let key = mkt.traffic_slot(&quartet(false), Isn(OURS), Isn(THEIRS), Role::Server).recv;
    peers(Draft::new(IN, SYN_ACK, THEIRS, OURS.wrapping_add(1)), mkt, rnext_id, key)
}

fn our_syn() -> Draft {
    Draft::new(OUT, SYN, OURS, 0)
}

fn our_syn_ack() -> Draft {
    Draft::new(OUT, SYN_ACK, OURS, THEIRS + 1)
}

/// What our SYN-ACK is sent with, and what the peer was heard to use, after its SYN.
fn answered(us: &Neighbor, second: i64, syn: &Draft) -> (Option<u32>, Option<u32>) {
    let received = installed(decide_at(second, syn, us, None, None));
    let session = installed(decide_at(second, &our_syn_ack(), us, Some(&received), None));
    (shown(&session, us).1, number_in(&session, us, session.rollover.received))
}

#[test]
fn our_syn_is_signed_with_the_key_that_the_peer_uses_and_asks_for_the_preferred_one() {
    let us = two_keys();
    let ids = |second, peer_uses| {
        let session = installed(decide_at(second, &our_syn(), &us, None, peer_uses));
        (session.syn_send.key_id.0, session.syn_send.rnext_id.0)
    };
    assert_eq!(ids(5, None), (1, 1));
    assert_eq!(ids(5, Some(2)), (1, 1), "the key that it used may not be sent now");
    assert_eq!(ids(10, None), (2, 2));
    assert_eq!(ids(10, Some(1)), (1, 2));
    assert_eq!(ids(10, Some(9)), (2, 2), "there is no such key");
}

#[test]
fn a_syn_is_answered_with_the_key_that_it_asks_for() {
    let us = two_keys();
    assert_eq!(answered(&us, 10, &syn_by(&us, 1, 2)), (Some(2), Some(1)));
    assert_eq!(answered(&us, 10, &syn_by(&us, 2, 1)), (Some(1), Some(2)));
    assert_eq!(answered(&us, 10, &syn_by(&us, 1, 77)), (Some(1), Some(1)), "there is no such key");
    let mut accepted = key(1, 0, 50);
    accepted.send = Lifetime { start: at(0), end: at(1) };
    let us = with_keys(&[accepted, key(2, 10, 50)]);
    assert_eq!(answered(&us, 10, &syn_by(&us, 1, 1)), (Some(2), Some(1)), "key 1 may not be sent any more");
}

#[test]
fn an_old_syn_played_again_does_not_choose_the_key_of_an_answer_to_another() {
    let us = two_keys();
    let first = installed(decide_at(10, &syn_by(&us, 2, 2), &us, None, None));
    let mkt = tuple(&us, 1);
    let key = mkt.syn_recv(&quartet(false), Isn(4000)).material;
    let old = peers(Draft::new(IN, SYN, 4000, 0), mkt, 1, key);
    let replayed = installed(decide_at(10, &old, &us, Some(&first), None));
    for (peer_uses, wanted) in [(None, 2), (Some(2), 2), (Some(1), 1)] {
        let session = installed(decide_at(10, &our_syn_ack(), &us, Some(&replayed), peer_uses));
        assert_eq!(shown(&session, &us).1, Some(wanted));
        assert_eq!(session.rollover.received, NO_SLOT, "what the peer uses is not known");
    }
}

#[test]
fn the_answer_to_our_syn_says_what_to_go_on_with() {
    let us = two_keys();
    let sent = installed(decide_at(10, &our_syn(), &us, None, Some(1)));
    let session = |number, rnext_id| {
        let answer = syn_ack_by(&us, number, rnext_id);
        let session = installed(decide_at(10, &answer, &us, Some(&sent), None));
        (shown(&session, &us), number_in(&session, &us, session.rollover.received))
    };
    assert_eq!(session(1, 1), ((vec![2, 1], Some(1), Some(2)), Some(1)));
    assert_eq!(session(2, 2), ((vec![2, 1], Some(2), Some(2)), Some(2)));
    assert_eq!(session(2, 77), ((vec![2, 1], Some(1), Some(2)), Some(2)), "there is no such key");
}

/// Keys 1 and 2 under the same ids.
fn alike() -> Neighbor {
    let mut new = key(2, 10, 50);
    (new.mkt.send_id.0, new.mkt.recv_id.0) = (1, 1);
    with_keys(&[key(1, 0, 50), new])
}

#[test]
fn keys_that_share_ids_are_tried() {
    let us = alike();
    for number in [1, 2] {
        let wanted = (Some(number), Some(number));
        assert_eq!(answered(&us, 10, &syn_by(&us, number, 1)), wanted);
        let sent = installed(decide_at(10, &our_syn(), &us, None, Some(1)));
        let session = installed(decide_at(10, &syn_ack_by(&us, number, 1), &us, Some(&sent), None));
        assert_eq!((shown(&session, &us).1, number_in(&session, &us, session.rollover.received)), wanted);
        let older = session.rollover.newest(1) as usize;
        let is_cut_off = session.rollover.cutoff[older] == u64::from(THEIRS);
        assert_eq!(is_cut_off, number == 2, "the older one ends where the newer one began");
    }
    let mut forged = syn_by(&us, 1, 1);
    forged.signature.as_mut().unwrap().1 = KeyMaterial { words: [7; 16] };
    assert_eq!(refused(decide_at(10, &forged, &us, None, None)), DropReason::WrongMac);
}

#[test]
fn a_key_outside_its_lifetime_verifies_nothing() {
    let us = two_keys();
    let refused_at = |second| refused(decide_at(second, &syn_by(&us, 2, 2), &us, None, None));
    assert_eq!(refused_at(9), DropReason::UnknownKeyId, "it has not begun");
    assert_eq!(refused_at(50), DropReason::NoKey, "none is left");
    assert_eq!(refused_at(-1), DropReason::NoKey, "none has begun");
    for existing in [None, Some(&syn_received())] {
        for draft in [our_syn(), our_syn_ack()] {
            assert_eq!(refused(decide_at(50, &draft, &us, existing, None)), DropReason::NoKey);
        }
    }
}

#[test]
fn each_algorithm_of_a_chain_has_its_length() {
    let mut long = key(2, 10, 50);
    (long.mkt.send_id.0, long.mkt.recv_id.0) = (1, 1);
    long.mkt.algorithm = Algorithm::HmacSha256_128;
    let us = with_keys(&[key(1, 0, 50), long]);
    for number in [1, 2] {
        assert_eq!(answered(&us, 10, &syn_by(&us, number, 1)), (Some(number), Some(number)));
    }
    let early = syn_by(&us, 2, 1);
    assert_eq!(refused(decide_at(5, &early, &us, None, None)), DropReason::WrongLength);
    for number in [1, 2] {
        let mut forged = syn_by(&us, number, 1);
        forged.signature.as_mut().unwrap().1 = KeyMaterial { words: [7; 16] };
        assert_eq!(refused(decide_at(10, &forged, &us, None, None)), DropReason::WrongMac);
    }
}

#[test]
fn the_client_is_who_sent_the_first_syn() {
    let us = us();
    let is_client = |session: &Session| session.flags & Session::CLIENT != 0;
    assert!(is_client(&syn_sent()) && !is_client(&syn_received()) && !is_client(&established()));
    let answer = peer_answer(SYN_ACK, THEIRS, OURS.wrapping_add(1));
    assert!(is_client(&installed(decide(&answer, Some(&syn_sent())))));
    // 192.0.2.1 is the peer's.
    assert!(!is_client(&installed(decide(&peer_syn(THEIRS), Some(&syn_sent())))));
    let mut swapped = Draft::new(OUT, SYN, OURS, 0);
    std::mem::swap(&mut swapped.quartet.local, &mut swapped.quartet.peer);
    let (held, frame) = swapped.hold();
    assert!(is_client(&installed(on_held(&held, &frame, &us, Some(&syn_received()), None, now()))));
    let mut new = installed(decide(&peer_syn(4000), Some(&syn_sent())));
    new.flags |= Session::CLIENT;
    let both = changed(decide(&peer_syn(5000), Some(&new)), &new);
    assert!(!is_client(&installed(decide(&Draft::new(OUT, SYN_ACK, 900, 5001), Some(&both)))));
}

/// Both ends sent a SYN, and the peer's was lost: it answers ours as the client that its address makes it.
#[test]
fn the_answer_tells_that_both_ends_sent_a_syn() {
    for kdf in [Kdf::Isn, Kdf::Rfc5926] {
        let mut isn_key = key(1, 0, 50);
        isn_key.mkt.kdf = kdf;
        let us = with_keys(&[isn_key]);
        let sent = installed(decide_at(10, &our_syn(), &us, None, None));
        for role in [Role::Client, Role::Server] {
            let slot = tuple(&us, 1).traffic_slot(&quartet(false), Isn(OURS), Isn(THEIRS), role);
            let answer = Draft::new(IN, SYN_ACK, THEIRS, OURS.wrapping_add(1));
            let mut answer = peers(answer, tuple(&us, 1), 1, slot.recv);
            let session = installed(decide_at(10, &answer, &us, Some(&sent), None));
            assert!(same_keys(&session.slots[0], &slot), "{kdf:?} {role:?}");
            answer.signature.as_mut().unwrap().1.words[0] ^= 1;
            assert_eq!(refused(decide_at(10, &answer, &us, Some(&sent), None)), DropReason::WrongMac);
        }
    }
}

/// Passwords 1 and 2 of TCP-MD5; the newer one is not sent before second 20.
fn md5() -> Neighbor {
    let password = |number| {
        let mut password = key(number, 0, 50);
        password.mkt.algorithm = Algorithm::Md5;
        password
    };
    let mut new = password(2);
    new.send = Lifetime { start: at(20), end: at(50) };
    Neighbor { wire: Wire::TcpMd5, ..with_keys(&[password(1), new]) }
}

/// A segment that the peer signs with this password.
fn with_password(us: &Neighbor, number: u32, flags: u8, seq: u32, ack: u32) -> Draft {
    Draft::new(IN, flags, seq, ack).signed(tuple(us, number), KeyMaterial::default())
}

#[test]
fn a_session_of_tcp_md5_has_its_passwords_from_the_first_syn_on() {
    let us = md5();
    let sent = installed(decide_at(10, &our_syn(), &us, None, None));
    assert_eq!((shown(&sent, &us), sent.syn_send.algorithm), ((vec![2, 1], Some(1), Some(1)), 0));
    let received = installed(decide_at(10, &with_password(&us, 1, SYN, THEIRS, 0), &us, None, None));
    assert_eq!((shown(&received, &us), received.syn_recv.algorithm), ((vec![2, 1], Some(1), Some(1)), 0));
}

#[test]
fn passwords_of_tcp_md5_are_tried_and_the_peer_is_followed_when_that_may_be() {
    let us = md5();
    for (second, number, wanted) in [(10, 1, 1), (10, 2, 1), (20, 1, 1), (20, 2, 2)] {
        let syn = with_password(&us, number, SYN, THEIRS, 0);
        assert_eq!(answered(&us, second, &syn), (Some(wanted), Some(number)), "{second} {number}");
        let sent = installed(decide_at(second, &our_syn(), &us, None, Some(1)));
        let answer = with_password(&us, number, SYN_ACK, THEIRS, OURS.wrapping_add(1));
        let session = installed(decide_at(second, &answer, &us, Some(&sent), Some(1)));
        assert_eq!(shown(&session, &us).1, Some(wanted), "{second} {number}");
        assert_eq!(number_in(&session, &us, session.rollover.received), Some(number));
    }
}

#[test]
fn a_new_connection_of_tcp_md5_is_answered_with_the_password_of_its_syn() {
    let us = md5();
    let first = installed(decide_at(20, &with_password(&us, 1, SYN, THEIRS, 0), &us, None, None));
    let up = installed(decide_at(20, &our_syn_ack(), &us, Some(&first), None));
    let again = decide_at(20, &with_password(&us, 2, SYN, 4000, 0), &us, Some(&up), Some(1));
    let again = changed(again, &up);
    assert_eq!(shown(&again, &us).1, Some(1), "the connection that is up goes on");
    let answer = Draft::new(OUT, SYN_ACK, 900, 4001);
    let new = installed(decide_at(20, &answer, &us, Some(&again), Some(1)));
    assert_eq!(shown(&new, &us).1, Some(2));
}

#[test]
fn what_tcp_md5_refuses() {
    let us = md5();
    let refused_of = |draft: &Draft| refused(decide_at(10, draft, &us, None, None));
    let mut other = with_password(&us, 1, SYN, THEIRS, 0);
    other.signature.as_mut().unwrap().0.master_key = mkt("another", Algorithm::Md5).master_key;
    assert_eq!(refused_of(&other), DropReason::WrongMac);
    assert_eq!(refused_of(&Draft::new(IN, SYN, THEIRS, 0)), DropReason::NoOption);
    assert_eq!(refused_of(&peer_syn(THEIRS)), DropReason::NoOption, "TCP-AO is another wire");
    let mut twice = with_password(&us, 1, SYN, THEIRS, 0);
    twice.options = [vec![29, 4, 1, 1], vec![1; 4]].concat();
    assert_eq!(refused_of(&twice), DropReason::OptionTwice);
    let mut short = Draft::new(IN, SYN, THEIRS, 0);
    short.options = vec![1, 19, 3, 0];
    assert_eq!(refused_of(&short), DropReason::WrongLength);
    let on_ao = decide_at(10, &with_password(&us, 1, SYN, THEIRS, 0), &two_keys(), None, None);
    assert_eq!(refused(on_ao), DropReason::NoOption);
}

/// The other end's configuration.
fn other_end(us: &Neighbor) -> Neighbor {
    let keys: Vec<ChainKey> =
        us.keys.keys.iter().map(|key| ChainKey { mkt: mirrored(&key.mkt), ..key.clone() }).collect();
    Neighbor { keys: Arc::new(KeyChain { name: None, keys }), ..us.clone() }
}

/// A segment that leaves `sender` as it arrives at the other end.
fn arriving(flags: u8, seq: u32, ack: u32, key: (Algorithm, u8, u8, KeyMaterial)) -> Draft {
    let (algorithm, key_id, rnext_id, material) = key;
    let mut mkt = mkt("only its ids count", algorithm);
    (mkt.send_id.0, mkt.recv_id.0) = (key_id, rnext_id);
    Draft::new(IN, flags, seq, ack).signed(&mkt, material)
}

fn current_of(session: &Session) -> (Algorithm, u8, u8, KeyMaterial) {
    let slot = &session.slots[session.rollover.current as usize];
    let rnext = &session.slots[session.rollover.rnext as usize];
    (Algorithm::from_number(slot.algorithm).unwrap(), slot.send_id.0, rnext.recv_id.0, slot.send)
}

fn other_quartet(mut draft: Draft) -> Draft {
    let q = &mut draft.quartet;
    std::mem::swap(&mut q.local, &mut q.peer);
    std::mem::swap(&mut q.local_port, &mut q.peer_port);
    draft
}

proptest! {
    /// With the same chain at both ends, whatever it is, a connection comes about whenever it is not closed, and what
    /// either end sends with then, the other accepts.
    #[test]
    fn two_ends_with_one_chain_agree(
        parts in any_chain(),
        second in 0i64..10,
        uses in any::<(Option<u8>, Option<u8>)>(),
    ) {
        // What may be sent is accepted, and there is room for all.
        let wide: Vec<Part> = parts
            .iter()
            .map(|part| Part { accept: (part.accept.0.min(part.send.0), part.accept.1.max(part.send.1)), ..*part })
            .take(3)
            .collect();
        let us = neighbor_of(&wide, Wire::TcpAo);
        let them = other_end(&us);
        if us.keys.is_closed(at(second)) {
            return Ok(());
        }
        let [uses, theirs] = [uses.0, uses.1].map(|number| number.map(|number| u32::from(number % 4)));

        let client = installed(decide_at(second, &our_syn(), &us, None, uses));
        let syn = &client.syn_send;
        let algorithm = Algorithm::from_number(syn.algorithm).unwrap();
        let syn = arriving(SYN, OURS, 0, (algorithm, syn.key_id.0, syn.rnext_id.0, syn.material));
        let server = installed(decide_at(second, &other_quartet(syn), &them, None, theirs));
        let syn_ack = other_quartet(Draft::new(OUT, SYN_ACK, THEIRS, OURS.wrapping_add(1)));
        let server = installed(decide_at(second, &syn_ack, &them, Some(&server), theirs));
        let answer = arriving(SYN_ACK, THEIRS, OURS.wrapping_add(1), current_of(&server));
        let client = installed(decide_at(second, &answer, &us, Some(&client), uses));
        for (sender, receiver) in [(&client, &server), (&server, &client)] {
            let sent = &sender.slots[sender.rollover.current as usize];
            let is_accepted = receiver.slots.iter().any(|slot| {
                slot.flags & KeySlot::ACCEPT != 0
                    && slot.recv_id == sent.send_id
                    && slot.recv.words == sent.send.words
            });
            prop_assert!(is_accepted && sent.flags & KeySlot::SEND != 0);
            prop_assert_eq!(receiver.rollover.received < 3, true);
        }
    }
}
