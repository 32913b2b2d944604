//! From master key to traffic key: RFC 5926 §3.1, draft-ietf-tcpm-tcp-ao-algs, and the two modes of
//! draft-rescorla-tcp-auth-arch-00, section 6.1. For the host.
//!
//! | algorithm | `rfc5926` | `isn` | `none` |
//! |---|---|---|---|
//! | `hmac-sha-1-96` | HMAC-SHA-1 in counter form (KDF_HMAC_SHA1) | HMAC-SHA-1 | the master key |
//! | `aes-128-cmac-96` | AES-128-CMAC in counter form (KDF_AES_128_CMAC) | AES-128-CMAC | the master key, condensed |
//! | `hmac-sha-256-96` | HMAC-SHA-256 in counter form | HMAC-SHA-256 | the master key |
//! | `hmac-sha-256-128` | HKDF-SHA256 (RFC 5869), a salt of zeros, the context as info | HMAC-SHA-256 | the master key |
//! | `siphash-2-4-96` | HMAC-SHA-256 in counter form, 16 octets | HMAC-SHA-256, 16 octets | the master key, condensed |
//! | `md5` | | | the master key |
//!
//! A key of AES or SipHash has 16 octets; a master key of another length is condensed (RFC 5926 §3.1.1.2).

use crate::{
    Algorithm, Isn, Kdf,
    mac::{
        MAX_PASSWORD,
        oneshot::{Hash, cmac, digest, hmac},
    },
};

/// What binds a traffic key to a connection, and the direction where it counts: addresses, ports and the two ISNs.
///
/// With [`Kdf::Rfc5926`] (RFC 5925 §5.2) the source is the sender of the segments that the key signs; with
/// [`Kdf::Isn`] it is the client, the end that sent the SYN, for both directions.
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

/// Key of one direction of a connection, or of both. A secret: no `Debug`, and whoever holds it wipes it.
#[derive(Clone, PartialEq, Eq)]
pub struct TrafficKey {
    octets: [u8; Self::MAX_LEN],
    len: usize,
}

impl TrafficKey {
    /// That of a password of TCP-MD5.
    const MAX_LEN: usize = MAX_PASSWORD;

    /// The octets: as many as the algorithm has ([`Algorithm::traffic_key_len`]); with [`Kdf::None`] an HMAC key
    /// has up to 64, a password of TCP-MD5 up to [`MAX_PASSWORD`].
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    /// Where the octets lie, to be overwritten.
    pub fn octets_mut(&mut self) -> &mut [u8] {
        &mut self.octets
    }

    /// The first `len` of `octets`.
    fn cut(octets: &[u8], len: usize) -> Self {
        let mut key = Self { octets: [0; Self::MAX_LEN], len: len.min(octets.len()).min(Self::MAX_LEN) };
        key.octets[..key.len].copy_from_slice(&octets[..key.len]);
        key
    }
}

/// Derives the traffic key for `context` from a master key of any length. [`Algorithm::Md5`] has no KDF: its key is
/// the master key, cut to [`MAX_PASSWORD`] octets.
pub fn traffic_key(kdf: Kdf, algorithm: Algorithm, master_key: &[u8], context: &Context) -> TrafficKey {
    match kdf {
        _ if algorithm == Algorithm::Md5 => of_every_connection(algorithm, master_key),
        Kdf::Rfc5926 => of_direction(algorithm, master_key, context),
        Kdf::Isn => of_connection(algorithm, master_key, context),
        Kdf::None => of_every_connection(algorithm, master_key),
    }
}

/// [`Kdf::Rfc5926`].
fn of_direction(algorithm: Algorithm, master_key: &[u8], context: &Context) -> TrafficKey {
    let len = algorithm.traffic_key_len();
    if algorithm == Algorithm::HmacSha256_128 {
        let pseudorandom = hmac(Hash::Sha256, &[0; 32], master_key);
        let mut input = [0; Context::MAX_LEN + 1];
        input[..context.len].copy_from_slice(context.octets());
        input[context.len] = 1;
        return TrafficKey::cut(&hmac(Hash::Sha256, &pseudorandom, &input[..=context.len]), len);
    }
    TrafficKey::cut(&pseudorandom(algorithm, master_key, CounterInput::new(context, len).octets()), len)
}

/// [`Kdf::Isn`].
fn of_connection(algorithm: Algorithm, master_key: &[u8], context: &Context) -> TrafficKey {
    TrafficKey::cut(&pseudorandom(algorithm, master_key, context.octets()), algorithm.traffic_key_len())
}

