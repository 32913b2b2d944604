//! The handshake on the protected connection itself, before its first octet of data.
//!
//! ```text
//!  client's daemon                                     server's daemon
//!     ACK, TLS, Offer ────────────────────────────────────►
//!      ◄─────────────────────────────────────────────── Accept
//!     Confirm: END, the client's last octet ──────────────►   Action::Switch: keys in the session, then
//!  Action::Open ◄──────────────── Done: GO, the server's last octet, sent until the connection is open
//!     the client's stack gets the SYN-ACK; its ACK, under the agreed key, acknowledges GO ──► open
//! ```
//!
//! The client does not acknowledge GO itself. So what acknowledges it comes from the client's stack, and the server's
//! data plane lets its stack have everything from there on.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tcpauth_common::KeyId;

pub use failure::Failure;

use super::{
    Agreed, Capabilities, Connection, Event, Exchange, ExchangeError, Transport,
    stream::{Origin, Segment, Stream, StreamError},
    tls::{Endpoint, Summary},
};
use crate::keys::Role;

mod failure;
#[cfg(test)]
mod tests;

/// How long a handshake may take; and then, at the server, how long the client may take to use the keys.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The first octet of every BGP message (RFC 4271 §4.1), which no record of TLS begins with.
const BGP_MARKER: u8 = 0xff;

/// Our end of a handshake. Holds keys: no `Debug`.
pub struct Handshake<T = Endpoint> {
    connection: Connection,
    role: Role,
    recv_id: KeyId,
    stream: Stream,
    exchange: Exchange<T>,
    state: State,
    /// Keys that are agreed and not yet in use.
    agreed: Option<Agreed>,
    deadline: Instant,
    peer: Option<(Arc<Capabilities>, Summary)>,
    actions: VecDeque<Action>,
}

/// What is to be done. Holds keys: no `Debug`.
pub enum Action {
    /// This goes to the peer.
    Send(Segment),
    /// At the server: the keys go into the session, which becomes [`Session::SWITCHING`] with these offsets, before
    /// anything more is sent.
    ///
    /// [`Session::SWITCHING`]: tcpauth_common::layout::Session::SWITCHING
    Switch(Box<Agreed>, Offsets),
    /// At the client: the keys go into the session, which becomes [`Session::OPEN`] with these offsets, then the SYN-ACK
    /// to our stack. The handshake is over.
    ///
    /// [`Session::OPEN`]: tcpauth_common::layout::Session::OPEN
    Open(Box<Agreed>, Offsets),
    /// No keys: the connection is reset at both ends. The handshake is over.
    Fail(Failure),
}

/// Octets of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// From our end to the peer's.
    pub sent: u32,
    /// From the peer's end to ours.
    pub received: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing came yet.
    Silent,
    /// Octets came.
    Speaking,
    /// The server has the keys in use and waits for the client to use them.
    Switched,
    Over,
}

impl<T: Transport> Handshake<T> {
    /// Begins: `exchange` is over the endpoint of TLS of `role`, segments to us will be under `recv_id`.
    pub fn new(
        connection: Connection,
        role: Role,
        recv_id: KeyId,
        origin: Origin,
        exchange: Exchange<T>,
        now: Instant,
    ) -> Self {
        let mut handshake = Self {
            connection,
            role,
            recv_id,
            stream: Stream::new(origin, role == Role::Client),
            exchange,
            state: State::Silent,
            agreed: None,
            deadline: now + DEADLINE,
            peer: None,
            actions: VecDeque::new(),
        };
        // The acknowledgment that ends TCP's own handshake, by itself.
        handshake.send(now);
        match handshake.begin() {
            Ok(()) => handshake.flush(now),
            Err(error) => handshake.fail(error.into(), now),
        }
        handshake
    }

    /// Takes in a segment of the peer, which verified.
    pub fn on_segment(&mut self, segment: &Segment, now: Instant) {
        if self.state == State::Over {
            return;
        }
        let heard = self.stream.on_segment(segment, now).map_err(Failure::from);
        let octets = self.stream.read();
        let result = if octets.is_empty() { heard } else { self.take(&octets).and(heard) };
        match result {
            Ok(()) => self.flush(now),
            Err(failure) => self.fail(failure, now),
        }
    }

    /// What the time brings: to be called when [`Handshake::next_due`] has come.
    pub fn on_time(&mut self, now: Instant) {
        if self.state == State::Over {
            return;
        }
        if now >= self.deadline {
            self.fail(self.lateness(), now);
        } else {
            self.flush(now);
        }
    }

