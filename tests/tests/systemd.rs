//! The units under a systemd that is the first process, installed as the operator's guide tells. They change the machine, so
//! they run in a virtual one, `cargo xtask test --kernel 6.12 under_systemd`, and say that they were not run elsewhere.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tcpauth_tests::{
    bgp::{self, Bird, Peering, Speaker},
    binaries::{binary, workspace},
    namespace::Namespace,
    network::veth,
    process::run,
    scenario::{PASSWORD, neighbor},
    systemd::{self, Unit, systemctl},
    wait::{eventually, steadily},
};

/// Our address and the neighbor's.
const OURS: &str = "192.0.2.1";
const PEERS: &str = "192.0.2.2";

const CONFIG: &str = "/etc/tcpauth/tcpauth.toml";
const SOON: Duration = Duration::from_secs(10);

#[test]
fn under_systemd_bgp_outlives_crashes_and_stops_of_the_daemon() -> Result<()> {
    let Some(machine) = Machine::installed()? else { return Ok(()) };
    let Machine { ours, bird, .. } = &machine;
    ours.add_settings("tests", "[Service]\nRestartSec=100ms\n")?;
    machine.configure_peer(&neighbor(OURS, PASSWORD, ""))?;
    machine.theirs.systemctl("start")?;

    // The BGP daemon waits for a daemon that cannot start, and starts as soon as that one can.
    machine.configure("neighbor.\"192.0.2.2\".pasword = \"a slip\"\n")?;
    bird.begin("start")?;
    eventually(SOON, "tcpauthd to fail", || Ok((ours.restarts()? >= 2).then_some(())))?;
    ensure!(bird.state()? == "activating", "bird is {}", bird.state()?);
    ensure!(bird.property("MainPID")? == "0", "bird runs without protection");
    machine.configure(&neighbor(PEERS, PASSWORD, ""))?;
    eventually(SOON, "bird to run", || Ok((bird.state()? == "active").then_some(())))?;
    let session = Session::start(&machine)?;

    crash_six_times(&machine)?;
    machine.wait_until_it_answers()?;
    is_for_group(&socket("default"), group("tcpauth")?)?;
    session.is_still_up(&machine)?;

    ours.systemctl("stop")?;
    ensure!(ours.state()? == "inactive", "tcpauthd is {}", ours.state()?);
    ensure!(bird.state()? == "active", "bird is {}", bird.state()?);
    session.exchanges_keepalives(&machine)?;
    ours.systemctl("start")?;
    session.is_still_up(&machine)?;
    let status = machine.status()?;
    ensure!(status["neighbors"][0]["state"] == "established", "{status}");
    session.exchanges_keepalives(&machine)
}

#[test]
fn under_systemd_a_stopped_journald_holds_nothing_up() -> Result<()> {
    /// Each is a warning of its own: more than a socket's queue and buffer hold.
    const UNUSED_CHAINS: usize = 1000;
    let Some(machine) = Machine::installed()? else { return Ok(()) };
    let Machine { ours, .. } = &machine;
    ours.add_settings("tests", "[Service]\nWatchdogSec=10\n")?;
    machine.configure(&neighbor(PEERS, PASSWORD, ""))?;
    ours.systemctl("start")?;
    let process = ours.main_process()?;
    let chains = (0..UNUSED_CHAINS).map(|n| format!("[key-chain.n{n}]\nkey.1.password = \"{PASSWORD}\"\n"));
    machine.configure(&(neighbor(PEERS, PASSWORD, "") + &chains.collect::<String>()))?;

    let journald = Unit("systemd-journald.service".to_owned());
    let stopped = Stopped::stop(&journald)?;
    tcpauth(&["reload"])?;
    let answers = || -> Result<bool> {
        let begun = Instant::now();
        machine.status()?;
        ensure!(begun.elapsed() < SOON, "status took {:?}", begun.elapsed());
        Ok(ours.main_process()? == process)
    };
    steadily(Duration::from_secs(15), "the daemon to run and to answer", answers)?;
    ensure!(ours.restarts()? == 0, "systemd restarted the daemon");
    drop(stopped);

    // That it was really in want of journald.
    tcpauth(&["reload"])?;
    eventually(SOON, "the log to tell of lost messages", || {
        let log = ours.journal()?;
        Ok(log.contains("messages are missing here").then_some(()))
    })
}

