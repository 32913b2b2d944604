//! How many sessions a neighbor may have in the map, and which one makes room for a new one.
//!
//! A local user with a raw socket, or a container in a `forwarded` prefix, can send SYNs as us. Each becomes a session,
//! and without a limit they would fill the map until no connection of any neighbor could begin. [`Quota`] counts the
//! sessions of each neighbor. When there are too many, a session that carries no connection is removed: the oldest that
//! failed or ended, then the oldest half-open one, so that a true connection keeps its entry for longer than a round trip.
//! A session that is up is never removed. If nothing can be removed, the new session is refused.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
};

use tcpauth_common::layout::{MAX_SESSIONS, Quartet, Session};

use super::{Progress, Whereabouts, expiry::BOTH_FINS, progress};

/// Sessions of a neighbor that is one address.
const OF_ADDRESS: usize = 4096;
/// Sessions of a neighbor that is a prefix: a quarter of the map, because thousands of peers may share it. Among
/// themselves they share without limits of their own: they have the same key, and could forge each other's segments anyway.
const OF_PREFIX: usize = 65_536;
/// Sessions of one neighbor that carry no connection (yet). At the rate at which SYNs are let through to the daemon, this
/// keeps a half-open session for 4 seconds at least.
const WITHOUT_CONNECTION: usize = 4096;
/// Sessions of all neighbors.
const IN_ALL: usize = MAX_SESSIONS as usize;

/// The limits of one quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    address: usize,
    prefix: usize,
    without_connection: usize,
    in_all: usize,
}

/// What a neighbor is, as far as limits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// One address.
    Address,
    /// A prefix of addresses.
    Prefix,
}

/// Whether there is room for a new session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// There is.
    Free,
    /// There is once this session has been removed. It may be another neighbor's if the whole map is full.
    Instead {
        /// Its connection.
        quartet: Quartet,
        /// Its neighbor's number.
        neighbor: u32,
    },
    /// There is not.
    Refused(Full),
}

/// What is full of sessions that are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The neighbor has as many sessions as it may have.
    Neighbor(usize),
    /// The map.
    Map,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Neighbor(limit) => write!(f, "the neighbor has {limit} sessions, and all are up"),
            Self::Map => f.write_str("all neighbors together have as many sessions as fit, and all are up"),
        }
    }
}

/// The sessions of each neighbor, counted.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    neighbors: HashMap<u32, Count>,
    in_all: usize,
}

/// The sessions of one neighbor.
#[derive(Debug, Default)]
struct Count {
    sessions: usize,
    /// Those that carried no connection when they were last looked at: the first goes first.
    spare: VecDeque<Spare>,
}

#[derive(Clone, Copy, Debug)]
struct Spare {
    quartet: Quartet,
    /// Of failed and ended sessions `false`, which sorts before `true`.
    is_half_open: bool,
    /// [`Session::last_segment`]: of an ended session that is not in use any more, it stays.
    last_segment: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self::with(Limits {
            address: OF_ADDRESS,
            prefix: OF_PREFIX,
            without_connection: WITHOUT_CONNECTION,
            in_all: IN_ALL,
        })
    }
}

impl Quota {
    /// No sessions, within these limits.
    pub(super) fn with(limits: Limits) -> Self {
        Self { limits, neighbors: HashMap::new(), in_all: 0 }
    }

    /// Counts a session of the map, or one that was put into it and was not there before. `whereabouts` is asked only if
    /// it matters.
    pub fn count(&mut self, quartet: &Quartet, session: &Session, whereabouts: impl FnOnce() -> Whereabouts) {
        let count = self.neighbors.entry(session.neighbor).or_default();
        count.sessions += 1;
        self.in_all += 1;
        if is_spare(session, whereabouts) {
            count.spare.push_back(Spare {
                quartet: *quartet,
                is_half_open: is_half_open(session),
                last_segment: session.last_segment,
            });
        }
    }

    /// Puts the sessions that all have been counted anew into the order in which they make room.
    pub fn sort(&mut self) {
        for count in self.neighbors.values_mut() {
            count.spare.make_contiguous().sort_by_key(|spare| (spare.is_half_open, spare.last_segment));
        }
    }

