//! What the kernel knows of the programs: instructions verified, time spent.

use std::{collections::BTreeMap, fs, mem, os::fd::AsRawFd, path::Path};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{agent::Agent, scenario::Protected};

use super::Measured;
use crate::syscall::{bpf, open_pinned};

/// Turns on the kernel's count of time spent in programs.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// How often a program ran and how long that took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    pub count: u64,
    pub nanoseconds: u64,
}

/// Runs of the programs of some agents between two moments.
pub struct RunTimes<'a> {
    agents: &'a [&'a Agent],
    before: BTreeMap<String, Run>,
}

/// The fields of `struct bpf_prog_info` (linux/bpf.h) that are read here, at their places.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgramInfo {
    skipped: [u64; 24],
    run_time_ns: u64,
    run_count: u64,
    recursion_misses: u64,
    verified_instructions: u32,
    attach: [u32; 2],
    padding: u32,
}

pub fn measure() -> Result<Vec<Measured>> {
    let protected = Protected::switched()?;
    let programs = programs(&protected.agent1)?;
    ensure!(!programs.is_empty(), "no program is pinned");
    let count = |(name, info): (String, ProgramInfo)| {
        let verified = f64::from(info.verified_instructions);
        Measured::new(format!("instructions verified in {name}"), verified, "").below(500_000.0)
    };
    Ok(programs.into_iter().map(count).collect())
}

impl<'a> RunTimes<'a> {
    pub fn begin(agents: &'a [&'a Agent]) -> Result<Self> {
        fs::write(STATISTICS, "1")?;
        Ok(Self { agents, before: run_times(agents)? })
    }

    pub fn end(self) -> Result<BTreeMap<String, Run>> {
        let mut runs = run_times(self.agents)?;
        for (name, run) in &mut runs {
            let before = self.before.get(name).copied().unwrap_or_default();
            run.count -= before.count;
            run.nanoseconds -= before.nanoseconds;
        }
        Ok(runs)
    }
}

impl Drop for RunTimes<'_> {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, "0");
    }
}

/// What a run of each program that ran took, in the course of `what`.
pub fn each_run(what: &str, runs: BTreeMap<String, Run>) -> Vec<Measured> {
    let of_one = |(program, Run { count, nanoseconds }): (String, Run)| {
        let each = nanoseconds as f64 / 1000.0 / count as f64;
        Measured::new(format!("{what}: each of {count} runs of {program}"), each, "µs")
    };
    runs.into_iter().filter(|(_, run)| run.count > 0).map(of_one).collect()
}

fn run_times(agents: &[&Agent]) -> Result<BTreeMap<String, Run>> {
    let mut runs: BTreeMap<String, Run> = BTreeMap::new();
    for agent in agents {
        for (name, info) in programs(agent)? {
            let run = runs.entry(name).or_default();
            run.count += info.run_count;
            run.nanoseconds += info.run_time_ns;
        }
    }
    Ok(runs)
}

/// The programs that `agent` pinned, by name.
fn programs(agent: &Agent) -> Result<BTreeMap<String, ProgramInfo>> {
    let folder = agent.pin_dir().join("progs");
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        programs.insert(entry.file_name().to_string_lossy().into_owned(), info(&entry.path())?);
    }
    Ok(programs)
}

fn info(pin: &Path) -> Result<ProgramInfo> {
    #[repr(C)]
    struct ObjInfo {
        fd: u32,
        length: u32,
        info: u64,
    }
    let program = open_pinned(pin)?;
    // SAFETY: zeros are valid for a structure of integers.
    let mut info: ProgramInfo = unsafe { mem::zeroed() };
    let length = mem::size_of::<ProgramInfo>() as u32;
    let mut ask = ObjInfo { fd: program.as_raw_fd() as u32, length, info: (&raw mut info) as u64 };
    // SAFETY: the attributes have the layout of this command, and the kernel writes `length` octets at most.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask) }?;
    Ok(info)
}
