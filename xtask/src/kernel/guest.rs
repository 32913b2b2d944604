//! A virtual machine with another kernel and this machine's programs: it runs one script and ends.
//!
//! The host's `/` is the guest's, read-only by virtiofs, so that all programs are there at the same paths. No image is
//! made, and nothing of the host changes: what is written in the guest is lost with it.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use tcpauth_tests::{binaries::workspace, process::Process, wait::check_interrupted};
use tempfile::TempDir;

use super::{
    fetch::{self, Kernel},
    initramfs::{self, JOB_FOLDER, JOB_TAG, ROOT_TAG},
};

/// The init that the second script of a job runs under; in Debian's package systemd.
pub const SYSTEMD: &str = "/lib/systemd/systemd";

/// Shows folders of the host to guests; in Debian's package qemu-system-common.
pub const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// Emulates the machine; in Debian's package qemu-system-x86.
pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// How long a guest may take until it runs its script: about 30 s on a machine of one's own.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// For how long a script may print nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(900);

const PERIOD: Duration = Duration::from_millis(100);

/// What a guest does, by bash as root, in the folder of the workspace.
pub struct Job {
    /// Run while nothing else runs.
    pub script: String,
    /// Run afterwards, as a service of a systemd that has become the first process.
    pub under_systemd: Option<String>,
}

/// Why a job was not done to its end.
pub enum Failure {
    /// The guest did not come to the point where it runs scripts.
    NotBooted(anyhow::Error),
    /// The guest or a script stopped, or we were interrupted.
    Stopped(anyhow::Error),
}

/// A guest that runs, or has run. It ends when this is dropped.
pub struct Guest {
    emulator: Process,
    _shares: [Process; 2],
    folder: TempDir,
}

impl Guest {
    /// Begins to boot `kernel`, which will do `job`.
    ///
    /// # Errors
    /// If something cannot be made or started.
    pub fn boot(kernel: &Kernel, job: &Job) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("guest-").tempdir_in(fetch::folder())?;
        let shared = folder.path().join("job");
        fs::create_dir(&shared)?;
        fs::write(shared.join("init"), init(kernel))?;
        fs::write(shared.join("script"), &job.script)?;
        if let Some(script) = &job.under_systemd {
            fs::write(shared.join("under-systemd"), script)?;
            fs::write(shared.join("job.service"), service())?;
        }
        fs::write(folder.path().join("initramfs"), initramfs::build(kernel)?)?;
        let shares =
            [share(folder.path(), ROOT_TAG, Path::new("/"))?, share(folder.path(), JOB_TAG, &shared)?];
        let emulator = emulator(folder.path(), kernel);
        let emulator = Process::start(emulator, &folder.path().join("qemu.log"))?;
        Ok(Self { emulator, _shares: shares, folder })
    }

    /// Gives each line that the scripts print to `line`, and calls `silent` when there was none for long. Says whether
    /// they succeeded.
    pub fn follow(mut self, mut line: impl FnMut(&str), mut silent: impl FnMut()) -> Result<bool, Failure> {
        let start = Instant::now();
        let mut output = loop {
            match File::open(self.job("output")) {
                Ok(output) => break output,
                Err(_) => self.wait(start, BOOT_LIMIT).map_err(Failure::NotBooted)?,
            }
        };
        let mut pending = Vec::new();
        let (mut last, mut told) = (Instant::now(), Instant::now());
        loop {
            // Read before the output is, so that nothing is printed in between.
            let status = fs::read_to_string(self.job("status")).unwrap_or_default();
            if read_lines(&mut output, &mut pending, &mut line).map_err(Failure::Stopped)? {
                (last, told) = (Instant::now(), Instant::now());
            }
            if let Some(status) = status.strip_suffix('\n') {
                return Ok(status == "0");
            }
            if told.elapsed() > Duration::from_secs(20) {
                silent();
                told = Instant::now();
            }
            self.wait(last, SILENCE_LIMIT).map_err(Failure::Stopped)?;
        }
    }

    /// Waits a little.
    ///
    /// # Errors
    /// If `limit` has passed since `start`, the machine has ended, or we are interrupted.
    fn wait(&mut self, start: Instant, limit: Duration) -> Result<()> {
        check_interrupted()?;
        thread::sleep(PERIOD);
        if let Err(error) = self.emulator.check_running() {
            // It ends as soon as the script has.
            ensure!(self.job("status").exists(), "{error:#}\n{}", self.console());
        }
        ensure!(start.elapsed() < limit, "nothing for {limit:?}\n{}", self.console());
        Ok(())
    }

    fn job(&self, name: &str) -> PathBuf {
        self.folder.path().join("job").join(name)
    }

    /// The last lines of the kernel's console.
    fn console(&self) -> String {
        let octets = fs::read(self.folder.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&octets);
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Gives the lines that are whole by now to `line`; whether there was one. What follows them stays in `pending`.
fn read_lines(output: &mut File, pending: &mut Vec<u8>, line: &mut impl FnMut(&str)) -> Result<bool> {
    output.read_to_end(pending)?;
    let Some(end) = pending.iter().rposition(|octet| *octet == b'\n') else { return Ok(false) };
    let whole: Vec<u8> = pending.drain(..=end).collect();
    String::from_utf8_lossy(&whole).lines().for_each(line);
    Ok(true)
}

/// Starts a virtiofsd that shows `source`, and waits until it listens.
fn share(folder: &Path, tag: &str, source: &Path) -> Result<Process> {
    let mut command = Command::new(VIRTIOFSD);
    command.arg(format!("--socket-path={}", socket(folder, tag).display()));
    command.arg("-o").arg(format!("source={},cache=auto,sandbox=chroot,xattr", source.display()));
    command.arg("--thread-pool-size=2");
    let mut process = Process::start(command, &folder.join(format!("{tag}.log")))?;
    let start = Instant::now();
    // Its socket is there a moment before.
    while !process.log().contains("Waiting for vhost-user socket connection") {
        process.check_running()?;
        check_interrupted()?;
        if start.elapsed() > Duration::from_secs(10) {
            bail!("virtiofsd does not answer: {}", process.log());
        }
        thread::sleep(PERIOD);
    }
    Ok(process)
}

fn socket(folder: &Path, tag: &str) -> PathBuf {
    folder.join(format!("{tag}.sock"))
}

fn emulator(folder: &Path, kernel: &Kernel) -> Command {
    const MEMORY: &str = "3072M";
    let mut command = Command::new(QEMU);
    command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    // virtiofsd reads the guest's memory.
    command.args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY},share=on")]);
    command.args(["-numa", "node,memdev=memory"]);
    command.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(folder.join("initramfs"));
    // no_timer_check: an emulator that waits for a CPU delivers the timer too late for the kernel's test of it, which
    // ends in a panic.
    command.args([
        "-append",
        "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr cryptomgr.notests no_timer_check",
    ]);
    for tag in [ROOT_TAG, JOB_TAG] {
        command.args(["-chardev", &format!("socket,id={tag},path={}", socket(folder, tag).display())]);
        command.args(["-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024")]);
    }
    command.arg("-serial").arg(format!("file:{}", folder.join("console").display()));
    // Whoever works on this machine meanwhile comes first.
    // SAFETY: nice is async-signal-safe and takes no pointers.
    unsafe {
        command.pre_exec(|| {
            libc::nice(10);
            Ok(())
        });
    }
    command
}

