//! `--against FOLDER`: a case with the programs of this checkout and with those of another build, in turn.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tcpauth_tests::binaries::FOLDER_VARIABLE;

use super::{Case, Effort, table::Table};

/// What `--json` prints, as far as it is compared.
#[derive(Deserialize)]
struct Measurement {
    cases: Vec<Value>,
}

#[derive(Deserialize)]
struct Value {
    group: String,
    name: String,
    unit: String,
    median: f64,
}

/// Measures `case` with the programs in `ours` and in `theirs`, one after the other in each round, so that what else
/// the machine does meets both alike. Prints medians of ours and their ratio to those of theirs.
///
/// # Errors
/// If the programs of `theirs` are not there, or a measurement fails.
pub fn compare(case: Case, effort: &Effort, ours: &Path, theirs: &Path) -> Result<()> {
    ensure!(
        !matches!(case, Case::Mac | Case::Programs | Case::Trial),
        "mac, programs and trial measure the eBPF programs that xtask was built with, not those of a folder"
    );
    let theirs = theirs.canonicalize().with_context(|| theirs.display().to_string())?;
    for name in ["tcpauthd", "tcpauth"] {
        ensure!(theirs.join(name).is_file(), "{} is not there", theirs.join(name).display());
    }
    let (mut our_tables, mut their_tables) = (Vec::new(), Vec::new());
    for round in 1..=effort.rounds {
        eprintln!("round {round} of {}", effort.rounds);
        add(&mut our_tables, measure(case, effort, ours)?);
        add(&mut their_tables, measure(case, effort, &theirs)?);
    }
    let label = theirs.display().to_string();
    for table in our_tables {
        let Some(other) = their_tables.iter().find(|other| other.group == table.group) else { continue };
        println!("{}", table.against_same(&label, other).text());
    }
    Ok(())
}

/// One round of `case`, in a process of its own: which programs are under test is settled once in a process.
fn measure(case: Case, effort: &Effort, programs: &Path) -> Result<Measurement> {
    let xtask: PathBuf = env::current_exe().context("the path of xtask")?;
    let mut command = Command::new(xtask);
    command.args(["bench", case.name().as_str(), "--json", "--rounds", "1"]).args(effort.arguments());
    command.env(FOLDER_VARIABLE, programs).stderr(Stdio::null());
    let output = command.output().context("xtask bench")?;
    // A limit that is not kept ends it with an error, too; what it printed before is whole.
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("`xtask bench {}` with {}: {}", case.name(), programs.display(), output.status)
    })
}

/// Adds a round's values to the table of their group.
fn add(tables: &mut Vec<Table>, measurement: Measurement) {
    for Value { group, name, unit, median } in measurement.cases {
        let table = match tables.iter().position(|table| table.group == group && table.unit == unit) {
            Some(at) => &mut tables[at],
            None => {
                tables.push(Table::new(group, unit));
                tables.last_mut().expect("one was added")
            }
        };
        table.add(&name, median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(value: f64) -> Measurement {
        let text = format!(
            r#"{{"machine": "m", "cases": [
                {{"group": "bulk", "name": "none", "unit": "Gbit/s", "median": {value}, "rounds": [1]}},
                {{"group": "bulk", "name": "none", "unit": "s/GB", "median": 1.0, "rounds": [1]}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn rounds_are_gathered_by_group_and_unit() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (our, their) in [(2.0, 4.0), (3.0, 5.0), (2.5, 5.0)] {
            add(&mut ours, measurement(our));
            add(&mut theirs, measurement(their));
        }
        assert_eq!(ours.len(), 2);
        let compared = ours.remove(0).against_same("theirs", &theirs[0]);
        assert_eq!(compared.ratio("none"), Some(0.5));
    }
}
