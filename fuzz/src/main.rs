//! What `cargo xtask fuzz` runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use tcpauth_fuzz::{
    campaign::Until,
    targets::{ALL, Target},
};

/// Feed what strangers can send to tcpauth with random input
#[derive(Parser)]
#[command(name = "cargo xtask fuzz")]
struct Arguments {
    /// Only this target; all of them, one after the other, if not given
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// List the targets
    #[arg(long)]
    list: bool,
    /// Give the target this file's input, in hex, and nothing else
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let wanted: Vec<_> = ALL
        .iter()
        .filter(|target| arguments.target.as_deref().is_none_or(|name| name == target.name))
        .collect();
    let Some(first) = wanted.first() else { bail!("there is no such target: see --list") };
    if arguments.list {
        wanted.iter().for_each(|target| println!("{:12} {}", target.name, target.about));
        return Ok(());
    }
    if let Some(file) = &arguments.input {
        let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let input = hex::decode(text.trim()).with_context(|| format!("{} is not in hex", file.display()))?;
        (first.run)(&input);
        println!("{}: no panic", first.name);
        return Ok(());
    }
    let mut found = 0;
    for target in wanted {
        found += usize::from(!is_good(target, arguments)?);
    }
    if found > 0 { bail!("{found} of the targets panicked") } else { Ok(()) }
}

/// Runs a campaign and prints what came of it: whether the target stood it.
fn is_good(target: &Target, arguments: &Arguments) -> Result<bool> {
    // What a panic says is in the report.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let report = target.fuzz(Until::Elapsed(Duration::from_secs(arguments.seconds)), arguments.seed);
    std::panic::set_hook(hook);
    let rate = report.inputs as f64 / report.elapsed.as_secs_f64();
    println!(
        "{:12} {:9} inputs, {rate:9.0} a second, {:6.1} ms at most",
        target.name,
        report.inputs,
        report.slowest.as_secs_f64() * 1000.0
    );
    let Some((input, message)) = report.panic else { return Ok(true) };
    let folder = Path::new("target/fuzz");
    fs::create_dir_all(folder)?;
    let file = folder.join(format!("{}-{}-{}.hex", target.name, arguments.seed, report.inputs));
    fs::write(&file, hex::encode(input) + "\n")?;
    println!("  PANIC: {message}");
    println!("  again: cargo xtask fuzz {} --input {}", target.name, file.display());
    Ok(false)
}
