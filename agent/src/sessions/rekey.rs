//! A session under a changed master key tuple.

use tcpauth_common::{
    layout::{Quartet, Session, SynKey},
    rollover::{NO_ORDER, Rollover},
};

use crate::keys::{Mkt, Role};

/// The session with all its keys derived anew from `mkt` and the ISNs it has; sequence state and
/// counters stay. The connection survives if the peer changes its key before TCP gives up.
pub fn rekey(session: &Session, quartet: &Quartet, mkt: &Mkt) -> Session {
    let mut session = *session;
    session.syn_send = SynKey::default();
    session.syn_recv = SynKey::default();
    session.slots = Session::default().slots;
    session.rollover = Rollover::default();
    if session.flags & Session::LOCAL_ISN != 0 {
        session.syn_send = mkt.syn_send(quartet, session.local_isn);
    }
    if session.flags & Session::SYN_RECV != 0 {
        session.syn_recv = mkt.syn_recv(quartet, session.syn_recv_isn);
    }
    if session.flags & (Session::LOCAL_ISN | Session::PEER_ISN) == Session::LOCAL_ISN | Session::PEER_ISN {
        session.slots[0] = mkt.traffic_slot(quartet, session.local_isn, session.peer_isn, Role::of(&session));
        session.rollover = Rollover { order: NO_ORDER & !3, current: 0, rnext: 0, ..Rollover::default() };
    }
    session
}
