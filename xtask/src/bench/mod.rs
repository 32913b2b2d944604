//! `cargo xtask bench`: what tcpauth costs, against the same without it.
//!
//! What is compared is measured in turn, several rounds, in one run: machines differ, ratios less.

mod bulk;
mod connect;
mod programs;
mod scale;
mod statistics;
mod trial;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tcpauth_tests::{agent::hide_logs, binaries::use_folder, namespace};

use crate::{build::programs_under_test, command::require_root, setup};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// One case only
    case: Option<Case>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// Time to connect, with and without tcpauth
    Connect,
    /// Bulk data: TCP, TCP-MD5, and tcpauth with each algorithm
    Bulk,
    /// 1,000 neighbors: time to start and memory
    Scale,
    /// Instructions that the kernel verified in each program
    Programs,
    /// Trying several keys on a segment
    Trial,
}

/// A number that was measured.
#[derive(Clone)]
struct Measured {
    what: String,
    value: f64,
    unit: &'static str,
    limit: Option<Limit>,
}

/// What a number is to reach.
#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    Below(f64),
}

/// Measures, and fails if a limit is not kept.
pub fn run(arguments: &Arguments) -> Result<()> {
    require_root("`cargo xtask bench`")?;
    setup::require_build_tools()?;
    use_folder(programs_under_test()?);
    namespace::sweep()?;
    hide_logs();
    let mut all = Vec::new();
    let cases = [Case::Connect, Case::Bulk, Case::Scale, Case::Programs, Case::Trial];
    for case in cases.into_iter().filter(|case| arguments.case.is_none_or(|wanted| wanted == *case)) {
        eprintln!("{case:?} …");
        let measured = match case {
            Case::Connect => connect::measure()?,
            Case::Bulk => bulk::measure()?,
            Case::Scale => scale::measure()?,
            Case::Programs => programs::measure()?,
            Case::Trial => trial::measure()?,
        };
        if !arguments.json {
            measured.iter().for_each(Measured::print);
        }
        all.extend(measured);
    }
    if arguments.json {
        println!("{:#}", Value::Array(all.iter().map(Measured::json).collect()));
    }
    let missed: Vec<&str> =
        all.iter().filter(|measured| !measured.is_kept()).map(|measured| &*measured.what).collect();
    ensure!(missed.is_empty(), "not reached: {}", missed.join(", "));
    Ok(())
}

impl Measured {
    fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, limit: None }
    }

    fn at_least(self, limit: f64) -> Self {
        Self { limit: Some(Limit::AtLeast(limit)), ..self }
    }

    fn below(self, limit: f64) -> Self {
        Self { limit: Some(Limit::Below(limit)), ..self }
    }

    fn is_kept(&self) -> bool {
        match self.limit {
            None => true,
            Some(Limit::AtLeast(limit)) => self.value >= limit,
            Some(Limit::Below(limit)) => self.value < limit,
        }
    }

    fn limit_text(&self) -> String {
        match self.limit {
            None => String::new(),
            Some(Limit::AtLeast(limit)) => format!("at least {limit}"),
            Some(Limit::Below(limit)) => format!("below {limit}"),
        }
    }

    fn print(&self) {
        let verdict = match self.limit {
            None => "",
            Some(_) if self.is_kept() => ": kept",
            Some(_) => ": NOT KEPT",
        };
        println!("  {:<58} {:>12.3} {:<8} {}{verdict}", self.what, self.value, self.unit, self.limit_text());
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "limit": self.limit_text(),
            "kept": self.is_kept(),
        })
    }
}
