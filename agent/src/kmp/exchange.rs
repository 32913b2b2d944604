//! One end of a channel between two daemons: TLS, then [`super::message`]s in their order.

use std::sync::Arc;

use tcpauth_common::KeyId;

use super::{
    agreement::{Agreed, Connection},
    message::{Capabilities, Refusal},
    tls::{Endpoint, Summary, TlsError},
};
use crate::keys::Role;

/// One end of a channel.
pub struct Exchange {}

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

/// Why a channel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// In TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Exchange {
    /// A channel over `endpoint`, on which our end can do `capabilities`.
    pub fn new(endpoint: Endpoint, capabilities: Capabilities) -> Self {
        let _ = (endpoint, capabilities);
        unimplemented!()
    }

    /// Takes in octets of the wire.
    ///
    /// # Errors
    /// [`ExchangeError`]; there may be an alert to send all the same ([`Exchange::take_output`]).
    pub fn receive(&mut self, octets: &[u8]) -> Result<(), ExchangeError> {
        let _ = octets;
        unimplemented!()
    }

    /// Octets for the wire.
    pub fn take_output(&mut self) -> Vec<u8> {
        unimplemented!()
    }

    /// What happened, in order.
    pub fn next_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// Offers to agree on keys of `connection`, in which our end is `role`, with segments to us under `recv_id`: the
    /// number of the offer.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn offer(
        &mut self,
        connection: Connection,
        role: Role,
        recv_id: KeyId,
    ) -> Result<u32, ExchangeError> {
        let _ = (connection, role, recv_id);
        unimplemented!()
    }

    /// Accepts the peer's offer `id`, with segments to us under `recv_id`: the keys. `None`: no algorithm is in both
    /// lists, and the offer was refused.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn accept(&mut self, id: u32, recv_id: KeyId) -> Result<Option<Agreed>, ExchangeError> {
        let _ = (id, recv_id);
        unimplemented!()
    }

    /// Refuses the peer's offer `id`.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn refuse(&mut self, id: u32, reason: Refusal) -> Result<(), ExchangeError> {
        let _ = (id, reason);
        unimplemented!()
    }

    /// Proves to the peer that we have the keys of our offer `id`.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn confirm(&mut self, id: u32) -> Result<(), ExchangeError> {
        let _ = id;
        unimplemented!()
    }

    /// Tells the peer that the keys of its offer `id` are in use.
    ///
    /// # Errors
    /// [`ExchangeError`]
    pub fn done(&mut self, id: u32) -> Result<(), ExchangeError> {
        let _ = id;
        unimplemented!()
    }
}
