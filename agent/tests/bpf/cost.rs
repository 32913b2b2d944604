//! What trial verification costs. Not a test of what is right: `cargo xtask bench trial` runs it and judges.

use tcpauth::keys::{TcpOptions, segment::md5};
use tcpauth_common::{Algorithm, layout::MAX_KEYS};

use super::{
    connection::{Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK, mkt, order},
    context::Verdict,
    lab::Lab,
    segment::Segment,
};

/// Octets of data: a full segment with timestamps on Ethernet.
const DATA: usize = 1448;
/// Each case is run so often in turn with the others.
const ROUNDS: usize = 100;
const RUNS: usize = 20;

/// Prints, a line for each algorithm, its name and the nanoseconds of `ingress` that a tenth of the runs keep below,
/// since others are at work on the machine: with a refusal before the
/// MAC, with the first key matching, the second of two, the third of three.
///
/// A run each: `ingress` takes the option away, so that a repetition on the same frame would find none.
#[test]
#[ignore = "measures"]
fn cost_of_trial() {
    for algorithm in Algorithm::ALL {
        let secrets: [&[u8]; MAX_KEYS] = [b"first of three", b"second of three", b"third of three"];
        let keys = secrets.map(|secret| mkt(algorithm, TcpOptions::Include, secret, 10, 20));
        let base = Connection::new(Family::V4, algorithm, TcpOptions::Include);
        let under = |key: usize| Connection { mkt: keys[key].clone(), ..base.clone() };
        let mut session = under(0).session();
        for (slot, key) in keys.iter().enumerate() {
            session.slots[slot] = base.slot(key, LOCAL_ISN, PEER_ISN);
        }
        let signed = |key: usize, seq: u32| {
            let segment = Segment { data: vec![0xa5; DATA], ..base.inbound(PSH_ACK, seq) };
            match algorithm {
                Algorithm::Md5 => sign_md5(secrets[key], segment),
                _ => under(key).sign(&session.slots[key].recv, segment, 0),
            }
        };
        let mut lab = Lab::with(&under(0), Some(&session));
        let far = PEER_ISN.wrapping_add(1 << 30);
        let cases: [(&[u32], Vec<u8>, Verdict); 4] = [
            (&[0], signed(0, far).frame(), Verdict::Drop),
            (&[0], signed(0, PEER_ISN + 1).frame(), Verdict::Pass),
            (&[0, 1], signed(1, PEER_ISN + 1).frame(), Verdict::Pass),
            (&[0, 1, 2], signed(2, PEER_ISN + 1).frame(), Verdict::Pass),
        ];
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            for ((newest_first, frame, wanted), times) in cases.iter().zip(&mut times) {
                session.rollover.order = order(newest_first);
                lab.put(&base, &session);
                for _ in 0..RUNS {
                    let (verdict, nanoseconds) = lab.time_ingress(frame);
                    assert_eq!(verdict, *wanted, "{algorithm:?} {newest_first:?}");
                    times.push(nanoseconds);
                }
            }
        }
        let [refused, first, second, third] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 10]
        });
        println!("measured: {} {refused} {first} {second} {third}", algorithm.name());
    }
}

fn sign_md5(password: &[u8], mut segment: Segment) -> Segment {
    segment.options = [&[1, 1, 19, 18][..], &[0; 16]].concat();
    let (source, destination) = (segment.source.ip(), segment.destination.ip());
    let digest = md5::digest(password, source, destination, &segment.tcp()).unwrap();
    segment.options[4..].copy_from_slice(&digest);
    segment
}
