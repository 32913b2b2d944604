use proptest::prelude::*;

use tcpauth_common::Isn;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const FIRST: Limits = Limits { interval: HOUR, segments: None, is_first: true };

fn at(seconds: u64) -> Monotonic {
    Monotonic(seconds * 1_000_000_000)
}

fn peer(number: u32) -> KmpPeer {
    KmpPeer { neighbor: number, address: [number as u8; 16], local: [0xfe; 16] }
}

fn quartet(peer: u32, port: u16) -> Quartet {
    Quartet { peer: [peer as u8; 16], local_port: port, scope: peer, ..Quartet::default() }
}

/// A session of peer `number` whose keys were agreed then.
fn seen(number: u32, agreed_since: Option<Monotonic>, limits: Limits) -> Seen {
    Seen {
        peer: peer(number),
        isns: (Isn(1), Isn(2)),
        agreed_since,
        segments: [0; 2],
        is_moving: false,
        limits,
    }
}

/// A planner with one session of peer 1, whose keys were agreed in second 100.
fn one() -> Planner {
    let mut planner = Planner::default();
    planner.observe(&quartet(1, 1), seen(1, Some(at(100)), FIRST), at(100), 0);
    planner
}

/// Observes the session of [`one`] as it is `now`.
fn look(planner: &mut Planner, seen: Seen, now: Monotonic) -> bool {
    planner.observe(&quartet(1, 1), seen, now, 0);
    planner.is_due(&quartet(1, 1))
}

/// Brings the attempt with peer 1 to where an offer of its session waits for an answer on channel 7.
fn offer(planner: &mut Planner, now: Monotonic) {
    assert_eq!(planner.begin(now), Some(peer(1)));
    planner.channel_up(peer(1), ChannelId(7), now);
    assert_eq!(planner.next_offer(peer(1)), Some((ChannelId(7), quartet(1, 1))));
    planner.offered(peer(1), 5, quartet(1, 1));
}

#[test]
fn keys_serve_until_they_are_old() {
    let mut planner = one();
    let session = seen(1, Some(at(100)), FIRST);
    assert!(!look(&mut planner, session, at(3699)));
    assert!(look(&mut planner, session, at(3700)));
    assert_eq!(planner.begin(at(3700)), Some(peer(1)));
    assert_eq!(planner.begin(at(3700)), None, "it is on its way");
}

#[test]
fn the_other_end_begins_later_and_jitter_makes_it_earlier() {
    let mut planner = Planner::default();
    let second = Limits { is_first: false, ..FIRST };
    planner.observe(&quartet(1, 1), seen(1, Some(at(0)), second), at(0), 0);
    assert!(!look(&mut planner, seen(1, Some(at(0)), second), at(3959)));
    assert!(look(&mut planner, seen(1, Some(at(0)), second), at(3960)));
    let mut planner = Planner::default();
    planner.observe(&quartet(1, 1), seen(1, Some(at(0)), FIRST), at(0), 128);
    assert!(!look(&mut planner, seen(1, Some(at(0)), FIRST), at(3419)));
    assert!(look(&mut planner, seen(1, Some(at(0)), FIRST), at(3420)), "half of a tenth");
}

#[test]
fn a_session_that_has_not_moved_to_its_newest_keys_is_let_do_so() {
    let mut planner = one();
    let moving = Seen { is_moving: true, ..seen(1, Some(at(100)), FIRST) };
    assert!(!look(&mut planner, moving, at(7299)));
    assert!(look(&mut planner, moving, at(7300)), "but not for ever");
    assert!(!look(&mut planner, moving, at(7299)));
}

#[test]
fn segments_wear_keys_out_in_either_direction() {
    for segments in [[1000, 0], [0, 1000]] {
        let mut planner = one();
        let limits = Limits { segments: Some(1000), ..FIRST };
        let with = |segments| Seen { segments, ..seen(1, Some(at(100)), limits) };
        assert!(!look(&mut planner, with(segments.map(|count: u64| count.saturating_sub(1))), at(101)));
        assert!(look(&mut planner, with(segments), at(101)));
        offer(&mut planner, at(101));
        planner.refreshed(&quartet(1, 1), at(102), 0);
        planner.answered(peer(1), 5, at(102), Duration::ZERO);
        assert!(
            !look(&mut planner, with(segments.map(|count| count + 999)), at(103)),
            "those are counted anew"
        );
        assert!(look(&mut planner, with(segments.map(|count| count + 1000)), at(103)));
    }
}

