//! A target fed with inputs, until the time is up or it panics.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::{mutation::Mutator, targets::Target};

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many inputs.
    Inputs(u64),
    /// After so much time.
    Elapsed(Duration),
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Inputs that the target was given.
    pub inputs: u64,
    /// All the time it took, in which inputs were made, too.
    pub elapsed: Duration,
    /// The longest that one input took.
    pub slowest: Duration,
    /// The input at which the target panicked, and what it said.
    pub panic: Option<(Vec<u8>, String)>,
}

impl Target {
    /// Gives the target its seeds, then inputs made of them with the random numbers of `seed`.
    pub fn fuzz(&self, until: Until, seed: u64) -> Report {
        let seeds = (self.seeds)();
        let mut mutator = Mutator::new(seeds.clone(), seed);
        let mut seeds = seeds.into_iter();
        let start = Instant::now();
        let mut report = Report { inputs: 0, elapsed: Duration::ZERO, slowest: Duration::ZERO, panic: None };
        loop {
            let input = seeds.next().unwrap_or_else(|| mutator.next_input());
            let before = Instant::now();
            let result = self.try_input(&input);
            report.slowest = report.slowest.max(before.elapsed());
            report.inputs += 1;
            report.elapsed = start.elapsed();
            report.panic = result.err().map(|message| (input, message));
            let is_over = match until {
                Until::Inputs(inputs) => report.inputs >= inputs,
                Until::Elapsed(time) => report.elapsed >= time,
            };
            if is_over || report.panic.is_some() {
                return report;
            }
        }
    }

    /// Gives the target one input.
    ///
    /// # Errors
    /// What it said when it panicked.
    pub fn try_input(&self, input: &[u8]) -> Result<(), String> {
        catch_unwind(AssertUnwindSafe(|| (self.run)(input))).map_err(message)
    }
}

fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => {
            panic.downcast_ref::<&str>().map_or("a panic without a message", |text| text).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::ALL;

    #[test]
    fn a_panic_is_found_and_its_input_told() {
        fn fragile(input: &[u8]) {
            assert!(!matches!(input, [b'a', b'b', 0x80..=0xff, ..]), "found it");
        }
        let seeds = || vec![b"abc".to_vec()];
        let target = Target { name: "fragile", about: "", run: fragile, seeds, inputs_in_tests: 0 };
        let report = target.fuzz(Until::Inputs(1_000_000), 1);
        let (input, message) = report.panic.expect("one in some hundreds");
        assert!(input.starts_with(b"ab") && message == "found it" && report.inputs < 1_000_000);
        assert_eq!(target.try_input(&input), Err("found it".to_owned()));
        assert_eq!(target.try_input(b"abc"), Ok(()));
    }

    /// How many inputs each target takes in a test: less than a second's worth, without optimisation.
    #[test]
    fn no_target_panics_in_short_campaigns() {
        for target in ALL {
            let report = target.fuzz(Until::Inputs(target.inputs_in_tests), 1);
            if let Some((input, message)) = report.panic {
                panic!("{}: {message}; input {}", target.name, hex::encode(input));
            }
        }
    }

    #[test]
    fn every_target_has_seeds_and_a_name_of_its_own() {
        for (place, target) in ALL.iter().enumerate() {
            assert!(!(target.seeds)().is_empty(), "{}", target.name);
            assert!(ALL[place + 1..].iter().all(|other| other.name != target.name));
        }
    }
}
