//! The documents' blocks of code: commands are run by a test (`console`, see bench/e2e/commands.mjs) or marked as an example
//! (`console example`); there is no third kind, and no command hides in a block of another name.

use std::fs;
use std::path::{Path, PathBuf};

/// What may stand behind the fence of a block that is not of commands.
const OTHERS: &[&str] = &["", "json", "toml", "nginx", "html", "js", "ini", "rust", "c", "ts", "diff"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every document of the repository by its path.
fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be read").flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap_or_default());
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
                folders.push(path);
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                found.push((path.strip_prefix(root()).unwrap_or(&path).display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

/// The blocks of a document: line, what stands behind the fence, and the lines between the fences.
fn blocks(text: &str) -> Vec<(usize, &str, Vec<&str>)> {
    let mut blocks: Vec<(usize, &str, Vec<&str>)> = Vec::new();
    let mut is_open = false;
    for (number, line) in text.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if is_open => is_open = false,
            Some(info) => {
                is_open = true;
                blocks.push((number + 1, info.trim(), Vec::new()));
            }
            None if is_open => blocks.last_mut().expect("one is open").2.push(line),
            None => {}
        }
    }
    blocks
}

/// What is wrong with a block, if anything is.
fn complaint(info: &str, lines: &[&str]) -> Option<&'static str> {
    let is_command = |line: &&&str| line.starts_with("$ ");
    match info.split_once(' ').unwrap_or((info, "")) {
        ("console", "" | "example") => {
            let has_command = lines.iter().any(|line| line.starts_with("$ ") || line.starts_with("# "));
            (!has_command).then_some("a console block without a command")
        }
        ("console", _) => Some("a console block is run, or it is an `example`: there is no third kind"),
        (language, _) if !OTHERS.contains(&language) => Some("not a known kind of block; commands are `console`"),
        _ => lines.iter().find(is_command).map(|_| "a command outside a console block"),
    }
}

#[test]
fn every_command_of_a_document_is_run_or_marked_as_an_example() {
    let documents = documents();
    let mut complaints = Vec::new();
    let (mut run, mut examples) = (0, 0);
    for (path, text) in &documents {
        for (line, info, lines) in blocks(text) {
            run += usize::from(info == "console");
            examples += usize::from(info == "console example");
            complaints
                .extend(complaint(info, &lines).map(|complaint| format!("{path}:{line}: ```{info}: {complaint}")));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    assert!(run >= 5 && examples >= 1 && documents.len() > 10, "{run} blocks are run, {examples} are examples");
}

/// A check that cannot fail keeps nothing.
#[test]
fn a_third_kind_is_noticed() {
    assert_eq!(complaint("console", &["$ true"]), None);
    assert_eq!(complaint("console example", &["# make"]), None);
    assert_eq!(complaint("json client", &["{}"]), None);
    for (info, lines) in [
        ("console run", ["$ true"]),
        ("console", ["true"]),
        ("sh", ["true"]),
        ("bash", ["true"]),
        ("", ["$ true"]),
        ("toml", ["$ true"]),
    ] {
        assert!(complaint(info, &lines).is_some(), "{info}");
    }
}