#[test]
fn a_session_without_agreed_keys_is_due_at_once() {
    let mut planner = Planner::default();
    assert!(look(&mut planner, seen(1, None, FIRST), at(5)));
    // Its handshake gave it some.
    assert!(!look(&mut planner, seen(1, Some(at(6)), FIRST), at(7)));
    assert_eq!(planner.begin(at(7)), None);
}

#[test]
fn new_keys_are_new_from_when_they_came() {
    let mut planner = one();
    assert!(look(&mut planner, seen(1, Some(at(100)), FIRST), at(4000)));
    offer(&mut planner, at(4000));
    planner.refreshed(&quartet(1, 1), at(4001), 0);
    planner.answered(peer(1), 5, at(4001), Duration::ZERO);
    planner.end_if_done(peer(1));
    // It sends with the old ones still, until the peer asks.
    assert!(!look(&mut planner, seen(1, Some(at(100)), FIRST), at(7600)));
    assert!(look(&mut planner, seen(1, Some(at(4050)), FIRST), at(7601)));
    assert_eq!(planner.report(1).refreshed, Some(at(4001)));
    offer(&mut planner, at(7601));
}

#[test]
fn another_connection_with_the_quartet_is_another_session() {
    let mut planner = one();
    assert!(look(&mut planner, seen(1, Some(at(100)), FIRST), at(4000)));
    offer(&mut planner, at(4000));
    let other = Seen { isns: (Isn(3), Isn(4)), ..seen(1, Some(at(3999)), FIRST) };
    assert!(!look(&mut planner, other, at(4001)));
    assert_eq!(planner.session_of(peer(1), ChannelId(7), 5), None, "nobody waits for the answer any more");
    assert_eq!(planner.next_due(), None);
}

#[test]
fn who_asks_does_not_wait_for_a_back_off() {
    let mut planner = one();
    assert_eq!(planner.ask(|peer| peer.neighbor == 2), (0, 0));
    assert_eq!(planner.ask(|peer| peer.neighbor == 1), (1, 1));
    for _ in 0..9 {
        let now = planner.next_due().unwrap();
        assert_eq!(planner.begin(now), Some(peer(1)));
        planner.failed(peer(1), "no".to_owned(), now, 128);
    }
    let now = at(100);
    assert_eq!(planner.begin(now), None);
    planner.ask(|_| true);
    assert_eq!(planner.begin(now), Some(peer(1)));
}

#[test]
fn attempts_become_rare_and_never_cease() {
    let mut planner = one();
    planner.ask(|_| true);
    let mut now = at(200);
    let mut delays = Vec::new();
    for attempt in 1..=10 {
        assert_eq!(planner.begin(now), Some(peer(1)));
        assert_eq!(planner.failed(peer(1), "no".to_owned(), now, 128), attempt == 1, "it is news once");
        let failure = planner.report(1).failure.unwrap().clone();
        assert_eq!((failure.attempts, failure.next), (attempt, planner.next_due().unwrap()));
        delays.push(failure.next.since(now).as_millis());
        now = failure.next;
    }
    assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    offer(&mut planner, now);
    planner.refreshed(&quartet(1, 1), now, 0);
    assert_eq!(planner.report(1).failure, None);
}

#[test]
fn what_is_not_answered_is_given_up_and_tried_again() {
    let mut planner = one();
    planner.ask(|_| true);
    assert_eq!(planner.begin(at(200)), Some(peer(1)));
    assert!(planner.overdue(at(214)).is_empty());
    assert_eq!((planner.next_due(), planner.overdue(at(215))), (Some(at(215)), vec![peer(1)]));
    planner.failed(peer(1), "no answer".to_owned(), at(215), 128);
    assert_eq!(planner.next_due(), Some(Monotonic(215_500_000_000)));
    offer(&mut planner, at(216));
    assert!(planner.is_on(peer(1), ChannelId(7)) && planner.is_offered(peer(1), &quartet(1, 1)));
    assert_eq!(planner.overdue(at(231)), [peer(1)]);
    planner.failed(peer(1), "no answer".to_owned(), at(231), 128);
    assert!(planner.is_due(&quartet(1, 1)) && !planner.is_on(peer(1), ChannelId(7)));
    assert_eq!(planner.session_of(peer(1), ChannelId(7), 5), None);
}

#[test]
fn a_channel_that_ends_too_early_is_followed_by_another() {
    let mut planner = one();
    planner.ask(|_| true);
    offer(&mut planner, at(200));
    for _ in 0..TOLERATED {
        assert!(planner.interrupted(peer(1), at(200)));
        assert_eq!(planner.report(1).failure, None, "an operator has nothing to do");
        offer(&mut planner, at(200));
    }
    assert!(!planner.interrupted(peer(1), at(200)), "not again and again");
    assert!(planner.is_on(peer(1), ChannelId(7)));
    planner.failed(peer(1), "the peer closed it".to_owned(), at(200), 128);
    assert_eq!(planner.next_due(), Some(at(202)));
}

