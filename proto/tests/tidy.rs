//! The shape of the tree, kept by a test: who may name whom, where `unsafe` may stand, that no file is dead, and
//! that each file opens with a word about itself. The rules are those of docs/ARCHITECTURE.md; here is the list that
//! counts. It reads the sources as text, without their comments and strings, and knows no more Rust than it needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file that ships, lines. Beyond that a file has more than one subject.
const SHIPPED_LINES_MAX: usize = 700;

/// Longest test file, lines.
const TEST_LINES_MAX: usize = 900;

/// Where `unsafe` may stand, each for a reason that the file gives.
const CAGES: &[&str] = &[
    "proto/src/link/region.rs",
    "dataplane/src/io/",
    "dataplane/src/slab.rs",
    "dataplane/src/srtp/aead.rs",
    "controlplane/src/dtls/ffi.rs",
    // Does not ship: the one system call that makes a TUN interface.
    "bench/weak/src/tun.rs",
];

/// A crate that may be named only from some places.
struct Arrow {
    name: &'static str,
    /// Path prefixes under which it may be named.
    from: &'static [&'static str],
}

/// Everything else under `src/` must do without them. `bench` and `fuzz` test the whole and may name both planes; nothing that
/// ships names them, and `client` knows neither plane.
const ARROWS: &[Arrow] = &[
    Arrow { name: "dataplane", from: &["src/", "bench/", "fuzz/", "dataplane/"] },
    Arrow { name: "controlplane", from: &["src/", "bench/", "fuzz/", "controlplane/"] },
    Arrow { name: "client", from: &["src/", "client/", "record/", "live/", "bench/", "sip/", "feed/"] },
    Arrow { name: "record", from: &["src/", "record/", "live/"] },
    Arrow { name: "live", from: &["src/", "live/"] },
    Arrow { name: "mp4_atom", from: &["record/src/mp4.rs", "record/src/track.rs"] },
    Arrow { name: "sip", from: &["src/", "fuzz/"] },
    Arrow { name: "feed", from: &["src/", "fuzz/"] },
    Arrow {
        name: "opusic_c",
        from: &["sip/src/voice.rs", "live/src/mix.rs", "live/src/encode.rs", "live/src/live.rs", "feed/src/media.rs"],
    },
    Arrow { name: "bench", from: &["bench/"] },
    Arrow { name: "targets", from: &["fuzz/"] },
    Arrow { name: "monoio", from: &["bench/", "dataplane/src/io/", "dataplane/src/worker.rs"] },
    Arrow { name: "tokio", from: TOKIO },
    Arrow { name: "tokio_tungstenite", from: &["client/src/signal.rs"] },
    Arrow { name: "axum", from: &["controlplane/src/http/", "controlplane/src/http.rs"] },
    Arrow { name: "dimpl", from: &["client/src/dtls.rs"] },
    Arrow { name: "boring", from: BORING },
    Arrow { name: "rustls", from: &["src/remote.rs", "client/src/http.rs", "controlplane/src/tls.rs"] },
    Arrow { name: "tokio_rustls", from: &["client/src/http.rs", "controlplane/src/http/"] },
    Arrow { name: "async_nats", from: &["controlplane/src/nodes/cluster.rs", "controlplane/src/nodes/cluster/"] },
    Arrow { name: "boring_sys", from: &["controlplane/src/dtls/ffi.rs", "dataplane/src/srtp/aead.rs"] },
];