/// The guest's first program.
fn init(kernel: &Kernel) -> String {
    let kept = [workspace().to_owned(), fetch::folder()].map(|path| quoted(&path.display().to_string()));
    format!(
        "#!/bin/bash
export PATH={path} HOME=/root LANG=C.UTF-8 TERM=dumb
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/host /run/lock /run/netns /dev/pts /dev/shm /dev/net
mount --bind / /run/host
for folder in /tmp /var/tmp /var/lib /dev/shm; do mount -t tmpfs -o mode=1777 files $folder; done
# What was below one of those is shown again.
for folder in {kept}; do
    [ -e \"$folder\" ] || {{ mkdir -p \"$folder\" && mount --bind \"/run/host$folder\" \"$folder\"; }}
done
mount -t devpts pts /dev/pts
mount -t bpf -o mode=700 bpf /sys/fs/bpf
printf '#!/bin/sh\\nexec /sbin/modprobe -d %q \"$@\"\\n' {modules} >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
/run/modprobe tun
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
cd {workspace}
bash {JOB_FOLDER}/script >{JOB_FOLDER}/output 2>&1 </dev/null
status=$?
finish() {{
    echo $status >{JOB_FOLDER}/status
    sync
    /bin/busybox poweroff -f
}}
[ -e {JOB_FOLDER}/under-systemd ] || finish
# Here begins what is for systemd: folders that an operator writes to, and nothing of what the host has enabled.
/run/modprobe overlay
for folder in /etc /usr/bin; do
    mkdir -p /run/written$folder /run/work$folder
    mount -t overlay -o lowerdir=$folder,upperdir=/run/written$folder,workdir=/run/work$folder files $folder
done
: >/etc/fstab
# As if what is done at the first boot after an update of /usr were done.
touch /etc/.updated
mount -t tmpfs -o mode=755 units /etc/systemd/system
cp {JOB_FOLDER}/job.service /etc/systemd/system/
# What takes long and nothing here is in want of.
for unit in modprobe@ systemd-modules-load systemd-sysctl systemd-tmpfiles-setup systemd-tmpfiles-setup-dev \
    systemd-update-utmp; do
    ln -s /dev/null /etc/systemd/system/$unit.service
done
# Five starts within ten seconds are never reached here, where all takes long.
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\nDefaultStartLimitIntervalSec=1h\n' >/etc/systemd/system.conf.d/limit.conf
declare -p status PATH >/run/job
declare -f finish >>/run/job
# The host may be a container, this is none.
export container=
exec {SYSTEMD} --crash-reboot --show-status=error --unit=job.service
",
        path = quoted(&std::env::var("PATH").unwrap_or_default()),
        kept = kept.join(" "),
        modules = quoted(&kernel.folder.display().to_string()),
        workspace = quoted(&workspace().display().to_string()),
    )
}

/// The only service that systemd starts by itself: it runs the second script and ends the machine, also if it cannot.
fn service() -> String {
    format!(
        "[Unit]
FailureAction=reboot-force
[Service]
Type=oneshot
TimeoutStartSec=infinity
Environment=HOME=/root LANG=C.UTF-8 TERM=dumb
WorkingDirectory={workspace}
ExecStart=/bin/bash -c '. /run/job; bash {JOB_FOLDER}/under-systemd </dev/null || status=1; finish'
StandardOutput=append:{JOB_FOLDER}/output
StandardError=inherit
",
        workspace = workspace().display().to_string().replace('%', "%%"),
    )
}

/// `text` as one word of a shell's script.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_given_when_they_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output");
        let mut written = File::create(&path).unwrap();
        let mut output = File::open(&path).unwrap();
        let mut pending = Vec::new();
        let mut seen = Vec::new();
        let mut read = |seen: &mut Vec<String>| {
            read_lines(&mut output, &mut pending, &mut |line: &str| seen.push(line.to_owned())).unwrap()
        };
        write!(written, "one\ntw").unwrap();
        assert!(read(&mut seen));
        assert!(!read(&mut seen));
        writeln!(written, "o").unwrap();
        assert!(read(&mut seen));
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn words_of_scripts_may_have_quotes() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
