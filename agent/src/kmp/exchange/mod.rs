//! One end of a channel between two daemons: TLS, then [`super::message`]s in their order.
//!
//! ```text
//! Capabilities ──────────────────►
//!              ◄────────────────── Capabilities
//! Offer        ──────────────────►                 Event::Offered, then `accept`
//!              ◄────────────────── Accept          the accepter has the keys
//! Event::Accepted, then `confirm`: the offerer has the keys
//! Confirm      ──────────────────►                 Event::Confirmed, then `done`
//! Event::Done  ◄────────────────── Done
//! ```
//!
//! Either end offers, any number of times at once. An end that leaves this order, or whose keys are others, ends the
//! channel: nothing that was not confirmed by then may be used.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
};

use openssl::sha::Sha256;
use tcpauth_common::{Algorithm, KeyId};

use super::{
    agreement::{Agreed, CONFIRMATION_LABEL, Confirmations, Connection, MASTER_KEY_LABEL, Terms},
    message::{Accept, Capabilities, Confirmation, Message, Nonce, Offer, Raw, Refusal},
    tls::{Endpoint, Summary},
};
use crate::keys::{Role, TcpOptions};
pub use error::ExchangeError;
pub use transport::Transport;

mod error;
mod hear;
#[cfg(test)]
mod tests;
mod transport;

/// Most offers of either end that are open on a channel. Beyond, those of the peer are refused; of those that an end has
/// answered and that do not go on, the oldest are forgotten.
pub const MAX_OPEN: usize = 4096;

/// One end of a channel, over TLS or, in tests, what stands for it.
pub struct Exchange<T = Endpoint> {
    transport: T,
    capabilities: Capabilities,
    /// Our Capabilities as we sent them; `None` until then.
    told: Option<Vec<u8>>,
    peer: Option<Peer>,
    tcp_options: TcpOptions,
    /// The beginning of a message.
    input: Vec<u8>,
    /// What we say once we have told our Capabilities.
    waiting: Vec<u8>,
    /// Number of our last offer; they begin at 1.
    last_id: u32,
    /// Our offers that are not over.
    offered: BTreeMap<u32, OurOffer>,
    /// Number of the peer's last offer.
    last_peer_id: u32,
    /// The peer's offers that are not over.
    asked: BTreeMap<u32, PeerOffer>,
    events: VecDeque<Event>,
    failed: Option<ExchangeError>,
}

/// What the peer told in the beginning.
struct Peer {
    capabilities: Arc<Capabilities>,
    /// As it was on the wire.
    octets: Vec<u8>,
}

struct OurOffer {
    offer: Offer,
    progress: Progress,
}

enum Progress {
    /// The peer has not answered.
    Offered,
    /// It accepted; this is to be told by [`Exchange::confirm`].
    Accepted(Confirmation),
    /// We told it.
    Confirmed,
}

enum PeerOffer {
    /// [`Event::Offered`].
    Offered(Offer),
    /// We accepted; this is what the peer has to tell.
    Accepted(Confirmation),
    /// [`Event::Confirmed`].
    Confirmed,
}

/// What happened on a channel. Holds keys: no `Debug`.
pub enum Event {
    /// TLS is up, and the peer has told what it can do.
    Ready {
        /// That.
        peer: Arc<Capabilities>,
        /// What TLS agreed on.
        tls: Summary,
    },
    /// The peer offers to agree on keys: [`Exchange::accept`] or [`Exchange::refuse`].
    Offered {
        /// Which offer.
        id: u32,
        /// Of what connection.
        connection: Connection,
        /// What our end is in it.
        role: Role,
    },
    /// The peer accepted our offer, and proved that it has the keys: we can verify with them now, and can send with them
    /// a SYN. After [`Exchange::confirm`], [`Event::Done`] says that the peer can verify with them too.
    Accepted {
        /// Which offer.
        id: u32,
        /// The keys.
        agreed: Agreed,
    },
    /// The peer proved that it has the keys of an offer that we accepted: they may be used, and [`Exchange::done`] tells
    /// it so.
    Confirmed {
        /// Which offer.
        id: u32,
    },
    /// The peer uses the keys of our offer.
    Done {
        /// Which offer.
        id: u32,
    },
    /// The peer refuses our offer.
    Refused {
        /// Which offer.
        id: u32,
        /// Why.
        reason: Refusal,
    },
}

