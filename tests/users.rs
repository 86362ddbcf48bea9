//! The planes as two users with one primary group, as deploy/systemd runs them: they meet, and the dataplane cannot read the
//! signing key. And the units themselves, judged by systemd.

mod harness;
mod require;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{Folder, get, until};

/// Users and group of nobody else on this machine, as far as a test can know.
const CONTROLPLANE: u32 = 61_184;
const DATAPLANE: u32 = 61_185;
const GROUP: u32 = 61_184;

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn as_user(program: &Path, user: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .uid(user)
        .gid(GROUP)
        .env("UPRTC_IO", "udp")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn folder_of(parent: &Folder, name: &str, user: u32, mode: u32) -> String {
    let path = parent.0.join(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(user), Some(GROUP)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Each thread is under a filter of system calls, and the memory is neither dumped nor read by others of the user.
fn assert_gave_up(pid: rustix::process::Pid) {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let tasks = fs::read_dir(format!("{folder}/task")).unwrap().flatten();
    for task in tasks {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
        assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
    }
    // The kernel gives the files of a process that may not be dumped to root (proc(5)).
    assert_eq!(fs::metadata(format!("{folder}/mem")).unwrap().uid(), 0);
    let limits = fs::read_to_string(format!("{folder}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

#[test]
fn the_planes_are_two_users_and_the_key_is_one_s() {
    if !rustix::process::geteuid().is_root() {
        return require::left_out("root", "planes of two users", "not root");
    }
    let folder = Folder::new();
    fs::set_permissions(&folder.0, Permissions::from_mode(0o711)).unwrap();
    // Where the executable was built, other users may not come.
    let program = folder.0.join("uprtc");
    fs::copy(env!("CARGO_BIN_EXE_uprtc"), &program).unwrap();
    let run = folder_of(&folder, "run", DATAPLANE, 0o750);
    let [secrets, other] =
        [("secrets", CONTROLPLANE), ("other", DATAPLANE)].map(|(name, user)| folder_of(&folder, name, user, 0o700));
    let link = format!("link-socket={run}/link.sock");
    let common = ["--set", &link, "--set", "link-group=true"];
    let dataplane = || {
        let own = ["dataplane", "--state", &other, "--media-port", "0", "--workers", "1"];
        Process(as_user(&program, DATAPLANE, &[&own[..], &common].concat()).spawn().unwrap())
    };
    let first = dataplane();
    let own = ["controlplane", "--state", &secrets, "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0"];
    let _controlplane = Process(as_user(&program, CONTROLPLANE, &[&own[..], &common].concat()).spawn().unwrap());
    let running = Path::new(&secrets).join("controlplane.json");
    let http = until("the controlplane", || {
        let text = fs::read_to_string(&running).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(value["listen"].as_str()?.to_owned())
    });
    let is_ready = || (get(&http, "/readyz") == Some(200)).then_some(());
    until("readiness", is_ready);
    assert_eq!(fs::metadata(format!("{run}/link.sock")).unwrap().mode() & 0o777, 0o660);
    for entry in fs::read_dir(&secrets).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o077), (CONTROLPLANE, 0), "{:?}", entry.path());
        let status =
            as_user(Path::new("/bin/cat"), DATAPLANE, &[entry.path().to_str().unwrap()]).stderr(Stdio::null()).status();
        assert!(!status.unwrap().success(), "the dataplane's user reads {:?}", entry.path());
    }
    for (plane, state) in [("dataplane", &other), ("controlplane", &secrets)] {
        assert_gave_up(harness::plane(Path::new(state), plane).expect(plane));
    }
    // One dataplane dies, and another takes its place.
    drop(first);
    until("the end of the link", || (get(&http, "/readyz") == Some(503)).then_some(()));
    let _second = dataplane();
    until("readiness again", is_ready);
}

#[test]
fn systemd_finds_little_to_take_from_the_units() {
    const EXPOSURE_MAX: f64 = 1.5;
    for unit in ["uprtc-dataplane.service", "uprtc-controlplane.service", "uprtc-service@.service", "uprtc-sip.service"]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd").join(unit);
        let output = Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&path).output();
        let text = match &output {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => return require::left_out("systemd", "the exposure of the units", error),
        };
        let line = text.lines().find(|line| line.contains("Overall exposure level"));
        let value = line.and_then(|line| line.rsplit(": ").next()?.split(' ').next()?.parse::<f64>().ok());
        let Some(value) = value else {
            return require::left_out("systemd", "the exposure of the units", format!("{output:?}"));
        };
        assert!(value <= EXPOSURE_MAX, "{unit}: {value}\n{text}");
    }
}
