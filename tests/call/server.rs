//! A running `uprtc run` of the test's own, and its planes as processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bench::signal::Link;
use rustix::process::{Pid, Signal, kill_process};

/// Ports of the kernel's choice, a state folder of its own; both end with the value.
pub(crate) struct Server {
    child: Child,
    state: PathBuf,
    link: Link,
}

impl Server {
    /// Starts it and waits for the link.
    pub(crate) fn start() -> Server {
        Server::with(1, &[])
    }

    /// The same with so many workers, and other settings of the controlplane.
    pub(crate) fn with(workers: usize, settings: &[&str]) -> Server {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let state = std::env::temp_dir().join(format!("uprtc-call-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&state).unwrap();
        let state = state.canonicalize().unwrap();
        let ports = ["--listen", "127.0.0.1:0", "--media-port", "0", "--stun", "127.0.0.1:0"];
        let mut command = uprtc(&state, &["run"]);
        command.args(ports).args(["--workers", &workers.to_string()]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let link = Link::parse(&line).expect("the first line is the link of a room");
        Server { child, state, link }
    }

    /// A link into `room` for `name`, who may send and receive. The peers of the test go on meanwhile.
    pub(crate) async fn link(&self, room: &str, name: &str) -> Link {
        let may = ["--room", room, "--name", name, "--publish", "--subscribe"];
        let mut command = uprtc(&self.state, &["token"]);
        command.args(may);
        let output = tokio::process::Command::from(command).output().await.unwrap();
        assert!(output.status.success());
        self.link.to_room(room, String::from_utf8(output.stdout).unwrap().trim())
    }

    /// Kills a plane as an out-of-memory killer would, and waits for its successor.
    pub(crate) async fn kill(&self, plane: &str) {
        let killed = self.plane(plane).expect("the plane runs");
        kill_process(killed, Signal::KILL).unwrap();
        until(&format!("another {plane}"), || self.plane(plane).is_some_and(|pid| pid != killed)).await;
    }

    /// Asks it to end, and waits for that; also says how long it took.
    pub(crate) async fn terminate(&mut self, timeout: Duration) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, begun.elapsed());
            }
            assert!(begun.elapsed() < timeout, "still there {timeout:?} after SIGTERM");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The process of a plane, found by its word and the state folder in its command line.
    pub(crate) fn plane(&self, plane: &str) -> Option<Pid> {
        self.processes().into_iter().find(|(_, word)| word == plane).map(|(pid, _)| pid)
    }

    /// All processes that have our state folder in their command line, with the word that says what they are.
    pub(crate) fn processes(&self) -> Vec<(Pid, String)> {
        let process = |entry: std::fs::DirEntry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<_> = line.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
            let is_ours = words.iter().any(|word| Path::new(&**word) == self.state);
            is_ours.then(|| (pid, words[1].clone().into_owned()))
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(process).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its planes end with it: the kernel sees to that.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

fn uprtc(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uprtc"));
    command.args(arguments).arg("--state").arg(state).stdin(Stdio::null());
    command
}

/// Looks again and again until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < super::DEADLINE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
