//! The documents: every relative link leads to a file and a heading that exist. Commands are run by a test (`console`, see
//! bench/e2e/commands.mjs) or marked as an example (`console example`); blocks of other kinds contain no commands.

use std::fs;
use std::path::{Path, PathBuf};

/// What may stand behind the fence of a block that is not of commands.
const OTHERS: &[&str] = &["", "json", "toml", "nginx", "nats", "html", "js", "ini", "rust", "c", "ts", "diff"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Path of every file of the repository, but of what is hidden, built or installed.
fn files() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be read").flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap_or_default());
            if !path.is_dir() {
                found.push(path.strip_prefix(root()).unwrap_or(&path).display().to_string());
            } else if !name.starts_with('.') && name != "target" && name != "node_modules" {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every document of the repository by its path.
fn documents() -> Vec<(String, String)> {
    let read = |path: String| {
        let text = fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        (path, text)
    };
    files().into_iter().filter(|path| path.ends_with(".md")).map(read).collect()
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

/// The targets of the links outside of code blocks, without those of other sites.
fn links(text: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if is_code {
            continue;
        }
        let parts = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        targets.extend(parts.map(|(target, _)| target).filter(|target| !target.contains("://")));
    }
    targets
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_a_document_has_a_target() {
    let (mut complaints, mut checked) = (Vec::new(), 0);
    for (path, text) in documents() {
        let folder = root().join(&path).parent().expect("a file is in a folder").to_owned();
        for target in links(&text) {
            checked += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root().join(&path) } else { folder.join(file) };
            if !file.exists() {
                complaints.push(format!("{path}: {target}: no such file"));
            } else if !anchor.is_empty() {
                let page = fs::read_to_string(&file).unwrap_or_default();
                if !anchors(&page).iter().any(|known| known == anchor) {
                    complaints.push(format!("{path}: {target}: no such heading"));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    assert!(checked > 100, "only {checked} links were found");
}

#[test]
fn links_and_anchors_are_found() {
    let text = "[a](B.md#c-d) ![e](f.svg)\n```\n[g](h)\n```\n[i](https://j)";
    assert_eq!(links(text), ["B.md#c-d", "f.svg"]);
    assert_eq!(anchors("# A b\ntext\n### C's (d-e): 1.5"), ["a-b", "cs-d-e-15"]);
}

/// Names in `code` that are those of files or folders of ours: `demux.rs`, `io/`, `tests/store.rs`. Placeholders are none.
fn file_names(text: &str) -> Vec<&str> {
    let inline =
        text.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_plain = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
    inline
        .filter(|name| (name.ends_with(".rs") || name.ends_with('/')) && !name.starts_with('/'))
        .filter(is_plain)
        .collect()
}

/// Whether a file or folder of the repository has this path, or ends in it.
fn is_there(files: &[String], name: &str) -> bool {
    let name = name.trim_end_matches('/');
    files.iter().any(|path| {
        path == name
            || path.ends_with(&format!("/{name}"))
            || path.contains(&format!("/{name}/"))
            || path.starts_with(&format!("{name}/"))
    })
}

/// A reader follows the way of a packet, or of a call, by these names.
#[test]
fn every_file_that_the_architecture_names_is_there() {
    let files = files();
    for document in ["docs/ARCHITECTURE.md", "docs/SPECIFICATION.md", "docs/RFC.md"] {
        let text = fs::read_to_string(root().join(document)).expect("it can be read");
        let missing: Vec<&str> = file_names(&text).into_iter().filter(|name| !is_there(&files, name)).collect();
        assert!(missing.is_empty(), "{document} names what is not there: {missing:?}");
    }
    assert!(!is_there(&files, "nowhere.rs") && !is_there(&files, "nowhere/"));
    assert_eq!(file_names("`a.rs`, `b/`, `make x`, `/v1/rooms/`, `c/{d}.rs`"), ["a.rs", "b/"]);
}
