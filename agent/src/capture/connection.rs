//! Which ISNs and SNE the segments of a quartet were signed with.
//!
//! Nothing here is believed of a segment that did not verify: its ISN is only one more that is tried.

use tcpauth_common::sequence::ExtendedSeq;
use tcpauth_common::{Isn, SeqNumber};

use super::verdict::Failure;

/// What a traffic key and a MAC need to know of the connection, as the sender of the segment sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    /// The sender's ISN.
    pub source_isn: Isn,
    /// The receiver's ISN, 0 for a SYN.
    pub destination_isn: Isn,
    /// Which end is the client.
    pub client: End,
    /// The segment's SNE.
    pub sne: u32,
}

/// The fields of a segment that count here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Which end sent it.
    pub sender: End,
    pub seq: SeqNumber,
    pub ack: SeqNumber,
    pub syn: bool,
    pub is_ack: bool,
    pub rst: bool,
}

/// An end of a connection: the one with the lower or with the higher socket address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Lower = 0,
    Higher = 1,
}

impl Header {
    /// The receiver's ISN, if its SYN is all that it sent so far. Only a MAC proves that.
    fn acknowledged_isn(&self) -> Isn {
        Isn(self.ack.0.wrapping_sub(1))
    }
}

impl End {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Lower => Self::Higher,
            Self::Higher => Self::Lower,
        }
    }
}

/// The connections that used a quartet, one after the other.
#[derive(Clone, Default)]
pub(super) struct Connections {
    /// The newest last.
    incarnations: Vec<Incarnation>,
}

/// One of them, with what is known of each end.
#[derive(Clone)]
struct Incarnation {
    directions: [Option<Direction>; 2],
    /// The end that sent the SYN; of two SYNs that crossed, the lower one.
    client: End,
    /// Some segment verified with these ISNs.
    proven: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Direction {
    isn: Isn,
    /// Highest sequence number verified.
    highest: ExtendedSeq,
}

impl Connections {
    /// Finds the connection whose ISNs make `mac_is_right` true, and follows the segment.
    pub(super) fn verify(
        &mut self,
        header: Header,
        mac_is_right: impl Fn(Sequence) -> bool,
    ) -> Result<(), Failure> {
        match (header.syn, header.is_ack) {
            (true, false) => self.syn(header, mac_is_right),
            (true, true) => self.syn_ack(header, mac_is_right),
            (false, _) => self.synchronized(header, mac_is_right),
        }
    }

    /// A first or repeated SYN, of a new connection or of one that both ends open at once.
    fn syn(&mut self, header: Header, mac_is_right: impl Fn(Sequence) -> bool) -> Result<(), Failure> {
        let (isn, client) = (Isn(header.seq.0), header.sender);
        let proven = mac_is_right(Sequence { source_isn: isn, destination_isn: Isn(0), client, sne: 0 });
        let waiting = self.incarnations.last().and_then(|newest| match newest.isns(header.sender) {
            (None, peer) => peer,
            _ => None,
        });
        self.learn(header.sender, isn, None, client, proven);
        if let Some(peer) = waiting {
            self.learn(header.sender, isn, Some(peer), End::Lower, proven);
        }
        if proven { Ok(()) } else { Err(Failure::WrongMac) }
    }

    /// A SYN-ACK: answers any SYN whose ISN makes its MAC right, also one that is not in the capture, or only later.
    fn syn_ack(&mut self, header: Header, mac_is_right: impl Fn(Sequence) -> bool) -> Result<(), Failure> {
        let isn = Isn(header.seq.0);
        let sender = header.sender;
        let answered = |incarnation: &Incarnation| incarnation.isns(sender.other()).0;
        let is_any_known = self.incarnations.iter().any(|incarnation| answered(incarnation).is_some());
        let acknowledged = header.acknowledged_isn();
        let known = self.incarnations.iter().rev().filter_map(|incarnation| {
            let is_known = incarnation.isns(sender).0 == Some(isn);
            let client = if is_known { incarnation.client } else { sender.other() };
            Some((answered(incarnation)?, client))
        });
        let right = known.chain([(acknowledged, sender.other())]).find(|(peer, client)| {
            mac_is_right(Sequence { source_isn: isn, destination_isn: *peer, client: *client, sne: 0 })
        });
        if let Some((peer, client)) = right {
            self.learn(sender, isn, Some(peer), client, true);
            return Ok(());
        }
        self.learn(sender, isn, Some(acknowledged), sender.other(), false);
        Err(if is_any_known { Failure::WrongMac } else { Failure::SynMissing })
    }

