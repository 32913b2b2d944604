//! Foreign programs before tcpauth's: TCX programs, or filters where the kernel has no TCX.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::{
    agent::Agent,
    namespace::Namespace,
    process::{Process, run},
    wait::eventually,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/independent/tcx_in_front.py");

/// The hook that tcpauth uses, as status has it: TCX links since Linux 6.6, unless the tests are told to use the older one.
///
/// # Errors
/// If the kernel does not say which one it is.
pub fn hook() -> Result<&'static str> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let has_tcx = version >= (6, 6) && std::env::var("TCPAUTH_HOOK").as_deref() != Ok("clsact");
    Ok(if has_tcx { "tcx" } else { "clsact" })
}

/// Takes tcpauth's program off one way of an interface; `pin` is the name of its link, if the hook has links.
///
/// # Errors
/// If it is not there.
pub fn take_off(agent: &Agent, interface: &str, way: &str, pin: &str) -> Result<()> {
    if hook()? == "clsact" {
        let mut command = agent.namespace().command("tc");
        command.args(["filter", "del", "dev", interface, way, "pref", "1"]);
        run(command)?;
    } else {
        // The pin is all that keeps the link.
        fs::remove_file(agent.pin_dir().join("links").join(pin))?;
    }
    Ok(())
}

/// A program on both ways of an interface that ends with a verdict, and is taken off when this is dropped.
pub enum Intruder {
    /// TCX programs, as long as these processes run.
    Programs([Process; 2], TempDir),
    /// Filters of the clsact qdisc of an interface.
    Filters(Namespace, String),
}

impl Intruder {
    /// Puts a program that passes every frame (`TCX_PASS`, 0) before all others of an interface that tcpauth is attached
    /// to.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn before_others(namespace: &Namespace, interface: &str) -> Result<Self> {
        let mut intruder = Self::start(namespace, interface)?;
        intruder.wait_until_attached()?;
        Ok(intruder)
    }

    /// Starts to do the same. A virtual machine takes half a minute to start the programs' loaders.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        if hook()? == "clsact" {
            for way in WAYS {
                // Of a preference's filters the newest runs first. "return 0" is TC_ACT_OK.
                let filter = ["bpf", "direct-action", "bytecode", "1,6 0 0 0,"];
                tc(namespace, "add", interface, way, &filter)?;
            }
            return Ok(Self::Filters(namespace.clone(), interface.to_owned()));
        }
        let folder = TempDir::new()?;
        let start = |way: &str| {
            let mut command = namespace.command("python3");
            command.args([SCRIPT, interface, way, "0", "before", "600"]);
            Process::start(command, &folder.path().join(way))
        };
        Ok(Self::Programs([start("ingress")?, start("egress")?], folder))
    }

    /// Waits until both programs are there.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub fn wait_until_attached(&mut self) -> Result<()> {
        let Self::Programs(programs, _) = self else { return Ok(()) };
        for program in programs {
            eventually(Duration::from_secs(10), "the foreign program to be attached", || {
                program.check_running()?;
                ensure!(program.log().contains("attached"), "it is not yet");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// Its name in the status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Programs(..) => "program other_prog",
            Self::Filters(..) => "filter bpf at preference 1",
        }
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        if let Self::Filters(namespace, interface) = self {
            for way in WAYS {
                let _ = tc(namespace, "del", interface, way, &["bpf"]);
            }
        }
    }
}

const WAYS: [&str; 2] = ["ingress", "egress"];

/// Adds or deletes the intruder's filter.
fn tc(namespace: &Namespace, action: &str, interface: &str, way: &str, filter: &[&str]) -> Result<String> {
    let mut command = namespace.command("tc");
    command.args(["filter", action, "dev", interface, way, "protocol", "all", "pref", "1", "handle", "7"]);
    command.args(filter);
    run(command)
}
