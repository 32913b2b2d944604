//! What stands on the way of a neighbor's segments in this host's own kernel: IPsec policies, and routes that put
//! something in front.
//!
//! Netlink is asked for a few neighbors in each round, so that many cost no more than few.

use std::{collections::HashMap, time::Duration};

use super::{Daemon, ipsec};
use crate::{
    config::Neighbor,
    kernel::{IpsecPolicy, RouteLookup},
    sessions::Monotonic,
};

/// Neighbors whose route is asked for in each round.
const LOOKUPS: usize = 100;
/// Time between two readings of the policies.
const POLICY_INTERVAL: Duration = Duration::from_secs(15);

/// What was found on the ways of neighbors.
#[derive(Default)]
pub(super) struct Paths {
    policies: Vec<IpsecPolicy>,
    policies_read: Option<Monotonic>,
    /// What their routes put in front of their segments, by number of the neighbor.
    in_front: HashMap<u32, &'static str>,
    /// The neighbor with which the next round begins.
    next: u32,
    failed: bool,
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
            let in_front = neighbor.and_then(|neighbor| routes.in_front_of(neighbor.peer.address));
            match in_front {
                Some(what) => self.paths.in_front.insert(number, what),
                None => self.paths.in_front.remove(&number),
            };
        }
        let neighbors = &self.neighbors;
        self.paths.in_front.retain(|number, _| neighbors.numbered(*number).is_some());
    }

    /// The IPsec policy that takes the neighbor's segments past TC, if there is one, for an operator.
    pub(super) fn ipsec_trouble(&self, neighbor: &Neighbor) -> Option<&'static str> {
        let has_local = |prefix: &_| self.interfaces.has_address_in(prefix);
        ipsec::reason(&ipsec::taken(&self.paths.policies, neighbor, has_local))
    }

    /// What the route to the neighbor puts in front of its segments, if anything, for an operator.
    pub(super) fn route_trouble(&self, number: u32, neighbor: &Neighbor) -> Option<String> {
        let what = self.paths.in_front.get(&number)?;
        let address = neighbor.peer.address;
        Some(format!(
            "the route to {address} puts {what} in front: segments leave without a MAC (`ip route get {address}`); give \
             the neighbor a route without it"
        ))
    }
}
