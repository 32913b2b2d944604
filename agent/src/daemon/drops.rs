//! What was dropped: remembered per neighbour, told to followers, written to the log.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tcpauth_common::{
    DropReason,
    layout::{Direction, Dropped, Held, Quartet},
};
use tokio::sync::broadcast;

use super::{
    diagnosis::DropSeen,
    meaning::{Carried, Refused, meaning},
};
use crate::{
    config::Wire,
    control::{protocol::Event, words},
    sessions::{Monotonic, Segment, address},
};

/// The log has one line in this time for each reason of each neighbour.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// The flag of a SYN.
const SYN: u8 = 2;
/// Drops this far apart are two stories.
const STORY_ENDS: Duration = Duration::from_secs(120);

/// Drops by neighbour number.
pub struct Drops {
    neighbors: HashMap<u32, NeighborDrops>,
    events: broadcast::Sender<Event>,
}

/// Drops of one neighbour.
#[derive(Default)]
pub struct NeighborDrops {
    /// The last one.
    pub last: Option<DropSeen>,
    /// When an ICMP error about one of its sessions was last dropped.
    pub icmp: Option<Monotonic>,
    /// Segments that the daemon itself dropped, by [`DropReason`] number; the programs count the others.
    pub own: [u64; DropReason::COUNT],
    logged: [Option<Logged>; DropReason::COUNT],
}

#[derive(Clone, Copy)]
struct Logged {
    time: Monotonic,
    /// Drops since then that were not logged.
    suppressed: u64,
}

/// One drop, wherever it happened.
pub struct Drop {
    /// The neighbour's number.
    pub neighbor: u32,
    /// When.
    pub time: Monotonic,
    /// Why.
    pub reason: DropReason,
    /// Which way it was going.
    pub outbound: bool,
    /// The connection.
    pub quartet: Quartet,
    /// TCP flags octet.
    pub tcp_flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// KeyID of the option, if it had one.
    pub key_id: Option<u8>,
    /// Which authentication options it carried.
    pub carried: Carried,
    /// Interface index.
    pub ifindex: u32,
}

/// What is known of a neighbour when one of its segments is dropped.
pub struct Context<'a> {
    /// As in the configuration.
    pub peer: &'a str,
    /// KeyID that its segments have to carry.
    pub recv_id: u8,
    /// The option that its segments have to carry.
    pub wire: Wire,
    /// Whether the MAC covers TCP options.
    pub covers_options: bool,
    /// Segments that had verified.
    pub verified: u64,
    /// Interface by name.
    pub interface: &'a str,
}

impl Drop {
    /// A drop that a program reports; `None` if its reason is not one.
    pub fn by_program(dropped: &Dropped) -> Option<Self> {
        let reason = DropReason::from_number(dropped.reason)?;
        // For these reasons the option was read; else 0 may stand for none.
        let has_option = matches!(
            reason,
            DropReason::UnknownKeyId
                | DropReason::WrongMac
                | DropReason::WrongHopLimit
                | DropReason::OutsideWindow
                | DropReason::NoSession
        );
        let outbound = dropped.direction == Direction::Outbound as u8;
        Some(Self {
            neighbor: dropped.neighbor,
            time: Monotonic(dropped.time),
            reason,
            outbound,
            quartet: dropped.quartet,
            tcp_flags: dropped.tcp_flags,
            seq: dropped.seq,
            key_id: (!outbound && (has_option || dropped.key_id != 0)).then_some(dropped.key_id),
            carried: if reason == DropReason::NoOption { Carried::of(dropped) } else { Carried::Unknown },
            ifindex: dropped.ifindex,
        })
    }

    /// A held segment that the daemon refuses.
    pub fn of_held(held: &Held, frame: &[u8], reason: DropReason) -> Self {
        let segment = Segment::parse(held, frame).ok();
        Self {
            neighbor: held.neighbor,
            time: Monotonic::now(),
            reason,
            outbound: held.direction == Direction::Outbound as u8,
            quartet: held.quartet,
            tcp_flags: segment.as_ref().map_or(0, Segment::flags),
            seq: segment.as_ref().map_or(0, Segment::seq),
            key_id: segment.as_ref().and_then(Segment::key_id).map(|id| id.0),
            carried: Carried::Unknown,
            ifindex: held.ifindex,
        }
    }

