//! What is asked and answered on channels.

use std::collections::BTreeMap;

use tcpauth_common::KeyId;

use super::{KmpPeer, channel::ChannelId, channels::Channels};
use crate::{
    keys::Role,
    kmp::{Agreed, Connection, Event, Exchange, ExchangeError, Refusal, exchange::MAX_OPEN},
};

/// Why a message could not be sent: the channel is not there (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct NoChannel;

impl Channels {
    /// Offers keys of `connection`, in which our end is `role`, with segments to us under `recv_id`: the number of
    /// the offer.
    ///
    /// # Errors
    /// [`NoChannel`].
    pub fn offer(
        &mut self,
        id: ChannelId,
        connection: Connection,
        role: Role,
        recv_id: KeyId,
    ) -> Result<u32, NoChannel> {
        let offer = self.say(id, |exchange| exchange.offer(connection, role, recv_id))?;
        let ours = &mut self.channels.get_mut(&id).ok_or(NoChannel)?.ours;
        remember(ours, offer, connection);
        self.postpone_idle(id);
        Ok(offer)
    }

    /// Accepts the peer's offer: the keys, or `None` if no algorithm is in both lists, and it was refused.
    ///
    /// # Errors
    /// [`NoChannel`].
    pub fn accept(&mut self, id: ChannelId, offer: u32, recv_id: KeyId) -> Result<Option<Agreed>, NoChannel> {
        self.say(id, |exchange| exchange.accept(offer, recv_id))
    }

    /// Refuses the peer's offer.
    ///
    /// # Errors
    /// [`NoChannel`].
    pub fn refuse(&mut self, id: ChannelId, offer: u32, reason: Refusal) -> Result<(), NoChannel> {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.theirs.remove(&offer);
        }
        self.say(id, |exchange| exchange.refuse(offer, reason))
    }

    /// Proves to the peer that we have the keys of our offer.
    ///
    /// # Errors
    /// [`NoChannel`].
    pub fn confirm(&mut self, id: ChannelId, offer: u32) -> Result<(), NoChannel> {
        self.say(id, |exchange| exchange.confirm(offer))
    }

    /// Tells the peer that the keys of its offer are in use.
    ///
    /// # Errors
    /// [`NoChannel`].
    pub fn done(&mut self, id: ChannelId, offer: u32) -> Result<(), NoChannel> {
        self.say(id, |exchange| exchange.done(offer))
    }

    /// Remembers an offer of the peer.
    pub(super) fn take_in_offer(&mut self, id: ChannelId, offer: u32, connection: Connection) {
        if let Some(channel) = self.channels.get_mut(&id) {
            remember(&mut channel.theirs, offer, connection);
        }
    }

    /// An offer of ours is over: what it was about.
    pub(super) fn end_of_ours(&mut self, id: ChannelId, offer: u32) -> Option<Connection> {
        self.channels.get_mut(&id)?.ours.remove(&offer)
    }

    /// An offer of the peer is over but for our last word: what it was about.
    pub(super) fn end_of_theirs(&mut self, id: ChannelId, offer: u32) -> Option<Connection> {
        self.channels.get_mut(&id)?.theirs.remove(&offer)
    }

    /// What happened next on a channel.
    pub(super) fn next_event(&mut self, id: ChannelId) -> Option<(KmpPeer, Event)> {
        let channel = self.channels.get_mut(&id)?;
        Some((channel.peer, channel.exchange.as_mut()?.next_event()?))
    }

    /// Has the exchange of a channel say something, and sends it.
    pub(super) fn say<T>(
        &mut self,
        id: ChannelId,
        what: impl FnOnce(&mut Exchange) -> Result<T, ExchangeError>,
    ) -> Result<T, NoChannel> {
        let channel = self.channels.get_mut(&id).filter(|channel| channel.failure.is_none());
        let channel = channel.ok_or(NoChannel)?;
        let exchange = channel.exchange.as_mut().ok_or(NoChannel)?;
        let said = what(exchange);
        let failure = match said {
            Ok(said) if channel.line.send(exchange.take_output()) => return Ok(said),
            Ok(_) => "the peer does not read what we send".to_owned(),
            Err(error) => {
                // An alert that tells the peer; it may have gone already.
                let _ = channel.line.send(exchange.take_output());
                error.to_string()
            }
        };
        self.fail(id, failure);
        Err(NoChannel)
    }
}

/// Remembers what an offer is about; the oldest one is forgotten where there are more than an exchange has.
fn remember(offers: &mut BTreeMap<u32, Connection>, offer: u32, connection: Connection) {
    offers.insert(offer, connection);
    if offers.len() > MAX_OPEN {
        offers.pop_first();
    }
}
