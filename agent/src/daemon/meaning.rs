//! What it probably means that a segment was dropped, in the words of an operator.

use tcpauth_common::{DropReason, layout::Dropped};

use crate::config::Wire;

/// Which authentication options a dropped segment carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carried {
    /// It is not known.
    #[default]
    Unknown,
    /// None.
    Nothing,
    /// TCP-AO.
    Ao,
    /// TCP-MD5.
    Md5,
}

impl Carried {
    /// As a program reports it.
    pub fn of(dropped: &Dropped) -> Self {
        match dropped.options {
            Dropped::NO_OPTION => Self::Nothing,
            Dropped::AO_OPTION => Self::Ao,
            Dropped::MD5_OPTION => Self::Md5,
            _ => Self::Unknown,
        }
    }
}

/// A segment that was dropped, as far as its meaning depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Why.
    pub reason: DropReason,
    /// Whether it came from our end.
    pub outbound: bool,
    /// KeyID of its option, if it had one.
    pub key_id: Option<u8>,
    /// KeyID that the neighbor's segments have to carry.
    pub recv_id: u8,
    /// The option that the neighbor's segments have to carry.
    pub wire: Wire,
    /// Which authentication options it carried.
    pub carried: Carried,
    /// Whether only SYNs have been refused of late, and the MAC covers their options: a router that changes the MSS would
    /// do that.
    pub may_be_clamped: bool,
}

/// What a drop probably means, for an operator.
pub fn meaning(refused: &Refused) -> String {
    let &Refused { reason, outbound, key_id, recv_id, .. } = refused;
    match reason {
        DropReason::OptionTwice if outbound => {
            "our BGP daemon has a password for this neighbour (TCP-MD5 or TCP-AO): remove it there".to_owned()
        }
        DropReason::NoSession if outbound => {
            "our BGP daemon's connection began before tcpauth ran: it ends at its hold time, or restart the \
             session in the BGP daemon"
                .to_owned()
        }
        DropReason::WrongInterface if outbound => {
            "segments would leave by another interface than the configured one: check `interface` and routing"
                .to_owned()
        }
        DropReason::NoOption => other_option(refused).to_owned(),
        DropReason::UnknownKeyId => match key_id {
            Some(id) => format!(
                "unknown KeyID {id}: the peer's send-id is not our recv-id ({recv_id}); set them equal on both sides"
            ),
            None => format!("unknown KeyID: the peer's send-id is not our recv-id ({recv_id})"),
        },
        DropReason::WrongMac => {
            let differs = "segments arrive with a wrong MAC: the password differs on the two sides (or algorithm, \
                           tcp-options, or addresses by NAT)";
            let clamped = "; or a router between changes the MSS of SYNs: set `tcp-options = \"exclude\"` on both sides";
            format!("{differs}{}", if refused.may_be_clamped { clamped } else { "" })
        }
        DropReason::WrongLength => {
            "the option's length is not our algorithm's: the algorithm differs on the two sides".to_owned()
        }
        DropReason::OutsideWindow => {
            "segments arrive from outside the window: old duplicates, or somebody forges segments".to_owned()
        }
        DropReason::WrongHopLimit => {
            "segments arrive with a hop limit too low for ttl-security: the peer is farther away than \
             configured, or does not send with 255 (set ttl-security there too)"
                .to_owned()
        }
        DropReason::OptionTwice => {
            "segments carry two authentication options: TCP-MD5 or native TCP-AO is also configured on the \
             peer's socket; remove it there"
                .to_owned()
        }
        DropReason::Merged => {
            "segments arrive merged: the interface does LRO; turn it off with `ethtool -K IFACE lro off \
             rx-gro-hw off`"
                .to_owned()
        }
        DropReason::Fragment => {
            "IP fragments arrive: the path's MTU is smaller than the peer's; lower the peer's MTU or MSS".to_owned()
        }
        DropReason::NoSession => {
            "segments arrive for a connection whose start was not seen: it began before tcpauth ran, or the \
             peer still has an old one"
                .to_owned()
        }
        DropReason::HeldTooLong => {
            "segments waited longer than 3 s for keys: this host is overloaded, or tcpauthd was just started"
                .to_owned()
        }
        DropReason::RateLimited if outbound => {
            "more connection attempts leave than are let through: a program on this host, or a container behind it, floods \
             with SYNs"
                .to_owned()
        }
        DropReason::RateLimited => {
            "more connection attempts than are let through: somebody floods with SYNs".to_owned()
        }
        DropReason::Malformed => "segments arrive with headers that contradict themselves".to_owned(),
        DropReason::Icmp => "ICMP errors about the session are ignored (RFC 5925, 7.8)".to_owned(),
        DropReason::WrongInterface => {
            "segments arrive by another interface than the configured one: check `interface` and routing".to_owned()
        }
        DropReason::Spoofed => {
            "segments to forward claim to come from this host: somebody forges them; or, if it is a container \
             behind masquerade, name our address and its interface in `forwarded`"
                .to_owned()
        }
        DropReason::NoKey => {
            "a connection has no keys: none of the neighbour's may be used now (`tcpauth key show`), or none were agreed \
             (`tcpauth neighbor show`)"
                .to_owned()
        }
        DropReason::OldKey => {
            "segments arrive under a key from which the peer has switched away: somebody replays or forges them"
                .to_owned()
        }
        DropReason::Handshake => {
            "segments arrive on a connection on which no keys were agreed: the handshake failed, and the peer does \
             not know it yet"
                .to_owned()
        }
        DropReason::TooManySessions => {
            "a connection begins while the neighbor, or all together, have as many sessions as they may have: something \
             keeps very many connections open (`tcpauth session show`)"
                .to_owned()
        }
        DropReason::NoMemory => PREEMPTED_TOO_DEEP.to_owned(),
        DropReason::Overload => {
            "segments were lost on the way to tcpauthd: this host is overloaded or tcpauthd does not run".to_owned()
        }
    }
}

