//! The eBPF toolchain: a compiler with the sources of `core`, and bpf-linker.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{exists, in_path};
use crate::command::{answer, run_with_progress};

/// Debian's compiler, beside the one of rustup.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Where `llvm-22-dev` is. bpf-linker has to be built with the LLVM of the compiler.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Of the registry; the version this project is built with.
const LINKER_VERSION: &str = "0.13.0";

/// Who compiles the eBPF programs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compiler {
    /// Debian's rustc-web with rust-web-src.
    Debian,
    /// A nightly toolchain of rustup with the component rust-src.
    Nightly,
}

/// What is missing.
pub fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if compiler().is_none() {
        missing.push("compiler with the sources of core for eBPF");
    }
    if !has_linker() {
        missing.push("bpf-linker");
    }
    missing
}

/// The toolchain in a few words.
pub fn description() -> &'static str {
    match compiler() {
        Some(Compiler::Debian) => "Debian's rustc and bpf-linker",
        Some(Compiler::Nightly) => "rustup's nightly and bpf-linker",
        None => "no eBPF toolchain",
    }
}

/// Debian packages that are missing; none if rustup's nightly can do it.
pub fn packages() -> Vec<&'static str> {
    let mut packages = Vec::new();
    if compiler().is_none() {
        packages.extend(["rustc-web", "cargo-web", "rust-web-src"]);
    }
    if !has_linker() && compiler() != Some(Compiler::Nightly) {
        packages.extend(["llvm-22-dev", "g++", "zlib1g-dev", "libzstd-dev"]);
    }
    packages
}

/// Builds bpf-linker if it is missing. Takes a minute or two.
///
/// # Errors
/// If it does not build.
pub fn install_linker() -> Result<()> {
    if has_linker() {
        return Ok(());
    }
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION]);
    if exists(LLVM_PREFIX) {
        cargo.env("LLVM_PREFIX", LLVM_PREFIX).args(["--no-default-features", "--features", "llvm-22"]);
    }
    run_with_progress("Build bpf-linker", cargo)
}

fn has_linker() -> bool {
    let cargo_home = std::env::var_os("CARGO_HOME").map(Into::into);
    let cargo_home = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    in_path("bpf-linker") || cargo_home.is_some_and(|home| home.join("bin/bpf-linker").is_file())
}

/// Debian's is looked for first, as it is in the build.
fn compiler() -> Option<Compiler> {
    if has_core_sources(&mut Command::new(DEBIAN_RUSTC)) && exists("/usr/bin/cargo") {
        Some(Compiler::Debian)
    } else if has_core_sources(Command::new("rustup").args(["run", "nightly", "rustc"])) {
        Some(Compiler::Nightly)
    } else {
        None
    }
}

fn has_core_sources(rustc: &mut Command) -> bool {
    answer(rustc.args(["--print", "sysroot"]))
        .is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir())
}