    fn segment(&self) -> String {
        let local = end(self.quartet.local, self.quartet.local_port);
        let peer = end(self.quartet.peer, self.quartet.peer_port);
        if self.outbound { format!("{local} > {peer}") } else { format!("{peer} > {local}") }
    }
}

impl Drops {
    /// None yet; followers get theirs by `events`.
    pub fn new(events: broadcast::Sender<Event>) -> Self {
        Self { neighbors: HashMap::new(), events }
    }

    /// Those of a neighbour.
    pub fn of(&self, neighbor: u32) -> Option<&NeighborDrops> {
        self.neighbors.get(&neighbor)
    }

    /// Forgets those of neighbours that are no longer configured.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.neighbors.retain(|number, _| keep(*number));
    }

    /// Counts a drop as the daemon's own.
    pub fn count_own(&mut self, drop: &Drop) {
        self.neighbors.entry(drop.neighbor).or_default().own[drop.reason as usize] += 1;
    }

    /// Remembers a drop, tells followers, and logs it unless the same was logged a moment ago.
    pub fn record(&mut self, drop: &Drop, context: &Context<'_>) {
        let segment = drop.segment();
        let neighbor = self.neighbors.entry(drop.neighbor).or_default();
        let only_syns = neighbor.remember(drop, context, &segment);
        if let Some(suppressed) = neighbor.due(drop) {
            let meaning = meaning(&Refused {
                reason: drop.reason,
                outbound: drop.outbound,
                key_id: drop.key_id,
                recv_id: context.recv_id,
                wire: context.wire,
                carried: drop.carried,
                may_be_clamped: only_syns && context.covers_options,
            });
            tracing::warn!(
                neighbor = context.peer,
                reason = drop.reason.name(),
                direction = %direction(drop.outbound),
                segment,
                interface = context.interface,
                flags = flags(drop.tcp_flags),
                suppressed,
                "dropped: {meaning}"
            );
        }
        // Nobody may be following.
        let _ = self.events.send(Event::Drop {
            time: wall_clock(),
            neighbor: context.peer.to_owned(),
            reason: drop.reason.name().to_owned(),
            direction: direction(drop.outbound),
            segment,
            flags: flags(drop.tcp_flags),
            seq: drop.seq,
            key_id: drop.key_id,
            interface: context.interface.to_owned(),
        });
    }
}

impl NeighborDrops {
    /// Returns whether nothing but SYNs was dropped in this story.
    fn remember(&mut self, drop: &Drop, context: &Context<'_>, segment: &str) -> bool {
        if drop.reason == DropReason::Icmp {
            self.icmp = Some(drop.time);
        }
        let goes_on = self
            .last
            .as_ref()
            .filter(|last| last.verified == context.verified && drop.time.since(last.time) < STORY_ENDS);
        let only_syns = drop.tcp_flags & SYN != 0 && goes_on.is_none_or(|last| last.only_syns);
        self.last = Some(DropSeen {
            carried: drop.carried,
            only_syns,
            time: drop.time,
            since: goes_on.map_or(drop.time, |last| last.since),
            reason: drop.reason,
            outbound: drop.outbound,
            key_id: drop.key_id,
            verified: context.verified,
            segment: segment.to_owned(),
        });
        only_syns
    }

    /// Whether the drop is to be logged, and how many of its kind were not since the last that was.
    fn due(&mut self, drop: &Drop) -> Option<u64> {
        let logged = &mut self.logged[drop.reason as usize];
        match logged {
            Some(last) if drop.time.since(last.time) < LOG_INTERVAL => {
                last.suppressed += 1;
                None
            }
            _ => {
                let suppressed = logged.map_or(0, |last| last.suppressed);
                *logged = Some(Logged { time: drop.time, suppressed: 0 });
                Some(suppressed)
            }
        }
    }
}

/// One end of a connection: `192.0.2.1:179`, `[2001:db8::1]:179`.
pub fn end(octets: [u8; 16], port: u16) -> String {
    std::net::SocketAddr::new(address(octets), port).to_string()
}

/// Both ends of a connection, ours first.
pub fn session_name(quartet: &Quartet) -> String {
    format!("{} > {}", end(quartet.local, quartet.local_port), end(quartet.peer, quartet.peer_port))
}

/// Which way a dropped segment was going, in a word.
pub fn direction(outbound: bool) -> words::Direction {
    if outbound { words::Direction::Outbound } else { words::Direction::Inbound }
}

