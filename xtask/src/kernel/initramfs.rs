//! The file system that a guest begins with: enough to mount the host's by virtiofs and go on there.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::fetch::Kernel;

/// Debian's static one; the only program that there is before the host's are.
const BUSYBOX: &str = "/bin/busybox";

/// What it takes to see the host's files. Those that are built into the kernel have no file.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_ring", "virtio", "virtiofs"];

/// Tag of the host's `/`.
pub const ROOT_TAG: &str = "root";

/// Tag of the folder through which host and guest talk; at [`JOB_FOLDER`] in the guest.
pub const JOB_TAG: &str = "job";

/// Where the guest sees its job. Debian has an empty folder there.
pub const JOB_FOLDER: &str = "/mnt";

/// The archive for `kernel`.
///
/// # Errors
/// If a module cannot be read.
pub fn build(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "proc", "sys", "dev", "new", "modules"] {
        archive.folder(folder);
    }
    archive.file("bin/busybox", 0o755, &fs::read(BUSYBOX).context(BUSYBOX)?);
    let dependencies = fs::read_to_string(kernel.modules().join("modules.dep"))?;
    let mut insert = String::new();
    for (number, module) in in_order(&dependencies, &MODULES).into_iter().enumerate() {
        let name = format!("modules/{number}.ko");
        archive.file(&name, 0o644, &unpacked(&kernel.modules().join(module))?);
        insert += &format!("/bin/busybox insmod /{name}\n");
    }
    archive.file("init", 0o755, init(&insert).as_bytes());
    Ok(archive.finish())
}

fn init(insert: &str) -> String {
    format!(
        "#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
{insert}
$b mount -t virtiofs -o ro {ROOT_TAG} /new && $b mount -t virtiofs {JOB_TAG} /new{JOB_FOLDER} || $b poweroff -f
for d in proc sys dev; do $b mount -o move /$d /new/$d; done
exec $b switch_root /new /bin/bash {JOB_FOLDER}/init
"
    )
}

/// Files of `modules` and of all that they need, what is needed first.
fn in_order<'a>(dependencies: &'a str, modules: &[&str]) -> Vec<&'a str> {
    let by_name: HashMap<&str, (&str, Vec<&str>)> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (name(file), (file, needs.split_whitespace().collect())))
        .collect();
    let mut order = Vec::new();
    for module in modules {
        // modules.dep lists what is needed last first.
        let Some((file, needs)) = by_name.get(module) else { continue };
        for file in needs.iter().rev().chain([file]) {
            if !order.contains(file) {
                order.push(*file);
            }
        }
    }
    order
}

/// `virtiofs` of `kernel/fs/fuse/virtiofs.ko.xz`.
fn name(file: &str) -> &str {
    let file = file.rsplit('/').next().unwrap_or(file);
    file.split_once('.').map_or(file, |(name, _)| name)
}

fn unpacked(file: &Path) -> Result<Vec<u8>> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => {
            let mut xz = Command::new("xz");
            let output =
                xz.arg("--decompress").arg("--stdout").arg(file).stderr(Stdio::inherit()).output()?;
            if !output.status.success() {
                bail!("{xz:?} failed");
            }
            Ok(output.stdout)
        }
        Some("ko") => fs::read(file).with_context(|| file.display().to_string()),
        _ => bail!("{}: not a module that is known how to unpack", file.display()),
    }
}

/// A cpio archive in the form "newc", as the kernel reads it (`Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
struct Archive {
    octets: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | permissions, content);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.octets
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // Inode, mode, owner, group, links, time, size, device and special device (two numbers each), length of the
        // name with its zero, checksum.
        let fields =
            [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.octets.extend(b"070701");
        for field in fields {
            self.octets.extend(format!("{field:08x}").bytes());
        }
        self.octets.extend(name.bytes().chain([0]));
        self.align();
        self.octets.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let dependencies = "kernel/a/virtiofs.ko.xz: kernel/b/fuse.ko.xz kernel/c/virtio.ko.xz\n\
            kernel/b/fuse.ko.xz:\nkernel/c/virtio.ko.xz:\nkernel/d/other.ko.xz: kernel/b/fuse.ko.xz\n";
        let order = in_order(dependencies, &["virtio", "virtiofs", "built-in"]);
        assert_eq!(order, ["kernel/c/virtio.ko.xz", "kernel/b/fuse.ko.xz", "kernel/a/virtiofs.ko.xz"]);
    }

    #[test]
    fn archives_are_what_the_kernel_reads() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("init", 0o755, b"abcde");
        let octets = archive.finish();
        assert_eq!(&octets[..22], b"07070100000001000041ed");
        assert_eq!(octets.len() % 4, 0);
        // A header of 110 octets, "bin" and its zero: 114, aligned to 116; the next begins there.
        assert_eq!(&octets[116..122], b"070701");
        assert_eq!(&octets[116 + 110..116 + 110 + 5], b"init\0");
        assert_eq!(&octets[116 + 116..116 + 116 + 8], b"abcde\0\0\0");
    }
}
