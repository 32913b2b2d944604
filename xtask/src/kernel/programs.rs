//! Test programs, built here and run in a guest.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tcpauth_tests::binaries::FOLDER_VARIABLE;

use super::guest::quoted;
use crate::build::cargo;

/// By how much the tests' limits are longer in a guest: instructions are emulated, perhaps while others use the CPUs.
const SLOWNESS: &str = "20";

/// Which tests to run.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    /// All of layers 2 and 3.
    All,
    /// Those whose name contains this.
    Named(&'a str),
    /// Those of [`QUICK`].
    Quick,
}

/// The tests that each run of CI makes on each kernel, program by program: all that depends on the kernel, once.
const QUICK: [(&str, &str); 2] = [("bpf_programs", "programs_load_with_room_to_grow"), ("kernel_smoke", "")];

/// The programs that run without the kernel's part, and so alike on each kernel: left out unless a test is named.
const ALIKE: [&str; 3] = ["cli", "systemd_units", "tls_interop"];

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
    let mut programs = Vec::new();
    for package in ["tcpauth", "tcpauth-tests"] {
        for (name, executable, folder) in executables(package)? {
            let filter = match selection {
                Selection::All if ALIKE.contains(&name.as_str()) => continue,
                Selection::All => String::new(),
                Selection::Named(filter) => filter.to_owned(),
                Selection::Quick => match QUICK.iter().find(|(program, _)| *program == name) {
                    Some((_, filter)) => (*filter).to_owned(),
                    None => continue,
                },
            };
            let program = TestProgram { name, executable, folder, filter };
            if program.has_tests()? {
                programs.push(program);
            }
        }
    }
    ensure!(!programs.is_empty(), "no test of layers 2 and 3 has such a name");
    Ok(programs)
}

/// The shell's script that runs `programs`, one test at a time, with `tcpauthd` and `tcpauth` of the folder `binaries`.
pub fn script(selection: Selection, programs: &[TestProgram], binaries: &Path) -> String {
    let threads = if matches!(selection, Selection::Quick) { QUICK_THREADS } else { "1" };
    let binaries = quoted(&binaries.display().to_string());
    let mut script = format!(
        "export {FOLDER_VARIABLE}={binaries} TCPAUTH_TEST_SLOWNESS={SLOWNESS} RUST_BACKTRACE=0\n\
         failed=0\n"
    );
    for TestProgram { name, executable, folder, filter } in programs {
        let [folder, executable] = [folder, executable].map(|path| quoted(&path.display().to_string()));
        let filter = if filter.is_empty() { String::new() } else { quoted(filter) };
        // Writing to a string does not fail.
        let _ = writeln!(
            script,
            "echo; echo \"$(uname -r): {name} (after $SECONDS s)\"\n\
             cd {folder} && {executable} --test-threads={threads} {output} {filter} || failed=1",
            output = if name == "bpf_programs" { "--nocapture" } else { "" },
        );
    }
    script + "exit $failed\n"
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
    fn scripts_run_each_program_and_remember_failures() {
        let program = TestProgram {
            name: "links".to_owned(),
            executable: "/t/links-1".into(),
            folder: "/a/tests".into(),
            filter: "a vlan".to_owned(),
        };
        let script = script(Selection::All, &[program], Path::new("/t/release"));
        assert!(script.contains("TCPAUTH_BIN_DIR='/t/release'"), "{script}");
        assert!(
            script.contains("cd '/a/tests' && '/t/links-1' --test-threads=1  'a vlan' || failed=1"),
            "{script}"
        );
        assert!(script.ends_with("exit $failed\n"));
    }
}
