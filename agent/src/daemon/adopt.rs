//! Enabling without a reset: connections that were up before their neighbour was protected
//! (`unauthenticated = "accept-until-authenticated"`).

use std::collections::HashMap;

use tcpauth_common::{
    layout::{Counters, Policy, Quartet, Session},
    tcp_socket::TcpSocket,
};

use super::{
    Daemon,
    configuration::{no_neighbor, same_peer},
    neighbors::covers,
    rules::Replan,
};
use crate::{
    config::{Neighbor, Unauthenticated},
    control::words::SessionState,
    kernel::{KernelError, TcpSockets},
    sessions::{AdoptError, Now, Progress, adopt, plan, progress},
};

/// What is known of connections that are to be taken over.
#[derive(Default)]
pub(super) struct Adoption {
    /// The kernel's list, loaded while a neighbour asks for it.
    sockets: Option<TcpSockets>,
    /// Why connections of a neighbour were not taken over, by its number.
    refused: HashMap<u32, String>,
}

/// A connection with a new session. Holds keys: no `Debug`.
struct Adopted {
    quartet: Quartet,
    session: Session,
}

impl Daemon {
    /// Gives sessions to connections that are up and have none. A failure is logged and shown, and the next round
    /// tries again.
    pub(super) fn adopt(&mut self) {
        let before = std::mem::take(&mut self.adoption.refused);
        if let Err(error) = self.adopt_all() {
            let asking: Vec<u32> = self.asking().map(|(number, _)| number).collect();
            self.adoption.refused.extend(asking.into_iter().map(|number| (number, error.to_string())));
        }
        for (number, reason) in &self.adoption.refused {
            if let (true, Some(neighbor)) =
                (before.get(number) != Some(reason), self.neighbors.numbered(*number))
            {
                tracing::warn!(neighbor = %neighbor.peer, "a connection that is up is not taken over: {reason}");
            }
        }
    }

    /// Has this side sign what it sends to a neighbour.
    ///
    /// # Errors
    /// What is wrong, for the operator; then everything is as it was.
    pub(super) fn sign_neighbor(&mut self, peer: &str) -> Result<String, String> {
        let found = self.neighbors.iter().find(|(_, neighbor)| same_peer(neighbor, peer));
        let (number, neighbor) = found.ok_or_else(|| no_neighbor(peer))?;
        let name = neighbor.peer.to_string();
        if neighbor.unauthenticated != Unauthenticated::AcceptUntilAuthenticated {
            return Err(format!(
                "{name} is signed to already: only with `unauthenticated = \"accept-until-authenticated\"` does \
                 a side wait until it is told to sign"
            ));
        }
        // What came up since the last round is signed from now on, too.
        self.adopt();
        if let Some(reason) = self.adoption.refused.get(&number) {
            return Err(format!(
                "{name} is not signed to, a connection that is up is not taken over: {reason}"
            ));
        }
        let mut rules = self.current_rules();
        if let Some(policy) = rules.policies.get_mut(&number) {
            policy.flags |= Policy::SIGN;
        }
        self.write_rules(rules, &Replan::default()).map_err(|error| error.to_string())?;
        tracing::info!(neighbor = name, "segments to the neighbour are signed from now on");
        Ok(format!(
            "segments to {name} are signed from now on; its unsigned ones are accepted until the first that verifies: \
             tell its side to sign, if it does not yet"
        ))
    }

    /// In which phase a neighbour is that is not protected wholly yet, and what to do next.
    pub(super) fn enabling(
        &self,
        number: u32,
        neighbor: &Neighbor,
        sessions: &[Session],
        counters: &Counters,
    ) -> Option<String> {
        if neighbor.unauthenticated != Unauthenticated::AcceptUntilAuthenticated {
            return None;
        }
        let is_signed =
            |session: &Session| session.flags & Session::ADOPTED == 0 || session.authenticated != 0;
        // A FIN or RST without MAC may be forged: while such a session is there, so may be its connection.
        let up: Vec<_> = sessions
            .iter()
            .filter(|session| progress(session) == Progress::Established || !is_signed(session))
            .collect();
        let signed = up.iter().filter(|session| is_signed(session)).count();
        if counters.passed.verified_segments != 0 && signed == up.len() {
            return None;
        }
        let is_told = self.rules.policies.get(&number).is_some_and(|policy| policy.flags & Policy::SIGN != 0);
        let peer = &neighbor.peer;
        let next = match (self.adoption.refused.get(&number), is_told) {
            (Some(reason), _) => format!("a connection that is up is not taken over: {reason}"),
            (None, false) => format!(
                "when the neighbour's side has this key too, run `tcpauth neighbor sign {peer}`, here or there first"
            ),
            (None, true) => "we sign: now let the neighbour's side sign".to_owned(),
        };
        let (verb, count) = (if is_told { "sends signed and" } else { "sends unsigned and" }, up.len());
        Some(format!(
            "NOT PROTECTED YET: {verb} accepts unsigned segments until one verifies; {signed} of {count} sessions signed by \
             the neighbour; {next}"
        ))
    }

