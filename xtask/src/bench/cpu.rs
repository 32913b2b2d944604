//! CPU time of the whole machine.

use std::fs;

use anyhow::{Context, Result};

/// CPU time that was used at a moment: by programs, by the kernel for them, by interrupts and softirqs; not what
/// was idle, waited for disks, or was taken by other machines on the same host.
#[derive(Clone, Copy)]
pub struct CpuTime(f64);

impl CpuTime {
    /// Since the machine started.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        Ok(Self(busy_ticks(&text).context("/proc/stat has no line of all CPUs")? as f64 / ticks_per_second()))
    }

    /// Seconds of all CPUs together since `self` was taken.
    ///
    /// # Errors
    /// As [`CpuTime::now`].
    pub fn elapsed(self) -> Result<f64> {
        Ok(Self::now()?.0 - self.0)
    }
}

/// user, nice, system, irq and softirq of all CPUs (proc_stat(5)).
fn busy_ticks(text: &str) -> Option<u64> {
    let fields: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|tick| tick.parse().ok())
        .collect();
    [0, 1, 2, 5, 6].into_iter().map(|index| fields.get(index).copied()).sum()
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf has no preconditions.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_is_not_used() {
        assert_eq!(busy_ticks("cpu  1 20 300 9999 9999 4000 50000 9999 0 0\ncpu0 1 1 1\n"), Some(54_321));
        assert_eq!(busy_ticks("cpu0 1 20 300"), None);
    }
}
