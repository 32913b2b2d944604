//! A session under a changed master key tuple.

use tcpauth_common::layout::{Quartet, Session};

use crate::keys::Mkt;

/// The session with all its keys derived anew from `mkt` and the ISNs it has; sequence state and
/// counters stay. The connection survives if the peer changes its key before TCP gives up.
pub fn rekey(session: &Session, quartet: &Quartet, mkt: &Mkt) -> Session {
    let mut session = *session;
    session.syn = mkt.empty_slot();
    session.traffic = Session::default().traffic;
    if session.flags & Session::LOCAL_ISN != 0 {
        session.syn.send = mkt.syn_send(quartet, session.local_isn);
    }
    if session.flags & Session::SYN_RECV != 0 {
        session.syn.recv = mkt.syn_recv(quartet, session.syn_recv_isn);
    }
    if session.flags & (Session::LOCAL_ISN | Session::PEER_ISN) == Session::LOCAL_ISN | Session::PEER_ISN {
        session.traffic = mkt.traffic_slot(quartet, session.local_isn, session.peer_isn);
    }
    session
}
