//! The shape of the tree, kept by a test: who may name whom, where `unsafe` may stand, that no file is dead, and
//! that each file opens with a word about itself. The rules are those of docs/ARCHITECTURE.md; here is the list that
//! counts. It reads the sources as text, without their comments and strings, and knows no more Rust than it needs.

mod imports;
mod source;

use std::collections::BTreeSet;
use std::fs;

use imports::{circles, module_of};
use source::{Source, declared, names_crate, names_sibling, root, sources, without_tests, words};

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
    Arrow {
        name: "rustls",
        from: &["src/remote.rs", "client/src/http.rs", "controlplane/src/tls.rs", "sip/src/tls.rs"],
    },
    Arrow { name: "tokio_rustls", from: &["client/src/http.rs", "controlplane/src/http/", "sip/src/tls.rs"] },
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