    /// Counts a session less, because it was removed from the map. One of which this is not told counts until all are
    /// counted anew.
    pub fn remove(&mut self, neighbor: u32) {
        if let Some(count) = self.neighbors.get_mut(&neighbor) {
            self.in_all = self.in_all.saturating_sub(1);
            count.sessions = count.sessions.saturating_sub(1);
        }
    }

    /// Decides whether `neighbor` may have a new session. `look` reads a session from the map. A session that has to go
    /// is not counted any more.
    pub fn admit(
        &mut self,
        neighbor: u32,
        holder: Holder,
        mut look: impl FnMut(&Quartet) -> Option<Session>,
    ) -> Admission {
        let most = match holder {
            Holder::Address => self.limits.address,
            Holder::Prefix => self.limits.prefix,
        };
        let is_full = |count: &Count| count.sessions >= most;
        if let Some(count) = self.neighbors.get_mut(&neighbor) {
            while is_full(count) || count.spare.len() >= self.limits.without_connection {
                match count.take_spare(neighbor, &mut look) {
                    Taken::Spare(quartet) => return self.instead(quartet, neighbor),
                    Taken::InUse => {}
                    Taken::None => return Admission::Refused(Full::Neighbor(most)),
                }
            }
        }
        while self.in_all >= self.limits.in_all {
            // Whoever has most sessions without a connection gives one.
            let most_spare = self.neighbors.iter_mut().max_by_key(|(_, count)| count.spare.len());
            let Some((&other, count)) = most_spare else { return Admission::Refused(Full::Map) };
            match count.take_spare(other, &mut look) {
                Taken::Spare(quartet) => return self.instead(quartet, other),
                Taken::InUse => {}
                Taken::None => return Admission::Refused(Full::Map),
            }
        }
        Admission::Free
    }

    fn instead(&mut self, quartet: Quartet, neighbor: u32) -> Admission {
        self.remove(neighbor);
        Admission::Instead { quartet, neighbor }
    }
}

/// What the first of a neighbor's spare sessions turned out to be.
enum Taken {
    /// It can be removed.
    Spare(Quartet),
    /// It is gone, or came up since it was last looked at.
    InUse,
    /// There is none.
    None,
}

impl Count {
    /// Takes the first spare session off the list, as it is now.
    fn take_spare(&mut self, neighbor: u32, look: &mut impl FnMut(&Quartet) -> Option<Session>) -> Taken {
        let Some(first) = self.spare.pop_front() else { return Taken::None };
        let is_quiet = |session: &Session| session.last_segment == first.last_segment;
        match look(&first.quartet) {
            Some(session) if session.neighbor != neighbor => Taken::InUse,
            Some(session) => {
                let whereabouts = if is_quiet(&session) { Whereabouts::Gone } else { Whereabouts::Here };
                // One that has ended is only on the list if its socket was gone.
                if is_spare(&session, || whereabouts) { Taken::Spare(first.quartet) } else { Taken::InUse }
            }
            None => Taken::InUse,
        }
    }
}

/// Whether the session carries no connection: it failed, has ended, or has not come up. An RST alone ends nothing: the
/// socket that it was sent to may not have believed it, or a local user may have made it up.
fn is_spare(session: &Session, whereabouts: impl FnOnce() -> Whereabouts) -> bool {
    match progress(session) {
        Progress::Failed | Progress::SynSent | Progress::SynReceived => true,
        Progress::Closed => session.seen & BOTH_FINS == BOTH_FINS || whereabouts() == Whereabouts::Gone,
        Progress::Handshake | Progress::Established | Progress::Closing => false,
    }
}

