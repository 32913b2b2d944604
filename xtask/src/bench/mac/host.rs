//! The same MACs on the host.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;
use tcpauth_tests::{binaries::workspace, process::run};

use crate::{build::cargo, command::run_with_progress};

/// Vector instructions are left to OpenSSL: BPF has none.
const RUSTFLAGS: &str = "-C no-vectorize-loops -C no-vectorize-slp";

/// In a folder of its own, as other flags would build everything anew.
const TARGET: &str = "target/host-mac";

/// The program that measures them.
pub struct Host(PathBuf);

/// Nanoseconds of one MAC.
pub struct Timed {
    pub name: String,
    pub octets: usize,
    pub scalar: f64,
    pub openssl: Option<f64>,
}

impl Host {
    /// Builds it.
    ///
    /// # Errors
    /// If it does not build.
    pub fn build() -> Result<Self> {
        let mut cargo = cargo("build");
        cargo.args(["--release", "--package", "tcpauth-host-mac", "--target-dir", TARGET]);
        cargo.env("RUSTFLAGS", RUSTFLAGS);
        run_with_progress("Build the same MACs for the host", cargo)?;
        Ok(Self(workspace().join(TARGET).join("release/tcpauth-host-mac")))
    }

    /// Every algorithm, over inputs of `lengths` octets.
    ///
    /// # Errors
    /// If it fails.
    pub fn measure(&self, lengths: &[usize]) -> Result<Vec<Timed>> {
        let mut command = Command::new(&self.0);
        command.args(lengths.iter().map(usize::to_string));
        let answer: Vec<Value> = serde_json::from_str(&run(command)?)?;
        answer
            .iter()
            .map(|value| parsed(value).with_context(|| format!("not a measurement: {value}")))
            .collect()
    }
}

fn parsed(value: &Value) -> Option<Timed> {
    Some(Timed {
        name: value["name"].as_str()?.to_owned(),
        octets: value["octets"].as_u64()? as usize,
        scalar: value["scalar"].as_f64()?,
        openssl: value["openssl"].as_f64(),
    })
}
