//! What it costs to try several keys on a segment of 1448 octets.
//!
//! By BPF test-run of `ingress`, in the tests of the agent, which make the sessions and the segments. "The MAC alone"
//! is the time with the first key matching, less that of a segment of the same length that is refused before the MAC,
//! for its sequence number.

use std::str::SplitWhitespace;

use anyhow::{Context, Result, ensure};

use super::Measured;
use crate::build::cargo;

/// Most that a second key may cost, in times of the MAC alone.
const MOST: f64 = 2.1;

pub fn measure() -> Result<Vec<Measured>> {
    let mut tests = cargo("test");
    tests.args(["-p", "tcpauth", "--test", "bpf_programs", "--", "--ignored", "--nocapture", "--exact"]);
    let output = tests.arg("bpf::cost::cost_of_trial").output()?;
    ensure!(output.status.success(), "the tests failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    // Other output may stand before it on its line.
    let lines = text.lines().filter_map(|line| line.split_once("measured: ")).map(|(_, times)| times);
    let measured: Vec<Measured> = lines
        .map(|line| of_algorithm(line.split_whitespace()).with_context(|| line.to_owned()))
        .collect::<Result<Vec<_>>>()?
        .concat();
    ensure!(!measured.is_empty(), "nothing was measured");
    Ok(measured)
}

/// Of an algorithm's name and the nanoseconds of its four cases.
fn of_algorithm(mut words: SplitWhitespace<'_>) -> Result<Vec<Measured>> {
    let name = words.next().context("no algorithm")?;
    let times: Vec<f64> = words.map(str::parse).collect::<Result<_, _>>()?;
    let &[refused, first, second, third] = &times[..] else { anyhow::bail!("{} numbers", times.len()) };
    let mac = first - refused;
    let microseconds =
        |what: &str, nanoseconds: f64| Measured::new(format!("{name}: {what}"), nanoseconds / 1000.0, "µs");
    let ratio = |what: &str, nanoseconds: f64| {
        Measured::new(format!("{name}: {what}, by the MAC alone"), (nanoseconds - refused) / mac, "")
    };
    Ok(vec![
        microseconds("refused before the MAC", refused),
        microseconds("the MAC alone", mac),
        microseconds("first key matching", first),
        microseconds("second of two matching", second),
        microseconds("third of three matching", third),
        microseconds("a wrong first guess", second - first),
        ratio("second of two", second).below(MOST),
        ratio("third of three", third),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_key_that_costs_too_much_is_told() {
        let of = |line: &str| of_algorithm(line.split_whitespace());
        let kept = |line| of(line).unwrap().iter().all(Measured::is_kept);
        assert!(kept("md5 1000 4000 7200 10200"));
        assert!(!kept("md5 1000 4000 7400 10200"));
        assert!(of("md5 1000 4000 7200").is_err());
        assert!(of("md5 1000 4000 7200 x").is_err());
    }
}
