//! Which of a session's keys a segment is for, or that it has to be held until the daemon has one.

use crate::{
    Algorithm, DropReason, KeyId, SeqNumber,
    layout::{KeySlot, MAX_KEYS, Session},
    rollover::{NO_ORDER, Rollover, slot_at},
};

/// TCP flags, the octet at offset 13 of the header.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 0x10;
}

/// What a segment needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChoice {
    /// The SYN key: the other end's ISN counts as 0, and the SNE is 0.
    Syn,
    /// The traffic key of both ISNs.
    Traffic,
    /// A key that only the daemon can derive.
    Hold,
    /// No key can exist.
    Refuse(DropReason),
}

/// The key of a segment that arrives, with these TCP flags, sequence and acknowledgment numbers (RFC 5925 §7.5).
#[inline(always)]
pub const fn inbound(session: Option<&Session>, flags: u8, seq: SeqNumber, ack: SeqNumber) -> KeyChoice {
    if is_first_syn(flags) && flags & (flag::RST | flag::FIN) != 0 {
        // The key of a SYN outlives what it is for, and must not end a connection.
        return KeyChoice::Refuse(DropReason::Malformed);
    }
    let Some(session) = session else {
        return if is_first_syn(flags) { KeyChoice::Hold } else { KeyChoice::Refuse(DropReason::NoSession) };
    };
    if is_first_syn(flags) {
        let known = session.flags & Session::SYN_RECV != 0 && session.syn_recv_isn.0 == seq.0;
        // Nothing comes of a connection on which no keys were agreed: a new one takes its place.
        let is_to_begin_anew = session.phase == Session::FAILED && session.peer_isn.0 != seq.0;
        return if known && !is_to_begin_anew { KeyChoice::Syn } else { KeyChoice::Hold };
    }
    if session.flags & Session::LOCAL_ISN == 0 {
        return KeyChoice::Refuse(DropReason::NoSession);
    }
    if session.flags & Session::PEER_ISN == 0 {
        // Our SYN is under way: its answer brings the peer's ISN, a refusal has its own number for one. Both
        // acknowledge our SYN: who has not seen it cannot keep the daemon busy.
        let acknowledges = flags & flag::ACK != 0 && ack.0 == session.local_isn.0.wrapping_add(1);
        return if flags & (flag::SYN | flag::RST) == 0 {
            KeyChoice::Refuse(DropReason::NoSession)
        } else if acknowledges {
            KeyChoice::Hold
        } else {
            KeyChoice::Refuse(DropReason::OutsideWindow)
        };
    }
    KeyChoice::Traffic
}

/// The key of a segment that leaves, with these TCP flags, sequence and acknowledgment numbers (RFC 5925 §7.4).
#[inline(always)]
pub const fn outbound(session: Option<&Session>, flags: u8, seq: SeqNumber, ack: SeqNumber) -> KeyChoice {
    let Some(session) = session else {
        return if is_first_syn(flags) { KeyChoice::Hold } else { KeyChoice::Refuse(DropReason::NoSession) };
    };
    let local_known = session.flags & Session::LOCAL_ISN != 0;
    let peer_known = session.flags & Session::PEER_ISN != 0;
    if is_first_syn(flags) {
        return if local_known && session.local_isn.0 == seq.0 { KeyChoice::Syn } else { KeyChoice::Hold };
    }
    // A SYN of the peer is answered by a SYN-ACK, or by an RST if there is no listener. Any other segment belongs to the
    // connection, even if it happens to acknowledge the ISN of a replayed SYN.
    let can_answer = flags & (flag::SYN | flag::RST) != 0;
    let answered = ack.0.wrapping_sub(1);
    let answers_last_syn =
        can_answer && session.flags & Session::SYN_RECV != 0 && answered == session.syn_recv_isn.0;
    let answers_peer_isn = peer_known && answered == session.peer_isn.0;
    let is_of_this_connection = local_known && peer_known && (!answers_last_syn || answers_peer_isn);
    let is_answer = can_answer && (answers_last_syn || answers_peer_isn);
    let may_be_signed = flags & flag::SYN == 0 || session.local_isn.0 == seq.0;
    if is_of_this_connection && may_be_signed {
        KeyChoice::Traffic
    } else if is_answer {
        KeyChoice::Hold
    } else {
        KeyChoice::Refuse(DropReason::NoSession)
    }
}

