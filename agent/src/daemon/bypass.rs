//! The net under everything: connections of neighbors that are up and get past the programs, by whatever way.
//!
//! Each round of upkeep compares the kernel's sockets with the sessions ([`BypassWatch`]). A connection that is found is
//! reported and, with `on-unprotected = "reset"`, ended.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tcpauth_common::layout::Quartet;

use super::{
    Daemon,
    drops::{session_name, wall_clock},
};
use crate::{
    config::{Neighbor, OnUnprotected, Unauthenticated},
    control::{protocol::Event, words::ProtectionState},
    kernel::{KernelError, SockDiag, TcpConnection},
    sessions::{Bypass, BypassWatch, Monotonic, Observation, SessionCount, Sizes, SocketCount, Unprotected},
};

/// How long a neighbor stays unprotected for operators after its connection was ended, unless a segment verifies
/// before: what let the connection past may still be there.
const AFTERMATH: Duration = Duration::from_secs(300);

/// Connections that get past the programs.
#[derive(Default)]
pub(super) struct Bypasses {
    /// The kernel's list, opened with the first round.
    diag: Option<SockDiag>,
    watch: BypassWatch,
    /// By number of the neighbor.
    found: HashMap<u32, Found>,
    /// How often the oldest segment of a neighbor's connections has been sent again, if it has, by the neighbor's number.
    stalls: HashMap<u32, u8>,
    /// Why the last round found out nothing.
    error: Option<String>,
}

/// The connections of one neighbor that get past the programs.
#[derive(Clone, Debug)]
struct Found {
    /// The first of them.
    quartet: Quartet,
    bypass: Bypass,
    connections: usize,
    cause: Option<String>,
    reset: Option<Reset>,
    reset_error: Option<String>,
}

/// Connections that were ended.
#[derive(Clone, Copy, Debug)]
struct Reset {
    times: u64,
    last: Monotonic,
    /// Segments of the neighbor that had verified by then.
    verified: u64,
}

impl Bypasses {
    /// Why the sockets cannot be compared with the sessions, if they cannot.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// How often the oldest segment of a neighbor's connection has been sent again without an answer.
    pub(super) fn stall(&self, number: u32) -> Option<u8> {
        self.stalls.get(&number).copied()
    }

    /// Forgets those of neighbors that are no longer configured: another one may get the number.
    pub(super) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.found.retain(|number, _| keep(*number));
        self.stalls.retain(|number, _| keep(*number));
    }

    /// Numbers of the neighbors of which a connection gets past the programs.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.found.keys().copied()
    }

    /// Why a neighbor is not protected, in one line, if a connection of it gets past the programs.
    pub(super) fn reason(&self, number: u32, now: Monotonic) -> Option<String> {
        self.found.get(&number).map(|found| found.reason(now))
    }
}

impl Daemon {
    /// Compares the kernel's sockets with what their sessions had counted before. A failure is logged and shown, and
    /// the next round tries again.
    pub(super) fn compare_sockets(&mut self, counts: &HashMap<Quartet, SessionCount>) {
        let (observations, connections) = match self.observe(counts) {
            Ok(observed) => observed,
            Err(error) => {
                let error = error.to_string();
                if self.bypasses.error.as_ref() != Some(&error) {
                    tracing::error!("connections that get past the programs are not found: {error}");
                }
                self.bypasses.error = Some(error);
                return;
            }
        };
        self.bypasses.error = None;
        let mut unprotected: HashMap<u32, Vec<Unprotected>> = HashMap::new();
        for one in self.bypasses.watch.round(observations) {
            unprotected.entry(one.neighbor).or_default().push(one);
        }
        self.forget_mended(&unprotected);
        for (number, mut all) in unprotected {
            all.sort_unstable_by_key(|one| (one.bypass, one.quartet));
            self.report_unprotected(number, &all, &connections);
        }
    }

