//! Where the keys of a held segment come from, where keys are agreed beside the connection.

use tcpauth_common::{
    DropReason,
    key_choice::flag::{ACK, RST, SYN},
    layout::{Direction, Held, Quartet, Session},
};

use super::associations::{Association, Associations, Begun};
use crate::{
    config::{Fallback, KeyManagement, Neighbor},
    keys::{KeyChain, Role},
    sessions::{Progress, Segment, Signature, progress, with_agreed},
};

/// Where the keys of a held segment come from. Holds secrets: no `Debug`.
pub(in super::super) enum Route {
    /// From the neighbour's chain.
    Chain,
    /// They were agreed: of this connection, and the neighbour with no other keys.
    Agreed(Begun, Box<Neighbor>),
    /// From the chain, as none could be agreed, and the neighbour's `fallback` allows it.
    Fallback,
    /// They have to be agreed first.
    Wait,
    /// They were agreed by a daemon that is no more: the connection has to begin anew.
    Lost,
    /// There are none.
    Refuse(DropReason),
}

/// Where the keys of a held segment of `neighbor` come from. `is_hopeless`: lately none could be agreed for want of a
/// channel, and there still is none.
pub fn route(
    held: &Held,
    frame: &[u8],
    neighbor: &Neighbor,
    existing: Option<&Session>,
    associations: &Associations,
    is_hopeless: bool,
) -> Route {
    if neighbor.key_management != KeyManagement::External || is_channel(neighbor, &held.quartet) {
        return Route::Chain;
    }
    let segment = match Segment::parse(held, frame) {
        Ok(segment) => segment,
        Err(reason) => return Route::Refuse(reason),
    };
    let outbound = held.direction == Direction::Outbound as u8;
    let client_isn = client_isn(&segment, outbound, existing);
    let begun = Begun { quartet: held.quartet, client_isn };
    let key_id = match segment.signature(neighbor.wire) {
        Ok(Signature::Ao { key_id, .. }) => Some(key_id.0),
        _ => None,
    };
    if let Some(association) = associations.of(&begun) {
        // The peer's daemon offered the keys and then, as our answer was late, fell back: its SYN says so. It has to
        // verify all the same, and until it has, what was agreed is kept.
        let is_by_chain = key_id.is_some_and(|id| has_id(&neighbor.keys, id));
        let withdraws = !outbound && segment.flags() & (SYN | ACK) == SYN && is_by_chain;
        if association.role == Role::Server && withdraws && falls_back(neighbor) {
            return Route::Fallback;
        }
        let other = crossing(associations, &begun.quartet, association.role, existing);
        // The key of the end with the lower address, then port, is asked for by both ends.
        let mut mkts = vec![&association.mkt];
        let is_lower = begun.quartet.is_lower();
        let at = if (association.role == Role::Client) == is_lower { 0 } else { mkts.len() };
        other.into_iter().for_each(|other| mkts.insert(at, &other.mkt));
        return Route::Agreed(begun, Box::new(with_agreed(neighbor, mkts)));
    }
    let is_syn = segment.flags() & SYN != 0;
    let unknown = Unknown { neighbor, existing, key_id, isn: is_syn.then(|| segment.isn().0) };
    match (segment.flags() & (SYN | ACK), outbound) {
        (SYN, true) => unknown.our_syn(client_isn, is_hopeless),
        (SYN, false) => unknown.peers_syn(),
        (_, true) => unknown.our_answer(client_isn),
        (_, false) => unknown.peers_answer(),
    }
}

/// What was agreed for the other end's SYN, if both ends open the same connection at once: either may be signed with
/// then, and the session has both.
fn crossing<'a>(
    associations: &'a Associations,
    quartet: &Quartet,
    role: Role,
    existing: Option<&Session>,
) -> Option<&'a Association> {
    let session = existing?;
    let mut others = associations.of_quartet(quartet).filter(|other| other.role != role);
    match (role, session.flags & Session::BOTH_ISNS) {
        // Its SYN may have been lost.
        (Role::Client, Session::LOCAL_ISN) => others.last(),
        (Role::Client, Session::PEER_ISN) => others.find(|other| other.client_isn == session.peer_isn.0),
        (Role::Server, Session::LOCAL_ISN) => others.find(|other| other.client_isn == session.local_isn.0),
        _ => None,
    }
}