/// The slots whose keys a segment may be under, in the form of [`Rollover::order`]: those that are accepted, have
/// its KeyID (`None`: TCP-MD5 has none) and make its option as long as it is: with what fills whole words, octets.
/// RFC 5925 §3.3.
///
/// # Errors
/// [`DropReason::NoKey`], [`DropReason::UnknownKeyId`] or [`DropReason::WrongLength`], the first that holds.
#[inline(always)]
pub fn candidates(
    rollover: &Rollover,
    slots: &[KeySlot; MAX_KEYS],
    key_id: Option<KeyId>,
    option_len: u32,
) -> Result<u32, DropReason> {
    let (mut candidates, mut at, mut age) = (NO_ORDER, 0, 0);
    let mut reason = DropReason::NoKey;
    while age < MAX_KEYS as u32 {
        let number = rollover.newest(age);
        age += 1;
        let Some(slot) = slot_at(slots, number) else { continue };
        let Some(algorithm) = Algorithm::from_number(slot.algorithm) else { continue };
        let is_of_this_wire = matches!(algorithm, Algorithm::Md5) == key_id.is_none();
        if slot.flags & KeySlot::ACCEPT == 0 || !is_of_this_wire {
            continue;
        }
        let is_named = match key_id {
            Some(key_id) => slot.recv_id.0 == key_id.0,
            None => true,
        };
        if !is_named {
            if matches!(reason, DropReason::NoKey) {
                reason = DropReason::UnknownKeyId;
            }
        } else if algorithm.option_len() as u32 != option_len {
            reason = DropReason::WrongLength;
        } else {
            candidates = (candidates & !(3 << at)) | (number << at);
            at += 2;
        }
    }
    if candidates == NO_ORDER { Err(reason) } else { Ok(candidates) }
}