#[test]
fn under_systemd_sockets_keep_their_group() -> Result<()> {
    let Some(machine) = Machine::installed()? else { return Ok(()) };
    let Machine { ours, theirs, .. } = &machine;
    machine.configure(&neighbor(PEERS, PASSWORD, ""))?;
    machine.configure_peer(&neighbor(OURS, PASSWORD, ""))?;
    let group = group("tcpauth")?;
    let ours_is_right =
        |after: &str| is_for_group(&socket("default"), group).with_context(|| format!("after {after}"));
    let both_are_right = |after: &str| {
        ours_is_right(after)?;
        is_for_group(&socket(machine.namespace.name()), group).with_context(|| format!("after {after}"))
    };
    ours.systemctl("enable")?;
    ours.systemctl("start")?;
    ours_is_right("its start")?;
    ours.systemctl("reload")?;
    ours_is_right("its reload")?;
    theirs.systemctl("start")?;
    both_are_right("the start of a second instance")?;
    theirs.systemctl("reload")?;
    both_are_right("the reload of the second instance")?;
    ours.systemctl("restart")?;
    both_are_right("its restart")?;
    theirs.systemctl("stop")?;
    ours_is_right("the stop of the second instance")
}

/// With the capabilities, system calls and files that the units leave it.
#[test]
fn under_systemd_the_daemon_may_do_all_that_it_does() -> Result<()> {
    let Some(machine) = Machine::installed()? else { return Ok(()) };
    let Machine { ours, theirs, .. } = &machine;
    // Who mounts it is then the daemon, and everybody has to see it.
    run(command("umount", &["/sys/fs/bpf"]))?;
    let secret = Path::new("/etc/tcpauth/peer.secret");
    fs::write(secret, PASSWORD)?;
    fs::set_permissions(secret, fs::Permissions::from_mode(0o600))?;
    let more = "key-management = \"external\", kmp-port = 717";
    machine.configure(&format!("neighbor.\"{PEERS}\" = {{ password-file = \"peer.secret\", {more} }}\n"))?;
    machine.configure_peer(&neighbor(OURS, PASSWORD, more))?;
    // Of an operator, and root reads it as its group.
    let (operator, mode) = (user("daemon")?, 0o640);
    chown(CONFIG, Some(operator), Some(0))?;
    fs::set_permissions(CONFIG, fs::Permissions::from_mode(mode))?;
    ours.systemctl("start")?;
    theirs.systemctl("start")?;

    let attached = |status: &Value| {
        let interfaces = status["interfaces"].as_array().into_iter().flatten();
        interfaces.filter(|found| matches!(found["attached"].as_str(), Some("tcx" | "clsact"))).count()
    };
    eventually(SOON, "the veth to be protected", || Ok((attached(&machine.status()?) > 0).then_some(())))?;
    ensure!(
        Path::new("/sys/fs/bpf/tcpauth/default/maps/SESSIONS").exists(),
        "its maps are not seen from outside"
    );
    eventually(SOON, "the channel for keys to be up", || {
        let status = machine.status()?;
        ensure!(status["neighbors"][0]["kmp"]["channel"]["state"] == "up", "{}", status["neighbors"][0]);
        Ok(Some(()))
    })?;

    tcpauth(&["neighbor", "add", "192.0.2.9", "--password-file", &path(secret)])?;
    tcpauth(&["config", "write"])?;
    let written = fs::metadata(CONFIG)?;
    ensure!(fs::read_to_string(CONFIG)?.contains("192.0.2.9"), "the file was not written");
    let found = (written.uid(), written.gid(), written.mode() & 0o7777);
    ensure!(found == (operator, 0, mode), "owner, group and mode are {found:?}");
    ours.systemctl("reload")?;

    ours.systemctl("stop")?;
    ensure!(Path::new("/sys/fs/bpf/tcpauth/default/links").exists(), "what is pinned went with the daemon");
    for unit in [ours, theirs] {
        let log = unit.journal()?;
        for word in ["ermission denied", "not permitted"] {
            ensure!(!log.contains(word), "{log}");
        }
    }
    Ok(())
}

