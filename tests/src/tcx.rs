//! A foreign TCX program before tcpauth's.

use std::path::Path;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::{namespace::Namespace, process::Process, wait::eventually};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/independent/tcx_in_front.py");

/// A program on both ways of an interface that ends with a verdict, and is taken off when this is dropped.
pub struct Intruder {
    _processes: [Process; 2],
    _folder: TempDir,
}

impl Intruder {
    /// Puts a program that passes every frame (`TCX_PASS`, 0) before all others of an interface.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn before_others(namespace: &Namespace, interface: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        let start = |way: &str| {
            let mut command = namespace.command("python3");
            command.args([SCRIPT, interface, way, "0", "before", "600"]);
            attached(command, &folder.path().join(way))
        };
        Ok(Self { _processes: [start("ingress")?, start("egress")?], _folder: folder })
    }
}

fn attached(command: std::process::Command, log: &Path) -> Result<Process> {
    let mut process = Process::start(command, log)?;
    eventually(std::time::Duration::from_secs(10), "the foreign program to be attached", || {
        process.check_running()?;
        ensure!(process.log().contains("attached"), "it is not yet");
        Ok(Some(()))
    })?;
    Ok(process)
}
