//! Nanoseconds of one MAC on the host: the source that the eBPF programs are built from, and OpenSSL.
//!
//! `tcpauth-host-mac OCTETS…` prints `[{"name":…, "octets":…, "scalar":…, "openssl":…}, …]`, the last one null
//! where OpenSSL has no such MAC. A program of its own, so that it can be built without vector instructions
//! and `xtask` without OpenSSL.

use std::{
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use openssl::{
    error::ErrorStack,
    hash::{MessageDigest, hash},
    pkey::{PKey, Private},
    sign::Signer,
    symm::Cipher,
};
use serde_json::json;
use tcpauth_common::{
    Algorithm,
    mac::{Workspace, mac, prepare},
};

/// A MAC is computed again and again for so long, so many times.
const SLICE: Duration = Duration::from_millis(1);
const SLICES: usize = 21;

/// Runs between two looks at the clock.
const BATCH: u32 = 16;

const KEY: [u8; 32] = [0x5a; 32];

fn main() -> Result<(), Box<dyn Error>> {
    let lengths: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let mut measured = Vec::new();
    for algorithm in Algorithm::ALL {
        for &octets in &lengths {
            measured.push(json!({
                "name": algorithm.name(),
                "octets": octets,
                "scalar": scalar(algorithm, octets)?,
                "openssl": openssl(algorithm, octets)?,
            }));
        }
    }
    println!("{}", json!(measured));
    Ok(())
}

fn scalar(algorithm: Algorithm, octets: usize) -> Result<f64, Box<dyn Error>> {
    let mut workspace = Box::<Workspace>::default();
    let len = workspace.load(&[&vec![0xa5; octets]]).ok_or("longer than a segment")?;
    let key = prepare(algorithm, &KEY[..algorithm.traffic_key_len()]);
    Ok(nanoseconds(|| mac(black_box(&mut workspace), black_box(&key), algorithm, len)))
}

/// OpenSSL's through EVP, with a key that is there already.
fn openssl(algorithm: Algorithm, octets: usize) -> Result<Option<f64>, ErrorStack> {
    let input = vec![0xa5; octets];
    let key = &KEY[..algorithm.traffic_key_len()];
    let signed = |key: &PKey<Private>, digest: Option<MessageDigest>| {
        let mut signer = match digest {
            Some(digest) => Signer::new(digest, key)?,
            None => Signer::new_without_digest(key)?,
        };
        signer.sign_oneshot_to_vec(black_box(&input))
    };
    let (key, digest) = match algorithm.name() {
        "hmac-sha-1-96" => (PKey::hmac(key)?, Some(MessageDigest::sha1())),
        "hmac-sha-256-96" | "hmac-sha-256-128" => (PKey::hmac(key)?, Some(MessageDigest::sha256())),
        "aes-128-cmac-96" => (PKey::cmac(&Cipher::aes_128_cbc(), key)?, None),
        "md5" => {
            return fallible_nanoseconds(|| hash(MessageDigest::md5(), black_box(&input)).map(drop))
                .map(Some);
        }
        _ => return Ok(None),
    };
    fallible_nanoseconds(|| signed(&key, digest).map(drop)).map(Some)
}

fn fallible_nanoseconds(mut work: impl FnMut() -> Result<(), ErrorStack>) -> Result<f64, ErrorStack> {
    work()?;
    let mut last = Ok(());
    let nanoseconds = nanoseconds(|| {
        if last.is_ok() {
            last = work();
        }
    });
    last.map(|()| nanoseconds)
}

/// Of one run of `work`: the median of slices, as other programs interrupt some of them.
fn nanoseconds(mut work: impl FnMut()) -> f64 {
    let mut slices = [0.0; SLICES];
    for slice in &mut slices {
        let (start, mut runs) = (Instant::now(), 0);
        while start.elapsed() < SLICE {
            for _ in 0..BATCH {
                work();
            }
            runs += BATCH;
        }
        *slice = start.elapsed().as_nanos() as f64 / f64::from(runs);
    }
    slices.sort_by(f64::total_cmp);
    slices[SLICES / 2]
}
