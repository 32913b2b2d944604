//! `docs/benchmarks.md` and its plots.

use std::fs;

use anyhow::{Context, Result};
use tcpauth_tests::binaries::workspace;

use super::{Effort, mac::SIZES, machine::Machine, plot::Chart, report::Report, table::Table};

const TEMPLATE: &str = include_str!("template.md");

/// Writes them, from all cases.
///
/// # Errors
/// If a file cannot be written, or a table is missing.
pub fn write(machine: &Machine, effort: &Effort, reports: &[Report]) -> Result<()> {
    let docs = workspace().join("docs");
    let plots = docs.join("benchmarks");
    fs::create_dir_all(&plots)?;
    fs::write(plots.join("throughput.svg"), throughput(reports)?.svg())?;
    fs::write(plots.join("cost.svg"), cost(reports)?.svg())?;
    fs::write(docs.join("benchmarks.md"), page(machine, effort, reports))?;
    eprintln!("written: docs/benchmarks.md and docs/benchmarks/");
    Ok(())
}

fn page(machine: &Machine, effort: &Effort, reports: &[Report]) -> String {
    let mut page = TEMPLATE.to_owned();
    for (field, value) in [
        ("{machine}", &machine.hardware),
        ("{kernel}", &machine.kernel),
        ("{commit}", &machine.commit),
        ("{rounds}", &effort.rounds.to_string()),
        ("{seconds}", &effort.seconds.to_string()),
    ] {
        page = page.replace(field, value);
    }
    for report in reports {
        page.push_str(&report.markdown());
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn throughput(reports: &[Report]) -> Result<Chart> {
    let tables = ["bulk, MTU 1500, r1 to r2", "bulk, MTU 9000, r1 to r2"];
    chart(reports, "Throughput of one stream", "Gbit/s", &tables, &["MTU 1500", "MTU 9000"])
}

fn cost(reports: &[Report]) -> Result<Chart> {
    let tables = SIZES.map(|size| format!("mac, {size} octets, BPF"));
    let groups = SIZES.map(|size| format!("{size} octets"));
    chart(reports, "Cost of a segment in ingress", "ns", &tables, &groups)
}

/// A group of bars for each of the tables.
fn chart(
    reports: &[Report],
    title: &str,
    unit: &str,
    names: &[impl AsRef<str>],
    groups: &[impl ToString],
) -> Result<Chart> {
    let mut tables: Vec<&Table> = Vec::new();
    for name in names.iter().map(AsRef::as_ref) {
        let mut all = reports.iter().flat_map(|report| &report.tables);
        tables.push(all.find(|table| table.group == name).with_context(|| format!("no table {name}"))?);
    }
    let rows = tables.first().map(|table| table.rows()).unwrap_or_default();
    let bars = rows
        .iter()
        .map(|row| (row.name.clone(), tables.iter().map(|table| table.median(&row.name)).collect()));
    Ok(Chart {
        title: title.to_owned(),
        unit: unit.to_owned(),
        bars: bars.collect(),
        groups: groups.iter().map(ToString::to_string).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> Vec<Report> {
        let table = |group: &str, value| {
            let mut table = Table::new(group, "Gbit/s");
            table.add("none", value);
            table
        };
        let tables = vec![table("bulk, MTU 1500, r1 to r2", 3.0), table("bulk, MTU 9000, r1 to r2", 5.0)];
        vec![Report { case: "bulk".into(), tables, ..Report::default() }]
    }

    #[test]
    fn the_page_says_where_its_numbers_are_from() {
        let machine = Machine { hardware: "two CPUs".into(), kernel: "6.18".into(), commit: "abc".into() };
        let effort = Effort { rounds: 5, seconds: 1.0, routes: 1, gobgp_routes: 1, neighbors: vec![1] };
        let page = page(&machine, &effort, &reports());
        assert!(
            page.contains(
                "| machine | two CPUs |\n| kernel | 6.18 |\n| commit | abc |\n| rounds | 5, 1 s each"
            )
        );
        assert!(page.contains("**bulk, MTU 1500, r1 to r2**"));
        assert!(!page.contains('{'), "every field is filled");
    }

    #[test]
    fn a_plot_needs_its_tables() {
        let chart = throughput(&reports()).unwrap();
        assert_eq!(chart.bars, [("none".to_owned(), vec![Some(3.0), Some(5.0)])]);
        assert!(cost(&reports()).is_err());
    }
}
