//! `cargo xtask setup`: what a fresh Debian 12 lacks.

mod packages;
mod services;
mod toolchain;

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, bail, ensure};

use crate::{
    command::{answer, is_root, require_root},
    kernel,
};

/// What to set up.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only say what is missing
    #[arg(long)]
    check: bool,
}

/// Something that has to be there, and the Debian package that brings it.
struct Need {
    name: &'static str,
    package: &'static str,
    is_there: fn() -> bool,
}

/// What building needs beside the eBPF toolchain.
const BUILD: &[Need] = &[
    Need { name: "C compiler", package: "gcc", is_there: || in_path("cc") },
    Need { name: "C library headers", package: "libc6-dev", is_there: || exists("/usr/include/stdio.h") },
    Need { name: "pkg-config", package: "pkg-config", is_there: || in_path("pkg-config") },
    Need {
        name: "OpenSSL's headers",
        package: "libssl-dev",
        is_there: || exists("/usr/include/openssl/evp.h"),
    },
];

/// What the demo shows tcpauth with.
const DEMO: &[Need] = &[
    Need { name: "ip", package: "iproute2", is_there: || in_path("ip") },
    Need { name: "BIRD", package: "bird2", is_there: || exists("/usr/sbin/bird") },
    Need { name: "tcpdump", package: "tcpdump", is_there: || in_path("tcpdump") },
    Need { name: "Python's cryptography", package: "python3-cryptography", is_there: has_cryptography },
];

/// What the tests need beside that.
const TEST: &[Need] = &[
    Need { name: "FRR", package: "frr", is_there: || exists("/usr/lib/frr/bgpd") },
    Need { name: "GoBGP", package: "gobgpd", is_there: || exists("/usr/bin/gobgpd") },
    Need { name: "ethtool", package: "ethtool", is_there: || in_path("ethtool") },
    Need { name: "nft", package: "nftables", is_there: || in_path("nft") },
    Need { name: "faketime", package: "faketime", is_there: || in_path("faketime") },
    Need { name: "openssl", package: "openssl", is_there: || in_path("openssl") },
    Need { name: "GnuTLS", package: "libgnutls30", is_there: has_gnutls },
];

/// What booting another kernel needs: only the tests on other kernels do that.
const VIRTUAL_MACHINES: &[Need] = &[
    Need { name: "QEMU", package: "qemu-system-x86", is_there: || exists(kernel::QEMU) },
    Need { name: "virtiofsd", package: "qemu-system-common", is_there: || exists(kernel::VIRTIOFSD) },
    Need { name: "busybox", package: "busybox-static", is_there: || exists("/bin/busybox") },
    Need { name: "depmod and modprobe", package: "kmod", is_there: || exists("/sbin/modprobe") },
    Need { name: "systemd", package: "systemd", is_there: || exists(kernel::SYSTEMD) },
    Need { name: "xz", package: "xz-utils", is_there: || in_path("xz") },
];

/// Installs all that is missing, or says what is.
pub fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    if arguments.check {
        let missing = missing(&[BUILD, DEMO, TEST]);
        let mut names: Vec<&str> = missing.iter().map(|need| need.name).collect();
        names.extend(toolchain::missing());
        ensure!(names.is_empty(), "missing: {}; `cargo xtask setup` as root installs it", names.join(", "));
    } else {
        install(&[BUILD, DEMO, TEST])?;
    }
    println!("all is there, by {} ({:.1} s)", toolchain::description(), start.elapsed().as_secs_f32());
    Ok(())
}

/// Installs what building and the demo need and is missing.
pub fn for_demo() -> Result<()> {
    install(&[BUILD, DEMO])
}

/// Installs what the tests need and is missing, if root asks; others can build and run the first layer.
pub fn for_tests() -> Result<()> {
    if is_root() { install(&[BUILD, DEMO, TEST]) } else { require_build_tools() }
}

/// Installs what booting another kernel needs and is missing.
pub fn for_virtual_machines() -> Result<()> {
    install(&[BUILD, VIRTUAL_MACHINES])
}

/// # Errors
/// If something is missing that building needs.
pub fn require_build_tools() -> Result<()> {
    let mut names: Vec<&str> = missing(&[BUILD]).iter().map(|need| need.name).collect();
    names.extend(toolchain::missing());
    ensure!(names.is_empty(), "missing: {}; run `cargo xtask setup` as root", names.join(", "));
    Ok(())
}

fn install(groups: &[&'static [Need]]) -> Result<()> {
    let missing_needs = missing(groups);
    if missing_needs.is_empty() && toolchain::missing().is_empty() {
        return Ok(());
    }
    require_root("`cargo xtask setup`")?;
    if !in_path("apt-get") {
        let names: Vec<&str> = missing_needs.iter().map(|need| need.name).collect();
        bail!("no apt-get here: install {} {} by hand", names.join(", "), toolchain::missing().join(", "));
    }
    let mut wanted: Vec<&str> = missing_needs.iter().map(|need| need.package).collect();
    wanted.extend(toolchain::packages());
    packages::install(&wanted)?;
    toolchain::install_linker()?;
    let mut still: Vec<&str> = missing(groups).iter().map(|need| need.name).collect();
    still.extend(toolchain::missing());
    ensure!(still.is_empty(), "installed, but still missing: {}", still.join(", "));
    Ok(())
}

fn missing(groups: &[&'static [Need]]) -> Vec<&'static Need> {
    groups.iter().flat_map(|group| group.iter()).filter(|need| !(need.is_there)()).collect()
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Looks for Debian's package, which is quicker than to import it.
fn has_gnutls() -> bool {
    answer(Command::new("python3").args(["-c", "import ctypes; ctypes.CDLL('libgnutls.so.30')"])).is_some()
}

fn has_cryptography() -> bool {
    exists("/usr/lib/python3/dist-packages/cryptography/hazmat")
        || answer(Command::new("python3").args(["-c", "import cryptography.hazmat"])).is_some()
}
