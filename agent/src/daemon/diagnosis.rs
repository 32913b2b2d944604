//! "BGP just stays in Active": why, in one line.

use std::time::Duration;

use tcpauth_common::{DropReason, layout::Session};

use super::meaning::{Carried, Refused, meaning};
use crate::{
    config::Wire,
    control::words::NeighborState,
    sessions::{Monotonic, Progress, progress},
};

/// A drop this old says nothing about now: TCP and BGP try again more often.
const RECENT: Duration = Duration::from_secs(300);
/// A session on which only refused segments arrive for this long is failing; before, it may be a forger.
const LASTING: Duration = Duration::from_secs(30);
/// What [`DropReason::NoKey`] means where keys are agreed.
const NOT_AGREED: &str = "a connection began for which no keys were agreed: is key-management the same on both sides, and \
                          does tcpauthd run there?";

/// What handshakes of a neighbour failed for, for an operator; nothing if that says nothing about now.
pub fn failed_handshake(text: &str, attempts: u32, ago: Duration) -> Option<String> {
    let times = if attempts == 1 { "once".to_owned() } else { format!("{attempts} times") };
    (ago <= RECENT).then(|| {
        format!("no keys can be agreed with its daemon ({times}, last {} s ago): {text}", ago.as_secs())
    })
}

/// Times that a segment is sent again without an answer before a session counts as stalled.
const STALLED: u8 = 3;

/// Why a session stalls if the path's MTU is probably the reason, for an operator. `times`: how often its oldest segment has
/// been sent again; `icmp`: how long ago an ICMP error about a session of the neighbor was dropped.
pub fn small_path_mtu(times: u8, icmp: Option<Duration>) -> Option<String> {
    (times >= STALLED && icmp? <= RECENT).then(|| {
        format!(
            "a segment was sent again {times} times without an answer, while ICMP errors are ignored (RFC 5925, 7.8): the path's \
             MTU is probably smaller than the interface's; `sysctl -w net.ipv4.tcp_mtu_probing=1`, or lower the MSS in the \
             BGP daemon"
        )
    })
}

/// What is known of a neighbour.
pub struct Evidence<'a> {
    /// Its sessions.
    pub sessions: &'a [Session],
    /// Its last drop.
    pub last_drop: Option<&'a DropSeen>,
    /// How many segments were dropped for the last drop's reason.
    pub same_reason: u64,
    /// Segments verified so far.
    pub verified: u64,
    /// KeyID that its segments have to carry.
    pub recv_id: u8,
    /// The option that its segments have to carry.
    pub wire: Wire,
    /// Whether the MAC covers TCP options.
    pub covers_options: bool,
    /// Interface it is bound to that does not exist or is not protected, and why.
    pub interface_problem: Option<String>,
    /// Why no key of it serves, if none does.
    pub closed: Option<String>,
    /// Whether its keys are agreed in a handshake.
    pub agrees_keys: bool,
    /// What handshakes failed for lately, if the last one did.
    pub handshake: Option<String>,
    /// What else there is to say: about its keys, and its interface, although it is protected.
    pub notices: Vec<String>,
    /// Port of its sessions.
    pub port: u16,
    /// This moment.
    pub now: Monotonic,
}

/// A drop as remembered.
#[derive(Clone, Debug)]
pub struct DropSeen {
    /// When.
    pub time: Monotonic,
    /// Since when nothing verified while segments were dropped.
    pub since: Monotonic,
    /// Why.
    pub reason: DropReason,
    /// Which way it was going.
    pub outbound: bool,
    /// KeyID of the option, if it had one.
    pub key_id: Option<u8>,
    /// Segments of the neighbour that had verified by then.
    pub verified: u64,
    /// Which authentication options it carried.
    pub carried: Carried,
    /// Whether nothing but SYNs was dropped since.
    pub only_syns: bool,
    /// Ends of the connection, as shown.
    pub segment: String,
}

/// State in one word, and the reason in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// In one word.
    pub state: NeighborState,
    /// For an operator, or nothing.
    pub reason: Option<String>,
}