    fn asking(&self) -> impl Iterator<Item = (u32, &Neighbor)> {
        let asks =
            |neighbor: &Neighbor| neighbor.unauthenticated == Unauthenticated::AcceptUntilAuthenticated;
        self.neighbors.iter().filter(move |(_, neighbor)| asks(neighbor))
    }

    fn adopt_all(&mut self) -> Result<(), KernelError> {
        let mut asking = Vec::new();
        for (number, _) in self.asking() {
            // Of one that has authenticated, what comes without a session is refused.
            if self.dataplane.counters(number)?.is_some_and(|counters| counters.passed.verified_segments == 0)
            {
                asking.push(number);
            }
        }
        if asking.is_empty() {
            self.adoption.sockets = None;
            return Ok(());
        }
        let sockets = match self.adoption.sockets.take() {
            Some(sockets) => sockets,
            None => TcpSockets::open()?,
        };
        let established = self.adoption.sockets.insert(sockets).established()?;
        for number in asking {
            for socket in &established {
                match self.adopted(number, socket)? {
                    Ok(Some(Adopted { quartet, session })) => {
                        let put = match self.dataplane.session(&quartet)? {
                            Some(_) => self.dataplane.put_session(&quartet, &session).map(|()| true)?,
                            None => self.add_session(&quartet, &session)?,
                        };
                        if put {
                            self.tell_session(&quartet, &session, SessionState::Adopted);
                        } else {
                            let full =
                                "its neighbor, or all together, have as many sessions as they may have";
                            self.adoption.refused.insert(number, full.to_owned());
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        self.adoption.refused.insert(number, error.to_string());
                    }
                }
            }
        }
        Ok(())
    }

    /// The session of a socket, if it is the neighbour's and has none.
    fn adopted(
        &self,
        number: u32,
        socket: &TcpSocket,
    ) -> Result<Result<Option<Adopted>, AdoptError>, KernelError> {
        let Some(neighbor) = self.neighbors.numbered(number) else { return Ok(Ok(None)) };
        let bound = |name: &str| self.interfaces.bound(name);
        let Some(scope) = neighbor.peer.interface.as_deref().map_or(Some(0), bound) else {
            return Ok(Ok(None));
        };
        let &TcpSocket { local, peer, local_port, peer_port, ifindex, .. } = socket;
        let quartet = Quartet { local, peer, local_port, peer_port, scope };
        // The same link-local addresses may be on two links, and the socket says on which it is.
        let is_elsewhere = neighbor.peer.is_link_local() && ifindex != scope;
        let is_theirs = covers(&neighbor.peer, &peer)
            && !is_elsewhere
            && self.neighbors.owner(&quartet, &bound).is_some_and(|owner| owner.number == number);
        // A connection within this host has no neighbour.
        if !is_theirs || self.interfaces.has_address(&peer) {
            return Ok(Ok(None));
        }
        let mut session = match adopt(socket, neighbor.port) {
            Ok(session) => session,
            Err(error) => return Ok(Err(error)),
        };
        let isns = |session: &Session| (session.local_isn, session.peer_isn);
        match self.dataplane.session(&quartet)? {
            // Of this connection, whether it was taken over or began signed.
            Some(existing) if isns(&existing) == isns(&session) => return Ok(Ok(None)),
            // Signed from its beginning, or about to be.
            Some(existing)
                if existing.flags & Session::ADOPTED == 0 && progress(&existing) != Progress::Closed =>
            {
                return Ok(Ok(None));
            }
            _ => {}
        }
        let now = Now::read();
        let monotonic = now.monotonic.0;
        (session.neighbor, session.created, session.last_segment) = (number, monotonic, monotonic);
        if let Some(change) = plan(&session, &quartet, neighbor, now.wall, None) {
            change.apply(&mut session, monotonic);
        }
        Ok(Ok(Some(Adopted { quartet, session })))
    }
}
