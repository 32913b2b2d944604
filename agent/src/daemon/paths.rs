//! What stands on the way of a neighbor's segments in this host's own kernel: IPsec policies, and routes that put
//! something in front, lead past the programs, or carry less than the interface.
//!
//! Netlink is asked for a few neighbors in each round, so that many cost no more than few.

use std::{
    collections::HashMap,
    mem,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use tcpauth_common::layout::{Direction, Held, KeyChange, Quartet};

use super::{Daemon, drops::session_name, ipsec, rules::change_keys};
use crate::{
    config::Neighbor,
    kernel::{Detour, IpsecPolicy, KernelError, Rekeyed, RouteLookup},
    sessions::{Monotonic, largest_segment},
};

/// Neighbors whose route is asked for in each round.
const LOOKUPS: usize = 100;
/// Time between two readings of the policies.
const POLICY_INTERVAL: Duration = Duration::from_secs(15);
/// Time from a connection's first held segment to the question for its route, because the question would delay what a
/// neighbor on the same link answers. A long segment that is sent sooner and lost is sent again, and then it is cut.
const QUESTION_DELAY: Duration = Duration::from_millis(10);

/// What was found on the ways of neighbors.
#[derive(Default)]
pub(super) struct Paths {
    policies: Vec<IpsecPolicy>,
    policies_read: Option<Monotonic>,
    /// Why segments do not pass the programs, by number of the neighbor.
    detours: HashMap<u32, Detour>,
    /// The neighbor with which the next round begins.
    next: u32,
    failed: bool,
    /// To ask for the routes of connections that begin; opened with the first.
    routes: Option<RouteLookup>,
    /// Connections that begin, and the indices of their interfaces.
    begun: Vec<(Quartet, u32)>,
    /// When their routes are asked for.
    due: Option<Instant>,
}

impl Paths {
    /// Notes the connection of a held segment, to ask for its route.
    pub fn note_begun(&mut self, held: &Held) {
        if held.direction == Direction::Outbound as u8 {
            self.begun.push((held.quartet, held.ifindex));
            self.due.get_or_insert_with(|| Instant::now() + QUESTION_DELAY);
        }
    }

    /// When the routes of connections that begin are to be asked for.
    pub fn next_due(&self) -> Option<Instant> {
        self.due
    }
}

impl Daemon {
    /// Looks at the policies and at some neighbors' routes. A failure is logged once.
    pub(super) fn look_at_paths(&mut self) {
        let now = Monotonic::now();
        if self.paths.policies_read.is_none_or(|read| now.since(read) >= POLICY_INTERVAL) {
            self.paths.policies_read = Some(now);
            match IpsecPolicy::list() {
                Ok(policies) => (self.paths.policies, self.paths.failed) = (policies, false),
                Err(error) if !self.paths.failed => {
                    self.paths.failed = true;
                    tracing::warn!("IPsec policies that take segments past tcpauth are not found: {error}");
                }
                Err(_) => {}
            }
        }
        let Ok(mut routes) = RouteLookup::open() else { return };
        let is_due = |number: &u32| *number >= self.paths.next;
        let mut due: Vec<u32> = self.neighbors.numbers().filter(is_due).take(LOOKUPS).collect();
        self.paths.next = due.last().map_or(0, |last| last + 1);
        if due.len() < LOOKUPS {
            self.paths.next = 0;
        }
        due.extend(self.bypasses.numbers());
        for number in due {
            let neighbor = self.neighbors.numbered(number).filter(|neighbor| neighbor.peer.is_host());
            let detour = neighbor.and_then(|neighbor| routes.detour(neighbor.peer.address));
            match detour {
                Some(detour) => self.paths.detours.insert(number, detour),
                None => self.paths.detours.remove(&number),
            };
        }
        let neighbors = &self.neighbors;
        self.paths.detours.retain(|number, _| neighbors.numbered(*number).is_some());
    }

    /// Limits the segment size of connections that begin, where the route has a smaller MTU than its interface.
    pub(super) fn ask_for_routes(&mut self) {
        self.paths.due = None;
        let begun = mem::take(&mut self.paths.begun);
        if let Err(error) = self.limit_to_routes(&begun) {
            tracing::error!("sessions do not know how narrow their routes are: {error}");
        }
    }

    fn limit_to_routes(&mut self, begun: &[(Quartet, u32)]) -> Result<(), KernelError> {
        let routes = match &mut self.paths.routes {
            Some(routes) => routes,
            none => none.insert(RouteLookup::open()?),
        };
        let mut largest = HashMap::new();
        let narrow: Vec<_> = begun
            .iter()
            .filter_map(|(quartet, ifindex)| {
                let largest = *largest.entry((quartet.peer, ifindex)).or_insert_with(|| {
                    let peer = Ipv6Addr::from(quartet.peer).to_canonical();
                    largest_segment(peer.is_ipv4(), routes.mtu(peer, *ifindex)?)
                });
                Some((*quartet, largest?))
            })
            .collect();
        self.limit_segments(&narrow)
    }

    /// Has segments of connections cut for which their stack leaves no room, because the route that it knows carries less
    /// than the interface. Those of others, behind this host, are not known.
    pub(super) fn limit_segments(&mut self, narrow: &[(Quartet, u32)]) -> Result<(), KernelError> {
        for (quartet, largest) in narrow {
            let Some(session) = self.dataplane.session(quartet)? else { continue };
            if session.largest_segment != 0 && session.largest_segment <= *largest {
                continue;
            }
            let mut change = KeyChange {
                flags: KeyChange::LIMIT_SEGMENTS,
                largest_segment: *largest,
                ..KeyChange::nothing(quartet, &session)
            };
            // A session that is gone by now, or another one's, is looked at in the next round.
            if change_keys(&mut self.dataplane, &mut change)? == Rekeyed::Done {
                tracing::debug!(
                    session = session_name(quartet),
                    largest,
                    "segments are cut for a narrow route"
                );
            }
        }
        Ok(())
    }

    /// The IPsec policy that takes the neighbor's segments past TC, if there is one, for an operator.
    pub(super) fn ipsec_trouble(&self, neighbor: &Neighbor) -> Option<&'static str> {
        let has_local = |prefix: &_| self.interfaces.has_address_in(prefix);
        ipsec::reason(&ipsec::taken(&self.paths.policies, neighbor, has_local))
    }

    /// Why the route to the neighbor leads past the programs, if it does, for an operator.
    pub(super) fn route_trouble(&self, number: u32, neighbor: &Neighbor) -> Option<String> {
        let address = neighbor.peer.address;
        Some(match self.paths.detours.get(&number)? {
            Detour::InFront(what) => format!(
                "the route to {address} puts {what} in front: segments leave without a MAC (`ip route get {address}`); \
                 give the neighbor a route without it"
            ),
            Detour::Port { port, master } => format!(
                "the route to {address} leads out of {port}, a port of {master}: segments leave without a MAC (`ip route \
                 get {address}`); give {master} the address and the route"
            ),
        })
    }
}