/// Seconds since the Unix epoch.
pub fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// TCP flags as letters: `SA`, `R`, `PA`; a bare ACK is `.`.
fn flags(octet: u8) -> String {
    const LETTERS: [(u8, char); 8] =
        [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (32, 'U'), (64, 'E'), (128, 'C'), (16, 'A')];
    if octet == 16 {
        return ".".to_owned();
    }
    LETTERS.iter().filter(|(bit, _)| octet & bit != 0).map(|(_, letter)| letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn drop_at(seconds: u64, reason: DropReason) -> Drop {
        Drop {
            neighbor: 3,
            time: Monotonic(seconds * SECOND),
            reason,
            outbound: false,
            quartet: Quartet { local_port: 179, peer_port: 40000, ..Quartet::default() },
            tcp_flags: 18,
            seq: 9,
            key_id: Some(1),
            carried: Carried::Unknown,
            ifindex: 2,
        }
    }

    fn context(verified: u64) -> Context<'static> {
        Context {
            peer: "192.0.2.1",
            recv_id: 1,
            wire: Wire::TcpAo,
            covers_options: true,
            verified,
            interface: "eth0",
        }
    }

    #[test]
    fn followers_are_told_of_every_drop_and_the_log_of_few() {
        let (sender, mut follower) = broadcast::channel(8);
        let mut drops = Drops::new(sender);
        for second in [100, 101, 102] {
            drops.record(&drop_at(second, DropReason::WrongMac), &context(0));
        }
        for _ in 0..3 {
            let Event::Drop { neighbor, reason, segment, flags, .. } = follower.try_recv().unwrap() else {
                panic!("not a drop");
            };
            assert_eq!(
                (neighbor.as_str(), reason.as_str(), flags.as_str()),
                ("192.0.2.1", "wrong-mac", "SA")
            );
            assert_eq!(segment, "[::]:40000 > [::]:179");
        }
        let neighbor = drops.neighbors.get_mut(&3).unwrap();
        assert_eq!(neighbor.due(&drop_at(103, DropReason::WrongMac)), None);
        assert_eq!(neighbor.due(&drop_at(103, DropReason::NoOption)), Some(0));
        assert_eq!(neighbor.due(&drop_at(110, DropReason::WrongMac)), Some(3));
    }

    #[test]
    fn a_story_of_drops_ends_when_something_verifies() {
        let mut drops = Drops::new(broadcast::channel(8).0);
        let since = |drops: &Drops| drops.of(3).unwrap().last.as_ref().unwrap().since.0 / SECOND;
        drops.record(&drop_at(100, DropReason::WrongMac), &context(7));
        drops.record(&drop_at(110, DropReason::WrongMac), &context(7));
        assert_eq!(since(&drops), 100);
        drops.record(&drop_at(111, DropReason::WrongMac), &context(8));
        assert_eq!(since(&drops), 111);
        drops.record(&drop_at(240, DropReason::WrongMac), &context(8));
        assert_eq!(since(&drops), 240);
    }

    #[test]
    fn a_story_of_syns_ends_with_any_other_segment() {
        let mut drops = Drops::new(broadcast::channel(8).0);
        let only_syns = |drops: &Drops| drops.of(3).unwrap().last.as_ref().unwrap().only_syns;
        drops.record(&drop_at(100, DropReason::WrongMac), &context(7));
        assert!(only_syns(&drops));
        drops.record(&Drop { tcp_flags: 16, ..drop_at(101, DropReason::WrongMac) }, &context(7));
        drops.record(&drop_at(102, DropReason::WrongMac), &context(7));
        assert!(!only_syns(&drops));
    }

    #[test]
    fn own_drops_are_counted_by_reason() {
        let mut drops = Drops::new(broadcast::channel(8).0);
        drops.count_own(&drop_at(1, DropReason::WrongMac));
        drops.count_own(&drop_at(2, DropReason::WrongMac));
        assert_eq!(drops.of(3).unwrap().own[DropReason::WrongMac as usize], 2);
        drops.retain(|number| number != 3);
        assert!(drops.of(3).is_none());
    }

    #[test]
    fn flags_read_as_in_tcpdump() {
        assert_eq!([2, 18, 4, 20, 16, 24, 17].map(flags), ["S", "SA", "R", "RA", ".", "PA", "FA"]);
    }
}