    /// When there is something to do again, if nothing comes in; `None` once the handshake is over.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.stream.next_due().map_or(self.deadline, |due| due.min(self.deadline));
        (self.state != State::Over).then_some(due)
    }

    /// What is to be done, in order.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The peer uses the keys: the connection is open, and the server has nothing more to send.
    pub fn opened(&mut self) {
        self.end();
    }

    /// No more of it: what [`Action::Switch`] or [`Action::Open`] asks for cannot be done.
    pub fn give_up(&mut self) {
        self.end();
    }

    /// Whether the server waits for the client to use the keys.
    pub fn is_switched(&self) -> bool {
        self.state == State::Switched
    }

    /// What our end is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What the peer can do and what TLS agreed on, once TLS is up.
    pub fn peer(&self) -> Option<&(Arc<Capabilities>, Summary)> {
        self.peer.as_ref()
    }

    /// The segment that resets the connection at the peer.
    pub fn reset(&self) -> Segment {
        self.stream.reset()
    }

    /// The client offers before anything was heard: that saves a round trip.
    fn begin(&mut self) -> Result<(), ExchangeError> {
        if self.role == Role::Client {
            self.exchange.offer(self.connection, Role::Client, self.recv_id)?;
        }
        Ok(())
    }

    fn take(&mut self, octets: &[u8]) -> Result<(), Failure> {
        if self.state == State::Silent {
            if octets[0] == BGP_MARKER {
                return Err(Failure::Bgp);
            }
            self.state = State::Speaking;
        }
        if self.state == State::Switched {
            return Err(Failure::TooMuch);
        }
        // What came before the error may have told more.
        let received = self.exchange.receive(octets);
        while let Some(event) = self.exchange.next_event() {
            self.on_event(event)?;
        }
        Ok(received?)
    }

    fn on_event(&mut self, event: Event) -> Result<(), Failure> {
        match (event, self.role) {
            (Event::Ready { peer, tls }, _) => self.peer = Some((peer, tls)),
            (Event::Offered { id, connection, role }, Role::Server) if self.agreed.is_none() => {
                if (connection, role) != (self.connection, Role::Server) {
                    self.exchange.refuse(id, super::Refusal::UnknownConnection)?;
                    return Err(Failure::OtherConnection);
                }
                let agreed = self.exchange.accept(id, self.recv_id)?;
                self.agreed = Some(agreed.ok_or(Failure::NoCommonAlgorithm)?);
            }
            (Event::Accepted { id, agreed }, Role::Client) => {
                self.exchange.confirm(id)?;
                self.agreed = Some(agreed);
            }
            (Event::Confirmed { id }, Role::Server) => {
                let agreed = self.agreed.take().ok_or(Failure::OutOfOrder)?;
                self.exchange.done(id)?;
                self.stream.write(&self.exchange.take_output());
                self.state = State::Switched;
                self.deadline += DEADLINE;
                self.actions.push_back(Action::Switch(Box::new(agreed), self.offsets()));
            }
            (Event::Done { .. }, Role::Client) => {
                let agreed = self.agreed.take().ok_or(Failure::OutOfOrder)?;
                self.actions.push_back(Action::Open(Box::new(agreed), self.offsets()));
                self.end();
            }
            (Event::Refused { reason, .. }, _) => return Err(Failure::Refused(reason)),
            _ => return Err(Failure::OutOfOrder),
        }
        Ok(())
    }

    fn flush(&mut self, now: Instant) {
        if self.state == State::Over {
            return;
        }
        self.stream.write(&self.exchange.take_output());
        self.send(now);
    }

    fn send(&mut self, now: Instant) {
        self.actions.extend(self.stream.segments_to_send(now).into_iter().map(Action::Send));
    }

    /// Gives up, with what TLS has to say of it before the end. A client that has said END says nothing any more: it
    /// would be behind the handshake, where the server's stack listens.
    fn fail(&mut self, failure: Failure, now: Instant) {
        let has_ended = self.role == Role::Client && self.agreed.is_some();
        if !has_ended && failure != Failure::Stream(StreamError::Reset) {
            self.flush(now);
        }
        self.actions.push_back(Action::Fail(failure));
        self.end();
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.agreed = None;
    }

    fn lateness(&self) -> Failure {
        match (self.state, self.role) {
            (State::Silent, Role::Client) => Failure::NoAnswer,
            (State::Silent, Role::Server) => Failure::NoClientHello,
            (State::Switched, _) => Failure::NotUsed,
            (State::Speaking | State::Over, _) => Failure::StoodStill,
        }
    }

    fn offsets(&self) -> Offsets {
        Offsets { sent: self.stream.written(), received: self.stream.received() }
    }
}
