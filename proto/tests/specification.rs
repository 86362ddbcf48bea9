//! docs/SPECIFICATION.md and docs/SECURITY.md against the tree: each test that it names exists, and each promise has one or says that it is
//! pending.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap_or_default());
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            files(&path, endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

/// The names of all tests: functions in Rust files, titles in JavaScript and functions in Python.
fn tests() -> BTreeSet<String> {
    let mut found = Vec::new();
    files(&root(), &[".rs", ".test.mjs", ".py"], &mut found);
    let mut names = BTreeSet::new();
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines().map(str::trim_start) {
            let function = ["fn ", "async fn ", "def "].iter().find_map(|word| line.strip_prefix(word));
            let title = line
                .strip_prefix("await t.")
                .unwrap_or(line)
                .strip_prefix("test(")
                .and_then(|rest| rest.get(1..)?.split(['\'', '`', '"']).next());
            let name =
                function.and_then(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()).or(title);
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

/// The rows of all tables of promises: promise and what holds it.
fn rows(page: &str) -> Vec<(&str, &str)> {
    let mut is_of_promises = false;
    let cells = page.lines().filter(|line| {
        is_of_promises = line.starts_with('|') && (is_of_promises || line.starts_with("| Promise"));
        is_of_promises && line.starts_with("| ") && !line.starts_with("| Promise")
    });
    cells.map(|line| line.trim_matches(['|', ' ']).split_once(" | ").expect("a row has two cells")).collect()
}

#[test]
fn every_promise_is_held_by_a_test_that_exists_or_pending() {
    let pages =
        ["docs/SPECIFICATION.md", "docs/SECURITY.md"].map(|page| fs::read_to_string(root().join(page)).unwrap());
    assert!(pages.iter().all(|page| rows(page).len() > 10), "the pages have tables of promises");
    let (tests, mut missing) = (tests(), Vec::new());
    for (promise, held) in pages.iter().flat_map(|page| rows(page)) {
        let names: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() || held.contains("*pending*"), "nothing holds: {promise}");
        let is_known = |name: &str| {
            tests.contains(name)
                || ["make ", "cargo bench "].iter().any(|command| name.starts_with(command))
                || root().join(name).exists()
        };
        missing.extend(names.into_iter().filter(|name| !is_known(name)));
    }
    assert!(missing.is_empty(), "the pages name tests that are not there: {missing:#?}");
}