/// The drivers: the only code of the controlplane, and of the client, that waits.
const TOKIO: &[&str] = &[
    "src/",
    "bench/",
    "fuzz/targets/src/socket.rs",
    "client/src/http.rs",
    "client/src/room.rs",
    "client/src/service.rs",
    "client/src/room/",
    "client/src/udp.rs",
    "live/src/encode.rs",
    "live/src/hub.rs",
    "live/src/live.rs",
    "live/src/push.rs",
    "live/src/serve.rs",
    "record/src/recorder.rs",
    "record/src/store/",
    "controlplane/src/administering.rs",
    "controlplane/src/http/",
    "controlplane/src/http.rs",
    "controlplane/src/driver.rs",
    "controlplane/src/driver/",
    "controlplane/src/logbook.rs",
    "controlplane/src/nodes/asks.rs",
    "controlplane/src/nodes/bus.rs",
    "controlplane/src/nodes/claims.rs",
    "controlplane/src/nodes/cluster.rs",
    "controlplane/src/nodes/cluster/",
    "controlplane/src/nodes/documents.rs",
    "controlplane/src/nodes/member.rs",
    "controlplane/src/nodes/mod.rs",
    "controlplane/src/run.rs",
    "controlplane/src/stun_server.rs",
    "controlplane/src/lib.rs",
    "feed/src/child.rs",
    "feed/src/door.rs",
    "feed/src/run.rs",
    "feed/src/ffmpeg.rs",
    "sip/src/ask.rs",
    "sip/src/call.rs",
    "sip/src/connections.rs",
    "sip/src/control.rs",
    "sip/src/gateway.rs",
    "sip/src/orders.rs",
];

/// DTLS; and the one who reads when the doors' certificate expires.
const BORING: &[&str] =
    &["bench/", "dataplane/src/srtp/", "controlplane/src/dtls/", "controlplane/src/dtls.rs", "controlplane/src/tls.rs"];

/// Modules of the controlplane that do not know each other; `peer` orders them.
const STRANGERS: &[&str] = &["sdp", "ice", "dtls"];

/// File names that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "manager", "common", "misc"];

/// A crate's source root and the folder that its modules lie in.
const CRATES: &[&str] = &[
    "src",
    "proto/src",
    "dataplane/src",
    "controlplane/src",
    "client/src",
    "record/src",
    "live/src",
    "sip/src",
    "feed/src",
    "bench/src",
    "bench/sim/src",
    "bench/weak/src",
    "fuzz/targets/src",
];

struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
    /// The text with comments and literals blanked, lines kept.
    code: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// All `.rs` files under these folders, in order of path.
