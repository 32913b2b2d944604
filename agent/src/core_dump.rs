//! No core dumps: memory holds secrets.

use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};

/// Keeps the kernel from writing this process's memory into a core dump, and other processes of its user from reading
/// it by ptrace. A core pattern with a pipe does not heed RLIMIT_CORE, but heeds this.
pub fn forbid() {
    // Both fail only for lack of a kernel feature, which is no reason not to start.
    let _ = prctl::set_dumpable(false);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    const INSIDE: &str = "TCPAUTH_TEST_CORE_DUMP";

    /// In a process of its own: other tests of this one want to be debugged.
    #[test]
    fn a_process_with_secrets_cannot_be_dumped() {
        if env::var_os(INSIDE).is_some() {
            assert_eq!(prctl::get_dumpable(), Ok(true));
            forbid();
            assert_eq!(prctl::get_dumpable(), Ok(false));
            return;
        }
        let name = "core_dump::tests::a_process_with_secrets_cannot_be_dumped";
        let inside =
            Command::new(env::current_exe().unwrap()).args(["--exact", name]).env(INSIDE, "1").output();
        let inside = inside.unwrap();
        assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stdout));
    }
}
