//! Two ends that agree on keys.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tcpauth::{
    keys::Role,
    kmp::{Agreed, Capabilities, Connection, Event, Exchange, Refusal, message::Raw},
};
use tcpauth_common::{Algorithm, Isn, KeyId};

use super::{clear::Clear, message};

/// What an octet of the input does, by its lower three bits.
mod act {
    /// The next message comes to the end in bit 3.
    pub const DELIVER: u8 = 0;
    /// The end in bit 3 offers; bit 4: as the client, bits 5 and 6: which connection.
    pub const OFFER: u8 = 1;
    /// The next octet's number of octets come to the end in bit 3.
    pub const FORGE: u8 = 2;
    /// Of the next message to the end in bit 3 the octet at the next octet's place is changed by the one after.
    pub const CHANGE: u8 = 3;
    /// The next message to the end in bit 3 comes twice.
    pub const REPEAT: u8 = 4;
    /// It is lost.
    pub const LOSE: u8 = 5;
    /// The end in bit 3 refuses the offer in bits 4 to 7.
    pub const REFUSE: u8 = 6;
}

struct Pair {
    ends: [Exchange<Clear>; 2],
    to: [VecDeque<Vec<u8>>; 2],
    /// Keys of each end's offers, as the accepter has them.
    accepted: [BTreeMap<u32, Agreed>; 2],
    /// Of those, the ones that the offerer has.
    agreed: [BTreeMap<u32, Agreed>; 2],
}

/// A script of what two ends do and what becomes of their messages. Keys that an end may use are the other end's.
pub fn exchange(data: &[u8]) {
    let capabilities = Capabilities::ours(&Algorithm::TCP_AO, Duration::from_secs(3600));
    let ends = [(); 2].map(|()| Exchange::new(Clear::default(), capabilities.clone()));
    let mut pair =
        Pair { ends, to: Default::default(), accepted: Default::default(), agreed: Default::default() };
    for end in &mut pair.ends {
        end.receive(&[]).expect("nothing is no fault");
    }
    pair.collect();
    let mut script = data.iter().copied();
    while let Some(octet) = script.next() {
        pair.act(octet, &mut script);
        pair.collect();
    }
    for _ in 0..64 {
        (0..2).for_each(|to| pair.deliver(to));
    }
}

impl Pair {
    fn act(&mut self, octet: u8, script: &mut impl Iterator<Item = u8>) {
        let end = usize::from(octet >> 3 & 1);
        match octet & 7 {
            act::DELIVER => self.deliver(end),
            act::OFFER => {
                let [lower, higher] = [([192, 0, 2, 1], 179).into(), ([192, 0, 2, 2], 179).into()];
                let role = if octet & 16 != 0 { Role::Client } else { Role::Server };
                let (client, server) =
                    if (end == 0) == (role == Role::Client) { (lower, higher) } else { (higher, lower) };
                let connection =
                    Connection { client, server, client_isn: Isn((octet >> 5).into()), server_isn: None };
                let _ = self.ends[end].offer(connection, role, KeyId(130));
            }
            act::FORGE => {
                let length = script.next().unwrap_or_default();
                let octets: Vec<_> = script.take(length.into()).collect();
                self.hand(end, &octets);
            }
            act::CHANGE => {
                let (at, bits) = (script.next().unwrap_or_default(), script.next().unwrap_or_default());
                if let Some(octet) =
                    self.to[end].front_mut().and_then(|octets| octets.get_mut(usize::from(at)))
                {
                    *octet ^= bits;
                }
            }
            act::REPEAT => {
                let again = self.to[end].front().cloned();
                self.to[end].extend(again);
            }
            act::LOSE => drop(self.to[end].pop_front()),
            act::REFUSE => {
                let _ = self.ends[end].refuse((octet >> 4).into(), Refusal::Busy);
            }
            _ => self.deliver(1 - end),
        }
    }

    fn deliver(&mut self, end: usize) {
        if let Some(octets) = self.to[end].pop_front() {
            self.hand(end, &octets);
        }
    }

    fn hand(&mut self, end: usize, octets: &[u8]) {
        let _ = self.ends[end].receive(octets);
        while let Some(event) = self.ends[end].next_event() {
            self.on_event(end, event);
        }
        self.collect();
    }

    fn on_event(&mut self, us: usize, event: Event) {
        let exchange = &mut self.ends[us];
        match event {
            Event::Offered { id, .. } => {
                if let Ok(Some(agreed)) = exchange.accept(id, KeyId(140)) {
                    self.accepted[1 - us].insert(id, agreed);
                }
            }
            Event::Accepted { id, agreed } => {
                assert!(go_together(&agreed, self.accepted[us].get(&id)), "accepted by nobody, or otherwise");
                let _ = exchange.confirm(id);
                self.agreed[us].insert(id, agreed);
            }
            Event::Confirmed { id } => {
                let ours = self.accepted[1 - us].get(&id);
                assert!(self.agreed[1 - us].get(&id).is_some_and(|theirs| go_together(theirs, ours)));
                let _ = exchange.done(id);
            }
            Event::Done { id } => assert!(self.agreed[us].contains_key(&id)),
            Event::Ready { .. } | Event::Refused { .. } => {}
        }
    }

    fn collect(&mut self) {
        for end in 0..2 {
            let said = self.ends[end].take_output();
            let mut rest = &said[..];
            while let Ok(Some((raw, after))) = Raw::split(rest) {
                self.to[1 - end].push_back(raw.octets.to_vec());
                rest = after;
            }
            assert!(rest.is_empty(), "an end says messages");
        }
    }
}

fn go_together(ours: &Agreed, theirs: Option<&Agreed>) -> bool {
    theirs.is_some_and(|theirs| {
        ours.connection == theirs.connection
            && ours.role != theirs.role
            && ours.mkt.master_key == theirs.mkt.master_key
            && (ours.mkt.send_id, ours.mkt.recv_id) == (theirs.mkt.recv_id, theirs.mkt.send_id)
            && (ours.mkt.algorithm, ours.mkt.tcp_options) == (theirs.mkt.algorithm, theirs.mkt.tcp_options)
    })
}

/// Both ways, both at once, and forged messages of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let from = |end: u8, client: u8| act::OFFER | end << 3 | client << 4;
    let to = |end: u8| act::DELIVER | end << 3;
    let all = [to(0), to(1), to(0), to(1), to(0), to(1), to(0), to(1)];
    let forged = message::all().into_iter().filter_map(|message| message.encode().ok()).map(|octets| {
        let head = [to(0), to(1), from(0, 1), act::FORGE, octets.len() as u8];
        [&head[..], &octets, &all].concat()
    });
    let begun = [[from(0, 1), from(0, 0)], [from(0, 1), from(1, 0)], [from(0, 1), from(1, 1)]];
    let plain = begun.iter().map(|offers| [&offers[..], &all, &all].concat());
    let troubled = [act::REPEAT, act::LOSE, act::CHANGE, act::REFUSE | 1 << 4]
        .map(|trouble| [&[from(0, 1), to(1), to(1), trouble, 5, 1, trouble | 8, 6, 1], &all[..]].concat());
    plain.chain(troubled).chain(forged).collect()
}
