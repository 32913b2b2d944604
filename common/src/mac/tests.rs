//! The MACs against published vectors and against RustCrypto.

use ::aes::Aes128;
use ::cmac::Cmac;
use ::hmac::{Hmac, KeyInit, Mac};
use ::md5::{Digest, Md5};
use ::sha1::Sha1;
use ::siphasher::sip128::SipHasher24;
use proptest::prelude::*;
use sha2::Sha256;

use super::*;

fn ours(algorithm: Algorithm, key: &[u8], message: &[u8]) -> [u8; 16] {
    // What an earlier, longer segment left behind must not matter.
    let mut ws =
        Box::new(Workspace { input: [0xa5a5_a5a5; INPUT_WORDS], schedule: [7; 80], ..Default::default() });
    let len = ws.load(&[message]).expect("the message fits");
    mac(&mut ws, &prepare(algorithm, key), algorithm, len);
    ws.mac_octets()
}

fn reference(algorithm: Algorithm, key: &[u8], message: &[u8]) -> [u8; 16] {
    fn first16<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> [u8; 16] {
        let mut mac = <M as KeyInit>::new_from_slice(key).expect("a key length that the algorithm has");
        mac.update(message);
        mac.finalize().into_bytes()[..16].try_into().expect("16 octets")
    }
    match algorithm {
        Algorithm::HmacSha1_96 => first16::<Hmac<Sha1>>(key, message),
        Algorithm::Aes128Cmac96 => first16::<Cmac<Aes128>>(key, message),
        Algorithm::HmacSha256_96 | Algorithm::HmacSha256_128 => first16::<Hmac<Sha256>>(key, message),
        Algorithm::SipHash2_4_96 => {
            SipHasher24::new_with_key(key.try_into().expect("16 octets")).hash(message).as_bytes()
        }
        // The key is in the message.
        Algorithm::Md5 => Md5::digest(message).into(),
    }
}

/// Octets that differ at every place a mistake could confuse.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
}

#[test]
fn every_length_over_several_blocks() {
    let octets = pattern(700);
    for algorithm in Algorithm::ALL {
        let key = pattern(algorithm.traffic_key_len());
        for len in 0..=octets.len() {
            let message = &octets[..len];
            assert_eq!(
                ours(algorithm, &key, message),
                reference(algorithm, &key, message),
                "{algorithm:?} {len}"
            );
        }
    }
}

#[test]
fn every_border_of_blocks_up_to_a_jumbo_frame() {
    let octets = pattern(9300);
    for algorithm in Algorithm::ALL {
        let key = pattern(algorithm.traffic_key_len());
        for border in (704..9300).step_by(64) {
            for len in [
                border - 9,
                border - 8,
                border - 1,
                border,
                border + 1,
                border + 15,
                border + 16,
                border + 17,
            ] {
                let message = &octets[..len.min(octets.len())];
                assert_eq!(
                    ours(algorithm, &key, message),
                    reference(algorithm, &key, message),
                    "{algorithm:?} {len}"
                );
            }
        }
    }
}

#[test]
fn the_longest_input_leaves_room_for_its_padding() {
    let octets = pattern(MAX_INPUT as usize);
    for algorithm in Algorithm::ALL {
        let key = pattern(algorithm.traffic_key_len());
        for len in octets.len() - 65..=octets.len() {
            let message = &octets[..len];
            assert_eq!(
                ours(algorithm, &key, message),
                reference(algorithm, &key, message),
                "{algorithm:?} {len}"
            );
        }
    }
}

#[test]
fn an_input_too_long_is_refused() {
    let mut ws = Box::new(Workspace::default());
    let octets = pattern(MAX_INPUT as usize);
    assert_eq!(ws.load(&[&octets]), Some(MAX_INPUT));
    assert_eq!(ws.load(&[&octets, &[0]]), None);
}

#[test]
fn parts_join_without_a_seam() {
    let octets = pattern(333);
    let (mut whole, mut parts) = (Box::new(Workspace::default()), Box::new(Workspace::default()));
    let len = whole.load(&[&octets]);
    assert_eq!(parts.load(&[&octets[..4], &octets[4..17], &[], &octets[17..]]), len);
    assert!(whole.input == parts.input);
}

#[test]
fn steps_beyond_the_last_change_nothing_of_a_cmac() {
    let key = prepare(Algorithm::Aes128Cmac96, &pattern(16));
    let mut ws = Box::new(Workspace::default());
    let len = ws.load(&[&pattern(100)]).expect("the message fits");
    mac(&mut ws, &key, Algorithm::Aes128Cmac96, len);
    let expected = ws.mac_octets();
    let steps = start(&mut ws, Algorithm::Aes128Cmac96, len);
    for index in 0..steps + 3 {
        step(&mut ws, Algorithm::Aes128Cmac96, index);
    }
    finish(&mut ws, Algorithm::Aes128Cmac96);
    assert_eq!(ws.mac_octets(), expected);
}

