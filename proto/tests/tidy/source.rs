//! Sources as text: what of a file is code, and which words and modules it names.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments and literals blanked, lines kept.
    pub(crate) code: String,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// All `.rs` files under these folders, in order of path.
pub(crate) fn sources(folders: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root.join(folder.as_ref()), &mut paths);
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let path = path.strip_prefix(&root).expect("found under the root").to_str().expect("UTF-8").to_owned();
            Source { path, code: code_of(&text), text }
        })
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Blanks comments, strings and characters; everything else stays where it is.
pub(crate) fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match literal_len(&bytes[at..], at.checked_sub(1).map(|before| bytes[before])) {
            0 => {
                at += 1;
                continue;
            }
            len => at + len,
        };
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(code).expect("whole literals were blanked")
}

/// Length of the comment or literal that begins here, 0 if none does.
fn literal_len(rest: &[u8], before: Option<u8>) -> usize {
    let until = |needle: &[u8], from: usize| {
        let tail = rest.get(from..).unwrap_or_default();
        tail.windows(needle.len()).position(|window| window == needle).map_or(rest.len(), |at| from + at + needle.len())
    };
    match rest {
        [b'/', b'/', ..] => until(b"\n", 2),
        [b'/', b'*', ..] => block_comment_len(rest),
        [b'"', ..] => string_len(rest),
        [b'r', b'"' | b'#', ..] if !before.is_some_and(is_word_byte) || before == Some(b'b') => {
            let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return 0; // A raw identifier.
            }
            let mut end = vec![b'"'];
            end.resize(1 + hashes, b'#');
            until(&end, 2 + hashes)
        }
        [b'\'', b'\\', _, ..] => until(b"'", 3),
        // Otherwise a character has its closing quote after one character, and a lifetime has none.
        [b'\'', rest @ ..] => match std::str::from_utf8(&rest[..rest.len().min(4)])
            .or_else(|error| std::str::from_utf8(&rest[..error.valid_up_to()]))
            .unwrap_or_default()
            .chars()
            .next()
        {
            Some(char) if rest.get(char.len_utf8()) == Some(&b'\'') => char.len_utf8() + 2,
            _ => 0,
        },
        _ => 0,
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

pub(crate) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Offsets at which a whole word stands in code.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let is_start = at == 0 || !is_word_byte(bytes[at - 1]);
        is_start && !bytes.get(at + word.len()).copied().is_some_and(is_word_byte)
    })
}

/// Whether code names a crate: as the first segment of a path, or whole in a `use`.
pub(crate) fn names_crate(code: &str, name: &str) -> bool {
    words(code, name).any(|at| {
        let (before, after) = (&code[..at], code[at + name.len()..].trim_start());
        // `x::name` is a module of x, `::name` is the crate.
        let is_first = match before.strip_suffix("::") {
            Some(parent) => !parent.ends_with(|char: char| char.is_alphanumeric() || char == '_' || char == '>'),
            None => true,
        };
        let before = before.trim_end().trim_end_matches("::").trim_end();
        let is_imported = before.ends_with("use") || before.ends_with("extern crate");
        is_first && (is_imported || after.starts_with("::"))
    })
}

/// Whether code names a sibling module: after `crate::` or `super::`, alone or in braces.
pub(crate) fn names_sibling(code: &str, name: &str) -> bool {
    ["crate", "super"].iter().any(|anchor| {
        words(code, anchor).any(|at| {
            let Some(rest) = code[at + anchor.len()..].strip_prefix("::") else { return false };
            let group = match rest.strip_prefix('{') {
                Some(group) => &group[..group.find(';').unwrap_or(group.len())],
                None => &rest[..rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len())],
            };
            words(group, name).next().is_some()
        })
    })
}

/// The names in `mod name;`.
pub(crate) fn declared(code: &str) -> impl Iterator<Item = &str> {
    words(code, "mod").filter_map(|at| {
        let rest = code[at + 3..].trim_start();
        let end = rest.bytes().take_while(|&byte| is_word_byte(byte)).count();
        rest[end..].trim_start().starts_with(';').then_some(&rest[..end])
    })
}

/// Code without its `#[cfg(test)]` items.
pub(crate) fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match (rest.find('{'), rest.find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|semicolon| open < semicolon) => {
                let mut depth = 0;
                let is_end = |(_, char): &(usize, char)| {
                    depth += i32::from(*char == '{') - i32::from(*char == '}');
                    *char == '}' && depth == 0
                };
                rest.char_indices().find(is_end).map_or(rest.len(), |(at, _)| at + 1)
            }
            (_, semicolon) => semicolon.map_or(rest.len(), |at| at + 1),
        };
        rest = &rest[end..];
    }
    kept + rest
}

/// A check that cannot fail keeps nothing, so the scanner is held to examples of both kinds.
#[test]
fn the_scanner_tells_code_from_what_only_looks_like_it() {
    let code =
        code_of("let a = \"tokio::x \\\" y\"; // monoio::z\n/* a /* axum::b */ c */ let c = '\"'; d::<'a>('\\'');");
    assert!(!code.contains("tokio") && !code.contains("monoio") && !code.contains("axum"), "{code}");
    assert!(code.contains("let c =") && code.contains("d::<'a>("), "{code}");
    assert_eq!(code_of("r#\"unsafe \" \"#; br\"x\"; r#type"), "              ; b    ; r#type");
    assert_eq!(code_of("('é', 'a, '\\n')"), "(    , 'a,     )");

    assert!(names_crate("use tokio::net;", "tokio") && names_crate("pub use axum;", "axum"));
    assert!(names_crate("a(::tokio::spawn(b))", "tokio") && names_crate("use ::tokio as x;", "tokio"));
    assert!(!names_crate("use tokio_tungstenite::x;", "tokio") && !names_crate("self.dataplane.x()", "dataplane"));
    assert!(
        !names_crate("Error { dataplane: x }", "dataplane") && !names_crate("use crate::dataplane::x;", "dataplane")
    );

    assert!(names_sibling("use crate::ice::Candidate;", "ice") && names_sibling("super::dtls::x()", "dtls"));
    assert!(names_sibling("use crate::{peer::Peer, ice::{self, X}};", "ice"));
    assert!(!names_sibling("self.ice.ufrag; let ice = crate::peer::x(ice);", "ice"));

    assert_eq!(without_tests("a #[cfg(test)] mod t { {} } b #[cfg(test)] mod u; c"), "a  b  c");
    assert_eq!(words("unsafe_code unsafe {} notunsafe", "unsafe").collect::<Vec<_>>(), [12]);
    assert_eq!(
        declared("pub mod a;\n#[cfg(test)] mod b ; mod c { mod d; } modx e;").collect::<Vec<_>>(),
        ["a", "b", "d"]
    );
}
