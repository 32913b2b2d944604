//! What is legal in a configuration but probably not meant.

use std::collections::HashSet;
use std::fmt;

use jiff::Timestamp;
use tcpauth_common::{Algorithm, layout::MAX_KEYS};

use super::{Config, Neighbor, Subject, kmp, vendor_form};
use crate::keys::{ChainKey, KeyChain, Lifetime};

/// Shortest secret that is not warned about, in octets.
const SHORT_SECRET: usize = 8;
/// The same of one that authenticates a handshake (RFC 4279 §7.2): as many random letters and digits are 71 bits.
const SHORT_PSK: usize = 12;
/// Longest master key that Linux's own TCP-AO takes (`TCP_AO_MAXKEYLEN`), in octets.
const LONG_SECRET: usize = 80;

/// A warning. Displayed as `neighbor "192.0.2.1": what; what to do`, never with the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about; [`Subject::File`] for the whole configuration.
    pub subject: Subject,
    /// What is odd and what to do.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject != Subject::File {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.message)
    }
}

/// The warnings about `config` at `now`: about chains, then about neighbours, in their orders.
pub(super) fn warnings(config: &Config, now: Timestamp) -> Vec<Warning> {
    let mut found = Vec::new();
    if config.neighbors.is_empty() {
        found.push(Warning {
            subject: Subject::File,
            message: "no neighbour: nothing is protected; add neighbor.\"ADDRESS\"".to_owned(),
        });
    }
    let names = |neighbors: &mut dyn Iterator<Item = &Neighbor>| -> HashSet<String> {
        neighbors.filter_map(|neighbor| neighbor.keys.name.clone()).collect()
    };
    let used = names(&mut config.neighbors.iter());
    let psks = names(&mut config.neighbors.iter().filter(|neighbor| is_psk(neighbor)));
    for chain in &config.key_chains {
        let Some(name) = &chain.name else { continue };
        let subject = Subject::Chain(name.clone());
        if !used.contains(name) {
            let message = format!("no neighbour uses it; write key-chain = \"{name}\" in one, or remove it");
            found.push(Warning { subject: subject.clone(), message });
        }
        about_chain(chain, psks.contains(name), &subject, now, &mut found);
    }
    for neighbor in &config.neighbors {
        let subject = Subject::Neighbor(neighbor.peer.to_string());
        if neighbor.keys.name.is_none() {
            about_chain(&neighbor.keys, is_psk(neighbor), &subject, now, &mut found);
        }
        let messages = neighbor.kmp.iter().flat_map(|kmp| kmp::warning::warnings(kmp));
        found.extend(messages.map(|message| Warning { subject: subject.clone(), message }));
    }
    found
}

/// Whether a neighbour's secret authenticates a handshake.
fn is_psk(neighbor: &Neighbor) -> bool {
    neighbor.kmp.as_ref().is_some_and(|kmp| kmp.is_psk())
}

fn about_chain(chain: &KeyChain, is_psk: bool, owner: &Subject, now: Timestamp, found: &mut Vec<Warning>) {
    for key in &chain.keys {
        let subject = if key.number == 0 { owner.clone() } else { owner.key(key.number) };
        let messages = secret_warnings(key.mkt.master_key.octets(), is_psk);
        found.extend(messages.map(|message| Warning { subject: subject.clone(), message }));
        if never(key) {
            let message =
                "neither lifetime has a moment: the key is never used; remove it, or give it lifetimes";
            found.push(Warning { subject, message: message.to_owned() });
        }
    }
    let messages = shared_ids(&chain.keys).into_iter().chain(times(chain, now));
    found.extend(messages.map(|message| Warning { subject: owner.clone(), message }));
}

fn never(key: &ChainKey) -> bool {
    [key.send, key.accept].iter().all(|lifetime| lifetime.start >= lifetime.end)
}

/// About keys that the KeyID of a segment does not tell apart. TCP-MD5 has none to tell anything.
fn shared_ids(keys: &[ChainKey]) -> Vec<String> {
    let mut messages = Vec::new();
    for (index, new) in keys.iter().enumerate().filter(|(_, key)| key.mkt.algorithm != Algorithm::Md5) {
        for old in &keys[..index] {
            let numbers = format!("key.{} and key.{}", old.number, new.number);
            if old.mkt.recv_id == new.mkt.recv_id && overlap(old.accept, new.accept) {
                messages.push(format!(
                    "{numbers} have the same recv-id {}: the key of a segment is found by trying, which costs a second \
                     MAC; give each its own, if the neighbour can",
                    new.mkt.recv_id
                ));
            } else if old.mkt.send_id == new.mkt.send_id && overlap(old.send, new.send) {
                messages.push(format!(
                    "{numbers} have the same send-id {}: the neighbour cannot ask for one of them; give each its own, if \
                     the neighbour can",
                    new.mkt.send_id
                ));
            }
        }
    }
    messages
}