/// [`Kdf::None`].
fn of_every_connection(algorithm: Algorithm, master_key: &[u8]) -> TrafficKey {
    match algorithm {
        Algorithm::HmacSha1_96 => hmac_master_key(Hash::Sha1, master_key),
        Algorithm::HmacSha256_96 | Algorithm::HmacSha256_128 => hmac_master_key(Hash::Sha256, master_key),
        Algorithm::Aes128Cmac96 => TrafficKey::cut(&cmac_master_key(master_key), 16),
        Algorithm::SipHash2_4_96 => match <[u8; 16]>::try_from(master_key) {
            Ok(key) => TrafficKey::cut(&key, 16),
            Err(_) => TrafficKey::cut(&hmac(Hash::Sha256, &[0; 32], master_key), 16),
        },
        Algorithm::Md5 => TrafficKey::cut(master_key, MAX_PASSWORD),
    }
}

/// The pseudorandom function that belongs to the algorithm. Octets beyond its output are zero.
fn pseudorandom(algorithm: Algorithm, master_key: &[u8], input: &[u8]) -> [u8; 32] {
    match algorithm {
        Algorithm::HmacSha1_96 => hmac(Hash::Sha1, master_key, input),
        Algorithm::Aes128Cmac96 => {
            let mut octets = [0; 32];
            octets[..16].copy_from_slice(&cmac(&cmac_master_key(master_key), input));
            octets
        }
        _ => hmac(Hash::Sha256, master_key, input),
    }
}

/// An HMAC key is hashed first if it is longer than a block: the same MACs come of it (RFC 2104 §2).
fn hmac_master_key(hash: Hash, master_key: &[u8]) -> TrafficKey {
    if master_key.len() > 64 {
        TrafficKey::cut(&digest(hash, master_key), hash.digest_len())
    } else {
        TrafficKey::cut(master_key, 64)
    }
}

