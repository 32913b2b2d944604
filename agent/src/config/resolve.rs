//! From tables to neighbours: defaults inherited, keys for each, no two about the same segments.

use std::ops::Range;
use std::path::Path;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use tcpauth_common::KeyId;

use super::chain::{Chains, Inherited, Place, chain, refuse_twin, resolve_key, resolve_keys};
use super::clash::clashes;
use super::document::{ChainEntry, Document, Entry};
use super::error::{Report, Subject, nearest};
use super::fields::{FIELDS_OF_SECRET, Fields, KeyFields, Secret, Table};
use super::kmp::{self, trial::Trials};
use super::mode;
use super::{Neighbor, Peer, PeerError, Problem, Unauthenticated, Wire};
use crate::keys::KeyChain;

/// TCP port of BGP (RFC 4271 §4.2).
const BGP_PORT: u16 = 179;
/// How long before the end of the last key is warned, if the configuration does not say.
const KEY_WARNING: Duration = Duration::from_secs(7 * 86_400);
/// KeyID of a secret that a neighbour's table has itself.
const KEY_ID: KeyId = KeyId(1);

/// What resolving a document found.
pub(super) struct Resolved {
    /// The neighbours, in the order of their peers.
    pub(super) neighbors: Vec<Neighbor>,
    /// The named chains, by name.
    pub(super) chains: Vec<Arc<KeyChain>>,
    /// The first secret that stands in the document itself: whose, and where.
    pub(super) inline_secret: Option<(Subject, Range<usize>)>,
}

/// The configuration in `document`, good if the report has no errors.
pub(super) fn resolve(document: &Document<'_>, folder: &Path, report: &mut Report<'_>) -> Resolved {
    document.check_top(report);
    let defaults = document.defaults(folder, report);
    let mut inline_secrets: Vec<_> =
        defaults.inline_secret.iter().map(|span| (Subject::Defaults, span.clone())).collect();
    let chains = document.chains(folder, report);
    for entry in &chains {
        inline_secrets.extend(entry.inline_secret.clone().map(|span| (Subject::chain(entry.name), span)));
    }

    check_defaults(&defaults, &chains, report);
    let mut entries = document.neighbors(folder, report);
    // The file's order, so that of two that exclude each other the second is wrong.
    entries.sort_by_cached_key(|entry| entry.span.start);
    let mut resolver =
        Resolver { defaults: &defaults, chains: Chains::new(chains), trials: Trials::default(), report };
    let mut neighbors = Vec::with_capacity(entries.len());
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        let subject = Subject::neighbor(entry.peer);
        let (peer, neighbor) = resolver.entry(&entry, &subject);
        neighbors.extend(neighbor);
        inline_secrets.extend(entry.table.inline_secret.map(|span| (subject.clone(), span)));
        places.extend(peer.map(|peer| (peer, entry.span, subject)));
    }
    let Resolver { chains, report, .. } = resolver;
    let mode = mode::resolve(&Table::default(), &defaults.fields, &Subject::Defaults, report);
    let chains = chains.all(mode.inherited, report);

    for (wrong, other, clash) in clashes(&places) {
        let (_, span, subject) = &places[wrong];
        let (_, other_span, other_subject) = &places[other];
        let other = report.place(other_span, other_subject, "the neighbour");
        report.add(span, subject, clash.problem(&other));
    }
    neighbors.sort_by(|a, b| a.peer.cmp(&b.peer));
    let inline_secret = inline_secrets.into_iter().min_by_key(|(_, span)| span.start);
    Resolved { neighbors, chains, inline_secret }
}