    /// The neighbors' sockets of this moment, and the kernel's entries for them by their cookies.
    fn observe(
        &mut self,
        counts: &HashMap<Quartet, SessionCount>,
    ) -> Result<(Vec<Observation>, HashMap<u64, TcpConnection>), KernelError> {
        let ports: BTreeSet<u16> = self.neighbors.iter().map(|(_, neighbor)| neighbor.port).collect();
        if ports.is_empty() {
            return Ok(Default::default());
        }
        let mut diag = match self.bypasses.diag.take() {
            Some(diag) => diag,
            None => SockDiag::open()?,
        };
        let connections = diag.sending(&ports)?;
        // After a failure a new socket is opened: old answers may still come by this one.
        self.bypasses.diag = Some(diag);
        self.bypasses.stalls.clear();
        let mut observations = Vec::new();
        let mut observed = HashMap::new();
        let mut narrow = Vec::new();
        for connection in connections {
            let Some((number, quartet)) = self.neighbor_of_connection(&connection) else { continue };
            narrow.extend(sizes(&connection).limit().map(|largest| (quartet, largest)));
            if !connection.is_established() {
                continue;
            }
            if connection.retransmits > 0 {
                let stall = self.bypasses.stalls.entry(number).or_default();
                *stall = connection.retransmits.max(*stall);
            }
            let session = match counts.get(&quartet) {
                Some(count) => Some(*count),
                // It may have come up since the sessions were read.
                None => self.dataplane.session(&quartet)?.as_ref().map(SessionCount::of),
            };
            if session.is_none() && self.is_to_be_adopted(number)? {
                continue;
            }
            let TcpConnection { cookie, segments_in, bytes_acked, .. } = connection;
            let socket = SocketCount { segments_in, bytes_acked };
            observations.push(Observation { neighbor: number, quartet, cookie, socket, session });
            observed.insert(cookie, connection);
        }
        if let Err(error) = self.limit_segments(&narrow) {
            tracing::error!("segments cannot be cut for narrow routes, trying again: {error}");
        }
        Ok((observations, observed))
    }

    /// The neighbor that a connection belongs to, if any, and its key in the map of sessions.
    fn neighbor_of_connection(&self, connection: &TcpConnection) -> Option<(u32, Quartet)> {
        let &TcpConnection { local, peer, local_port, peer_port, ifindex, .. } = connection;
        let bound = |name: &str| self.interfaces.bound(name);
        self.neighbors.having(peer).find_map(|(number, neighbor)| {
            let interface = neighbor.peer.interface.as_deref();
            let scope = interface.map_or(Some(0), bound)?;
            // The same link-local addresses may be on two links, and the socket says on which it is.
            let is_elsewhere = neighbor.peer.is_link_local()
                && ![Some(scope), interface.and_then(|name| self.interfaces.arrival(name))]
                    .contains(&Some(ifindex));
            let quartet = Quartet { local, peer, local_port, peer_port, scope };
            let is_theirs = [local_port, peer_port].contains(&neighbor.port)
                && !is_elsewhere
                && self.neighbors.owner(&quartet, &bound).is_some_and(|owner| owner.number == number);
            // A connection within this host has no neighbor.
            (is_theirs && !self.interfaces.has_address(&peer)).then_some((number, quartet))
        })
    }

    /// Whether connections of the neighbor that have no session wait for one: the status says so by itself.
    fn is_to_be_adopted(&self, number: u32) -> Result<bool, KernelError> {
        let accepts = self
            .neighbors
            .numbered(number)
            .is_some_and(|neighbor| neighbor.unauthenticated == Unauthenticated::AcceptUntilAuthenticated);
        Ok(accepts && self.verified_segments(number)? == 0)
    }

    fn verified_segments(&self, number: u32) -> Result<u64, KernelError> {
        let counters = self.dataplane.counters(number)?;
        Ok(counters.map_or(0, |counters| counters.passed.verified_segments))
    }

