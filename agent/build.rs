//! Builds the eBPF programs, which the daemon carries inside it.
//!
//! `core` has to be built from source for `bpfel-unknown-none`. Debian's packages can do it, and so
//! can a nightly toolchain of rustup with `rust-src`; `cargo xtask setup` installs one of them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// `target-cpu`: kernels since 5.1 know these instructions; without them each 32-bit operation costs two more.
/// `--disable-expand-memcpy-in-order`: as long as that is on, LLVM writes no `memset` and no `memmove` out, but calls
/// functions that go octet by octet, which is a third of the time of a segment without its MAC.
const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order \
                         -C target-cpu=v3";

fn main() {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = manifest_dir.parent().expect("the agent is a member of a workspace");
    for source in ["ebpf", "common/src", "common/Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }
    let target_dir = workspace_target_dir().join("ebpf");
    let mut cargo = toolchain();
    let status = cargo
        .current_dir(workspace.join("ebpf"))
        .args(["build", "--release", "--locked", "--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.replace(' ', "\x1f"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(_) => panic!("the eBPF programs did not build; if a tool is missing, run `cargo xtask setup`"),
        Err(error) => panic!("cannot run cargo for the eBPF programs: {error}; run `cargo xtask setup`"),
    }
    let objects = target_dir.join("bpfel-unknown-none/release");
    for (variable, name) in
        [("TCPAUTH_EBPF_OBJECT", "tcpauth-ebpf"), ("TCPAUTH_SOCKETS_OBJECT", "tcpauth-sockets")]
    {
        println!("cargo:rustc-env={variable}={}", objects.join(name).display());
    }
}

/// The workspace's target directory: the parent of the profile's, in which `OUT_DIR` is.
fn workspace_target_dir() -> PathBuf {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let build = out_dir.ancestors().find(|dir| dir.ends_with("build")).expect("OUT_DIR is below build/");
    build.ancestors().nth(2).expect("build/ is below the profile's folder").to_owned()
}

/// `cargo` of a toolchain that has the sources of `core`, free of this build's environment.
fn toolchain() -> Command {
    let debian = Path::new("/usr/bin/rustc");
    let mut cargo = if has_core_sources(Command::new(debian)) {
        let mut cargo = Command::new("/usr/bin/cargo");
        cargo.env("RUSTC", debian).env("RUSTC_BOOTSTRAP", "1");
        cargo
    } else {
        let mut cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo"]).env_remove("RUSTC");
        cargo
    };
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let inherited = name.starts_with("CARGO") && name != "CARGO_HOME";
        if inherited
            || ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"].contains(&&*name)
        {
            cargo.env_remove(&*name);
        }
    }
    cargo
}

fn has_core_sources(mut rustc: Command) -> bool {
    rustc
        .args(["--print", "sysroot"])
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .is_some_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}