/// Whether the segment opens a connection: SYN without ACK.
#[inline(always)]
pub const fn is_first_syn(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK) == flag::SYN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isn;

    const SYN_ACK: u8 = flag::SYN | flag::ACK;
    const NO_SESSION: KeyChoice = KeyChoice::Refuse(DropReason::NoSession);

    fn session(flags: u32) -> Session {
        Session {
            flags,
            local_isn: Isn(1000),
            peer_isn: Isn(2000),
            syn_recv_isn: Isn(2000),
            ..Session::default()
        }
    }

    fn outbound_choice(session: &Session, flags: u8, seq: u32, ack: u32) -> KeyChoice {
        outbound(Some(session), flags, SeqNumber(seq), SeqNumber(ack))
    }

    /// Of a segment that acknowledges our SYN, if anything.
    fn inbound_choice(session: &Session, flags: u8, seq: u32) -> KeyChoice {
        inbound(Some(session), flags, SeqNumber(seq), SeqNumber(1001))
    }

    #[test]
    fn only_a_syn_can_be_without_a_session() {
        for flags in 0..=255 {
            let wanted = if flags & SYN_ACK == flag::SYN { KeyChoice::Hold } else { NO_SESSION };
            let ends = flags & SYN_ACK == flag::SYN && flags & (flag::RST | flag::FIN) != 0;
            let malformed = KeyChoice::Refuse(DropReason::Malformed);
            let inbound = inbound(None, flags, SeqNumber(1), SeqNumber(1));
            assert_eq!(inbound, if ends { malformed } else { wanted });
            assert_eq!(outbound(None, flags, SeqNumber(1), SeqNumber(1)), wanted);
        }
    }

    #[test]
    fn client_from_syn_to_data() {
        let mut client = session(Session::LOCAL_ISN);
        assert_eq!(outbound_choice(&client, flag::SYN, 1000, 0), KeyChoice::Syn);
        assert_eq!(outbound_choice(&client, flag::SYN, 1001, 0), KeyChoice::Hold, "a new connection");
        assert_eq!(inbound_choice(&client, SYN_ACK, 7), KeyChoice::Hold);
        assert_eq!(inbound_choice(&client, flag::RST | flag::ACK, 0), KeyChoice::Hold, "refused");
        assert_eq!(inbound_choice(&client, flag::ACK, 7), NO_SESSION);
        let outside = KeyChoice::Refuse(DropReason::OutsideWindow);
        for ack in [0, 1000, 1002] {
            let choice = inbound(Some(&client), SYN_ACK, SeqNumber(7), SeqNumber(ack));
            assert_eq!(choice, outside, "not an answer to our SYN");
        }
        assert_eq!(inbound_choice(&client, flag::RST, 0), outside, "acknowledges nothing");
        client.flags |= Session::PEER_ISN;
        assert_eq!(outbound_choice(&client, flag::ACK, 1001, 2001), KeyChoice::Traffic);
        assert_eq!(inbound_choice(&client, SYN_ACK, 2000), KeyChoice::Traffic, "retransmitted");
    }

    #[test]
    fn server_from_syn_to_data() {
        let mut server = session(Session::PEER_ISN | Session::SYN_RECV);
        assert_eq!(inbound_choice(&server, flag::SYN, 2000), KeyChoice::Syn, "retransmitted");
        assert_eq!(inbound_choice(&server, flag::SYN, 2001), KeyChoice::Hold, "another");
        assert_eq!(inbound_choice(&server, flag::ACK, 2001), NO_SESSION);
        assert_eq!(outbound_choice(&server, SYN_ACK, 1000, 2001), KeyChoice::Hold);
        assert_eq!(
            outbound_choice(&server, flag::RST | flag::ACK, 0, 2001),
            KeyChoice::Hold,
            "nobody listens"
        );
        server.flags |= Session::LOCAL_ISN;
        assert_eq!(outbound_choice(&server, SYN_ACK, 1000, 2001), KeyChoice::Traffic);
        assert_eq!(outbound_choice(&server, SYN_ACK, 1001, 2001), KeyChoice::Hold, "SYN cookie, another ISN");
        assert_eq!(inbound_choice(&server, flag::ACK, 2001), KeyChoice::Traffic);
    }

    #[test]
    fn new_syn_on_the_quartet_of_a_live_session() {
        let mut old = session(Session::LOCAL_ISN | Session::PEER_ISN | Session::SYN_RECV);
        assert_eq!(inbound_choice(&old, flag::SYN, 9000), KeyChoice::Hold);
        old.syn_recv_isn = Isn(9000);
        assert_eq!(inbound_choice(&old, flag::SYN, 9000), KeyChoice::Syn);
        assert_eq!(outbound_choice(&old, flag::ACK, 1500, 2500), KeyChoice::Traffic, "challenge ACK");
        assert_eq!(outbound_choice(&old, SYN_ACK, 5, 9001), KeyChoice::Hold, "the new connection");
        assert_eq!(outbound_choice(&old, flag::RST | flag::ACK, 0, 9001), KeyChoice::Hold, "refused");
    }

    #[test]
    fn data_that_acknowledges_the_isn_of_a_replayed_syn_keeps_its_key() {
        let mut session = session(Session::LOCAL_ISN | Session::PEER_ISN | Session::SYN_RECV);
        session.syn_recv_isn = Isn(9000);
        for flags in [flag::ACK, flag::ACK | flag::FIN] {
            assert_eq!(outbound_choice(&session, flags, 1500, 9001), KeyChoice::Traffic);
        }
    }

    #[test]
    fn a_new_syn_takes_the_place_of_a_connection_without_keys() {
        let mut old = session(Session::LOCAL_ISN | Session::PEER_ISN | Session::SYN_RECV);
        old.phase = Session::FAILED;
        assert_eq!(inbound_choice(&old, flag::SYN, 2000), KeyChoice::Syn, "its own, sent again");
        assert_eq!(inbound_choice(&old, flag::SYN, 9000), KeyChoice::Hold);
        old.syn_recv_isn = Isn(9000);
        assert_eq!(inbound_choice(&old, flag::SYN, 9000), KeyChoice::Hold, "heard before it failed");
        assert_eq!(outbound_choice(&old, flag::SYN, 1000, 0), KeyChoice::Syn);
        assert_eq!(outbound_choice(&old, flag::SYN, 1001, 0), KeyChoice::Hold);
    }

    #[test]
    fn an_old_syn_played_again_does_not_keep_the_answer_back() {
        let mut server = session(Session::PEER_ISN | Session::SYN_RECV);
        server.syn_recv_isn = Isn(1);
        assert_eq!(outbound_choice(&server, SYN_ACK, 1000, 2001), KeyChoice::Hold);
        assert_eq!(outbound_choice(&server, SYN_ACK, 1000, 2002), NO_SESSION);
    }

    #[test]
    fn simultaneous_open() {
        let mut end = session(Session::LOCAL_ISN);
        assert_eq!(inbound_choice(&end, flag::SYN, 2000), KeyChoice::Hold);
        end.flags |= Session::PEER_ISN | Session::SYN_RECV;
        assert_eq!(outbound_choice(&end, SYN_ACK, 1000, 2001), KeyChoice::Traffic);
        assert_eq!(inbound_choice(&end, SYN_ACK, 2000), KeyChoice::Traffic);
    }
}
