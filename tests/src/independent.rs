//! The capture verifier in Python, which shares no code with the project's.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{binaries::workspace, process::run};

/// Verifies every TCP segment of port 179 in `capture`, both directions, and gives what the verifier
/// printed; `options` are its own.
///
/// # Errors
/// If one segment does not verify, has a bad checksum, or none is there.
pub fn verify(capture: &Path, password: &str, options: &[&str]) -> Result<String> {
    let mut command = Command::new(python());
    command.arg(workspace().join("tests/independent/verify_capture.py"));
    command.args(["--password", password]).args(options).arg(capture);
    run(command)
}

/// Debian's own, which has python3-cryptography, rather than another that comes first in PATH.
fn python() -> &'static str {
    let debian = "/usr/bin/python3";
    if Path::new(debian).exists() { debian } else { "python3" }
}
