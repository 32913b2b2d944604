//! Whether the programs of one CPU run one after the other, as they rely on.

use nix::sys::utsname::uname;

/// Why the programs' working memory, of which each CPU has one, is not safe on the running kernel, if it is not.
///
/// Since Linux 6.18 a kernel with `PREEMPT_RT` lets one program preempt another on the same CPU, unless it was built with
/// `PREEMPT_RT_NEEDS_BH_LOCK`: the MAC of one segment could then let another one pass.
pub fn preempted_programs() -> Option<String> {
    let name = uname().ok()?;
    let is_preempted = is_preempted(&name.release().to_string_lossy(), &name.version().to_string_lossy());
    is_preempted.then(|| {
        "NOT PROTECTED: this kernel (PREEMPT_RT, Linux 6.18 or later) lets eBPF programs preempt each other, and one \
         segment's check could let another pass: use a kernel without PREEMPT_RT"
            .to_owned()
    })
}

fn is_preempted(release: &str, version: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|number| number.parse::<u32>().ok());
    let release = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(0));
    let is_real_time = version.split_whitespace().any(|word| word == "PREEMPT_RT");
    is_real_time && release >= (6, 18)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_kernels_for_real_time_let_programs_preempt_each_other() {
        let real_time = "#1 SMP PREEMPT_RT Debian 6.18.3-1 (2026-01-10)";
        for release in ["6.18.3-rt-amd64", "6.18-rc1", "7.2.13+deb14-rt-amd64", "10.0"] {
            assert!(is_preempted(release, real_time), "{release}");
        }
        for release in ["6.1.0-40-rt-amd64", "6.12.57+deb13-rt-amd64", "6.17.9", "5.19"] {
            assert!(!is_preempted(release, real_time), "{release}");
        }
        assert!(!is_preempted("6.18.44", "#1 SMP PREEMPT_DYNAMIC @0"));
        assert!(is_preempted("unknown", real_time));
    }
}