fn is_half_open(session: &Session) -> bool {
    matches!(progress(session), Progress::SynSent | Progress::SynReceived)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SMALL: Limits = Limits { address: 6, prefix: 9, without_connection: 4, in_all: 20 };

    /// Half-open; up; over, by two FINs; reset, which its socket may not have believed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum State {
        SynSent,
        SynReceived,
        Up,
        Over,
        Reset,
    }

    fn session(neighbor: u32, state: State, time: u64) -> Session {
        let (flags, seen) = match state {
            State::SynSent => (Session::LOCAL_ISN, 0),
            State::SynReceived => (Session::PEER_ISN | Session::SYN_RECV, 0),
            State::Up => (Session::BOTH_ISNS, 0),
            State::Over => (Session::BOTH_ISNS, Session::FIN_SENT | Session::FIN_RECEIVED),
            State::Reset => (Session::BOTH_ISNS, Session::RST_RECEIVED),
        };
        Session { neighbor, flags, seen, created: time, last_segment: time, ..Session::default() }
    }

    fn quartet(number: u16) -> Quartet {
        Quartet { local_port: number, ..Quartet::default() }
    }

    /// A map, and the quota that guards it.
    struct Guarded {
        quota: Quota,
        map: BTreeMap<Quartet, Session>,
        time: u64,
        next: u16,
        /// Whether sockets are there of connections that were reset.
        believed: bool,
    }

    impl Guarded {
        fn new() -> Self {
            Self { quota: Quota::with(SMALL), map: BTreeMap::new(), time: 0, next: 0, believed: false }
        }

        fn begin(&mut self, neighbor: u32, state: State) -> Admission {
            self.time += 1;
            self.next += 1;
            let admission =
                self.quota.admit(neighbor, holder(neighbor), |quartet| self.map.get(quartet).copied());
            match admission {
                Admission::Free => {}
                Admission::Instead { quartet, .. } => {
                    self.map.remove(&quartet).expect("what is removed was there");
                }
                Admission::Refused(_) => return admission,
            }
            let (quartet, session) = (quartet(self.next), session(neighbor, state, self.time));
            self.map.insert(quartet, session);
            self.quota.count(&quartet, &session, || Whereabouts::Here);
            admission
        }

        fn recount(&mut self) {
            let whereabouts = if self.believed { Whereabouts::Gone } else { Whereabouts::Here };
            self.quota = Quota::with(SMALL);
            for (quartet, session) in &self.map {
                self.quota.count(quartet, session, || whereabouts);
            }
            self.quota.sort();
        }

        fn of(&self, neighbor: u32) -> impl Iterator<Item = &Session> {
            self.map.values().filter(move |session| session.neighbor == neighbor)
        }
    }

    /// Even numbers are prefixes.
    fn holder(neighbor: u32) -> Holder {
        if neighbor.is_multiple_of(2) { Holder::Prefix } else { Holder::Address }
    }

    fn limit(neighbor: u32) -> usize {
        if neighbor.is_multiple_of(2) { SMALL.prefix } else { SMALL.address }
    }

    #[test]
    fn the_oldest_half_open_session_makes_room_and_one_that_came_up_stays() {
        let mut guarded = Guarded::new();
        for _ in 0..SMALL.without_connection {
            assert_eq!(guarded.begin(1, State::SynSent), Admission::Free);
        }
        // The first comes up without the quota being told.
        guarded.map.insert(quartet(1), session(1, State::Up, 1));
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Free);
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Instead { quartet: quartet(2), neighbor: 1 });
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Instead { quartet: quartet(3), neighbor: 1 });
        assert_eq!(guarded.of(1).count(), SMALL.without_connection + 1);
    }

    #[test]
    fn ended_sessions_make_room_before_half_open_ones() {
        let mut guarded = Guarded::new();
        guarded.begin(1, State::SynSent);
        guarded.begin(1, State::SynReceived);
        guarded.begin(1, State::Over);
        guarded.begin(1, State::Over);
        guarded.recount();
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Instead { quartet: quartet(3), neighbor: 1 });
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Instead { quartet: quartet(4), neighbor: 1 });
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Instead { quartet: quartet(1), neighbor: 1 });
    }

    #[test]
    fn a_neighbor_whose_sessions_are_all_up_gets_no_more() {
        let mut guarded = Guarded::new();
        for _ in 0..SMALL.address {
            guarded.begin(1, State::Up);
        }
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Refused(Full::Neighbor(SMALL.address)));
        assert_eq!(guarded.begin(3, State::SynSent), Admission::Free);
        guarded.quota.remove(1);
        guarded.map.remove(&quartet(1));
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Free);
    }

    #[test]
    fn a_full_map_takes_from_the_neighbor_with_most_half_open_sessions() {
        let mut guarded = Guarded::new();
        for neighbor in [5, 7, 9, 11, 13, 15] {
            for _ in 0..3 {
                guarded.begin(neighbor, State::SynSent);
            }
        }
        guarded.begin(5, State::SynSent);
        guarded.begin(17, State::Up);
        assert_eq!(guarded.map.len(), SMALL.in_all);
        assert_eq!(
            guarded.begin(17, State::SynSent),
            Admission::Instead { quartet: quartet(1), neighbor: 5 }
        );
        assert_eq!(guarded.map.len(), SMALL.in_all);
    }

    #[test]
    fn a_reset_alone_ends_nothing() {
        let mut guarded = Guarded::new();
        for _ in 0..SMALL.address {
            guarded.begin(1, State::Reset);
        }
        guarded.recount();
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Refused(Full::Neighbor(SMALL.address)));
        guarded.believed = true;
        guarded.recount();
        // A segment since then: somebody uses it.
        guarded.map.insert(quartet(1), session(1, State::Reset, 99));
        assert_eq!(guarded.begin(1, State::SynSent), Admission::Instead { quartet: quartet(2), neighbor: 1 });
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin(u32, State),
        /// A session, by its place in the map, is found to be in another state.
        Become(usize, State),
        /// A session is removed without the quota being told.
        Vanish(usize),
        Recount,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let state = prop_oneof![
            4 => Just(State::SynSent),
            2 => Just(State::SynReceived),
            2 => Just(State::Up),
            1 => Just(State::Over),
            1 => Just(State::Reset),
        ];
        let step = prop_oneof![
            8 => (1..6u32, state.clone()).prop_map(|(neighbor, state)| Step::Begin(neighbor, state)),
            4 => (0..40usize, state).prop_map(|(place, state)| Step::Become(place, state)),
            1 => (0..40usize).prop_map(Step::Vanish),
            1 => Just(Step::Recount),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn limits_hold_and_no_connection_ends(steps in steps(), believed: bool) {
            let mut guarded = Guarded { believed, ..Guarded::new() };
            for step in steps {
                match step {
                    Step::Begin(neighbor, state) => {
                        let before = guarded.map.clone();
                        if let Admission::Instead { quartet, neighbor } = guarded.begin(neighbor, state) {
                            let removed = before[&quartet];
                            prop_assert_eq!(removed.neighbor, neighbor);
                            let whereabouts = if believed { Whereabouts::Gone } else { Whereabouts::Here };
                            prop_assert!(is_spare(&removed, || whereabouts));
                        }
                        prop_assert!(guarded.of(neighbor).count() <= limit(neighbor));
                        prop_assert!(guarded.map.len() <= SMALL.in_all);
                    }
                    Step::Become(place, state) => {
                        guarded.time += 1;
                        let time = guarded.time;
                        if let Some(known) = guarded.map.values_mut().nth(place) {
                            *known = session(known.neighbor, state, time);
                        }
                    }
                    Step::Vanish(place) => {
                        if let Some(quartet) = guarded.map.keys().nth(place).copied() {
                            guarded.map.remove(&quartet);
                        }
                    }
                    Step::Recount => guarded.recount(),
                }
            }
        }

        #[test]
        fn only_connections_that_are_up_keep_a_new_one_out(steps in steps()) {
            let mut guarded = Guarded { believed: true, ..Guarded::new() };
            for step in steps {
                if let Step::Begin(neighbor, state) = step {
                    guarded.recount();
                    let up = |sessions: &mut dyn Iterator<Item = &Session>| {
                        sessions.filter(|session| progress(session) == Progress::Established).count()
                    };
                    let (own, all) = (up(&mut guarded.of(neighbor)), up(&mut guarded.map.values()));
                    match guarded.begin(neighbor, state) {
                        Admission::Refused(Full::Neighbor(limit)) => prop_assert!(own >= limit),
                        Admission::Refused(Full::Map) => prop_assert!(all >= SMALL.in_all),
                        Admission::Free | Admission::Instead { .. } => {}
                    }
                }
            }
        }
    }
}
