//! `tcpauth key fingerprint`: by what a neighbour knows a public key.

use std::path::Path;

use serde::Serialize;

use super::{failure::Failure, output::Output};
use crate::kmp::tls::key_file;

/// The fingerprint as JSON.
#[derive(Serialize)]
struct Fingerprint {
    /// SHA-256 in hex.
    fingerprint: String,
}

/// The fingerprint of the key or certificate in `file`, in hex on one line.
pub fn run(file: &Path, output: Output) -> Result<(), Failure> {
    let failed = |reason: &dyn std::fmt::Display| Failure::Failed(format!("{}: {reason}", file.display()));
    let pem = zeroize::Zeroizing::new(std::fs::read(file).map_err(|error| failed(&error))?);
    let fingerprint = key_file::fingerprint_of_file(&pem).map_err(|error| failed(&error))?;
    let fingerprint = Fingerprint { fingerprint: hex::encode(fingerprint) };
    output.result(&fingerprint, |_| format!("{}\n", fingerprint.fingerprint))
}
