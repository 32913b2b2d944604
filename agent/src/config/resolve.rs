//! From tables to neighbours: defaults inherited, exactly one secret each, no two about the same segments.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tcpauth_common::KeyId;

use super::document::{Document, Entry, Fields, Secret};
use super::error::{Report, Subject};
use super::{Config, Neighbor, Peer, PeerError, Problem, Wire};
use crate::keys::{KeyChain, Mkt};

/// TCP port of BGP (RFC 4271, 4.2).
const BGP_PORT: u16 = 179;

/// What `[defaults]` says, for neighbours added later. Holds secrets: no `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Defaults(Fields);

/// What resolving a document found.
pub(super) struct Resolved {
    /// The configuration, good if the report has no errors.
    pub(super) config: Config,
    /// The first secret that stands in the document itself: whose, and where.
    pub(super) inline_secret: Option<(Subject, Range<usize>)>,
}

/// The configuration in `document`.
pub(super) fn resolve(document: &Document<'_>, folder: &Path, report: &mut Report<'_>) -> Resolved {
    document.check_top(report);
    let defaults = document.defaults(folder, report);
    let mut inline_secrets: Vec<_> =
        defaults.inline_secret.into_iter().map(|span| (Subject::Defaults, span)).collect();

    let mut entries = document.neighbors(folder, report);
    // The file's order, so that of two that exclude each other the second is wrong.
    entries.sort_by_key(|entry| entry.span.start);
    let mut neighbors = Vec::with_capacity(entries.len());
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        let subject = Subject::neighbor(entry.peer);
        let (peer, mkt) = resolve_entry(&entry, &defaults.fields, &subject, report);
        inline_secrets.extend(entry.table.inline_secret.clone().map(|span| (subject.clone(), span)));
        neighbors
            .extend(peer.clone().zip(mkt).map(|(peer, mkt)| neighbor(peer, mkt, &entry, &defaults.fields)));
        places.extend(peer.map(|peer| (peer, entry.span, subject)));
    }

    for (wrong, other, clash) in clashes(&places) {
        let (_, span, subject) = &places[wrong];
        let line = report.line(places[other].1.start);
        report.add(span, subject, clash.problem(&format!("the neighbour on line {line}")));
    }
    neighbors.sort_by(|a, b| a.peer.cmp(&b.peer));
    Resolved {
        config: Config { neighbors, defaults: Defaults(defaults.fields) },
        inline_secret: inline_secrets.into_iter().min_by_key(|(_, span)| span.start),
    }
}

/// One neighbour from a document that is its table, good if the report has no errors.
pub(super) fn resolve_one(
    peer: &str,
    document: &Document<'_>,
    defaults: &Defaults,
    folder: &Path,
    report: &mut Report<'_>,
) -> Option<Neighbor> {
    let subject = Subject::neighbor(peer);
    let table = document.fields(&subject, folder, report);
    let entry = Entry { peer, span: 0..0, table };
    let (peer, mkt) = resolve_entry(&entry, &defaults.0, &subject, report);
    Some(neighbor(peer?, mkt?, &entry, &defaults.0))
}

/// Which of `added` and a neighbour of `others` is in the way of the other, if any, and why.
pub(super) fn clash_with<'n>(added: &'n Peer, others: &'n [Neighbor]) -> Option<(&'n Peer, Problem)> {
    others.iter().map(|other| &other.peer).find_map(|other| {
        if added == other {
            return Some((added, Problem::NeighborExists));
        }
        let pairs = [(added, other), (other, added)];
        pairs.into_iter().find_map(|(wrong, other)| {
            let clash = Clash::between(wrong, other)?;
            Some((wrong, clash.problem(&format!("neighbor \"{other}\""))))
        })
    })
}

