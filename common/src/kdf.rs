//! From master key to traffic key: RFC 5926, section 3.1, and draft-ietf-tcpm-tcp-ao-algs. For the host.
//!
//! | algorithm | KDF |
//! |---|---|
//! | `hmac-sha-1-96` | one round of HMAC-SHA-1 in counter form (KDF_HMAC_SHA1) |
//! | `aes-128-cmac-96` | one round of AES-128-CMAC in counter form (KDF_AES_128_CMAC) |
//! | `hmac-sha-256-96` | one round of HMAC-SHA-256 in counter form |
//! | `hmac-sha-256-128` | HKDF-SHA256 (RFC 5869) with a salt of zeros and the context as info |

use crate::{
    Algorithm, Isn,
    mac::oneshot::{Hash, cmac, hmac},
};

/// What binds a traffic key to a connection and a direction (RFC 5925, 5.2): the addresses and ports of
/// the segments it signs, and the two ISNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    octets: [u8; Self::MAX_LEN],
    len: usize,
}

impl Context {
    /// Length for IPv6, in octets: two addresses, two ports, two ISNs.
    const MAX_LEN: usize = 2 * 16 + 2 * 2 + 2 * 4;

    /// The context of segments from `source` to `destination`; IPv4 addresses are given IPv4-mapped and stand
    /// in the context with their 4 octets. `destination_isn` is 0 for a SYN without ACK.
    pub fn new(
        source: (&[u8; 16], u16),
        destination: (&[u8; 16], u16),
        source_isn: Isn,
        destination_isn: Isn,
    ) -> Self {
        let mut context = Self { octets: [0; Self::MAX_LEN], len: 0 };
        let skipped = if is_mapped(source.0) && is_mapped(destination.0) { 12 } else { 0 };
        context.push(&source.0[skipped..]);
        context.push(&destination.0[skipped..]);
        context.push(&source.1.to_be_bytes());
        context.push(&destination.1.to_be_bytes());
        context.push(&source_isn.0.to_be_bytes());
        context.push(&destination_isn.0.to_be_bytes());
        context
    }

    /// The octets: 20 for IPv4, 44 for IPv6.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    fn push(&mut self, octets: &[u8]) {
        let end = self.len + octets.len();
        self.octets[self.len..end].copy_from_slice(octets);
        self.len = end;
    }
}

