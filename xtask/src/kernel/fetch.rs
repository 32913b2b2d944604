//! Kernels out of Debian's packages, without installing them: apt works in folders of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use tcpauth_tests::binaries::workspace;

use super::release::Release;
use crate::command::{answer, run_with_progress};

/// Keys of every Debian release up to the one after this machine's.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The package of BIRD 3, which speaks TCP-AO, if the kernel has it.
const BIRD3: &str = "bird3";

/// A kernel and its modules, extracted.
pub struct Kernel {
    /// As `uname -r` has it.
    pub version: String,
    /// Root of the extracted packages; modules are in `lib/modules/VERSION`.
    pub folder: PathBuf,
}

impl Kernel {
    /// The compressed kernel; beside the modules from Linux 7 on.
    pub fn image(&self) -> PathBuf {
        let own = self.folder.join("boot").join(format!("vmlinuz-{}", self.version));
        if own.is_file() { own } else { self.modules().join("vmlinuz") }
    }

    /// Folder of the modules.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.version)
    }

    fn is_complete(&self) -> bool {
        self.image().is_file() && self.modules().join("modules.dep").is_file()
    }
}

/// Where kernels and virtual machines have their files.
pub fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    workspace().join(target).join("kernels")
}

/// The current kernel of the release's suite, from the mirror that this machine's apt uses. One that was fetched before
/// is taken as it is: remove the folder to get a newer one.
///
/// # Errors
/// If the mirror does not have it or cannot be reached.
pub fn fetch(release: Release) -> Result<Kernel> {
    let folder = folder().join(release.name());
    let version_file = folder.join("version");
    if let Ok(version) = fs::read_to_string(&version_file) {
        let kernel = Kernel { version, folder: folder.join("root") };
        if kernel.is_complete() {
            return Ok(kernel);
        }
    }
    let apt = Apt::new(&folder.join("apt"), release.suite())?;
    let version = apt.current_kernel(release.flavor())?;
    let packages = folder.join("packages");
    let _ = fs::remove_dir_all(&packages);
    fs::create_dir_all(&packages)?;
    apt.download(&version, &packages)?;
    let kernel = Kernel { version: version.clone(), folder: folder.join("root") };
    let _ = fs::remove_dir_all(&kernel.folder);
    fs::create_dir_all(&kernel.folder)?;
    extract_kernel(&packages, &kernel)?;
    fs::write(version_file, version)?;
    Ok(kernel)
}

/// Returns the folder with BIRD 3 and its dependencies from Debian 13. They are fetched once, as kernels are.
///
/// # Errors
/// If the mirror does not have it or cannot be reached.
pub fn fetch_bird3() -> Result<PathBuf> {
    let folder = folder().join(BIRD3);
    let root = folder.join("root");
    if root.is_dir() {
        return Ok(root);
    }
    let packages = folder.join("packages");
    fs::create_dir_all(packages.join("partial"))?;
    let apt = Apt::new(&folder.join("apt"), Release::Linux6_12.suite())?;
    apt.download_with_dependencies(BIRD3, &packages)?;
    // Renamed once it is whole, because a run may be interrupted between two packages.
    let unpacked = folder.join("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    extract(&packages, &unpacked)?;
    let bird = unpacked.join("usr/sbin/bird");
    ensure!(bird.is_file(), "the package {BIRD3} is not as expected: there is no {}", bird.display());
    fs::rename(&unpacked, &root)?;
    Ok(root)
}

/// apt with folders of its own, which knows of one suite and of no installed package.
struct Apt {
    config: PathBuf,
}

impl Apt {
    /// Makes the folders and gets the suite's list of packages.
    fn new(folder: &Path, suite: &str) -> Result<Self> {
        let targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
        let mirrors = answer(Command::new("apt-get").args(targets)).context("no apt-get here")?;
        let mirror = mirrors.lines().next().context("apt has no mirror: no list of packages is known")?;
        for parts in ["etc/sources", "etc/preferences", "state/lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(parts))?;
        }
        fs::write(folder.join("etc/list"), format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        fs::write(folder.join("state/status"), "")?;
        let config = folder.join("apt.conf");
        fs::write(&config, settings(&folder.display().to_string()))?;
        let apt = Self { config };
        let mut update = apt.command("apt-get");
        // A list that cannot be fetched is only a warning otherwise.
        update.args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]);
        run_with_progress(&format!("Get the list of packages of {suite}"), update)?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }

    /// What the package that always depends on the newest kernel of the flavor depends on.
    fn current_kernel(&self, flavor: &str) -> Result<String> {
        let latest = format!("linux-image-{flavor}");
        let dependencies = answer(self.command("apt-cache").args(["depends", &latest]));
        let dependencies = dependencies.with_context(|| format!("there is no package {latest}"))?;
        let version = newest_kernel(&dependencies);
        version.map(str::to_owned).with_context(|| format!("{latest} depends on no kernel: {dependencies}"))
    }

    /// Downloads the packages of a kernel. From Linux 7 on Debian has image and modules in packages of their own.
    fn download(&self, version: &str, into: &Path) -> Result<()> {
        let split = [format!("linux-binary-{version}"), format!("linux-modules-{version}")];
        let is_split = answer(self.command("apt-cache").args(["show", &split[0]])).is_some();
        let mut download = self.command("apt-get");
        download.current_dir(into).args(["-q", "download"]);
        match is_split {
            true => download.args(split),
            false => download.arg(format!("linux-image-{version}")),
        };
        run_with_progress(&format!("Download Linux {version}"), download)
    }

    /// Downloads `package` with all its dependencies, including the C library.
    fn download_with_dependencies(&self, package: &str, into: &Path) -> Result<()> {
        let mut install = self.command("apt-get");
        let archives = format!("Dir::Cache::archives={}", into.display());
        install.args(["-q", "--yes", "--no-install-recommends", "--download-only", "-o", &archives]);
        install.args(["install", package]);
        run_with_progress(&format!("Download {package}"), install)
    }
}

