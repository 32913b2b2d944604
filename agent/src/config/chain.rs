//! Key chains: the keys of a document with what they inherit, one copy for all neighbours that inherit the same.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tcpauth_common::{Algorithm, Kdf, KeyId};

use super::document::ChainEntry;
use super::error::{Report, Subject, nearest};
use super::fields::{KeyEntry, KeyFields, Secret, Spans};
use super::{KmpProblem, Problem, Wire};
use crate::keys::{ChainKey, KeyChain, Lifetime, Mkt, TcpOptions};

/// Longest password that is wanted with TCP-MD5, in octets: RFC 2385 §4.5, and `TCP_MD5SIG_MAXKEYLEN`.
const LONGEST_MD5_PASSWORD: usize = 80;
/// Longest secret that OpenSSL takes for a handshake, in octets; RFC 4279 §5.3 asks for 64.
const LONGEST_PSK: usize = 512;

/// What a neighbour's keys have from the neighbour, unless they say otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Inherited {
    pub(super) wire: Wire,
    pub(super) kdf: Kdf,
    pub(super) algorithm: Algorithm,
    pub(super) tcp_options: TcpOptions,
    /// Whether their secrets authenticate a TLS handshake, too.
    pub(super) is_psk: bool,
}

/// The named chains of a document.
pub(super) struct Chains<'d> {
    by_name: BTreeMap<&'d str, Named<'d>>,
}

struct Named<'d> {
    entry: ChainEntry<'d>,
    /// As resolved for each set of inherited values; `None` if a key was reported as wrong.
    resolved: Vec<(Inherited, Option<Arc<KeyChain>>)>,
    is_used: bool,
}

impl<'d> Chains<'d> {
    /// The chains in `entries`.
    pub(super) fn new(entries: Vec<ChainEntry<'d>>) -> Self {
        let named = |entry: ChainEntry<'d>| {
            let name = entry.name;
            (name, Named { entry, resolved: Vec::new(), is_used: false })
        };
        Self { by_name: entries.into_iter().map(named).collect() }
    }

    /// The chain called `name` for a neighbour whose keys inherit `inherited`.
    ///
    /// # Errors
    /// There is none of that name. A chain that is itself wrong has been reported, and is `None`.
    pub(super) fn of(
        &mut self,
        name: &str,
        inherited: Inherited,
        report: &mut Report<'_>,
    ) -> Result<Option<Arc<KeyChain>>, Problem> {
        let Some(named) = self.by_name.get_mut(name) else {
            let names: Vec<&str> = self.by_name.keys().copied().collect();
            return Err(Problem::UnknownChain { nearest: nearest(name, &names).map(str::to_owned) });
        };
        named.is_used = true;
        if let Some((_, chain)) = named.resolved.iter().find(|(of, _)| *of == inherited) {
            return Ok(chain.clone());
        }
        let chain = named.resolve(inherited, report);
        named.resolved.push((inherited, chain.clone()));
        Ok(chain)
    }

    /// Every chain, by name: as its first user has it, or with `inherited` if it has none.
    pub(super) fn all(mut self, inherited: Inherited, report: &mut Report<'_>) -> Vec<Arc<KeyChain>> {
        let names: Vec<&str> = self.by_name.keys().copied().collect();
        for name in names {
            let named = self.by_name.get_mut(name);
            if let Some(named) = named.filter(|named| !named.is_used) {
                // Whatever wire it is for: it is on none.
                let wire = if named.has_md5() { Wire::TcpMd5 } else { Wire::TcpAo };
                let chain = named.resolve(Inherited { wire, ..inherited }, report);
                named.resolved.push((inherited, chain));
            }
        }
        self.by_name.into_values().filter_map(|mut named| named.resolved.swap_remove(0).1).collect()
    }
}

impl Named<'_> {
    fn resolve(&self, inherited: Inherited, report: &mut Report<'_>) -> Option<Arc<KeyChain>> {
        let subject = Subject::chain(self.entry.name);
        let keys = resolve_keys(&self.entry.keys, inherited, &subject, report)?;
        chain(Some(self.entry.name.to_owned()), keys)
    }

    fn has_md5(&self) -> bool {
        self.entry.keys.iter().any(|key| key.fields.algorithm == Some(Algorithm::Md5))
    }
}

/// The chain of `keys`; `None` if there are none.
pub(super) fn chain(name: Option<String>, mut keys: Vec<ChainKey>) -> Option<Arc<KeyChain>> {
    keys.sort_by_key(|key| key.number);
    (!keys.is_empty()).then(|| Arc::new(KeyChain { name, keys }))
}

