//! Reads a hash map in batches: a system call for a thousand entries, instead of two for each.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use aya::maps::MapData;
use zeroize::Zeroizing;

use super::pod::{Plain, split_head};

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// Entries asked for at once. The kernel fills whole buckets only, and asks for more room if one does not fit.
const BATCH: usize = 1024;
/// Room beyond which no bucket can be that the kernel's hash fills.
const MOST: usize = 1 << 20;

/// A descriptor of a map for [`Entries`].
///
/// # Errors
/// If the process has too many.
pub(super) fn descriptor(map: &MapData) -> io::Result<OwnedFd> {
    std::os::fd::AsFd::as_fd(map.fd()).try_clone_to_owned()
}

/// The entries of a hash map with keys `K` and values `V`, in no order. Entries that come or go meanwhile may be in it or
/// not; no other is missed or comes twice.
pub(super) struct Entries<'map, K, V> {
    map: BorrowedFd<'map>,
    /// Where the kernel goes on; not before the first batch.
    position: Option<u64>,
    keys: Vec<u8>,
    /// Values may hold keys of sessions.
    values: Zeroizing<Vec<u8>>,
    /// Entries of the batch at hand, and the next of them.
    count: usize,
    next: usize,
    /// The kernel has given all.
    is_over: bool,
    types: PhantomData<(K, V)>,
}

impl<'map, K: Plain, V: Plain> Entries<'map, K, V> {
    /// The entries of `map`, whose keys and values must be of these types.
    pub(super) fn of(map: BorrowedFd<'map>) -> Self {
        Self {
            map,
            position: None,
            keys: Vec::new(),
            values: Zeroizing::new(Vec::new()),
            count: 0,
            next: 0,
            is_over: false,
            types: PhantomData,
        }
    }

    /// Reads the next batch.
    fn read(&mut self) -> io::Result<()> {
        let mut room = BATCH.max(self.keys.len() / size_of::<K>());
        loop {
            self.keys.resize(room * size_of::<K>(), 0);
            self.values.resize(room * size_of::<V>(), 0);
            let mut position = 0u64;
            let mut attribute = LookupBatch {
                in_batch: self.position.as_ref().map_or(0, |position| (&raw const *position).addr() as u64),
                out_batch: (&raw mut position).addr() as u64,
                keys: self.keys.as_mut_ptr().addr() as u64,
                values: self.values.as_mut_ptr().addr() as u64,
                // At most `MOST`.
                count: room as u32,
                map_fd: self.map.as_raw_fd().cast_unsigned(),
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: the attribute is the command's part of the union, given with its size. It points to a position of 8
            // octets, of which hash maps use 4, and to room for `count` keys and values of the map's sizes; all of
            // it outlives the call.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    BPF_MAP_LOOKUP_BATCH,
                    &raw mut attribute,
                    size_of::<LookupBatch>(),
                )
            };
            let error = (result < 0).then(io::Error::last_os_error);
            match error.as_ref().and_then(io::Error::raw_os_error) {
                // Read to the end. What comes before it is there, too.
                Some(libc::ENOENT) => self.is_over = true,
                Some(libc::ENOSPC) if room < MOST => {
                    room *= 2;
                    continue;
                }
                _ => error.map_or(Ok(()), Err)?,
            }
            self.position = Some(position);
            (self.count, self.next) = ((attribute.count as usize).min(room), 0);
            return Ok(());
        }
    }
}

impl<K: Plain, V: Plain> Iterator for Entries<'_, K, V> {
    type Item = io::Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.next == self.count {
            if self.is_over {
                return None;
            }
            if let Err(error) = self.read() {
                (self.is_over, self.count, self.next) = (true, 0, 0);
                return Some(Err(error));
            }
        }
        let at = self.next;
        self.next += 1;
        let (key, _) = split_head(self.keys.get(at * size_of::<K>()..)?)?;
        let (value, _) = split_head(self.values.get(at * size_of::<V>()..)?)?;
        Some(Ok((key, value)))
    }
}

/// The part of `union bpf_attr` that the batch commands use.
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}
