//! The maps of [`tcpauth_common::layout`], typed.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, RingBuf, lpm_trie},
};
use tcpauth_common::layout::{
    Bucket, Counters, MAX_INTERFACES, OwnEnd, PeerPrefix, PeerRule, Policy, Quartet, Session, Settings,
    VlanTag, mapped, maps,
};

use super::{
    KernelError,
    batch::{self, Entries},
    pod::Value,
};

/// Every map that is pinned: all that the programs and the next daemon share.
pub(super) const PINNED: [&str; 15] = [
    maps::SETTINGS,
    maps::PORTS,
    maps::PEERS,
    maps::LOCALS,
    maps::FORWARDED,
    maps::POLICIES,
    maps::COUNTERS,
    maps::BUCKETS,
    maps::SESSIONS,
    maps::SLOTS,
    maps::INTERFACES,
    maps::VLANS,
    maps::HELD,
    maps::HELD_OWN,
    maps::DROPPED,
];

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// How often an entry is added for which the kernel has no memory at hand, and how long it is left in peace before each.
const ATTEMPTS: u32 = 200;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(1);

/// Scope and address, the data of a [`PeerPrefix`]; number and address, that of an [`OwnEnd`].
type TrieData = [u8; 20];

/// The maps of an instance.
pub(super) struct Maps {
    settings: Array<MapData, Value<Settings>>,
    ports: Array<MapData, u8>,
    peers: LpmTrie<MapData, TrieData, Value<PeerRule>>,
    locals: HashMap<MapData, [u8; 16], u8>,
    forwarded: LpmTrie<MapData, TrieData, u32>,
    policies: Array<MapData, Value<Policy>>,
    counters: HashMap<MapData, u32, Value<Counters>>,
    buckets: HashMap<MapData, u32, Value<Bucket>>,
    sessions: HashMap<MapData, Value<Quartet>, Value<Session>>,
    /// Of `sessions`, to read many at once.
    session_entries: OwnedFd,
    slots: HashMap<MapData, u32, u16>,
    interfaces: Array<MapData, u32>,
    vlans: HashMap<MapData, Value<VlanTag>, u32>,
    /// Until the daemon takes it.
    pub(super) held: Option<RingBuf<MapData>>,
    /// Until the daemon takes it.
    pub(super) held_own: Option<RingBuf<MapData>>,
    /// Until the daemon takes it.
    pub(super) dropped: Option<RingBuf<MapData>>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// [`KernelError::Object`] if one is missing, [`KernelError::Map`] if its shape is another one.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let sessions = ebpf.map(maps::SESSIONS);
        let session_entries = match sessions {
            Some(Map::HashMap(map)) => batch::descriptor(map).map_err(|error| unread(&error))?,
            _ => return Err(KernelError::Object { kind: "map", name: maps::SESSIONS.to_owned() }),
        };
        Ok(Self {
            session_entries,
            settings: take(ebpf, maps::SETTINGS)?,
            ports: take(ebpf, maps::PORTS)?,
            peers: take(ebpf, maps::PEERS)?,
            locals: take(ebpf, maps::LOCALS)?,
            forwarded: take(ebpf, maps::FORWARDED)?,
            policies: take(ebpf, maps::POLICIES)?,
            counters: take(ebpf, maps::COUNTERS)?,
            buckets: take(ebpf, maps::BUCKETS)?,
            sessions: take(ebpf, maps::SESSIONS)?,
            slots: take(ebpf, maps::SLOTS)?,
            interfaces: take(ebpf, maps::INTERFACES)?,
            vlans: take(ebpf, maps::VLANS)?,
            held: Some(take(ebpf, maps::HELD)?),
            held_own: Some(take(ebpf, maps::HELD_OWN)?),
            dropped: Some(take(ebpf, maps::DROPPED)?),
        })
    }

    /// Adds what is of no neighbor: the bucket of all of them, without which no SYN is held, and counters.
    pub(super) fn add_common(&mut self) -> Result<(), KernelError> {
        self.add_bucket(Bucket::OF_ALL)?;
        self.add_counters(Counters::OF_NO_NEIGHBOR)
    }

    fn add_bucket(&mut self, number: u32) -> Result<(), KernelError> {
        let added = patiently(|| self.buckets.insert(number, Value(Bucket::default()), BPF_NOEXIST));
        there_is_fine(maps::BUCKETS, added)
    }

    fn add_counters(&mut self, neighbor: u32) -> Result<(), KernelError> {
        let added = patiently(|| self.counters.insert(neighbor, Value(Counters::default()), BPF_NOEXIST));
        there_is_fine(maps::COUNTERS, added)
    }

    pub(super) fn set_settings(&mut self, settings: &Settings) -> Result<(), KernelError> {
        self.settings.set(0, Value(*settings), BPF_ANY).map_err(|error| failed(maps::SETTINGS, &error))
    }

    pub(super) fn ports(&self) -> Result<Vec<u16>, KernelError> {
        let mut ports = Vec::new();
        for port in 0..=u16::MAX {
            if self.ports.get(&port.into(), 0).map_err(|error| failed(maps::PORTS, &error))? != 0 {
                ports.push(port);
            }
        }
        Ok(ports)
    }

    pub(super) fn set_port(&mut self, port: u16, protected: bool) -> Result<(), KernelError> {
        self.ports.set(port.into(), u8::from(protected), BPF_ANY).map_err(|error| failed(maps::PORTS, &error))
    }

    pub(super) fn peers(&self) -> Result<Vec<(PeerPrefix, PeerRule)>, KernelError> {
        self.peers
            .iter()
            .map(|entry| entry.map(|(key, rule)| (prefix_of(&key), rule.0)))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(maps::PEERS, &error))
    }

    pub(super) fn set_peer(&mut self, prefix: &PeerPrefix, rule: &PeerRule) -> Result<(), KernelError> {
        patiently(|| self.peers.insert(&key_of(prefix), Value(*rule), BPF_ANY))
            .map_err(|error| failed(maps::PEERS, &error))
    }

    pub(super) fn remove_peer(&mut self, prefix: &PeerPrefix) -> Result<(), KernelError> {
        gone_is_fine(maps::PEERS, self.peers.remove(&key_of(prefix)))
    }

    pub(super) fn locals(&self) -> Result<Vec<IpAddr>, KernelError> {
        self.locals
            .keys()
            .map(|key| key.map(|octets| IpAddr::from(octets).to_canonical()))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(maps::LOCALS, &error))
    }

    pub(super) fn add_local(&mut self, address: IpAddr) -> Result<(), KernelError> {
        patiently(|| self.locals.insert(mapped(address), 1, BPF_ANY))
            .map_err(|error| failed(maps::LOCALS, &error))
    }

    pub(super) fn remove_local(&mut self, address: IpAddr) -> Result<(), KernelError> {
        gone_is_fine(maps::LOCALS, self.locals.remove(&mapped(address)))
    }

    pub(super) fn forwarded(&self) -> Result<Vec<(OwnEnd, u32)>, KernelError> {
        self.forwarded
            .iter()
            .map(|entry| entry.map(|(key, ifindex)| (end_of(&key), ifindex)))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(maps::FORWARDED, &error))
    }

    pub(super) fn set_forwarded(&mut self, end: &OwnEnd, ifindex: u32) -> Result<(), KernelError> {
        patiently(|| self.forwarded.insert(&end_key(end), ifindex, BPF_ANY))
            .map_err(|error| failed(maps::FORWARDED, &error))
    }

    pub(super) fn remove_forwarded(&mut self, end: &OwnEnd) -> Result<(), KernelError> {
        gone_is_fine(maps::FORWARDED, self.forwarded.remove(&end_key(end)))
    }

    /// Whoever has a policy has counters.
    pub(super) fn policies(&self) -> Result<Vec<(u32, Policy)>, KernelError> {
        let mut policies = Vec::new();
        for neighbor in self.counters.keys() {
            let neighbor = neighbor.map_err(|error| failed(maps::COUNTERS, &error))?;
            let Value(policy) =
                self.policies.get(&neighbor, 0).map_err(|error| failed(maps::POLICIES, &error))?;
            if !policy.is_missing() {
                policies.push((neighbor, policy));
            }
        }
        Ok(policies)
    }

    /// Counters and buckets go first: the programs count only where there is something to count in.
    pub(super) fn set_policy(&mut self, neighbor: u32, policy: &Policy) -> Result<(), KernelError> {
        if neighbor >= self.policies.len() {
            return Err(KernelError::MapFull { map: maps::POLICIES });
        }
        self.add_counters(neighbor)?;
        self.add_bucket(neighbor)?;
        self.policies.set(neighbor, Value(*policy), BPF_ANY).map_err(|error| failed(maps::POLICIES, &error))
    }

    pub(super) fn remove_policy(&mut self, neighbor: u32) -> Result<(), KernelError> {
        self.policies
            .set(neighbor, Value(Policy::MISSING), BPF_ANY)
            .map_err(|error| failed(maps::POLICIES, &error))?;
        gone_is_fine(maps::BUCKETS, self.buckets.remove(&neighbor))?;
        gone_is_fine(maps::COUNTERS, self.counters.remove(&neighbor))
    }

    pub(super) fn counters(&self, neighbor: u32) -> Result<Option<Counters>, KernelError> {
        found(maps::COUNTERS, self.counters.get(&neighbor, 0)).map(|value| value.map(|value| value.0))
    }

    pub(super) fn session(&self, quartet: &Quartet) -> Result<Option<Session>, KernelError> {
        found(maps::SESSIONS, self.sessions.get(&Value(*quartet), 0)).map(|value| value.map(|value| value.0))
    }

    pub(super) fn put_session(&mut self, quartet: &Quartet, session: &Session) -> Result<(), KernelError> {
        patiently(|| self.sessions.insert(Value(*quartet), Value(*session), BPF_ANY))
            .map_err(|error| failed(maps::SESSIONS, &error))
    }

    pub(super) fn remove_session(&mut self, quartet: &Quartet) -> Result<(), KernelError> {
        gone_is_fine(maps::SESSIONS, self.sessions.remove(&Value(*quartet)))
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = Result<(Quartet, Session), KernelError>> + '_ {
        let entries = Entries::of(self.session_entries.as_fd());
        entries.map(|entry| entry.map_err(|error| unread(&error)))
    }

    /// The slot of an interface, allotted if it has none. Slot first, then the way to find it.
    pub(super) fn allot_slot(&mut self, ifindex: u32) -> Result<Option<u16>, KernelError> {
        if let Some(slot) = found(maps::SLOTS, self.slots.get(&ifindex, 0))? {
            self.set_interface(slot, ifindex)?;
            return Ok(Some(slot));
        }
        let limit = self.interfaces.len().min(MAX_INTERFACES).min(u32::from(u16::MAX) + 1);
        for slot in 1..limit {
            let taken = self.interfaces.get(&slot, 0).map_err(|error| failed(maps::INTERFACES, &error))? != 0;
            if !taken {
                // Below 65,536, by the limit.
                let slot = slot as u16;
                self.set_interface(slot, ifindex)?;
                patiently(|| self.slots.insert(ifindex, slot, BPF_ANY))
                    .map_err(|error| failed(maps::SLOTS, &error))?;
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    pub(super) fn free_slot(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let slot = found(maps::SLOTS, self.slots.get(&ifindex, 0))?;
        gone_is_fine(maps::SLOTS, self.slots.remove(&ifindex))?;
        match slot {
            Some(slot) => self.set_interface(slot, 0),
            None => Ok(()),
        }
    }

    /// Interfaces that have a slot.
    pub(super) fn slotted(&self) -> Result<Vec<u32>, KernelError> {
        self.slots.keys().collect::<Result<_, _>>().map_err(|error| failed(maps::SLOTS, &error))
    }

    /// Frees slots that a crash left without an interface: their number is found nowhere in SLOTS.
    pub(super) fn free_lost_slots(&mut self) -> Result<(), KernelError> {
        for slot in 1..self.interfaces.len().min(MAX_INTERFACES) {
            let ifindex = self.interfaces.get(&slot, 0).map_err(|error| failed(maps::INTERFACES, &error))?;
            if ifindex != 0 && found(maps::SLOTS, self.slots.get(&ifindex, 0))?.map(u32::from) != Some(slot) {
                self.interfaces.set(slot, 0, BPF_ANY).map_err(|error| failed(maps::INTERFACES, &error))?;
            }
        }
        Ok(())
    }

    pub(super) fn vlans(&self) -> Result<Vec<(VlanTag, u32)>, KernelError> {
        self.vlans
            .iter()
            .map(|entry| entry.map(|(tag, ifindex)| (tag.0, ifindex)))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(maps::VLANS, &error))
    }

    pub(super) fn set_vlan(&mut self, tag: VlanTag, ifindex: u32) -> Result<(), KernelError> {
        patiently(|| self.vlans.insert(Value(tag), ifindex, BPF_ANY))
            .map_err(|error| failed(maps::VLANS, &error))
    }

    pub(super) fn remove_vlan(&mut self, tag: VlanTag) -> Result<(), KernelError> {
        gone_is_fine(maps::VLANS, self.vlans.remove(&Value(tag)))
    }

    fn set_interface(&mut self, slot: u16, ifindex: u32) -> Result<(), KernelError> {
        self.interfaces.set(slot.into(), ifindex, BPF_ANY).map_err(|error| failed(maps::INTERFACES, &error))
    }
}

/// [`Settings`] in a pinned map, without loading anything; zeros if it was never written.
pub(super) fn pinned_settings(pin: &Path) -> Result<Settings, KernelError> {
    let read = || {
        let array: Array<MapData, Value<Settings>> =
            Map::from_map_data(MapData::from_pin(pin)?).and_then(Array::try_from)?;
        array.get(&0, 0)
    };
    read().map(|value| value.0).map_err(|error| failed(maps::SETTINGS, &error))
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError> {
    let map =
        ebpf.take_map(name).ok_or_else(|| KernelError::Object { kind: "map", name: name.to_owned() })?;
    T::try_from(map).map_err(|error| failed(name, &error))
}

fn key_of(prefix: &PeerPrefix) -> lpm_trie::Key<TrieData> {
    lpm_trie::Key::new(prefix.prefix_len, joined(prefix.scope, prefix.address))
}

fn prefix_of(key: &lpm_trie::Key<TrieData>) -> PeerPrefix {
    let (scope, address) = parted(key.data());
    PeerPrefix { prefix_len: key.prefix_len(), scope, address }
}

fn end_key(end: &OwnEnd) -> lpm_trie::Key<TrieData> {
    lpm_trie::Key::new(end.prefix_len, joined(end.neighbor, end.address))
}

fn end_of(key: &lpm_trie::Key<TrieData>) -> OwnEnd {
    let (neighbor, address) = parted(key.data());
    OwnEnd { prefix_len: key.prefix_len(), neighbor, address }
}

fn joined(number: [u8; 4], address: [u8; 16]) -> TrieData {
    let mut data = [0; 20];
    let (front, back) = data.split_at_mut(number.len());
    front.copy_from_slice(&number);
    back.copy_from_slice(&address);
    data
}

fn parted(data: TrieData) -> ([u8; 4], [u8; 16]) {
    let (mut number, mut address) = ([0; 4], [0; 16]);
    let (front, back) = data.split_at(number.len());
    number.copy_from_slice(front);
    address.copy_from_slice(back);
    (number, address)
}

/// Adds an entry, again and again for a while if the kernel has no memory at hand: it keeps little for a map, and takes
/// more as soon as that is used; with PREEMPT_RT not before a thread of its own comes to it.
fn patiently(mut add: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
    for _ in 1..ATTEMPTS {
        match add() {
            Err(error) if errno(&error) == Some(libc::ENOMEM) => thread::sleep(BETWEEN_ATTEMPTS),
            result => return result,
        }
    }
    add()
}

fn found<T>(map: &'static str, result: Result<T, MapError>) -> Result<Option<T>, KernelError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(error) => Err(failed(map, &error)),
    }
}

/// Sessions that cannot be read.
fn unread(error: &io::Error) -> KernelError {
    KernelError::Map { map: maps::SESSIONS, reason: error.to_string() }
}

fn gone_is_fine(map: &'static str, result: Result<(), MapError>) -> Result<(), KernelError> {
    match result {
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        other => found(map, other).map(|_| ()),
    }
}

fn there_is_fine(map: &'static str, result: Result<(), MapError>) -> Result<(), KernelError> {
    match result {
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
        other => other.map_err(|error| failed(map, &error)),
    }
}

fn failed(map: &'static str, error: &MapError) -> KernelError {
    match errno(error) {
        Some(libc::E2BIG | libc::ENOSPC) => KernelError::MapFull { map },
        Some(libc::EPERM | libc::EACCES) => KernelError::NotRoot { action: format!("use map {map}") },
        _ if matches!(error, MapError::InvalidKeySize { .. } | MapError::InvalidValueSize { .. }) => {
            let hint = "it was pinned by another version of tcpauthd: run `tcpauth purge` first";
            KernelError::Map { map, reason: format!("{error}; {hint}") }
        }
        _ => KernelError::Map { map, reason: chain(error) },
    }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// An error with its sources, as aya puts the reason there.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn entries_wait_for_memory_and_for_nothing_else() {
        let refused = |errno| {
            let io_error = io::Error::from_raw_os_error(errno);
            Err(MapError::SyscallError(SyscallError { call: "bpf_map_update_elem", io_error }))
        };
        let attempts = |answer: &dyn Fn(u32) -> Result<(), MapError>| {
            let mut attempts = 0;
            let result = patiently(|| {
                attempts += 1;
                answer(attempts)
            });
            (attempts, result.err().and_then(|error| errno(&error)))
        };
        assert_eq!(attempts(&|n| if n < 3 { refused(libc::ENOMEM) } else { Ok(()) }), (3, None));
        assert_eq!(attempts(&|_| refused(libc::ENOMEM)), (ATTEMPTS, Some(libc::ENOMEM)));
        assert_eq!(attempts(&|_| refused(libc::E2BIG)), (1, Some(libc::E2BIG)));
    }

    #[test]
    fn prefixes_survive_the_trie_key() {
        let prefix = PeerPrefix {
            prefix_len: 32 + 96 + 24,
            scope: 7_u32.to_be_bytes(),
            address: mapped("192.0.2.0".parse().unwrap()),
        };
        assert_eq!(prefix_of(&key_of(&prefix)), prefix);
        let end = OwnEnd {
            prefix_len: 32 + 96 + 16,
            neighbor: 9_u32.to_be_bytes(),
            address: mapped("172.17.0.0".parse().unwrap()),
        };
        assert_eq!(end_of(&end_key(&end)), end);
    }
}
