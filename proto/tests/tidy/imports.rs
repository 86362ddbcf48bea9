//! Which modules of a crate import which, and where that goes round in a circle.

use std::collections::BTreeSet;

use super::source::{is_word_byte, words};

/// The path of a file's module below its crate's root.
pub(crate) fn module_of(path: &str, krate: &str) -> Vec<String> {
    let path = path.trim_start_matches(krate).trim_start_matches('/').trim_end_matches(".rs");
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    let is_root = module.len() == 1 && ["lib", "main"].contains(&module[0].as_str());
    if is_root || module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    module
}

/// For each folder with modules that import each other in circles: the folder, and the names of those modules in order.
pub(crate) fn circles(modules: &[(Vec<String>, String)]) -> Vec<(Vec<String>, Vec<String>)> {
    let names: BTreeSet<&[String]> = modules.iter().map(|(module, _)| module.as_slice()).collect();
    // From which module of a folder to which other.
    let mut arrows: BTreeSet<(&[String], &str, &str)> = BTreeSet::new();
    for (module, code) in modules {
        for target in imports(code, module) {
            // What is imported may be an item of a module, or one that it passes on.
            let Some(target) = (0..=target.len()).rev().find_map(|len| names.get(&target[..len])) else { continue };
            let shared = module.iter().zip(target.iter()).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (module.get(shared), target.get(shared)) {
                arrows.insert((&target[..shared], from, to));
            }
        }
    }
    let folders: BTreeSet<&[String]> = arrows.iter().map(|(folder, ..)| *folder).collect();
    let mut found = Vec::new();
    for folder in folders {
        let inside: Vec<(&str, &str)> =
            arrows.iter().filter(|(f, ..)| *f == folder).map(|(_, from, to)| (*from, *to)).collect();
        let reach = |from: &str| {
            let mut reached = BTreeSet::new();
            let mut open = vec![from.to_owned()];
            while let Some(at) = open.pop() {
                let next = inside.iter().filter(|(from, _)| *from == at).map(|(_, to)| (*to).to_owned());
                open.extend(next.filter(|to| reached.insert(to.clone())));
            }
            reached
        };
        let mut seen = BTreeSet::new();
        for (member, _) in &inside {
            let reached = reach(member);
            if reached.contains(*member) && !seen.contains(*member) {
                let circle: Vec<String> = reached.into_iter().filter(|other| reach(other).contains(*member)).collect();
                seen.extend(circle.iter().cloned());
                found.push((folder.to_vec(), circle));
            }
        }
    }
    found
}

/// The modules and items that code names by `crate::`, `super::` and `self::`, as paths from the crate's root.
fn imports(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for anchor in ["crate", "super", "self"] {
        for at in words(code, anchor) {
            let is_first = !code[..at].ends_with("::");
            let mut rest = &code[at + anchor.len()..];
            if !is_first || !rest.starts_with("::") {
                continue;
            }
            let mut base = match anchor {
                "crate" => Vec::new(),
                "self" => module.to_vec(),
                _ => module[..module.len().saturating_sub(1)].to_vec(),
            };
            while let Some(above) = rest.strip_prefix("::super").filter(|above| above.starts_with("::")) {
                base.pop();
                rest = above;
            }
            named(&rest[2..], &base, &mut found);
        }
    }
    found
}

/// Adds the paths of a tree of names (`a::{b, c::d}`) that stands at the front of code; what follows it.
fn named<'a>(code: &'a str, base: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let code = code.trim_start();
    if let Some(mut group) = code.strip_prefix('{') {
        loop {
            group = named(group, base, found).trim_start();
            match group.strip_prefix(',') {
                Some(next) => group = next,
                None => return group.strip_prefix('}').unwrap_or(group),
            }
        }
    }
    let len = code.bytes().take_while(|&byte| is_word_byte(byte)).count();
    let name = &code[..len];
    if len == 0 {
        found.push(base.to_vec());
        return code.strip_prefix('*').unwrap_or(code);
    }
    let path = if name == "self" { base.to_vec() } else { [base, &[name.to_owned()]].concat() };
    let rest = &code[len..];
    match rest.strip_prefix("::") {
        Some(rest)
            if rest.starts_with(|char: char| char.is_alphanumeric() || char == '_' || char == '{' || char == '*') =>
        {
            named(rest, &path, found)
        }
        _ => {
            found.push(path);
            // `x as y`
            match rest.trim_start().strip_prefix("as ") {
                Some(alias) => {
                    alias.trim_start().trim_start_matches(|char: char| char.is_alphanumeric() || char == '_')
                }
                None => rest,
            }
        }
    }
}

#[test]
fn circles_are_found_and_nothing_else() {
    let found =
        |code: &str| imports(code, &["a".to_owned(), "b".to_owned()]).iter().map(|path| path.join("/")).collect();
    let paths: Vec<String> = found("use crate::{c::{self, D}, e::f as g, h}; super::i::j(); self::k; x::crate::y");
    assert_eq!(paths, ["c", "c/D", "e/f", "h", "a/i/j", "a/b/k"]);
    let paths: Vec<String> = found("use super::super::c::{*}; use crate::d::<E>::f;");
    assert_eq!(paths, ["d", "c"]);
    let modules = |all: &[(&str, &str)]| -> Vec<(Vec<String>, String)> {
        all.iter().map(|(path, code)| (module_of(path, "x"), (*code).to_owned())).collect()
    };
    let two =
        modules(&[("x/a.rs", "crate::b::c"), ("x/b/mod.rs", "self::c::d"), ("x/b/c.rs", "super::x; crate::a::y")]);
    assert_eq!(circles(&two), [(vec![], vec!["a".to_owned(), "b".to_owned()])], "through a folder");
    let none = modules(&[("x/a.rs", "crate::b::c"), ("x/b/mod.rs", "self::c::d"), ("x/b/c.rs", "super::x")]);
    assert_eq!(circles(&none), [], "a folder's file and its child");
}
