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

    /// A SYN-ACK: answers any SYN whose ISN makes its MAC right.
    fn syn_ack(&mut self, header: Header, mac_is_right: impl Fn(Sequence) -> bool) -> Result<(), Failure> {
        let isn = Isn(header.seq.0);
        let sender = header.sender;
        let answered = |incarnation: &Incarnation| incarnation.isns(sender.other()).0;
        if !self.incarnations.iter().any(|incarnation| answered(incarnation).is_some()) {
            return Err(Failure::SynMissing);
        }
        let right = self
            .incarnations
            .iter()
            .rev()
            .filter_map(|incarnation| {
                let is_known = incarnation.isns(sender).0 == Some(isn);
                let client = if is_known { incarnation.client } else { sender.other() };
                Some((answered(incarnation)?, client))
            })
            .find(|(peer, client)| {
                mac_is_right(Sequence { source_isn: isn, destination_isn: *peer, client: *client, sne: 0 })
            });
        if let Some((peer, client)) = right {
            self.learn(sender, isn, Some(peer), client, true);
            return Ok(());
        }
        let acknowledged = Isn(header.ack.0.wrapping_sub(1));
        if self.incarnations.iter().any(|incarnation| answered(incarnation) == Some(acknowledged)) {
            self.learn(sender, isn, Some(acknowledged), sender.other(), false);
        }
        Err(Failure::WrongMac)
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
        Err(failure)
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
mod tests {
    use super::*;

    const A: End = End::Lower;
    const B: End = End::Higher;

    fn segment(sender: End, flags: &str, seq: u32, ack: u32) -> Header {
        let [syn, is_ack, rst] = ['S', '.', 'R'].map(|flag| flags.contains(flag));
        Header { sender, seq: SeqNumber(seq), ack: SeqNumber(ack), syn, is_ack, rst }
    }

    /// What becomes of a segment that was signed with these ISNs and this SNE.
    fn signed(
        connections: &mut Connections,
        header: Header,
        (source_isn, destination_isn, sne): (u32, u32, u32),
    ) -> Result<(), Failure> {
        connections.verify(header, |tried| {
            (tried.source_isn.0, tried.destination_isn.0, tried.sne) == (source_isn, destination_isn, sne)
        })
    }

    fn forged(connections: &mut Connections, header: Header) {
        assert!(connections.verify(header, |_| false).is_err());
    }

    /// A connection from A, with ISN `isn`, to B, with ISN `peer`.
    fn established(connections: &mut Connections, isn: u32, peer: u32) {
        assert_eq!(signed(connections, segment(A, "S", isn, 0), (isn, 0, 0)), Ok(()));
        let ack = isn.wrapping_add(1);
        assert_eq!(signed(connections, segment(B, "S.", peer, ack), (peer, isn, 0)), Ok(()));
    }

    #[test]
    fn sne_follows_both_directions_over_wraps_and_old_retransmissions() {
        let mut connections = Connections::default();
        established(&mut connections, 0xffff_fffe, 0x7000_0000);
        for (seq, sne) in [(0xffff_ffff, 0), (0, 1), (0xffff_ffff, 0), (1000, 1), (0x7000_0000, 1)] {
            let from_a = signed(&mut connections, segment(A, ".", seq, 0), (0xffff_fffe, 0x7000_0000, sne));
            assert_eq!(from_a, Ok(()), "{seq:#x}");
        }
        for (seq, sne) in
            [(0xe000_0000u32, 0), (0x5000_0000, 1), (0xb000_0000, 1), (0x2000_0000, 2), (0xf000_0000, 1)]
        {
            let from_b = signed(&mut connections, segment(B, ".", seq, 0), (0x7000_0000, 0xffff_fffe, sne));
            assert_eq!(from_b, Ok(()), "{seq:#x}");
        }
        // Retransmitted, the SYN and its answer are still of SNE 0.
        assert_eq!(signed(&mut connections, segment(A, "S", 0xffff_fffe, 0), (0xffff_fffe, 0, 0)), Ok(()));
        established(&mut connections, 0xffff_fffe, 0x7000_0000);
        let next = signed(&mut connections, segment(A, ".", 0x7000_0001, 0), (0xffff_fffe, 0x7000_0000, 1));
        assert_eq!(next, Ok(()));
    }

    #[test]
    fn sne_is_not_moved_by_what_does_not_verify() {
        let mut connections = Connections::default();
        established(&mut connections, 10, 20);
        forged(&mut connections, segment(A, ".", 0x7fff_0000, 0));
        forged(&mut connections, segment(A, ".", 0xfff0_0000, 0));
        assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
    }

    #[test]
    fn a_simultaneous_open() {
        let mut connections = Connections::default();
        assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(B, "S", 20, 0), (20, 0, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(A, "S.", 10, 21), (10, 20, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(B, "S.", 20, 11), (20, 10, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
        // Also if one of the SYN-ACKs was lost before the capture.
        let mut connections = Connections::default();
        assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(B, "S", 20, 0), (20, 0, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(B, ".", 21, 11), (20, 10, 0)), Ok(()));
    }

    #[test]
    fn the_client_is_who_sent_the_syn_or_the_lower_of_two_who_did() {
        fn with_client(connections: &mut Connections, header: Header, client: End) {
            assert_eq!(connections.verify(header, |tried| tried.client == client), Ok(()), "{header:?}");
        }
        for (client, server) in [(A, B), (B, A)] {
            let mut connections = Connections::default();
            for header in [
                segment(client, "S", 10, 0),
                segment(server, "S.", 20, 11),
                segment(server, "S.", 20, 11),
                segment(client, ".", 11, 21),
                segment(server, ".", 21, 11),
            ] {
                with_client(&mut connections, header, client);
            }
            let mut refused = Connections::default();
            with_client(&mut refused, segment(client, "S", 10, 0), client);
            with_client(&mut refused, segment(server, "R.", 0, 11), client);

            let mut crossed = Connections::default();
            with_client(&mut crossed, segment(client, "S", 10, 0), client);
            with_client(&mut crossed, segment(server, "S", 20, 0), server);
            for header in [
                segment(server, "S.", 20, 11),
                segment(client, "S.", 10, 21),
                segment(server, ".", 21, 11),
                segment(client, ".", 11, 21),
            ] {
                with_client(&mut crossed, header, A);
            }
        }
    }

    #[test]
    fn a_closed_port_refuses() {
        let mut connections = Connections::default();
        assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(B, "R.", 0, 11), (0, 10, 0)), Ok(()));
        // And, when the port is open at last, answers the SYN that was sent again.
        established(&mut connections, 10, 30);
        assert_eq!(signed(&mut connections, segment(B, "R.", 31, 11), (30, 10, 0)), Ok(()));
    }

    #[test]
    fn a_new_syn_begins_a_new_connection_and_the_old_one_ends_in_peace() {
        let mut connections = Connections::default();
        established(&mut connections, 10, 20);
        assert_eq!(signed(&mut connections, segment(A, "S", 1000, 0), (1000, 0, 0)), Ok(()));
        // A challenge ACK, then the reset it provokes, are the old connection's.
        assert_eq!(signed(&mut connections, segment(B, ".", 21, 11), (20, 10, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(A, "R", 11, 0), (10, 20, 0)), Ok(()));
        established(&mut connections, 1000, 2000);
        assert_eq!(signed(&mut connections, segment(A, ".", 1001, 2001), (1000, 2000, 0)), Ok(()));
    }

    #[test]
    fn forged_isns_take_no_place_of_true_ones() {
        let mut connections = Connections::default();
        assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
        for isn in 100..200 {
            forged(&mut connections, segment(A, "S", isn, 0));
            forged(&mut connections, segment(B, "S.", isn, 11));
            forged(&mut connections, segment(B, "S", isn, 0));
        }
        assert!(connections.incarnations.len() <= 2 * REMEMBERED);
        assert_eq!(signed(&mut connections, segment(B, "S.", 20, 11), (20, 10, 0)), Ok(()));
        assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
    }

    #[test]
    fn isns_of_a_handshake_with_unknown_keys_still_serve() {
        let mut connections = Connections::default();
        forged(&mut connections, segment(A, "S", 10, 0));
        forged(&mut connections, segment(B, "S.", 20, 11));
        assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Ok(()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut connections = Connections::default();
        assert_eq!(signed(&mut connections, segment(B, "S.", 20, 11), (20, 10, 0)), Err(Failure::SynMissing));
        assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)), Err(Failure::SynMissing));
        assert_eq!(signed(&mut connections, segment(A, "S", 10, 0), (10, 0, 0)), Ok(()));
        assert_eq!(
            signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 0)),
            Err(Failure::SynAckMissing)
        );
        established(&mut connections, 10, 20);
        assert_eq!(signed(&mut connections, segment(A, ".", 11, 21), (10, 20, 1)), Err(Failure::WrongMac));
    }
}
