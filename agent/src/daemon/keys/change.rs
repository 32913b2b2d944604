//! Keys added, rolled and retired by command. They change the running configuration, all or nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use toml::de::DeTable;
use zeroize::Zeroizing;

use super::super::{
    Daemon,
    configuration::{no_neighbor, same_peer},
};
use crate::{
    config::{Config, Edit, KeyOwner, Neighbor, Wire},
    keys::{ChainKey, KeyChain, Lifetime},
};

impl Daemon {
    /// Adds a key to the chain of a neighbour: accepted at once, and sent with when it is rolled, unless `toml` says
    /// otherwise. A key that only trial tells from others may be sent with from now on: it is when the neighbour does
    /// (RFC 4808).
    ///
    /// # Errors
    /// What is wrong, for the operator; then everything is as it was.
    pub(in super::super) fn add_key(
        &mut self,
        peer: &str,
        number: Option<u32>,
        toml: Zeroizing<String>,
    ) -> Result<String, String> {
        let neighbor = self.configured(peer)?;
        let (owner, before) = (neighbor.key_owner(), Arc::clone(&neighbor.keys));
        let number = number.unwrap_or_else(|| next_number(&before));
        if before.key(number).is_some() {
            return Err(format!(
                "{owner} has a key {number}; choose another number, or retire that key first (`tcpauth key show {peer}`)"
            ));
        }
        let with = |lifetime, others: Vec<Edit>| {
            let toml = with_send_lifetime(&toml, lifetime);
            let added = Edit::SetKey { owner: owner.clone(), number, toml };
            self.edited(&[added].into_iter().chain(others).collect::<Vec<_>>())
        };
        let mut config = with(Lifetime::NEVER, Vec::new())?;
        let added = config.neighbors.iter().find(|neighbor| same_peer(neighbor, peer));
        let follows = added.is_some_and(|neighbor| only_trial_tells(neighbor, number));
        if follows {
            let others = set_send_lifetimes(&owner, preferring(&before, number, Timestamp::now()));
            config = with(Lifetime::PREFERRED, others.collect())?;
        }
        self.apply(config, HashMap::new())?;
        tracing::info!(number, "{owner}: key added to the running configuration");
        let how =
            if follows { "; we go on with the old one until the neighbour signs with this one" } else { "" };
        Ok(format!("key {number} is added to {}{how}", self.with_users(&owner)))
    }

    /// Prefers the newest key, or the one numbered `number`, of one neighbour or of all.
    ///
    /// # Errors
    /// What is wrong, for the operator; then everything is as it was.
    pub(in super::super) fn roll_keys(
        &mut self,
        peer: Option<&str>,
        number: Option<u32>,
    ) -> Result<String, String> {
        let now = Timestamp::now();
        let targets: Vec<Neighbor> = match peer {
            Some(peer) => vec![self.configured(peer)?.clone()],
            None => self.config.neighbors.clone(),
        };
        let mut owners = HashSet::new();
        let mut edits = Vec::new();
        let mut rolled = 0;
        let mut chosen: HashMap<KeyOwner, u32> = HashMap::new();
        for neighbor in &targets {
            let owner = neighbor.key_owner();
            if !owners.insert(owner.clone()) {
                continue;
            }
            let key = match to_roll(&neighbor.keys, number, now) {
                Ok(key) => key,
                Err(reason) => return Err(format!("{owner}: {reason}")),
            };
            chosen.insert(owner.clone(), key.number);
            if neighbor.keys.preferred(now).is_none_or(|preferred| preferred.number != key.number) {
                edits.extend(set_send_lifetimes(&owner, preferring(&neighbor.keys, key.number, now)));
                rolled += 1;
            }
        }
        let config = if edits.is_empty() { self.config.clone() } else { self.edited(&edits)? };
        // Whoever shares the chain.
        let forced = config.neighbors.iter().filter_map(|neighbor| {
            let key = chosen.get(&neighbor.key_owner())?;
            Some((neighbor.peer.clone(), *key))
        });
        let forced: HashMap<_, _> = forced.collect();
        let users = forced.len();
        self.apply(config, forced)?;
        tracing::info!(rolled, neighbors = users, "keys rolled in the running configuration");
        let mut chosen = chosen.into_iter();
        Ok(match (chosen.next(), chosen.next()) {
            (Some((owner, key)), None) if edits.is_empty() => {
                format!("key {key} of {} is preferred already", self.with_users(&owner))
            }
            (Some((owner, key)), None) => {
                format!("key {key} of {} is preferred from now on", self.with_users(&owner))
            }
            (None, _) => "no neighbours are configured: there is nothing to roll".to_owned(),
            _ => format!(
                "the newest key is preferred from now on: {} of {} sets of keys rolled, the others had been; {users} \
                 neighbours",
                rolled,
                owners.len()
            ),
        })
    }