fn sources(folders: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<Source> {
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

fn source_folders() -> impl Iterator<Item = String> {
    CRATES.iter().map(|&folder| folder.to_owned())
}

/// Sources and everything that tests them.
fn all_folders() -> impl Iterator<Item = String> {
    let tests = CRATES.iter().flat_map(|folder| {
        let krate = folder.trim_end_matches("src");
        [format!("{krate}tests"), format!("{krate}benches")]
    });
    source_folders().chain(tests).chain(["fuzz/fuzz_targets".to_owned()])
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
fn code_of(text: &str) -> String {
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

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Offsets at which a whole word stands in code.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let is_start = at == 0 || !is_word_byte(bytes[at - 1]);
        is_start && !bytes.get(at + word.len()).copied().is_some_and(is_word_byte)
    })
}

/// Whether code names a crate: as the first segment of a path, or whole in a `use`.
fn names_crate(code: &str, name: &str) -> bool {
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
fn names_sibling(code: &str, name: &str) -> bool {
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

fn is_under(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == *place })
}

/// Fails with all complaints at once.
fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn only_the_right_places_name_a_crate() {
    let mut complaints = Vec::new();
    for source in sources(source_folders()) {
        for arrow in ARROWS {
            if names_crate(&source.code, arrow.name) && !is_under(&source.path, arrow.from) {
                complaints.push(format!("{} names {}, which only {:?} may", source.path, arrow.name, arrow.from));
            }
        }
    }
    assert_none(complaints);
}

/// Benchmarks may assume that addresses answer, because nobody is there. What ships asks them.
#[test]
fn nothing_that_ships_assumes_consent() {
    let defined = ["dataplane/src/forward/mod.rs", "dataplane/src/worker/mod.rs"];
    let shipped = sources(source_folders()).into_iter().filter(|source| !source.path.starts_with("bench/"));
    let naming = shipped.filter(|source| source.code.contains("assume_consent") && !is_under(&source.path, &defined));
    assert_none(naming.map(|source| format!("{} assumes consent", source.path)).collect());
}

#[test]
fn manifests_point_the_same_way() {
    let forbidden: [(&str, &[&str]); 9] = [
        ("proto", &["dataplane", "controlplane", "client", "record", "bench", "targets", "tokio", "monoio", "axum"]),
        ("dataplane", &["controlplane", "client", "record", "bench", "targets", "tokio", "axum"]),
        ("controlplane", &["dataplane", "client", "record", "bench", "targets", "monoio"]),
        ("client", &["dataplane", "controlplane", "record", "bench", "targets", "monoio", "axum", "boring"]),
        ("record", &["dataplane", "controlplane", "bench", "targets", "monoio", "axum", "boring"]),
        ("live", &["dataplane", "controlplane", "bench", "targets", "monoio", "axum", "boring"]),
        ("sip", &["dataplane", "controlplane", "record", "bench", "targets", "monoio", "axum", "boring"]),
        ("feed", &["dataplane", "controlplane", "record", "bench", "targets", "monoio", "axum", "boring"]),
        // The executable: nothing of the tests' stack ships (docs/decisions/0033).
        (".", &["bench", "targets", "dtls", "webrtc-srtp", "webrtc-util", "rtp", "rtcp"]),
    ];
    let mut complaints = Vec::new();
    for (krate, names) in forbidden {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("each crate has a manifest");
        let dependencies = manifest.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap_or("");
        for line in dependencies.lines() {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            if names.contains(&name) {
                complaints.push(format!("{krate}/Cargo.toml depends on {name}"));
            }
        }
    }
    assert_none(complaints);
}

#[test]
fn sdp_ice_and_dtls_do_not_know_each_other() {
    let mut complaints = Vec::new();
    for source in sources(["controlplane/src"]) {
        let path = source.path.trim_start_matches("controlplane/src/");
        let Some(&own) = STRANGERS.iter().find(|&&own| path.split(['/', '.']).next() == Some(own)) else { continue };
        for other in STRANGERS.iter().filter(|&&other| other != own) {
            if names_sibling(&source.code, other) {
                complaints.push(format!("{} names {other}; only peer may know both", source.path));
            }
        }
    }
    assert_none(complaints);
}

#[test]
fn unsafe_stays_in_its_cages() {
    let mut complaints = Vec::new();
    for source in sources(source_folders()) {
        // Lint attributes are no strings, so `allow(unsafe_code)` is still there in the code.
        let is_wild = words(&source.code, "unsafe").next().is_some() || source.code.contains("allow(unsafe_code");
        if is_wild && !is_under(&source.path, CAGES) {
            complaints.push(format!("{} has unsafe code; the cages are {CAGES:?}", source.path));
        }
    }
    assert_none(complaints);
}

#[test]
fn no_file_is_dead() {
    let mut complaints = Vec::new();
    for krate in CRATES {
        let all = sources([krate]);
        let mut reached = BTreeSet::new();
        for entry in ["lib.rs", "main.rs"] {
            reach(&all, &format!("{krate}/{entry}"), &mut reached);
        }
        for source in &all {
            if !reached.contains(&source.path) && !source.path.starts_with("src/bin/") {
                complaints.push(format!("{} is declared by no module", source.path));
            }
        }
    }
    assert_none(complaints);
}

/// Follows `mod name;` from a file.
fn reach(all: &[Source], path: &str, reached: &mut BTreeSet<String>) {
    let Some(source) = all.iter().find(|source| source.path == path) else { return };
    if !reached.insert(path.to_owned()) {
        return;
    }
    let (folder, file) = path.rsplit_once('/').expect("every source lies in a folder");
    let folder = match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        file => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    for name in declared(&source.code) {
        reach(all, &format!("{folder}/{name}.rs"), reached);
        reach(all, &format!("{folder}/{name}/mod.rs"), reached);
    }
}

/// The names in `mod name;`.
fn declared(code: &str) -> impl Iterator<Item = &str> {
    words(code, "mod").filter_map(|at| {
        let rest = code[at + 3..].trim_start();
        let end = rest.bytes().take_while(|&byte| is_word_byte(byte)).count();
        rest[end..].trim_start().starts_with(';').then_some(&rest[..end])
    })
}

/// Modules that import each other are one module in several files: none of them can be read, or tested, without the others.
/// The modules of each folder are compared, each with all that lies below it. A folder's own file (`mod.rs`, or the file of
/// the folder's name) may import its children and they it. Test code is left out.
#[test]
fn modules_do_not_import_each_other_in_circles() {
    let mut complaints = Vec::new();
    for krate in CRATES {
        let modules: Vec<(Vec<String>, String)> = sources([krate])
            .iter()
            .map(|source| (module_of(&source.path, krate), without_tests(&source.code)))
            .filter(|(module, _)| module.last().is_none_or(|name| name != "tests"))
            .collect();
        for (folder, members) in circles(&modules) {
            let folder = [vec![(*krate).to_owned()], folder].concat().join("/");
            complaints.push(format!("in {folder}, these import each other in a circle: {members:?}"));
        }
    }
    assert_none(complaints);
}

/// The path of a file's module below its crate's root.
fn module_of(path: &str, krate: &str) -> Vec<String> {
    let path = path.trim_start_matches(krate).trim_start_matches('/').trim_end_matches(".rs");
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    let is_root = module.len() == 1 && ["lib", "main"].contains(&module[0].as_str());
    if is_root || module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    module
}

/// Code without its `#[cfg(test)]` items.
fn without_tests(code: &str) -> String {
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

/// For each folder with modules that import each other in circles: the folder, and the names of those modules in order.
fn circles(modules: &[(Vec<String>, String)]) -> Vec<(Vec<String>, Vec<String>)> {
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
fn every_file_opens_with_a_word_about_itself() {
    let complaints = sources(all_folders())
        .into_iter()
        // Unit tests in a file of their own stand beside the module that they are about, and an entry point of one
        // empty line has nothing to say yet.
        .filter(|source| {
            !source.path.ends_with("/tests.rs") && source.code.split_whitespace().collect::<String>() != "fnmain(){}"
        })
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{} does not open with `//!`", source.path));
    assert_none(complaints.collect());
}

#[test]
fn nothing_is_left_for_later() {
    // In pieces, so that this file does not complain about itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut complaints = Vec::new();
    for source in sources(all_folders()) {
        for (number, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| words(line, mark).next().is_some()) {
                complaints.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert_none(complaints);
}

#[test]
fn files_have_one_subject() {
    let mut complaints = Vec::new();
    let longest = |path: &str| {
        let ships = path.contains("src/") && !path.starts_with("bench/") && !path.ends_with("/tests.rs");
        if ships { SHIPPED_LINES_MAX } else { TEST_LINES_MAX }
    };
    for source in sources(all_folders()) {
        let (lines, lines_max) = (source.text.lines().count(), longest(&source.path));
        if lines > lines_max {
            complaints.push(format!("{} has {lines} lines, more than {lines_max}", source.path));
        }
    }
    for source in sources(source_folders()) {
        let is_empty_name = source.path.split(['/', '.']).any(|part| EMPTY_NAMES.contains(&part));
        if is_empty_name {
            complaints.push(format!("{}: the name does not say what it is for", source.path));
        }
    }
    assert_none(complaints);
}

/// In the dataplane a packet is protected by its sender only, which never lets an index leave twice but with the same bytes
/// (`srtp/sender.rs`).
#[test]
fn only_a_sender_protects() {
    let calls = ["protect_rtp(", "protect_rtcp("];
    let is_call = |line: &str| calls.iter().any(|call| line.contains(call) && !line.contains(&format!("un{call}")));
    let mut complaints = Vec::new();
    let mut senders = 0;
    for source in sources(["dataplane/src"]) {
        let shipped = source.code.split("mod tests {").next().unwrap_or_default();
        let lines = shipped.lines().filter(|line| is_call(line) && !line.contains("fn protect_"));
        match source.path.as_str() {
            "dataplane/src/srtp/sender.rs" => senders += lines.count(),
            path => complaints.extend(lines.map(|line| format!("{path} protects by itself: {}", line.trim()))),
        }
    }
    assert_eq!(senders, 3, "the scanner finds the calls of the senders: RTP, RTP again, and RTCP");
    assert_none(complaints);
}

/// The stacks that tests compare with are not linked into the executable, nor run while it is built.
#[test]
fn the_executable_has_no_crate_of_the_tests() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "uprtc", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}"])
        // With features unified over the workspace, it is shown whole.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("boring") && crates.contains("monoio"), "{crates:?}");
    for name in ["bench", "sim", "dtls", "webrtc-srtp", "webrtc-util", "rtp", "rtcp", "proptest", "criterion", "loom"] {
        assert!(!crates.contains(name), "the executable depends on {name}");
    }
}

/// docs/decisions/0002 gives the reason for each library that the workspace depends on.
#[test]
fn every_dependency_has_a_decision() {
    let page = fs::read_to_string(root().join("docs/decisions/0002-dependencies.md")).expect("the decision is there");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let names: Vec<&str> = dependencies(&manifest).collect();
    assert!(names.len() > 30, "the workspace has more dependencies than {names:?}");
    let missing = names.into_iter().filter(|name| !page.contains(&format!("`{name}`")));
    assert_none(missing.map(|name| format!("docs/decisions/0002 does not name `{name}`")).collect());
}

/// The libraries in `[workspace.dependencies]`, without the workspace's own crates.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let section = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let entries = section.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once(" = "));
    entries.filter(|(_, value)| !value.contains("path = ")).map(|(name, _)| name)
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

    let found =
        |code: &str| imports(code, &["a".to_owned(), "b".to_owned()]).iter().map(|path| path.join("/")).collect();
    let paths: Vec<String> = found("use crate::{c::{self, D}, e::f as g, h}; super::i::j(); self::k; x::crate::y");
    assert_eq!(paths, ["c", "c/D", "e/f", "h", "a/i/j", "a/b/k"]);
    let paths: Vec<String> = found("use super::super::c::{*}; use crate::d::<E>::f;");
    assert_eq!(paths, ["d", "c"]);
    assert_eq!(without_tests("a #[cfg(test)] mod t { {} } b #[cfg(test)] mod u; c"), "a  b  c");
    let modules = |all: &[(&str, &str)]| -> Vec<(Vec<String>, String)> {
        all.iter().map(|(path, code)| (module_of(path, "x"), (*code).to_owned())).collect()
    };
    let two =
        modules(&[("x/a.rs", "crate::b::c"), ("x/b/mod.rs", "self::c::d"), ("x/b/c.rs", "super::x; crate::a::y")]);
    assert_eq!(circles(&two), [(vec![], vec!["a".to_owned(), "b".to_owned()])], "through a folder");
    let none = modules(&[("x/a.rs", "crate::b::c"), ("x/b/mod.rs", "self::c::d"), ("x/b/c.rs", "super::x")]);
    assert_eq!(circles(&none), [], "a folder's file and its child");

    assert_eq!(words("unsafe_code unsafe {} notunsafe", "unsafe").collect::<Vec<_>>(), [12]);
    assert_eq!(
        declared("pub mod a;\n#[cfg(test)] mod b ; mod c { mod d; } modx e;").collect::<Vec<_>>(),
        ["a", "b", "d"]
    );
}