/// Why a neighbour is not established, if it is not.
pub fn diagnose(evidence: &Evidence<'_>) -> Diagnosis {
    let Diagnosis { state, reason } = match &evidence.closed {
        Some(reason) => Diagnosis { state: NeighborState::Closed, reason: Some(reason.clone()) },
        None => diagnose_sessions(evidence),
    };
    let parts: Vec<String> = reason.into_iter().chain(evidence.notices.iter().cloned()).collect();
    Diagnosis { state, reason: (!parts.is_empty()).then(|| parts.join("; ")) }
}

fn diagnose_sessions(evidence: &Evidence<'_>) -> Diagnosis {
    let trouble = evidence.trouble();
    // One that closes hides no attempt that fails.
    let established = evidence.sessions.iter().any(|session| match progress(session) {
        Progress::Established => true,
        Progress::Closing => trouble.is_none(),
        _ => false,
    });
    if established {
        let lasting = evidence.last_drop.is_some_and(|drop| {
            evidence.verified <= drop.verified
                && drop.time.since(drop.since) > LASTING
                && evidence.now.since(drop.time) < LASTING
        });
        let outbound = evidence.last_drop.is_some_and(|drop| drop.outbound);
        return match trouble {
            Some(reason) if lasting => Diagnosis { state: NeighborState::Failing, reason: Some(reason) },
            Some(reason) if outbound => Diagnosis { state: NeighborState::Established, reason: Some(reason) },
            Some(reason) => {
                let reason = format!("{reason}; or somebody forges them (nothing verified since)");
                Diagnosis { state: NeighborState::Established, reason: Some(reason) }
            }
            None => Diagnosis { state: NeighborState::Established, reason: evidence.handshake.clone() },
        };
    }
    if let Some(reason) = &evidence.interface_problem {
        return Diagnosis { state: NeighborState::Failing, reason: Some(reason.clone()) };
    }
    // That there are no keys follows from why none could be agreed.
    let follows = evidence
        .last_drop
        .is_some_and(|drop| matches!(drop.reason, DropReason::NoKey | DropReason::HeldTooLong));
    let handshake = evidence.handshake.clone();
    let reason = if follows { handshake.or(trouble) } else { trouble.or(handshake) };
    if let Some(reason) = reason {
        return Diagnosis { state: NeighborState::Failing, reason: Some(reason) };
    }
    evidence.newest_attempt()
}