    /// Removes a key from the chain of a neighbour.
    ///
    /// # Errors
    /// What is wrong, for the operator; then everything is as it was.
    pub(in super::super) fn retire_key(
        &mut self,
        peer: &str,
        number: u32,
        force: bool,
    ) -> Result<String, String> {
        let now = Timestamp::now();
        let neighbor = self.configured(peer)?;
        let (owner, before) = (neighbor.key_owner(), Arc::clone(&neighbor.keys));
        let config = self.edited(&[Edit::RemoveKey { owner: owner.clone(), number }])?;
        let users = self.users(&owner);
        let used =
            self.usage(now, |neighbor| users.contains(&neighbor)).map_err(|error| error.to_string())?;
        let sessions: u64 = used.values().map(|usage| usage.of_key(number)).sum();
        if sessions > 0 && !force {
            return Err(format!(
                "key {number} of {owner} is in use by {sessions} open session{}: roll to another key on both routers \
                 first (`tcpauth key roll {peer}`), or --force",
                if sessions == 1 { "" } else { "s" }
            ));
        }
        if closes(&before, &config, peer, now) && !force {
            return Err(format!(
                "without key {number}, {owner} has no key that may be sent with and accepted now, and is closed: roll to \
                 another key first (`tcpauth key roll {peer}`), or --force"
            ));
        }
        self.apply(config, HashMap::new())?;
        tracing::info!(number, "{owner}: key retired in the running configuration");
        Ok(format!(
            "key {number} is removed from {}; kept so across a reload or reboot only after `tcpauth config write`",
            self.with_users(&owner)
        ))
    }

    fn configured(&self, peer: &str) -> Result<&Neighbor, String> {
        let found = self.config.neighbors.iter().find(|neighbor| same_peer(neighbor, peer));
        found.ok_or_else(|| no_neighbor(peer))
    }

    /// Neighbours with these keys, by number.
    fn users(&self, owner: &KeyOwner) -> HashSet<u32> {
        let users = self.neighbors.iter().filter(|(_, neighbor)| neighbor.key_owner() == *owner);
        users.map(|(number, _)| number).collect()
    }

    /// Whose keys they are, and for whom they count.
    fn with_users(&self, owner: &KeyOwner) -> String {
        match owner {
            KeyOwner::Neighbor(_) => owner.to_string(),
            KeyOwner::Chain(_) => {
                let count = self.users(owner).len();
                format!("{owner} of {count} neighbour{}", if count == 1 { "" } else { "s" })
            }
        }
    }
}

/// The number after the highest that is no KeyID of the chain: a key's ids are its number, if nothing else is said.
fn next_number(chain: &KeyChain) -> u32 {
    let highest = chain.keys.iter().map(|key| key.number).max().unwrap_or(0);
    let is_id = |number: u32| {
        let ids = chain.keys.iter().flat_map(|key| [key.mkt.send_id, key.mkt.recv_id]);
        ids.into_iter().any(|id| u32::from(id.0) == number)
    };
    (highest.saturating_add(1)..u32::MAX).find(|number| !is_id(*number)).unwrap_or(u32::MAX)
}