    /// Forgets neighbors of which no connection gets past the programs any more.
    fn forget_mended(&mut self, unprotected: &HashMap<u32, Vec<Unprotected>>) {
        let now = Monotonic::now();
        let gone: Vec<u32> = self
            .bypasses
            .found
            .iter()
            .filter(|(number, found)| {
                let verified = self.verified_segments(**number).unwrap_or_default();
                !unprotected.contains_key(number) && found.is_over(now, verified)
            })
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.bypasses.found.remove(&number);
            if let Some(neighbor) = self.neighbors.numbered(number) {
                let text = "no connection gets past the programs any more".to_owned();
                self.tell_protection(neighbor, ProtectionState::Protected, text);
            }
        }
        for (number, found) in &mut self.bypasses.found {
            if !unprotected.contains_key(number) {
                found.connections = 0;
            }
        }
    }

    /// Remembers, tells and, if it is asked for, ends the connections of one neighbor.
    fn report_unprotected(
        &mut self,
        number: u32,
        all: &[Unprotected],
        connections: &HashMap<u64, TcpConnection>,
    ) {
        let (Some(first), Some(neighbor)) = (all.first(), self.neighbors.numbered(number).cloned()) else {
            return;
        };
        let before = self.bypasses.found.get(&number).cloned();
        let mut found = Found {
            quartet: first.quartet,
            bypass: first.bypass,
            connections: all.len(),
            cause: self.cause_of_bypass(number, &neighbor),
            reset: before.as_ref().and_then(|before| before.reset),
            reset_error: None,
        };
        let now = Monotonic::now();
        if before.is_none_or(|before| before.connections == 0) {
            self.tell_protection(&neighbor, ProtectionState::Unprotected, found.reason(now));
        }
        if neighbor.on_unprotected == OnUnprotected::Reset {
            for one in all {
                let Some(connection) = connections.get(&one.cookie) else { continue };
                match self.end_connection(connection) {
                    Ok(()) => {
                        let verified = self.verified_segments(number).unwrap_or_default();
                        let times = found.reset.map_or(0, |reset| reset.times) + 1;
                        found.reset = Some(Reset { times, last: now, verified });
                        let session = session_name(&one.quartet);
                        tracing::warn!(neighbor = %neighbor.peer, session, "an unprotected connection is ended");
                        let text = format!("the unprotected connection {session} is ended");
                        self.tell_protection(&neighbor, ProtectionState::Reset, text);
                    }
                    Err(error) => found.reset_error = Some(error),
                }
            }
        }
        self.bypasses.found.insert(number, found);
    }

    fn end_connection(&mut self, connection: &TcpConnection) -> Result<(), String> {
        let diag = self.bypasses.diag.as_mut().ok_or("the list of sockets is closed")?;
        diag.destroy(connection).map_err(|error| match &error {
            KernelError::Netlink { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                "this kernel cannot end a socket for another program (CONFIG_INET_DIAG_DESTROY is missing)"
                    .to_owned()
            }
            error => error.to_string(),
        })
    }

    /// What probably takes the segments of a neighbor past the programs, if that can be found out.
    fn cause_of_bypass(&self, number: u32, neighbor: &Neighbor) -> Option<String> {
        let ipsec = || self.ipsec_trouble(neighbor).map(str::to_owned);
        let programs = || self.interfaces.fault(&neighbor.peer);
        let interface = || self.interfaces.problem(&neighbor.peer);
        ipsec().or_else(|| self.route_trouble(number, neighbor)).or_else(programs).or_else(interface)
    }

    fn tell_protection(&self, neighbor: &Neighbor, state: ProtectionState, text: String) {
        // Nobody may be following.
        let _ = self.events.send(Event::Protection {
            time: wall_clock(),
            neighbor: neighbor.peer.to_string(),
            state,
            text,
        });
    }
}

impl Found {
    /// Whether nothing speaks for a bypass any more; `verified`: segments of the neighbor so far.
    fn is_over(&self, now: Monotonic, verified: u64) -> bool {
        self.reset.is_none_or(|reset| now.since(reset.last) > AFTERMATH || verified > reset.verified)
    }

