//! The kernel's own bad path, the queueing discipline netem (`tc-netem(8)`). Not every kernel has it.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{impair::Impairment, namespace::Namespace, process::run};

/// Whether this kernel has it.
///
/// # Errors
/// If no namespace can be made to try it in.
pub fn is_there() -> Result<bool> {
    let namespace = Namespace::create("netem")?;
    Ok(add(&namespace, "lo", Impairment::default()).is_ok())
}

/// Treats the frames that leave `interface` as `impairment` says. Its seed has no effect.
///
/// # Errors
/// If the kernel does not have it.
pub(crate) fn add(namespace: &Namespace, interface: &str, impairment: Impairment) -> Result<()> {
    let Impairment { loss, duplication, reordering, .. } = impairment;
    let percent = |of_a_thousand: u32| format!("{}.{}%", of_a_thousand / 10, of_a_thousand % 10);
    let mut tc = tc(namespace);
    tc.args(["qdisc", "add", "dev", interface, "root", "netem", "limit", "10000"]);
    if reordering > 0 {
        // netem delays all but those to be "reordered", which overtake.
        tc.args(["delay", "3ms", "reorder", &percent(1000 - reordering)]);
    }
    tc.args(["loss", &percent(loss), "duplicate", &percent(duplication)]);
    run(tc)?;
    Ok(())
}

/// How many frames it has lost on `interface`.
///
/// # Errors
/// If it is not there.
pub(crate) fn lost(namespace: &Namespace, interface: &str) -> Result<u64> {
    let mut tc = tc(namespace);
    tc.args(["-json", "-statistics", "qdisc", "show", "dev", interface]);
    let shown: Value = serde_json::from_str(&run(tc)?)?;
    shown[0]["drops"].as_u64().with_context(|| format!("{interface}: no count of lost frames: {shown}"))
}

fn tc(namespace: &Namespace) -> Command {
    let mut command = Command::new("tc");
    command.args(["-n", namespace.name()]);
    command
}
