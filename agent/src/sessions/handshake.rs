//! The keys of a handshake: which one signs our SYN, which one the peer signed with, and which one answers.

use jiff::Timestamp;
use tcpauth_common::{
    DropReason, Isn, KeyId,
    layout::{KeyMaterial, Quartet, Session, SynKey},
    rollover::{NO_SLOT, may_send},
    sequence::ExtendedSeq,
};

use super::{
    Now, Segment, Signature,
    plan::{asked_for, derived_slot, has_traffic_keys, identify, plan_keeping},
};
use crate::{
    config::{Neighbor, Wire},
    keys::{ChainKey, KeyChain, Mkt},
};

/// What the keys of a connection are chosen from, while it begins.
pub(super) struct Handshake<'a> {
    pub quartet: &'a Quartet,
    pub neighbor: &'a Neighbor,
    /// The key that the neighbour last signed with, by number.
    pub peer_uses: Option<u32>,
    pub now: Now,
}

/// What a segment of the peer told by verifying.
#[derive(Clone, Copy)]
pub(super) struct Heard<'a> {
    /// The key that signed it.
    pub key: &'a ChainKey,
    /// Its RNextKeyID; `None` with TCP-MD5.
    pub rnext_id: Option<KeyId>,
}

/// Returns the key that signs our SYN: the one that the neighbor last signed with, `peer_uses` by its number, because it
/// surely has that one; else the preferred one.
pub fn our_syn_key(chain: &KeyChain, peer_uses: Option<u32>, now: Timestamp) -> Option<&ChainKey> {
    let peers = peer_uses.and_then(|number| chain.key(number));
    peers.filter(|key| key.may_be_sent(now)).or_else(|| chain.preferred(now))
}

impl<'a> Handshake<'a> {
    /// The key that signs our SYN.
    pub fn our_syn_key(&self) -> Option<&'a ChainKey> {
        our_syn_key(&self.neighbor.keys, self.peer_uses, self.wall())
    }

    /// The [`Session::syn_send`] of a SYN that `key` signs; none with TCP-MD5.
    pub fn syn_send(&self, key: &ChainKey, isn: Isn) -> SynKey {
        if self.neighbor.wire == Wire::TcpMd5 {
            return SynKey::default();
        }
        let keys = self.usable(&[key.number]);
        let asked_for = asked_for(&keys, self.neighbor.keys.preferred(self.wall()), self.wall());
        let rnext_id = asked_for.map_or(key.mkt.recv_id, |asked_for| asked_for.mkt.recv_id);
        SynKey { rnext_id, ..key.mkt.syn_send(self.quartet, isn) }
    }

    /// The [`Session::syn_recv`] of a SYN that was heard. With TCP-MD5 it is the ids alone, by which the key is
    /// known again when our end answers.
    pub fn syn_recv(&self, heard: &Heard, isn: Isn) -> SynKey {
        let mkt = &heard.key.mkt;
        match heard.rnext_id {
            Some(rnext_id) => SynKey { rnext_id, ..mkt.syn_recv(self.quartet, isn) },
            None => SynKey { key_id: mkt.recv_id, rnext_id: mkt.send_id, ..SynKey::default() },
        }
    }

    /// The key of the chain that our SYN, on its way or answered, was signed with.
    pub fn signed_by(&self, session: &Session) -> Option<&'a ChainKey> {
        if session.syn_send.algorithm == 0 {
            let held = identify(session, self.quartet, &self.neighbor.keys);
            let current = held.get(session.rollover.current as usize).copied().flatten();
            return current.and_then(|number| self.neighbor.keys.key(number));
        }
        our_syn_signer(session, self.quartet, self.neighbor)
    }

    /// What the peer's SYN, which had verified when it came, told; `None` if its key is gone.
    pub fn heard_syn(&self, session: &Session) -> Option<Heard<'a>> {
        let key = syn_signer(session, self.quartet, self.neighbor)?;
        let rnext_id = (self.neighbor.wire == Wire::TcpAo).then_some(session.syn_recv.rnext_id);
        Some(Heard { key, rnext_id })
    }

    /// Verifies a SYN of the peer.
    ///
    /// # Errors
    /// The reason for which it has to be dropped.
    pub fn verify_syn(&self, segment: &Segment) -> Result<Heard<'a>, DropReason> {
        self.verify(segment, &[], |key| key.mkt.syn_recv(self.quartet, segment.isn()).material)
    }

    /// Verifies the peer's answer to the SYN of `session`, which knows the peer's ISN from it.
    ///
    /// # Errors
    /// The reason for which it has to be dropped.
    pub fn verify_answer(&self, segment: &Segment, session: &Session) -> Result<Heard<'a>, DropReason> {
        let ours = self.signed_by(session).map(|key| key.number);
        self.verify(segment, ours.as_slice(), |key| derived_slot(session, self.quartet, key).recv)
    }

    /// Gives `session` the traffic keys that its ISNs give, if it is time. What it sends with is settled by the
    /// handshake: `ours` signed our SYN, the peer's `heard` segment names what it wishes to be answered with.
    pub fn give_keys(&self, session: &mut Session, ours: Option<&ChainKey>, heard: Option<Heard>) {
        let in_use: Vec<u32> =
            ours.into_iter().chain(heard.map(|heard| heard.key)).map(|key| key.number).collect();
        let change = plan_keeping(session, self.quartet, self.neighbor, self.wall(), &in_use);
        if let Some(change) = change {
            change.apply(session, self.now.monotonic.0);
        }
        if !has_traffic_keys(session, self.neighbor.wire) {
            return;
        }
        let held = identify(session, self.quartet, &self.neighbor.keys);
        let slot_of = |key: &ChainKey| {
            held.iter().position(|number| *number == Some(key.number)).map_or(NO_SLOT, |slot| slot as u32)
        };
        let Session { rollover, slots, recv_seq, .. } = session;
        let first = ours.or(heard.map(|heard| heard.key)).map_or(NO_SLOT, slot_of);
        if may_send(slots, first) {
            rollover.current = first;
            rollover.current_since = self.now.monotonic.0;
        }
        if let Some(Heard { key, rnext_id }) = heard
            && let slot @ 0..NO_SLOT = slot_of(key)
        {
            let begin = ExtendedSeq(*recv_seq);
            rollover.on_verified(slots, slot, rnext_id, begin, begin, self.now.monotonic.0);
        }
    }

    fn verify(
        &self,
        segment: &Segment,
        in_use: &[u32],
        key_of: impl Fn(&ChainKey) -> KeyMaterial,
    ) -> Result<Heard<'a>, DropReason> {
        let signature = segment.signature(self.neighbor.wire)?;
        let mut refusal = DropReason::UnknownKeyId;
        for key in self.usable(in_use).into_iter().filter(|key| key.is_accepted(self.wall())) {
            let (checked, rnext_id) = match signature {
                Signature::Md5 => (segment.check_digest(&key.mkt, self.quartet), None),
                Signature::Ao { key_id, .. } if key_id != key.mkt.recv_id => continue,
                Signature::Ao { len, .. } if len != key.mkt.algorithm.option_len() => {
                    (Err(DropReason::WrongLength), None)
                }
                Signature::Ao { rnext_id, .. } => {
                    (segment.check_mac(&key.mkt, self.quartet, &key_of(key)), Some(rnext_id))
                }
            };
            match checked {
                Ok(()) => return Ok(Heard { key, rnext_id }),
                // That one was computed says more.
                Err(DropReason::WrongLength) if refusal == DropReason::WrongMac => {}
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }

    /// The keys that a session may have now, the newest first.
    fn usable(&self, in_use: &[u32]) -> Vec<&'a ChainKey> {
        let in_use: Vec<u32> = self.peer_uses.into_iter().chain(in_use.iter().copied()).collect();
        self.neighbor.keys.usable(self.wall(), &in_use)
    }

    fn wall(&self) -> Timestamp {
        self.now.wall
    }
}

