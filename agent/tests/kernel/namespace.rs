//! A network namespace for one test, and what is asked of it.

use std::{fs, process::Command, sync::atomic::AtomicU32, sync::atomic::Ordering};

use nix::sched::{CloneFlags, unshare};
use tcpauth::{
    instance::Instance,
    kernel::{Dataplane, Hook},
};

/// The test's thread in a network namespace of its own, with an instance that is purged at the end.
pub struct Namespace {
    pub instance: Instance,
}

impl Namespace {
    /// Moves the calling thread into a new network namespace.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root with CAP_SYS_ADMIN");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let instance = format!("test-{}-{number}", std::process::id()).parse().unwrap();
        Self { instance }
    }

    /// The file names in a pin folder, sorted.
    pub fn pins(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.instance.pin_dir().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Checks that these links are pinned and no others; none where programs are not attached by links.
    pub fn assert_links(&self, expected: &[&str]) {
        match Hook::of_this_kernel() {
            Hook::Tcx => assert_eq!(self.pins("links"), expected),
            Hook::Clsact => assert!(self.pins("links").is_empty()),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = Dataplane::purge(&self.instance) {
            eprintln!("purge of {}: {error}", self.instance);
        }
    }
}

/// Runs a command in the namespace; its output.
///
/// # Panics
/// If it cannot be run or fails.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().expect("the tool is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Index of an interface.
pub fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}
