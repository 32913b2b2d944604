//! Where and of what numbers were measured.

use std::{fs, process::Command};

use tcpauth_tests::binaries::workspace;

use crate::command::answer;

/// Of one run.
pub struct Machine {
    /// Processor, how many of it, memory.
    pub hardware: String,
    /// The kernel's release.
    pub kernel: String,
    /// Of this repository; ends in `-dirty` if files differ from it.
    pub commit: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let mut describe = Command::new("git");
        describe.current_dir(workspace()).args(["describe", "--always", "--dirty", "--abbrev=12"]);
        Self {
            hardware: hardware(&cpus, &memory),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: answer(&mut describe).unwrap_or_else(|| "unknown".to_owned()),
        }
    }
}

fn hardware(cpus: &str, memory: &str) -> String {
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field(cpus, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kibibytes = field(memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    format!("{processor}, {count} CPUs, {} GiB", kibibytes.unwrap_or(0).div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_in_a_line() {
        let cpus = "processor\t: 0\nmodel name\t: A Processor @ 2.50GHz\nprocessor\t: 1\nmodel name\t: A\n";
        let memory = "MemTotal:       24623104 kB\nMemFree: 1 kB\n";
        assert_eq!(hardware(cpus, memory), "A Processor @ 2.50GHz, 2 CPUs, 24 GiB");
    }
}
