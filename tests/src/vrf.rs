//! Links in a VRF, and MPLS labels that lead into one. Not every kernel has them.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{namespace::Namespace, process::run};

/// The VRF.
pub const VRF: &str = "red";

/// Its routing table.
pub const TABLE: &str = "10";

/// Makes [`VRF`] in `namespace`, up; false, and says that the test was not run, if this kernel has none.
///
/// # Errors
/// If it does not come up.
pub fn add(namespace: &Namespace) -> Result<bool> {
    if namespace.ip(&["link", "add", VRF, "type", "vrf", "table", TABLE]).is_err() {
        println!("NOT RUN: this kernel has no VRF");
        return Ok(false);
    }
    namespace.ip(&["link", "set", VRF, "up"])?;
    Ok(true)
}

/// Puts `interface` into [`VRF`]; its IPv4 addresses stay.
///
/// # Errors
/// If one of them is not there.
pub fn enslave(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace.ip(&["link", "set", interface, "master", VRF]).map(drop)
}

/// Takes packets that arrive by `interface` behind `label` into [`VRF`]; false, and says that the test was not run, if
/// this kernel has no MPLS.
///
/// # Errors
/// If it has and refuses.
pub fn take_label(namespace: &Namespace, interface: &str, label: u32) -> Result<bool> {
    if !load_module("mpls_router")? {
        println!("NOT RUN: this kernel has no MPLS");
        return Ok(false);
    }
    namespace.sysctl("net.mpls.platform_labels", "1000")?;
    namespace.sysctl(&format!("net.mpls.conf.{interface}.input"), "1")?;
    namespace.ip(&["-f", "mpls", "route", "add", &label.to_string(), "dev", VRF])?;
    Ok(true)
}

/// Has the kernel load a module in the way that it does itself. Whether it has MPLS afterwards.
fn load_module(name: &str) -> Result<bool> {
    let modprobe = fs::read_to_string("/proc/sys/kernel/modprobe").context("the kernel loads no modules")?;
    let mut command = Command::new(modprobe.trim());
    command.arg(name);
    // Without it the kernel may have all of it built in.
    let _ = run(command);
    Ok(Path::new("/proc/sys/net/mpls").exists())
}