impl Evidence<'_> {
    /// What the last drop means, if it is recent and nothing has shown since that it is over: for what arrives, a
    /// segment that verified; for what our end sends, a session that came up. (The peer's attempts verify meanwhile.)
    fn trouble(&self) -> Option<String> {
        let drop = self.last_drop?;
        // Why a handshake failed is known better than that segments of it were dropped then.
        let harmless =
            matches!(drop.reason, DropReason::Icmp | DropReason::OutsideWindow | DropReason::Handshake);
        let age = self.now.since(drop.time);
        let over = match drop.outbound {
            false => self.verified > drop.verified,
            true => self
                .sessions
                .iter()
                .any(|session| progress(session) == Progress::Established && session.created > drop.time.0),
        };
        if harmless || age > RECENT || over {
            return None;
        }
        let meaning = match drop.reason {
            DropReason::NoKey if self.agrees_keys => NOT_AGREED.to_owned(),
            reason => meaning(&Refused {
                reason,
                outbound: drop.outbound,
                key_id: drop.key_id,
                recv_id: self.recv_id,
                wire: self.wire,
                carried: drop.carried,
                may_be_clamped: drop.only_syns && self.covers_options,
            }),
        };
        let (what, why) = meaning.split_once(": ").unwrap_or((&meaning, ""));
        let separator = if why.is_empty() { "" } else { ": " };
        Some(format!("{what} ({}, last {} s ago){separator}{why}", self.same_reason.max(1), age.as_secs()))
    }

    fn newest_attempt(&self) -> Diagnosis {
        let Some(session) = self.sessions.iter().max_by_key(|session| session.created) else {
            let reason =
                "no connection attempt seen: does a BGP daemon run, here or there, with this neighbour?";
            return Diagnosis { state: NeighborState::Idle, reason: Some(reason.to_owned()) };
        };
        let age = self.now.since(Monotonic(session.created)).as_secs();
        let idle = self.now.since(Monotonic(session.last_segment)).as_secs();
        let (state, reason) = match progress(session) {
            Progress::SynSent => (
                NeighborState::Connecting,
                format!(
                    "SYN sent {age} s ago, no answer: peer down, filtered, or it refuses our MAC (look at its tcpauth \
                     status; a router with TCP-AO of its own refuses in silence, also if nothing listens: on Linux look at \
                     `nstat -az 'TcpExtTCPAO*'` and the trace events tcp:tcp_ao_* there)"
                ),
            ),
            Progress::SynReceived => (
                NeighborState::Connecting,
                format!(
                    "SYN of the peer verified {age} s ago, our end does not answer: is a BGP daemon listening \
                     on port {}?",
                    self.port
                ),
            ),
            Progress::Handshake => (
                NeighborState::Connecting,
                format!("keys are being agreed on the connection, which began {age} s ago"),
            ),
            Progress::Failed => (
                NeighborState::Failing,
                format!(
                    "no keys were agreed on the connection, which ended {idle} s ago: the log of tcpauthd, here \
                     or there, says why"
                ),
            ),
            _ if session.seen & Session::RST_SENT != 0 => (
                NeighborState::Idle,
                format!(
                    "our end refused or reset the connection {idle} s ago: the BGP daemon does not listen or \
                     does not have this neighbour"
                ),
            ),
            _ if session.seen & Session::RST_RECEIVED != 0 => (
                NeighborState::Idle,
                format!(
                    "the peer refused or reset the connection {idle} s ago (the keys agree): look at the BGP \
                     daemons' logs"
                ),
            ),
            _ => (
                NeighborState::Idle,
                format!(
                    "the connection was closed {idle} s ago (the keys agree): look at the BGP daemons' logs"
                ),
            ),
        };
        Diagnosis { state, reason: Some(reason) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: Monotonic = Monotonic(1000 * SECOND);

    fn ago(seconds: u64) -> Monotonic {
        Monotonic(NOW.0 - seconds * SECOND)
    }

    fn session(flags: u32, seen: u32, age: u64) -> Session {
        let time = ago(age).0;
        Session { flags, seen, created: time, last_segment: time, ..Session::default() }
    }

    fn seen(reason: DropReason, since: u64, last: u64) -> DropSeen {
        DropSeen {
            time: ago(last),
            since: ago(since),
            reason,
            outbound: false,
            key_id: Some(7),
            verified: 5,
            carried: Carried::Unknown,
            only_syns: true,
            segment: "a > b".to_owned(),
        }
    }

    fn diagnosed(sessions: &[Session], last_drop: Option<&DropSeen>, verified: u64) -> (String, String) {
        diagnosed_with(sessions, last_drop, verified, None)
    }

    fn diagnosed_with(
        sessions: &[Session],
        last_drop: Option<&DropSeen>,
        verified: u64,
        handshake: Option<&str>,
    ) -> (String, String) {
        let diagnosis = diagnose(&Evidence {
            sessions,
            last_drop,
            same_reason: 12,
            verified,
            recv_id: 1,
            wire: Wire::TcpAo,
            covers_options: true,
            interface_problem: None,
            closed: None,
            agrees_keys: handshake.is_some(),
            handshake: handshake.map(str::to_owned),
            notices: Vec::new(),
            port: 179,
            now: NOW,
        });
        (diagnosis.state.to_string(), diagnosis.reason.unwrap_or_default())
    }

    #[test]
    fn a_stall_with_icmp_errors_is_told_with_its_remedy() {
        let told = small_path_mtu(3, Some(Duration::from_secs(9))).unwrap();
        assert!(told.contains("tcp_mtu_probing=1"), "{told}");
        assert_eq!(small_path_mtu(2, Some(Duration::from_secs(9))), None);
        assert_eq!(small_path_mtu(9, Some(Duration::from_secs(301))), None);
        assert_eq!(small_path_mtu(9, None), None);
    }

    #[test]
    fn a_wrong_password_is_told() {
        let (state, reason) =
            diagnosed(&[session(Session::LOCAL_ISN, 0, 12)], Some(&seen(DropReason::WrongMac, 9, 1)), 5);
        assert_eq!(state, "failing");
        assert!(
            reason.starts_with("segments arrive with a wrong MAC (12, last 1 s ago): the password differs")
        );
    }

    #[test]
    fn a_handshake_that_fails_is_told_with_what_follows_from_it() {
        let said = failed_handshake("TCP port 17179 is closed", 3, Duration::from_secs(12)).unwrap();
        let expected =
            "no keys can be agreed with its daemon (3 times, last 12 s ago): TCP port 17179 is closed";
        assert_eq!(said, expected);
        assert_eq!(failed_handshake("old", 1, Duration::from_secs(301)), None);
        let told = ("failing".to_owned(), expected.to_owned());
        assert_eq!(diagnosed_with(&[], None, 5, Some(&said)), told);
        // No keys: that is what comes of it.
        let drop = DropSeen { outbound: true, ..seen(DropReason::NoKey, 9, 1) };
        assert_eq!(diagnosed_with(&[], Some(&drop), 5, Some(&said)), told);
        // A wrong MAC is what it comes from.
        let (state, reason) = diagnosed_with(&[], Some(&seen(DropReason::WrongMac, 9, 1)), 5, Some(&said));
        assert!(state == "failing" && reason.contains("password differs"), "{reason}");
        // Sessions that are up go on.
        let up = [session(Session::LOCAL_ISN | Session::PEER_ISN, 0, 60)];
        assert_eq!(
            diagnosed_with(&up, None, 5, Some(&said)),
            ("established".to_owned(), expected.to_owned())
        );
    }

    #[test]
    fn a_connection_without_agreed_keys_is_told_without_talk_of_lifetimes() {
        let drop = seen(DropReason::NoKey, 9, 1);
        let evidence = Evidence {
            sessions: &[],
            last_drop: Some(&drop),
            same_reason: 1,
            verified: 5,
            recv_id: 1,
            wire: Wire::TcpAo,
            covers_options: true,
            interface_problem: None,
            closed: None,
            agrees_keys: true,
            handshake: None,
            notices: Vec::new(),
            port: 179,
            now: NOW,
        };
        let reason = diagnose(&evidence).reason.unwrap();
        assert!(reason.contains("is key-management the same on both sides"), "{reason}");
        let implicit = Evidence { agrees_keys: false, ..evidence };
        assert!(diagnose(&implicit).reason.unwrap().contains("may be used now"));
    }

    #[test]
    fn an_unknown_key_id_is_told_with_both_numbers() {
        let (state, reason) = diagnosed(&[], Some(&seen(DropReason::UnknownKeyId, 9, 2)), 5);
        assert_eq!(state, "failing");
        assert!(
            reason
                .starts_with("unknown KeyID 7 (12, last 2 s ago): the peer's send-id is not our recv-id (1)")
        );
    }

    #[test]
    fn an_unanswered_syn_is_told() {
        let (state, reason) = diagnosed(&[session(Session::LOCAL_ISN, 0, 12)], None, 0);
        assert_eq!(state, "connecting");
        assert!(reason.starts_with("SYN sent 12 s ago, no answer"));
    }

    #[test]
    fn forged_segments_do_not_make_an_established_session_fail_at_once() {
        let up = [session(Session::LOCAL_ISN | Session::PEER_ISN, 0, 60)];
        assert_eq!(diagnosed(&up, None, 5), ("established".to_owned(), String::new()));
        assert_eq!(diagnosed(&up, Some(&seen(DropReason::WrongMac, 2, 1)), 5).0, "established");
        assert_eq!(diagnosed(&up, Some(&seen(DropReason::WrongMac, 40, 1)), 5).0, "failing");
        // Something verified after the drop.
        assert_eq!(
            diagnosed(&up, Some(&seen(DropReason::WrongMac, 40, 1)), 6),
            ("established".to_owned(), String::new())
        );
    }

    #[test]
    fn a_password_in_our_own_bgp_daemon_is_told_although_the_peers_syns_verify() {
        let drop = DropSeen { outbound: true, ..seen(DropReason::OptionTwice, 9, 2) };
        let half_open = session(Session::PEER_ISN, 0, 3);
        let (state, reason) = diagnosed(&[half_open], Some(&drop), 9);
        assert_eq!(state, "failing");
        assert!(reason.starts_with("our BGP daemon has a password for this neighbour"), "{reason}");
        assert!(reason.ends_with("remove it there"), "{reason}");

        let both = Session::LOCAL_ISN | Session::PEER_ISN;
        // One from before it goes on; one from after it shows that it is over.
        let (state, reason) = diagnosed(&[session(both, 0, 60)], Some(&drop), 9);
        assert_eq!(state, "established");
        assert!(reason.contains("our BGP daemon") && !reason.contains("forges"), "{reason}");
        assert_eq!(
            diagnosed(&[session(both, 0, 1)], Some(&drop), 9),
            ("established".to_owned(), String::new())
        );
    }

    #[test]
    fn who_began_a_connection_too_early_is_told() {
        let ours = DropSeen { outbound: true, ..seen(DropReason::NoSession, 9, 2) };
        assert!(diagnosed(&[], Some(&ours), 5).1.starts_with("our BGP daemon's connection began before"));
        let theirs = seen(DropReason::NoSession, 9, 2);
        assert!(!diagnosed(&[], Some(&theirs), 5).1.contains("our BGP daemon"));
    }

    #[test]
    fn a_session_that_closes_hides_no_attempt_that_fails() {
        let closing = [session(Session::LOCAL_ISN | Session::PEER_ISN, Session::FIN_SENT, 60)];
        assert_eq!(diagnosed(&closing, None, 5).0, "established");
        assert_eq!(diagnosed(&closing, Some(&seen(DropReason::WrongMac, 2, 1)), 5).0, "failing");
    }

    #[test]
    fn old_and_harmless_drops_are_not_the_reason() {
        assert_eq!(diagnosed(&[], Some(&seen(DropReason::WrongMac, 400, 301)), 5).0, "idle");
        assert_eq!(diagnosed(&[], Some(&seen(DropReason::Icmp, 4, 1)), 5).0, "idle");
    }

    #[test]
    fn a_refused_connection_is_told_from_a_closed_one() {
        let both = Session::LOCAL_ISN | Session::PEER_ISN;
        assert!(
            diagnosed(&[session(both, Session::RST_RECEIVED, 3)], None, 0).1.contains("the peer refused")
        );
        assert!(diagnosed(&[session(both, Session::RST_SENT, 3)], None, 0).1.contains("our end refused"));
        assert!(diagnosed(&[session(both, 3, 3)], None, 0).1.contains("closed 3 s ago"));
    }

    #[test]
    fn keys_that_are_agreed_on_the_connection_are_told_of() {
        let both = Session::LOCAL_ISN | Session::PEER_ISN;
        for (phase, state, reason) in [
            (Session::HANDSHAKE, "connecting", "being agreed on the connection, which began 3 s ago"),
            (Session::SWITCHING, "connecting", "being agreed"),
            (Session::FAILED, "failing", "no keys were agreed on the connection, which ended 3 s ago"),
        ] {
            // A reset that ended it is not the reason, nor what was dropped after its end.
            let session = Session { phase, ..session(both, Session::RST_SENT, 3) };
            let (told, why) = diagnosed(&[session], Some(&seen(DropReason::Handshake, 3, 1)), 0);
            assert_eq!(told, state);
            assert!(why.contains(reason), "{why}");
        }
    }
}
