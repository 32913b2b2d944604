//! The keys of a session whose handshake is not over, when its neighbour's chain changes or time goes on.

use tcpauth_common::layout::{Quartet, Session, SynKey};

use super::{
    Now,
    handshake::Handshake,
    plan::{is_agreed, plan},
};
use crate::config::Neighbor;

/// The session with the keys that it has to have now, if they are others than it has. It is replaced whole: no data
/// is under way, and a SYN is sent again. Agreed keys stay.
pub fn half_open(session: &Session, quartet: &Quartet, neighbor: &Neighbor, now: Now) -> Option<Session> {
    if is_agreed(session, neighbor) {
        return None;
    }
    let handshake = Handshake { quartet, neighbor, peer_uses: None, now };
    let mut renewed = *session;
    renewed.flags &= !Session::AGREED;
    if session.flags & Session::LOCAL_ISN != 0 {
        let key = handshake.signed_by(session).filter(|key| key.may_be_sent(now.wall));
        let key = key.or_else(|| neighbor.keys.preferred(now.wall));
        renewed.syn_send = key.map_or(SynKey::default(), |key| handshake.syn_send(key, session.local_isn));
    }
    if !handshake.heard_syn(session).is_some_and(|heard| heard.key.is_accepted(now.wall)) {
        // Sent again, it is held again, and has to verify with a key that is left.
        renewed.flags &= !Session::SYN_RECV;
        renewed.syn_recv = SynKey::default();
    }
    let change = plan(session, quartet, neighbor, now.wall, None);
    if let Some(change) = &change {
        change.apply(&mut renewed, now.monotonic.0);
    }
    let is_same = change.is_none()
        && renewed.flags == session.flags
        && is_same_key(&renewed.syn_send, &session.syn_send)
        && is_same_key(&renewed.syn_recv, &session.syn_recv);
    (!is_same).then_some(renewed)
}

fn is_same_key(a: &SynKey, b: &SynKey) -> bool {
    let what = |key: &SynKey| (key.algorithm, key.key_id, key.rnext_id, key.flags, key.material.words);
    what(a) == what(b)
}