/// A master key that is not 16 octets long goes through AES-CMAC with a key of zeros first (RFC 5926 §3.1.1.2).
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
    use sha2::{Digest, Sha256};

    use super::*;

    fn one_mac<M: Mac + KeyInit>(key: &[u8], input: &[u8]) -> Vec<u8> {
        let mut mac = <M as KeyInit>::new_from_slice(key).expect("a key length that the algorithm has");
        mac.update(input);
        mac.finalize().into_bytes().to_vec()
    }

    fn condensed(algorithm: Algorithm, master_key: &[u8]) -> Vec<u8> {
        match algorithm {
            Algorithm::Aes128Cmac96 if master_key.len() != 16 => {
                one_mac::<Cmac<Aes128>>(&[0; 16], master_key)
            }
            Algorithm::SipHash2_4_96 if master_key.len() != 16 => {
                one_mac::<Hmac<Sha256>>(&[], master_key)[..16].to_vec()
            }
            _ => master_key.to_vec(),
        }
    }

    fn prf(algorithm: Algorithm, master_key: &[u8], input: &[u8]) -> Vec<u8> {
        match algorithm {
            Algorithm::HmacSha1_96 => one_mac::<Hmac<Sha1>>(master_key, input),
            Algorithm::Aes128Cmac96 => one_mac::<Cmac<Aes128>>(&condensed(algorithm, master_key), input),
            _ => one_mac::<Hmac<Sha256>>(master_key, input),
        }
    }

    /// The key with a KDF, where an HMAC key without one is not hashed.
    fn reference(kdf: Kdf, algorithm: Algorithm, master_key: &[u8], context: &[u8]) -> Vec<u8> {
        let len = algorithm.traffic_key_len();
        match kdf {
            Kdf::None => condensed(algorithm, master_key),
            Kdf::Isn => prf(algorithm, master_key, context)[..len].to_vec(),
            Kdf::Rfc5926 if algorithm == Algorithm::HmacSha256_128 => {
                let mut key = vec![0; 32];
                Hkdf::<Sha256>::new(None, master_key)
                    .expand(context, &mut key)
                    .expect("a length that HKDF has");
                key
            }
            Kdf::Rfc5926 => {
                let bits = (len as u16 * 8).to_be_bytes();
                prf(algorithm, master_key, &[b"\x01TCP-AO", context, &bits].concat())[..len].to_vec()
            }
        }
    }

    fn of_example() -> Context {
        let mut context = Context { octets: [0; Context::MAX_LEN], len: 0 };
        context.push(&hex::decode("0a0b0c0dac1b1c1de9d700b3fbfbab5a11c14261").unwrap());
        context
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

    /// Values computed with Python's hmac and cryptography.
    #[test]
    fn keys_that_another_program_computed() {
        use Algorithm::{Aes128Cmac96, HmacSha1_96, HmacSha256_96, HmacSha256_128, Md5, SipHash2_4_96};
        for (kdf, algorithm, key) in [
            (Kdf::Rfc5926, HmacSha256_96, "4854feea2f3ded4133ce1acb7b119a7cf022ec6bc311f3b0679960b1ff451856"),
            (
                Kdf::Rfc5926,
                HmacSha256_128,
                "6317de249bde4f43f77e5c58c9661e0ab665fa1798875fe65f5c1e80c116f4e6",
            ),
            (Kdf::Rfc5926, SipHash2_4_96, "6754ee4c821262a66532c9e5a1171896"),
            (Kdf::Isn, HmacSha1_96, "654823fb3928606a31970ada4cd3c4d67ed9d4f4"),
            (Kdf::Isn, Aes128Cmac96, "ad54f03d5313b0e4a07d9214ca0990d0"),
            (Kdf::Isn, HmacSha256_96, "7bae028a94ef80815c10a0a519929500a190a0a04632b2e254e999517f20b7ea"),
            (Kdf::Isn, HmacSha256_128, "7bae028a94ef80815c10a0a519929500a190a0a04632b2e254e999517f20b7ea"),
            (Kdf::Isn, SipHash2_4_96, "7bae028a94ef80815c10a0a519929500"),
            (Kdf::None, HmacSha1_96, "74657374766563746f72"),
            (Kdf::None, HmacSha256_96, "74657374766563746f72"),
            (Kdf::None, HmacSha256_128, "74657374766563746f72"),
            (Kdf::None, Aes128Cmac96, "b9807674931de4aa4069e5b77075c807"),
            (Kdf::None, SipHash2_4_96, "6602bfbb06bad7b832871992c7d34340"),
            (Kdf::None, Md5, "74657374766563746f72"),
        ] {
            let found = traffic_key(kdf, algorithm, b"testvector", &of_example());
            assert_eq!(hex::encode(found.octets()), key, "{kdf:?} {algorithm:?}");
        }
    }

    #[test]
    fn without_a_kdf_the_context_does_not_matter() {
        let one = of_example();
        let other = Context::new((&[0x11; 16], 1), (&[0x22; 16], 2), Isn(3), Isn(4));
        for algorithm in Algorithm::ALL {
            let key = |kdf, context| traffic_key(kdf, algorithm, b"testvector", context).octets().to_vec();
            assert_eq!(key(Kdf::None, &one), key(Kdf::None, &other), "{algorithm:?}");
            if algorithm != Algorithm::Md5 {
                assert_ne!(key(Kdf::Isn, &one), key(Kdf::Isn, &other), "{algorithm:?}");
            }
        }
    }

    #[test]
    fn a_password_of_tcp_md5_has_up_to_eighty_octets() {
        for kdf in Kdf::ALL {
            let key = |len| traffic_key(kdf, Algorithm::Md5, &vec![7; len], &of_example()).octets().len();
            assert_eq!([key(1), key(80), key(81)], [1, 80, 80]);
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
            algorithm in prop::sample::select(&Algorithm::TCP_AO[..]),
            kdf in prop::sample::select(&Kdf::ALL[..]),
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
            let key = traffic_key(kdf, algorithm, &master_key, &context);
            let mut wanted = reference(kdf, algorithm, &master_key, context.octets());
            if wanted.len() > 64 {
                // HMAC would do this with it (RFC 2104 §2).
                let hashed = if algorithm == Algorithm::HmacSha1_96 {
                    Sha1::digest(&wanted).to_vec()
                } else {
                    Sha256::digest(&wanted).to_vec()
                };
                wanted = hashed;
            }
            prop_assert_eq!(key.octets(), &wanted[..]);
        }

        #[test]
        fn a_master_key_of_sixteen_octets_is_not_condensed(master_key: [u8; 16]) {
            let context = Context::new((&[1; 16], 1), (&[2; 16], 2), Isn(3), Isn(4));
            for (kdf, algorithm) in Kdf::ALL
                .into_iter()
                .flat_map(|kdf| [(kdf, Algorithm::Aes128Cmac96), (kdf, Algorithm::SipHash2_4_96)])
            {
                let key = traffic_key(kdf, algorithm, &master_key, &context);
                prop_assert_eq!(key.octets(), &reference(kdf, algorithm, &master_key, context.octets())[..]);
            }
        }
    }
}
