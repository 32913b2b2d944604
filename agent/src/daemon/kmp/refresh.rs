//! New keys for sessions that are up.

use std::time::Instant;

use super::{super::Daemon, ChannelId, KmpPeer};
use crate::keys::Role;
use crate::kmp::{Agreed, Connection, Refusal};

/// What is under way.
#[derive(Default)]
pub(in super::super) struct Refresh {}

impl Refresh {
    /// When [`Daemon::on_refresh_time`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        None
    }
}

impl Daemon {
    /// Begins, and gives up, what is due.
    pub(super) fn on_refresh_time(&mut self, _now: Instant) {}

    /// A channel with `peer` is up: by TLS that is new.
    pub(super) fn on_refresh_channel(&mut self, _channel: ChannelId, _peer: KmpPeer) {}

    /// A channel is gone, and what was under way on it.
    pub(super) fn on_refresh_channel_gone(&mut self, _channel: ChannelId, _peer: KmpPeer) {}

    /// The peer offers to agree on keys of a session that is up: [`Daemon::accept_offer`] or
    /// [`Daemon::refuse_offer`].
    pub(super) fn on_refresh_offered(
        &mut self,
        _channel: ChannelId,
        _peer: KmpPeer,
        _id: u32,
        _connection: Connection,
        _role: Role,
    ) {
    }

    /// The peer accepted our offer, and has the keys: [`Daemon::confirm_offer`].
    pub(super) fn on_refresh_accepted(
        &mut self,
        _channel: ChannelId,
        _peer: KmpPeer,
        _id: u32,
        _agreed: Agreed,
    ) {
    }

    /// The peer has the keys of its offer that we accepted: they go into the session, then [`Daemon::done_offer`].
    pub(super) fn on_refresh_confirmed(&mut self, _channel: ChannelId, _peer: KmpPeer, _id: u32) {}

    /// The peer uses the keys of our offer.
    pub(super) fn on_refresh_done(&mut self, _channel: ChannelId, _peer: KmpPeer, _id: u32) {}

    /// The peer refuses our offer.
    pub(super) fn on_refresh_refused(
        &mut self,
        _channel: ChannelId,
        _peer: KmpPeer,
        _id: u32,
        _reason: Refusal,
    ) {
    }
}