impl<T: Transport> Exchange<T> {
    /// A channel over `endpoint`, on which our end can do `capabilities`.
    pub fn new(endpoint: T, capabilities: Capabilities) -> Self {
        Self {
            transport: endpoint,
            capabilities,
            told: None,
            peer: None,
            tcp_options: TcpOptions::Include,
            input: Vec::new(),
            waiting: Vec::new(),
            last_id: 0,
            offered: BTreeMap::new(),
            last_peer_id: 0,
            asked: BTreeMap::new(),
            events: VecDeque::new(),
            failed: None,
        }
    }

    /// The same, whose own offers ask for this coverage of TCP options. Whatever the peer's offers ask for is accepted.
    pub fn with_tcp_options(self, tcp_options: TcpOptions) -> Self {
        Self { tcp_options, ..self }
    }

    /// Takes in octets of the wire.
    ///
    /// # Errors
    /// [`ExchangeError`], also in all later calls; there may be an alert to send all the same
    /// ([`Exchange::take_output`]), and events of before.
    pub fn receive(&mut self, octets: &[u8]) -> Result<(), ExchangeError> {
        self.guard(|exchange| exchange.take_in(octets))
    }

    /// Octets for the wire.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.transport.take_output()
    }

    /// What happened, in order.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Offers to agree on keys of `connection`, in which our end is `role`, with segments to us under `recv_id` (128 and
    /// above): the number of the offer. Before [`Event::Ready`], too: it is sent as soon as it can be.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn offer(
        &mut self,
        connection: Connection,
        role: Role,
        recv_id: KeyId,
    ) -> Result<u32, ExchangeError> {
        self.guard(|exchange| {
            let connection = connection.canonical();
            exchange.refuse_rivals(&connection, role)?;
            let id = exchange.last_id.checked_add(1).ok_or(ExchangeError::Exhausted)?;
            let offer = Offer {
                id,
                connection,
                role,
                recv_id,
                tcp_options: exchange.tcp_options,
                nonce: random_nonce()?,
            };
            exchange.say(&Message::Offer(offer.clone()))?;
            exchange.last_id = id;
            if exchange.offered.len() >= MAX_OPEN {
                exchange.offered.pop_first();
            }
            exchange.offered.insert(id, OurOffer { offer, progress: Progress::Offered });
            Ok(id)
        })
    }

    /// Accepts the peer's offer `id`, with segments to us under `recv_id` (128 and above): the keys. `None`: no algorithm
    /// is in both lists, and the offer was refused; or it is over.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn accept(&mut self, id: u32, recv_id: KeyId) -> Result<Option<Agreed>, ExchangeError> {
        self.guard(|exchange| {
            let (Some(PeerOffer::Offered(offer)), Some(peer)) = (exchange.asked.get(&id), &exchange.peer)
            else {
                return Ok(None);
            };
            let best = exchange.capabilities.best_common(&peer.capabilities);
            let Some(algorithm) = best.and_then(known_algorithm) else {
                exchange.end_offer(id, Refusal::NoCommonAlgorithm)?;
                return Ok(None);
            };
            let (role, nonce) = (offer.role.other(), random_nonce()?);
            let terms = exchange.terms(offer, algorithm, recv_id, nonce, [&peer.octets, exchange.told()]);
            let (agreed, confirmations) = exchange.keys(&terms, role)?;
            exchange.say(&Message::Accept(Accept {
                id,
                recv_id,
                nonce,
                algorithm: algorithm.name().to_owned(),
                confirmation: confirmations.accepter,
            }))?;
            exchange.asked.insert(id, PeerOffer::Accepted(confirmations.offerer));
            Ok(Some(agreed))
        })
    }

    /// Refuses the peer's offer `id`, also when it was accepted before. Does nothing if it is over.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn refuse(&mut self, id: u32, reason: Refusal) -> Result<(), ExchangeError> {
        self.guard(|exchange| match exchange.asked.contains_key(&id) {
            true => exchange.end_offer(id, reason),
            false => Ok(()),
        })
    }

    /// Proves to the peer that we have the keys of our offer `id`, which it accepted. Does nothing if the offer is over.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn confirm(&mut self, id: u32) -> Result<(), ExchangeError> {
        self.guard(|exchange| {
            let Some(OurOffer { progress, .. }) = exchange.offered.get_mut(&id) else { return Ok(()) };
            let Progress::Accepted(confirmation) = *progress else { return Ok(()) };
            *progress = Progress::Confirmed;
            exchange.say(&Message::Confirm { id, confirmation })
        })
    }

    /// Tells the peer that the keys of its offer `id`, which it confirmed, are in use. Does nothing if the offer is over.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn done(&mut self, id: u32) -> Result<(), ExchangeError> {
        self.guard(|exchange| {
            let Some(PeerOffer::Confirmed) = exchange.asked.get(&id) else { return Ok(()) };
            exchange.asked.remove(&id);
            exchange.say(&Message::Done { id })
        })
    }

    /// Tells the peer that nothing more comes.
    pub fn close(&mut self) {
        self.transport.close();
    }

    /// Does `step`, unless the channel has ended, and ends it if that fails.
    fn guard<R>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<R, ExchangeError>,
    ) -> Result<R, ExchangeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = step(self);
        self.failed = result.as_ref().err().cloned();
        result
    }

    fn take_in(&mut self, octets: &[u8]) -> Result<(), ExchangeError> {
        let received = self.transport.receive(octets);
        if self.transport.is_established() && self.told.is_none() {
            let told =
                Message::Capabilities(self.capabilities.clone()).encode().map_err(ExchangeError::Ours)?;
            self.transport.send(&[&told[..], &mem::take(&mut self.waiting)].concat())?;
            self.told = Some(told);
        }
        let mut input = mem::take(&mut self.input);
        input.extend_from_slice(&self.transport.take_received());
        let mut rest = &input[..];
        while let Some((raw, after)) = Raw::split(rest).map_err(ExchangeError::Peers)? {
            self.hear(raw)?;
            rest = after;
        }
        self.input = rest.to_vec();
        received?;
        if self.transport.is_closed() { Err(ExchangeError::Closed) } else { Ok(()) }
    }

    /// Our offer of `connection` comes before those of the peer that we have not answered, if our end is the lower one.
    fn refuse_rivals(&mut self, connection: &Connection, role: Role) -> Result<(), ExchangeError> {
        if !is_lower(connection, role) {
            return Ok(());
        }
        let is_rival = |asked: &PeerOffer| matches!(asked, PeerOffer::Offered(offer) if offer.connection.is_rival_of(connection));
        let rivals: Vec<_> =
            self.asked.iter().filter(|(_, asked)| is_rival(asked)).map(|(id, _)| *id).collect();
        rivals.into_iter().try_for_each(|id| self.end_offer(id, Refusal::Collision))
    }

    fn end_offer(&mut self, id: u32, reason: Refusal) -> Result<(), ExchangeError> {
        self.asked.remove(&id);
        self.say(&Message::Refuse { id, reason })
    }

    fn say(&mut self, message: &Message) -> Result<(), ExchangeError> {
        let octets = message.encode().map_err(ExchangeError::Ours)?;
        match self.told {
            Some(_) => self.transport.send(&octets)?,
            None => self.waiting.extend(octets),
        }
        Ok(())
    }

    fn told(&self) -> &[u8] {
        self.told.as_deref().unwrap_or_default()
    }

    /// `capabilities`: the offerer's, then the accepter's, as on the wire.
    fn terms(
        &self,
        offer: &Offer,
        algorithm: Algorithm,
        accepter_recv_id: KeyId,
        accept_nonce: Nonce,
        capabilities: [&[u8]; 2],
    ) -> Terms {
        let (client_recv_id, server_recv_id) = match offer.role {
            Role::Client => (offer.recv_id, accepter_recv_id),
            Role::Server => (accepter_recv_id, offer.recv_id),
        };
        let peers = self.peer.as_ref().map_or(0, |peer| peer.capabilities.version);
        let mut hash = Sha256::new();
        capabilities.iter().for_each(|octets| hash.update(octets));
        Terms {
            version: self.capabilities.version.min(peers),
            connection: offer.connection,
            offerer: offer.role,
            client_recv_id,
            server_recv_id,
            tcp_options: offer.tcp_options,
            offer_nonce: offer.nonce,
            accept_nonce,
            algorithm,
            capabilities: hash.finish(),
        }
    }

    fn keys(&self, terms: &Terms, role: Role) -> Result<(Agreed, Confirmations), ExchangeError> {
        let context = terms.context();
        let master_key = self.transport.export(MASTER_KEY_LABEL, &context)?;
        let confirmation_key = self.transport.export(CONFIRMATION_LABEL, &context)?;
        let confirmations =
            Confirmations::new(&confirmation_key, &context).map_err(|_| ExchangeError::Crypto)?;
        Ok((terms.agreed(role, &master_key), confirmations))
    }
}

/// Whether our end of `connection`, which is `role`, is the one with the lower address, then port.
fn is_lower(connection: &Connection, role: Role) -> bool {
    connection.end(role) < connection.end(role.other())
}

fn known_algorithm(name: &str) -> Option<Algorithm> {
    Algorithm::TCP_AO.into_iter().find(|algorithm| algorithm.name() == name)
}

fn random_nonce() -> Result<Nonce, ExchangeError> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|_| ExchangeError::Crypto)?;
    Ok(nonce)
}