/// The edits that give keys of `owner` these send-lifetimes.
fn set_send_lifetimes(owner: &KeyOwner, changed: Vec<(u32, Lifetime)>) -> impl Iterator<Item = Edit> {
    changed.into_iter().map(|(number, lifetime)| Edit::SetKeyField {
        owner: owner.clone(),
        number,
        field: "send-lifetime",
        value: lifetime.to_string(),
    })
}

/// Whether the wire does not tell a neighbour's key from another of its keys.
fn only_trial_tells(neighbor: &Neighbor, number: u32) -> bool {
    let id = |key: &ChainKey| key.mkt.recv_id;
    let mut others = neighbor.keys.keys.iter().filter(|other| other.number != number);
    let shares =
        |added: &ChainKey| neighbor.wire == Wire::TcpMd5 || others.any(|other| id(other) == id(added));
    neighbor.keys.key(number).is_some_and(shares)
}

/// The fields of a key with a send-lifetime: this one, if they have none.
fn with_send_lifetime(toml: &str, lifetime: Lifetime) -> Zeroizing<String> {
    let line = format!("send-lifetime = \"{lifetime}\"\n");
    // What is no TOML is refused by whoever reads it next.
    let is_given = DeTable::parse(toml).map_or(true, |table| table.get_ref().contains_key("send-lifetime"));
    // In one allocation: nothing of a secret is left behind.
    let mut with = Zeroizing::new(String::with_capacity(line.len() + toml.len()));
    if !is_given {
        with.push_str(&line);
    }
    with.push_str(toml);
    with
}

/// The key to prefer: the one numbered `number`, else the newest that is accepted now.
fn to_roll(chain: &KeyChain, number: Option<u32>, now: Timestamp) -> Result<&ChainKey, String> {
    let Some(number) = number else {
        let newest = chain.newest_first().into_iter().find(|key| key.is_accepted(now));
        return newest.ok_or_else(|| {
            "no key is accepted now, and a peer would be asked for none; add one that is (`tcpauth key add`)".to_owned()
        });
    };
    let key = chain
        .key(number)
        .ok_or_else(|| format!("has no key {number}; `tcpauth key show` lists those it has"))?;
    if !key.is_accepted(now) {
        return Err(format!(
            "key {number} is not accepted now (accept-lifetime {}), and what the peer sends with it would be dropped; \
             change its accept-lifetime, or roll another key",
            key.accept
        ));
    }
    Ok(key)
}

/// The send-lifetimes that change so that the key numbered `number` is preferred: an order, not a time, because a clock
/// that is behind after the next boot would undo a time. Of other keys a beginning that has passed goes, so that they are
/// older; one to come stays, so that a roll by schedule takes place. An end to come stays.
fn preferring(chain: &KeyChain, number: u32, now: Timestamp) -> Vec<(u32, Lifetime)> {
    let changed = chain.keys.iter().map(|key| {
        let send = match key.number == number {
            true if now < key.send.end => Lifetime { end: key.send.end, ..Lifetime::PREFERRED },
            true => Lifetime::PREFERRED,
            false if key.send.start <= now => Lifetime { start: Timestamp::MIN, ..key.send },
            false => key.send,
        };
        (key, send)
    });
    changed.filter(|(key, send)| key.send != *send).map(|(key, send)| (key.number, send)).collect()
}