    /// Any segment but a SYN or SYN-ACK.
    fn synchronized(
        &mut self,
        header: Header,
        mac_is_right: impl Fn(Sequence) -> bool,
    ) -> Result<(), Failure> {
        let (sender, receiver) = (header.sender as usize, header.sender.other() as usize);
        let mut failure = Failure::SynMissing;
        for incarnation in self.incarnations.iter_mut().rev() {
            match (incarnation.directions[sender], incarnation.directions[receiver]) {
                (Some(from), Some(to)) => {
                    failure = Failure::WrongMac;
                    let extended = from.highest.extend(header.seq);
                    let sequence = Sequence {
                        source_isn: from.isn,
                        destination_isn: to.isn,
                        client: incarnation.client,
                        sne: extended.sne(),
                    };
                    if mac_is_right(sequence) {
                        let highest = from.highest.advanced_to(extended);
                        incarnation.directions[sender] = Some(Direction { highest, ..from });
                        incarnation.proven = true;
                        return Ok(());
                    }
                }
                // The SYN-ACK is not in the capture, or only later.
                (Some(from), None) if header.is_ack => {
                    if failure == Failure::SynMissing {
                        failure = Failure::SynAckMissing;
                    }
                    let (isn, extended) = (header.acknowledged_isn(), from.highest.extend(header.seq));
                    let sequence = Sequence {
                        source_isn: from.isn,
                        destination_isn: isn,
                        client: incarnation.client,
                        sne: extended.sne(),
                    };
                    if mac_is_right(sequence) {
                        let highest = from.highest.advanced_to(extended);
                        incarnation.directions[sender] = Some(Direction { highest, ..from });
                        incarnation.directions[receiver] = Some(Direction::from(isn));
                        incarnation.proven = true;
                        return Ok(());
                    }
                }
                // A closed port refuses a SYN: the sequence number of its RST stands for its ISN.
                (None, Some(to)) if header.rst => {
                    failure = Failure::WrongMac;
                    let (source_isn, client) = (Isn(header.seq.0), header.sender.other());
                    if mac_is_right(Sequence { source_isn, destination_isn: to.isn, client, sne: 0 }) {
                        return Ok(());
                    }
                }
                _ if failure == Failure::SynMissing => failure = Failure::SynAckMissing,
                _ => {}
            }
        }
        Err(if self.is_newest_unanswered() { Failure::SynAckMissing } else { failure })
    }

    /// Whether of the connection that a proven SYN began last only that is known: any segment may be of it.
    fn is_newest_unanswered(&self) -> bool {
        let Some(newest) = self.incarnations.iter().rev().find(|incarnation| incarnation.proven) else {
            return false;
        };
        [End::Lower, End::Higher].into_iter().any(|end| match newest.isns(end) {
            (isn @ Some(_), None) => !self
                .incarnations
                .iter()
                .any(|incarnation| incarnation.isns(end).0 == isn && incarnation.isns(end).1.is_some()),
            _ => false,
        })
    }

    /// Remembers the ISNs of a connection, unless they are known.
    fn learn(&mut self, sender: End, isn: Isn, peer: Option<Isn>, client: End, proven: bool) {
        let known = |incarnation: &&mut Incarnation| {
            incarnation.isns(sender) == (Some(isn), peer) && incarnation.client == client
        };
        if let Some(incarnation) = self.incarnations.iter_mut().find(known) {
            incarnation.proven |= proven;
            return;
        }
        // Forged SYNs can only push out one another.
        let alike = || (0..self.incarnations.len()).filter(|at| self.incarnations[*at].proven == proven);
        if alike().count() >= REMEMBERED
            && let Some(oldest) = alike().next()
        {
            self.incarnations.remove(oldest);
        }
        let mut directions = [None, None];
        directions[sender as usize] = Some(Direction::from(isn));
        directions[sender.other() as usize] = peer.map(Direction::from);
        self.incarnations.push(Incarnation { directions, client, proven });
    }
}

impl Incarnation {
    /// ISN of `end`, and of the other end.
    fn isns(&self, end: End) -> (Option<Isn>, Option<Isn>) {
        let isn = |end: End| self.directions[end as usize].map(|direction| direction.isn);
        (isn(end), isn(end.other()))
    }
}

impl From<Isn> for Direction {
    fn from(isn: Isn) -> Self {
        Self { isn, highest: ExtendedSeq::starting_at(isn) }
    }
}

/// Connections of a quartet whose ISNs are remembered, proven ones and others each.
const REMEMBERED: usize = 16;

#[cfg(test)]
mod tests;