#[test]
fn lengths_and_indexes_out_of_range_do_not_panic() {
    let mut ws = Box::new(Workspace::default());
    for algorithm in Algorithm::ALL {
        for len in [MAX_INPUT + 1, 16383, 16384, 16385, 1 << 20, u32::MAX / 8 - 64] {
            start(&mut ws, algorithm, len);
            for index in [0, 255, 256, 1 << 20, u32::MAX / 4] {
                step(&mut ws, algorithm, index);
            }
            finish(&mut ws, algorithm);
        }
    }
}

/// RFC 4493 §4: AES-CMAC.
#[test]
fn vectors_of_rfc_4493() {
    let key = hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap();
    let message = hex::decode(concat!(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    ))
    .unwrap();
    for (len, mac) in [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ] {
        let expected = hex::decode(mac).unwrap();
        assert_eq!(ours(Algorithm::Aes128Cmac96, &key, &message[..len])[..], expected[..]);
        assert_eq!(oneshot::cmac(key.as_slice().try_into().unwrap(), &message[..len])[..], expected[..]);
    }
}

/// RFC 2202 §3 and RFC 4231 §4: HMAC-SHA-1 and HMAC-SHA-256.
#[test]
fn vectors_of_rfc_2202_and_rfc_4231() {
    let jefe = (&b"Jefe"[..], &b"what do ya want for nothing?"[..]);
    let long_key = ([0xaa; 80], &b"Test Using Larger Than Block-Size Key - Hash Key First"[..]);
    let longer_key = ([0xaa; 131], long_key.1);
    for (algorithm, key, message, mac) in [
        (Algorithm::HmacSha1_96, &[0x0b; 20][..], &b"Hi There"[..], "b617318655057264e28bc0b6fb378c8e"),
        (Algorithm::HmacSha1_96, jefe.0, jefe.1, "effcdf6ae5eb2fa2d27416d5f184df9c"),
        (Algorithm::HmacSha1_96, &long_key.0, long_key.1, "aa4ae5e15272d00e95705637ce8a3b55"),
        (Algorithm::HmacSha256_96, &[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b"),
        (Algorithm::HmacSha256_128, jefe.0, jefe.1, "5bdcc146bf60754e6a042426089575c7"),
        (Algorithm::HmacSha256_128, &longer_key.0, longer_key.1, "60e431591ee0b67f0d8a26aacbf5b77f"),
    ] {
        assert_eq!(hex::encode(ours(algorithm, key, message)), mac);
    }
}

/// Appendix A of "SipHash: a fast short-input PRF" has the input; the outputs of 128 bits are those of the authors'
/// reference code (`vectors.h`).
#[test]
fn vectors_of_the_authors_of_siphash() {
    let octets: Vec<u8> = (0..64).collect();
    for (len, mac) in [
        (0, "a3817f04ba25a8e66df67214c7550293"),
        (1, "da87c1d86b99af44347659119b22fc45"),
        (2, "8177228da4a45dc7fca38bdef60affe4"),
        (3, "9c70b60c5267a94e5f33b6b02985ed51"),
        (7, "a1f1ebbed8dbc153c0b84aa61ff08239"),
        (8, "3b62a9ba6258f5610f83e264f31497b4"),
        (15, "5493e99933b0a8117e08ec0f97cfc3d9"),
        (63, "5150d1772f50834a503e069a973fbd7c"),
    ] {
        assert_eq!(hex::encode(ours(Algorithm::SipHash2_4_96, &octets[..16], &octets[..len])), mac, "{len}");
    }
}

/// RFC 1321, A.5.
#[test]
fn vectors_of_rfc_1321() {
    for (message, digest) in [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a",
        ),
    ] {
        assert_eq!(hex::encode(ours(Algorithm::Md5, &[], message.as_bytes())), digest);
    }
}

#[test]
fn a_password_is_its_length_and_its_octets() {
    for len in [1, 3, 4, 59, 60, 61, 79, 80] {
        let octets = pattern(len);
        let words: Vec<_> = password(&octets).iter().flat_map(|material| material.words).collect();
        let memory: Vec<u8> = words[1..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(words[0] as usize, len);
        assert_eq!(memory[..len], octets);
        assert!(memory[len..].iter().all(|octet| *octet == 0), "{len}");
    }
    assert_eq!(password(&pattern(81))[0].words[0], 80);
}

proptest! {
    #[test]
    fn agrees_with_rustcrypto(
        message in prop::collection::vec(any::<u8>(), 0..9300),
        key in any::<[u8; 32]>(),
        algorithm in prop::sample::select(&Algorithm::ALL[..]),
    ) {
        let key = &key[..algorithm.traffic_key_len()];
        prop_assert_eq!(ours(algorithm, key, &message), reference(algorithm, key, &message));
    }

    #[test]
    fn hmac_keys_of_any_length(key in prop::collection::vec(any::<u8>(), 0..300), message: Vec<u8>) {
        for algorithm in [Algorithm::HmacSha1_96, Algorithm::HmacSha256_128] {
            prop_assert_eq!(ours(algorithm, &key, &message), reference(algorithm, &key, &message));
        }
    }
}
