//! What becomes of a message of the peer.

use std::sync::Arc;

use openssl::memcmp;

use super::{
    Event, Exchange, ExchangeError, MAX_OPEN, OurOffer, Peer, PeerOffer, Progress, Transport, is_lower,
    known_algorithm,
};
use crate::kmp::message::{Accept, Confirmation, Message, Offer, Raw, Refusal};

impl<T: Transport> Exchange<T> {
    pub(super) fn hear(&mut self, raw: Raw) -> Result<(), ExchangeError> {
        let version = self.peer.as_ref().map_or(0, |peer| peer.capabilities.version);
        let message = raw.decode(version).map_err(ExchangeError::Peers)?;
        match (message, &self.peer) {
            (Some(Message::Capabilities(capabilities)), None) => {
                let tls = self.transport.summary().ok_or(ExchangeError::Order)?;
                let capabilities = Arc::new(capabilities);
                self.peer = Some(Peer { capabilities: capabilities.clone(), octets: raw.octets.to_vec() });
                self.events.push_back(Event::Ready { peer: capabilities, tls });
                Ok(())
            }
            (_, None) | (Some(Message::Capabilities(_)), Some(_)) => Err(ExchangeError::Order),
            (Some(Message::Offer(offer)), _) => self.on_offer(offer),
            (Some(Message::Accept(accept)), _) => self.on_accept(&accept),
            (Some(Message::Confirm { id, confirmation }), _) => self.on_confirm(id, &confirmation),
            (Some(Message::Done { id }), _) => self.on_done(id),
            (Some(Message::Refuse { id, reason }), _) => self.on_refuse(id, reason),
            // Of a version that we do not speak.
            (None, _) => Ok(()),
        }
    }

    fn on_offer(&mut self, offer: Offer) -> Result<(), ExchangeError> {
        let (id, connection, role) = (offer.id, offer.connection, offer.role.other());
        if id <= self.last_peer_id {
            return Err(ExchangeError::Order);
        }
        self.last_peer_id = id;
        let is_rival = |ours: &OurOffer| {
            matches!(ours.progress, Progress::Offered) && ours.offer.connection.is_rival_of(&connection)
        };
        if self.offered.values().any(is_rival) && is_lower(&connection, role) {
            return self.say(&Message::Refuse { id, reason: Refusal::Collision });
        }
        if self.asked.len() >= MAX_OPEN {
            let answered = |offer: &PeerOffer| !matches!(offer, PeerOffer::Offered(_));
            let Some(oldest) = self.asked.iter().find_map(|(id, offer)| answered(offer).then_some(*id))
            else {
                return self.say(&Message::Refuse { id, reason: Refusal::Busy });
            };
            self.asked.remove(&oldest);
        }
        self.asked.insert(id, PeerOffer::Offered(offer));
        self.events.push_back(Event::Offered { id, connection, role });
        Ok(())
    }

    fn on_accept(&mut self, accept: &Accept) -> Result<(), ExchangeError> {
        let Some(OurOffer { offer, progress }) = self.offered.get(&accept.id) else {
            return self.over(accept.id);
        };
        let (Progress::Offered, Some(peer)) = (progress, &self.peer) else {
            return Err(ExchangeError::Order);
        };
        // What we both know best is settled by what we both told: anything else is a lie.
        let best = peer.capabilities.best_common(&self.capabilities);
        let algorithm = best.filter(|best| *best == accept.algorithm).and_then(known_algorithm);
        let algorithm = algorithm.ok_or(ExchangeError::Downgrade)?;
        let role = offer.role;
        let terms = self.terms(offer, algorithm, accept.recv_id, accept.nonce, [self.told(), &peer.octets]);
        let (agreed, confirmations) = self.keys(&terms, role)?;
        if !memcmp::eq(&confirmations.accepter, &accept.confirmation) {
            return Err(ExchangeError::Mismatch);
        }
        if let Some(ours) = self.offered.get_mut(&accept.id) {
            ours.progress = Progress::Accepted(confirmations.offerer);
        }
        self.events.push_back(Event::Accepted { id: accept.id, agreed });
        Ok(())
    }

    fn on_confirm(&mut self, id: u32, confirmation: &Confirmation) -> Result<(), ExchangeError> {
        match self.asked.get(&id) {
            Some(PeerOffer::Accepted(expected)) if memcmp::eq(expected, confirmation) => {
                self.asked.insert(id, PeerOffer::Confirmed);
                self.events.push_back(Event::Confirmed { id });
                Ok(())
            }
            Some(PeerOffer::Accepted(_)) => {
                self.end_offer(id, Refusal::Mismatch)?;
                Err(ExchangeError::Mismatch)
            }
            Some(_) => Err(ExchangeError::Order),
            None if (1..=self.last_peer_id).contains(&id) => Ok(()),
            None => Err(ExchangeError::UnknownOffer(id)),
        }
    }

    fn on_done(&mut self, id: u32) -> Result<(), ExchangeError> {
        match self.offered.get(&id).map(|ours| &ours.progress) {
            Some(Progress::Confirmed) => {
                self.offered.remove(&id);
                self.events.push_back(Event::Done { id });
                Ok(())
            }
            Some(_) => Err(ExchangeError::Order),
            None => self.over(id),
        }
    }

    fn on_refuse(&mut self, id: u32, reason: Refusal) -> Result<(), ExchangeError> {
        if self.offered.remove(&id).is_none() {
            return self.over(id);
        }
        self.events.push_back(Event::Refused { id, reason });
        Ok(())
    }

    /// An answer to an offer that is over says nothing any more.
    fn over(&self, id: u32) -> Result<(), ExchangeError> {
        if (1..=self.last_id).contains(&id) { Ok(()) } else { Err(ExchangeError::UnknownOffer(id)) }
    }
}
