//! How the demo speaks.

use std::{
    io::IsTerminal,
    sync::atomic::{AtomicU32, Ordering},
};

static STEP: AtomicU32 = AtomicU32::new(1);

/// Begins a step.
pub fn step(title: &str) {
    let number = STEP.fetch_add(1, Ordering::Relaxed);
    match std::io::stdout().is_terminal() {
        true => println!("\n\x1b[1m{number}. {title}\x1b[0m"),
        false => println!("\n{number}. {title}"),
    }
}

/// Says something.
pub fn explain(text: &str) {
    println!("   {text}");
}

/// Shows what a program printed.
pub fn show(what: &str, output: &str) {
    println!("   {what}");
    for line in output.trim_end().lines() {
        println!("   │ {line}");
    }
}
