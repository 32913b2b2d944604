//! Test programs, built here and run in a guest.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tcpauth_tests::{binaries::FOLDER_VARIABLE, systemd::SYSTEMD_VARIABLE, wait::slowness};

use super::{
    guest::{Job, quoted},
    release::Release,
};
use crate::build::cargo;

/// By how much the tests' limits are longer in a guest than outside: instructions are emulated.
const SLOWNESS: u32 = 20;

/// Environment variables that go on to the tests.
const PASSED_ON: [&str; 1] = ["TCPAUTH_TEST_MEGABYTES"];

/// The program whose tests want BIRD 3, and a kernel with TCP-AO.
const WITH_BIRD3: &str = "native_ao";

/// Which tests to run.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    /// All of layers 2 and 3.
    All,
    /// All of the program of this name; if there is none, the tests whose name contains it.
    Named(&'a str),
    /// Those of [`QUICK`].
    Quick,
}

/// The tests that each run of CI makes on each kernel, program by program: all that depends on the kernel, once.
const QUICK: [(&str, &str); 3] =
    [("bpf_programs", "programs_load_with_room_to_grow"), ("kernel_smoke", ""), ("systemd", "bgp_outlives")];

/// The programs that run without the kernel's part, and so alike on each kernel: left out unless a test is named.
const ALIKE: [&str; 3] = ["cli", "systemd_units", "tls_interop"];

/// The program whose tests want a systemd that is the first process, and a machine that they may change.
const UNDER_SYSTEMD: &str = "systemd";

/// Where CI runs them: on the kernel that systemd was released with, which verifies programs the fastest, too.
const QUICK_UNDER_SYSTEMD: Release = Release::Linux6_1;

/// How many tests of [`QUICK`] run at a time: they wait much. Others may be in want of the CPUs for themselves.
const QUICK_THREADS: &str = "3";

/// A program of tests, and the tests in it to run.
pub struct TestProgram {
    name: String,
    executable: PathBuf,
    /// Where cargo runs it.
    folder: PathBuf,
    filter: String,
}

/// Builds the programs of layers 2 and 3, and gives those that have a test of the selection.
///
/// # Errors
/// If one does not build, or there is no such test.
pub fn build(selection: Selection) -> Result<Vec<TestProgram>> {
    let all = [executables("tcpauth")?, executables("tcpauth-tests")?].concat();
    let names: Vec<String> = all.iter().map(|(name, ..)| name.clone()).collect();
    let mut programs = Vec::new();
    for (name, executable, folder) in all {
        let Some(filter) = selection.filter(&name, &names) else { continue };
        let program = TestProgram { name, executable, folder, filter: filter.to_owned() };
        if program.has_tests()? {
            programs.push(program);
        }
    }
    ensure!(!programs.is_empty(), "no test of layers 2 and 3 has such a name");
    Ok(programs)
}

/// Environment of the tests: the folder of `tcpauthd` and `tcpauth`, limits, and what is passed on.
pub fn environment(binaries: &Path) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        (FOLDER_VARIABLE, binaries.display().to_string()),
        ("TCPAUTH_TEST_SLOWNESS", (SLOWNESS * slowness()).to_string()),
        ("RUST_BACKTRACE", "0".to_owned()),
    ];
    let passed_on = PASSED_ON.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
    environment.extend(passed_on);
    environment
}

/// Whether one of `programs` wants BIRD 3 on `release`.
pub fn want_bird3(programs: &[TestProgram], release: Release) -> bool {
    release == Release::Newest && programs.iter().any(|program| program.name == WITH_BIRD3)
}

/// Runs `programs` on `release`, one test at a time, in that environment.
pub fn job(
    release: Release,
    selection: Selection,
    programs: &[TestProgram],
    environment: &[(&str, String)],
) -> Job {
    let (under_systemd, alone): (Vec<_>, Vec<_>) =
        programs.iter().partition(|program| program.name == UNDER_SYSTEMD);
    let is_quick = matches!(selection, Selection::Quick);
    let threads = if is_quick { QUICK_THREADS } else { "1" };
    let runs_systemd = !under_systemd.is_empty() && (!is_quick || release == QUICK_UNDER_SYSTEMD);
    let under_systemd = runs_systemd
        .then(|| format!("export {SYSTEMD_VARIABLE}=1\n{}", script(&under_systemd, "1", environment)));
    Job { script: script(&alone, threads, environment), under_systemd }
}

/// The shell's script that runs `programs`.
fn script(programs: &[&TestProgram], threads: &str, environment: &[(&str, String)]) -> String {
    let mut script = String::new();
    for (name, value) in environment {
        // Writing to a string does not fail.
        let _ = writeln!(script, "export {name}={}", quoted(value));
    }
    script += "failed=0\n";
    for TestProgram { name, executable, folder, filter } in programs {
        let [folder, executable] = [folder, executable].map(|path| quoted(&path.display().to_string()));
        let filter = if filter.is_empty() { String::new() } else { quoted(filter) };
        let _ = writeln!(
            script,
            "echo; echo \"$(uname -r): {name} (after $(cut -d. -f1 /proc/uptime) s)\"\n\
             cd {folder} && {executable} --test-threads={threads} {output} {filter} || failed=1",
            output = if name == "bpf_programs" { "--nocapture" } else { "" },
        );
    }
    script + "exit $failed\n"
}