/// What decides about a segment of a connection without agreed keys.
struct Unknown<'a> {
    neighbor: &'a Neighbor,
    existing: Option<&'a Session>,
    /// Of the segment, if it has an option.
    key_id: Option<u8>,
    /// Of the segment, if it is a SYN.
    isn: Option<u32>,
}

impl Unknown<'_> {
    fn our_syn(&self, isn: u32, is_hopeless: bool) -> Route {
        match self.existing {
            // It was held twice.
            Some(session) if session.flags & Session::LOCAL_ISN != 0 && session.local_isn.0 == isn => {
                Route::Chain
            }
            _ if is_hopeless && falls_back(self.neighbor) => Route::Fallback,
            _ => Route::Wait,
        }
    }

    fn peers_syn(&self) -> Route {
        if falls_back(self.neighbor) && self.key_id.is_some_and(|id| has_id(&self.neighbor.keys, id)) {
            Route::Fallback
        } else {
            Route::Refuse(DropReason::NoKey)
        }
    }

    /// The SYN which it answers verified with a key of the chain, or with one that was agreed.
    fn our_answer(&self, client_isn: u32) -> Route {
        match self.existing {
            Some(session) if is_of_chain(session, client_isn, &self.neighbor.keys) => Route::Fallback,
            // It was held twice. One with another ISN is of a connection whose keys nobody has.
            Some(session)
                if progress(session) == Progress::Established
                    && !answers_new_syn(session, client_isn)
                    && self.isn.is_none_or(|isn| (isn, client_isn) == isns(session)) =>
            {
                Route::Chain
            }
            Some(_) => Route::Lost,
            None => Route::Refuse(DropReason::NoSession),
        }
    }

    fn peers_answer(&self) -> Route {
        match self.existing {
            // The answer was held twice, or came while its keys were on their way.
            Some(session) if session.flags & Session::BOTH_ISNS == Session::BOTH_ISNS => Route::Chain,
            Some(session) if is_agreed(session) => Route::Lost,
            Some(_) => Route::Fallback,
            None => Route::Refuse(DropReason::NoSession),
        }
    }
}

/// Whether a neighbour's connections get keys of the chain if none can be agreed.
pub(super) fn falls_back(neighbor: &Neighbor) -> bool {
    neighbor.kmp.as_ref().is_some_and(|kmp| kmp.fallback == Fallback::Implicit)
}

/// Whether the connection that began with this ISN of its client has keys of the chain.
pub(super) fn has_fallen_back(session: &Session, client_isn: u32, neighbor: &Neighbor) -> bool {
    let client = if session.flags & Session::CLIENT != 0 {
        (Session::LOCAL_ISN, session.local_isn)
    } else {
        (Session::PEER_ISN, session.peer_isn)
    };
    let is_its = session.flags & client.0 != 0 && client.1.0 == client_isn && !is_agreed(session);
    is_its || is_of_chain(session, client_isn, &neighbor.keys)
}

/// Whether a connection is the channel to the neighbour's daemon: its keys come from the chain.
pub(in super::super) fn is_channel(neighbor: &Neighbor, quartet: &Quartet) -> bool {
    let is_end = |port: u16| [quartet.local_port, quartet.peer_port].contains(&port);
    neighbor.kmp.as_ref().is_some_and(|kmp| is_end(kmp.port)) && !is_end(neighbor.port)
}

/// The ISN of the client of the connection that a held segment is of.
fn client_isn(segment: &Segment<'_>, outbound: bool, existing: Option<&Session>) -> u32 {
    let acknowledged = segment.ack().wrapping_sub(1);
    let session = existing.filter(|session| session.flags & Session::LOCAL_ISN != 0);
    match (segment.flags() & (SYN | RST | ACK), session) {
        (SYN, _) => segment.isn().0,
        (flags, Some(session)) if outbound && flags & RST != 0 && flags & ACK == 0 => session.peer_isn.0,
        // What it answers: the peer's SYN, or ours.
        _ => acknowledged,
    }
}

/// Our ISN, and the peer's.
fn isns(session: &Session) -> (u32, u32) {
    (session.local_isn.0, session.peer_isn.0)
}

/// Whether a session's keys were agreed.
pub(super) fn is_agreed(session: &Session) -> bool {
    session.flags & Session::AGREED != 0
}

