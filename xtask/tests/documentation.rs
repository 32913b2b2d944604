//! What the documents say is there: each line of the tables of docs/security.md names its tests, and they exist; each
//! entry of docs/rfc-map.md exists.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A cell that names no test begins with this, and says why there can be none.
const NO_TEST: &str = "none: ";

#[test]
fn each_line_of_the_security_tables_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sources = sources(root);
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let mut faults = Vec::new();
    let mut rows = 0;
    for (number, row) in rows_of_tables(&text) {
        rows += 1;
        let cell = cells(row).last().unwrap().trim();
        let tests: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() && !cell.starts_with(NO_TEST) {
            faults.push(format!("line {number}: no test is named in {cell:?}"));
        }
        for test in tests {
            if !exists(&sources, test) {
                faults.push(format!("line {number}: there is no test {test}"));
            }
        }
    }
    assert!(rows > 50, "only {rows} lines of tables were found");
    assert!(faults.is_empty(), "docs/security.md:\n{}", faults.join("\n"));
}

#[test]
fn a_test_that_is_not_there_or_none_is_found() {
    let source =
        "#[test]\nfn there() {}\n\nfn is_no_test() {}\n\n#[cfg(test)]\n#[test]\nfn behind_another() {}\n";
    let sources = [(PathBuf::from("tests/tests/links.rs"), source.to_owned())];
    for test in ["links.rs::there", "tests/links.rs::there", "links.rs::behind_another"] {
        assert!(exists(&sources, test), "{test}");
    }
    for test in
        ["links.rs::their", "inks.rs::there", "kernel/links.rs::there", "links.rs::is_no_test", "there"]
    {
        assert!(!exists(&sources, test), "{test}");
    }
    let table = "| a | test |\n|---|---|\n| b \\| c | `d` |\n";
    let rows: Vec<_> = rows_of_tables(table).collect();
    assert_eq!(rows, [(3, "| b \\| c | `d` |")]);
    assert_eq!(cells(rows[0].1), [" b \\| c ", " `d` "]);
}

#[test]
fn each_entry_of_the_rfc_map_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("docs/rfc-map.md")).unwrap();
    let mut faults = Vec::new();
    let mut entries = 0;
    for (number, row) in rows_of_tables(&text) {
        for (path, name) in entries_of(row) {
            entries += 1;
            let source = fs::read_to_string(root.join(path)).unwrap_or_default();
            if !defines(&source, name) {
                faults.push(format!("line {number}: there is no {name} in {path}"));
            }
        }
    }
    assert!(entries > 400, "only {entries} entries were found");
    assert!(faults.is_empty(), "docs/rfc-map.md:\n{}", faults.join("\n"));
}

#[test]
fn an_entry_that_is_not_there_is_found() {
    let row = "| RFC 5925 §5.1 | `a/b.rs` `mac`, over `a/b.rs` `Input`: see `other` | `a/b.rs` |";
    assert_eq!(entries_of(row).collect::<Vec<_>>(), [("a/b.rs", "mac"), ("a/b.rs", "Input")]);
    let source =
        "pub(super) const fn mac<const N: usize>() {}\nstruct Input(u8);\nconst LEN: u8 = 1;\n// fn gone()\n";
    for name in ["mac", "Input", "LEN"] {
        assert!(defines(source, name), "{name}");
    }
    for name in ["ma", "put", "N", "gone"] {
        assert!(!defines(source, name), "{name}");
    }
}

/// The entries of a row: a path and a name, each in backticks, with one space between.
fn entries_of(row: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts: Vec<&str> = row.split('`').collect();
    let at = (1..parts.len().saturating_sub(2)).step_by(2);
    let entries = at.filter(|&at| parts[at].ends_with(".rs") && parts[at + 1] == " ");
    entries.map(|at| (parts[at], parts[at + 2])).collect::<Vec<_>>().into_iter()
}

/// Whether a function, type, constant or module of this name is in `source`.
fn defines(source: &str, name: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    source.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
        ["fn ", "struct ", "enum ", "const ", "static ", "mod "].iter().any(|kind| {
            line.match_indices(kind).any(|(at, _)| {
                let begins = !line[..at].ends_with(is_name) && !line[..at].ends_with('<');
                begins
                    && line[at + kind.len()..]
                        .strip_prefix(name)
                        .is_some_and(|rest| !rest.starts_with(is_name))
            })
        })
    })
}

/// Number and text of each line of a table that is neither its head nor the line below it.
fn rows_of_tables(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &&str| line.starts_with('|');
    (2..lines.len())
        .filter(move |&at| lines[at - 2..=at].iter().all(is_row))
        .map(|at| (at + 1, text.lines().nth(at).unwrap()))
}

/// The cells of a row; a `|` behind a backslash ends none.
fn cells(row: &str) -> Vec<&str> {
    let mut cells = Vec::new();
    let mut start = 1;
    for (at, _) in row.match_indices('|').skip(1) {
        if !row[..at].ends_with('\\') {
            cells.push(&row[start..at]);
            start = at + 1;
        }
    }
    cells
}

/// Whether `named`, as in `links.rs::a_tunnel`, is a test in a file whose path ends so.
fn exists(sources: &[(PathBuf, String)], named: &str) -> bool {
    let Some((file, function)) = named.split_once("::") else { return false };
    sources.iter().filter(|(path, _)| path.ends_with(file)).any(|(_, text)| has_test(text, function))
}

fn has_test(text: &str, function: &str) -> bool {
    let begins = ["", "async "].map(|form| format!("{form}fn {function}("));
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if is_test && begins.iter().any(|begin| line.starts_with(begin)) {
            return true;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            is_test = false;
        }
    }
    false
}

/// All Rust files of the workspace, with their text.
fn sources(root: &Path) -> Vec<(PathBuf, String)> {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["agent", "common", "ebpf", "fuzz", "tests", "xtask"].map(|member| root.join(member)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path, text));
            }
        }
    }
    sources
}