fn is_mapped(address: &[u8; 16]) -> bool {
    address[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}

/// Key of one direction of a connection. A secret: no `Debug`, and whoever holds it wipes it.
#[derive(Clone, PartialEq, Eq)]
pub struct TrafficKey {
    octets: [u8; 32],
    len: usize,
}

impl TrafficKey {
    /// The octets, as many as the algorithm has ([`Algorithm::traffic_key_len`]).
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    /// Where the octets lie, to be overwritten.
    pub fn octets_mut(&mut self) -> &mut [u8; 32] {
        &mut self.octets
    }
}

/// Derives the traffic key for `context` from a master key of any length.
pub fn traffic_key(algorithm: Algorithm, master_key: &[u8], context: &Context) -> TrafficKey {
    let len = algorithm.traffic_key_len();
    let mut octets = [0; 32];
    match algorithm {
        Algorithm::HmacSha1_96 => {
            octets = hmac(Hash::Sha1, master_key, CounterInput::new(context, len).octets())
        }
        Algorithm::HmacSha256_96 => {
            octets = hmac(Hash::Sha256, master_key, CounterInput::new(context, len).octets());
        }
        Algorithm::Aes128Cmac96 => {
            let key = cmac_master_key(master_key);
            octets[..16].copy_from_slice(&cmac(&key, CounterInput::new(context, len).octets()));
        }
        Algorithm::HmacSha256_128 => {
            let pseudorandom = hmac(Hash::Sha256, &[0; 32], master_key);
            let mut input = [0; Context::MAX_LEN + 1];
            input[..context.len].copy_from_slice(context.octets());
            input[context.len] = 1;
            octets = hmac(Hash::Sha256, &pseudorandom, &input[..=context.len]);
        }
    }
    TrafficKey { octets, len }
}

/// A master key that is not 16 octets long goes through AES-CMAC with a key of zeros first (RFC 5926, 3.1.1.2).
fn cmac_master_key(master_key: &[u8]) -> [u8; 16] {
    match master_key.try_into() {
        Ok(key) => key,
        Err(_) => cmac(&[0; 16], master_key),
    }
}

/// Input of the pseudorandom function in counter form: `1 || "TCP-AO" || context || output length in bits`.
struct CounterInput {
    octets: [u8; Self::LABEL.len() + Context::MAX_LEN + 2],
    len: usize,
}

impl CounterInput {
    const LABEL: &[u8] = b"\x01TCP-AO";

    /// One round is enough: no algorithm's key is longer than its function's output.
    fn new(context: &Context, output_len: usize) -> Self {
        let mut octets = [0; Self::LABEL.len() + Context::MAX_LEN + 2];
        let (start, end) = (Self::LABEL.len(), Self::LABEL.len() + context.len);
        octets[..start].copy_from_slice(Self::LABEL);
        octets[start..end].copy_from_slice(context.octets());
        octets[end..end + 2].copy_from_slice(&(output_len as u16 * 8).to_be_bytes());
        Self { octets, len: end + 2 }
    }

    fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use ::cmac::Cmac;
    use ::hmac::{Hmac, KeyInit, Mac};
    use aes::Aes128;
    use hkdf::Hkdf;
    use proptest::prelude::*;
    use sha1::Sha1;
    use sha2::Sha256;

    use super::*;

    fn one_mac<M: Mac + KeyInit>(key: &[u8], input: &[u8]) -> Vec<u8> {
        let mut mac = <M as KeyInit>::new_from_slice(key).expect("a key length that the algorithm has");
        mac.update(input);
        mac.finalize().into_bytes().to_vec()
    }

    fn reference(algorithm: Algorithm, master_key: &[u8], context: &[u8]) -> Vec<u8> {
        let input = |bits: u16| [b"\x01TCP-AO", context, &bits.to_be_bytes()].concat();
        match algorithm {
            Algorithm::HmacSha1_96 => one_mac::<Hmac<Sha1>>(master_key, &input(160)),
            Algorithm::HmacSha256_96 => one_mac::<Hmac<Sha256>>(master_key, &input(256)),
            Algorithm::Aes128Cmac96 if master_key.len() == 16 => {
                one_mac::<Cmac<Aes128>>(master_key, &input(128))
            }
            Algorithm::Aes128Cmac96 => {
                one_mac::<Cmac<Aes128>>(&one_mac::<Cmac<Aes128>>(&[0; 16], master_key), &input(128))
            }
            Algorithm::HmacSha256_128 => {
                let mut key = vec![0; 32];
                Hkdf::<Sha256>::new(None, master_key)
                    .expand(context, &mut key)
                    .expect("a length that HKDF has");
                key
            }
        }
    }

    #[test]
    fn ipv4_addresses_are_four_octets_of_the_context() {
        let source = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 11, 12, 13];
        let destination = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 172, 27, 28, 29];
        let context =
            Context::new((&source, 0xe9d7), (&destination, 179), Isn(0xfbfb_ab5a), Isn(0x11c1_4261));
        assert_eq!(hex::encode(context.octets()), "0a0b0c0dac1b1c1de9d700b3fbfbab5a11c14261");
    }

    #[test]
    fn ipv6_addresses_are_sixteen_octets_of_the_context() {
        let context = Context::new((&[0x11; 16], 1), (&[0x22; 16], 2), Isn(3), Isn(4));
        let expected = ["11".repeat(16), "22".repeat(16), "000100020000000300000004".into()].concat();
        assert_eq!(hex::encode(context.octets()), expected);
    }

    /// Values computed with Python's hmac.
    #[test]
    fn the_two_kdfs_of_hmac_sha_256() {
        let mut context = Context { octets: [0; Context::MAX_LEN], len: 0 };
        context.push(&hex::decode("0a0b0c0dac1b1c1de9d700b3fbfbab5a11c14261").unwrap());
        for (algorithm, key) in [
            (Algorithm::HmacSha256_96, "4854feea2f3ded4133ce1acb7b119a7cf022ec6bc311f3b0679960b1ff451856"),
            (Algorithm::HmacSha256_128, "6317de249bde4f43f77e5c58c9661e0ab665fa1798875fe65f5c1e80c116f4e6"),
        ] {
            assert_eq!(hex::encode(traffic_key(algorithm, b"testvector", &context).octets()), key);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_rustcrypto(
            master_key in prop::collection::vec(any::<u8>(), 1..200),
            (source, destination) in any::<([u8; 16], [u8; 16])>(),
            ports in any::<(u16, u16)>(),
            isns in any::<(u32, u32)>(),
            is_ipv4 in any::<bool>(),
            algorithm in prop::sample::select(&Algorithm::ALL[..]),
        ) {
            let address = |mut octets: [u8; 16]| {
                if is_ipv4 {
                    octets[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
                }
                octets
            };
            let (source, destination) = (address(source), address(destination));
            let context =
                Context::new((&source, ports.0), (&destination, ports.1), Isn(isns.0), Isn(isns.1));
            prop_assert_eq!(context.octets().len(), if is_ipv4 { 20 } else { 44 });
            let key = traffic_key(algorithm, &master_key, &context);
            prop_assert_eq!(key.octets(), &reference(algorithm, &master_key, context.octets())[..]);
        }

        #[test]
        fn a_cmac_master_key_of_sixteen_octets_is_used_as_it_is(master_key: [u8; 16]) {
            let context = Context::new((&[1; 16], 1), (&[2; 16], 2), Isn(3), Isn(4));
            let key = traffic_key(Algorithm::Aes128Cmac96, &master_key, &context);
            prop_assert_eq!(key.octets(), &reference(Algorithm::Aes128Cmac96, &master_key, context.octets())[..]);
        }
    }
}