/// What it means that the programs had no working memory left.
pub const PREEMPTED_TOO_DEEP: &str = "more than four runs of the programs were in the middle of their work on one CPU (PREEMPT_RT): give the threads that \
     receive packets the same priority";

/// What the peer sends instead of the option that it should.
fn other_option(refused: &Refused) -> &'static str {
    match (refused.wire, refused.carried) {
        (Wire::TcpAo, Carried::Md5) => {
            "segments arrive with TCP-MD5 instead of TCP-AO: the peer has a TCP-MD5 password for us; configure TCP-AO there, or \
             `wire = \"md5\"` here"
        }
        (Wire::TcpMd5, Carried::Ao) => {
            "segments arrive with TCP-AO instead of TCP-MD5: the peer runs TCP-AO for us; remove `wire = \"md5\"` here, or \
             configure TCP-MD5 there"
        }
        (Wire::TcpAo, Carried::Nothing | Carried::Ao) => {
            "segments arrive without TCP-AO and TCP-MD5: the peer runs neither for our address, or something on the way \
             strips TCP options"
        }
        (Wire::TcpMd5, Carried::Nothing | Carried::Md5) => {
            "segments arrive without TCP-MD5 and TCP-AO: the peer has no password for our address, or something on the \
             way strips TCP options"
        }
        (Wire::TcpAo, Carried::Unknown) => {
            "segments arrive without the option: the peer does not run TCP-AO for us, or something on the way strips TCP \
             options"
        }
        (Wire::TcpMd5, Carried::Unknown) => {
            "segments arrive without the option: the peer does not run TCP-MD5 for us, or something on the way strips TCP \
             options"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: DropReason) -> Refused {
        Refused {
            reason,
            outbound: false,
            key_id: None,
            recv_id: 1,
            wire: Wire::TcpAo,
            carried: Carried::Unknown,
            may_be_clamped: false,
        }
    }

    #[test]
    fn every_reason_has_a_meaning() {
        for reason in DropReason::ALL {
            for outbound in [false, true] {
                assert!(!meaning(&Refused { outbound, ..refused(reason) }).is_empty());
            }
        }
    }

    #[test]
    fn what_the_other_side_sends_is_named() {
        let told = |wire, carried| meaning(&Refused { wire, carried, ..refused(DropReason::NoOption) });
        assert!(
            told(Wire::TcpAo, Carried::Md5).starts_with("segments arrive with TCP-MD5 instead of TCP-AO")
        );
        assert!(
            told(Wire::TcpMd5, Carried::Ao).starts_with("segments arrive with TCP-AO instead of TCP-MD5")
        );
        assert!(told(Wire::TcpAo, Carried::Nothing).contains("runs neither"));
        assert!(told(Wire::TcpMd5, Carried::Nothing).contains("has no password"));
        assert!(told(Wire::TcpMd5, Carried::Unknown).contains("does not run TCP-MD5"));
    }

    #[test]
    fn a_router_that_changes_the_mss_is_thought_of_when_only_syns_fail() {
        let told = |may_be_clamped| meaning(&Refused { may_be_clamped, ..refused(DropReason::WrongMac) });
        assert!(told(true).contains("changes the MSS"));
        assert!(!told(false).contains("MSS"));
    }
}