/// Reports what no neighbour could inherit, once and not for each of them.
fn check_defaults(defaults: &Table, chains: &[ChainEntry<'_>], report: &mut Report<'_>) {
    let (fields, subject) = (&defaults.fields, &Subject::Defaults);
    let span = |field| defaults.spans.of(field).cloned().unwrap_or_default();
    if let Some(name) = &fields.key_chain {
        let names: Vec<&str> = chains.iter().map(|chain| chain.name).collect();
        if fields.key.secret != Secret::Absent {
            report.add(&span("key-chain"), subject, Problem::ChainBesideOwn { other: "a secret" });
        }
        if !names.contains(&name.as_str()) {
            let nearest = nearest(name, &names).map(str::to_owned);
            report.add(&span("key-chain"), subject, Problem::UnknownChain { nearest });
        }
    }
    // With `wire = "md5"` the rest is for neighbours with another.
    if fields.wire != Some(Wire::TcpMd5) {
        mode::resolve(defaults, &Fields::default(), subject, report);
    }
    if fields.unauthenticated == Some(Unauthenticated::AcceptUntilAuthenticated) && is_forwarded(fields) {
        report.add(&span("unauthenticated"), subject, Problem::TakeOverForwarded);
    }
    let source = kmp::resolve::Source {
        own: defaults,
        defaults: &Table::default(),
        subject,
        span: &(0..0),
        key_management: fields.key_management.unwrap_or_default(),
        port: fields.port.unwrap_or(BGP_PORT),
        is_forwarded: is_forwarded(fields),
        unauthenticated: fields.unauthenticated.unwrap_or_default(),
    };
    source.check(report);
}

fn is_forwarded(fields: &Fields) -> bool {
    fields.forwarded.as_ref().is_some_and(|ends| !ends.is_empty())
}

/// Makes neighbours of entries.
struct Resolver<'r, 'd, 't> {
    defaults: &'r Table,
    chains: Chains<'d>,
    trials: Trials,
    report: &'r mut Report<'t>,
}

