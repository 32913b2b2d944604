//! What was measured side by side: a row for each, a column for each thing that is said of it.

use std::fmt::Write;

use serde_json::{Value, json};

use super::statistics::{greatest, least, median, spread};

/// Values of one kind, of several things measured in turn.
pub struct Table {
    /// Which case, and which part of it.
    pub group: String,
    pub unit: String,
    baseline: Option<String>,
    rows: Vec<Row>,
}

/// One thing, and its value in each round.
pub struct Row {
    /// `none`, `none-no-offload`, `tcp-md5`, or an algorithm's name.
    pub name: String,
    /// In the order they were measured.
    pub rounds: Vec<f64>,
    /// Median of the same in what it is compared with.
    against: Option<f64>,
}

impl Table {
    pub fn new(group: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { group: group.into(), unit: unit.into(), baseline: None, rows: Vec::new() }
    }

    /// Adds a round's value of `name`.
    pub fn add(&mut self, name: &str, value: f64) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.rounds.push(value),
            None => self.rows.push(Row { name: name.to_owned(), rounds: vec![value], against: None }),
        }
    }

    /// Ratios are to the row `baseline`, if there is one.
    pub fn against(mut self, baseline: &str) -> Self {
        if let Some(median) = self.median(baseline) {
            self.baseline = Some(baseline.to_owned());
            self.rows.iter_mut().for_each(|row| row.against = Some(median));
        }
        self
    }

    /// Ratios are to the row of the same name in `other`.
    pub fn against_same(mut self, label: &str, other: &Self) -> Self {
        self.baseline = Some(label.to_owned());
        self.rows.iter_mut().for_each(|row| row.against = other.median(&row.name));
        self
    }

    /// Median of the row `name`, if there is one.
    pub fn median(&self, name: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.name == name).map(|row| median(&row.rounds))
    }

    /// Median of `name` as a multiple of what it is compared with.
    pub fn ratio(&self, name: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.name == name)?.ratio()
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// As text for a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("  {} ({})\n", self.group, self.unit);
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(18);
        let _ =
            write!(text, "    {:width$} {:>12} {:>12} {:>12} {:>7}", "", "median", "min", "max", "spread");
        if let Some(baseline) = &self.baseline {
            let _ = write!(text, "  against {baseline}");
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "    {:width$}", row.name);
            for value in [median(&row.rounds), least(&row.rounds), greatest(&row.rounds)] {
                let _ = write!(text, " {:>12}", digits(value));
            }
            let _ = write!(text, " {:>6.1}%", spread(&row.rounds) * 100.0);
            if let Some(ratio) = row.ratio() {
                let _ = write!(text, "  {ratio:.3}");
            }
            text.push('\n');
        }
        text
    }

    /// As a table in Markdown.
    pub fn markdown(&self) -> String {
        let baseline = self.baseline.as_ref().map(|name| format!(" against {name} |")).unwrap_or_default();
        let rule = if self.baseline.is_some() { "---:|" } else { "" };
        let mut text = format!("| {} | median | min | max | spread |{baseline}\n", self.unit);
        let _ = writeln!(text, "|---|---:|---:|---:|---:|{rule}");
        for row in &self.rows {
            let values = [median(&row.rounds), least(&row.rounds), greatest(&row.rounds)].map(digits);
            let _ = write!(text, "| {} | {} |", row.name, values.join(" | "));
            let _ = write!(text, " {:.1} % |", spread(&row.rounds) * 100.0);
            if self.baseline.is_some() {
                let _ =
                    write!(text, " {} |", row.ratio().map(|ratio| format!("{ratio:.3}")).unwrap_or_default());
            }
            text.push('\n');
        }
        text
    }

    /// The elements of `cases`.
    pub fn json(&self) -> impl Iterator<Item = Value> + '_ {
        self.rows.iter().map(|row| {
            json!({
                "group": self.group,
                "name": row.name,
                "unit": self.unit,
                "median": median(&row.rounds),
                "min": least(&row.rounds),
                "max": greatest(&row.rounds),
                "rounds": row.rounds,
            })
        })
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.against.map(|against| median(&self.rounds) / against)
    }
}

/// Four significant digits at least, no more than three after the point.
pub fn digits(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 100.0 => format!("{value:.1}"),
        middle if middle >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("bulk, MTU 1500", "Gbit/s");
        for (md5, siphash) in [(1.0, 3.0), (2.0, 4.0), (1.5, 5.0)] {
            table.add("tcp-md5", md5);
            table.add("siphash-2-4-96", siphash);
        }
        table
    }

    #[test]
    fn a_ratio_is_of_medians() {
        let table = table().against("tcp-md5");
        assert_eq!(table.ratio("tcp-md5"), Some(1.0));
        assert_eq!(table.ratio("siphash-2-4-96"), Some(4.0 / 1.5));
        assert_eq!(table.ratio("none"), None);
        assert_eq!(self::table().against("none").ratio("tcp-md5"), None, "without a baseline");
    }

    #[test]
    fn tables_are_compared_row_by_row() {
        let mut other = Table::new("host", "ns");
        other.add("tcp-md5", 3.0);
        let table = table().against_same("host", &other);
        assert_eq!(table.ratio("tcp-md5"), Some(0.5));
        assert_eq!(table.ratio("siphash-2-4-96"), None, "the other has no such row");
        assert!(table.markdown().contains("| siphash-2-4-96 | 4.000 | 3.000 | 5.000 | 50.0 % |  |"));
    }

    #[test]
    fn json_has_every_round() {
        let cases: Vec<Value> = table().json().collect();
        assert_eq!(
            cases[0],
            json!({
                "group": "bulk, MTU 1500",
                "name": "tcp-md5",
                "unit": "Gbit/s",
                "median": 1.5,
                "min": 1.0,
                "max": 2.0,
                "rounds": [1.0, 2.0, 1.5],
            })
        );
        assert_eq!(cases.len(), 2);
    }

    #[test]
    fn numbers_are_as_exact_as_they_are_small() {
        assert_eq!([1234.56, 123.456, 12.3456, 0.0123].map(digits), ["1235", "123.5", "12.35", "0.012"]);
    }
}