#[test]
fn a_session_that_the_peer_does_not_know_rests_and_the_others_go_on() {
    let mut planner = one();
    planner.observe(&quartet(1, 2), seen(1, Some(at(100)), FIRST), at(100), 0);
    planner.ask(|_| true);
    offer(&mut planner, at(200));
    planner.answered(peer(1), 5, at(200), Duration::from_secs(30));
    planner.note(peer(1), "unknown".to_owned(), at(200));
    assert_eq!(planner.next_offer(peer(1)), Some((ChannelId(7), quartet(1, 2))));
    planner.offered(peer(1), 6, quartet(1, 2));
    planner.refreshed(&quartet(1, 2), at(201), 0);
    planner.answered(peer(1), 6, at(201), Duration::ZERO);
    planner.end_if_done(peer(1));
    assert_eq!(planner.next_due(), None);
    let session = seen(1, Some(at(100)), FIRST);
    planner.observe(&quartet(1, 1), session, at(229), 0);
    assert_eq!(planner.next_due(), None);
    planner.observe(&quartet(1, 1), session, at(230), 0);
    assert_eq!(planner.begin(at(230)), Some(peer(1)));
}

#[test]
fn the_peers_offer_takes_the_place_of_ours() {
    let mut planner = one();
    planner.ask(|_| true);
    offer(&mut planner, at(200));
    planner.overtaken(peer(1), &quartet(1, 1));
    assert_eq!(planner.session_of(peer(1), ChannelId(7), 5), None);
    planner.refreshed(&quartet(1, 1), at(201), 0);
    planner.end_if_done(peer(1));
    assert!(!planner.is_due(&quartet(1, 1)));
    assert_eq!(planner.next_due(), None);
}

#[test]
fn a_channel_that_came_up_by_itself_serves_too() {
    let mut planner = one();
    planner.channel_up(peer(1), ChannelId(3), at(150));
    assert_eq!(planner.next_offer(peer(1)), None, "nothing is due");
    assert_eq!(planner.next_due(), None);
    planner.ask(|_| true);
    planner.channel_up(peer(1), ChannelId(4), at(200));
    assert_eq!(planner.next_offer(peer(1)), Some((ChannelId(4), quartet(1, 1))));
    planner.offered(peer(1), 1, quartet(1, 1));
    // What is at work ends its work on its own channel.
    planner.channel_up(peer(1), ChannelId(5), at(200));
    assert_eq!(planner.session_of(peer(1), ChannelId(4), 1), Some(quartet(1, 1)));
}

#[test]
fn a_thousand_peers_take_turns() {
    let mut planner = Planner::default();
    for number in 1..=1000 {
        planner.observe(&quartet(number, 1), seen(number, Some(at(100)), FIRST), at(100), 0);
    }
    assert_eq!(planner.ask(|_| true), (1000, 1000));
    let (mut now, mut served, mut under_way) = (at(200), HashSet::new(), Vec::new());
    while served.len() < 1000 {
        while let Some(peer) = planner.begin(now) {
            under_way.push(peer);
        }
        assert!(!under_way.is_empty() && under_way.len() <= AT_ONCE, "{} at once", under_way.len());
        let peer = under_way.remove(0);
        assert!(served.insert(peer), "one was served twice before all were served once");
        planner.channel_up(peer, ChannelId(u64::from(peer.neighbor)), now);
        let (_, quartet) = planner.next_offer(peer).unwrap();
        planner.offered(peer, 1, quartet);
        planner.refreshed(&quartet, now, 0);
        planner.answered(peer, 1, now, Duration::ZERO);
        planner.end_if_done(peer);
        now.0 += 1_000_000;
    }
    assert_eq!(planner.next_due(), None);
}

#[test]
fn many_sessions_of_a_peer_are_offered_a_window_at_a_time() {
    let mut planner = Planner::default();
    for port in 0..100 {
        planner.observe(&quartet(1, port), seen(1, None, FIRST), at(100), 0);
    }
    assert_eq!(planner.begin(at(100)), Some(peer(1)));
    planner.channel_up(peer(1), ChannelId(1), at(100));
    let mut offered = 0;
    let mut fill = |planner: &mut Planner| {
        while let Some((_, quartet)) = planner.next_offer(peer(1)) {
            offered += 1;
            planner.offered(peer(1), offered, quartet);
        }
        offered
    };
    assert_eq!(fill(&mut planner), WINDOW as u32);
    planner.answered(peer(1), 1, at(100), Duration::from_secs(9));
    assert_eq!(fill(&mut planner), WINDOW as u32 + 1);
    assert_eq!(planner.report(1).due, 99);
}