/// The keys `entries` of `owner`; `None` if one of them is reported as wrong.
pub(super) fn resolve_keys(
    entries: &[KeyEntry],
    inherited: Inherited,
    owner: &Subject,
    report: &mut Report<'_>,
) -> Option<Vec<ChainKey>> {
    let before = report.len();
    let keys: Vec<Option<ChainKey>> = entries
        .iter()
        .map(|entry| {
            let subject = owner.key(entry.number);
            let fields = &entry.fields;
            let own_id = u8::try_from(entry.number).ok().map(KeyId);
            let ids = fields.send_id.or(own_id).zip(fields.recv_id.or(own_id));
            if ids.is_none() {
                report.add(&entry.span, &subject, Problem::KeyWithoutId);
            }
            if fields.secret == Secret::Absent {
                report.add(&entry.span, &subject, Problem::KeyWithoutSecret);
            }
            let place = Place { subject: &subject, span: &entry.span, spans: &entry.spans };
            resolve_key(entry.number, fields, ids?, inherited, &place, report)
        })
        .collect();
    let keys: Vec<ChainKey> = keys.into_iter().collect::<Option<_>>()?;
    for (index, (key, entry)) in keys.iter().zip(entries).enumerate() {
        refuse_twin(key, &keys[..index], &owner.key(key.number), &entry.span, report);
    }
    (report.len() == before).then_some(keys)
}

/// Reports `key` if nothing tells it from one of the `others`.
pub(super) fn refuse_twin(
    key: &ChainKey,
    others: &[ChainKey],
    subject: &Subject,
    span: &Range<usize>,
    report: &mut Report<'_>,
) {
    if let Some(twin) = others.iter().find(|other| other.mkt == key.mkt) {
        report.add(span, subject, Problem::SameKey(twin.number));
    }
}

/// Where to report what is wrong with a key.
pub(super) struct Place<'p> {
    pub(super) subject: &'p Subject,
    /// The key's, or the neighbour's whose own secret it is.
    pub(super) span: &'p Range<usize>,
    /// Those of the fields.
    pub(super) spans: &'p Spans,
}

/// The key that `fields` describe, with the KeyIDs (sent, accepted) `ids`; `None` if its secret or something else is
/// reported as wrong.
pub(super) fn resolve_key(
    number: u32,
    fields: &KeyFields,
    (send_id, recv_id): (KeyId, KeyId),
    inherited: Inherited,
    place: &Place<'_>,
    report: &mut Report<'_>,
) -> Option<ChainKey> {
    let Secret::Given(master_key) = &fields.secret else { return None };
    let before = report.len();
    let span = |field| place.spans.of(field).unwrap_or(place.span);
    match inherited.wire {
        Wire::TcpMd5 => {
            if fields.algorithm.is_some_and(|algorithm| algorithm != Algorithm::Md5) {
                report.add(span("algorithm"), place.subject, NOT_MD5);
            }
            if fields.tcp_options == Some(TcpOptions::Include) {
                report.add(span("tcp-options"), place.subject, OPTIONS_NOT_OF_MD5);
            }
            if master_key.octets().len() > LONGEST_MD5_PASSWORD {
                report.add(place.span, place.subject, Problem::LongMd5Password(LONGEST_MD5_PASSWORD));
            }
        }
        Wire::TcpAo => {
            if fields.algorithm == Some(Algorithm::Md5) {
                report.add(span("algorithm"), place.subject, Problem::Md5WithoutWire);
            }
            if inherited.is_psk && master_key.octets().len() > LONGEST_PSK {
                report.add(place.span, place.subject, KmpProblem::LongPsk(LONGEST_PSK));
            }
        }
    }
    (report.len() == before).then(|| ChainKey {
        number,
        mkt: Mkt {
            send_id,
            recv_id,
            algorithm: fields.algorithm.unwrap_or(inherited.algorithm),
            kdf: inherited.kdf,
            tcp_options: fields.tcp_options.unwrap_or(inherited.tcp_options),
            master_key: master_key.clone(),
        },
        send: fields.send.unwrap_or(Lifetime::ALWAYS),
        accept: fields.accept.unwrap_or(Lifetime::ALWAYS),
    })
}

/// An algorithm beside `wire = "md5"`.
const NOT_MD5: Problem = Problem::NotOfMd5 { field: "algorithm", only: "\"md5\"" };
/// Options under the MAC beside `wire = "md5"`.
const OPTIONS_NOT_OF_MD5: Problem = Problem::NotOfMd5 { field: "tcp-options", only: "\"exclude\"" };