    /// What is wrong, why and what was done about it, for an operator.
    fn reason(&self, now: Monotonic) -> String {
        let session = session_name(&self.quartet);
        let what = match self.bypass {
            Bypass::NoSession => {
                format!("the connection {session} is up past tcpauth's programs, without a session")
            }
            Bypass::Stale => format!("the connection {session} is up without a session"),
            Bypass::Inbound => format!("segments of {session} arrive that tcpauth's programs did not verify"),
            Bypass::Outbound => format!("segments of {session} leave that tcpauth's programs did not sign"),
        };
        let cause = self.cause.as_deref().unwrap_or(match self.bypass {
            Bypass::Stale => {
                "it began before tcpauth protected this neighbor, and then its segments are dropped until its hold time \
                 ends it (or restart it in the BGP daemon); or it gets past the programs"
            }
            _ => {
                "the cause is not known: look for a program in front of tcpauth's (`bpftool net`), XDP, IPsec policies \
                 (`ip xfrm policy`), labels and encapsulations on the route (`ip route get`)"
            }
        });
        let more = match self.connections {
            0 | 1 => String::new(),
            connections => format!("; and {} more", connections - 1),
        };
        let reset = self.reset.map_or_else(String::new, |reset| {
            let times = if reset.times == 1 { "once".to_owned() } else { format!("{} times", reset.times) };
            format!("; ended {times}, last {} s ago", now.since(reset.last).as_secs())
        });
        let error =
            self.reset_error.as_ref().map_or_else(String::new, |error| format!("; not ended: {error}"));
        format!("NOT PROTECTED: {what}: {cause}{more}{reset}{error}")
    }
}

/// How large the stack makes the segments of a connection.
fn sizes(connection: &TcpConnection) -> Sizes {
    Sizes {
        is_ipv4: std::net::Ipv6Addr::from(connection.peer).to_ipv4_mapped().is_some(),
        path_mtu: connection.path_mtu,
        mss: connection.mss,
        has_timestamps: connection.has_timestamps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn found(bypass: Bypass) -> Found {
        let quartet = Quartet { local_port: 40000, peer_port: 179, ..Quartet::default() };
        Found { quartet, bypass, connections: 1, cause: None, reset: None, reset_error: None }
    }

    #[test]
    fn the_reason_says_what_is_wrong_why_and_what_was_done() {
        let now = Monotonic(60 * SECOND);
        let unknown = found(Bypass::NoSession).reason(now);
        assert!(
            unknown.starts_with("NOT PROTECTED: the connection [::]:40000 > [::]:179 is up past"),
            "{unknown}"
        );
        assert!(unknown.contains("`bpftool net`"), "{unknown}");
        assert!(found(Bypass::Stale).reason(now).contains("began before tcpauth protected"));
        let reset = Some(Reset { times: 2, last: Monotonic(57 * SECOND), verified: 0 });
        let known = Found { cause: Some("XDP".to_owned()), connections: 3, reset, ..found(Bypass::Inbound) };
        let expected = "NOT PROTECTED: segments of [::]:40000 > [::]:179 arrive that tcpauth's programs did not verify: XDP; \
                        and 2 more; ended 2 times, last 3 s ago";
        assert_eq!(known.reason(now), expected);
    }

    #[test]
    fn a_connection_that_was_ended_is_shown_until_a_segment_verifies_or_for_some_minutes() {
        let now = Monotonic(1000 * SECOND);
        assert!(found(Bypass::Inbound).is_over(now, 5));
        let reset = |ago: u64| Some(Reset { times: 1, last: Monotonic((1000 - ago) * SECOND), verified: 5 });
        let ended = |ago| Found { reset: reset(ago), ..found(Bypass::Inbound) };
        assert!(!ended(299).is_over(now, 5));
        assert!(ended(299).is_over(now, 6));
        assert!(ended(301).is_over(now, 5));
    }
}
