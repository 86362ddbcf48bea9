//! tools/install and tools/libclang on machines that a folder stands for: what they miss, what they say, and whether they
//! ask apt. tests/fresh/run does it on a minimal Debian; here are the cases that no single machine has, Ubuntu's among them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// The programs of a minimal Debian that the scripts use.
const MINIMAL: &[&str] = &[
    "bash", "sh", "cat", "dirname", "env", "getconf", "grep", "head", "mktemp", "od", "readlink", "rm", "sed", "sort",
    "tail", "tr",
];

/// A 64-bit shared library, as far as its first bytes go.
const LIBRARY: &[u8] = b"\x7fELF\x02";

/// `id -u` of root.
const ROOT: &str = "#!/bin/sh\necho 0";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

struct Machine {
    root: PathBuf,
    variables: Vec<(&'static str, String)>,
}

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Machine {
    /// Nothing but a minimal system of this distribution, and a Rust that is new enough.
    fn new(distribution: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("uprtc-install-{}-{number}", std::process::id()));
        let machine = Machine { root, variables: Vec::new() };
        machine.file("etc/os-release", format!("ID={distribution}\n").as_bytes());
        fs::create_dir_all(machine.root.join("bin")).unwrap();
        for program in MINIMAL {
            let path = ["/usr/bin", "/bin"]
                .map(|folder| Path::new(folder).join(program))
                .into_iter()
                .find(|path| path.exists());
            symlink(path.expect("a minimal Debian has it"), machine.root.join("bin").join(program)).unwrap();
        }
        machine.with("cargo", "#!/bin/sh\necho 'cargo 1.95.0 (f2d3ce0bd 2026-03-21)'")
    }