#[test]
fn nothing_is_kept_of_sessions_that_are_gone() {
    let mut planner = one();
    planner.ask(|_| true);
    offer(&mut planner, at(200));
    planner.end_round();
    planner.end_round();
    assert_eq!(planner.session_of(peer(1), ChannelId(7), 5), None);
    planner.end_round();
    assert!(planner.sessions.is_empty() && planner.peers.is_empty());
    assert!(planner.waiting.is_empty() && planner.busy.is_empty());
}

/// What can happen, to one of three peers with two sessions each.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Observe(u32, u16, bool),
    Ask(u32),
    EndRound,
    Begin,
    Up(u32, u64),
    Offer(u32),
    Refreshed(u32, u16),
    Answered(u32, u32, u64),
    Overtaken(u32, u16),
    Failed(u32),
    Interrupted(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let (peers, ports, offers) = (0..3u32, 0..2u16, 0..40u32);
    prop_oneof![
        (0..5000u64).prop_map(Step::Wait),
        (peers.clone(), ports.clone(), any::<bool>())
            .prop_map(|(peer, port, is_agreed)| Step::Observe(peer, port, is_agreed)),
        peers.clone().prop_map(Step::Ask),
        Just(Step::EndRound),
        Just(Step::Begin),
        (peers.clone(), 0..3u64).prop_map(|(peer, channel)| Step::Up(peer, channel)),
        peers.clone().prop_map(Step::Offer),
        (peers.clone(), ports.clone()).prop_map(|(peer, port)| Step::Refreshed(peer, port)),
        (peers.clone(), offers, 0..60u64).prop_map(|(peer, id, pause)| Step::Answered(peer, id, pause)),
        (peers.clone(), ports).prop_map(|(peer, port)| Step::Overtaken(peer, port)),
        peers.clone().prop_map(Step::Failed),
        peers.prop_map(Step::Interrupted),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_what_is_due_is_tried_in_the_end(steps in prop::collection::vec(step(), 0..80)) {
        let mut planner = Planner::default();
        let (mut now, mut id) = (at(1), 0);
        for step in steps {
            match step {
                Step::Wait(seconds) => now.0 += seconds * 1_000_000_000,
                Step::Observe(peer, port, is_agreed) => {
                    planner.observe(&quartet(peer, port), seen(peer, is_agreed.then_some(now), FIRST), now, 0);
                }
                Step::Ask(number) => { planner.ask(|peer| peer.neighbor == number); }
                Step::EndRound => planner.end_round(),
                Step::Begin => { planner.begin(now); }
                Step::Up(number, channel) => planner.channel_up(peer(number), ChannelId(channel), now),
                Step::Offer(number) => {
                    if let Some((_, quartet)) = planner.next_offer(peer(number)) {
                        id += 1;
                        planner.offered(peer(number), id, quartet);
                    }
                }
                Step::Refreshed(peer, port) => planner.refreshed(&quartet(peer, port), now, 0),
                Step::Answered(number, id, pause) => {
                    planner.answered(peer(number), id, now, Duration::from_secs(pause));
                }
                Step::Overtaken(number, port) => planner.overtaken(peer(number), &quartet(number, port)),
                Step::Interrupted(number) => { let _ = planner.interrupted(peer(number), now); }
                Step::Failed(number) => { planner.failed(peer(number), "no".to_owned(), now, 0); }
            }
            for state in planner.peers.values() {
                let queued = state.at.is_some();
                match state.stage {
                    Stage::Idle => prop_assert_eq!(queued, !state.due.is_empty()),
                    _ => prop_assert!(queued, "it would never be given up"),
                }
            }
            prop_assert_eq!(
                planner.waiting.len() + planner.busy.len(),
                planner.peers.values().filter(|state| state.at.is_some()).count()
            );
        }
        // Everything that is under way is given up in time, and what is due is begun again.
        let due: Vec<KmpPeer> =
            planner.peers.iter().filter(|(_, state)| !state.due.is_empty()).map(|(peer, _)| *peer).collect();
        let mut begun = HashSet::new();
        for _ in 0..100 {
            now.0 += 60_000_000_000;
            for peer in planner.overdue(now) {
                planner.failed(peer, "late".to_owned(), now, 0);
            }
            while let Some(peer) = planner.begin(now) {
                begun.insert(peer);
            }
        }
        prop_assert!(due.iter().all(|peer| begun.contains(peer)));
    }
}