impl Resolver<'_, '_, '_> {
    /// Whom an entry is about and the neighbour, each `None` if it is reported as wrong.
    fn entry(&mut self, entry: &Entry<'_>, subject: &Subject) -> (Option<Peer>, Option<Neighbor>) {
        let peer = self.peer(entry, subject);
        let mode = mode::resolve(&entry.table, &self.defaults.fields, subject, self.report);
        let keys = self.keys(entry, mode.inherited, subject);
        let (fields, defaults) = (&entry.table.fields, &self.defaults.fields);
        let unauthenticated = fields.unauthenticated.or(defaults.unauthenticated).unwrap_or_default();
        let takes_over = unauthenticated == Unauthenticated::AcceptUntilAuthenticated;
        let is_forwarded =
            if fields.forwarded.is_some() { is_forwarded(fields) } else { is_forwarded(defaults) };
        let at = entry.table.spans.first(&["unauthenticated", "forwarded"]);
        if let Some((_, span)) = at.filter(|_| takes_over && is_forwarded) {
            self.report.add(span, subject, Problem::TakeOverForwarded);
        }
        let forwarded = fields.forwarded.as_ref().or(defaults.forwarded.as_ref());
        let port = fields.port.or(defaults.port).unwrap_or(BGP_PORT);
        let source = kmp::resolve::Source {
            own: &entry.table,
            defaults: self.defaults,
            subject,
            span: &entry.span,
            key_management: mode.key_management,
            port,
            is_forwarded,
            unauthenticated,
        };
        let kmp = kmp::resolve::resolve(&source, peer.as_ref(), &mut self.trials, self.report);
        let neighbor = peer.clone().zip(keys).map(|(peer, keys)| Neighbor {
            // Those of the other family can only come from the defaults.
            forwarded: (forwarded.into_iter().flatten())
                .filter(|end| end.address.is_ipv4() == peer.address.is_ipv4())
                .cloned()
                .collect(),
            peer,
            keys,
            key_warning: Some(fields.key_warning.or(defaults.key_warning).unwrap_or(KEY_WARNING))
                .filter(|span| !span.is_zero()),
            port,
            ttl_security: fields.ttl_security.or(defaults.ttl_security),
            key_management: mode.key_management,
            kmp,
            wire: mode.inherited.wire,
            unauthenticated,
            on_unprotected: fields.on_unprotected.or(defaults.on_unprotected).unwrap_or_default(),
        });
        (peer, neighbor)
    }

    /// Whom an entry is about.
    fn peer(&mut self, entry: &Entry<'_>, subject: &Subject) -> Option<Peer> {
        let (table, fields) = (&entry.table, &entry.table.fields);
        // An address with its zone needs no default interface, and may have another.
        let default_interface =
            self.defaults.fields.interface.as_deref().filter(|_| !entry.peer.contains('%'));
        let peer = Peer::parse(entry.peer, fields.interface.as_deref().or(default_interface));
        let peer = peer.map_err(|error| {
            let of_field = matches!(error, PeerError::TwoInterfaces | PeerError::InterfaceName);
            let field_span = table.spans.of("interface").filter(|_| of_field);
            self.report.add(field_span.unwrap_or(&entry.span), subject, error);
        });
        if let (Ok(peer), Some(ends)) = (&peer, &fields.forwarded) {
            for (end, span) in ends.iter().zip(&table.forwarded_spans) {
                if end.address.is_ipv4() != peer.address.is_ipv4() {
                    self.report.add(span, subject, Problem::ForwardedFamily);
                }
            }
        }
        peer.ok()
    }

    /// Its keys: its own, or those of a chain, or else what the defaults have.
    fn keys(&mut self, entry: &Entry<'_>, inherited: Inherited, subject: &Subject) -> Option<Arc<KeyChain>> {
        let (table, own, defaults) = (&entry.table, &entry.table.fields.key, &self.defaults.fields);
        let has_secret = own.secret != Secret::Absent;
        let default_chain = defaults.key_chain.as_ref().filter(|_| !has_secret && !table.has_keys);
        if let Some(name) = table.fields.key_chain.as_ref().or(default_chain) {
            let span = table.spans.of("key-chain").unwrap_or(&entry.span);
            if has_secret || table.has_keys {
                let other = if has_secret { "a secret" } else { "key.N" };
                self.report.add(span, subject, Problem::ChainBesideOwn { other });
                return None;
            }
            self.refuse_fields_of_secret(table, subject);
            let chain = self.chains.of(name, inherited, self.report);
            return chain.unwrap_or_else(|problem| {
                // The defaults' has been reported where it stands.
                if table.fields.key_chain.is_some() {
                    self.report.add(span, subject, problem);
                }
                None
            });
        }
        let mut keys = resolve_keys(&table.keys, inherited, subject, self.report);
        if !has_secret && table.has_keys {
            self.refuse_fields_of_secret(table, subject);
            return chain(None, keys?);
        }
        if let Some(zero) = table.keys.iter().find(|key| key.number == 0) {
            self.report.add(&zero.span, &subject.key(0), Problem::KeyZeroTwice);
        }
        let secret = if has_secret { &own.secret } else { &defaults.key.secret };
        if *secret == Secret::Absent {
            self.report.add(&entry.span, subject, Problem::NoSecret);
        }
        let ids = (
            own.send_id.or(defaults.key.send_id).unwrap_or(KEY_ID),
            own.recv_id.or(defaults.key.recv_id).unwrap_or(KEY_ID),
        );
        // Its algorithm and options are the neighbour's: what the keys inherit.
        let zero = KeyFields {
            secret: secret.clone(),
            send: own.send.or(defaults.key.send),
            accept: own.accept.or(defaults.key.accept),
            ..KeyFields::default()
        };
        let place = Place { subject, span: &entry.span, spans: &table.spans };
        let zero = resolve_key(0, &zero, ids, inherited, &place, self.report);
        if let Some(keys) = &mut keys {
            let zero = zero?;
            for (key, entry) in keys.iter().zip(&table.keys) {
                refuse_twin(key, from_ref(&zero), &subject.key(key.number), &entry.span, self.report);
            }
            keys.push(zero);
        }
        chain(None, keys?)
    }

    /// Reports a field that is about a secret which `table` does not have.
    fn refuse_fields_of_secret(&mut self, table: &Table, subject: &Subject) {
        if let Some((field, span)) = table.spans.first(&FIELDS_OF_SECRET) {
            self.report.add(span, subject, Problem::FieldWithoutSecret { field });
        }
    }
}