fn newest_kernel(dependencies: &str) -> Option<&str> {
    dependencies.lines().find_map(|line| {
        let version = line.trim().strip_prefix("Depends: linux-image-")?;
        version.starts_with(|first: char| first.is_ascii_digit()).then_some(version)
    })
}

fn settings(folder: &str) -> String {
    // What apt's configuration on this machine says beside that, of proxies for instance, stays. The dates of lists are
    // not checked, as build machines may have any clock; their signatures are.
    format!(
        "Dir::Etc::sourcelist \"{folder}/etc/list\";
Dir::Etc::sourceparts \"{folder}/etc/sources\";
Dir::Etc::preferences \"{folder}/etc/none\";
Dir::Etc::preferencesparts \"{folder}/etc/preferences\";
Dir::State \"{folder}/state\";
Dir::State::status \"{folder}/state/status\";
Dir::Cache \"{folder}\";
APT::Sandbox::User \"root\";
Acquire::Languages \"none\";
Acquire::Check-Valid-Until \"false\";
Acquire::Check-Date \"false\";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";
"
    )
}

/// Extracts all packages in the folder `packages`.
fn extract(packages: &Path, into: &Path) -> Result<()> {
    for package in fs::read_dir(packages)? {
        let package = package?.path();
        if package.extension().is_none_or(|extension| extension != "deb") {
            continue;
        }
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--extract").arg(package).arg(into);
        if !dpkg.status().context("dpkg")?.success() {
            bail!("{dpkg:?} failed");
        }
    }
    Ok(())
}

/// Extracts the packages of a kernel, and makes its modules findable.
fn extract_kernel(packages: &Path, kernel: &Kernel) -> Result<()> {
    extract(packages, &kernel.folder)?;
    // Newer packages have all below /usr; modprobe of Debian 12 looks into /lib.
    if !kernel.folder.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", kernel.folder.join("lib"))?;
    }
    let mut depmod = Command::new("/sbin/depmod");
    depmod.arg("-b").arg(&kernel.folder).arg(&kernel.version);
    if !depmod.status().context("depmod")?.success() || !kernel.is_complete() {
        bail!(
            "the packages of Linux {} are not as expected: see {}",
            kernel.version,
            kernel.folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_what_the_package_depends_on() {
        let said = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-40-cloud-amd64\n";
        assert_eq!(newest_kernel(said), Some("6.1.0-40-cloud-amd64"));
        assert_eq!(newest_kernel("linux-image-cloud-amd64\n  Depends: linux-image-cloud\n"), None);
    }
}
