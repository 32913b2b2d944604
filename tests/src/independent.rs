//! The capture verifier in Python, which shares no code with the project's, and a signer made of it.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    binaries::workspace,
    frame::{Segment, tcp_ao_option_of},
    process::run,
};

/// Verifies every TCP segment of port 179 in `capture`, both directions, and gives what the verifier
/// printed; `options` are its own.
///
/// # Errors
/// If one segment does not verify, has a bad checksum, or none is there.
pub fn verify(capture: &Path, password: &str, options: &[&str]) -> Result<String> {
    verify_by(capture, &[&["--password", password], options].concat())
}

/// As [`verify`], without a password that would be good for any segment: `options` name the keys.
///
/// # Errors
/// As [`verify`].
pub fn verify_by(capture: &Path, options: &[&str]) -> Result<String> {
    let mut command = Command::new(python());
    command.arg("-B").arg(workspace().join("tests/independent/verify_capture.py"));
    command.args(options).arg(capture);
    run(command)
}

/// What a forger has to know of a connection, beside the password.
pub struct Connection {
    /// ISN of the segment's sender.
    pub source_isn: u32,
    /// ISN of the other end.
    pub destination_isn: u32,
    /// SNE of the segment.
    pub sne: u32,
}

/// What a forger signs with.
pub enum Secret<'a> {
    /// A password, with `hmac-sha-1-96`.
    Password(&'a str),
    /// A master key in hex, and the name of its algorithm.
    MasterKey(&'a str, &'a str),
}

/// `segment` with a TCP-AO option as its only one, by the KDF of RFC 5926.
///
/// # Errors
/// If the signer fails.
pub fn sign(segment: &Segment, key_id: u8, secret: &Secret<'_>, connection: &Connection) -> Result<Segment> {
    let (algorithm, secret) = match secret {
        Secret::Password(password) => ("hmac-sha-1-96", ["--password", password]),
        Secret::MasterKey(hex, algorithm) => (*algorithm, ["--key", hex]),
    };
    let mac_len = if algorithm == "hmac-sha-256-128" { 16 } else { 12 };
    let mut signed = Segment { options: tcp_ao_option_of(key_id, 0, mac_len), ..segment.clone() };
    let frame: String = signed.frame([0; 6], [0; 6]).iter().map(|octet| format!("{octet:02x}")).collect();
    let mut command = Command::new(python());
    // Without a folder of compiled modules in the sources.
    command.arg("-B").arg(workspace().join("tests/independent/sign_segment.py"));
    command.args(secret).args(["--algorithm", algorithm]);
    command.args(["--source-isn", &connection.source_isn.to_string()]);
    command.args(["--destination-isn", &connection.destination_isn.to_string()]);
    command.args(["--sne", &connection.sne.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(frame.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the signer failed: {}", output.status);
    let hex = String::from_utf8(output.stdout)?;
    let mac = hex.trim().as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair)?;
        Ok(u8::from_str_radix(pair, 16)?)
    });
    let mac = mac.collect::<Result<Vec<u8>>>()?;
    ensure!(mac.len() == mac_len, "a MAC of {} octets", mac.len());
    signed.options[4..].copy_from_slice(&mac);
    Ok(signed)
}

/// Debian's own, which has python3-cryptography, rather than another that comes first in PATH.
fn python() -> &'static str {
    let debian = "/usr/bin/python3";
    if Path::new(debian).exists() { debian } else { "python3" }
}
