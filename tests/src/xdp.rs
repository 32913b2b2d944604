//! Foreign XDP programs, which get frames before TC does.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

use crate::{link, namespace::Namespace};

/// What a program does with every frame that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// XDP_PASS.
    Pass,
    /// XDP_TX: sends it out of the interface by which it came.
    SendBack,
    /// Sends it out of the interface of that name.
    SendOutOf(&'static str),
    /// Has the network stack of that CPU take it.
    LeadToCpu(u32),
    /// Makes the first source port of a TCP segment over IPv4 without IP options the second; its checksum stays.
    TurnPort(u16, u16),
}

/// Where the kernel runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the stack, before TC.
    Generic = 1 << 1,
    /// In the driver.
    Native = 1 << 2,
}

/// A program on an interface until it is dropped.
pub struct Program {
    _link: OwnedFd,
}

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;

const CPUMAP: u32 = 16;
const XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;

const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;
const REDIRECT: i32 = 23;
const REDIRECT_MAP: i32 = 51;

impl Program {
    /// Attaches a program that does `action` to `interface`.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn attach(namespace: &Namespace, interface: &str, mode: Mode, action: &Action) -> Result<Self> {
        namespace.enter(|| {
            let (instructions, _cpus) = instructions(action)?;
            let license = c"GPL";
            let program = bpf(
                PROG_LOAD,
                &ProgLoad {
                    kind: XDP,
                    instruction_count: instructions.len() as u32,
                    instructions: instructions.as_ptr() as u64,
                    license: license.as_ptr() as u64,
                    ..ProgLoad::default()
                },
            )
            .context("the XDP program")?;
            let link = bpf(
                LINK_CREATE,
                &[program.as_raw_fd() as u32, link::index(interface)?, ATTACH_XDP, mode as u32],
            )
            .with_context(|| format!("an XDP program on {interface}, {mode:?}"))?;
            Ok(Self { _link: link })
        })
    }
}

/// Of `union bpf_attr`, for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    kernel_version_and_flags: [u32; 2],
    name: [u64; 2],
}

/// The program, and the map that it needs, to be kept until it is loaded.
fn instructions(action: &Action) -> Result<(Vec<u64>, Option<OwnedFd>)> {
    let exit = instruction(0x95, 0, 0, 0, 0);
    let set = |register, value| instruction(0xb7, register, 0, 0, value);
    let call = |helper| instruction(0x85, 0, 0, 0, helper);
    Ok(match *action {
        Action::Pass => (vec![set(0, XDP_PASS), exit], None),
        Action::SendBack => (vec![set(0, XDP_TX), exit], None),
        Action::SendOutOf(interface) => {
            (vec![set(1, link::index(interface)? as i32), set(2, 0), call(REDIRECT), exit], None)
        }
        Action::LeadToCpu(cpu) => {
            let map = cpus(cpu)?;
            // A map's descriptor takes the place of two instructions' constants (BPF_PSEUDO_MAP_FD).
            let map_to_r1 = [instruction(0x18, 1, 1, 0, map.as_raw_fd()), 0];
            ([&map_to_r1[..], &[set(2, cpu as i32), set(3, 0), call(REDIRECT_MAP), exit]].concat(), Some(map))
        }
        Action::TurnPort(from, to) => {
            const SOURCE_PORT: i16 = 14 + 20;
            let program = vec![
                instruction(0x61, 2, 1, 0, 0),                           // r2 = the frame's start
                instruction(0x61, 3, 1, 4, 0),                           // r3 = its end
                instruction(0xbf, 4, 2, 0, 0),                           // r4 = r2
                instruction(0x07, 4, 0, 0, (SOURCE_PORT + 2).into()),    // r4 += the end of what is read
                instruction(0x2d, 4, 3, 3, 0),                           // if r4 > r3 pass
                instruction(0x69, 5, 2, SOURCE_PORT, 0),                 // r5 = the source port
                instruction(0x55, 5, 0, 1, from.to_be().into()),         // if r5 != from pass
                instruction(0x6a, 2, 0, SOURCE_PORT, to.to_be().into()), // the source port = to
                set(0, XDP_PASS),
                exit,
            ];
            (program, None)
        }
    })
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, constant: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = constant.to_le_bytes();
    u64::from_ne_bytes([code, source << 4 | destination, low, high, a, b, c, d])
}

/// A map of CPUs with an entry for `cpu`, whose queue holds 512 frames.
fn cpus(cpu: u32) -> Result<OwnedFd> {
    let map = bpf(MAP_CREATE, &[CPUMAP, 4, 4, cpu + 1]).context("a map of CPUs")?;
    let queue = 512_u32;
    let entry = [map.as_raw_fd() as u64, (&raw const cpu) as u64, (&raw const queue) as u64, 0];
    bpf_without_descriptor(MAP_UPDATE, &entry).context("an entry of a map of CPUs")?;
    Ok(map)
}

fn bpf<T: Copy>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let descriptor = bpf_without_descriptor(command, attributes)?;
    // SAFETY: a descriptor that the kernel has just given.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) })
}

fn bpf_without_descriptor<T: Copy>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are a plain structure of that size; what they point to outlives the call.
    match unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, mem::size_of::<T>()) } {
        negative if negative < 0 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