    fn file(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    /// A program of that name.
    fn with(self, program: &str, script: &str) -> Self {
        self.executable(&format!("bin/{program}"), script);
        self
    }

    fn executable(&self, path: &str, script: &str) -> PathBuf {
        let path = self.file(path, script.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// All that `build` and `test` ask for, but what the argument names.
    fn complete_but(self, left_out: &[&str]) -> Self {
        let programs = [
            ("cmake", "#!/bin/sh\necho 'cmake version 3.25.1'"),
            ("python3", "#!/bin/sh\ncase \"$2\" in *version*) echo 3.11;; esac"),
        ];
        let others =
            ["cc", "g++", "git", "make", "curl", "ffmpeg", "openssl", "sipp", "baresip", "linphonec", "ip", "unshare"]
                .map(|name| (name, "#!/bin/sh\n"));
        let mut machine = self;
        for (program, script) in programs.into_iter().chain(others).filter(|(program, _)| !left_out.contains(program)) {
            machine = machine.with(program, script);
        }
        if !left_out.contains(&"libclang") {
            machine.file("usr/lib/llvm-14/lib/libclang-14.so.1", LIBRARY);
            machine.file("usr/lib/llvm-14/lib/clang/14.0.6/include/stddef.h", b"");
        }
        if !left_out.contains(&"browsers") {
            machine.executable("usr/lib/chromium/chromium", "\x7fELF");
            machine.executable("usr/bin/firefox-esr", "\x7fELF");
        }
        for program in ["nginx", "kamailio"].iter().filter(|program| !left_out.contains(program)) {
            machine.executable(&format!("usr/sbin/{program}"), "\x7fELF");
        }
        if !left_out.contains(&"kamailio-tls-modules") {
            machine.file("usr/lib/x86_64-linux-gnu/kamailio/modules/tls.so", LIBRARY);
        }
        machine
    }

    fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn run(&self, tool: &str, words: &[&str]) -> Outcome {
        let mut command = Command::new(repository().join("tools").join(tool));
        command
            .args(words)
            .env_clear()
            .env("PATH", self.root.join("bin"))
            .env("ROOT", &self.root)
            .env("HOME", &self.root);
        let Output { status, stdout, stderr } = command.envs(self.variables.clone()).output().unwrap();
        let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Outcome { code: status.code().unwrap(), out, err }
    }

    /// The packages that are missing for these parts, and the sentences.
    fn missing(&self, parts: &[&str]) -> (Vec<String>, String) {
        let outcome = self.run("install", &[&["--list"], parts].concat());
        assert_eq!(outcome.code == 0, outcome.err.is_empty(), "a sentence is a failure: {}", outcome.err);
        (outcome.out.lines().map(str::to_owned).collect(), outcome.err)
    }

    /// What tools/libclang prints where this is found, without the folder.
    fn libclang(&self) -> (i32, String) {
        let outcome = self.run("libclang", &[]);
        let said = if outcome.code == 2 { outcome.err } else { outcome.out };
        (outcome.code, said.trim().replace(&*self.root.to_string_lossy(), ""))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn llvm_alone_has_no_libclang() {
    let machine = Machine::new("debian");
    assert_eq!(machine.libclang(), (1, "libclang-dev".into()), "nothing is there");
    machine.file("usr/lib/x86_64-linux-gnu/libclang-cpp.so.14", LIBRARY);
    machine.file("usr/lib/llvm-14/lib/libclang-cpp.so", LIBRARY);
    machine.file("usr/lib/llvm-14/lib/libclang-cpp.so.14", LIBRARY);
    machine.file("usr/lib/llvm-14/lib/clang/14.0.6/include/stddef.h", b"");
    assert_eq!(machine.libclang(), (1, "libclang-dev".into()), "libclang-cpp is another library");
    machine.link("usr/lib/llvm-14/lib/libclang.so", "../../x86_64-linux-gnu/libclang-14.so.1");
    machine.file("usr/lib/i386-linux-gnu/libclang-14.so.1", b"\x7fELF\x01");
    assert_eq!(machine.libclang(), (1, "libclang-dev".into()), "a link without its file, and one of another machine");
    machine.file("usr/lib/x86_64-linux-gnu/libclang-14.so.1", LIBRARY);
    assert_eq!(machine.libclang(), (0, "/usr/lib/x86_64-linux-gnu/libclang-14.so.1".into()));
}

#[test]
fn the_highest_version_is_the_one_that_needs_its_headers() {
    let machine = Machine::new("debian").with("dpkg", "#!/bin/sh\necho \"libclang1-16:amd64: $2\"");
    machine.file("usr/lib/llvm-14/lib/libclang-14.so.1", LIBRARY);
    machine.file("usr/lib/llvm-14/lib/clang/14.0.6/include/stddef.h", b"");
    assert_eq!(machine.libclang(), (0, "/usr/lib/llvm-14/lib/libclang-14.so.1".into()));
    machine.file("usr/lib/x86_64-linux-gnu/libclang-16.so.16.0.6", LIBRARY);
    assert_eq!(machine.libclang(), (1, "libclang-common-16-dev".into()), "bindgen would load this one");
    machine.file("usr/lib/llvm-16/lib/clang/16/include/stddef.h", b"");
    assert_eq!(machine.libclang(), (0, "/usr/lib/x86_64-linux-gnu/libclang-16.so.16.0.6".into()));
    // Numbers, not text; and the first of equal ones.
    machine.file("usr/lib/llvm-9/lib/libclang-9.so.1", LIBRARY);
    machine.file("usr/local/lib/libclang-16.so.16.0.6", LIBRARY);
    assert_eq!(machine.libclang().1, "/usr/local/lib/libclang-16.so.16.0.6");
}

#[test]
fn headers_may_be_those_of_a_clang_that_bindgen_asks() {
    let machine = Machine::new("debian");
    machine.file("opt/lib/libclang.so.13", LIBRARY);
    let library = machine.root.join("opt/lib").display().to_string();
    let machine = machine.set("LIBCLANG_PATH", library);
    let (code, said) = machine.libclang();
    assert!(code == 2 && said.contains("the headers of its Clang"), "no package has it: {said}");
    let folder = machine.file("opt/resources/include/stddef.h", b"").parent().unwrap().parent().unwrap().to_owned();
    let machine = machine.with("clang", &format!("#!/bin/sh\necho {}", folder.display()));
    assert_eq!(machine.libclang(), (0, "/opt/lib/libclang.so.13".into()));
}

#[test]
fn libclang_path_names_a_file_or_a_folder_and_nothing_else_is_looked_at() {
    let found = |path: &str| {
        let machine = Machine::new("debian").complete_but(&[]);
        machine.file("opt/lib/libclang-15.so", LIBRARY);
        machine.file("opt/lib/clang/15/include/stddef.h", b"");
        let path = machine.root.join(path).display().to_string();
        machine.set("LIBCLANG_PATH", path).libclang()
    };
    assert_eq!(found("opt/lib"), (0, "/opt/lib/libclang-15.so".into()));
    assert_eq!(found("opt/lib/libclang-15.so"), (0, "/opt/lib/libclang-15.so".into()));
    let (code, said) = found("opt");
    assert!(code == 2 && said.starts_with("LIBCLANG_PATH is '/opt', where no libclang is"), "{said}");
}

#[test]
fn debian_gets_its_packages_and_ubuntu_no_browser_that_is_a_snap() {
    let parts = ["build", "node", "rust", "test", "interop", "bench", "fresh"];
    let (debian, said) = Machine::new("debian").missing(&parts);
    assert_eq!(said, "");
    let (ubuntu, said) = Machine::new("ubuntu").missing(&parts);
    let differ: Vec<_> = debian.iter().filter(|package| !ubuntu.contains(package)).collect();
    assert_eq!(differ, ["chromium", "firefox-esr"]);
    assert!(ubuntu.iter().all(|package| debian.contains(package)), "{ubuntu:?}");
    assert!(
        said.contains("Ubuntu has Chromium only as a snap") && said.contains("Ubuntu has Firefox only as a snap"),
        "{said}"
    );
}

#[test]
fn a_snap_is_no_browser_and_a_named_one_is() {
    let ubuntu = || Machine::new("ubuntu").complete_but(&["browsers"]);
    let machine = ubuntu();
    machine.executable("usr/bin/firefox", "#!/bin/sh\nexec /snap/bin/firefox \"$@\"");
    machine.executable("snap/bin/chromium", "\x7fELF");
    machine.link("usr/bin/chromium-browser", "../../snap/bin/chromium");
    let (packages, said) = machine.missing(&["test"]);
    assert!(packages.is_empty() && said.lines().count() == 2, "{packages:?} {said}");
    // Chrome's is a script, too.
    machine.executable("usr/bin/google-chrome", "#!/bin/bash\nexec /opt/google/chrome/chrome \"$@\"");
    let named = machine.executable("opt/firefox/firefox", "\x7fELF").display().to_string();
    assert_eq!(machine.missing(&["test"]).1.lines().count(), 1);
    assert_eq!(machine.set("FIREFOX", named).missing(&["test"]), (vec![], String::new()));
    let (_, said) = ubuntu().set("CHROMIUM", "/nowhere/chrome").missing(&["test"]);
    assert!(said.contains("CHROMIUM is /nowhere/chrome, which is no Chromium"), "{said}");
}

#[test]
fn what_no_package_mends_is_said_before_anything_is_installed() {
    let refusal = |machine: Machine, part| {
        let machine = machine.with("id", ROOT).with("apt-get", "#!/bin/sh\necho asked >&2; exit 1");
        let Outcome { code, err, .. } = machine.run("install", &[part]);
        assert_eq!((code, err.contains("asked")), (1, false), "{err}");
        err
    };
    let machine = Machine::new("debian");
    fs::remove_file(machine.root.join("bin/cargo")).unwrap();
    assert!(refusal(machine, "build").starts_with("Rust 1.95 or later is missing. Run: curl --proto '=https'"));

    let machine = Machine::new("debian");
    fs::remove_file(machine.root.join("bin/cargo")).unwrap();
    machine.executable(".cargo/bin/cargo", "#!/bin/sh\n");
    assert!(refusal(machine, "build").contains("this shell does not find it. Run: . "));

    let old = Machine::new("debian").with("cargo", "#!/bin/sh\necho 'cargo 1.63.0'");
    assert!(refusal(old, "build").contains("cargo is 1.63.0, and uprtc needs Rust 1.95"));
    let old = Machine::new("debian").complete_but(&[]).with("cmake", "#!/bin/sh\necho 'cmake version 3.18.4'");
    assert_eq!(refusal(old, "build"), "cmake is 3.18.4, and BoringSSL needs 3.22\n");
    let old = Machine::new("ubuntu").complete_but(&[]).with("python3", "#!/bin/sh\necho 3.10");
    assert!(refusal(old, "test").contains("python3 is 3.10, and the tests need 3.11"));
}

/// rustup's minimal profile has neither; `make lint` adds them, and `--list` only says so.
#[test]
fn rustfmt_and_clippy_are_added_where_rustup_can() {
    const BARE: &str = "#!/bin/sh\ncase $1 in --version) echo 'cargo 1.99.0';; *) exit 101;; esac";
    let machine = || Machine::new("debian").with("cargo", BARE);
    let (added, packaged) = (machine().with("rustup", "#!/bin/sh\nexit 0"), machine());
    assert_eq!(added.run("install", &["lint"]).code, 0);
    let listed = added.run("install", &["--list", "lint"]);
    assert!(listed.code == 1 && listed.err.contains("rustup component add clippy"), "{}", listed.err);
    let refused = packaged.run("install", &["lint"]);
    assert!(refused.code == 1 && refused.err.contains("rustup component add rustfmt"), "{}", refused.err);
}

#[test]
fn where_all_is_there_apt_is_not_asked() {
    let asked = |left_out: &[&str]| {
        let machine = Machine::new("debian").complete_but(left_out).with("id", ROOT);
        let mark = machine.root.join("asked");
        let machine = machine.with("apt-get", &format!("#!/bin/sh\necho \"$@\" >>{}", mark.display()));
        let outcome = machine.run("install", &["build", "test"]);
        (outcome.code, fs::read_to_string(mark).unwrap_or_default(), outcome.err)
    };
    assert_eq!(asked(&[]), (0, String::new(), String::new()));
    let (code, words, said) = asked(&["git"]);
    let installs = words.lines().filter(|line| line.ends_with("install -y --no-install-recommends git")).count();
    // This apt installs nothing, and that is not taken for success.
    assert!(code == 1 && installs > 0 && said.contains("still not found: git"), "{code} {words} {said}");
}

#[test]
fn without_root_the_line_is_printed_and_apts_own_error_is_shown() {
    let machine =
        Machine::new("debian").complete_but(&["git"]).with("id", "#!/bin/sh\necho 1000").with("apt-get", "#!/bin/sh\n");
    let Outcome { code, err, .. } = machine.run("install", &["build"]);
    assert_eq!(
        (code, &*err),
        (1, "Please run as root: apt-get update && apt-get install -y --no-install-recommends git\n")
    );

    let script = "#!/bin/sh\ncase \"$*\" in *install*) echo 'E: Unable to locate package git'; exit 100;; esac";
    let machine = Machine::new("debian").complete_but(&["git"]).with("id", ROOT).with("apt-get", script);
    let Outcome { code, err, .. } = machine.run("install", &["build"]);
    assert!(code == 1 && err.starts_with("E: Unable to locate package git\n"), "{err}");
    assert!(err.contains("This failed; run it as root: apt-get update && apt-get install"), "{err}");
}

#[test]
fn an_old_node_or_one_without_npm_is_not_the_machines_own() {
    let has_own = |version: &str, npm: bool| {
        let machine = Machine::new("debian").with("node", &format!("#!/bin/sh\necho {version}"));
        let machine = if npm { machine.with("npm", "#!/bin/sh\n") } else { machine };
        machine.run("with-node", &["--has-own"]).code == 0
    };
    let outcomes = [
        ("v16.20.2", true),
        ("v18.20.4", true),
        ("v20.9.0", true),
        ("v20.10.0", true),
        ("v24.1.0", true),
        ("v24.1.0", false),
    ];
    assert_eq!(outcomes.map(|(version, npm)| has_own(version, npm)), [false, false, false, true, true, false]);
    // Then one comes by pip, for which Python is needed.
    assert_eq!(Machine::new("debian").missing(&["node"]).0, ["python3", "python3-venv"]);
}