/// Kills it six times, each time as soon as it runs again. With systemd's own defaults it would stay down.
fn crash_six_times(machine: &Machine) -> Result<()> {
    const KILLS: u32 = 6;
    let Machine { ours, bird, .. } = machine;
    // That of a unit that sets none.
    let limits = [bird.property("StartLimitIntervalUSec")?, bird.property("StartLimitBurst")?];
    ensure!(limits == ["1h", "5"], "the limits of starts are {limits:?}: six crashes would prove nothing");
    let before = ours.restarts()?;
    let mut last = None;
    for _ in 0..KILLS {
        let process = ours.next_process(last)?;
        systemd::send(process, libc::SIGKILL)?;
        last = Some(process);
    }
    ours.next_process(last)?;
    let restarts = ours.restarts()? - before;
    ensure!(restarts == KILLS, "killed {KILLS} times, restarted {restarts} times");
    Ok(())
}

/// BGP between the machine's BIRD, a service, and the neighbor's.
struct Session {
    peer: Bird,
    incarnation: String,
    process: Option<libc::pid_t>,
}

impl Session {
    fn start(machine: &Machine) -> Result<Self> {
        let (_, theirs) = peerings()?;
        let peer = Bird::start(&machine.namespace, &theirs)?;
        eventually(Duration::from_secs(30), "the BGP session", || {
            Ok((peer.is_established()? && received(&peer)? == 10).then_some(()))
        })?;
        Ok(Self { incarnation: peer.incarnation()?, process: machine.bird.main_process()?, peer })
    }

    fn is_still_up(&self, machine: &Machine) -> Result<()> {
        ensure!(machine.bird.main_process()? == self.process, "bird was restarted");
        ensure!(
            self.peer.is_established()? && self.peer.incarnation()? == self.incarnation,
            "the session went down"
        );
        Ok(())
    }

    /// For longer than the hold time, which the session would not outlive without keepalives.
    fn exchanges_keepalives(&self, machine: &Machine) -> Result<()> {
        let hold_time = Duration::from_secs(3 * u64::from(KEEPALIVE) + 1);
        steadily(hold_time, "the session to be up", || self.is_still_up(machine).map(|()| true))
    }
}

fn received(bird: &Bird) -> Result<u32> {
    bird.received()
}

const KEEPALIVE: u32 = 3;

/// Of the machine, and of its neighbor.
fn peerings() -> Result<(Peering, Peering)> {
    let (ours, theirs) = Peering::between(OURS.parse::<IpAddr>()?, PEERS.parse()?);
    Ok((Peering { keepalive: KEEPALIVE, ..ours }, Peering { keepalive: KEEPALIVE, ..theirs }))
}

/// This machine with tcpauth and BIRD installed, and a neighbor in a namespace, which `tcpauthd@NAME` protects. When this is
/// dropped, all is stopped and what they left is removed.
struct Machine {
    ours: Unit,
    theirs: Unit,
    bird: Unit,
    namespace: Namespace,
}

impl Machine {
    /// `None` where it must not be changed.
    fn installed() -> Result<Option<Self>> {
        if !systemd::is_there() {
            println!("skipped: this is not a virtual machine under systemd");
            return Ok(None);
        }
        install()?;
        let namespace = Namespace::create("peer")?;
        run(command("ip", &veth("core", &namespace, "eth0")))?;
        run(command("ip", &["address", "add", &format!("{OURS}/24"), "dev", "core"]))?;
        run(command("ip", &["link", "set", "core", "up"]))?;
        namespace.ip(&["address", "add", &format!("{PEERS}/24"), "dev", "eth0"])?;
        namespace.ip(&["link", "set", "eth0", "up"])?;
        let machine = Self {
            ours: Unit("tcpauthd.service".to_owned()),
            theirs: Unit(format!("tcpauthd@{}.service", namespace.name())),
            bird: Unit("bird.service".to_owned()),
            namespace,
        };
        fs::write("/etc/bird/bird.conf", bgp::bird_config(&peerings()?.0)?)?;
        Ok(Some(machine))
    }