/// Whether an answer to the peer's SYN with this ISN is to a SYN that verified with a key of the chain.
fn is_of_chain(session: &Session, client_isn: u32, chain: &KeyChain) -> bool {
    session.flags & Session::SYN_RECV != 0
        && session.syn_recv_isn.0 == client_isn
        && has_id(chain, session.syn_recv.key_id.0)
}

fn answers_new_syn(session: &Session, client_isn: u32) -> bool {
    session.flags & Session::SYN_RECV != 0
        && session.syn_recv_isn.0 == client_isn
        && session.peer_isn.0 != client_isn
}

fn has_id(chain: &KeyChain, id: u8) -> bool {
    chain.keys.iter().any(|key| key.mkt.recv_id.0 == id)
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc, time::Instant};

    use tcpauth_common::{Algorithm, Isn, KeyId};

    use super::{
        super::{KmpPeer, channel::ChannelId},
        *,
    };
    use crate::{
        config::Config,
        keys::Mkt,
        kmp::{Agreed, Connection},
        sessions::{
            Outcome, on_held,
            testing::{Draft, mirrored, mkt, now, quartet},
        },
    };

    const OURS: u32 = 1000;
    const THEIRS: u32 = 2000;
    const SYN_ACK: u8 = SYN | ACK;

    fn external(fallback: &str) -> Neighbor {
        let text = format!(
            "[neighbor.\"192.0.2.1\"]\npassword = \"secret\"\nkey-management = \"external\"\nfallback = \"{fallback}\"\n"
        );
        Config::parse(&text, std::path::Path::new("test.toml")).ok().unwrap().neighbors.remove(0)
    }

    fn agreed_mkt(id: u8) -> Mkt {
        Mkt { send_id: KeyId(id), recv_id: KeyId(id + 1), ..mkt("agreed", Algorithm::HmacSha256_128) }
    }

    /// Keys that were agreed for the SYNs with these ISNs.
    fn agreed(with: &[(Role, u32, u8)]) -> Associations {
        let mut associations = Associations::default();
        for (role, client_isn, id) in with {
            let begun = Begun { quartet: quartet(false), client_isn: *client_isn };
            let end = SocketAddr::from(([192, 0, 2, 1], 179));
            let connection =
                Connection { client: end, server: end, client_isn: Isn(*client_isn), server_isn: None };
            let agreed = Agreed { connection, role: *role, mkt: agreed_mkt(*id) };
            let peer = KmpPeer::of(1, &begun.quartet);
            associations.insert(begun, peer, ChannelId(1), agreed, Instant::now());
        }
        associations
    }

    fn of(
        draft: &Draft,
        neighbor: &Neighbor,
        existing: Option<&Session>,
        associations: &Associations,
    ) -> Route {
        let (held, frame) = draft.hold();
        route(&held, &frame, neighbor, existing, associations, false)
    }

    /// What was decided, and under which KeyIDs segments to us are accepted.
    fn name(route: &Route) -> (&'static str, Vec<u8>) {
        let name = match route {
            Route::Chain => "chain",
            Route::Agreed(_, neighbor) => {
                return ("agreed", neighbor.keys.keys.iter().map(|key| key.mkt.recv_id.0).collect());
            }
            Route::Fallback => "fallback",
            Route::Wait => "wait",
            Route::Lost => "lost",
            Route::Refuse(reason) => reason.name(),
        };
        (name, Vec::new())
    }

    fn syn(direction: Direction, isn: u32) -> Draft {
        Draft::new(direction, SYN, isn, 0)
    }

    /// A SYN of the peer under the neighbour's own key, whose KeyID is 1.
    fn syn_of_chain(neighbor: &Neighbor) -> Draft {
        let key = mirrored(&neighbor.keys.first().clone());
        let material = key.syn_send(&quartet(false), Isn(THEIRS)).material;
        syn(Direction::Inbound, THEIRS).signed(&key, material)
    }

    fn session(flags: u32) -> Session {
        Session { flags, local_isn: Isn(OURS), peer_isn: Isn(THEIRS), ..Session::default() }
    }

    #[test]
    fn our_syn_waits_until_its_keys_are_agreed() {
        let neighbor = external("never");
        let draft = syn(Direction::Outbound, OURS);
        assert_eq!(name(&of(&draft, &neighbor, None, &agreed(&[]))).0, "wait");
        assert_eq!(name(&of(&draft, &neighbor, None, &agreed(&[(Role::Client, OURS + 1, 128)]))).0, "wait");
        let found = of(&draft, &neighbor, None, &agreed(&[(Role::Client, OURS, 128)]));
        assert_eq!(name(&found), ("agreed", vec![129]));
        let held_twice = session(Session::LOCAL_ISN | Session::AGREED);
        assert_eq!(name(&of(&draft, &neighbor, Some(&held_twice), &agreed(&[]))).0, "chain");
        let (held, frame) = draft.hold();
        for (fallback, expected) in [("never", "wait"), ("implicit", "fallback")] {
            let found = route(&held, &frame, &external(fallback), None, &agreed(&[]), true);
            assert_eq!(name(&found).0, expected, "without a channel for long, with fallback {fallback}");
        }
    }

    #[test]
    fn the_channel_and_other_neighbours_have_keys_of_the_chain() {
        let mut neighbor = external("never");
        let mut draft = syn(Direction::Outbound, OURS);
        let port = neighbor.kmp.as_ref().unwrap().port;
        draft.quartet.peer_port = port;
        assert_eq!(name(&of(&draft, &neighbor, None, &agreed(&[]))).0, "chain");
        draft.quartet.local_port = 179;
        assert_eq!(
            name(&of(&draft, &neighbor, None, &agreed(&[]))).0,
            "wait",
            "a session from a strange port"
        );
        draft.quartet = quartet(false);
        neighbor.key_management = KeyManagement::Layered;
        assert_eq!(name(&of(&draft, &neighbor, None, &agreed(&[]))).0, "chain");
    }

    #[test]
    fn a_syn_of_the_peer_needs_agreed_keys_unless_fallback_allows_others() {
        let (never, implicit) = (external("never"), external("implicit"));
        let unsigned = syn(Direction::Inbound, THEIRS);
        for (draft, neighbor, expected) in [
            (&unsigned, &never, "no-key"),
            (&unsigned, &implicit, "no-key"),
            (&syn_of_chain(&never), &never, "no-key"),
            (&syn_of_chain(&implicit), &implicit, "fallback"),
        ] {
            assert_eq!(name(&of(draft, neighbor, None, &agreed(&[]))).0, expected);
        }
        let associations = agreed(&[(Role::Server, THEIRS, 128)]);
        // Whatever it is signed with, that has to verify. A key of the chain says that the peer fell back meanwhile.
        for (draft, neighbor, expected) in [
            (&unsigned, &implicit, "agreed"),
            (&syn_of_chain(&never), &never, "agreed"),
            (&syn_of_chain(&implicit), &implicit, "fallback"),
        ] {
            assert_eq!(name(&of(draft, neighbor, None, &associations)).0, expected);
        }
    }

    #[test]
    fn an_answer_has_the_keys_of_the_syn_that_it_answers() {
        let neighbor = external("never");
        let ours = Draft::new(Direction::Outbound, SYN_ACK, OURS, THEIRS + 1);
        let theirs = Draft::new(Direction::Inbound, SYN_ACK, THEIRS, OURS + 1);
        let anew = Draft::new(Direction::Outbound, SYN_ACK, OURS + 5, THEIRS + 1);
        let (sent, heard) = (Session::LOCAL_ISN, Session::PEER_ISN | Session::SYN_RECV);
        let associations = agreed(&[(Role::Server, THEIRS, 128), (Role::Client, OURS, 130)]);
        let nothing = agreed(&[]);
        let mut of_chain = session(heard);
        of_chain.syn_recv_isn = Isn(THEIRS);
        of_chain.syn_recv.key_id = neighbor.keys.first().recv_id;
        for (draft, existing, associations, expected) in [
            (&ours, session(heard | Session::AGREED), &associations, ("agreed", vec![129])),
            (&ours, session(heard | Session::AGREED), &nothing, ("lost", vec![])),
            (&ours, of_chain, &nothing, ("fallback", vec![])),
            (&theirs, session(sent | Session::AGREED), &nothing, ("lost", vec![])),
            (&theirs, session(sent), &nothing, ("fallback", vec![])),
            (&theirs, session(Session::BOTH_ISNS | Session::AGREED), &nothing, ("chain", vec![])),
            (&ours, session(Session::BOTH_ISNS | Session::AGREED), &nothing, ("chain", vec![])),
            // The peer's SYN, played again to a stack that has forgotten it.
            (&anew, session(Session::BOTH_ISNS | Session::AGREED), &nothing, ("lost", vec![])),
        ] {
            assert_eq!(name(&of(draft, &neighbor, Some(&existing), associations)), expected);
        }
        // Perhaps both ends opened it, and the peer's SYN is lost.
        let found = of(&theirs, &neighbor, Some(&session(sent | Session::AGREED)), &associations);
        assert_eq!(name(&found).0, "agreed");
    }

    #[test]
    fn of_a_connection_that_both_ends_open_either_key_serves_and_both_ask_for_the_same() {
        // Our end has the higher address here, and the lower one there.
        let ours = quartet(false);
        let theirs = Quartet {
            local: ours.peer,
            peer: ours.local,
            local_port: ours.peer_port,
            peer_port: ours.local_port,
            scope: 0,
        };
        let neighbor = external("never");
        let mut ends = Vec::new();
        for (quartet, near, far) in [(ours, (OURS, 128), (THEIRS, 140)), (theirs, (THEIRS, 140), (OURS, 128))]
        {
            let mut associations = Associations::default();
            for (role, (isn, id)) in [(Role::Client, near), (Role::Server, far)] {
                let mkt = match role {
                    Role::Client => agreed_mkt(id),
                    Role::Server => mirrored(&agreed_mkt(id)),
                };
                let begun = Begun { quartet, client_isn: isn };
                let end = SocketAddr::from(([192, 0, 2, 1], 179));
                let connection =
                    Connection { client: end, server: end, client_isn: Isn(isn), server_isn: None };
                let agreed = Agreed { connection, role, mkt };
                associations.insert(begun, KmpPeer::of(1, &quartet), ChannelId(1), agreed, Instant::now());
            }
            ends.push((quartet, near, far, associations, None::<Session>));
        }
        // Both SYNs leave, then both arrive.
        for inbound in [false, true] {
            for (quartet, near, far, associations, session) in &mut ends {
                let (direction, isn) =
                    if inbound { (Direction::Inbound, far.0) } else { (Direction::Outbound, near.0) };
                let mut draft = Draft { quartet: *quartet, ..syn(direction, isn) };
                if inbound {
                    let mkt = agreed_mkt(far.1);
                    let key = mirrored(&mkt).syn_recv(quartet, Isn(isn)).material;
                    draft = draft.signed(&mkt, key);
                }
                let (held, frame) = draft.hold();
                let Route::Agreed(_, keys) =
                    route(&held, &frame, &neighbor, session.as_ref(), associations, false)
                else {
                    panic!("not agreed")
                };
                match on_held(&held, &frame, &keys, session.as_ref(), None, now()) {
                    Outcome::Install(installed) => *session = Some(*installed),
                    Outcome::Refuse(reason) => panic!("{reason:?}"),
                    _ => panic!("not installed"),
                }
            }
        }
        let [one, other] = [&ends[0], &ends[1]].map(|end| end.4.unwrap());
        let asked_for = |session: &Session| session.slots[session.rollover.rnext as usize];
        assert_eq!(asked_for(&one).recv_id, asked_for(&other).send_id);
        for slot in one.slots.iter().filter(|slot| slot.algorithm != 0) {
            let found = other.slots.iter().find(|other| other.recv_id == slot.send_id).unwrap();
            assert_eq!((slot.send.words, slot.recv.words), (found.recv.words, found.send.words));
        }
        assert_eq!(one.slots.iter().filter(|slot| slot.algorithm != 0).count(), 2);
    }

    #[test]
    fn chains_are_not_touched() {
        let neighbor = external("never");
        let Route::Agreed(_, with) =
            of(&syn(Direction::Outbound, OURS), &neighbor, None, &agreed(&[(Role::Client, OURS, 128)]))
        else {
            panic!("not agreed")
        };
        assert_eq!(with.keys.keys.len(), 1);
        assert!(!Arc::ptr_eq(&with.keys, &neighbor.keys));
        assert_eq!(with.kmp, neighbor.kmp);
    }
}
