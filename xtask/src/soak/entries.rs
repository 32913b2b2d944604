//! What is in the pinned maps of an instance.

use std::{collections::BTreeMap, io, os::fd::AsRawFd};

use anyhow::{Context, Result, bail};
use tcpauth_common::layout::maps;
use tcpauth_tests::agent::Agent;

use crate::syscall::{bpf, open_pinned};

const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;

/// The maps whose entries come and go. The others are arrays and ring buffers.
const MAPS: [&str; 8] = [
    maps::SESSIONS,
    maps::PEERS,
    maps::FORWARDED,
    maps::LOCALS,
    maps::COUNTERS,
    maps::BUCKETS,
    maps::SLOTS,
    maps::VLANS,
];

/// Octets of the longest key, and some more.
const KEY: usize = 256;

/// More entries than any of these maps is given in a campaign: keys that vanish while they are listed begin anew.
const MOST: u64 = 100_000;

/// How many entries each map has.
///
/// # Errors
/// If one is not there.
pub fn count(agent: &Agent) -> Result<BTreeMap<&'static str, u64>> {
    let folder = agent.pin_dir().join("maps");
    MAPS.iter().map(|map| Ok((*map, keys(&open_pinned(&folder.join(map))?).context(*map)?))).collect()
}

fn keys(map: &impl AsRawFd) -> Result<u64> {
    /// `union bpf_attr` as BPF_MAP_GET_NEXT_KEY has it.
    #[repr(C)]
    struct GetNextKey {
        map: u32,
        key: u64,
        next: u64,
        flags: u64,
    }
    let (mut key, mut next) = ([0_u8; KEY], [0_u8; KEY]);
    for found in 0..MOST {
        let before = if found == 0 { 0 } else { key.as_ptr() as u64 };
        let map = map.as_raw_fd() as u32;
        let mut ask = GetNextKey { map, key: before, next: next.as_mut_ptr() as u64, flags: 0 };
        // SAFETY: the attributes have the layout of this command; keys are shorter than the buffers, which outlive it.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut ask) } {
            Ok(_) => key = next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error.into()),
        }
    }
    bail!("more than {MOST} entries")
}