    fn configure(&self, text: &str) -> Result<()> {
        write_config(Path::new(CONFIG), text)
    }

    fn configure_peer(&self, text: &str) -> Result<()> {
        write_config(&Path::new("/etc/tcpauth").join(format!("{}.toml", self.namespace.name())), text)
    }

    fn status(&self) -> Result<Value> {
        let text = tcpauth(&["--json", "status"])?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        eventually(SOON, "tcpauthd to answer", || self.status().map(|_| Some(())))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for unit in [&self.bird, &self.ours, &self.theirs] {
            let _ = unit.systemctl("stop");
            println!("--- {}:\n{}", unit.0, unit.journal().unwrap_or_default());
        }
        let _ = run(command("/usr/bin/tcpauth", &["purge", "--yes"]));
        let _ = run(command("/usr/bin/tcpauth", &["--instance", self.namespace.name(), "purge", "--yes"]));
        let _ = run(command("ip", &["link", "delete", "core"]));
        for folder in ["/etc/tcpauth", "/etc/systemd/system/tcpauthd.service.d"] {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// As the operator's guide tells.
fn install() -> Result<()> {
    let units = workspace().join("config/systemd");
    for program in ["tcpauthd", "tcpauth"] {
        run(command("install", &["-m", "755", &path(&binary(program)?), "/usr/bin/"]))?;
    }
    for unit in ["tcpauthd.service", "tcpauthd@.service"] {
        run(command("install", &["-m", "644", &path(&units.join(unit)), "/etc/systemd/system/"]))?;
    }
    let drop_in = "/etc/systemd/system/bird.service.d/tcpauthd.conf";
    run(command("install", &["-D", "-m", "644", &path(&units.join("after-tcpauthd.conf")), drop_in]))?;
    run(command("install", &["-d", "-m", "750", "/etc/tcpauth"]))?;
    run(command("groupadd", &["--system", "--force", "tcpauth"]))?;
    systemctl(&["daemon-reload"]).map(drop)
}

fn write_config(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// `tcpauth` as an operator runs it. Exit status 4 says that a neighbor fails.
fn tcpauth(arguments: &[&str]) -> Result<String> {
    let output = command("/usr/bin/tcpauth", arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(matches!(output.status.code(), Some(0 | 4)), "tcpauth {arguments:?}: {}", said.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// A process that stands still until this is dropped.
struct Stopped<'a>(&'a Unit);

impl<'a> Stopped<'a> {
    fn stop(unit: &'a Unit) -> Result<Self> {
        unit.signal(libc::SIGSTOP)?;
        Ok(Self(unit))
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = self.0.signal(libc::SIGCONT);
    }
}

fn socket(instance: &str) -> PathBuf {
    Path::new("/run/tcpauth").join(format!("{instance}.sock"))
}

fn is_for_group(socket: &Path, group: u32) -> Result<()> {
    let metadata = fs::metadata(socket).with_context(|| socket.display().to_string())?;
    let found = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
    ensure!(found == (0, group, 0o660), "{}: owner, group and mode are {found:?}", socket.display());
    let folder = fs::metadata("/run/tcpauth")?;
    ensure!(folder.gid() == group, "the folder of sockets is of group {}", folder.gid());
    Ok(())
}

fn group(name: &str) -> Result<u32> {
    number_in("/etc/group", name)
}

fn user(name: &str) -> Result<u32> {
    number_in("/etc/passwd", name)
}

/// The third field of the line that begins with `name`.
fn number_in(file: &str, name: &str) -> Result<u32> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    let number =
        line.and_then(|line| line.split(':').nth(2)).with_context(|| format!("no {name} in {file}"))?;
    Ok(number.parse()?)
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