/// Whether the neighbour that an operator calls `peer` has keys now, and would have none with `config`.
fn closes(before: &KeyChain, config: &Config, peer: &str, now: Timestamp) -> bool {
    let after = config.neighbors.iter().find(|neighbor| same_peer(neighbor, peer));
    !before.is_closed(now) && after.is_some_and(|after| after.keys.is_closed(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::testing::neighbor;

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(millisecond).unwrap()
    }

    fn lifetime(start: i64, end: i64) -> Lifetime {
        Lifetime { start: at(start), end: at(end) }
    }

    /// Keys with these numbers, ids and send-lifetimes, always accepted.
    fn chain(keys: &[(u32, u8, Lifetime)]) -> KeyChain {
        let keys = keys.iter().map(|(number, id, send)| {
            let mut mkt = neighbor("192.0.2.1").keys.first().clone();
            (mkt.send_id.0, mkt.recv_id.0) = (*id, *id);
            ChainKey { number: *number, mkt, send: *send, accept: Lifetime::ALWAYS }
        });
        KeyChain { name: None, keys: keys.collect() }
    }

    #[test]
    fn a_new_key_has_a_number_that_is_nobodys_id() {
        let always = Lifetime::ALWAYS;
        assert_eq!(next_number(&chain(&[(1, 1, always), (2, 2, always)])), 3);
        assert_eq!(next_number(&chain(&[(0, 1, always)])), 2);
        assert_eq!(next_number(&chain(&[(7, 9, always), (8, 10, always)])), 11);
    }

    #[test]
    fn a_new_key_waits_for_the_roll_unless_it_says_otherwise() {
        let with = |toml: &str| with_send_lifetime(toml, Lifetime::NEVER).to_string();
        assert_eq!(with("password = \"a\"\n"), "send-lifetime = \"never\"\npassword = \"a\"\n");
        for toml in ["send-lifetime = \"always\"\npassword = \"a\"\n", "no toml"] {
            assert_eq!(with(toml), toml);
        }
    }

    #[test]
    fn rolled_key_is_preferred_whatever_the_clock_says() {
        let before = chain(&[
            (1, 1, Lifetime::ALWAYS),
            (2, 2, lifetime(5000, 99_000)),
            (3, 3, lifetime(60_000, 99_000)),
            (4, 4, Lifetime::NEVER),
        ]);
        let after = |mut chain: KeyChain, number, now| {
            for (number, send) in preferring(&chain, number, at(now)) {
                chain.keys.iter_mut().find(|key| key.number == number).unwrap().send = send;
            }
            chain
        };
        let preferred = |chain: &KeyChain, now| chain.preferred(at(now)).map(|key| key.number);
        for number in [1, 2, 4] {
            let rolled = after(before.clone(), number, 7000);
            // At a boot with a clock that is behind, and when the next key begins by schedule.
            assert_eq!(
                [-9000, 7000, 59_999, 60_000].map(|now| preferred(&rolled, now)),
                [number, number, number, 3].map(Some)
            );
            let back = after(rolled, 1, 8000);
            assert_eq!([-9000, 8000].map(|now| preferred(&back, now)), [Some(1); 2]);
        }
        assert_eq!(
            preferring(&before, 3, at(7000)),
            [(2, lifetime_from_min(99_000)), (3, Lifetime { end: at(99_000), ..Lifetime::PREFERRED })]
        );
        let ended = chain(&[(1, 1, Lifetime::ALWAYS), (2, 2, lifetime(0, 100))]);
        assert_eq!(preferring(&ended, 2, at(7000)), [(2, Lifetime::PREFERRED)]);
    }

    fn lifetime_from_min(end: i64) -> Lifetime {
        Lifetime { start: Timestamp::MIN, end: at(end) }
    }

    #[test]
    fn the_newest_key_that_is_accepted_is_rolled() {
        let mut three = chain(&[(1, 1, Lifetime::ALWAYS), (2, 2, Lifetime::NEVER), (3, 3, Lifetime::NEVER)]);
        let number = |chain: &KeyChain, number| to_roll(chain, number, at(0)).map(|key| key.number);
        assert_eq!(number(&three, None), Ok(3));
        assert_eq!(number(&three, Some(1)), Ok(1));
        assert!(number(&three, Some(9)).unwrap_err().starts_with("has no key 9;"));
        three.keys[2].accept = lifetime(5, 9);
        assert_eq!(number(&three, None), Ok(2));
        assert!(number(&three, Some(3)).unwrap_err().starts_with("key 3 is not accepted now"));
    }
}
