//! Which sessions may have agreed keys, and what of them says that they are due. No I/O.

use tcpauth_common::{
    Algorithm,
    layout::{Quartet, Session},
};

use super::planner::{Limits, Seen};
use crate::{
    config::{Kmp, Neighbor, Wire},
    daemon::kmp::{KmpPeer, is_channel},
    sessions::{Monotonic, Progress, progress},
};

/// Whether keys of the neighbour are agreed, and not by what they were `before`. One that is new may have sessions, too:
/// of another one, whose prefix has its address.
pub(super) fn agrees_otherwise(before: Option<&Neighbor>, now: &Neighbor) -> bool {
    let tls = |neighbor: &Neighbor| neighbor.kmp.as_ref().map(|kmp| kmp.tls.clone());
    let is_same = |before: &Neighbor| before.keys == now.keys && tls(before) == tls(now);
    now.kmp.is_some() && !before.is_some_and(is_same)
}

/// Whether keys of this session may be agreed now: its connection is up, in clear, and not that of a channel.
pub(super) fn may_have_agreed_keys(session: &Session, quartet: &Quartet, neighbor: &Neighbor) -> bool {
    let is_signed = session.flags & Session::ADOPTED == 0 || session.authenticated != 0;
    neighbor.wire == Wire::TcpAo
        && neighbor.kmp.is_some()
        && !is_channel(neighbor, quartet)
        && session.flags & Session::BOTH_ISNS == Session::BOTH_ISNS
        && session.phase == Session::OPEN
        && progress(session) == Progress::Established
        && is_signed
}

pub(super) fn has_older_keys(session: &Session) -> bool {
    session.flags & Session::AGREED != 0
        && session.slots.iter().filter(|slot| slot.algorithm != 0).count() > 1
}

pub(super) fn seen(session: &Session, quartet: &Quartet, kmp: &Kmp) -> Seen {
    let is_agreed = session.flags & Session::AGREED != 0;
    let passed = &session.counters.passed;
    let (newest, current, received) =
        (session.rollover.newest(0), session.rollover.current, session.rollover.received);
    Seen {
        peer: KmpPeer::of(session.neighbor, quartet),
        isns: (session.local_isn, session.peer_isn),
        agreed_since: is_agreed.then_some(Monotonic(session.rollover.current_since)),
        segments: [passed.signed_segments, passed.verified_segments],
        is_moving: is_agreed && [current, received].iter().any(|slot| *slot != newest),
        limits: Limits {
            interval: kmp.rekey_interval,
            segments: kmp.rekey_segments,
            is_first: quartet.is_lower(),
        },
    }
}

/// The best algorithm that both have: in our order, and in the peer's. Empty: there is none.
pub(super) fn best_common(ours: &[Algorithm], theirs: &[String]) -> Vec<Algorithm> {
    let in_ours = ours.iter().copied().find(|ours| theirs.iter().any(|theirs| theirs == ours.name()));
    let in_theirs = theirs.iter().find_map(|theirs| ours.iter().copied().find(|ours| theirs == ours.name()));
    in_ours.into_iter().chain(in_theirs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, sessions::testing};

    #[test]
    fn the_best_algorithm_is_either_ends_best() {
        let ours = [Algorithm::HmacSha256_128, Algorithm::Aes128Cmac96, Algorithm::HmacSha1_96];
        let best = |theirs: &[&str]| {
            best_common(&ours, &theirs.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(best(&["hmac-sha-1-96", "unheard-of"]), [Algorithm::HmacSha1_96; 2]);
        assert_eq!(
            best(&["unheard-of", "aes-128-cmac-96", "hmac-sha-256-128"]),
            [Algorithm::HmacSha256_128, Algorithm::Aes128Cmac96],
            "whoever accepts chooses"
        );
        assert_eq!(best(&["unheard-of"]), []);
    }

    #[test]
    fn keys_are_agreed_of_sessions_that_are_up_and_in_clear() {
        let quartet = testing::quartet(false);
        let mut neighbor = testing::neighbor("192.0.2.1");
        let up = Session { flags: Session::LOCAL_ISN | Session::PEER_ISN, ..Session::default() };
        assert!(!may_have_agreed_keys(&up, &quartet, &neighbor), "by the chain");
        neighbor.kmp = Some(testing::kmp().into());
        assert!(may_have_agreed_keys(&up, &quartet, &neighbor));
        for session in [
            Session { flags: Session::LOCAL_ISN, ..up },
            Session { phase: Session::HANDSHAKE, ..up },
            Session { phase: Session::SWITCHING, ..up },
            Session { seen: Session::RST_RECEIVED, ..up },
            Session { seen: Session::FIN_SENT, ..up },
            Session { flags: up.flags | Session::ADOPTED, ..up },
        ] {
            assert!(!may_have_agreed_keys(&session, &quartet, &neighbor));
        }
        let signed = Session { flags: up.flags | Session::ADOPTED, authenticated: 1, ..up };
        assert!(may_have_agreed_keys(&signed, &quartet, &neighbor));
        let channel = Quartet { local_port: 40_000, peer_port: testing::kmp().port, ..quartet };
        assert!(!may_have_agreed_keys(&up, &channel, &neighbor));
    }

    #[test]
    fn a_session_moves_until_both_ends_send_with_its_newest_keys() {
        let kmp = testing::kmp();
        let session = |flags: u32, current: u32, received: u32| {
            let mut session = Session { flags, ..Session::default() };
            session.rollover.order = 2 | 1 << 2 | 3 << 4;
            (session.rollover.current, session.rollover.received) = (current, received);
            session.rollover.current_since = 7;
            seen(&session, &testing::quartet(false), &kmp)
        };
        let agreed = Session::AGREED;
        assert!(
            !session(agreed, 2, 2).is_moving
                && session(agreed, 2, 1).is_moving
                && session(agreed, 1, 2).is_moving
        );
        assert_eq!(session(agreed, 2, 2).agreed_since, Some(Monotonic(7)));
        assert_eq!(session(0, 1, 1).agreed_since, None);
        assert!(!session(0, 1, 1).is_moving);
    }

    fn neighbor(password: &str, mode: &str) -> Neighbor {
        let text =
            format!("[neighbor.\"192.0.2.1\"]\npassword = \"{password}\"\nkey-management = \"{mode}\"\n");
        Config::parse(&text, std::path::Path::new("test.toml")).ok().unwrap().neighbors.remove(0)
    }

    #[test]
    fn another_secret_asks_for_new_keys_and_so_does_another_owner() {
        let now = neighbor("secret", "external");
        for (before, expected) in [
            (Some(neighbor("secret", "external")), false),
            (Some(neighbor("another", "external")), true),
            (Some(neighbor("secret", "implicit")), true),
            (None, true),
        ] {
            assert_eq!(agrees_otherwise(before.as_ref(), &now), expected);
        }
        assert!(!agrees_otherwise(Some(&now), &neighbor("another", "implicit")));
        assert!(!agrees_otherwise(None, &neighbor("secret", "implicit")));
    }
}
