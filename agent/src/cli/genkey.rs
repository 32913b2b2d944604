//! `tcpauth genkey`: a random pre-shared key, or a key pair.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::ValueEnum;
use zeroize::Zeroizing;

use super::{failure::Failure, output::print};
use crate::kmp::tls::key_file::PrivateKey;

/// Which key to make.
#[derive(clap::Args)]
pub struct GenkeyArgs {
    /// How the key is written: for `key-hex` or for `key-base64`
    #[arg(long, value_enum, default_value_t = KeyFormat::Hex)]
    pub format: KeyFormat,
    /// Length of the key, a multiple of 8 from 128 to 4096
    #[arg(long, value_name = "N", default_value = "256", value_parser = octets_of_bits)]
    pub bits: usize,
    /// Make an Ed25519 key pair in place of a pre-shared key, for `tls.authentication = "raw-public-key"`
    ///
    /// The private key is for `tls.private-key-file` of this router. The fingerprint of the public key is for
    /// `tls.peer-fingerprint` of the neighbor; `tcpauth key fingerprint` shows it again.
    #[arg(long, conflicts_with_all = ["format", "bits"])]
    pub raw_public_key: bool,
    /// A new file for the private key, for its owner only; the fingerprint is printed [default: the private key is
    /// printed, and the fingerprint to standard error]
    #[arg(long, value_name = "FILE", requires = "raw_public_key")]
    pub out: Option<PathBuf>,
}

/// How a key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyFormat {
    /// Two hexadecimal digits an octet.
    Hex,
    /// Base64 with padding.
    Base64,
}

/// A key pair, or one key on one line from the kernel's random numbers.
pub fn run(args: &GenkeyArgs) -> Result<(), Failure> {
    if args.raw_public_key {
        return key_pair(args.out.as_deref());
    }
    let mut key = Zeroizing::new(vec![0; args.bits]);
    getrandom::fill(&mut key).map_err(|error| Failure::Failed(format!("no random numbers: {error}")))?;
    let mut line = Zeroizing::new(written(&key, args.format));
    line.push('\n');
    print(&line)
}

fn key_pair(out: Option<&Path>) -> Result<(), Failure> {
    let failed = |error| Failure::Failed(format!("no key was made: {error}"));
    let key = PrivateKey::generate().map_err(failed)?;
    let (pem, fingerprint) = (key.pem().map_err(failed)?, hex::encode(key.fingerprint().map_err(failed)?));
    let Some(path) = out else {
        let text = std::str::from_utf8(&pem).map_err(|error| Failure::Failed(error.to_string()))?;
        print(text)?;
        eprintln!("fingerprint of the public key: {fingerprint}");
        return Ok(());
    };
    // An older key is never written over.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(&pem))
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    print(&format!("{fingerprint}\n"))
}

fn written(key: &[u8], format: KeyFormat) -> String {
    match format {
        KeyFormat::Hex => hex::encode(key),
        KeyFormat::Base64 => BASE64_STANDARD.encode(key),
    }
}

/// The number of octets that so many bits are.
fn octets_of_bits(bits: &str) -> Result<usize, String> {
    match bits.parse() {
        Ok(bits @ 128..=4096) if bits % 8 == 0 => Ok(bits / 8),
        _ => Err("use a multiple of 8 from 128 to 4096".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_the_configuration_reads_them() {
        assert_eq!(written(&[0, 255, 16], KeyFormat::Hex), "00ff10");
        assert_eq!(written(&[0, 255, 16, 1], KeyFormat::Base64), "AP8QAQ==");
    }

    #[test]
    fn bits_are_whole_octets_and_enough() {
        assert_eq!(octets_of_bits("256"), Ok(32));
        assert_eq!(octets_of_bits("128"), Ok(16));
        assert_eq!(octets_of_bits("4096"), Ok(512));
        for bits in ["0", "120", "129", "4104", "-8", "x", ""] {
            assert!(octets_of_bits(bits).is_err(), "{bits}");
        }
    }
}