impl<'a> Selection<'a> {
    /// What names of tests in `program` have to contain, or `None` if it is not to run. `programs` are all there are.
    fn filter(self, program: &str, programs: &[String]) -> Option<&'a str> {
        match self {
            Self::All => (!ALIKE.contains(&program)).then_some(""),
            Self::Named(name) if programs.iter().any(|program| program == name) => {
                (program == name).then_some("")
            }
            Self::Named(part) => Some(part),
            Self::Quick => QUICK.iter().find(|(quick, _)| *quick == program).map(|(_, filter)| *filter),
        }
    }
}

impl TestProgram {
    fn has_tests(&self) -> Result<bool> {
        let mut list = Command::new(&self.executable);
        list.args(["--list", "--format=terse"]);
        if !self.filter.is_empty() {
            list.arg(&self.filter);
        }
        let listed = list.output().with_context(|| self.executable.display().to_string())?;
        Ok(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.ends_with(": test")))
    }
}

/// Name, executable and folder of each test program of `package`.
fn executables(package: &str) -> Result<Vec<(String, PathBuf, PathBuf)>> {
    let mut cargo = cargo("test");
    cargo.args(["--no-run", "--quiet", "--message-format=json", "-p", package, "--test", "*"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cargo")?;
    if !output.status.success() {
        bail!("the tests of {package} do not build");
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(test_program).collect())
}

/// What a message of cargo says of a test program, if it is of one.
fn test_program(message: &str) -> Option<(String, PathBuf, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
    let executable = message["executable"].as_str().filter(|_| is_test)?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some((target["name"].as_str()?.to_owned(), executable.into(), folder.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_the_rest() {
        let of = |kind: &str, executable: &str| {
            test_program(&format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/a/agent/Cargo.toml",
                "target":{{"kind":["{kind}"],"name":"cli"}},"executable":{executable}}}"#
            ))
        };
        let expected = ("cli".to_owned(), PathBuf::from("/t/cli-1"), PathBuf::from("/a/agent"));
        assert_eq!(of("test", "\"/t/cli-1\""), Some(expected));
        assert_eq!(of("bin", "\"/t/cli-1\""), None);
        assert_eq!(of("test", "null"), None);
        assert_eq!(test_program(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn programs_are_selected_by_name_before_tests_are() {
        let programs = ["cli", "links", "mtu"].map(str::to_owned);
        let filter = |selection: Selection<'static>, program| selection.filter(program, &programs);
        assert_eq!(filter(Selection::Named("links"), "links"), Some(""));
        assert_eq!(filter(Selection::Named("links"), "mtu"), None);
        assert_eq!(filter(Selection::Named("a_bridge"), "mtu"), Some("a_bridge"));
        assert_eq!((filter(Selection::All, "cli"), filter(Selection::All, "mtu")), (None, Some("")));
    }

    #[test]
    fn scripts_run_each_program_and_remember_failures() {
        let program = TestProgram {
            name: "links".to_owned(),
            executable: "/t/links-1".into(),
            folder: "/a/tests".into(),
            filter: "a vlan".to_owned(),
        };
        let job = job(
            Release::Linux6_12,
            Selection::All,
            &[program],
            &[(FOLDER_VARIABLE, "/t/release".to_owned())],
        );
        let script = job.script;
        assert!(script.contains("TCPAUTH_BIN_DIR='/t/release'"), "{script}");
        assert!(
            script.contains("cd '/a/tests' && '/t/links-1' --test-threads=1  'a vlan' || failed=1"),
            "{script}"
        );
        assert!(script.ends_with("exit $failed\n"));
        assert_eq!(job.under_systemd, None);
    }

    #[test]
    fn what_wants_systemd_runs_there_and_nowhere_else() {
        let of = |name: &str| TestProgram {
            name: name.to_owned(),
            executable: format!("/t/{name}-1").into(),
            folder: "/a/tests".into(),
            filter: String::new(),
        };
        let programs = [of("links"), of("systemd")];
        let job = |release, selection| super::job(release, selection, &programs, &[]);
        assert_eq!(job(Release::Newest, Selection::Quick).under_systemd, None);
        assert!(job(Release::Linux6_1, Selection::Quick).under_systemd.is_some());
        let job = job(Release::Newest, Selection::All);
        let under_systemd = job.under_systemd.unwrap();
        assert!(job.script.contains("/t/links-1") && !job.script.contains("/t/systemd-1"), "{}", job.script);
        assert!(under_systemd.contains("/t/systemd-1") && !under_systemd.contains("/t/links-1"));
        assert!(under_systemd.starts_with("export TCPAUTH_TEST_SYSTEMD=1\n"), "{under_systemd}");
    }
}
