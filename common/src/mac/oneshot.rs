//! MACs over slices of any length, for key preparation and the KDFs on the host.

use super::{aes, cmac, sha1, sha256};
use crate::layout::KeyMaterial;

/// The hash function below an HMAC.
#[derive(Clone, Copy)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    /// Digest length in octets.
    pub(crate) const fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    const fn initial(self) -> [u32; 8] {
        match self {
            Self::Sha1 => sha1::INITIAL,
            Self::Sha256 => sha256::INITIAL,
        }
    }

    fn compress(self, state: &mut [u32; 8], block: &[u8; 64]) {
        match self {
            Self::Sha1 => {
                let mut schedule = [0; 40];
                for (pair, octets) in schedule.iter_mut().zip(block.as_chunks::<8>().0) {
                    *pair = u64::from_be_bytes(*octets);
                }
                sha1::compress(state, &mut schedule);
            }
            Self::Sha256 => {
                let mut schedule = [0; 80];
                for (word, octets) in schedule.iter_mut().zip(block.as_chunks::<4>().0) {
                    *word = u32::from_be_bytes(*octets);
                }
                sha256::compress(state, &mut schedule);
            }
        }
    }

    /// The digest of `message`, to which `blocks_before` blocks that led to `state` belong. Octets beyond
    /// the digest's length are zero.
    fn digest(self, mut state: [u32; 8], blocks_before: u64, message: &[u8]) -> [u8; 32] {
        let (blocks, rest) = message.as_chunks::<64>();
        for block in blocks {
            self.compress(&mut state, block);
        }
        let mut last = [0; 64];
        last[..rest.len()].copy_from_slice(rest);
        last[rest.len()] = 0x80;
        if rest.len() >= 56 {
            self.compress(&mut state, &last);
            last = [0; 64];
        }
        let bits = (blocks_before * 64 + message.len() as u64) * 8;
        last[56..].copy_from_slice(&bits.to_be_bytes());
        self.compress(&mut state, &last);
        let mut digest = [0; 32];
        for (octets, word) in digest[..self.digest_len()].as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *octets = word.to_be_bytes();
        }
        digest
    }
}

/// The digest of `message`. Octets beyond its length are zero.
pub(crate) fn digest(hash: Hash, message: &[u8]) -> [u8; 32] {
    hash.digest(hash.initial(), 0, message)
}

/// The two hash states of an HMAC key (RFC 2104 §4); a key longer than a block is hashed first.
pub(crate) fn hmac_key(hash: Hash, key: &[u8]) -> KeyMaterial {
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&digest(hash, key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut inner = hash.initial();
    hash.compress(&mut inner, &block.map(|octet| octet ^ 0x36));
    let mut outer = hash.initial();
    hash.compress(&mut outer, &block.map(|octet| octet ^ 0x5c));
    let mut material = KeyMaterial::default();
    material.words[..8].copy_from_slice(&inner);
    material.words[8..].copy_from_slice(&outer);
    material
}

/// HMAC of `message`. Octets beyond the digest's length are zero.
pub(crate) fn hmac(hash: Hash, key: &[u8], message: &[u8]) -> [u8; 32] {
    let [inner, outer] = *hmac_key(hash, key).words.as_chunks::<8>().0 else {
        unreachable!("sixteen words are two states")
    };
    let digest = hash.digest(inner, 1, message);
    hash.digest(outer, 1, &digest[..hash.digest_len()])
}

/// AES-128-CMAC of `message` (RFC 4493 §2.4).
pub(crate) fn cmac(key: &[u8; 16], message: &[u8]) -> [u8; 16] {
    let mut schedule = [0; 80];
    aes::expand_key(&mut schedule, cmac::words(*key));
    let k1 = cmac::double(aes::encrypt(&schedule, [0; 4]));
    let (head, last) = message.split_at(message.len().saturating_sub(1) & !15);
    let mut state = [0; 4];
    for block in head.as_chunks::<16>().0 {
        state = aes::encrypt(&schedule, xor(state, cmac::words(*block)));
    }
    let mut block = [0; 16];
    block[..last.len()].copy_from_slice(last);
    let subkey = if last.len() == block.len() {
        k1
    } else {
        block[last.len()] = 0x80;
        cmac::double(k1)
    };
    state = aes::encrypt(&schedule, xor(xor(state, cmac::words(block)), subkey));
    let mut mac = [0; 16];
    for (octets, word) in mac.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *octets = word.to_be_bytes();
    }
    mac
}

fn xor(a: [u32; 4], b: [u32; 4]) -> [u32; 4] {
    [a[0] ^ b[0], a[1] ^ b[1], a[2] ^ b[2], a[3] ^ b[3]]
}