/// The key of the chain that our SYN of TCP-AO was signed with; `None` if there was no SYN, or its key is gone.
pub(super) fn our_syn_signer<'a>(
    session: &Session,
    quartet: &Quartet,
    neighbor: &'a Neighbor,
) -> Option<&'a ChainKey> {
    with_syn_key(neighbor, &session.syn_send, |mkt| mkt.syn_send(quartet, session.local_isn))
}

/// The key of the chain that the peer's SYN had verified with; `None` if there was no SYN, or its key is gone.
pub(super) fn syn_signer<'a>(
    session: &Session,
    quartet: &Quartet,
    neighbor: &'a Neighbor,
) -> Option<&'a ChainKey> {
    if session.flags & Session::SYN_RECV == 0 {
        return None;
    }
    let syn = &session.syn_recv;
    if neighbor.wire == Wire::TcpMd5 {
        let ids = (syn.key_id, syn.rnext_id);
        let keys = neighbor.keys.newest_first();
        return keys.into_iter().find(|key| (key.mkt.recv_id, key.mkt.send_id) == ids);
    }
    with_syn_key(neighbor, syn, |mkt| mkt.syn_recv(quartet, session.syn_recv_isn))
}

/// The key of the chain that gives this SYN key.
fn with_syn_key<'a>(
    neighbor: &'a Neighbor,
    syn_key: &SynKey,
    derive: impl Fn(&Mkt) -> SynKey,
) -> Option<&'a ChainKey> {
    let what = |key: &SynKey| (key.algorithm, key.key_id, key.flags);
    neighbor.keys.newest_first().into_iter().find(|key| {
        let derived = derive(&key.mkt);
        what(&derived) == what(syn_key) && derived.material.words == syn_key.material.words
    })
}
