//! What a case has found.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{machine::Machine, measured::Measured, table::Table};

/// Of one case.
#[derive(Default)]
pub struct Report {
    /// As on the command line.
    pub case: String,
    /// What has to be known to read the numbers: how they were measured, what is counted.
    pub notes: Vec<String>,
    /// What was measured in turn.
    pub tables: Vec<Table>,
    /// What was measured once, or follows from the tables.
    pub measured: Vec<Measured>,
}

impl Report {
    /// Says `note` of the numbers.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Says what `part` says, too.
    pub fn append(&mut self, part: Self) {
        self.notes.extend(part.notes);
        self.tables.extend(part.tables);
        self.measured.extend(part.measured);
    }

    /// As text for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        for table in &self.tables {
            let _ = writeln!(text, "{}", table.text());
        }
        for measured in &self.measured {
            let _ = writeln!(text, "{}", measured.text());
        }
        text
    }

    /// As a section of a document in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.case);
        for note in &self.notes {
            let _ = writeln!(text, "{note}\n");
        }
        for table in &self.tables {
            let _ = writeln!(text, "**{}**\n\n{}", table.group, table.markdown());
        }
        if !self.measured.is_empty() {
            text.push_str("| | | wanted |\n|---|---:|---|\n");
            for measured in &self.measured {
                let _ = writeln!(text, "{}", measured.markdown());
            }
            text.push('\n');
        }
        text
    }
}

/// What `--json` prints.
pub fn json(machine: &Machine, reports: &[Report]) -> Value {
    let mut cases = Vec::new();
    for report in reports {
        cases.extend(report.tables.iter().flat_map(Table::json));
        cases.extend(report.measured.iter().map(|measured| measured.json(&report.case)));
    }
    json!({
        "machine": machine.hardware,
        "kernel": machine.kernel,
        "commit": machine.commit,
        "cases": cases,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut table = Table::new("bulk, MTU 1500", "Gbit/s");
        table.add("none", 8.0);
        let measured = Measured::new("ratio", 0.5, "").aims_at_least(1.0);
        Report {
            case: "bulk".into(),
            notes: vec!["Over a veth.".into()],
            tables: vec![table.against("none")],
            measured: vec![measured],
        }
    }

    #[test]
    fn json_names_machine_kernel_commit_and_cases() {
        let machine = Machine { hardware: "two CPUs".into(), kernel: "6.18".into(), commit: "abc".into() };
        let json = json(&machine, &[report()]);
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["cases", "commit", "kernel", "machine"]);
        assert_eq!(json["machine"], "two CPUs");
        assert_eq!(json["cases"].as_array().unwrap().len(), 2);
        for case in json["cases"].as_array().unwrap() {
            let keys: Vec<&String> = case.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["group", "max", "median", "min", "name", "rounds", "unit"]);
        }
        assert_eq!(json["cases"][1]["name"], "ratio");
    }

    #[test]
    fn text_and_markdown_say_what_is_not_reached() {
        assert!(report().text().contains("at least 1: NOT KEPT"));
        let markdown = report().markdown();
        assert!(markdown.starts_with("## bulk\n\nOver a veth.\n\n**bulk, MTU 1500**\n\n| Gbit/s | median |"));
        assert!(markdown.ends_with("| ratio | 0.500 | at least 1: NOT KEPT |\n\n"));
    }
}
