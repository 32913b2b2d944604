//! Daemons with many neighbours and sessions.

mod lab;
pub mod rollover;

use anyhow::Result;

use self::lab::Lab;
use super::{Effort, Measured, Report, table::Table};

pub fn measure(effort: &Effort) -> Result<Report> {
    let table = |what: &str, unit| Table::new(format!("scale, {what}"), unit);
    let mut fresh = table("start, nothing pinned", "s");
    let mut pinned = table("start, all pinned", "s");
    let mut reload = table("reload of one more neighbor", "s");
    let mut resident = table("resident with neighbors", "MB");
    let mut busy = table("resident with as many sessions", "MB");
    let mut map = table("map memory of a session", "octets");
    let mut sealed = table("cost per segment, seal", "ns");
    let mut verified = table("cost per segment, ingress", "ns");
    let mut labs = Vec::new();
    for &neighbors in &effort.neighbors {
        let name = neighbors.to_string();
        let mut lab = Lab::new(neighbors)?;
        for _ in 0..effort.rounds {
            pinned.add(&name, lab.restart()?);
            fresh.add(&name, lab.start_anew()?);
            resident.add(&name, lab.resident_megabytes()?);
            reload.add(&name, lab.reload()?);
        }
        map.add(&name, lab.connect_all()?);
        busy.add(&name, lab.resident_megabytes()?);
        labs.push((name, lab));
    }
    for _ in 0..effort.rounds {
        for (name, lab) in &labs {
            let cost = lab.cost_per_segment()?;
            sealed.add(name, cost.seal);
            verified.add(name, cost.ingress);
        }
    }
    let mut report = Report::default();
    report.note(
        "r1 has so many neighbors, all of them addresses of r2, and a session with each. Map memory: what the kernel \
         accounts to the map SESSIONS (`memlock` of its fdinfo) with the sessions, less that without, each.",
    );
    report.note(
        "Cost per segment: the kernel's statistics of the programs at both ends while one session carries data; sessions \
         of the other sizes are there meanwhile.",
    );
    for (name, limit) in [("1000", 2.0), ("10000", 5.0)] {
        for (table, what) in [(&fresh, "nothing pinned"), (&pinned, "all pinned")] {
            if let Some(seconds) = table.median(name) {
                let start = Measured::new(format!("start with {name} neighbors, {what}"), seconds, "s");
                report.measured.push(if name == "1000" {
                    start.below(limit)
                } else {
                    start.aims_at_most(limit)
                });
            }
        }
    }
    let resident_with =
        |name| resident.median(name).map(|value| (format!("resident with {name} neighbors"), value));
    report
        .measured
        .extend(resident_with("1000").map(|(what, value)| Measured::new(what, value, "MB").below(50.0)));
    report.measured.extend(
        resident_with("10000").map(|(what, value)| Measured::new(what, value, "MB").aims_at_most(100.0)),
    );
    report.measured.extend(map.rows().iter().filter_map(|row| {
        let what = format!("map memory of each of {} sessions", row.name);
        map.median(&row.name).map(|octets| Measured::new(what, octets, "octets").aims_at_most(1024.0))
    }));
    let [sealed, verified] = [sealed, verified].map(|table| match effort.neighbors.first() {
        Some(first) => table.against(&first.to_string()),
        None => table,
    });
    for (table, what) in [(&sealed, "seal"), (&verified, "ingress")] {
        for row in table.rows().iter().skip(1) {
            let ratio = table.ratio(&row.name).unwrap_or(f64::NAN);
            let what =
                format!("cost per segment in {what}, {} sessions against {}", row.name, effort.neighbors[0]);
            report.measured.push(Measured::new(what, ratio, "").aims_at_most(1.1));
        }
    }
    report.tables = vec![fresh, pinned, reload, resident, busy, map, sealed, verified];
    drop(labs);
    report.append(rollover::measure(effort)?);
    Ok(report)
}
