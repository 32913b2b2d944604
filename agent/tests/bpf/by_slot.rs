//! A program that makes a test-run's frame one of the lane: a test-run may not set `tc_index`, by which `seal` tells what
//! our stack sends from what the daemon does. It sets it and goes on with `seal` (a tail call).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const TAIL_CALL: i32 = 12;
/// Offset of `tc_index` in `struct __sk_buff`.
const TC_INDEX: i16 = 44;

/// The program, and the array from which it takes the next.
pub struct BySlot {
    program: OwnedFd,
    _next: OwnedFd,
}

/// An instruction as the kernel has it: opcode, source and destination register, offset, immediate.
const fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    opcode as u64
        | ((source << 4 | destination) as u64) << 8
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

impl BySlot {
    /// Of slot `slot`, then `program`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(slot: u32, program: BorrowedFd<'_>) -> io::Result<Self> {
        // map_type, key_size, value_size, max_entries
        let next = owned(bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1]))?;
        let (key, value) = (0u32, program.as_raw_fd());
        // map_fd, key, value, flags
        let entry: [u64; 4] =
            [next.as_raw_fd() as u64, (&raw const key) as u64, (&raw const value) as u64, 0];
        bpf(BPF_MAP_UPDATE_ELEM, &entry)?;
        let instructions = [
            // w2 = slot
            instruction(0xb4, 2, 0, 0, slot as i32),
            // *(u32 *)(r1 + TC_INDEX) = w2
            instruction(0x63, 1, 2, TC_INDEX, 0),
            // r2 = next
            instruction(0x18, 2, BPF_PSEUDO_MAP_FD, 0, next.as_raw_fd()),
            0,
            // w3 = 0; tail call; not reached: a verdict that nobody knows
            instruction(0xb4, 3, 0, 0, 0),
            instruction(0x85, 0, 0, 0, TAIL_CALL),
            instruction(0xb4, 0, 0, 0, 99),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let license = c"GPL";
        // prog_type and insn_cnt, insns, license
        let load: [u64; 3] = [
            u64::from(BPF_PROG_TYPE_SCHED_CLS) | (instructions.len() as u64) << 32,
            instructions.as_ptr() as u64,
            license.as_ptr() as u64,
        ];
        Ok(Self { program: owned(bpf(BPF_PROG_LOAD, &load))?, _next: next })
    }

    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// bpf(2) with the beginning of its attribute; the rest is zero.
pub fn bpf<T>(command: i32, attribute: &[T]) -> io::Result<i32> {
    // SAFETY: the attribute and what it points to outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn owned(made: io::Result<i32>) -> io::Result<OwnedFd> {
    // SAFETY: just made, and owned by nobody else.
    made.map(|number| unsafe { OwnedFd::from_raw_fd(number) })
}