/// Who a table is about and its master key tuple, each `None` if it is reported as wrong.
fn resolve_entry(
    entry: &Entry<'_>,
    defaults: &Fields,
    subject: &Subject,
    report: &mut Report<'_>,
) -> (Option<Peer>, Option<Mkt>) {
    let fields = &entry.table.fields;
    // An address with its zone needs no default interface, and may have another.
    let default_interface = defaults.interface.as_deref().filter(|_| !entry.peer.contains('%'));
    let peer = Peer::parse(entry.peer, fields.interface.as_deref().or(default_interface));
    let peer = peer.map_err(|error| {
        let of_field = matches!(error, PeerError::TwoInterfaces | PeerError::InterfaceName);
        let field_span = entry.table.interface_span.as_ref().filter(|_| of_field);
        report.add(field_span.unwrap_or(&entry.span), subject, error);
    });

    if let (Ok(peer), Some(ends)) = (&peer, &fields.forwarded) {
        for (end, span) in ends.iter().zip(&entry.table.forwarded_spans) {
            if end.address.is_ipv4() != peer.address.is_ipv4() {
                report.add(span, subject, Problem::ForwardedFamily);
            }
        }
    }

    let secret = if fields.secret == Secret::Absent { &defaults.secret } else { &fields.secret };
    let mkt = match secret {
        Secret::Given(master_key) => Some(Mkt {
            send_id: fields.send_id.or(defaults.send_id).unwrap_or(KeyId(1)),
            recv_id: fields.recv_id.or(defaults.recv_id).unwrap_or(KeyId(1)),
            algorithm: fields.algorithm.or(defaults.algorithm).unwrap_or_default(),
            kdf: fields.kdf.or(defaults.kdf).unwrap_or_default(),
            tcp_options: fields.tcp_options.or(defaults.tcp_options).unwrap_or_default(),
            master_key: master_key.clone(),
        }),
        Secret::Broken => None,
        Secret::Absent => {
            report.add(&entry.span, subject, Problem::NoSecret);
            None
        }
    };
    (peer.ok(), mkt)
}

fn neighbor(peer: Peer, mkt: Mkt, entry: &Entry<'_>, defaults: &Fields) -> Neighbor {
    let fields = &entry.table.fields;
    let forwarded = fields.forwarded.as_ref().or(defaults.forwarded.as_ref());
    Neighbor {
        // Those of the other family can only come from the defaults.
        forwarded: (forwarded.into_iter().flatten())
            .filter(|end| end.address.is_ipv4() == peer.address.is_ipv4())
            .cloned()
            .collect(),
        peer,
        keys: Arc::new(KeyChain::of(mkt)),
        port: fields.port.or(defaults.port).unwrap_or(BGP_PORT),
        ttl_security: fields.ttl_security.or(defaults.ttl_security),
        key_management: fields.key_management.or(defaults.key_management).unwrap_or_default(),
        unauthenticated: fields.unauthenticated.or(defaults.unauthenticated).unwrap_or_default(),
        wire: Wire::default(),
    }
}

/// Why two neighbours cannot both be configured.
#[derive(Clone, Copy)]
enum Clash {
    /// They are the same.
    Same,
    /// They differ only in that one has no interface: which of them a segment belongs to would hang on the way it
    /// takes. Two that are bound are two routers, in two VRFs.
    OtherInterface,
    /// One is an unbound part of a bound prefix: on that interface both the interface and the
    /// longer match would have to win.
    InsideBoundPrefix,
}

impl Clash {
    /// What is wrong with `wrong` beside `other`.
    fn between(wrong: &Peer, other: &Peer) -> Option<Self> {
        let same_addresses = (wrong.address, wrong.prefix_len) == (other.address, other.prefix_len);
        if wrong == other {
            Some(Self::Same)
        } else if same_addresses && wrong.interface.is_some() != other.interface.is_some() {
            Some(Self::OtherInterface)
        } else if wrong.interface.is_none() && other.interface.is_some() && other.contains(wrong) {
            Some(Self::InsideBoundPrefix)
        } else {
            None
        }
    }

    fn problem(self, other: &str) -> Problem {
        let other = other.to_owned();
        match self {
            Self::Same => Problem::SameNeighbor { other },
            Self::OtherInterface => Problem::SameOnOtherInterface { other },
            Self::InsideBoundPrefix => Problem::InsideBoundPrefix { other },
        }
    }
}

/// The clashes among peers in the order of the file, one at most for each: (wrong, other, why).
fn clashes(places: &[(Peer, Range<usize>, Subject)]) -> Vec<(usize, usize, Clash)> {
    let mut found = Vec::new();
    let mut first_with_address: HashMap<_, usize> = HashMap::new();
    let mut first_with_interface: HashMap<_, usize> = HashMap::new();
    for (index, (peer, ..)) in places.iter().enumerate() {
        let same = *first_with_interface.entry(peer).or_insert(index);
        let first = *first_with_address.entry((peer.address, peer.prefix_len)).or_insert(index);
        let other = if same == index { first } else { same };
        if other != index {
            found.extend(Clash::between(peer, &places[other].0).map(|clash| (index, other, clash)));
        }
    }
    for (bound, (prefix, ..)) in places.iter().enumerate() {
        if prefix.interface.is_none() || prefix.is_host() {
            continue;
        }
        for (index, (peer, ..)) in
            places.iter().enumerate().filter(|(_, (peer, ..))| peer.interface.is_none())
        {
            if (peer.address, peer.prefix_len) == (prefix.address, prefix.prefix_len) {
                continue;
            }
            found.extend(Clash::between(peer, prefix).map(|clash| (index, bound, clash)));
        }
    }
    found
}