fn overlap(a: Lifetime, b: Lifetime) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

/// About moments from `now` on at which there are too few keys, or too many.
fn times(chain: &KeyChain, now: Timestamp) -> Vec<String> {
    let mut messages = Vec::new();
    let mut moments = std::iter::successors(Some(now), |moment| chain.next_change(*moment));
    if let Some(at) = moments.find(|moment| chain.more_than_fit(*moment)) {
        messages.push(format!(
            "{}, more than {MAX_KEYS} keys are valid at a time, and a session has room for {MAX_KEYS}; end the lifetimes \
             of the others",
            since(at, now)
        ));
    }
    let closed = if chain.is_closed(now) { Some(now) } else { chain.closes_at(now) };
    match closed.map(|start| (start, chain.opens_at(start))) {
        Some((start, Some(end))) => messages.push(format!(
            "{} and until {end}, no key may be sent with or none is accepted, and the neighbour is closed; let the \
             lifetimes overlap",
            since(start, now)
        )),
        Some((start, None)) if start == now => messages.push(
            "no key may be sent with or none is accepted any more, and the neighbour is closed; add a key that is valid"
                .to_owned(),
        ),
        // An end to come is no matter for a file: the daemon warns when it is near.
        _ => {}
    }
    messages
}

fn since(moment: Timestamp, now: Timestamp) -> String {
    if moment == now { "now".to_owned() } else { format!("from {moment} on") }
}

fn secret_warnings(secret: &[u8], is_psk: bool) -> impl Iterator<Item = String> + use<> {
    // Only what a person typed or saved; a random key may end in any octet.
    let text = std::str::from_utf8(secret).unwrap_or_default();
    let trimmed = text.trim();
    let padded = trimmed.len() < text.len();
    let short = "the secret is shorter than 8 octets and can be guessed; make one with `tcpauth genkey`";
    let short_psk = "the secret is shorter than 12 octets: whoever answers a handshake in the neighbour's place can \
                     guess at it for as long as it takes (RFC 4279, 7.2); make one with `tcpauth genkey`";
    let is_short = secret.len() < SHORT_SECRET;
    let long = "the secret is longer than 80 octets, which routers with TCP-AO of their own may refuse";
    let space = "the secret begins or ends with white space; if that is not meant, remove it \
                 (a file saved with CR LF line ends has it)";
    let control = "the secret contains control characters; if they come from backslashes in a password in \"…\", \
                   put it in single quotes, which keep a backslash: '…'";
    let mark = "the secret begins with the byte order mark of UTF-8, whose octets count as well; save the file as UTF-8 \
                without byte order mark";
    let not_utf8 = "the secret reads as text in another encoding than UTF-8, such as ISO 8859-1; the neighbor must have the \
                    very same octets: save the file as UTF-8 if it types the characters";
    let encrypted = vendor_form::name(trimmed).map(|form| {
        format!(
            "the secret looks like one that a router encrypted for its configuration ({form}), and every character of it \
             is used as it stands; write the secret that was typed on that router"
        )
    });
    let is_short_psk = is_psk && secret.len() < SHORT_PSK && !is_short;
    [
        (is_short, short),
        (is_short_psk, short_psk),
        (secret.len() > LONG_SECRET, long),
        (padded, space),
        (trimmed.contains(char::is_control), control),
        (text.starts_with('\u{feff}'), mark),
        (is_latin_1(secret), not_utf8),
    ]
    .into_iter()
    .filter(|(applies, _)| *applies)
    .map(|(_, message)| message.to_owned())
    .chain(encrypted)
}

/// Whether `secret` is no UTF-8 and has no octet that text in ISO 8859-1 does not have, as a random key soon does.
fn is_latin_1(secret: &[u8]) -> bool {
    std::str::from_utf8(secret).is_err()
        && secret.iter().all(|octet| matches!(octet, b'\t' | b'\r' | b'\n' | b' '..=b'~' | 0xa0..))
}
